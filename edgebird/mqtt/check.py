"""Finds out whether a broker does what edgebird needs, and how quickly."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edgebird.errors import BrokerError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.client import ANSWER_S, QUIET_S, Client
from edgebird.mqtt.connection import Limits
from edgebird.mqtt.topics import PREFIX, slug

_ROUNDS = 20
_PICTURE_BYTES = 120_000


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What was found.

    Args:
        connect_ms: from the first packet to the broker's consent, with a name look-up and TLS.
        acknowledged_ms: median time until the broker had a message at QoS 1.
        arrived_ms: median time until it came back from there.
        slowest_ms: the longest of these.
        picture_ms: the same for a message as large as a picture; None when it did not come back.
        retained: whether the broker keeps retained messages.
        shared: whether several clients can share a subscription.
        limits: what the broker itself says (MQTT 5 only).
    """

    connect_ms: float
    acknowledged_ms: float
    arrived_ms: float
    slowest_ms: float
    picture_ms: float | None
    retained: bool
    shared: bool
    limits: Limits


def check_broker(address: BrokerAddress, *, device: str, rounds: int = _ROUNDS) -> BrokerReport:
    """Publish to a topic of our own and read it back; nothing of it stays.

    Raises:
        BrokerError: the broker cannot be reached, refuses us, or what was published does not come
            back.
    """
    base = f"{PREFIX}/{slug(device)}/check-{secrets.token_hex(4)}"
    started_s = time.monotonic()
    with Client(address) as broker:
        connect_ms = _ms_since(started_s)
        broker.subscribe(f"{base}/+")
        acknowledged, arrived = [], []
        for number in range(rounds):
            one, two = _echo(broker, f"{base}/echo", str(number).encode())
            acknowledged.append(one)
            arrived.append(two)
        try:
            picture_ms: float | None
            _, picture_ms = _echo(broker, f"{base}/picture.jpg", bytes(_PICTURE_BYTES))
        except BrokerError:  # it does not take it, or even hangs up
            picture_ms = None
        limits = broker.limits
    retained, shared = _retained_and_shared(address, base)
    return BrokerReport(
        connect_ms=connect_ms,
        acknowledged_ms=median(acknowledged),
        arrived_ms=median(arrived),
        slowest_ms=max(arrived),
        picture_ms=picture_ms,
        retained=retained,
        shared=shared,
        limits=limits,
    )


def publish(address: BrokerAddress, messages: Sequence[tuple[str, bytes]]) -> None:
    """Publish messages, topic and payload, one after the other at QoS 1.

    Raises:
        BrokerError: the broker cannot be reached, refuses us or does not take one.
    """
    with Client(address) as broker:
        for topic, payload in messages:
            broker.publish(topic, payload)


def retained_messages(address: BrokerAddress, *topics: str) -> dict[str, bytes]:
    """What the broker keeps on these topics, which may have wildcards.

    Raises:
        BrokerError: the broker cannot be reached, refuses us or does not let us read one.
    """
    with Client(address) as broker:
        broker.subscribe(*topics)
        return broker.retained()


def _retained_and_shared(address: BrokerAddress, base: str) -> tuple[bool, bool]:
    with Client(address) as broker:
        try:
            broker.publish(f"{base}/kept", b"1", retain=True)
            broker.subscribe(f"{base}/kept")
            retained = broker.message(QUIET_S) is not None
            broker.publish(f"{base}/kept", b"", retain=True)
        except BrokerError:  # some hang up
            retained = False
    with Client(address) as broker:
        try:
            broker.subscribe(f"$share/{PREFIX}/{base}/shared")
            broker.publish(f"{base}/shared", b"1")
            shared = broker.message(QUIET_S) is not None
        except BrokerError:
            shared = False
    return retained, shared


def _echo(broker: Client, topic: str, payload: bytes) -> tuple[float, float]:
    """Milliseconds until a message is acknowledged, and until it is back."""
    started_s = time.monotonic()
    broker.publish(topic, payload)
    acknowledged_ms = _ms_since(started_s)
    for message in broker.messages(ANSWER_S):
        if (message.topic, message.payload) == (topic, payload):
            return acknowledged_ms, _ms_since(started_s)
    raise BrokerError(
        f"the MQTT broker at {broker.address} takes messages on {topic} but does not give them "
        "back: check what its access rules allow us"
    )


def _ms_since(started_s: float) -> float:
    return (time.monotonic() - started_s) * 1000
