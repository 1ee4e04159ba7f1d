"""Topics, payloads and delivery over MQTT, against a real broker and a stock subscriber."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import Mosquitto
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edgebird.errors import UsageError
from edgebird.mqtt.connection import BrokerAddress, parse_broker_url
from edgebird.mqtt.payloads import VisitPayload, decode, encode, utc_iso, visit_payload
from edgebird.mqtt.publisher import Publisher
from edgebird.mqtt.topics import Topics, default_device, slug, visit_filter
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

MODEL_SHA256 = "9b" * 32
START_UTC_S = 1_741_944_605.12


def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.02)


def visit_changed(number: int, kind: str = "start") -> VisitChanged:
    ended_utc_s = START_UTC_S + number + 42.5 if kind == "end" else None
    visit = Visit(
        id=f"visit{number}",
        camera="Feeder 0",
        started_utc_s=START_UTC_S + number,
        duration_s=42.5 if kind == "end" else 0.0,
        ended_utc_s=ended_utc_s,
        peak_count=2,
        best_score=0.91239,
        best_xyxy=(64.04, 48.0, 128.0, 96.0),
        frame_size=(640, 480),
    )
    return VisitChanged(kind, visit)


def frame_processed(states: list[TrackState], index: int = 0) -> FrameProcessed:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), index, index / 10, START_UTC_S, "camera")
    tracks = tuple(
        Track(number, (1.0, 2.0, 30.0, 40.0), 0.9, 3, 0.0, index / 10, 0.9, state)
        for number, state in enumerate(states)
    )
    return FrameProcessed("Feeder 0", frame, Detections.none(), tracks, 6.0)


class Subscriber:
    """A stock MQTT client that keeps what it receives; the broker keeps what it misses."""

    def __init__(self, address: BrokerAddress, device: str) -> None:
        self.messages: list[MQTTMessage] = []
        self.subscribed = threading.Event()
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"reader-{device}", clean_session=False
        )
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(f"edgebird/{device}/#", 1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_disconnect = lambda *_: self.subscribed.clear()
        self.client.on_message = lambda client, data, message: self.messages.append(message)
        self.client.connect_async(address.host, address.port)
        self.client.loop_start()

    def values(self, ending: str) -> list[str]:
        messages = [m for m in self.messages if m.topic.endswith(f"/{ending}")]
        return [message.payload.decode() for message in messages]

    def visits(self) -> list[str]:
        return [json.loads(value)["visit"] for value in self.values("visit")]


@contextmanager
def subscriber(address: BrokerAddress, device: str) -> Iterator[Subscriber]:
    client = Subscriber(address, device)
    try:
        assert client.subscribed.wait(20)
        yield client
    finally:
        client.client.disconnect()
        client.client.loop_stop()


def retained(address: BrokerAddress, device: str) -> dict[str, str]:
    """What a client that comes now finds, by the end of the topic."""
    with subscriber(address, device) as client:
        # Retained messages follow the SUBACK; the one sent here comes after them.
        client.client.publish(f"edgebird/{device}/marker", b"", qos=1)
        eventually(lambda: client.values("marker"))
        return {
            m.topic.split("/", 2)[2]: m.payload.decode() for m in client.messages if m.retain
        }


def new_sink(address: BrokerAddress, device: str) -> MqttSink:
    return MqttSink(address, device=device, camera="Feeder 0", model_sha256=MODEL_SHA256)


# --- topics ---------------------------------------------------------------------------------------


@given(st.text())
def test_any_name_becomes_one_topic_level(name: str) -> None:
    level = slug(name)
    assert re.fullmatch(r"[a-z0-9_-]+", level)
    assert slug(level) == level


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("Feeder 0", "feeder-0"),
        ("/dev/video0", "dev-video0"),
        ("Mäuse/+#\0", "mause"),
        ("nest_box-2", "nest_box-2"),
    ],
)
def test_slug_keeps_what_can_be_read(name: str, level: str) -> None:
    assert slug(name) == level


def test_names_without_a_usable_character_stay_apart() -> None:
    assert slug("鳥") != slug("猫")


def test_topics_follow_the_contract() -> None:
    topics = Topics("Garden", "Feeder 0")
    assert topics.status == "edgebird/garden/status"
    assert topics.bird == "edgebird/garden/feeder-0/bird"
    assert topics.count == "edgebird/garden/feeder-0/count"
    assert topics.visit == "edgebird/garden/feeder-0/visit"
    assert visit_filter() == "edgebird/+/+/visit"
    assert visit_filter("Garden") == "edgebird/garden/+/visit"


def test_device_name_is_stable_and_hides_the_machine_id(tmp_path: Path) -> None:
    machine_id = tmp_path / "machine-id"
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    device = default_device(machine_id)
    assert device == default_device(machine_id)
    assert re.fullmatch(r"[0-9a-f]{8}", device)
    assert device not in machine_id.read_text()


@pytest.mark.parametrize("content", [None, b"", b"uninitialized\n", b"\xff\xfe"])
def test_host_name_stands_in_for_a_machine_id(tmp_path: Path, content: bytes | None) -> None:
    machine_id = tmp_path / "machine-id"
    if content is not None:
        machine_id.write_bytes(content)
    assert default_device(machine_id) == slug(socket.gethostname())


# --- the broker's address -------------------------------------------------------------------------

# urlsplit() refuses a few characters that look like punctuation after normalization; they and
# everything else can be written as %XX.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
hosts = st.one_of(
    st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)


@given(hosts, st.integers(1, 65535), words, words, st.booleans())
def test_a_written_address_is_read_back(
    host: str, port: int, user: str, password: str, with_scheme: bool
) -> None:
    shown_host = f"[{host}]" if ":" in host else host
    url = f"{quote(user, safe='')}:{quote(password, safe='')}@{shown_host}:{port}"
    address = parse_broker_url("mqtt://" + url if with_scheme else url)
    assert address == BrokerAddress(host, port, user, password)
    assert str(address) == f"{shown_host}:{port}"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://host", BrokerAddress("host", 1883)),
        ("MQTT://host/", BrokerAddress("host", 1883)),
        ("host", BrokerAddress("host", 1883)),
        ("host:1884", BrokerAddress("host", 1884)),
        ("192.168.1.2", BrokerAddress("192.168.1.2", 1883)),
        ("mqtt://me@[::1]", BrokerAddress("::1", 1883, "me")),
        ("mqtt://a%40b:p%3Aw%2F%23@h", BrokerAddress("h", 1883, "a@b", "p:w/#")),
    ],
)
def test_short_forms_of_an_address(url: str, address: BrokerAddress) -> None:
    assert parse_broker_url(url) == address


BAD_ADDRESSES = [
    "",
    "mqtt://",
    "mqtts://host",
    "http://host",
    "mqtt://host:port",
    "mqtt://host:0",
    "mqtt://host:99999",
    "mqtt://host/path",
    "mqtt://host?x=1",
    "mqtt://[::1",
    "::1",
    "mqtt://two words",
    "mqtt://a\0b",
    "mqtt://a..b",
    "mqtt://" + "a" * 64,
    "mqtt://:secret@host",
    "mqtt://user:se#secret@host",
    "mqtt://user:%ffsecret@host",
    "mqtt://user:secret\udcff@host",
]


@pytest.mark.parametrize("url", BAD_ADDRESSES)
def test_a_bad_address_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_broker_url(url)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = parse_broker_url(text)
    except UsageError:
        return
    assert address.host
    assert 1 <= address.port <= 65535


def test_an_address_never_shows_its_password() -> None:
    address = parse_broker_url("mqtt://me:secret@host")
    assert "secret" not in f"{address} {address!r}"


# --- payloads -------------------------------------------------------------------------------------


def test_the_alert_is_the_documented_json() -> None:
    payload = visit_payload(
        visit_changed(0, "end"), device="garden", camera="feeder-0", model_sha256=MODEL_SHA256
    )
    assert list(json.loads(encode(payload)).items()) == [
        ("event_type", "end"),
        ("visit", "visit0"),
        ("device", "garden"),
        ("camera", "feeder-0"),
        ("started", "2025-03-14T09:30:05.120Z"),
        ("ended", "2025-03-14T09:30:47.620Z"),
        ("duration_s", 42.5),
        ("peak_count", 2),
        ("score", 0.912),
        ("box", {"px": [64.0, 48.0, 128.0, 96.0], "fraction": [0.1001, 0.1, 0.2, 0.2]}),
        ("frame_size", [640, 480]),
        ("snapshot", None),
        ("model", MODEL_SHA256),
    ]


def test_a_visit_that_goes_on_has_no_end() -> None:
    payload = visit_payload(visit_changed(0), device="d", camera="c", model_sha256=MODEL_SHA256)
    assert payload.event_type == "start"
    assert payload.ended is None


pixels = st.floats(0, 4000, width=32)
visits = st.builds(
    Visit,
    id=st.text(),
    camera=st.text(),
    started_utc_s=st.floats(0, 4e9),
    duration_s=st.floats(0, 1e6),
    ended_utc_s=st.none() | st.floats(0, 4e9),
    peak_count=st.integers(0, 100),
    best_score=st.floats(0, 1, width=32),
    best_xyxy=st.tuples(pixels, pixels, pixels, pixels),
    frame_size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    snapshot=st.none() | st.text(),
)


@given(visits, st.sampled_from(["start", "end"]))
def test_an_alert_is_read_back_as_it_was_written(visit: Visit, kind: str) -> None:
    payload = visit_payload(
        VisitChanged(kind, visit), device="d", camera="c", model_sha256=MODEL_SHA256
    )
    assert decode(encode(payload)) == payload


@given(st.floats(0, 4e9))
def test_times_have_milliseconds_and_a_z(utc_s: float) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", utc_iso(utc_s))


def test_a_reader_ignores_keys_it_does_not_know() -> None:
    payload = visit_payload(visit_changed(0), device="d", camera="c", model_sha256=MODEL_SHA256)
    later = json.loads(encode(payload)) | {"species": "robin"}
    assert decode(json.dumps(later).encode()) == payload


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("event_type", "middle"),
        ("device", "a/b"),
        ("device", "a\n"),
        ("camera", "\x1b[2J"),
        ("started", "yesterday"),
        ("started", "2025-03-14T09:30:05"),
        ("ended", "0001-01-01T00:00:00Z"),
        ("ended", ""),
        ("score", 1.5),
        ("box", None),
        ("frame_size", [640, 0]),
    ],
)
def test_what_is_no_alert_is_refused(key: str, value: object) -> None:
    payload = visit_payload(visit_changed(0), device="d", camera="c", model_sha256=MODEL_SHA256)
    wrong = json.loads(encode(payload)) | {key: value}
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(wrong).encode())


@given(st.binary())
def test_any_bytes_are_an_alert_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)


# --- delivery -------------------------------------------------------------------------------------


def test_alerts_arrive_in_order_and_are_not_retained(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "in-order") as client:
        sink = new_sink(mosquitto.address, "in-order")
        for number in range(100):
            sink.emit(visit_changed(number, "start"))
            sink.emit(visit_changed(number, "end"))
        sink.close()
        eventually(lambda: len(client.visits()) == 200)
        assert client.visits() == [f"visit{n}" for n in range(100) for _ in "12"]
        messages = [m for m in client.messages if m.topic.endswith("/visit")]
        assert {m.topic for m in messages} == {"edgebird/in-order/feeder-0/visit"}
        assert {(m.qos, m.retain) for m in messages} == {(1, False)}
        alerts = [decode(m.payload) for m in messages]
        assert alerts[3].camera == "feeder-0"
        assert alerts[3].started == utc_iso(START_UTC_S + 1)
        assert alerts[3].model == MODEL_SHA256
    assert "feeder-0/visit" not in retained(mosquitto.address, "in-order")


def test_states_follow_the_confirmed_tracks_and_stay_for_those_who_come_later(
    mosquitto: Mosquitto,
) -> None:
    confirmed, tentative = TrackState.CONFIRMED, TrackState.TENTATIVE
    with subscriber(mosquitto.address, "states") as client:
        sink = new_sink(mosquitto.address, "states")
        eventually(lambda: client.values("count") == ["0"])
        expected = ["0"]
        for states in [[tentative], [confirmed], [confirmed] * 2, [confirmed, confirmed], []]:
            sink.emit(frame_processed(states))
            count = str(states.count(confirmed))
            expected += [count] if count != expected[-1] else []
            eventually(lambda: client.values("count") == expected)
        assert client.values("count") == ["0", "1", "2", "0"]
        assert client.values("bird") == ["OFF", "ON", "ON", "OFF"]
        sink.emit(frame_processed([confirmed]))
        eventually(lambda: client.values("bird")[-1] == "ON")
        now = {"status": "online", "feeder-0/bird": "ON", "feeder-0/count": "1"}
        assert retained(mosquitto.address, "states") == now
        sink.close()
    gone = {"status": "offline", "feeder-0/bird": "OFF", "feeder-0/count": "0"}
    assert retained(mosquitto.address, "states") == gone


def publishing_process(address: BrokerAddress, device: str) -> subprocess.Popen[bytes]:
    code = f"""
