"""Takes a camera that is gone for good off a broker."""

from __future__ import annotations

import logging
import time
from socket import socket

from edgebird.claims import claim
from edgebird.errors import UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.client import ANSWER_S, QUIET_S, Client, NotAllowedError
from edgebird.mqtt.device import camera_at
from edgebird.mqtt.topics import Topics, camera_statuses, device_status

# A camera that is online tells its status each 30 s.
_SILENT_S = 40.0

logger = logging.getLogger(__name__)


class ServedHereError(UsageError):
    """A process of this machine serves the camera."""


def forget_camera(
    address: BrokerAddress,
    topics: Topics,
    discovery_prefix: str,
    *,
    answer_s: float = ANSWER_S,
    silent_s: float | None = _SILENT_S,
) -> list[str]:
    """Clear what the broker retains of a camera, and with it Home Assistant's device.

    A status that is kept as online may be of a camera that went together with the broker, which
    then did not publish its last will. So the camera is listened for.

    Args:
        address: the broker.
        topics: of the camera.
        discovery_prefix: of Home Assistant's topics.
        answer_s: how long to wait for each answer.
        silent_s: a camera that is kept as online is gone when nothing comes of it for so long; None
            has it as online.

    Returns:
        The topics that were cleared; with the last camera of a device, also the device's status.

    Raises:
        ServedHereError: a process of this machine serves the camera.
        UsageError: the camera is online.
        NotAllowedError: the broker does not let us read or clear all of its topics.
        BrokerError: the broker cannot be reached, refuses us or does not answer.
    """
    # Not held while the camera is listened for: its service may be started meanwhile.
    _claimed(address, topics).close()
    discovery = topics.discovery(discovery_prefix)
    device = device_status(topics.device)
    with Client(address, answer_s=answer_s) as broker:
        broker.subscribe(f"{topics.base}/#", discovery, device, camera_statuses(topics.device))
        retained = broker.retained()
        status = retained.get(topics.status)
        if status == b"online" and _is_heard(broker, topics, silent_s):
            raise UsageError(f"{_name(topics)} is online: stop its edgebird first")
        gone = {name for name in retained if name.startswith(f"{topics.base}/")} | {discovery}
        others = retained.keys() - gone - {device}
        if not others and retained.get(device) in (b"offline", status):
            gone.add(device)
        gone &= retained.keys()
        # Discovery first: Home Assistant complains of values that are emptied while it shows them.
        in_order = sorted(gone, key=lambda topic: (topic != discovery, topic))
        # Held, so that nobody begins to publish there what is then cleared.
        with _claimed(address, topics):
            _clear(broker, topics, in_order)
    return sorted(gone)


def _claimed(address: BrokerAddress, topics: Topics) -> socket:
    holder = claim(camera_at(address, topics))
    if holder is None:
        raise ServedHereError(f"{_name(topics)} is online on this machine: stop its edgebird first")
    return holder


def _is_heard(broker: Client, topics: Topics, silent_s: float | None) -> bool:
    """Whether a camera that is kept as online is there."""
    if silent_s is None:
        return True
    logger.info(
        "the broker keeps %s as online: waiting up to %g s for a message of it",
        topics.base,
        silent_s,
    )
    for message in broker.messages(silent_s):
        if message.retain or not message.payload:
            continue
        if (message.topic, message.payload) == (topics.status, b"offline"):
            return False
        own = message.topic.startswith(f"{topics.base}/")
        if own and not message.topic.startswith(topics.command("")):
            return True
    return False


def _clear(broker: Client, topics: Topics, gone: list[str]) -> None:
    refused: NotAllowedError | None = None
    for topic in gone:
        try:
            broker.publish(topic, b"", retain=True)
        except NotAllowedError as error:
            refused = error
    if refused is not None:
        raise NotAllowedError(broker.address, f"clear all of {topics.base}", refused.reason)
    # MQTT 3.1.1 acknowledges also what it refuses: the only sign is that our empty message does
    # not come back to us.
    left = set(gone)
    give_up_s = time.monotonic() + QUIET_S
    while left and (message := broker.message(give_up_s - time.monotonic())) is not None:
        if not message.payload:
            left.discard(message.topic)
    if left:
        raise NotAllowedError(broker.address, f"clear {', '.join(sorted(left))}")


def _name(topics: Topics) -> str:
    return f"camera {topics.camera!r} of device {topics.device!r}"
