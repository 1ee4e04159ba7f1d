"""Receiving alerts from a real broker."""

from __future__ import annotations

import json
import logging
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from conftest import Mosquitto, eventually
from msgspec import structs
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from test_cli import running, wait_until_ready

from edgebird.errors import BrokerError, UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.alert_command import AlertCommand
from edgebird.mqtt.payloads import BoxPayload, VisitPayload, encode
from edgebird.mqtt.watch import POLL_S, format_alert, watch

BOX = BoxPayload((64.0, 48.0, 128.0, 96.0), (0.1, 0.1, 0.2, 0.2))
START = VisitPayload(
    event_type="start",
    visit="visit0",
    device="garden",
    camera="camera0",
    started="2025-03-14T09:30:05.120Z",
    ended=None,
    duration_s=0.0,
    peak_count=1,
    score=0.912,
    box=BOX,
    frame_size=(640, 480),
    snapshot=None,
    model="9b" * 32,
)
END = structs.replace(
    START,
    event_type="end",
    ended="2025-03-14T09:30:47.620Z",
    duration_s=42.4,
    peak_count=2,
    score=0.951,
    snapshot="snapshots/visit0.jpg",
)


@contextmanager
def watching(address: BrokerAddress, device: str = "+") -> Iterator[list[VisitPayload]]:
    """Alerts that ``watch`` hands over on a thread of its own."""
    alerts: list[VisitPayload] = []
    ready, stop = threading.Event(), threading.Event()
    arguments = {"on_alert": alerts.append, "stop": stop, "device": device, "on_ready": ready.set}
    thread = threading.Thread(target=watch, args=(address,), kwargs=arguments)
    thread.start()
    try:
        assert ready.wait(20)
        yield alerts
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def publisher(address: BrokerAddress) -> Iterator[Client]:
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(address.host, address.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def test_alerts_arrive_and_what_is_none_is_one_line(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with watching(mosquitto.address) as alerts, publisher(mosquitto.address) as client:
        client.publish("edgebird/garden/camera0/visit", encode(START), qos=1)
        client.publish("edgebird/garden/camera0/visit", b"\xff{", qos=1)
        client.publish("edgebird/garden/camera0/visit", b'{"event_type": "\\n\\u001b[2J"}', qos=1)
        client.publish("edgebird/garden/camera0/visit", b'{"zz": ' + b"[" * 200_000, qos=1)
        client.publish("edgebird/garden/camera0/count", b"1", qos=1)
        client.publish("edgebird/other/camera0/visit", encode(END), qos=1)
        eventually(lambda: len(alerts) == 2)
    assert alerts == [START, END]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert all("edgebird/garden/camera0/visit" in line and line.isprintable() for line in lines)


def test_one_device_can_be_chosen(mosquitto: Mosquitto) -> None:
    with watching(mosquitto.address, "Garden") as alerts, publisher(mosquitto.address) as client:
        client.publish("edgebird/other/camera0/visit", encode(END), qos=1)
        client.publish("edgebird/garden/camera0/visit", encode(START), qos=1)
        eventually(lambda: alerts)
    assert alerts == [START]


def test_a_restart_of_the_broker_is_waited_out(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = new_mosquitto()
    broker.start()
    with watching(broker.address) as alerts:
        broker.stop()
        eventually(lambda: "is gone" in caplog.text)
        broker.start()
        with publisher(broker.address) as client:

            def received() -> bool:
                client.publish("edgebird/garden/camera0/visit", encode(START), qos=1)
                return bool(alerts)

            eventually(received)
    assert [record.getMessage() for record in caplog.records] == [
        f"connected to MQTT at {broker.address}",
        f"the MQTT broker at {broker.address} is gone; waiting for it",
        f"the MQTT broker at {broker.address} is back",
    ]


def watch_fails(address: BrokerAddress) -> str:
    with pytest.raises(BrokerError) as caught:
        watch(address, on_alert=lambda alert: None, stop=threading.Event())
    message = str(caught.value)
    assert str(address) in message
    assert "\n" not in message
    return message


def test_a_broker_that_is_not_there_at_the_start_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "cannot be reached (Connection refused)" in watch_fails(BrokerAddress("127.0.0.1", port))
    assert "cannot be reached" in watch_fails(BrokerAddress("no-such-host.invalid"))


def test_a_refusal_is_an_error(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "me", "right"], check=True)
    broker = new_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    address = broker.address
    wrong = BrokerAddress(address.host, address.port, "me", "secret")
    assert "refuses the connection (Not authorized)" in watch_fails(wrong)
    assert "secret" not in watch_fails(wrong)
    with watching(BrokerAddress(address.host, address.port, "me", "right")):
        pass


def test_an_error_of_the_caller_ends_the_watch(mosquitto: Mosquitto) -> None:
    def leave(alert: VisitPayload) -> None:
        raise BrokenPipeError

    def publish() -> None:
        client.publish("edgebird/pipe/camera0/visit", encode(START), qos=1)

    with publisher(mosquitto.address) as client, pytest.raises(BrokenPipeError):
        watch(
            mosquitto.address,
            on_alert=leave,
            stop=threading.Event(),
            device="pipe",
            on_ready=publish,
        )


def test_a_signal_ends_the_watch_however_long_it_takes(mosquitto: Mosquitto) -> None:
    stop = threading.Event()

    def handle(*_: object) -> None:
        if stop.is_set():
            raise TimeoutError("the first signal did not end it")
        stop.set()
        time.sleep(2 * POLL_S)  # past the end of a wait for an alert

    def start() -> None:
        signal.setitimer(signal.ITIMER_REAL, POLL_S / 2, 20)

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        watch(mosquitto.address, on_alert=lambda alert: None, stop=stop, on_ready=start)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert stop.is_set()


def test_alerts_read_well() -> None:
    start = datetime.fromisoformat(START.started).astimezone()
    end = datetime.fromisoformat("2025-03-14T09:30:47.620Z").astimezone()
    assert format_alert(START) == f"{start:%H:%M:%S}  garden/camera0  bird arrived (score 0.91)"
    assert format_alert(END) == (
        f"{end:%H:%M:%S}  garden/camera0  visit over after 42 s, up to 2 birds, "
        "best shot's score 0.95, picture snapshots/visit0.jpg"
    )
    assert re.match(r"\d\d:30:05 ", format_alert(START))


def test_an_alert_cannot_steer_the_terminal() -> None:
    line = format_alert(structs.replace(END, snapshot="a\x1b[2J\n.jpg"))
    assert line.endswith("picture a?[2J?.jpg")


def test_a_program_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    for program in ("no-such-program-here --loud", str(tmp_path), "/nowhere/program"):
        with pytest.raises(UsageError, match="--exec: there is no program") as caught:
            AlertCommand(program)
        assert shlex.split(program)[0] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_a_program_prints_is_no_alert_and_what_it_misses_is_told(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    script = f"echo heard; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    program = shlex.join(["sh", "-c", script])
    url = f"mqtt://{mosquitto.address}"
    with running(
        "watch", "--mqtt", url, "--device", "slow", "--json", "--exec", program
    ) as watcher:
        wait_until_ready(watcher)
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        with publisher(mosquitto.address) as client:
            for number in range(4):
                alert = structs.replace(START, device="slow", visit=f"visit{number}")
                client.publish("edgebird/slow/camera0/visit", encode(alert), qos=1)
            alerts = [json.loads(watcher.stdout.readline()) for _ in range(4)]
            assert watcher.stderr.readline() == "heard\n"
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(20) == 0
        (tmp_path / "go").touch()
        output, errors = watcher.communicate(timeout=30)
    assert [alert["visit"] for alert in alerts] == [f"visit{number}" for number in range(4)]
    assert output == ""
    assert errors == "the program for alerts was not run for the last 3 of them\n"
