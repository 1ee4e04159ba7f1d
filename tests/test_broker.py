"""The embedded broker, with our own sink and subscriber as its clients."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually

from edgebird.controls import Controls
from edgebird.demo import run_demo
from edgebird.errors import BrokerError
from edgebird.mqtt.address import parse_broker_url
from edgebird.mqtt.broker import EmbeddedBroker
from edgebird.mqtt.payloads import VisitPayload
from edgebird.mqtt.watch import watch
from edgebird.sinks.mqtt import MqttSink
from edgebird.structures import Visit, VisitChanged

pytestmark = [
    # of a library under the oldest supported amqtt
    pytest.mark.filterwarnings("ignore:'crypt' is deprecated:DeprecationWarning"),
    # amqtt leaves a client's stream, its transport and socket to the garbage collector when it
    # stops at the same moment
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*(StreamWriter|_SelectorTransport|socket.socket)"
        ":pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def streams_collected() -> Iterator[None]:
    """What amqtt has left is collected here, and not while another file's test runs."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def start_of_visit(number: int) -> VisitChanged:
    box = (64.0, 48.0, 128.0, 96.0)
    return VisitChanged(
        "start", Visit(f"visit{number}", "demo", 1.7e9, 0.0, None, 1, 0.9, box, (640, 480))
    )


def test_alerts_go_through_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    alerts: list[VisitPayload] = []
    ready, stop = threading.Event(), threading.Event()

    def receive(alert: VisitPayload) -> None:
        alerts.append(alert)
        if len(alerts) == 5:
            stop.set()

    with EmbeddedBroker() as broker:
        address = parse_broker_url(broker.url)
        assert address.host == "127.0.0.1"
        arguments = {"on_alert": receive, "stop": stop, "on_ready": ready.set}
        watcher = threading.Thread(target=watch, args=(address,), kwargs=arguments)
        watcher.start()
        assert ready.wait(20)
        sink = MqttSink(
            address, device="demo", camera="demo", model_sha256="x", controls=Controls(0.5)
        )
        for number in range(5):
            sink.emit(start_of_visit(number))
        watcher.join(20)
        sink.close()
    assert [alert.visit for alert in alerts] == [f"visit{number}" for number in range(5)]
    assert capfd.readouterr() == ("", "")


def test_two_can_run_and_stop_while_a_client_is_connected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "edgebird")
    with EmbeddedBroker() as first, EmbeddedBroker() as second:
        assert first.url != second.url
        sink = MqttSink(
            parse_broker_url(first.url),
            device="demo",
            camera="c",
            model_sha256="x",
            controls=Controls(0.5),
        )
        eventually(lambda: caplog.text.count("connected to MQTT") == 2)  # it has two connections
    sink.close()


def test_a_process_with_a_broker_ends_without_a_word() -> None:
    code = "from edgebird.mqtt.broker import EmbeddedBroker as B\nwith B() as b: print(b.url)"
    options = ["-W", "error", "-W", "ignore:'crypt' is deprecated"]
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("mqtt://127.0.0.1:")
    assert done.stderr == ""


def test_without_amqtt_it_says_what_to_do() -> None:
    code = """
import sys
sys.modules["amqtt"] = None  # as if it were not installed
from edgebird.errors import BrokerError
from edgebird.mqtt.broker import EmbeddedBroker
try:
    EmbeddedBroker().__enter__()
except BrokerError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    message = (
        "the demo needs a broker of its own: use `make run` in the project's folder, or "
        "`edgebird detect --source demo:`\n"
    )
    assert (done.stdout, done.stderr) == (message, "")


def test_a_demo_that_is_stopped_at_its_start_leaves_no_subscriber(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(message: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.echo", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(5, 0, tmp_path)
    assert "subscriber" not in {thread.name for thread in threading.enumerate()}


def test_an_error_inside_leaves_the_block() -> None:
    with pytest.raises(BrokerError, match="ours"), EmbeddedBroker():
        raise BrokerError("ours")
