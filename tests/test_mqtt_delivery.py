"""Delivery over MQTT through every kind of outage: a real broker and a stock subscriber."""

from __future__ import annotations

import json
import logging
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from conftest import Mosquitto, eventually
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from test_mqtt import MODEL_SHA256, START_UTC_S, visit_changed

from edgebird.controls import Controls
from edgebird.disk import DiskUse
from edgebird.errors import UsageError
from edgebird.mqtt import outbox as outbox_module
from edgebird.mqtt import publisher as publisher_module
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Retry
from edgebird.mqtt.outbox import Alert, Outbox
from edgebird.mqtt.payloads import decode, utc_iso
from edgebird.mqtt.publisher import STRAIGHT, Publisher
from edgebird.sinks import mqtt as sink_module
from edgebird.sinks.mqtt import MqttSink
from edgebird.structures import (
    Detections,
    Frame,
    FrameProcessed,
    Health,
    Track,
    TrackState,
)


def frame_processed(states: list[TrackState]) -> FrameProcessed:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, START_UTC_S, "camera")
    tracks = tuple(
        Track(number, (1.0, 2.0, 30.0, 40.0), 0.9, 3, 0.0, 0.0, 0.9, state)
        for number, state in enumerate(states)
    )
    return FrameProcessed("Feeder 0", frame, Detections.none(), tracks, 6.0)


def alert(number: int, topic: str) -> Alert:
    return Alert(f"visit{number}", topic, str(number).encode(), time.time())


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
        """Each alert once; what was not yet acknowledged at a restart may come twice."""
        alerts = [json.loads(value) for value in self.values("visit")]
        return [visit for visit, _ in dict.fromkeys((a["visit"], a["event_type"]) for a in alerts)]


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
    messages: list[MQTTMessage] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: messages.append(message)
    client.connect(address.host, address.port)
    client.loop_start()
    client.subscribe(f"edgebird/{device}/#", 1)
    client.publish(f"edgebird/{device}/marker", qos=1)  # comes back after what is retained
    # others may publish after it
    eventually(lambda: any(message.topic.endswith("/marker") for message in list(messages)))
    client.disconnect()
    client.loop_stop()
    kept = [message for message in messages if message.retain]
    return {m.topic.split("/", 2)[2]: m.payload.decode(errors="replace") for m in kept}


def new_sink(address: BrokerAddress, device: str) -> MqttSink:
    return MqttSink(
        address, device=device, camera="Feeder 0", model_sha256=MODEL_SHA256, controls=Controls(0.5)
    )


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
        sink.emit(frame_processed([tentative]))
        sink.emit(frame_processed([confirmed, tentative]))
        eventually(lambda: client.values("count") == ["0", "1"])
        sink.emit(frame_processed([confirmed, confirmed]))
        sink.emit(frame_processed([confirmed, confirmed]))
        eventually(lambda: client.values("count") == ["0", "1", "2"])
        sink.emit(frame_processed([]))
        eventually(lambda: client.values("count") == ["0", "1", "2", "0"])
        assert client.values("bird") == ["OFF", "ON", "ON", "OFF"]
        sink.emit(frame_processed([confirmed]))
        eventually(lambda: client.values("count")[-1] == "1")
        now = {"feeder-0/status": "online", "feeder-0/bird": "ON", "feeder-0/count": "1"}
        controls = {"feeder-0/enabled": "ON", "feeder-0/threshold": "0.5"}
        stays = controls | {"feeder-0/visits_today": "0"}
        assert retained(mosquitto.address, "states") == {"status": "online"} | now | stays
        sink.close()
    gone = {"feeder-0/status": "offline", "feeder-0/bird": "OFF", "feeder-0/count": "0"}
    assert retained(mosquitto.address, "states") == {"status": "offline"} | gone | stays


