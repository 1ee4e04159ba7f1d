"""Takes a camera that is gone for good off a broker."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from edgebird.errors import BrokerError, UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection, Message
from edgebird.mqtt.topics import Topics

# What is retained comes at once; when nothing more does, that was all.
_QUIET_S = 1.0


def forget_camera(
    address: BrokerAddress, topics: Topics, discovery_prefix: str, *, answer_s: float = 10.0
) -> list[str]:
    """Clear what the broker retains of a camera, and with it Home Assistant's device.

    Args:
        address: the broker.
        topics: of the camera.
        discovery_prefix: of Home Assistant's topics.
        answer_s: how long to wait for each answer.

    Returns:
        The topics that were cleared.

    Raises:
        UsageError: the camera is in use.
        BrokerError: the broker cannot be reached, refuses us or does not answer.
    """
    answers: SimpleQueue[Message | BrokerError | None] = SimpleQueue()
    connection = Connection(
        address,
        client_id="",
        on_connected=lambda: connection.subscribe(
            f"{topics.base}/#", topics.discovery(discovery_prefix)
        ),
        on_message=answers.put,
        on_acknowledged=lambda number, refusal: answers.put(None),
        on_problem=lambda problem: answers.put(BrokerError(problem)),
        on_subscribed=lambda grants: answers.put(None),
        quiet=True,
    )
    connection.start()
    try:
        _answer(answers, address, answer_s)
        retained = dict(_messages(answers))
        if retained.get(topics.status) == b"online":
            raise UsageError(
                f"camera {topics.camera!r} of device {topics.device!r} is online: stop its "
                "edgebird first"
            )
        for topic in retained:
            connection.publish(topic, b"", qos=1, retain=True)
        for _ in retained:
            _answer(answers, address, answer_s)
        return sorted(retained)
    finally:
        connection.stop(1.0)


def _messages(answers: SimpleQueue[Message | BrokerError | None]) -> list[tuple[str, bytes]]:
    """What is retained, after the answer to the subscription."""
    found: list[tuple[str, bytes]] = []
    while True:
        try:
            item = answers.get(timeout=_QUIET_S)
        except Empty:
            return found
        if isinstance(item, Message) and item.retain:
            found.append((item.topic, item.payload))


def _answer(
    answers: SimpleQueue[Message | BrokerError | None], address: BrokerAddress, answer_s: float
) -> None:
    try:
        # Our own empty messages come back, too.
        while (item := answers.get(timeout=answer_s)) is not None:
            if isinstance(item, BrokerError):
                raise item
    except Empty:
        raise BrokerError(f"the MQTT broker at {address} does not answer: is it one?") from None
