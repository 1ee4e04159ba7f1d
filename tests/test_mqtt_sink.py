"""The MQTT contract: what a stock client receives, against the published schemas."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from conftest import Mosquitto, eventually
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from test_mqtt import MODEL_SHA256, START_UTC_S, visit_changed
from test_mqtt_delivery import Subscriber, frame_processed, retained, subscriber

from edgebird import controls as controls_module
from edgebird.annotate import jpeg_for_mqtt
from edgebird.controls import Controls
from edgebird.mqtt import device as device_module
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.outbox import Outbox
from edgebird.mqtt.payloads import SCHEMAS, parse_command, schemas
from edgebird.sinks import mqtt as sink_module
from edgebird.sinks.mqtt import MqttSink
from edgebird.structures import (
    Detections,
    Frame,
    FrameProcessed,
    Health,
    SnapshotTaken,
    Track,
    TrackState,
    VisitChanged,
)

IMAGE = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)


def new_sink(
    address: BrokerAddress, device: str, controls: Controls | None = None, state: Path | None = None
) -> MqttSink:
    return MqttSink(
        address,
        device=device,
        camera="Feeder 0",
        model_sha256=MODEL_SHA256,
        controls=controls or Controls(0.5),
        state=state,
    )


@contextmanager
def publisher(address: BrokerAddress, device: str) -> Iterator[Callable[..., None]]:
    """Publishes commands, as another client."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(address.host, address.port)
    client.loop_start()

    def command(name: str, payload: bytes | str, retain: bool = False) -> None:
        topic = f"edgebird/{device}/feeder-0/set/{name}"
        client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(20)

    yield command
    client.disconnect()
    client.loop_stop()


def latest(client: Subscriber, name: str) -> str | None:
    values = client.values(f"feeder-0/{name}")
    return values[-1] if values else None


def with_birds() -> FrameProcessed:
    box = (64.0, 72.0, 640.0, 720.0)
    track = Track(7, box, 0.9, 3, 0.0, 1.0, 0.9, TrackState.CONFIRMED)
    detections = Detections(
        np.array([box, (0.0, 0.0, 9.0, 9.0)], np.float32), np.array([0.91239, 0.4], np.float32)
    )
    frame = Frame(IMAGE, 3, 1.0, START_UTC_S, "camera")
    return FrameProcessed("Feeder 0", frame, detections, (track,), 6.04)


# --- schemas --------------------------------------------------------------------------------------


