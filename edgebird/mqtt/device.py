"""What the camera processes of one device share: names to claim, and a status."""

from __future__ import annotations

import logging
from threading import Event, Thread

from edgebird.claims import claim
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection
from edgebird.mqtt.topics import PREFIX, Topics, device_status, slug

_TRY_S = 2.0
_STOP_S = 0.5
_SAY_AGAIN_S = 30.0

logger = logging.getLogger(__name__)


def camera_at(address: BrokerAddress, topics: Topics) -> str:
    """What to claim for a camera's topics and client id."""
    # The broker is part of the name: one device may be shown on two.
    return f"{topics.base} {address}"


class DeviceStatus:
    """Keeps ``edgebird/<device>/status`` true, however many cameras the device serves.

    A connection has one last will, and a camera's process needs it for its own status. So one
    process of the device, whoever holds the claim, keeps a second connection for this topic alone;
    when it goes, the next takes over within seconds.

    Args:
        address: the broker.
        device: as it stands in topics.
    """

    def __init__(self, address: BrokerAddress, device: str) -> None:
        self._address = address
        self._device = slug(device)
        self._topic = device_status(device)
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="device status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say ``offline`` if the status is ours, and leave it to others; within about a second."""
        self._stopping.set()
        self._thread.join(2 * _STOP_S)

    def _run(self) -> None:
        name = f"{PREFIX}/{self._device}/{self._address}"
        while (holder := claim(name)) is None:
            if self._stopping.wait(_TRY_S):
                return
        connection = Connection(
            self._address,
            client_id=f"{PREFIX}.{self._device}",
            will=(self._topic, "offline"),
            on_connected=lambda: self._say(connection, "online"),
            on_problem=lambda problem: logger.debug("%s", problem),  # the camera's connection tells
            quiet=True,
        )
        connection.start()
        # Again and again: others may have written there, such as a bridge with a late will of ours.
        while not self._stopping.wait(_SAY_AGAIN_S):
            self._say(connection, "online")
        # The farewell follows on the same way, so this arrives first.
        self._say(connection, "offline")
        connection.stop(_STOP_S)
        holder.close()

    def _say(self, connection: Connection, status: str) -> None:
        connection.publish(self._topic, status, qos=1, retain=True)
