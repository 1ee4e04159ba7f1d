"""Clears what a camera that got another name has left at the broker under its former one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

from edgebird.errors import BrokerError, UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.client import NotAllowedError
from edgebird.mqtt.forget import ServedHereError, forget_camera
from edgebird.mqtt.topics import Topics

_STOP_S = 0.5
# Short, for whoever else wants the name waits until its topics are cleared.
_ANSWER_S = 2.5

logger = logging.getLogger(__name__)


class FormerName:
    """Clears the topics of a former name once, when the broker is there.

    They are left alone where they are another camera's by now: when a process of this machine has
    claimed the name, or the broker keeps it as online.

    Args:
        address: the broker.
        topics: of the former name.
        discovery_prefix: of Home Assistant's topics.
        on_done: called when there is nothing more to do, on a thread of its own.
    """

    def __init__(
        self,
        address: BrokerAddress,
        topics: Topics,
        *,
        discovery_prefix: str,
        on_done: Callable[[], None],
    ) -> None:
        self._address = address
        self._topics = topics
        self._discovery_prefix = discovery_prefix
        self._on_done = on_done
        self._wake = Event()
        self._stopping = False
        self._thread = Thread(target=self._run, name="former name", daemon=True)
        self._thread.start()

    def try_now(self) -> None:
        """The broker has been connected to; returns at once."""
        self._wake.set()

    def close(self) -> None:
        """Give up, within half a second."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        settled = False
        while not settled:
            self._wake.wait()
            self._wake.clear()
            if self._stopping:
                return
            settled = self._clear()
        self._on_done()

    def _clear(self) -> bool:
        """Whether that is settled, one way or the other."""
        try:
            # No wait for a sign of life: that the broker has it as online is enough to let it be.
            forget_camera(
                self._address,
                self._topics,
                self._discovery_prefix,
                answer_s=_ANSWER_S,
                silent_s=None,
            )
        except ServedHereError:
            logger.info("the topics %s are another camera's now, and stay", self._topics.base)
        except (UsageError, NotAllowedError) as error:
            logger.warning("the topics %s stay: %s", self._topics.base, error)
        except BrokerError as error:  # gone again, which the camera's own connection tells
            logger.debug("%s", error)
            return False
        return True