import time
from edgebird.mqtt.connection import BrokerAddress
from edgebird.sinks.mqtt import MqttSink
MqttSink(BrokerAddress({address.host!r}, {address.port}), device={device!r}, camera="c",
         model_sha256="x")
time.sleep(600)
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])


def test_the_last_will_says_offline_when_the_process_is_killed(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "killed") as client:
        process = publishing_process(mosquitto.address, "killed")
        try:
            eventually(lambda: client.values("status") == ["online"])
        finally:
            process.kill()
            process.wait()
        eventually(lambda: client.values("status") == ["online", "offline"])
    assert retained(mosquitto.address, "killed")["status"] == "offline"


def test_a_restart_ends_the_stale_connection_before_it_says_online(mosquitto: Mosquitto) -> None:
    # As after a power cut: the broker still waits for the old process when the new one comes.
    old = publishing_process(mosquitto.address, "stale")
    try:
        with subscriber(mosquitto.address, "stale") as client:
            eventually(lambda: "online" in client.values("status"))
            eventually(lambda: client.values("c/count"))
            old.send_signal(signal.SIGSTOP)
            sink = MqttSink(mosquitto.address, device="stale", camera="c", model_sha256="x")
            eventually(lambda: client.values("status")[-2:] == ["offline", "online"])
            sink.close()
    finally:
        old.kill()
        old.wait()


