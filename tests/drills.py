"""Long runs of the way to the broker under everything that goes wrong.

By command:

    python tests/drills.py delivery --events 10000 --kills 50
    python tests/drills.py outage --visits 2000
    python tests/drills.py peer --messages 100000
    python tests/drills.py cost --frames 20000

Each prints what it counted and exits with 1 when a promise is broken. test_drills.py has short
forms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from conftest import Mosquitto, eventually
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edgebird.controls import Controls
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.payloads import parse_command
from edgebird.mqtt.publisher import STRAIGHT
from edgebird.sinks.mqtt import MqttSink
from edgebird.structures import (
    Detections,
    Frame,
    FrameProcessed,
    Track,
    TrackState,
    Visit,
    VisitChanged,
)

# A broker that forgets nothing while it runs. Its own losses at a kill are not ours, so it hands
# on at once what it has acknowledged.
BROKER_SETTINGS = "allow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0"
ROOT = Path(__file__).parents[1]


def visit_event(number: int) -> VisitChanged:
    """The events 2n and 2n + 1 are the start and the end of visit n."""
    visit_number, ending = divmod(number, 2)
    started_s = 1.7e9 + 10 * visit_number
    visit = Visit(
        id=f"visit{visit_number}",
        camera="c",
        started_utc_s=started_s,
        duration_s=5.0 * ending,
        ended_utc_s=started_s + 5 if ending else None,
        peak_count=1,
        best_score=0.9,
        best_xyxy=(1.0, 2.0, 30.0, 40.0),
        frame_size=(64, 48),
    )
    return VisitChanged("end" if ending else "start", visit)


def number_of(payload: bytes) -> int:
    alert = json.loads(payload)
    return 2 * int(alert["visit"].removeprefix("visit")) + (alert["event_type"] == "end")


class Receiver:
    """A subscriber that notes the number and the time of each alert."""

    def __init__(self, address: BrokerAddress, device: str) -> None:
        self.numbers: list[int] = []
        self.arrived_s: dict[int, float] = {}
        self.subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="receiver")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(
            f"edgebird/{device}/+/visit", 1
        )
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_disconnect = lambda *_: self.subscribed.clear()
        self._client.on_message = self._note
        self._client.connect_async(address.host, address.port)
        self._client.loop_start()

    def _note(self, client: Client, data: object, message: MQTTMessage) -> None:
        number = number_of(message.payload)
        self.numbers.append(number)
        self.arrived_s.setdefault(number, time.monotonic())

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Proxy:
    """A link between edgebird and the broker that can be cut, slowed down and closed."""

    def __init__(self, target: BrokerAddress) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = BrokerAddress("127.0.0.1", self._server.getsockname()[1])
        self.delay_s = 0.0
        self.open = True
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            if not self.open:
                here.close()
                continue
            try:
                there = socket.create_connection((self._target.host, self._target.port), 2)
            except OSError:
                here.close()
                continue
            there.settimeout(None)
            self._links += [here, there]
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay_s)
                target.sendall(data)
        for link in (source, target):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def cut(self) -> None:
        links, self._links = self._links, []
        for link in links:
            with suppress(OSError):
                # a reset, as when a router restarts: what is under way is gone
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def close(self) -> None:
        self.open = False
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()


# --- delivery


@dataclass
class DeliveryReport:
    """What came of a run.

    ``duplicates`` are allowed: what was not acknowledged when a connection ended is sent again.
    """

    events: int
    edgebird_kills: int
    broker_kills: int = 0
    broker_pauses: int = 0
    link_cuts: int = 0
    slow_links: int = 0
    received: int = 0
    missing: list[int] = field(default_factory=list)
    duplicates: int = 0
    out_of_order: int = 0
    outbox_intact: bool = False
    left_in_outbox: int = 0
    took_s: float = 0.0

    @property
    def kept_promise(self) -> bool:
        return self.outbox_intact and not (self.missing or self.out_of_order)


def run_delivery(
    folder: Path, *, events: int, kills: int, per_s: float, seed: int = 0
) -> DeliveryReport:
    """Events from a process that is killed, over a bad link, to a broker that is killed, too."""
    rng = random.Random(seed)
    report = DeliveryReport(events, kills)
    started_s = time.monotonic()
    broker = Mosquitto(folder / "broker", BROKER_SETTINGS)
    broker.start()
    receiver = Receiver(broker.address, "drill")
    proxy = Proxy(broker.address)
    producer = _Producer(folder, proxy.address, events, per_s)
    troubles = [_kill_broker, _pause_broker, _cut_link, _slow_link]
    try:
        assert receiver.subscribed.wait(20)
        for kill in range(kills):
            producer.start()
            producer.wait_for(events * (kill + rng.random()) / (kills + 1))
            # One trouble of another kind with each life of edgebird, some while it is away.
            trouble = troubles[kill % len(troubles)]
            if rng.random() < 0.3:
                producer.kill()
                trouble(broker, receiver, proxy, report, rng)
            else:
                trouble(broker, receiver, proxy, report, rng)
                time.sleep(rng.random() * 0.5)
                producer.kill()
        producer.start()
        producer.wait_for(events)
        give_up_s = time.monotonic() + 90
        while len(receiver.arrived_s) < events and time.monotonic() < give_up_s:
            time.sleep(0.1)
        producer.end()
        # What comes late is late all the same: a last look.
        time.sleep(0.5)
    finally:
        producer.kill()
        proxy.close()
        receiver.close()
        broker.stop()
    once = list(dict.fromkeys(receiver.numbers))
    report.received = len(receiver.numbers)
    report.missing = sorted(set(range(events)) - set(once))
    report.duplicates = len(receiver.numbers) - len(once)
    report.out_of_order = sum(b < a for a, b in itertools.pairwise(once))
    report.outbox_intact, report.left_in_outbox = _examine(folder / "state" / "outbox")
    report.took_s = round(time.monotonic() - started_s, 1)
    return report


class _Producer:
    """The process that emits the events and writes down each that edgebird has taken."""

    def __init__(self, folder: Path, address: BrokerAddress, events: int, per_s: float) -> None:
        self._progress = folder / "progress"
        self._progress.write_text("")
        command = [str(address.port), str(folder / "state"), str(self._progress)]
        self._command = [sys.executable, __file__, "produce", *command, str(events), str(per_s)]
        self._errors = folder / "errors"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )

    def wait_for(self, number: float) -> None:
        def reached() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._errors.read_text()[-3000:]
            return self._progress.stat().st_size // 8 >= number

        eventually(reached, 300)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._end()

    def end(self) -> None:
        """Let it close its sink."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        self._process.wait(30)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def produce(port: int, state: str, progress: str, events: int, per_s: float) -> None:
    """What runs in the producer's process."""
    done = Path(progress).stat().st_size // 8
    sink = MqttSink(
        BrokerAddress("127.0.0.1", port),
        device="drill",
        camera="c",
        model_sha256="x",
        controls=Controls(0.5),
        state=Path(state),
    )
    with open(progress, "ab", buffering=0) as notes:
        for number in range(done, events):
            started_s = time.monotonic()
            sink.emit(visit_event(number))
            if time.monotonic() - started_s > 0.24:
                time.sleep(2)  # the disk took longer than the loop waits
            notes.write(f"{number:7d}\n".encode())
            time.sleep(1 / per_s)
            # So many birds never come: what waits stays below where new alerts overtake.
            while sink._publisher.outbox_state.waiting > STRAIGHT * 0.6:
                time.sleep(0.05)
    sys.stdin.read()
    sink.close()