def test_the_schemas_in_the_package_are_those_of_the_code() -> None:
    shipped = {path.stem: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    assert shipped == schemas()
    for schema in shipped.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_everything_published_is_what_its_schema_says(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "schemas") as client:
        with closing(new_sink(mosquitto.address, "schemas", Controls(0.5))) as sink:
            eventually(lambda: client.values("count"))
            sink.emit(with_birds())
            sink.emit(VisitChanged("start", visit_changed(1).visit, IMAGE))
            sink.emit(visit_changed(1, "end"))
            sink.emit(Health(camera="Feeder 0", utc_s=START_UTC_S))
            eventually(lambda: client.values("health"))
            sink.emit(
                Health(
                    camera="Feeder 0",
                    utc_s=START_UTC_S,
                    fps=5.123456,
                    inference_ms=6.0,
                    frame_age_s=0.1,
                    faults=("frozen",),
                    temperature_c=-3.5,
                    last_error="the cable\nis loose",
                )
            )
            sink.emit(SnapshotTaken("Feeder 0", Frame(IMAGE, 9, 3.0, START_UTC_S, "camera")))
            eventually(lambda: client.values("feeder-0/snapshot"))
        for name, count in (("visit", 2), ("detections", 1), ("health", 2), ("snapshot", 1)):
            payloads = client.values(f"feeder-0/{name}")
            assert len(payloads) >= count, name
            for payload in payloads:
                jsonschema.validate(json.loads(payload), schemas()[name])
        documented = {"bird", "count", "visits_today", "visit", "detections", "best.jpg", "health"}
        documented |= {"status", "enabled", "threshold", "snapshot", "snapshot.jpg"}
        topics = {message.topic.split("/", 2)[2] for message in client.messages}
        assert topics == {"status", *(f"feeder-0/{name}" for name in documented)}
        not_retained = {"feeder-0/visit", "feeder-0/detections"}
        assert retained(mosquitto.address, "schemas").keys() == topics - not_retained


def test_every_topic_stands_in_the_contract() -> None:
    contract = (Path(sink_module.__file__).parents[1] / "mqtt" / "README.md").read_text()
    for name in ("status", "bird", "count", "visits_today", "visit", "detections", "best.jpg"):
        assert f"`…/<camera>/{name}`" in contract
    for name in ("health", "snapshot.jpg", "set/enabled", "set/threshold", "set/snapshot"):
        assert f"`…/<camera>/{name}`" in contract
    for key in json.loads((SCHEMAS / "health.json").read_text())["$defs"]["HealthPayload"][
        "properties"
    ]:
        assert f"`{key}`" in contract


# --- values ---------------------------------------------------------------------------------------


def test_detections_tell_where_the_birds_are_and_not_too_often(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "boxes") as client:
        with closing(new_sink(mosquitto.address, "boxes")) as sink:
            eventually(lambda: client.values("count"))
            for _ in range(20):
                sink.emit(with_birds())
            eventually(lambda: client.values("detections"))
        (payload,) = client.values("detections")
        told = json.loads(payload)
        assert (told["frame"], told["frame_size"], told["inference_ms"]) == (3, [1280, 720], 6.0)
        first, second = told["birds"]
        assert first["box"] == {"px": [64.0, 72.0, 640.0, 720.0], "fraction": [0.05, 0.1, 0.5, 1.0]}
        assert (first["score"], first["track"], second["track"]) == (0.912, 7, None)


def test_no_detections_are_told_where_none_are_wanted(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bytes] = []
    with closing(new_sink(mosquitto.address, "unwanted")) as sink:
        monkeypatch.setattr(sink._publisher, "send_now", lambda _, payload: told.append(payload))
        sink.limit_detections(0)
        sink.emit(with_birds())
        assert told == []
        sink.limit_detections(2.0)
        sink.emit(with_birds())
        assert len(told) == 1


def test_the_best_shot_is_there_before_the_alert(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "best") as client:
        with closing(new_sink(mosquitto.address, "best")) as sink:
            birds = ((64.0, 48.0, 128.0, 96.0), 0.91), ((700.0, 300.0, 900.0, 500.0), 0.8)
            sink.emit(VisitChanged("start", visit_changed(0).visit, IMAGE, birds))
            eventually(lambda: client.values("visit"))
        endings = [message.topic.rpartition("/")[2] for message in client.messages]
        assert endings.index("best.jpg") < endings.index("visit")
        (picture,) = [m.payload for m in client.messages if m.topic.endswith("best.jpg")]
        decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (576, 1024, 3)
        assert picture == jpeg_for_mqtt(IMAGE, birds)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (4000, 3000)])
