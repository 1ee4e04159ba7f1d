"""Finds out whether a broker does what edgebird needs, and how quickly."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from statistics import median
from typing import TypeVar

from edgebird.errors import BrokerError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection, Limits, Message
from edgebird.mqtt.topics import PREFIX, slug

T = TypeVar("T")

_ANSWER_S = 10.0
_ROUNDS = 20
_PICTURE_BYTES = 120_000
_QUIET_S = 1.0


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
    with _joined(address) as broker:
        connect_ms = _ms_since(started_s)
        if not broker.subscribe(f"{base}/+"):
            raise BrokerError(f"the MQTT broker at {address} does not let us read {base}/+")
        acknowledged, arrived = [], []
        for number in range(rounds):
            one, two = broker.echo(f"{base}/echo", str(number).encode())
            acknowledged.append(one)
            arrived.append(two)
        try:
            picture_ms: float | None
            _, picture_ms = broker.echo(f"{base}/picture.jpg", bytes(_PICTURE_BYTES))
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
        BrokerError: the broker cannot be reached, refuses us or does not acknowledge one.
    """
    with _joined(address) as broker:
        for topic, payload in messages:
            broker.publish(topic, payload)


def retained_messages(address: BrokerAddress, *topics: str) -> dict[str, bytes]:
    """What the broker keeps on these topics, which may have wildcards.

    Raises:
        BrokerError: the broker cannot be reached, refuses us or does not let us read one.
    """
    found = {}
    with _joined(address) as broker:
        for topic in topics:
            if not broker.subscribe(topic):
                raise BrokerError(f"the MQTT broker at {address} does not let us read {topic}")
        while (item := broker.message(_QUIET_S)) is not None:
            if item[0].retain:
                found[item[0].topic] = item[0].payload
    return found


def _retained_and_shared(address: BrokerAddress, base: str) -> tuple[bool, bool]:
    with _joined(address) as broker:
        try:
            broker.publish(f"{base}/kept", b"1", retain=True)
            retained = broker.subscribe(f"{base}/kept") and broker.message(_QUIET_S) is not None
            broker.publish(f"{base}/kept", b"", retain=True)
        except BrokerError:  # some hang up
            retained = False
    with _joined(address) as broker:
        shared = broker.subscribe(f"$share/{PREFIX}/{base}/shared")
        if shared:
            broker.publish(f"{base}/shared", b"1")
            shared = broker.message(_QUIET_S) is not None
    return retained, shared


class _Client:
    """A connection whose answers are waited for."""

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._joined: SimpleQueue[str | None] = SimpleQueue()
        self._granted: SimpleQueue[bool] = SimpleQueue()
        self._acknowledged: SimpleQueue[float] = SimpleQueue()
        self._messages: SimpleQueue[tuple[Message, float]] = SimpleQueue()
        self.connection = Connection(
            address,
            client_id="",
            on_connected=lambda: self._joined.put(None),
            on_message=lambda message: self._messages.put((message, time.monotonic())),
            on_acknowledged=lambda number, refusal: self._acknowledged.put(time.monotonic()),
            on_subscribed=lambda answers: self._granted.put(not any(answers)),
            on_problem=self._joined.put,
            quiet=True,
        )

    @property
    def limits(self) -> Limits:
        return self.connection.limits

    def join(self) -> None:
        self.connection.start()
        problem = self._wait(self._joined.get, "does not answer: is it one?")
        if problem is not None:
            raise BrokerError(problem)

    def subscribe(self, topic: str) -> bool:
        self.connection.subscribe(topic)
        return self._wait(self._granted.get, "does not answer a subscription")

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> float:
        self.connection.publish(topic, payload, qos=1, retain=retain)
        return self._wait(self._acknowledged.get, "does not acknowledge a message")

    def echo(self, topic: str, payload: bytes) -> tuple[float, float]:
        """Milliseconds until a message is acknowledged, and until it is back."""
        started_s = time.monotonic()
        acknowledged_s = self.publish(topic, payload)
        while (back := self.message(_ANSWER_S)) is not None:
            message, arrived_s = back
            if (message.topic, message.payload) == (topic, payload):
                return (acknowledged_s - started_s) * 1000, (arrived_s - started_s) * 1000
        raise BrokerError(
            f"the MQTT broker at {self._address} takes messages on {topic} but does not give them "
            "back: check what its access rules allow us"
        )

    def message(self, timeout_s: float) -> tuple[Message, float] | None:
        try:
            return self._messages.get(timeout=timeout_s)
        except Empty:
            return None

    def _wait(self, get: Callable[..., T], problem: str) -> T:
        give_up_s = time.monotonic() + _ANSWER_S
        was_connected = self.connection.connected
        while True:
            try:
                return get(timeout=0.2)
            except Empty:
                gone = was_connected and not self.connection.connected
                if gone or time.monotonic() > give_up_s:
                    raise BrokerError(f"the MQTT broker at {self._address} {problem}") from None


@contextmanager
def _joined(address: BrokerAddress) -> Iterator[_Client]:
    client = _Client(address)
    try:
        client.join()
        yield client
    finally:
        client.connection.stop(1.0)


def _ms_since(started_s: float) -> float:
    return (time.monotonic() - started_s) * 1000