def _kill_broker(
    broker: Mosquitto, receiver: Receiver, proxy: Proxy, report: DeliveryReport, rng: random.Random
) -> None:
    broker.kill()
    proxy.open = False
    eventually(lambda: not receiver.subscribed.is_set())
    time.sleep(rng.random())
    broker.start()
    # A broker that just began knows of no subscription: it would acknowledge and drop.
    assert receiver.subscribed.wait(30)
    proxy.open = True
    report.broker_kills += 1


def _pause_broker(
    broker: Mosquitto, receiver: Receiver, proxy: Proxy, report: DeliveryReport, rng: random.Random
) -> None:
    broker.freeze()
    time.sleep(rng.random() * 2)
    broker.thaw()
    report.broker_pauses += 1


def _cut_link(
    broker: Mosquitto, receiver: Receiver, proxy: Proxy, report: DeliveryReport, rng: random.Random
) -> None:
    for _ in range(3):
        proxy.cut()
        time.sleep(rng.random() * 0.6)
        report.link_cuts += 1


def _slow_link(
    broker: Mosquitto, receiver: Receiver, proxy: Proxy, report: DeliveryReport, rng: random.Random
) -> None:
    proxy.delay_s = rng.random() * 0.3
    time.sleep(1.5)
    proxy.delay_s = 0.0
    report.slow_links += 1


