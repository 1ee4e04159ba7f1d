"""Settings that change while the program runs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import Mosquitto, eventually
from test_cli import running
from test_conv_detector import card
from test_pipeline import BIRD, ScanWhole, replay

from edgebird import detect
from edgebird.config import Config, overruled
from edgebird.controls import Controls
from edgebird.detector.conv import ConvDetector
from edgebird.errors import ConfigError
from edgebird.evidence import EvidenceSettings
from edgebird.pipeline import Summary, run
from edgebird.reload import Reload
from edgebird.schedule import ScheduleSettings
from edgebird.service import Service
from edgebird.sinks import mqtt as sink_module
from edgebird.snapshots import Snapshots
from edgebird.structures import FrameProcessed
from edgebird.testing import FakeCamera, FakeInterpreter, MemorySink
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings
from edgebird.zones import Zones, ZoneSettings

Told = list[tuple[Config, frozenset[str]]]


def asked(config: Config, wanted: Config, told: Told) -> Reload:
    reload = Reload(config, lambda: wanted, lambda new, names: told.append((new, names)))
    with reload.on_signal(stop=lambda: None):
        signal.raise_signal(signal.SIGHUP)
    return reload


def test_nothing_is_read_unless_asked() -> None:
    def load() -> Config:
        raise AssertionError("read")

    Reload(Config(), load, lambda new, names: None)()


def test_what_can_change_changes_and_the_rest_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told: Told = []
    wanted = overruled(
        Config(),
        detector={"threshold": 0.4, "threads": 1},
        motion={"masks": (((0, 0), (1, 0), (1, 1)),)},
        mqtt={"url": "mqtt://anna:s3cret@host", "detections_per_s": 0},
    )
    reload = asked(Config(), wanted, told)
    reload()
    reload()  # asked for once, done once
    [(new, names)] = told
    assert names == {"detector.threshold", "motion.masks", "mqtt.detections_per_s"}
    assert new.motion.masks == wanted.motion.masks
    assert (new.detector.threshold, new.detector.threads, new.mqtt.url) == (0.4, None, None)
    [line] = caplog.messages
    now, later = line.split("; ")
    assert "detector.threshold default -> 0.4" in now
    assert "motion.masks (changed)" in now
    assert later.startswith("only after a restart: ")
    assert "detector.threads default -> 1" in later
    assert "anna:***@host" in later
    assert "s3cret" not in line


def test_what_waits_is_told_again_and_what_was_done_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    told: Told = []
    wanted = overruled(Config(), camera={"fps": 5}, visits={"quiet_s": 9})
    reload = asked(Config(), wanted, told)
    reload()
    for _ in range(2):
        with reload.on_signal(stop=lambda: None):
            signal.raise_signal(signal.SIGHUP)
        reload()
    assert len(told) == 1
    assert "none of them can change now; only after a restart: camera.fps" in caplog.messages[-1]


def test_bad_settings_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Config:
        raise ConfigError("edgebird.toml: it is wrong")

    told: Told = []
    reload = Reload(Config(), load, lambda new, names: told.append((new, names)))
    with reload.on_signal(stop=lambda: None):
        signal.raise_signal(signal.SIGHUP)
    reload()
    assert told == []
    assert caplog.messages == ["edgebird.toml: it is wrong; the settings stay as they are"]


def test_a_terminal_that_is_gone_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[int] = []
    there = iter([True, True, False])
    monkeypatch.setattr(os, "isatty", lambda fd: next(there))
    reload = Reload(Config(), Config, lambda new, names: None)
    with reload.on_signal(stop=lambda: stops.append(1)):
        signal.raise_signal(signal.SIGHUP)
        assert stops == []
        signal.raise_signal(signal.SIGHUP)
    assert stops == [1]


@pytest.fixture
def handled() -> Iterator[Callable[[signal.Signals, Any], None]]:
    """Sets a handler of a signal for this test."""
    with ExitStack() as stack:

        def handle(number: signal.Signals, handler: Any) -> None:
            stack.callback(signal.signal, number, signal.signal(number, handler))

        yield handle


def test_without_settings_to_read_again_it_ends_the_program(
    handled: Callable[[signal.Signals, Any], None],
) -> None:
    handled(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    stops: list[int] = []
    reload = Reload(Config(), None, lambda new, names: None)
    with reload.on_signal(stop=lambda: stops.append(1)):
        for _ in range(2):  # a shell that ends sends it, and so does its terminal
            signal.raise_signal(signal.SIGHUP)
    reload()
    assert stops == [1, 1]


def test_nohup_keeps_its_meaning_without_settings_to_read_again(
    handled: Callable[[signal.Signals, Any], None],
) -> None:
    handled(signal.SIGHUP, signal.SIG_IGN)
    stops: list[int] = []
    with Reload(Config(), None, lambda new, names: None).on_signal(lambda: stops.append(1)):
        signal.raise_signal(signal.SIGHUP)
    assert stops == []


@pytest.mark.parametrize("load", [None, Config])
def test_sighup_kills_nothing_until_the_sinks_are_closed(
    load: Callable[[], Config] | None,
    handled: Callable[[signal.Signals, Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    handled(signal.SIGHUP, lambda number, frame: killed.append(number))
    camera = FakeCamera([BIRD])

    def run_once(**given: Any) -> None:
        signal.raise_signal(signal.SIGHUP)
        eventually(lambda: camera._closed or load)

    closes: list[int] = []

    def close(service: Service) -> None:
        closes.append(1)
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(detect, "run", run_once)
    monkeypatch.setattr(Service, "close", close)
    config = overruled(Config(), camera={"source": "x"})
    detect.detect_on_camera(config, [], detect.silent_progress, Summary(), camera=camera, load=load)
    assert (closes, killed) == ([1], [])


def test_a_signal_ends_the_wait_for_another_edgebird(
    handled: Callable[[signal.Signals, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    handled(signal.SIGINT, signal.default_int_handler)

    def claim(name: str, wait_s: float) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sink_module, "claim", claim)
    config = overruled(Config(), camera={"source": "x"}, mqtt={"url": "mqtt://127.0.0.1:1"})
    with pytest.raises(KeyboardInterrupt):
        detect.detect_on_camera(
            config, [], detect.silent_progress, Summary(), camera=FakeCamera([])
        )


def frames_of(between: Callable[[int, Zones, Tracker, Visits], None]) -> list[FrameProcessed]:
    """Ten frames with a bird, with a change before some of them."""
    sink, zones = MemorySink(), Zones(ZoneSettings())
    tracker = Tracker(TrackerSettings(confirm_hits=1, max_gap_s=0.1))
    visits = Visits("feeder", VisitSettings())
    count = iter(range(10))
    run(
        camera=FakeCamera([BIRD] * 10),
        camera_name="feeder",
        plan=ScanWhole(),
        detector=ConvDetector(FakeInterpreter(half_side_px=12), card()),
        controls=Controls(0.6),
        tracker=tracker,
        visits=visits,
        snapshots=None,
        sinks=[sink],
        summary=Summary(),
        zones=zones,
        reload=lambda: between(next(count), zones, tracker, visits),
    )
    return [event for event in sink.events if isinstance(event, FrameProcessed)]


def test_a_mask_that_is_drawn_while_it_runs_counts_from_the_next_frame_on() -> None:
    everything = (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),)

    def between(index: int, zones: Zones, tracker: Tracker, visits: Visits) -> None:
        if index in (3, 6):
            zones.change(ZoneSettings(masks=everything if index == 3 else ()))

    found = [len(frame.detections) for frame in frames_of(between)]
    assert found == [1] * 3 + [0] * 3 + [1] * 4


def test_a_tracker_keeps_its_birds_when_its_settings_change() -> None:
    def between(index: int, zones: Zones, tracker: Tracker, visits: Visits) -> None:
        if index == 3:
            tracker.settings = replace(tracker.settings, max_gap_s=100.0)
            zones.change(ZoneSettings(min_bird=1.0))

    assert [len(frame.tracks) for frame in frames_of(between)] == [1] * 10


def test_pictures_keep_to_another_limit_from_the_next_one_on(tmp_path: Path) -> None:
    old = tmp_path / "feeder-19600101T120000.jpg"
    old.write_bytes(bytes(1_000_000))
    os.utime(old, (0, 0))
    snapshots = Snapshots(tmp_path)
    replay(FakeCamera([BIRD] * 3), snapshots=snapshots)
    assert old.exists()
    snapshots.limit(keep_mb=0.5, reserve_mb=0, write_mb_per_day=10)
    assert old.exists()  # a disk that hangs does not hold up the loop, which calls this
    replay(FakeCamera([BIRD] * 3), snapshots=snapshots)
    assert not old.exists()


def test_every_part_gets_its_new_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5))
    limits = {"keep_mb": 7.0, "reserve_mb": 8.0, "write_mb_per_day": 9.0}
    wanted = overruled(
        Config(),
        camera={"source": "x"},
        detector={"threshold": 0.41},
        motion={"masks": (mask,), "min_bird": 0.2, "motion_bonus": 0.1, "still_after_s": 5.0},
        schedule={"budget_ms_per_s": 90.0, "patrol_s": 9.0},
        tracker={"confirm_hits": 3, "sure_score": 0.9, "max_gap_s": 1.0},
        visits={"quiet_s": 9.0, "cooldown_s": 8.0},
        output={"save": str(tmp_path)} | limits,
    )
    parts: dict[str, Any] = {}

    def run_once(**given: Any) -> None:
        signal.raise_signal(signal.SIGHUP)
        given["reload"]()
        parts.update(given)

    limited: list[dict[str, float]] = []
    monkeypatch.setattr(detect, "run", run_once)
    monkeypatch.setattr(Snapshots, "limit", lambda self, **new: limited.append(new))
    config = overruled(Config(), camera={"source": "x"}, output={"save": str(tmp_path)})
    camera = FakeCamera([])
    detect.detect_on_camera(
        config, [], detect.silent_progress, Summary(), camera=camera, load=lambda: wanted
    )
    motion = msgspec.structs.asdict(wanted.motion)
    for key in ("zones", "masks", "min_bird", "max_bird"):
        del motion[key]
    assert parts["zones"].drawn(8, 8)[0, 2] == 0
    assert parts["zones"].fits(np.array([[0, 0, 1, 1]], np.float32), 8, 8).tolist() == [False]
    assert parts["senses"].evidence.settings == EvidenceSettings(**motion)
    for part, section, kind in (
        ("plan", wanted.schedule, ScheduleSettings),
        ("tracker", wanted.tracker, TrackerSettings),
        ("visits", wanted.visits, VisitSettings),
    ):
        assert parts[part].settings == kind(**msgspec.structs.asdict(section))
    assert limited == [limits]
    assert parts["controls"].threshold == 0.41


def kept(mosquitto: Mosquitto, topic: str) -> str:
    where = ("-h", "127.0.0.1", "-p", str(mosquitto.address.port), "-t", topic, "-q", "1")
    command = ["mosquitto_sub", *where, "-C", "1", "-W", "20"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_sighup_changes_a_running_program(mosquitto: Mosquitto, tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    whole = (
        f'[mqtt]\nurl = "mqtt://{mosquitto.address}"\ndevice = "reload"\ndetections_per_s = 0\n'
        '[camera]\nsource = "demo:"\nname = "c"\n'
    )
    path.write_text(whole)
    with running("detect", "--config", str(path), "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(iter(process.stdout))  # a frame
        path.write_text(whole + "[detector]\nthreshold = 0.99\n[visits]\nquiet_s = 0.2\n")
        process.send_signal(signal.SIGHUP)
        next(line for line in process.stderr if "threshold default -> 0.99" in line)
        eventually(lambda: kept(mosquitto, "edgebird/reload/c/threshold") == "0.99")
        path.write_text("[detector]\nthreshold = 99\n")
        process.send_signal(signal.SIGHUP)
        next(line for line in process.stderr if "the settings stay as they are" in line)
        next(iter(process.stdout))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
