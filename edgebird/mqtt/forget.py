"""Takes a camera that is gone for good off a broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from socket import socket

from edgebird.errors import BrokerError, UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection, Message
from edgebird.mqtt.device import camera_at, claim
from edgebird.mqtt.topics import Topics, camera_statuses, device_status

# What is retained comes at once; when nothing more does, that was all.
_QUIET_S = 1.0
# A camera that is online tells its status each 30 s.
_SILENT_S = 40.0

# A message, an error, or None for what the broker grants or acknowledges.
_Answers = SimpleQueue[Message | BrokerError | None]

logger = logging.getLogger(__name__)


class NotAllowedError(BrokerError):
    """The broker does not let us read or clear the topics of a camera."""


class ServedHereError(UsageError):
    """A process of this machine serves the camera."""


def forget_camera(
    address: BrokerAddress,
    topics: Topics,
    discovery_prefix: str,
    *,
    answer_s: float = 10.0,
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
    answers: _Answers = SimpleQueue()
    discovery = topics.discovery(discovery_prefix)
    device = device_status(topics.device)
    statuses = (device, camera_statuses(topics.device))

    def handle_subscribed(grants: Sequence[str | None]) -> None:
        refused = f"the MQTT broker at {address} does not let us read {topics.base}/# and "
        answers.put(NotAllowedError(refused + discovery) if any(grants) else None)

    def handle_acknowledged(number: int, refusal: str | None) -> None:
        refused = f"the MQTT broker at {address} does not let us clear all of {topics.base}"
        answers.put(None if refusal is None else NotAllowedError(f"{refused}: {refusal}"))

    connection = Connection(
        address,
        client_id="",
        on_connected=lambda: connection.subscribe(f"{topics.base}/#", discovery, *statuses),
        on_message=answers.put,
        on_acknowledged=handle_acknowledged,
        on_problem=lambda problem: answers.put(BrokerError(problem)),
        on_subscribed=handle_subscribed,
        quiet=True,
    )
    connection.start()
    try:
        retained = _retained(answers, address, answer_s)
        status = retained.get(topics.status)
        if status == b"online" and _is_heard(answers, topics, silent_s):
            raise UsageError(f"{_name(topics)} is online: stop its edgebird first")
        gone = {name for name in retained if name.startswith(f"{topics.base}/")} | {discovery}
        others = retained.keys() - gone - {device}
        if not others and retained.get(device) in (b"offline", status):
            gone.add(device)
        gone &= retained.keys()
        # Held, so that nobody begins to publish there what is then cleared.
        with _claimed(address, topics):
            for topic in gone:
                connection.publish(topic, b"", qos=1, retain=True)
            left = _not_cleared(answers, address, gone, answer_s)
        if left:
            raise NotAllowedError(
                f"the MQTT broker at {address} does not let us clear {', '.join(sorted(left))}"
            )
        return sorted(gone)
    finally:
        connection.stop(1.0)


def _claimed(address: BrokerAddress, topics: Topics) -> socket:
    holder = claim(camera_at(address, topics))
    if holder is None:
        raise ServedHereError(f"{_name(topics)} is online on this machine: stop its edgebird first")
    return holder


def _retained(answers: _Answers, address: BrokerAddress, answer_s: float) -> dict[str, bytes]:
    """What is retained: some of it may come before the answer to the subscription."""
    found: dict[str, bytes] = {}
    granted = False
    give_up_s = time.monotonic() + answer_s
    while True:
        try:
            item = _next(answers, give_up_s)
        except Empty:
            if granted:
                return found
            raise _no_answer(address) from None
        if isinstance(item, Message):
            # what a camera publishes just now is no reason to wait on
            if not item.retain:
                continue
            found[item.topic] = item.payload
        granted = granted or item is None
        if granted:
            give_up_s = time.monotonic() + _QUIET_S


def _is_heard(answers: _Answers, topics: Topics, silent_s: float | None) -> bool:
    """Whether a camera that is kept as online is there."""
    if silent_s is None:
        return True
    logger.info(
        "the broker keeps %s as online: waiting up to %g s for a message of it",
        topics.base,
        silent_s,
    )
    give_up_s = time.monotonic() + silent_s
    while True:
        try:
            item = _next(answers, give_up_s)
        except Empty:
            return False
        if item is None or item.retain or not item.payload:
            continue
        if (item.topic, item.payload) == (topics.status, b"offline"):
            return False
        own = item.topic.startswith(f"{topics.base}/")
        if own and not item.topic.startswith(topics.command("")):
            return True


def _not_cleared(
    answers: _Answers, address: BrokerAddress, topics: set[str], answer_s: float
) -> set[str]:
    """The topics of which our empty message does not come back to us.

    That is the only sign with MQTT 3.1.1, where a message is acknowledged even if it is refused.
    """
    left, unanswered = set(topics), len(topics)
    give_up_s = time.monotonic() + answer_s
    while left:
        try:
            item = _next(answers, give_up_s)
        except Empty:
            if unanswered > 0:
                raise _no_answer(address) from None
            return left
        if isinstance(item, Message):
            if not item.payload:
                left.discard(item.topic)
            continue
        unanswered -= 1
        give_up_s = time.monotonic() + (answer_s if unanswered > 0 else _QUIET_S)
    return left


def _next(answers: _Answers, give_up_s: float) -> Message | None:
    item = answers.get(timeout=max(0.0, give_up_s - time.monotonic()))
    if isinstance(item, BrokerError):
        raise item
    return item


def _name(topics: Topics) -> str:
    return f"camera {topics.camera!r} of device {topics.device!r}"


def _no_answer(address: BrokerAddress) -> BrokerError:
    return BrokerError(f"the MQTT broker at {address} does not answer: is it one?")