def _examine(folder: Path) -> tuple[bool, int]:
    """Whether the one outbox there is whole, and how many alerts are left in it."""
    [path] = folder.glob("*.sqlite")
    damaged = list(folder.glob("*.damaged"))
    with closing(sqlite3.connect(path)) as db:
        (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
        (left,) = db.execute("SELECT count(*) FROM alerts").fetchone()
    return verdict == "ok" and not damaged, left


# --- outage


@dataclass
class OutageReport:
    """An outage of a day, and what followed."""

    visits: int
    memory_growth_mib: float
    outbox_kib: int
    drained_s: float
    missing: int
    live_alerts: int
    slowest_live_s: float
    age_told: bool

    @property
    def kept_promise(self) -> bool:
        quick = self.drained_s < 60 and self.slowest_live_s < 1
        return quick and self.age_told and not self.missing and self.memory_growth_mib < 20


def run_outage(folder: Path, *, visits: int) -> OutageReport:
    """Alerts of a day without a broker, which then comes, while birds go on coming."""
    broker = Mosquitto(folder / "broker", BROKER_SETTINGS)
    broker.start()
    receiver = Receiver(broker.address, "drill")
    assert receiver.subscribed.wait(20)
    proxy = Proxy(broker.address)
    proxy.open = False
    ages: list[float] = []
    sink = MqttSink(
        proxy.address,
        device="drill",
        camera="c",
        model_sha256="x",
        controls=Controls(0.5),
        state=folder / "state",
    )
    try:
        for number in range(200):  # what is loaded once is no growth
            sink.emit(visit_event(number))
        before_mib = _memory_mib()
        for number in range(200, 2 * visits):
            sink.emit(visit_event(number))
        growth_mib = _memory_mib() - before_mib
        outbox = folder / "state" / "outbox"
        size_kib = sum(path.stat().st_size for path in outbox.iterdir()) // 1024
        with _ages(broker.address, ages):
            proxy.open = True
            eventually(lambda: receiver.numbers, 60)
            started_s = time.monotonic()
            sent_s: dict[int, float] = {}
            number = 2 * visits
            while len([n for n in receiver.arrived_s if n < 2 * visits]) < 2 * visits:
                assert time.monotonic() - started_s < 120
                sent_s[number] = time.monotonic()
                sink.emit(visit_event(number))
                number += 1
                time.sleep(0.25)
            drained_s = max(receiver.arrived_s[n] for n in range(2 * visits)) - started_s
            eventually(lambda: set(sent_s) <= set(receiver.arrived_s))
    finally:
        sink.close()
        proxy.close()
        receiver.close()
        broker.stop()
    return OutageReport(
        visits=visits,
        memory_growth_mib=round(growth_mib, 1),
        outbox_kib=size_kib,
        drained_s=round(drained_s, 1),
        missing=len(set(range(number)) - set(receiver.arrived_s)),
        live_alerts=len(sent_s),
        slowest_live_s=round(max(receiver.arrived_s[n] - at_s for n, at_s in sent_s.items()), 3),
        age_told=max(ages) > min(ages) and min(ages) >= 0,
    )


@contextmanager
def _ages(address: BrokerAddress, ages: list[float]) -> Iterator[None]:
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda c, d, message: ages.append(json.loads(message.payload)["age_s"])
    client.connect(address.host, address.port)
    client.loop_start()
    client.subscribe("edgebird/drill/+/visit", 0)
    try:
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- a malicious or broken peer


@dataclass
class PeerReport:
    """What a peer could do."""

    messages: int
    valid: int
    obeyed: int
    wrongly_changed: int
    still_serves: bool
    took_s: float

    @property
    def kept_promise(self) -> bool:
        return self.still_serves and not self.wrongly_changed and self.valid == self.obeyed


def run_peer(folder: Path, *, messages: int, seed: int = 0) -> PeerReport:
    """Random messages on all topics that are listened to, with valid commands among them."""
    rng = random.Random(seed)
    broker = Mosquitto(folder / "broker", BROKER_SETTINGS)
    broker.start()
    controls = _NotingControls()
    sink = MqttSink(
        broker.address,
        device="drill",
        camera="c",
        model_sha256="x",
        controls=controls,
        state=folder / "state",
    )
    values: list[str] = []
    peer = Client(CallbackAPIVersion.VERSION2)
    peer.on_message = lambda client, data, message: values.append(message.payload.decode())
    peer.max_queued_messages_set(0)
    peer.connect(broker.address.host, broker.address.port)
    peer.loop_start()
    peer.subscribe("edgebird/drill/c/threshold", 1)
    eventually(lambda: values)
    allowed: list[tuple[str, object]] = []
    started_s = time.monotonic()
    try:
        for number in range(messages):
            topic, payload = _nasty_message(rng)
            name = topic.rpartition("/")[2]
            # To those who are there it comes like any other; see test_mqtt_sink.py for the others.
            retain = rng.random() < 0.01
            if topic == f"edgebird/drill/c/set/{name}":
                with suppress(ValueError):
                    allowed.append((name, parse_command(name, payload)))
            info = peer.publish(topic, payload, qos=1, retain=retain)
            if number % 200 == 199:
                info.wait_for_publish(30)
        obeyed_before = len(controls.changes)
        peer.publish("edgebird/drill/c/set/threshold", b"0.77", qos=1)
        allowed.append(("threshold", 0.77))
        eventually(lambda: values[-1] == "0.77", 60)
        assert len(controls.changes) >= obeyed_before
    finally:
        took_s = time.monotonic() - started_s
        sink.emit(visit_event(0))
        sink.close()
        peer.disconnect()
        peer.loop_stop()
        broker.stop()
    changes = [change for change in controls.changes if change in allowed]
    return PeerReport(
        messages=messages,
        valid=len(_without_repeats(allowed)),
        obeyed=len(_without_repeats(changes)),
        wrongly_changed=len(controls.changes) - len(changes),
        still_serves=controls.threshold == 0.77 and _examine(folder / "state" / "outbox")[0],
        took_s=round(took_s, 1),
    )


class _NotingControls(Controls):
    """Notes each change."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, object]] = []
        super().__init__(0.5)
        self.changes.clear()

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("enabled", "threshold"):
            self.changes.append((name, value))
        super().__setattr__(name, value)

    def ask_for_snapshot(self) -> None:
        self.changes.append(("snapshot", None))


def _without_repeats(commands: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Commands that change something: setting what is set already does not."""
    now: dict[str, object] = {"enabled": True, "threshold": 0.5}
    changing = []
    for name, value in commands:
        if name == "snapshot" or now[name] != value:
            now[name] = value
            changing.append((name, value))
    return changing


def _nasty_message(rng: random.Random) -> tuple[str, bytes]:
    topics = [
        *(f"edgebird/drill/c/set/{name}" for name in ("enabled", "threshold", "snapshot")),
        "edgebird/drill/c/set/" + rng.choice(["", "x", "é" * 20, "$SYS", "../enabled", "\u200b"]),
        "homeassistant/status",
        "homeassistant/device/edgebird-drill/c/config",
    ]
    makers: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randrange(64)),
        lambda: rng.randbytes(rng.choice([1000, 20_000])) if rng.random() < 0.05 else b"",
        lambda: rng.choice([b"ON", b"OFF", b"on", b"1", b"true", b"PRESS", b"null", b"online"]),
        lambda: f"{rng.uniform(-1, 2):.3f}".encode(),
        lambda: rng.choice([b"nan", b"inf", b"1e-1", b"0,5", b"0.5\n", b" 0.5", b"0.5\0", b"+0.5"]),
        lambda: json.dumps(rng.choice([{}, [], {"components": {"x": 1}}, "ON", 0.5])).encode(),
        lambda: b'{"components":' + b"[" * rng.choice([1, 5000]),
        lambda: "\uff10\uff0e\uff15".encode(),
    ]
    return rng.choice(topics), rng.choice(makers)()


