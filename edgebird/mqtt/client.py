"""A connection whose answers are waited for: for what a person asks of a broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty, Queue
from typing import Self

from edgebird.errors import BrokerError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection, Limits, Message

ANSWER_S = 10.0
# What is retained comes at once; when nothing more does, that was all.
QUIET_S = 1.0


class NotAllowedError(BrokerError):
    """The broker does not let us read or publish something.

    Args:
        address: the broker.
        what: we wanted to do.
        reason: what the broker says, if it does.
    """

    def __init__(self, address: BrokerAddress, what: str, reason: str | None = None) -> None:
        why = "" if reason is None else f": {reason}"
        super().__init__(f"the MQTT broker at {address} does not let us {what}{why}")
        self.reason = reason


class Client:
    """Connected while its ``with`` block runs; one thread asks, and waits for each answer.

    Args:
        address: the broker.
        answer_s: how long to wait for an answer.

    Raises:
        BrokerError: by each method and on entry, when the broker cannot be reached, refuses us,
            hangs up or does not answer. Then the block is to be left.
    """

    def __init__(self, address: BrokerAddress, *, answer_s: float = ANSWER_S) -> None:
        self.address = address
        self._answer_s = answer_s
        # a SimpleQueue's get() may wait for ever if a signal comes at the end of its timeout
        self._answers: Queue[str | BrokerError | None] = Queue()  # None grants
        self._messages: Queue[Message | BrokerError] = Queue()
        self._connection = Connection(
            address,
            client_id="",
            on_connected=lambda: self._answers.put(None),
            on_message=self._messages.put,
            on_acknowledged=lambda number, refusal: self._answers.put(refusal),
            on_subscribed=lambda refusals: self._answers.put(next(filter(None, refusals), None)),
            on_problem=self._handle_problem,
            quiet=True,
        )

    def __enter__(self) -> Self:
        self._connection.start()
        try:
            self._refusal()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.stop(1.0)

    @property
    def limits(self) -> Limits:
        """What the broker allows."""
        return self._connection.limits

    def subscribe(self, *filters: str) -> None:
        """Ask for messages.

        Raises:
            NotAllowedError: not all of them are granted.
        """
        self._connection.subscribe(*filters)
        if self._refusal() is not None:
            raise NotAllowedError(self.address, f"read {' and '.join(filters)}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1, and return when the broker has it.

        Raises:
            NotAllowedError: it does not want it, which it says with MQTT 5 only.
        """
        self._connection.publish(topic, payload, qos=1, retain=retain)
        if (refusal := self._refusal()) is not None:
            raise NotAllowedError(self.address, f"publish to {topic}", refusal)

    def message(self, timeout_s: float) -> Message | None:
        """The next message; None when none comes in time."""
        try:
            item = self._messages.get(timeout=max(0.0, timeout_s))
        except Empty:
            return None
        if isinstance(item, BrokerError):
            raise item
        return item

    def messages(self, for_s: float) -> Iterator[Message]:
        """What comes within so long."""
        give_up_s = time.monotonic() + for_s
        while (message := self.message(give_up_s - time.monotonic())) is not None:
            yield message

    def retained(self) -> dict[str, bytes]:
        """What the broker keeps on the topics that were just asked for."""
        found: dict[str, bytes] = {}
        give_up_s = time.monotonic() + QUIET_S
        while (message := self.message(give_up_s - time.monotonic())) is not None:
            if message.retain:  # what others publish just now is no reason to wait on
                found[message.topic] = message.payload
                give_up_s = time.monotonic() + QUIET_S
        return found

    def _handle_problem(self, problem: str) -> None:
        self._answers.put(BrokerError(problem))
        self._messages.put(BrokerError(problem))

    def _refusal(self) -> str | None:
        """Wait for an answer."""
        try:
            item = self._answers.get(timeout=self._answer_s)
        except Empty:
            problem = f"the MQTT broker at {self.address} does not answer: is it one?"
            raise BrokerError(problem) from None
        if isinstance(item, BrokerError):
            raise item
        return item
