"""Publishes states and alerts in order, through outages."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection, Message, Retry
from edgebird.mqtt.outbox import Alert, Outbox
from edgebird.mqtt.payloads import OutboxPayload

Payload = bytes | Callable[[], bytes]
"""What to publish, or what makes it on the publisher's own thread (a picture)."""

# Messages under way to the broker at once.
_WINDOW = 20
# Up to so many waiting alerts leave strictly in order and at once after an outage. More are late
# alerts: they leave at a limited rate, and new ones overtake them.
STRAIGHT = 500
LATE_PER_S = 100.0
_MAX_UNSTORED = 1000
_STORE_S = 0.25
_HANGS_S = 10.0
_TICK_S = 0.5
_LATE_TICK_S = 0.02
_DRAIN_S = 1.5
_HEADER_BYTES = 300  # no topic of ours is longer
_OFFLINE_S = 0.5
# Every broker takes a state of the first size, and nearly all one of the second.
_SMALL_BYTES, _USUAL_BYTES = 4096, 16384
# So many connections in a row that end with a large state under way are the broker's doing; more
# where it should take one as large, or has before, because then it may well be the network.
_DROPS, _DROPS_OF_TAKEN = 2, 6
# A broker that hung up on a large state is not given one as large for so long. Then it may have
# been set up anew, or it was the network.
_GIVEN_UP_S, _GIVEN_UP_TAKEN_S = 6 * 3600.0, 600.0
# What a broker refuses for a reason that passes is sent again after so long.
_REFUSED_S = 60.0
_PASSING = {"Unspecified error", "Implementation specific error", "Quota exceeded"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    payload: Payload
    qos: int = 1
    once: bool = False


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message under way; ``alert`` is its number in the outbox, None for a state."""

    alert: int | None
    topic: str
    size: int


@dataclass(frozen=True, slots=True)
class _Connected:
    session: int


@dataclass(frozen=True, slots=True)
class _Acknowledged:
    number: int
    refusal: str | None


class Publisher:
    """Publishes retained states and alerts; no method waits for the broker but ``close``.

    Of a state only the newest value counts; all of them are published again after each connect.
    Alerts are stored in an outbox, sent in order, and removed when the broker has acknowledged
    them. A new connection is a new session in which everything unacknowledged is sent again in
    the old order: an alert may come twice and never too early, an old state never after a newer.

    A state that is larger than the broker takes is left out. MQTT 5 tells the limit; otherwise it
    is a large state that was under way when the connection ended, twice in a row; some more times
    where the broker should take one as large, or has before.

    All work is done by one thread of its own, which is also the only one at the outbox.

    Args:
        address: the broker; it may be down.
        client_id: the same at every start, so that the broker ends a stale connection of ours.
        status: topic of a state that is ``offline`` by the last will and from ``close`` on.
        outbox: for the alerts; closed in the end.
        subscriptions: topics to listen to.
        on_message: called for what comes there, on the connection's thread.
        on_subscribed: called there after each connect, when the subscriptions hold.
        prepare: makes the payload of an alert when it is sent.
        on_tick: called about twice a second.
        retry: when to try to connect again.

    Raises:
        UsageError: a certificate cannot be used.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        status: str,
        outbox: Outbox,
        subscriptions: Sequence[str] = (),
        on_message: Callable[[Message], None] = lambda message: None,
        on_subscribed: Callable[[], None] = lambda: None,
        prepare: Callable[[Alert], bytes] = lambda alert: alert.payload,
        on_tick: Callable[[], None] = lambda: None,
        retry: Retry = Retry(),  # noqa: B008  (immutable)
    ) -> None:
        self._address = address
        self._status = status
        self._outbox = outbox
        self._subscriptions = subscriptions
        self._prepare = prepare
        self._on_tick = on_tick
        # What the other threads leave for ours, under the lock or in a queue. The lock is never
        # held while paho is called, which calls back with locks of its own held.
        self._lock = Lock()
        self._states: dict[str, _State] = {}
        self._unsent: dict[str, None] = {}
        self._momentary: dict[str, bytes] = {}
        self._kept: dict[str, str] = {}
        self._unstored: deque[tuple[Alert, Event]] = deque(maxlen=_MAX_UNSTORED)
        self._storing = 0  # how many alerts the disk is just given
        self._signals: SimpleQueue[_Connected | _Acknowledged] = SimpleQueue()
        self._wake = Event()
        self._idle = Event()
        self._stopping = False
        self._turn_s = time.monotonic()
        # Our thread's own: number at the connection -> what was sent.
        self._session = 0
        self._under_way: dict[int, _Sent] = {}
        self._sent = 0  # the newest alert sent in this session
        self._late_sent = self._late_end = 0  # of the late ones: the newest sent, the last there is
        self._late_at_s = 0.0
        self._held: deque[Alert] = deque()
        self._refusal_reported = self._error_reported = False
        self._tick_s = 0.0
        self._outbox_state = outbox.state()
        self._too_large: set[str] = set()
        self._suspect = ""  # topic of a large state that was under way when a connection ended
        self._drops = 0  # how many connections in a row ended so
        self._taken_bytes = 0  # the largest message that the broker has acknowledged
        self._given_up_bytes = 0  # states as large are left out, 0 for none
        self._given_up_at_s = 0.0
        self._connection = Connection(
            address,
            client_id=client_id,
            will=(status, "offline"),
            on_connected=self._handle_connected,
            on_message=on_message,
            on_acknowledged=lambda number, refusal: self._signal(_Acknowledged(number, refusal)),
            on_subscribed=lambda answers: self._handle_subscribed(answers, on_subscribed),
            on_problem=lambda problem: logger.warning(
                "%s; alerts wait until it takes them", problem
            ),
            retry=retry,
        )
        self._thread = Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to connect, and return at once."""
        self._thread.start()
        self._connection.start()

    @property
    def outbox_state(self) -> OutboxPayload:
        """How much waits, as of the last half second."""
        return self._outbox_state

    @property
    def hangs(self) -> bool:
        """Whether a disk has held up the sending for many seconds."""
        return time.monotonic() - self._turn_s > _HANGS_S

    @property
    def connects(self) -> int:
        """How often the broker was connected to."""
        return self._connection.connects

    def set_state(
        self, topic: str, payload: str | Payload, *, qos: int = 1, once: bool = False
    ) -> None:
        """Publish the value, retained; and unless ``once``, again after each reconnect."""
        content = payload.encode() if isinstance(payload, str) else payload
        with self._lock:
            self._states[topic] = _State(content, qos, once)
            self._unsent[topic] = None
            self._idle.clear()
        self._wake.set()

    def publish_all(self) -> None:
        """Publish all states again."""
        with self._lock:
            self._unsent |= dict.fromkeys(self._states)
        self._wake.set()

    def send_now(self, topic: str, payload: bytes) -> None:
        """Publish something that is worth nothing later: without a guarantee, newest wins."""
        with self._lock:
            self._momentary[topic] = payload
        self._wake.set()

    def keep(self, name: str, value: str) -> None:
        """Keep a value beside the alerts, over a restart."""
        with self._lock:
            self._kept[name] = value
            self._idle.clear()
        self._wake.set()

    def send_alert(self, alert: Alert) -> bool:
        """Publish the alert after those that wait.

        Returns:
            Whether it is stored; False when that takes longer than a quarter of a second, and it
            waits in memory for the disk.
        """
        stored = Event()
        with self._lock:
            if len(self._unstored) == _MAX_UNSTORED:
                logger.warning("the disk of the outbox hangs; the oldest alerts are dropped")
            self._unstored.append((alert, stored))
            self._idle.clear()
        self._wake.set()
        return stored.wait(_STORE_S)

    def close(self) -> None:
        """Deliver what waits, say ``offline`` and disconnect, within about three seconds."""
        self._idle.wait(_DRAIN_S)
        # From here on only this counts, even when the broker has not yet answered.
        with self._lock:
            self._states = {self._status: _State(b"offline")}
            self._unsent = {self._status: None}
            self._momentary.clear()
            self._stopping = True
        self._wake.set()
        self._thread.join(_OFFLINE_S)
        self._connection.stop(_OFFLINE_S)
        with self._lock:
            unstored = len(self._unstored) + self._storing
        if unstored:
            logger.warning(
                "the disk of the outbox hangs; alerts that it has not taken, and that may be lost: "
                "%d",
                unstored,
            )
        left = self._outbox_state
        if left.waiting and left.storage == "disk":
            logger.warning(
                "alerts waiting for the MQTT broker at %s: %d; they go out when edgebird starts "
                "again",
                self._address,
                left.waiting,
            )
        elif left.waiting:
            logger.warning(
                "alerts that could not be delivered to the MQTT broker at %s: %d",
                self._address,
                left.waiting,
            )

    # --- on the connection's thread

    def _handle_connected(self) -> None:
        self._signal(_Connected(self._connection.connects))
        if self._subscriptions:
            self._connection.subscribe(*self._subscriptions)

    def _handle_subscribed(self, answers: Sequence[str | None], then: Callable[[], None]) -> None:
        if any(answers):
            logger.warning(
                "the MQTT broker at %s does not let us read commands: %s",
                self._address,
                next(filter(None, answers)),
            )
        then()

    def _signal(self, signal: _Connected | _Acknowledged) -> None:
        self._signals.put(signal)
        self._wake.set()

    # --- on our own thread

    def _run(self) -> None:
        stopping = False
        while not stopping:
            late = self._connection.connected and self._late_sent < self._late_end
            late &= self._late_at_s < time.monotonic() + _TICK_S
            self._turn_s = time.monotonic()
            self._wake.wait(_LATE_TICK_S if late else _TICK_S)
            self._wake.clear()
            with self._lock:
                stopping = self._stopping
            try:
                self._work(stopping)
            except Exception as error:  # noqa: BLE001  (a thread that ended would end all alerts)
                if not self._error_reported:
                    logger.warning("an error while publishing, the rest goes on: %r", error)
                self._error_reported = True
        self._outbox.close()

    def _work(self, stopping: bool) -> None:
        self._take_signals()
        self._store()
        if time.monotonic() - self._tick_s >= _TICK_S or stopping:
            self._tick_s = time.monotonic()
            came_back = self._outbox.tidy()
            if came_back and self._sent:
                # older than what has been sent since: late ones
                self._late_sent, self._late_end = 0, max(self._late_end, min(came_back, self._sent))
            self._outbox_state = self._outbox.state()
            if not stopping:
                self._on_tick()
        self._send(stopping)
        with self._lock:
            unsent = self._unsent and self._connection.connected
            waiting = self._unstored or self._kept or self._outbox.waiting or self._under_way
            if not unsent and not waiting:
                self._idle.set()

    def _take_signals(self) -> None:
        done: list[int] = []
        refused: list[int] = []
        while True:
            try:
                signal = self._signals.get_nowait()
            except Empty:
                break
            if isinstance(signal, _Connected):
                self._begin_session(signal.session)
                continue
            if signal.refusal is not None and not self._refusal_reported:
                self._refusal_reported = True
                logger.warning(
                    "the MQTT broker at %s refuses messages of ours: %s",
                    self._address,
                    signal.refusal,
                )
            sent = self._under_way.pop(signal.number, None)
            if sent is None:
                continue
            if signal.refusal is None:
                self._taken_bytes = max(self._taken_bytes, sent.size)
            if sent.alert is None:
                if sent.topic == self._suspect:
                    self._suspect = ""
            elif signal.refusal is None:
                done.append(sent.alert)
            elif signal.refusal in _PASSING:
                self._send_later(sent.alert)
            else:
                refused.append(sent.alert)
        if done:
            self._outbox.remove(done)
        if refused:
            self._outbox.remove(refused, refused=True)

    def _send_later(self, number: int) -> None:
        """Make late ones of a refused alert and of those before it that still wait."""
        self._late_sent, self._late_end = 0, max(self._late_end, number)
        self._late_at_s = time.monotonic() + _REFUSED_S
        self._held = deque(alert for alert in self._held if alert.number > self._late_end)

    def _begin_session(self, session: int) -> None:
        self._session = session
        self._suspect_the_largest()
        self._under_way.clear()
        self._held.clear()
        self._refusal_reported = False
        self._sent = self._late_sent = self._late_end = 0
        self._late_at_s = 0.0
        if self._outbox.waiting > STRAIGHT:
            self._sent = self._late_end = self._outbox.last_number
            logger.warning(
                "%d alerts waited for the MQTT broker at %s and are delivered now, new ones first",
                self._outbox.waiting,
                self._address,
            )
        with self._lock:
            self._unsent = dict.fromkeys(self._states)

    def _suspect_the_largest(self) -> None:
        """Give up a large state that was under way when the connection ended, time and again.

        Brokers that tell no limit just hang up, and would at each reconnect, before any alert.
        """
        states = [sent for sent in self._under_way.values() if sent.alert is None]
        largest = max(states, key=lambda sent: sent.size, default=None)
        if largest is None or largest.size <= _SMALL_BYTES:
            return
        self._drops = self._drops + 1 if largest.topic == self._suspect else 1
        self._suspect = largest.topic
        if self._drops >= (_DROPS_OF_TAKEN if self._takes(largest.size) else _DROPS):
            self._given_up_bytes, self._given_up_at_s = largest.size, time.monotonic()

    def _takes(self, size: int) -> bool:
        """Whether the broker should take a message of this size, or has taken one."""
        return size <= max(self._taken_bytes, _USUAL_BYTES)

    def _store(self) -> None:
        with self._lock:
            fresh = list(self._unstored)
            self._unstored.clear()
            self._storing = len(fresh)
            kept, self._kept = self._kept, {}
        if fresh:
            # While the broker answers they are on their way in a moment: no need for an fsync.
            alerts = [alert for alert, _ in fresh]
            self._outbox.add(alerts, durable=not self._connection.connected)
            self._storing = 0
            for _, stored in fresh:
                stored.set()
        if kept:
            self._outbox.keep(kept)

    def _send(self, final: bool) -> None:
        limits = self._connection.limits
        window = min(_WINDOW, limits.receive_maximum or _WINDOW)
        while self._connection.connected and (final or len(self._under_way) < window):
            with self._lock:
                topic = next(iter(self._unsent), None)
                if topic is not None:
                    del self._unsent[topic]
                    state = self._states[topic]
                    if state.once:
                        del self._states[topic]
            if topic is not None:
                content = self._made(topic, state)
                if len(content) + _HEADER_BYTES > (limits.maximum_packet_size or 1 << 28):
                    self._say_too_large(topic, len(content), "are more than the broker takes")
                elif self._is_given_up(len(content)):
                    why = "seem to be more than the broker takes, which hung up on as many"
                    self._say_too_large(topic, len(content), why)
                else:
                    self._publish(None, topic, content, qos=state.qos, retain=True)
                continue
            alert = None if final else self._next_alert()
            if alert is None:
                break
            self._publish(alert.number, alert.topic, self._prepare(alert))
        with self._lock:
            momentary, self._momentary = self._momentary, {}
        if len(self._under_way) < window:
            for topic, content in momentary.items():
                self._publish(None, topic, content, qos=0)

    def _publish(
        self, alert: int | None, topic: str, content: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        number = self._connection.publish(
            topic, content, qos=qos, retain=retain, session=self._session
        )
        # Without a number the session has ended, and the next one begins with what is not done.
        if number is not None and qos:
            self._under_way[number] = _Sent(alert, topic, len(content))

    def _made(self, topic: str, state: _State) -> bytes:
        """The payload itself; what had to be made is kept, to be made only once."""
        if isinstance(state.payload, bytes):
            return state.payload
        content = state.payload()
        with self._lock:
            if self._states.get(topic) is state:
                self._states[topic] = replace(state, payload=content)
        return content

    def _is_given_up(self, size: int) -> bool:
        given_up_s = _GIVEN_UP_TAKEN_S if self._takes(self._given_up_bytes) else _GIVEN_UP_S
        if time.monotonic() - self._given_up_at_s > given_up_s:
            self._given_up_bytes = 0
        return 0 < self._given_up_bytes <= size

    def _say_too_large(self, topic: str, size: int, why: str) -> None:
        if topic not in self._too_large:
            logger.warning("%s is not published: %d bytes %s", topic, size, why)
        self._too_large.add(topic)

    def _next_alert(self) -> Alert | None:
        """The next to send: a new one, else a late one when it is time for it."""
        while fresh := self._outbox.page(self._sent, None, 1):
            (alert,) = fresh
            self._sent = alert.number
            if not (
                self._late_sent < self._late_end and self._outbox.has(alert.visit, self._late_end)
            ):
                return alert
            self._held.append(alert)  # a visit's end does not overtake its start
        now_s = time.monotonic()
        if self._late_sent < self._late_end:
            if now_s < self._late_at_s:
                return None
            if late := self._outbox.page(self._late_sent, self._late_end, 1):
                self._late_sent = late[0].number
                self._late_at_s = max(self._late_at_s, now_s - 0.2) + 1 / LATE_PER_S
                return late[0]
            self._late_sent = self._late_end
        return self._held.popleft() if self._held else None