def publishing_process(
    address: BrokerAddress, device: str, camera: str = "c"
) -> subprocess.Popen[bytes]:
    """A process that serves a camera, with a frame each tenth of a second."""
    code = f"""
import time
import numpy as np
from edgebird.controls import Controls
from edgebird.errors import UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Retry
from edgebird.mqtt.outbox import Alert, Outbox
from edgebird.sinks.mqtt import MqttSink
from edgebird.structures import Detections, Frame, FrameProcessed
sink = MqttSink(BrokerAddress({address.host!r}, {address.port}), device={device!r},
                camera={camera!r}, model_sha256="x", controls=Controls(0.5))
while True:
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 0, time.monotonic(), time.time(), "c")
    sink.emit(FrameProcessed("c", frame, Detections.none(), (), 1.0))
    time.sleep(0.1)
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])


def test_the_last_will_says_offline_when_the_process_is_killed(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "killed") as client:
        process = publishing_process(mosquitto.address, "killed")
        try:
            eventually(lambda: client.values("c/status")[-1:] == ["online"])
            eventually(lambda: client.values("killed/status") == ["online"])
        finally:
            process.kill()
            process.wait()
        eventually(lambda: client.values("c/status")[-1] == "offline")
        eventually(lambda: client.values("killed/status") == ["online", "offline"])
    assert retained(mosquitto.address, "killed")["status"] == "offline"


def test_the_device_is_online_as_long_as_one_of_its_cameras_is(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "two") as client:
        first = publishing_process(mosquitto.address, "two", "one")
        try:
            eventually(lambda: client.values("two/status") == ["online"])
            eventually(lambda: client.values("one/status")[-1:] == ["online"])
            with closing(
                MqttSink(
                    mosquitto.address,
                    device="two",
                    camera="2",
                    model_sha256="x",
                    controls=Controls(0.5),
                )
            ):
                first.kill()
                eventually(lambda: client.values("one/status")[-1:] == ["offline"])
                eventually(lambda: client.values("two/status") == ["online", "offline", "online"])
        finally:
            first.kill()
            first.wait()
        eventually(lambda: client.values("two/status")[-1] == "offline")


def test_a_second_process_for_the_same_camera_is_refused(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_CLAIM_S", 0.2)
    with (
        closing(new_sink(mosquitto.address, "same")),
        pytest.raises(UsageError, match="already serves camera 'feeder-0'") as caught,
    ):
        new_sink(mosquitto.address, "same")
    assert "\n" not in str(caught.value)
    new_sink(mosquitto.address, "same").close()


def test_a_camera_is_served_once_wherever_its_state_is_kept(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_CLAIM_S", 0.2)
    elsewhere = BrokerAddress("no-such-host.invalid")

    def sink(address: BrokerAddress, folder: str) -> MqttSink:
        state = tmp_path / folder
        return MqttSink(
            address,
            device="once",
            camera="c",
            model_sha256="x",
            controls=Controls(0.5),
            state=state,
        )

    with closing(sink(mosquitto.address, "one")):
        with pytest.raises(UsageError, match="already serves camera 'c'"):
            sink(mosquitto.address, "two")  # both would have one name at the broker
        with pytest.raises(UsageError, match="already serves camera 'c'"):
            sink(elsewhere, "one")  # both would take alerts from one outbox
        sink(elsewhere, "two").close()


def test_a_camera_that_is_about_to_be_free_is_waited_for(mosquitto: Mosquitto) -> None:
    first = new_sink(mosquitto.address, "soon")
    closing_first = threading.Timer(0.5, first.close)
    closing_first.start()
    new_sink(mosquitto.address, "soon").close()
    closing_first.join()


def test_a_restart_ends_the_stale_connection_before_it_says_online(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    # As after a power cut: the broker still waits for the old process when the new one comes.
    # Under another name of the broker, or this machine would see that it still runs.
    elsewhere = BrokerAddress("localhost", mosquitto.address.port)
    old = publishing_process(elsewhere, "stale")
    try:
        with subscriber(mosquitto.address, "stale") as client:
            eventually(lambda: client.values("c/status")[-1:] == ["online"])
            old.send_signal(signal.SIGSTOP)
            sink = MqttSink(
                mosquitto.address,
                device="stale",
                camera="c",
                model_sha256="x",
                controls=Controls(0.5),
                state=tmp_path,
            )
            sink.emit(frame_processed([]))
            eventually(lambda: client.values("c/status")[-2:] == ["offline", "online"])
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
        assert time.monotonic() - started_s < 2.0  # emit does not wait for the broker
        eventually(lambda: "cannot be reached" in caplog.text)
        broker.start()
        eventually(lambda: len(client.visits()) == 5)
        eventually(lambda: "online" in client.values("late/status"))
        sink.close()
        assert client.visits() == [f"visit{number}" for number in range(5)]
    assert [record.getMessage() for record in caplog.records] == [
        f"the MQTT broker at {broker.address} cannot be reached (Connection refused): "
        "check its address and that it runs; alerts wait until it takes them",
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
        assert client.values("feeder-0/status")[-1] == "online"
        sink.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"connected to MQTT at {broker.address}",
        f"the MQTT broker at {broker.address} is gone; alerts wait until it takes them",
        f"the MQTT broker at {broker.address} is back",
    ]


def test_an_old_state_never_follows_a_newer_one(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "old-state") as client:
        sink = new_sink(broker.address, "old-state")
        eventually(lambda: client.values("count") == ["0"])
        broker.freeze()
        sink.emit(frame_processed([TrackState.CONFIRMED]))  # is sent and not acknowledged
        broker.kill()
        sink.emit(frame_processed([]))
        eventually(lambda: not client.subscribed.is_set())
        broker.start()
        eventually(lambda: client.subscribed.is_set() and "is back" in caplog.text)
        sink.emit(visit_changed(0))  # leaves after all that came before
        eventually(lambda: client.visits() == ["visit0"])
        states = retained(broker.address, "old-state")
        assert states["feeder-0/status"] == "online"
        assert (states["feeder-0/bird"], states["feeder-0/count"]) == ("OFF", "0")
        sink.close()


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
    eventually(lambda: broker.log().count("not authorised") >= 2)
    sink.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"the MQTT broker at {address} refuses the connection (Not authorized): "
        "check user and password; alerts wait until it takes them",
    ]

    sink = new_sink(BrokerAddress(address.host, address.port, "me", "right"), "refused")
    sink.emit(visit_changed(1))
    sink.close()
    assert len(caplog.records) == 1


def test_an_unknown_host_is_one_line_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sink = new_sink(BrokerAddress("no-such-host.invalid"), "unknown-host")
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
        eventually(lambda: len(visits) >= 4 and caplog.records)
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
        outbox = Outbox(None, max_rows=3)
        publisher = Publisher(
            broker.address,
            client_id="overflow",
            status="edgebird/overflow/status",
            outbox=outbox,
            retry=Retry(first_s=0.1),
        )
        for number in range(10):
            outbox.add([alert(number, "edgebird/overflow/c/visit")], durable=False)
        publisher.start()
        eventually(lambda: len(client.values("visit")) == 3)
        eventually(lambda: publisher.outbox_state.waiting == 0)
        assert publisher.outbox_state.dropped == 7
        publisher.close()
        assert client.values("visit") == ["7", "8", "9"]
    assert [record.getMessage() for record in caplog.records] == [
        "too many or too old alerts wait in the outbox: the oldest are dropped"
    ]


def test_an_error_of_ours_does_not_end_the_alerts(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_picture() -> bytes:
        raise RuntimeError("no memory for a picture")

    with subscriber(mosquitto.address, "error") as client:
        publisher = Publisher(
            mosquitto.address,
            client_id="error",
            status="edgebird/error/status",
            outbox=Outbox(None),
        )
        publisher.start()
        publisher.set_state("edgebird/error/best.jpg", broken_picture)
        publisher.send_alert(alert(1, "edgebird/error/c/visit"))
        eventually(lambda: client.values("visit") == ["1"])
        publisher.close()
    assert "no memory for a picture" in caplog.text


def test_after_a_long_outage_new_alerts_go_first_and_an_end_follows_its_start(
    mosquitto: Mosquitto,
) -> None:
    outbox = Outbox(None)
    waiting = [alert(number, "edgebird/lanes/c/visit") for number in range(STRAIGHT + 50)]
    outbox.add(waiting, durable=False)
    with subscriber(mosquitto.address, "lanes") as client:
        publisher = Publisher(
            mosquitto.address,
            client_id="lanes",
            status="edgebird/lanes/status",
            outbox=outbox,
        )
        publisher.start()
        eventually(lambda: client.values("visit"))
        publisher.send_alert(Alert("new", "edgebird/lanes/c/visit", b"new", time.time()))
        last = waiting[-1].visit
        publisher.send_alert(Alert(last, "edgebird/lanes/c/visit", b"its end", time.time()))
        eventually(lambda: len(client.values("visit")) == len(waiting) + 2, 60)
        publisher.close()
        values = client.values("visit")
    assert values.index("new") < STRAIGHT
    assert values[-1] == "its end"
    assert [v for v in values if v.isdecimal()] == [str(n) for n in range(len(waiting))]


def publisher_of(address: BrokerAddress, outbox: Outbox, name: str) -> Publisher:
    status = f"edgebird/{name}/status"
    retry = Retry(first_s=0.1, last_s=0.1)
    return Publisher(address, client_id=name, status=status, outbox=outbox, retry=retry)


def test_a_picture_that_a_broker_hangs_up_on_is_given_up_and_stops_no_alert(
    new_mosquitto: Callable[..., Mosquitto],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = new_mosquitto("allow_anonymous true\nmax_packet_size 20000")
    broker.start()
    base = "edgebird/large/c"
    with subscriber(broker.address, "large") as client:
        publisher = publisher_of(broker.address, Outbox(None), "large")
        publisher.start()
        publisher.set_state(f"{base}/best.jpg", bytes(30_000))
        for number in range(4):
            publisher.send_alert(alert(number, f"{base}/visit"))
        eventually(lambda: client.values("visit") == ["0", "1", "2", "3"])
        # What is as large is left out at once, what is smaller is not.
        publisher.set_state(f"{base}/snapshot.jpg", bytes(30_000))
        publisher.set_state(f"{base}/best.jpg", bytes(10_000))
        eventually(lambda: [len(value) for value in client.values("best.jpg")] == [10_000])
        assert publisher.connects == 3
        assert broker.log().count("oversize packet") == 2
        messages = [record.getMessage() for record in caplog.records]
        for name in ("best.jpg", "snapshot.jpg"):
            (line,) = [message for message in messages if name in message]
            assert line.startswith(f"{base}/{name} is not published: 30000 bytes seem to be more")
        # Later it is tried again, and given up again.
        monkeypatch.setattr(publisher_module, "_GIVEN_UP_S", 0.5)
        time.sleep(0.5)
        publisher.set_state(f"{base}/best.jpg", bytes(30_000))
        eventually(lambda: broker.log().count("oversize packet") > 2)
        publisher.send_alert(alert(4, f"{base}/visit"))
        eventually(lambda: client.values("visit")[-1] == "4")
        publisher.close()


class ScriptedBroker:
    """Answers each message, as MQTT 5 does, with the code the test wants; None hangs up."""

    def __init__(self, answer: Callable[[str, bytes], int | None]) -> None:
        self.messages: list[bytes] = []
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = BrokerAddress("127.0.0.1", self._server.getsockname()[1], version="5")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._server.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            # one that has said goodbye may be gone before it is answered
            with connection, connection.makefile("rb") as packets, suppress(OSError):
                self._serve(connection, packets)

    def _serve(self, connection: socket.socket, packets: BinaryIO) -> None:
        while head := packets.read(1):
            size = shift = 0
            while (byte := packets.read(1)[0]) & 0x80:
                size, shift = size + ((byte & 0x7F) << shift), shift + 7
            body = packets.read(size + (byte << shift))
            if head[0] >> 4 == 1:
                connection.sendall(b"\x20\x03\x00\x00\x00")
            elif head[0] >> 4 == 3:
                end = 2 + int.from_bytes(body[:2])
                payload = body[end + 3 :]  # after a number and no properties
                code = self._answer(body[2:end].decode(), payload)
                if code is None:
                    return
                self.messages.append(payload)
                connection.sendall(b"\x40\x03" + body[end : end + 2] + bytes([code]))


def test_a_connection_that_ends_now_and_then_gives_up_no_picture() -> None:
    # Each picture is lost with a connection and then arrives.
    seen: set[bytes] = set()

    def answer(topic: str, payload: bytes) -> int | None:
        if not topic.endswith("/best.jpg") or payload in seen:
            return 0
        seen.add(payload)
        return None

    pictures = [bytes([number]) * 30_000 for number in range(3)]
    with closing(ScriptedBroker(answer)) as broker:
        publisher = publisher_of(broker.address, Outbox(None), "now-and-then")
        publisher.start()
        for picture in pictures:
            publisher.set_state("edgebird/now-and-then/c/best.jpg", picture)
            eventually(lambda wanted=picture: wanted in broker.messages)
        publisher.close()


def test_bad_reception_gives_up_no_picture_as_large_as_one_that_has_arrived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = "edgebird/weak/c/best.jpg"
    weak = threading.Event()
    lost: list[int] = []

    def answer(topic: str, payload: bytes) -> int | None:
        if len(payload) < 20_000 or not weak.is_set():
            return 0
        lost.append(len(payload))
        return None

    with closing(ScriptedBroker(answer)) as broker:
        publisher = publisher_of(broker.address, Outbox(None), "weak")
        publisher.start()
        publisher.set_state(topic, bytes(60_000))
        eventually(lambda: [len(message) for message in broker.messages] == [60_000])
        weak.set()
        publisher.set_state(topic, bytes(59_000))
        eventually(lambda: len(lost) == 3)
        weak.clear()
        eventually(lambda: len(broker.messages[-1]) == 59_000)
        # A broker that takes less than before is found out all the same.
        weak.set()
        publisher.set_state(topic, bytes(58_000))
        publisher.send_alert(alert(0, "edgebird/weak/c/visit"))
        eventually(lambda: broker.messages[-1] == b"0")
        assert 3 < lost.count(58_000) < 10
        # Not for long, as it may be the network after all.
        weak.clear()
        monkeypatch.setattr(publisher_module, "_GIVEN_UP_TAKEN_S", 0.0)
        publisher.set_state(topic, bytes(58_500))
        eventually(lambda: len(broker.messages[-1]) == 58_500)
        publisher.close()


@pytest.mark.parametrize(("drops", "given_up"), [(4, False), (6, True)])
def test_a_state_that_nearly_all_brokers_take_is_given_up_after_more_times(
    drops: int, given_up: bool
) -> None:
    topic, status = "homeassistant/device/once/config", "edgebird/once/status"
    sent: list[str] = []

    def answer(name: str, payload: bytes) -> int | None:
        sent.append(name)
        return None if name == topic and sent.count(topic) <= drops else 0

    with closing(ScriptedBroker(answer)) as broker:
        publisher = publisher_of(broker.address, Outbox(None), "once")
        publisher.start()
        publisher.set_state(status, "online")
        for number in range(1, drops + 1):
            # as after each reconnect, when it is compared with what the broker keeps
            eventually(lambda wanted=number: sent.count(status) == wanted)
            publisher.set_state(topic, bytes(6_000), once=True)
            eventually(lambda wanted=number: sent.count(topic) == wanted)
        eventually(lambda: sent.count(status) == drops + 1)
        publisher.set_state(topic, bytes(6_000), once=True)
        publisher.set_state("edgebird/once/c/count", "0")
        eventually(lambda: sent[-1] == "edgebird/once/c/count")
        assert sent.count(topic) == (drops if given_up else drops + 1)
        publisher.close()


def test_an_alert_that_is_refused_for_a_while_comes_again_and_its_end_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher_module, "_REFUSED_S", 1.0)
    topic = "edgebird/quota/c/visit"
    codes = [0x97]  # quota exceeded, once

    with closing(ScriptedBroker(lambda *message: codes.pop() if codes else 0)) as broker:
        publisher = publisher_of(broker.address, Outbox(None), "quota")
        publisher.start()
        publisher.send_alert(alert(0, topic))
        eventually(lambda: "refuses messages of ours: Quota exceeded" in caplog.text)
        publisher.send_alert(Alert("visit0", topic, b"its end", time.time()))
        publisher.send_alert(alert(1, topic))
        eventually(lambda: len(broker.messages) == 2)
        eventually(lambda: publisher.outbox_state.waiting == 2)
        eventually(lambda: len(broker.messages) == 4)
        assert broker.messages == [b"0", b"1", b"0", b"its end"]
        eventually(lambda: publisher.outbox_state.waiting == 0)
        assert publisher.outbox_state.dropped == 0
        publisher.close()


def test_alerts_that_access_rules_forbid_count_as_dropped(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    broker = new_mosquitto(f"allow_anonymous true\nacl_file {rules}")
    broker.start()
    publisher = publisher_of(replace(broker.address, version="5"), Outbox(None), "forbidden")
    publisher.start()
    for number in range(3):
        publisher.send_alert(alert(number, "edgebird/forbidden/c/visit"))
    eventually(lambda: publisher.outbox_state.dropped == 3)
    assert publisher.outbox_state.waiting == 0
    publisher.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "refuses messages of ours: Not authorized" in line


def test_alerts_go_on_when_the_outbox_leaves_its_disk_and_comes_back(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_DISK_S", 0.0)
    path = tmp_path / "o.sqlite"
    sent = 0

    with subscriber(mosquitto.address, "leaves") as client:
        outbox = Outbox(path)
        publisher = publisher_of(mosquitto.address, outbox, "leaves")
        publisher.start()

        def send(count: int, storage: str) -> None:
            nonlocal sent
            for number in range(sent, sent + count):
                publisher.send_alert(alert(number, "edgebird/leaves/c/visit"))
            sent += count
            eventually(lambda: len(client.values("visit")) == sent)
            eventually(lambda: publisher.outbox_state.waiting == 0)
            eventually(lambda: publisher.outbox_state.storage == storage)

        send(5, "disk")
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            send(3, "memory")
            other.rollback()
        eventually(lambda: publisher.outbox_state.storage == "disk")
        send(3, "disk")
        publisher.close()
        assert client.values("visit") == [str(number) for number in range(sent)]


def test_alerts_that_come_back_with_a_disk_are_delivered(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_DISK_S", 0.0)
    path = tmp_path / "o.sqlite"
    topic = "edgebird/back/c/visit"
    with closing(Outbox(path)) as outbox:
        outbox.add([alert(number, topic) for number in range(3)], durable=True)
    path.rename(tmp_path / "away")
    path.mkdir()  # as a disk that cannot even be read at the start
    with subscriber(mosquitto.address, "back") as client:
        publisher = publisher_of(mosquitto.address, Outbox(path), "back")
        publisher.start()
        publisher.send_alert(alert(3, topic))
        eventually(lambda: client.values("visit") == ["3"])
        path.rmdir()
        (tmp_path / "away").rename(path)
        eventually(lambda: client.values("visit") == ["3", "0", "1", "2"])
        publisher.send_alert(alert(4, topic))
        eventually(lambda: client.values("visit") == ["3", "0", "1", "2", "4"])
        eventually(lambda: publisher.outbox_state.waiting == 0)
        publisher.close()


def test_alerts_reach_the_disk_itself_while_the_broker_is_away(
    new_mosquitto: Callable[..., Mosquitto],
) -> None:
    asked: list[bool] = []

    class NotingOutbox(Outbox):
        def add(self, alerts: Sequence[Alert], *, durable: bool) -> None:
            asked.append(durable)
            super().add(alerts, durable=durable)

    broker = new_mosquitto()
    publisher = publisher_of(broker.address, NotingOutbox(None), "durable")
    publisher.start()
    publisher.send_alert(alert(0, "edgebird/durable/c/visit"))
    eventually(lambda: asked == [True])
    broker.start()
    eventually(lambda: publisher._connection.connected)
    publisher.send_alert(alert(1, "edgebird/durable/c/visit"))
    eventually(lambda: asked == [True, False])
    publisher.close()


def test_alerts_that_a_hanging_disk_holds_up_are_told_of(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = threading.Event()
    add = Outbox.add

    def hang(outbox: Outbox, alerts: Sequence[Alert], *, durable: bool) -> None:
        goes_on.wait(5)
        add(outbox, alerts, durable=durable)

    monkeypatch.setattr(Outbox, "add", hang)
    monkeypatch.setattr(publisher_module, "_HANGS_S", 0.7)
    for longest in ("_DRAIN_S", "_OFFLINE_S"):
        monkeypatch.setattr(publisher_module, longest, 0.1)
    disk = DiskUse()
    sink = MqttSink(
        mosquitto.address,
        device="frozen",
        camera="c",
        model_sha256="x",
        controls=Controls(0.5),
        disk=disk,
    )

    def problem() -> str | None:
        sink.emit(Health(camera="c", utc_s=START_UTC_S))
        return disk.problem

    sink.emit(visit_changed(0))
    eventually(lambda: "nothing goes out over MQTT" in str(problem()))
    goes_on.set()
    eventually(lambda: disk.problem is None)
    eventually(lambda: sink._publisher.outbox_state.waiting == 0)
    goes_on.clear()
    for number in (1, 2):
        sink.emit(visit_changed(number))
    sink.close()
    goes_on.set()
    told = [message for message in caplog.messages if "may be lost" in message]
    assert told == [
        "the disk of the outbox hangs; alerts that it has not taken, and that may be lost: 2"
    ]


def test_close_is_bounded_when_the_broker_hangs_and_still_says_offline(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    broker = new_mosquitto()
    broker.start()
    with subscriber(broker.address, "hang") as client:
        sink = new_sink(broker.address, "hang")
        eventually(lambda: client.values("count") == ["0"])
        eventually(lambda: client.values("hang/status") == ["online"])
        broker.freeze()
        for number in range(3):
            sink.emit(visit_changed(number))
        started_s = time.monotonic()
        sink.close()
        assert time.monotonic() - started_s < 6
        message = f"alerts that could not be delivered to the MQTT broker at {broker.address}: 3"
        assert caplog.records[-1].getMessage() == message
        broker.thaw()
        eventually(lambda: client.values("feeder-0/status")[-1] == "offline")
        eventually(lambda: client.values("hang/status")[-1] == "offline")


def test_close_does_not_wait_when_nothing_is_pending(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for longest in ("_DRAIN_S", "_OFFLINE_S"):
        monkeypatch.setattr(publisher_module, longest, 20.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (mosquitto.address, BrokerAddress("127.0.0.1", port)):
        sink = new_sink(address, "quick")
        started_s = time.monotonic()
        sink.close()
        assert time.monotonic() - started_s < 6
