"""What Home Assistant makes of us: its form always, and a real one where it is installed."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import Mosquitto, eventually
from hypothesis import given
from hypothesis import strategies as st
from test_mqtt import visit_changed
from test_mqtt_delivery import frame_processed, retained

from edgebird.claims import claim
from edgebird.config import Config
from edgebird.controls import Controls
from edgebird.errors import UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.client import Client
from edgebird.mqtt.device import camera_at
from edgebird.mqtt.discovery import discovery_payload, with_removals
from edgebird.mqtt.forget import ServedHereError, forget_camera
from edgebird.mqtt.topics import Topics, device_status
from edgebird.sinks import mqtt as sink_module
from edgebird.sinks.mqtt import MqttSink
from edgebird.structures import Frame, Health, SnapshotTaken, TrackState, VisitChanged

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-homeassistant" / "bin" / "python"
BLUEPRINT = ROOT / "deploy" / "homeassistant" / "bird_visit.yaml"
TOPICS = Topics("garden", "feeder-0")
PAYLOAD = discovery_payload(TOPICS, version="1.2.3")

# --- the form -------------------------------------------------------------------------------------

# What its schemas of version 2026.2 ask for and allow, for the platforms that we use.
COMMON = {"platform", "name", "unique_id", "default_entity_id", "icon", "entity_category"}
COMMON |= {"availability", "json_attributes_topic", "json_attributes_template"}
STATE = {"state_topic", "value_template", "device_class", "expire_after"}
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "binary_sensor": ({"state_topic"}, {*STATE, "payload_on", "payload_off"}),
    "sensor": ({"state_topic"}, {*STATE, "state_class", "unit_of_measurement"}),
    "event": ({"event_types", "state_topic"}, {"event_types", "state_topic", "qos"}),
    "image": ({"image_topic"}, {"image_topic", "content_type"}),
    "switch": ({"command_topic"}, {"command_topic", "state_topic"}),
    "number": ({"command_topic"}, {"command_topic", "state_topic", "min", "max", "step", "mode"}),
    "button": ({"command_topic"}, {"command_topic", "payload_press"}),
}


def test_a_camera_is_told_of_in_the_form_that_home_assistant_knows() -> None:
    assert PAYLOAD.keys() == {"device", "origin", "components"}
    assert PAYLOAD["origin"] == {"name": "edgebird", "sw_version": "1.2.3"}
    assert PAYLOAD["device"]["identifiers"] == ["edgebird/garden/feeder-0"]
    for component in PAYLOAD["components"].values():
        needed, allowed = KEYS[component["platform"]]
        assert needed <= component.keys() <= allowed | COMMON
        assert component["default_entity_id"].startswith(f"{component['platform']}.edgebird_")
        topics = [value for key, value in component.items() if key.endswith("_topic")]
        assert all(topic.startswith(f"{TOPICS.base}/") for topic in topics)
    for key in ("unique_id", "default_entity_id", "name"):
        values = [component[key] for component in PAYLOAD["components"].values()]
        assert len(set(values)) == len(values)


def test_a_fault_shows_when_the_camera_or_all_of_us_is_gone() -> None:
    fault = PAYLOAD["components"]["fault"]
    assert "availability" not in fault
    assert (fault["state_topic"], fault["payload_on"]) == (TOPICS.status, "offline")


def test_two_cameras_share_nothing_that_they_could_fight_over() -> None:
    other = Topics("garden", "feeder-1")
    assert TOPICS.discovery("homeassistant") != other.discovery("homeassistant")
    ids = [
        {component["unique_id"] for component in payload["components"].values()}
        for payload in (PAYLOAD, discovery_payload(other, version="1.2.3"))
    ]
    assert not ids[0] & ids[1]


def test_what_is_no_longer_there_is_removed() -> None:
    before = json.loads(json.dumps(PAYLOAD))
    before["components"]["old"] = {"platform": "sensor", "unique_id": "x"}
    before["components"]["count"]["platform"] = "number"
    before["components"]["gone before"] = {"platform": "sensor"}
    merged = with_removals(PAYLOAD, json.dumps(before).encode())["components"]
    assert merged["old"] == {"platform": "sensor"}
    assert "gone before" not in merged
    assert merged["count"] == {"platform": "number"}  # it comes again with the next message
    assert merged["bird"] == PAYLOAD["components"]["bird"]


def test_a_message_that_is_nested_without_end_is_none() -> None:
    assert with_removals(PAYLOAD, b'{"components": ' + b'{"a": ' * 200_000) == PAYLOAD


@pytest.mark.parametrize("threshold", [1e-6, 0.99, 0.9999])
def test_each_threshold_that_can_be_set_can_be_shown(threshold: float) -> None:
    config = msgspec.convert({"detector": {"threshold": threshold}}, Config)
    number = PAYLOAD["components"]["threshold"]
    assert number["min"] <= float(f"{config.detector.threshold:.3g}") <= number["max"]


@given(st.none() | st.binary() | st.from_regex(r'\{"components": ?.*\}').map(str.encode))
def test_any_earlier_message_is_survived(before: bytes | None) -> None:
    assert with_removals(PAYLOAD, before)["components"].keys() >= PAYLOAD["components"].keys()


def test_the_dashboard_and_the_blueprint_name_only_what_there_is() -> None:
    names = {c["default_entity_id"] for c in _payload("garden", "feeder")["components"].values()}
    yaml = pytest.importorskip("yaml")
    dashboard = (ROOT / "deploy" / "homeassistant" / "dashboard.yaml").read_text()
    used = {word.strip(",'\"") for word in dashboard.replace("(", " ").split() if "." in word}
    used = {word for word in used if "edgebird_garden" in word}
    assert used
    assert used <= names
    # the raw configuration editor takes a dashboard, which is a list of views
    (view,) = yaml.safe_load(dashboard)["views"]
    assert view["cards"]


def _payload(device: str, camera: str) -> dict[str, Any]:
    return discovery_payload(Topics(device, camera), version="1")


# --- through a broker -----------------------------------------------------------------------------


def hub_topics(address: BrokerAddress, device: str) -> dict[str, bytes]:
    """What Home Assistant would find about a device."""
    output = subprocess.run(
        ["mosquitto_sub", "-h", address.host, "-p", str(address.port), "-W", "1"]
        + ["-t", f"homeassistant/device/edgebird-{device}/#", "-F", "%t %p"],
        capture_output=True,
        check=False,
    ).stdout
    return {line.split(b" ", 1)[0].decode(): line.split(b" ", 1)[1] for line in output.splitlines()}


def publish(address: BrokerAddress, topic: str, payload: bytes) -> None:
    command = ["mosquitto_pub", "-h", address.host, "-p", str(address.port), "-r", "-q", "1"]
    subprocess.run([*command, "-t", topic, "-s" if payload else "-n"], input=payload, check=True)


def test_after_an_upgrade_no_ghost_is_left(mosquitto: Mosquitto) -> None:
    topic = Topics("upgrade", "feeder-0").discovery("homeassistant")
    old = _payload("upgrade", "feeder-0")
    old["components"]["old"] = {"platform": "sensor", "unique_id": "x", "state_topic": "y"}
    publish(mosquitto.address, topic, json.dumps(old).encode())
    watcher = subprocess.Popen(
        ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(mosquitto.address.port), "-t", topic],
        stdout=subprocess.PIPE,
    )
    assert watcher.stdout is not None
    with watcher.stdout as lines:
        lines.readline()
        sink = MqttSink(
            mosquitto.address,
            device="upgrade",
            camera="feeder-0",
            model_sha256="x",
            controls=Controls(0.5),
        )
        with closing(sink):
            first, second = (json.loads(lines.readline())["components"] for _ in "12")
        watcher.kill()
    watcher.wait()
    assert first["old"] == {"platform": "sensor"}
    assert "old" not in second
    assert second.keys() == PAYLOAD["components"].keys()


def test_it_is_told_once_and_taken_back_when_it_is_not_wanted(mosquitto: Mosquitto) -> None:
    def told() -> dict[str, bytes]:
        return hub_topics(mosquitto.address, "once")

    def sink(discovery: bool = True) -> MqttSink:
        return MqttSink(
            mosquitto.address,
            device="once",
            camera="c",
            model_sha256="x",
            controls=Controls(0.5),
            discovery=discovery,
        )

    with closing(sink()):
        eventually(told)
    assert list(told()) == ["homeassistant/device/edgebird-once/c/config"]
    published = re.compile(r"Received PUBLISH from edgebird\.once\.c .*/c/config'")
    assert len(published.findall(mosquitto.log())) == 1
    with closing(sink()):
        time.sleep(2.5)
    assert len(published.findall(mosquitto.log())) == 1
    with closing(sink(discovery=False)):
        eventually(lambda: not told())


def test_a_renamed_camera_takes_its_past_along(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sink(camera: str) -> MqttSink:
        return MqttSink(
            mosquitto.address,
            device="renamed",
            camera=camera,
            model_sha256="x",
            state=tmp_path,
            source="/dev/video0",
            controls=Controls(0.5),
        )

    with closing(sink("old")) as first:
        first.emit(visit_changed(0))
        eventually(lambda: hub_topics(mosquitto.address, "renamed"))
    with closing(sink("new")):
        expected = ["homeassistant/device/edgebird-renamed/new/config"]
        eventually(lambda: list(hub_topics(mosquitto.address, "renamed")) == expected)
    left = retained(mosquitto.address, "renamed")
    assert not [topic for topic in left if topic.startswith("old/")]
    assert left["new/visits_today"] == "1"
    assert "edgebird/renamed/old is now edgebird/renamed/new" in caplog.text


def settled() -> bool:
    """Whether all former names have been dealt with."""
    return not any(thread.name == "former name" for thread in threading.enumerate())


def sink_of(address: BrokerAddress, device: str, camera: str, state: Path) -> MqttSink:
    return MqttSink(
        address,
        device=device,
        camera=camera,
        model_sha256="x",
        controls=Controls(0.5),
        state=state,
        source=str(state),
    )


def test_cameras_that_swap_their_names_are_both_there(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = new_mosquitto()
    broker.start()

    def all_there() -> bool:
        topics = {name for name in ("front", "back") if f"{name}/count" in states()}
        hub = hub_topics(broker.address, "swap")
        return len(topics) == 2 and len([payload for payload in hub.values() if payload]) == 2

    def states() -> dict[str, str]:
        return retained(broker.address, "swap")

    for names in (("front", "back"), ("back", "front")):
        with (
            closing(sink_of(broker.address, "swap", names[0], tmp_path / "one")),
            closing(sink_of(broker.address, "swap", names[1], tmp_path / "two")),
        ):
            eventually(all_there)
            eventually(settled)
            assert all_there()
            broker.stop()
            broker.start()
            eventually(lambda: caplog.text.count("is back") == 2)
            eventually(all_there)
            time.sleep(1.0)
            assert all_there()
        caplog.clear()


def test_a_former_name_is_cleared_later_when_the_broker_is_away(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = new_mosquitto()
    broker.start()
    with closing(sink_of(broker.address, "later", "old", tmp_path)):
        eventually(lambda: hub_topics(broker.address, "later"))
    broker.stop()
    sink_of(broker.address, "later", "new", tmp_path).close()
    broker.start()
    with closing(sink_of(broker.address, "later", "new", tmp_path)):
        expected = ["homeassistant/device/edgebird-later/new/config"]
        eventually(lambda: list(hub_topics(broker.address, "later")) == expected)
        eventually(settled)
    # That was once: now the name is another's, even if that has just no frames.
    with closing(sink_of(broker.address, "later", "old", tmp_path / "other")):
        eventually(lambda: len(hub_topics(broker.address, "later")) == 2)
    with closing(sink_of(broker.address, "later", "new", tmp_path)):
        time.sleep(2.0)
        assert len(hub_topics(broker.address, "later")) == 2
        assert retained(broker.address, "later")["old/count"] == "0"


def test_a_former_name_that_is_online_elsewhere_is_left_alone(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sink_of(mosquitto.address, "elsewhere", "old", tmp_path)):
        eventually(lambda: "old/count" in retained(mosquitto.address, "elsewhere"))
    publish(mosquitto.address, "edgebird/elsewhere/old/status", b"online")
    with closing(sink_of(mosquitto.address, "elsewhere", "new", tmp_path)):
        eventually(settled)
    assert retained(mosquitto.address, "elsewhere")["old/count"] == "0"
    assert "the topics edgebird/elsewhere/old stay" in caplog.text


def test_what_comes_to_an_end_neither_tells_nor_takes_back(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_RETAINED_S", 0.1)

    def sink(camera: str) -> MqttSink:
        return MqttSink(
            mosquitto.address,
            device="ends",
            camera=camera,
            model_sha256="x",
            controls=Controls(0.5),
            discovery=None,
        )

    told = Topics("ends", "before").discovery("homeassistant")
    publish(mosquitto.address, told, b"{}")
    with closing(sink("before")), closing(sink("video")):
        counts = {"before/count", "video/count"}
        eventually(lambda: counts <= retained(mosquitto.address, "ends").keys())
        time.sleep(0.7)
    assert hub_topics(mosquitto.address, "ends") == {told: b"{}"}
    publish(mosquitto.address, told, b"")  # a real Home Assistant would complain of it


# --- forgetting a camera --------------------------------------------------------------------------


def test_a_camera_that_went_down_with_its_broker_can_be_forgotten(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topics = Topics("stale", "c")
    for topic in (topics.status, device_status("stale")):
        publish(mosquitto.address, topic, b"online")
    publish(mosquitto.address, topics.count, b"1")
    cleared = forget_camera(mosquitto.address, topics, "homeassistant", silent_s=0.3)
    assert cleared == [topics.count, topics.status, device_status("stale")]
    assert retained(mosquitto.address, "stale") == {}
    assert "keeps edgebird/stale/c as online: waiting up to 0.3 s" in caplog.text


def test_a_camera_that_is_heard_of_is_not_forgotten(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_STATUS_EVERY_S", 0.2)
    # as if from another machine, where no name is claimed
    elsewhere = replace(mosquitto.address, host="localhost")
    sink = MqttSink(
        mosquitto.address, device="heard", camera="c", model_sha256="x", controls=Controls(0.5)
    )
    with closing(sink):
        sink.emit(frame_processed([]))
        eventually(lambda: retained(mosquitto.address, "heard").get("c/status") == "online")
        with pytest.raises(UsageError, match="is online: stop its edgebird first"):
            forget_camera(elsewhere, Topics("heard", "c"), "homeassistant")
        with pytest.raises(ServedHereError, match="online on this machine"):
            forget_camera(mosquitto.address, Topics("heard", "c"), "homeassistant")
        assert "c/count" in retained(mosquitto.address, "heard")


def test_a_camera_may_be_started_while_it_is_listened_for(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sink_module, "_CLAIM_S", 0.1)
    caplog.set_level(logging.INFO)
    topics = Topics("started", "c")
    publish(mosquitto.address, topics.status, b"online")
    with ThreadPoolExecutor(1) as pool:
        forgotten = pool.submit(
            forget_camera, mosquitto.address, topics, "homeassistant", silent_s=1.0
        )
        eventually(lambda: "keeps edgebird/started/c as online" in caplog.text)
        sink = MqttSink(
            mosquitto.address,
            device="started",
            camera="c",
            model_sha256="x",
            controls=Controls(0.5),
        )
        with closing(sink):
            with pytest.raises(UsageError, match="is online"):
                forgotten.result(20)
            eventually(lambda: "c/count" in retained(mosquitto.address, "started"))


def test_a_camera_is_not_cleared_while_another_process_has_its_name(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topics = Topics("silent", "c")
    publish(mosquitto.address, topics.status, b"online")
    with ThreadPoolExecutor(1) as pool:
        forgotten = pool.submit(
            forget_camera, mosquitto.address, topics, "homeassistant", silent_s=0.5
        )
        eventually(lambda: "keeps edgebird/silent/c as online" in caplog.text)
        holder = claim(camera_at(mosquitto.address, topics))
        assert holder is not None
        with holder, pytest.raises(ServedHereError, match="online on this machine"):
            forgotten.result(20)
    assert retained(mosquitto.address, "silent") == {"c/status": "online"}


def test_the_status_of_a_device_goes_with_its_last_camera(mosquitto: Mosquitto) -> None:
    one, two = Topics("last", "one"), Topics("last", "two")
    for topic in (one.status, two.status, device_status("last")):
        publish(mosquitto.address, topic, b"offline")
    assert forget_camera(mosquitto.address, one, "homeassistant") == [one.status]
    assert retained(mosquitto.address, "last").keys() == {"two/status", "status"}
    both = [device_status("last"), two.status]
    assert forget_camera(mosquitto.address, two, "homeassistant") == both


def test_home_assistant_is_the_first_to_learn_that_a_camera_is_gone(mosquitto: Mosquitto) -> None:
    topics = Topics("leaves", "c")
    discovery = topics.discovery("homeassistant")
    with Client(mosquitto.address) as watcher:
        for topic in [*(topics.value(f"value{number}") for number in range(20)), discovery]:
            watcher.publish(topic, b"x", retain=True)
        watcher.subscribe(discovery, f"{topics.base}/#")
        cleared = forget_camera(mosquitto.address, topics, "homeassistant")
        empty: list[str] = []
        while len(empty) < len(cleared) and (message := watcher.message(20)) is not None:
            empty += [message.topic] * (not message.payload)
    assert empty[0] == discovery
    assert sorted(empty) == cleared


# --- a real Home Assistant ------------------------------------------------------------------------


class HomeAssistant:
    """One that runs beside us, connected to a broker."""

    def __init__(self, address: BrokerAddress) -> None:
        self._process = subprocess.Popen(
            [PYTHON, Path(__file__).parent / "homeassistant_probe.py", str(address.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def states(self) -> dict[str, str]:
        entities = self.ask("dump")["entities"]
        return {
            name.replace("edgebird_hub_feeder_", ""): e["state"] for name, e in entities.items()
        }

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture
def hub(mosquitto: Mosquitto) -> Iterator[HomeAssistant]:
    if not PYTHON.exists():
        pytest.skip("no Home Assistant here: make homeassistant installs one")
    hub = HomeAssistant(mosquitto.address)
    hub.ask("dump")  # waits until it has started
    yield hub
    hub.close()


def test_a_real_home_assistant_shows_the_feeder_and_steers_it(
    mosquitto: Mosquitto, hub: HomeAssistant
) -> None:
    controls = Controls(0.5)
    image = np.full((48, 64, 3), 200, np.uint8)
    sink = MqttSink(
        mosquitto.address, device="hub", camera="feeder", model_sha256="x", controls=controls
    )
    with closing(sink):
        sink.emit(Health(camera="feeder", utc_s=time.time(), inference_ms=6.24, temperature_c=51.0))
        eventually(lambda: hub.states().get("sensor.temperature") == "51.0", 30)
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        event = visit_changed(0)
        sink.emit(VisitChanged("start", event.visit, image))
        eventually(lambda: hub.states()["event.visit"] != "unknown")
        told = hub.ask("dump")
        assert told["complaints"] == []
        assert "edgebird hub feeder" in [device["name"] for device in told["devices"]]
        names = [name.partition("edgebird_hub_feeder_")[2] for name in told["entities"]]
        assert {*names} - {""} == PAYLOAD["components"].keys()
        states = hub.states()
        assert states["binary_sensor.bird"] == "on"
        assert states["binary_sensor.fault"] == "off"
        assert states["sensor.count"] == "1"
        assert states["sensor.visits_today"] == "1"
        assert states["sensor.inference"] == "6.24"
        assert states["switch.enabled"] == "on"
        assert states["number.threshold"] == "0.5"
        visit = told["entities"]["event.edgebird_hub_feeder_visit"]["attributes"]
        assert (visit["event_type"], visit["visit"], visit["score"]) == ("start", "visit0", 0.912)
        picture = hub.ask("image", entity="image.edgebird_hub_feeder_best")
        assert picture["begin"] == "ffd8ff"
        assert picture["type"] == "image/jpeg"

        entity = {"entity_id": "switch.edgebird_hub_feeder_enabled"}
        hub.ask("call", domain="switch", service="turn_off", data=entity)
        threshold = {"entity_id": "number.edgebird_hub_feeder_threshold", "value": 0.35}
        hub.ask("call", domain="number", service="set_value", data=threshold)
        button = {"entity_id": "button.edgebird_hub_feeder_snapshot"}
        hub.ask("call", domain="button", service="press", data=button)
        eventually(controls.take_snapshot)
        eventually(lambda: (controls.enabled, controls.threshold) == (False, 0.35))
        eventually(lambda: hub.states()["switch.enabled"] == "off")
        eventually(lambda: hub.states()["number.threshold"] == "0.35")
        sink.emit(SnapshotTaken("feeder", Frame(image, 0, 0.0, time.time(), "c")))
        name = "image.edgebird_hub_feeder_snapshot_picture"
        eventually(lambda: hub.ask("image", entity=name)["begin"] == "ffd8ff")

        sink.emit(Health(camera="feeder", utc_s=time.time(), faults=("lost",)))
        eventually(lambda: hub.states()["binary_sensor.fault"] == "on")
        assert hub.states()["binary_sensor.bird"] == "unavailable"
    # Off at all: the fault shows, what was seen last stays.
    eventually(lambda: hub.states()["sensor.count"] == "unavailable")
    assert hub.states()["binary_sensor.fault"] == "on"
    assert hub.states()["sensor.visits_today"] == "1"
    publish(mosquitto.address, Topics("hub", "feeder").discovery("homeassistant"), b"")
    eventually(lambda: "sensor.count" not in hub.states())


def test_the_blueprint_tells_the_first_visit_and_no_old_one_when_a_camera_comes_back(
    mosquitto: Mosquitto, hub: HomeAssistant
) -> None:
    visit = "event.edgebird_hub_again_visit"
    inputs = {
        "visit": visit,
        "best_shot": "image.edgebird_hub_again_best",
        "device": "0123456789abcdef",
        "cool_down": {"seconds": 0},
    }

    def state(entity: str) -> str | None:
        entities = hub.ask("dump")["entities"]
        return entities[entity]["state"] if entity in entities else None

    def told() -> int:
        return len(hub.ask("told")["told"])

    def camera() -> MqttSink:
        return MqttSink(
            mosquitto.address,
            device="hub",
            camera="again",
            model_sha256="x",
            controls=Controls(0.5),
        )

    def wait_until_shown(sink: MqttSink) -> None:
        sink.emit(frame_processed([]))
        eventually(lambda: state("sensor.edgebird_hub_again_count") == "0", 30)

    made = hub.ask("automate", path=str(BLUEPRINT), inputs=inputs)
    assert (made["done"], made["states"]) == (True, ["on"])
    with closing(camera()) as sink:
        wait_until_shown(sink)
        assert state(visit) == "unknown"
        sink.emit(Health(camera="again", utc_s=time.time(), temperature_c=51.0))
        sink.emit(VisitChanged("start", visit_changed(0).visit))
        eventually(lambda: told() == 1)
        first = state(visit)
    forget_camera(mosquitto.address, Topics("hub", "again"), "homeassistant")
    eventually(lambda: state(visit) is None)
    with closing(camera()) as sink:
        wait_until_shown(sink)
        assert state(visit) == first
        assert told() == 1
        sink.emit(VisitChanged("start", visit_changed(1).visit))
        eventually(lambda: told() == 2)
    assert hub.ask("dump")["complaints"] == []


def test_the_blueprint_notifies_once_and_then_pauses(
    mosquitto: Mosquitto, hub: HomeAssistant
) -> None:
    sink = MqttSink(
        mosquitto.address, device="hub", camera="feeder", model_sha256="x", controls=Controls(0.5)
    )
    with closing(sink):
        sink.emit(frame_processed([]))
        eventually(lambda: hub.states().get("event.visit"), 30)
        inputs = {
            "visit": "event.edgebird_hub_feeder_visit",
            "best_shot": "image.edgebird_hub_feeder_best",
            "device": "0123456789abcdef",
            "cool_down": {"seconds": 2},
        }
        made = hub.ask("automate", path=str(BLUEPRINT), inputs=inputs)
        assert (made["done"], made["states"]) == (True, ["on"])

        def told() -> list[dict[str, str]]:
            messages: list[dict[str, str]] = hub.ask("told")["told"]
            return messages

        def bird_comes() -> bool:
            # Those that come before it has subscribed are not for it.
            sink.emit(VisitChanged("start", visit_changed(0).visit))
            sink.emit(visit_changed(0, "end"))
            return bool(told())

        eventually(bird_comes)
        bird_comes()
        time.sleep(1)
        assert [message["message"].strip() for message in told()] == ["It has just come."]
        assert told()[0]["image"].startswith("/api/image_proxy/image.edgebird_hub_feeder_best")
        time.sleep(2)
        bird_comes()
        eventually(lambda: len(told()) == 2)
    assert hub.ask("dump")["complaints"] == []