def test_alerts_wait_for_a_broker_that_is_down_at_the_start(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "late") as client:
        broker.stop()
        sink = new_sink(broker.address, "late")
        started_s = time.monotonic()
        for number in range(5):
            sink.emit(visit_changed(number))
        assert time.monotonic() - started_s < 1.0  # emit does not wait for the broker
        eventually(lambda: "cannot be reached" in caplog.text)
        broker.start()
        eventually(lambda: len(client.visits()) == 5)
        sink.close()
        assert client.visits() == [f"visit{number}" for number in range(5)]
        assert client.values("status")[0] == "online"
    assert [record.getMessage() for record in caplog.records] == [
        f"the MQTT broker at {broker.address} cannot be reached (Connection refused): "
        "check its address and that it runs; alerts wait until it is back",
        f"the MQTT broker at {broker.address} is back",
    ]


def test_a_restart_of_the_broker_loses_no_alert_and_no_state(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "restart") as client:
        sink = new_sink(broker.address, "restart")
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        sink.emit(visit_changed(0))
        eventually(lambda: len(client.visits()) == 1)
        broker.stop()
        eventually(lambda: "is gone" in caplog.text)
        sink.emit(visit_changed(1))
        sink.emit(frame_processed([]))
        sink.emit(visit_changed(2))
        broker.start()
        eventually(lambda: len(client.visits()) == 3)
        sink.emit(visit_changed(3))
        eventually(lambda: len(client.visits()) == 4)
        assert client.visits() == [f"visit{number}" for number in range(4)]
        assert client.values("bird")[-1] == "OFF"
        assert client.values("status")[-1] == "online"
        sink.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"connected to MQTT at {broker.address}",
        f"the MQTT broker at {broker.address} is gone; alerts wait until it is back",
        f"the MQTT broker at {broker.address} is back",
    ]