def test_no_picture_is_too_large_for_a_broker(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    picture = jpeg_for_mqtt(noise, [((0.0, 0.0, 1.0, 1.0), 0.5)])
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert max(decoded.shape) <= 1024
    assert len(picture) < 400_000  # noise, which no camera gives


def test_the_camera_is_online_while_frames_arrive(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_SILENT_S", 2.0)
    good = Health(camera="c", utc_s=START_UTC_S, frame_age_s=0.2)
    frozen = Health(camera="c", utc_s=START_UTC_S, frame_age_s=0.2, faults=("frozen",))
    with (
        subscriber(mosquitto.address, "silent") as client,
        closing(new_sink(mosquitto.address, "silent")) as sink,
    ):

        def becomes(*statuses: str) -> None:
            eventually(lambda: changes(client)[: len(statuses)] == list(statuses))

        becomes("offline")
        sink.emit(frame_processed([]))
        becomes("offline", "online", "offline")  # nothing came for two seconds
        sink.emit(good)
        becomes("offline", "online", "offline", "online")
        sink.emit(frozen)
        becomes("offline", "online", "offline", "online", "offline")
        sink.emit(frame_processed([]))
        time.sleep(1.0)
        assert len(changes(client)) == 5  # the same picture again and again
        blurred = Health(camera="c", utc_s=START_UTC_S, frame_age_s=0.2, faults=("blurred",))
        sink.emit(blurred)  # seeing badly is seeing
        becomes("offline", "online", "offline", "online", "offline", "online")


def test_no_bird_is_in_view_when_a_visit_ends_without_a_frame_or_the_camera_is_lost(
    mosquitto: Mosquitto,
) -> None:
    with (
        subscriber(mosquitto.address, "blind") as client,
        closing(new_sink(mosquitto.address, "blind")) as sink,
    ):
        eventually(lambda: latest(client, "count") == "0")
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        eventually(lambda: latest(client, "bird") == "ON")
        sink.emit(visit_changed(0, "end"))  # in silence
        eventually(lambda: latest(client, "bird") == "OFF")
        eventually(lambda: client.values("count") == ["0", "1", "0"])
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        eventually(lambda: latest(client, "bird") == "ON")
        sink.emit(Health(camera="c", utc_s=START_UTC_S, faults=("lost",)))
        eventually(lambda: latest(client, "bird") == "OFF")
        eventually(lambda: client.values("count") == ["0", "1", "0", "1", "0"])
        assert latest(client, "status") == "offline"
        sink.emit(frame_processed([TrackState.CONFIRMED]))  # what it froze with
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        time.sleep(0.3)
        assert client.values("count") == ["0", "1", "0", "1", "0"]


@pytest.mark.parametrize("fault", ["lost", "frozen", "black", "covered"])
def test_a_camera_that_shows_nothing_is_offline_and_has_no_bird_in_view(
    mosquitto: Mosquitto, fault: str
) -> None:
    with (
        subscriber(mosquitto.address, fault) as client,
        closing(new_sink(mosquitto.address, fault)) as sink,
    ):
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        eventually(lambda: latest(client, "status") == "online" and latest(client, "bird") == "ON")
        sink.emit(Health(camera="c", utc_s=START_UTC_S, frame_age_s=0.1, faults=(fault,)))
        eventually(
            lambda: latest(client, "status") == "offline" and latest(client, "bird") == "OFF", 5
        )


def test_a_bird_that_outlasts_its_visit_stays_in_view(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        subscriber(mosquitto.address, "outlasts") as client,
        closing(new_sink(mosquitto.address, "outlasts")) as sink,
    ):
        eventually(lambda: latest(client, "count") == "0")
        monkeypatch.setattr(sink_module, "_NO_FRAME_S", 10.0)  # a busy machine stalls now and then
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        sink.emit(visit_changed(0, "end"))
        sink.emit(frame_processed([TrackState.CONFIRMED]))
        time.sleep(0.5)
        assert sink._visit_over_s == math.inf  # the wait for a frame has ended, however long
        assert latest(client, "bird") == "ON"
        assert client.values("count") == ["0", "1"]


def changes(client: Subscriber) -> list[str]:
    return [status for status, _ in itertools.groupby(client.values("feeder-0/status"))]


def test_visits_are_counted_over_restarts_and_from_zero_each_day(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    with closing(new_sink(mosquitto.address, "days", state=tmp_path)) as sink:
        for number in range(3):
            sink.emit(visit_changed(number, "start"))
            sink.emit(visit_changed(number, "end"))
    assert retained(mosquitto.address, "days")["feeder-0/visits_today"] == "3"
    with closing(new_sink(mosquitto.address, "days", state=tmp_path)) as sink:
        sink.emit(visit_changed(4, "start"))
    assert retained(mosquitto.address, "days")["feeder-0/visits_today"] == "4"
    yesterday = sink_module._DayCount.read('{"day": "2020-01-01", "count": 9}')
    assert yesterday.count == 0
    # A board without a clock of its own may for a while believe in an earlier day.
    tomorrow = sink_module._DayCount.read('{"day": "2999-01-01", "count": 9}')
    assert tomorrow.count == 9
    assert not tomorrow.turn()


def test_a_day_that_was_of_a_wrong_clock_gives_way_to_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    future = sink_module._DayCount.read('{"day": "2999-01-01", "count": 9}')
    future.add()
    future.add()
    assert future.count == 11
    monkeypatch.setattr(sink_module, "_BELIEVE_CLOCK_S", 0.0)  # an hour has passed
    assert future.turn()
    assert future.count == 2  # what came since the clock was right
    assert "2999" not in future.write()
    assert not future.turn()
    future.add()
    assert future.count == 3


def test_a_day_ends_by_the_time_zone_that_is_set_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "WEST11")
        days = sink_module._DayCount.read(None)
        days.add()
        assert not days.turn()
        patch.setenv("TZ", "EAST-14")  # 25 hours on: another day, at any time
        assert days.turn()
        assert days.count == 0
    time.tzset()


def test_health_tells_of_the_outbox_and_the_connection(mosquitto: Mosquitto) -> None:
    with subscriber(mosquitto.address, "health") as client:
        with closing(new_sink(mosquitto.address, "health")) as sink:
            eventually(lambda: client.values("count"))
            sink.emit(Health(camera="c", utc_s=START_UTC_S, fps=5.06789))
            eventually(lambda: client.values("health"))
        told = json.loads(client.values("health")[0])
        assert told["time"] == "2025-03-14T09:30:05.120Z"
        assert told["fps"] == 5.068
        assert told["connects"] == 1
        assert told["outbox"] == {
            "waiting": 0,
            "bytes": 0,
            "oldest_s": 0.0,
            "dropped": 0,
            "storage": "memory",
        }


def test_a_late_alert_tells_its_age_and_names_no_picture_that_is_gone(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = new_mosquitto()
    broker.start()
    broker.stop()
    picture = tmp_path / "visit.jpg"
    picture.write_bytes(b"jpeg")
    events = []
    for number, path in enumerate((picture, tmp_path / "gone.jpg")):
        visit = visit_changed(number).visit
        events.append(
            VisitChanged("start", type(visit)(**_fields(visit) | {"snapshot": str(path)}))
        )
    with closing(new_sink(broker.address, "age", state=tmp_path)) as sink:
        for event in events:
            sink.emit(event)
    broker.start()
    with (
        subscriber(broker.address, "age") as client,
        closing(new_sink(broker.address, "age", state=tmp_path)),
    ):
        eventually(lambda: len(client.values("visit")) == 2)
        first, second = map(json.loads, client.values("visit"))
    assert first["age_s"] >= 1
    assert (first["snapshot"], second["snapshot"]) == (str(picture), None)


def _fields(visit: object) -> dict[str, object]:
    return {name: getattr(visit, name) for name in visit.__slots__}  # type: ignore[attr-defined]


# --- commands -------------------------------------------------------------------------------------


def test_commands_change_what_the_loop_reads_and_are_answered(mosquitto: Mosquitto) -> None:
    controls = Controls(0.5)
    with (
        subscriber(mosquitto.address, "commands") as client,
        closing(new_sink(mosquitto.address, "commands", controls)) as sink,
        publisher(mosquitto.address, "commands") as command,
    ):
        eventually(lambda: latest(client, "threshold") == "0.5")
        command("enabled", "OFF")
        command("threshold", "0.35")
        command("snapshot", "PRESS")
        eventually(lambda: latest(client, "threshold") == "0.35")
        assert latest(client, "enabled") == "OFF"
        assert (controls.enabled, controls.threshold) == (False, 0.35)
        eventually(controls.take_snapshot)
        assert not controls.take_snapshot()  # once for each request
        sink.emit(SnapshotTaken("c", Frame(IMAGE, 0, 0.0, START_UTC_S, "c")))
        eventually(lambda: latest(client, "snapshot"))
        answer = json.loads(str(latest(client, "snapshot")))
        assert answer == {"time": "2025-03-14T09:30:05.120Z", "frame_size": [1280, 720]}
        command("enabled", "ON")
        eventually(lambda: controls.enabled)


def test_a_wrong_command_changes_nothing_and_is_logged_once(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    controls = Controls(0.5)
    with (
        subscriber(mosquitto.address, "wrong") as client,
        closing(new_sink(mosquitto.address, "wrong", controls)),
        publisher(mosquitto.address, "wrong") as command,
    ):
        eventually(lambda: latest(client, "threshold"))
        for payload in ("", "off", "1.01", "nan", b"\xff\x00", b"x" * 100_000, "0.5\n"):
            for name in ("enabled", "threshold", "snapshot", "reboot", ""):
                command(name, payload)
        command("threshold", "0.6")
        eventually(lambda: controls.threshold == 0.6)
        assert controls.enabled
        assert not controls.take_snapshot()
    (record,) = caplog.records
    assert "a command that is none was ignored" in record.getMessage()


def test_a_command_that_was_left_behind_is_not_obeyed(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with publisher(mosquitto.address, "left") as command:
        command("enabled", "OFF", retain=True)
    controls = Controls(0.5)
    with closing(new_sink(mosquitto.address, "left", controls)):
        eventually(lambda: "a retained command was ignored" in caplog.text)
        assert controls.enabled


def test_what_was_asked_for_holds_over_a_restart_until_the_setting_changes(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    controls = Controls(0.5)
    with (
        closing(new_sink(mosquitto.address, "holds", controls, tmp_path)),
        subscriber(mosquitto.address, "holds") as client,
        publisher(mosquitto.address, "holds") as command,
    ):
        eventually(lambda: latest(client, "threshold"))
        command("enabled", "OFF")
        command("threshold", "0.35")
        eventually(lambda: latest(client, "threshold") == "0.35")
    for configured, expected in ((0.5, 0.35), (0.6, 0.6), (0.5, 0.35)):
        again = Controls(configured)
        new_sink(mosquitto.address, "holds", again, tmp_path).close()
        assert (again.enabled, again.threshold) == (False, expected)


@pytest.mark.parametrize(
    "damaged",
    [
        {"threshold": '{"threshold": 0.35, "over": 0.5'},
        {"threshold": '{"thrashold": 0.35, "over": 0.5}'},
        {"threshold": '{"threshold": 3.5, "over": 0.5}'},
        {"threshold": "5"},
        {"visits_today": '{"day": "2026m11-29", "count": 5}'},
        {"visits_today": '{"day": "2026-11-29", "cou_t": 5}'},
        {"visits_today": "[]"},
    ],
)
def test_what_was_kept_and_is_damaged_is_as_if_it_were_not_there(
    mosquitto: Mosquitto, tmp_path: Path, damaged: dict[str, str]
) -> None:
    with closing(Outbox(tmp_path / "outbox" / "damaged.feeder-0.sqlite")) as outbox:
        outbox.keep(damaged)
    controls = Controls(0.5)
    with closing(new_sink(mosquitto.address, "damaged", controls, tmp_path)) as sink:
        assert (controls.threshold, controls.enabled) == (0.5, True)
        assert sink._visits.count == 0


def test_a_setting_that_is_read_again_goes_before_what_was_asked_for(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    controls = Controls(0.5)
    with (
        closing(new_sink(mosquitto.address, "again", controls, tmp_path)) as sink,
        subscriber(mosquitto.address, "again") as client,
        publisher(mosquitto.address, "again") as command,
    ):
        eventually(lambda: latest(client, "threshold"))
        command("threshold", "0.35")
        eventually(lambda: latest(client, "threshold") == "0.35")
        sink.configure_threshold(0.6)
        assert controls.threshold == 0.6
        eventually(lambda: latest(client, "threshold") == "0.6")
    back = Controls(0.5)
    with (
        closing(new_sink(mosquitto.address, "again", back, tmp_path)) as sink,
        publisher(mosquitto.address, "again") as command,
        subscriber(mosquitto.address, "again") as client,
    ):
        assert back.threshold == 0.5
        eventually(lambda: latest(client, "threshold") == "0.5")
        sink.configure_threshold(0.6)
        command("threshold", "0.7")
        eventually(lambda: latest(client, "threshold") == "0.7")
    restarted = Controls(0.6)
    new_sink(mosquitto.address, "again", restarted, tmp_path).close()
    assert restarted.threshold == 0.7


def test_when_the_hub_comes_all_states_are_told_again_but_not_without_end(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_REPUBLISH_S", 1.0)
    with (
        subscriber(mosquitto.address, "birth") as reader,
        closing(new_sink(mosquitto.address, "birth")),
    ):
        eventually(lambda: reader.values("count") == ["0"])
        for payload in (b"offline", b"", b"onlin\xff", b"online "):
            reader.client.publish("homeassistant/status", payload, qos=1)
        for _ in range(500):
            reader.client.publish("homeassistant/status", b"online", qos=1)
        eventually(lambda: len(reader.values("count")) >= 2)
        assert len(reader.values("count")) <= 3


def test_the_hub_is_heard_at_its_usual_topic_whatever_the_prefix_of_discovery(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_REPUBLISH_S", 0.0)
    sink = MqttSink(
        mosquitto.address,
        device="usual",
        camera="c",
        model_sha256="x",
        controls=Controls(0.5),
        discovery_prefix="hub",
    )
    with subscriber(mosquitto.address, "usual") as reader, closing(sink):
        eventually(lambda: "edgebird.usual.c 1 homeassistant/status" in mosquitto.log())
        for topic in ("homeassistant/status", "hub/status"):
            told = len(reader.values("count"))
            reader.client.publish(topic, b"online", qos=1)
            eventually(lambda told=told: len(reader.values("count")) > told)  # type: ignore[misc]


def test_a_hub_that_started_long_ago_is_no_reason_to_tell_all_again(mosquitto: Mosquitto) -> None:
    controls = Controls(0.5)
    with (
        subscriber(mosquitto.address, "long-ago") as reader,
        publisher(mosquitto.address, "long-ago") as command,
    ):
        reader.client.publish("old-hub/status", b"online", 1, retain=True).wait_for_publish(20)
        sink = MqttSink(
            mosquitto.address,
            device="long-ago",
            camera="Feeder 0",
            model_sha256="x",
            controls=controls,
            discovery_prefix="old-hub",
        )
        with closing(sink):
            eventually(lambda: "edgebird.long-ago.feeder-0 1 old-hub/status" in mosquitto.log())
            command("threshold", "0.6")
            eventually(lambda: controls.threshold == 0.6)  # what was retained came before
            assert sink._republish_s is None


def test_a_status_that_others_wrote_is_put_right(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_STATUS_EVERY_S", 0.3)
    monkeypatch.setattr(device_module, "_SAY_AGAIN_S", 0.3)
    statuses = ("feeder-0/status", "late-will/status")
    with (
        subscriber(mosquitto.address, "late-will") as client,
        closing(new_sink(mosquitto.address, "late-will")) as sink,
    ):
        sink.emit(frame_processed([]))
        eventually(lambda: all(client.values(name)[-1:] == ["online"] for name in statuses))
        for name in ("feeder-0/status", "status"):
            topic = f"edgebird/late-will/{name}"
            client.client.publish(topic, b"offline", qos=1, retain=True).wait_for_publish(20)
        eventually(lambda: all("offline" in client.values(name)[1:] for name in statuses))
        eventually(lambda: all(client.values(name)[-1:] == ["online"] for name in statuses))


def test_the_status_is_not_put_right_any_more_at_the_end(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_STATUS_EVERY_S", 0.0)
    sink = new_sink(mosquitto.address, "last-word")
    close = sink._publisher.close

    def not_the_status(topic: str, *_: object, **__: object) -> None:
        if topic == sink._topics.status:
            pytest.fail("after the end")

    def close_slowly() -> None:
        monkeypatch.setattr(sink._publisher, "set_state", not_the_status)
        sink._tick()  # of a publisher in the middle of its work
        close()

    with closing(sink):
        sink.emit(frame_processed([]))
        eventually(
            lambda: retained(mosquitto.address, "last-word").get("feeder-0/status") == "online"
        )
        monkeypatch.setattr(sink._publisher, "close", close_slowly)
    assert retained(mosquitto.address, "last-word")["feeder-0/status"] == "offline"


def test_commands_without_end_are_not_written_without_end(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls = Controls(0.5)
    path = tmp_path / "outbox" / "flood.feeder-0.sqlite"

    def kept() -> dict[str, str]:
        with closing(sqlite3.connect(path)) as db:
            return dict(db.execute("SELECT name, value FROM kept"))

    with (
        closing(new_sink(mosquitto.address, "flood", controls, tmp_path)),
        subscriber(mosquitto.address, "flood") as client,
        publisher(mosquitto.address, "flood") as command,
    ):
        eventually(lambda: latest(client, "threshold"))
        command("threshold", "0.3")
        eventually(lambda: "0.3" in kept().get("threshold", ""))
        for number in range(50):
            command("threshold", f"0.{40 + number}")
        eventually(lambda: controls.threshold == 0.89)
        time.sleep(0.8)  # longer than it took the first
        assert "0.3" in kept()["threshold"]
        monkeypatch.setattr(sink_module, "_KEEP_EVERY_S", 0.0)  # the time is over
        eventually(lambda: "0.89" in kept()["threshold"])
        monkeypatch.setattr(sink_module, "_KEEP_EVERY_S", 10.0)
        command("enabled", "OFF")
        eventually(lambda: not controls.enabled)
    assert kept()["enabled"] == "false"  # at the end in any case


def test_pictures_that_are_asked_for_without_end_are_some_time_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(controls_module, "_SNAPSHOT_PAUSE_S", 0.2)
    controls = Controls(0.5)
    taken_s = []
    give_up_s = time.monotonic() + 0.7
    while (now_s := time.monotonic()) < give_up_s:
        controls.ask_for_snapshot()
        if controls.take_snapshot():
            taken_s.append(now_s)
    assert 2 <= len(taken_s) <= 4
    eventually(controls.take_snapshot)  # the last request is not forgotten
    time.sleep(0.3)
    assert not controls.take_snapshot()  # once for each request


@given(
    st.sampled_from(["enabled", "threshold", "snapshot"]) | st.text(),
    st.binary() | st.text().map(str.encode),
)
def test_any_bytes_are_a_command_or_a_value_error(name: str, payload: bytes) -> None:
    try:
        value = parse_command(name, payload)
    except ValueError:
        return
    allowed = {
        "enabled": value in (True, False),
        "threshold": isinstance(value, float) and 0.01 <= value <= 0.99,
        "snapshot": value is None,
    }
    assert allowed[name]


@given(st.floats(0.01, 0.99))
def test_every_threshold_in_range_can_be_asked_for(threshold: float) -> None:
    text = f"{threshold:.4f}"
    assert parse_command("threshold", text.encode()) == float(text)


@pytest.mark.parametrize("step", range(101))
def test_each_place_of_a_slider_can_be_asked_for(step: int) -> None:
    text = str(step * 0.01)  # as long as 0.7000000000000001
    expected = min(max(step / 100, 0.01), 0.99)  # of 0 and 1 the nearest of use
    assert parse_command("threshold", text.encode()) == expected