# --- cost


@dataclass
class CostReport:
    """Time of the loop that a processed frame with birds takes, in milliseconds."""

    frames: int
    median_ms: float
    p99_ms: float
    slowest_ms: float

    @property
    def kept_promise(self) -> bool:
        return self.p99_ms < 2


def run_cost(folder: Path, *, frames: int) -> CostReport:
    """Frames with three birds, one of which comes and goes, each published as quickly as may be."""
    broker = Mosquitto(folder / "broker", BROKER_SETTINGS)
    broker.start()
    sink = MqttSink(
        broker.address,
        device="drill",
        camera="c",
        model_sha256="x",
        controls=Controls(0.5),
        state=folder / "state",
        detections_per_s=100.0,
    )
    boxes = [(10.0, 20.0, 300.0, 400.0), (400.0, 20.0, 500.0, 90.0), (5.0, 5.0, 50.0, 50.0)]
    image = np.zeros((720, 1280, 3), np.uint8)
    scores = np.full(3, 0.9, np.float32)
    times_ms = []
    try:
        for index in range(frames):
            now_s = time.monotonic()
            tracks = tuple(
                Track(i, box, 0.9, 3, 0.0, now_s, 0.9, TrackState.CONFIRMED)
                for i, box in enumerate(boxes[: 2 + index % 2])
            )
            event = FrameProcessed(
                "c",
                Frame(image, index, now_s, time.time(), "c"),
                Detections(np.array(boxes, np.float32), scores),
                tracks,
                6.0,
            )
            started_s = time.perf_counter()
            sink.emit(event)
            times_ms.append((time.perf_counter() - started_s) * 1000)
            time.sleep(0.002)
    finally:
        sink.close()
        broker.stop()
    middle, p99, slowest = np.percentile(times_ms, [50, 99, 100]).round(3).tolist()
    return CostReport(frames, middle, p99, slowest)