def test_an_old_state_never_follows_a_newer_one(new_mosquitto: Callable[..., Mosquitto]) -> None:
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "stale-state") as client:
        sink = new_sink(broker.address, "stale-state")
        eventually(lambda: client.values("count") == ["0"])
        broker.freeze()  # the next state is under way, and its acknowledgement never comes
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        broker.kill()
        sink.emit(frame_processed([]))
        broker.start()
        eventually(lambda: client.values("status")[-1:] == ["online"] and client.subscribed.wait(1))
        sink.emit(frame_processed([TrackState.CONFIRMED] * 7))
        eventually(lambda: client.values("count")[-1] == "7")
        sink.emit(frame_processed([]))
        eventually(lambda: client.values("count")[-1] == "0")
        sink.close()
    assert retained(broker.address, "stale-state")["feeder-0/bird"] == "OFF"


def test_a_refusal_is_one_line_and_ends_nothing(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "me", "right"], check=True)
    broker = new_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    address = broker.address
    wrong = BrokerAddress(address.host, address.port, "me", "wrong")
    sink = new_sink(wrong, "refused")
    eventually(lambda: caplog.records)
    sink.emit(visit_changed(0))
    time.sleep(2)  # long enough for a second attempt
    started_s = time.monotonic()
    sink.close()
    assert time.monotonic() - started_s < 4
    assert [record.getMessage() for record in caplog.records] == [
        f"the MQTT broker at {address} refuses the connection (Not authorized): "
        "check user and password; alerts wait until it is back",
        f"1 alerts could not be delivered to the MQTT broker at {address}",
    ]

    sink = new_sink(BrokerAddress(address.host, address.port, "me", "right"), "refused")
    sink.emit(visit_changed(1))
    sink.close()
    assert len(caplog.records) == 2


@pytest.mark.parametrize("host", ["no-such-host.invalid", "256.256.256.256"])
def test_an_unknown_host_is_one_line_and_ends_nothing(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = new_sink(BrokerAddress(host), "unknown-host")
    eventually(lambda: caplog.records)
    sink.close()
    (record,) = caplog.records
    assert "cannot be reached" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x00" * 9])
def test_a_server_that_is_no_broker_is_one_line_and_is_tried_again(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    visits: list[int] = []

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(answer)
            visits.append(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        sink = new_sink(BrokerAddress("127.0.0.1", server.getsockname()[1]), "no-broker")
        eventually(lambda: len(visits) >= 2)
        sink.close()
        server.shutdown(socket.SHUT_RDWR)
    (record,) = caplog.records
    assert "ends the connection without an answer" in record.getMessage()


def test_when_too_many_alerts_wait_the_oldest_are_dropped_and_counted(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "overflow") as client:
        broker.stop()
        publisher = Publisher(
            broker.address,
            client_id="overflow",
            status_topic="edgebird/overflow/status",
            max_waiting_alerts=3,
        )
        for number in range(10):
            publisher.send_alert("edgebird/overflow/c/visit", str(number).encode())
        broker.start()
        eventually(lambda: len(client.values("visit")) == 3)
        publisher.close()
        assert client.values("visit") == ["7", "8", "9"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "alerts wait for" in line] == [
        f"more than 3 alerts wait for the MQTT broker at {broker.address}: the oldest are dropped"
    ]
    assert lines[-1] == f"7 alerts could not be delivered to the MQTT broker at {broker.address}"


def test_close_is_bounded_when_the_broker_hangs_and_still_says_offline(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "hang") as client:
        sink = new_sink(broker.address, "hang")
        eventually(lambda: client.values("count") == ["0"])
        broker.freeze()
        for number in range(3):
            sink.emit(visit_changed(number))
        started_s = time.monotonic()
        sink.close()
        assert time.monotonic() - started_s < 5
        message = f"3 alerts could not be delivered to the MQTT broker at {broker.address}"
        assert caplog.records[-1].getMessage() == message
        broker.thaw()
        eventually(lambda: client.values("status")[-1] == "offline")


def test_close_does_not_wait_when_nothing_is_pending(mosquitto: Mosquitto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (mosquitto.address, BrokerAddress("127.0.0.1", port)):
        sink = new_sink(address, "quick")
        started_s = time.monotonic()
        sink.close()
        assert time.monotonic() - started_s < 1.4