def main() -> int:
    if sys.argv[1:2] == ["produce"]:
        port, state, progress, events, per_s = sys.argv[2:]
        produce(int(port), state, progress, int(events), float(per_s))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    drills = parser.add_subparsers(dest="drill", required=True)
    delivery = drills.add_parser("delivery")
    delivery.add_argument("--events", type=int, default=10_000)
    delivery.add_argument("--kills", type=int, default=50)
    delivery.add_argument("--per-s", type=float, default=100.0)
    delivery.add_argument("--seed", type=int, default=0)
    drills.add_parser("outage").add_argument("--visits", type=int, default=2000)
    peer = drills.add_parser("peer")
    peer.add_argument("--messages", type=int, default=100_000)
    peer.add_argument("--seed", type=int, default=0)
    drills.add_parser("cost").add_argument("--frames", type=int, default=20_000)
    options = vars(parser.parse_args())
    run = {"delivery": run_delivery, "outage": run_outage, "peer": run_peer, "cost": run_cost}
    with tempfile.TemporaryDirectory() as folder:
        report = run[options.pop("drill")](Path(folder), **options)
    sys.stdout.write(json.dumps(asdict(report) | {"kept_promise": report.kept_promise}) + "\n")
    return 0 if report.kept_promise else 1


if __name__ == "__main__":
    sys.exit(main())
