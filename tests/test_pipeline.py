"""The loop with fakes at its seams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_conv_detector import card, scene

from edgebird.camera import Camera
from edgebird.controls import Controls
from edgebird.detector.conv import ConvDetector
from edgebird.errors import CameraError
from edgebird.evidence import Evidence, EvidenceSettings
from edgebird.faults import FaultWatch
from edgebird.health import HealthReporter
from edgebird.motion import Motion, MotionGate
from edgebird.pipeline import Senses, Summary, run
from edgebird.schedule import RegionPlan, ScanEverything, Schedule, ScheduleSettings
from edgebird.snapshots import Snapshots
from edgebird.structures import (
    Frame,
    FrameProcessed,
    Health,
    Image,
    Silence,
    SnapshotTaken,
    Track,
    VisitChanged,
)
from edgebird.testing import FakeCamera, FakeInterpreter, MemorySink
from edgebird.tiles import Region
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings
from edgebird.zones import Zones, ZoneSettings

EMPTY = scene()
BIRD = scene()
BIRD[32:48, 48:64] = 255  # one cell of the whole frame


class ScanWhole(ScanEverything):
    def regions(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        return [(0, 0, *frame.size)]


def senses() -> Senses:
    return Senses(
        watch=FaultWatch("feeder"),
        gate=MotionGate(Zones(ZoneSettings())),
        evidence=Evidence(EvidenceSettings()),
    )


def replay(
    camera: Camera,
    *,
    plan: RegionPlan | None = None,
    threshold: float = 0.6,
    snapshots: Snapshots | None = None,
    sink: MemorySink | None = None,
    zones: Zones | None = None,
    live: bool = False,
    max_frames: int | None = None,
    controls: Controls | None = None,
    sure_score: float = 1.0,
) -> tuple[MemorySink, Summary]:
    sink, summary = sink or MemorySink(), Summary()
    run(
        camera=camera,
        camera_name="feeder",
        plan=plan or ScanWhole(),
        detector=ConvDetector(FakeInterpreter(half_side_px=12), card()),
        controls=controls or Controls(threshold),
        tracker=Tracker(TrackerSettings(sure_score=sure_score)),
        visits=Visits("feeder", VisitSettings(quiet_s=1.0)),
        snapshots=snapshots,
        sinks=[sink],
        summary=summary,
        zones=zones,
        senses=senses() if live else None,
        health=HealthReporter("feeder") if live else None,
        max_frames=max_frames,
    )
    return sink, summary


def visits(sink: MemorySink) -> list[VisitChanged]:
    return [event for event in sink.events if isinstance(event, VisitChanged)]


def test_each_frame_and_each_visit_is_reported_in_order() -> None:
    images = [EMPTY] * 2 + [BIRD] * 5 + [EMPTY] * 20 + [BIRD] * 3
    sink, summary = replay(FakeCamera(images, fps=5))
    frames = [event for event in sink.events if isinstance(event, FrameProcessed)]
    assert [event.frame.index for event in frames] == list(range(30))
    assert [len(event.detections) for event in frames] == [0] * 2 + [1] * 5 + [0] * 20 + [1] * 3
    changes = visits(sink)
    assert [change.kind for change in changes] == ["start", "end", "start", "end"]
    assert changes[1].visit.started_utc_s == pytest.approx(0.4)
    assert changes[1].visit.duration_s == pytest.approx(0.8)
    assert (summary.frames, summary.visits) == (30, 2)


def test_one_frame_with_a_weak_detection_is_no_visit() -> None:
    sink, _ = replay(FakeCamera([EMPTY, BIRD, EMPTY, EMPTY]))
    assert visits(sink) == []


def test_it_stops_after_the_wanted_number_of_frames() -> None:
    _, summary = replay(FakeCamera([BIRD] * 50), max_frames=7)
    assert summary.frames == 7


class WithSilence(FakeCamera):
    """Comes with a `Silence` in each second without a frame, as a live camera does."""

    def frames(self) -> Iterator[Frame | Silence]:
        last_s = 0.0
        for frame in super().frames():
            for second in range(1, int(frame.monotonic_s - last_s)):
                yield Silence(last_s + second, last_s + second)
            last_s = frame.monotonic_s
            yield frame


@pytest.mark.parametrize("sure_score", [0.5, 1.0])
@pytest.mark.parametrize("kind", [FakeCamera, WithSilence])
def test_a_bird_stays_one_however_seldom_frames_come(
    kind: type[FakeCamera], sure_score: float
) -> None:
    images = [EMPTY] * 2 + [BIRD] * 4 + [EMPTY] + [BIRD] * 5 + [EMPTY] * 4 + [BIRD] * 3
    sink, _ = replay(kind(images, fps=1 / 5), sure_score=sure_score)
    changes = visits(sink)
    assert [change.kind for change in changes] == ["start", "end", "start", "end"]
    # not seen at one look, in the middle of it
    assert changes[1].visit.duration_s == pytest.approx(45)


class Continued(FakeCamera):
    """A recording with hours between its sixth and its seventh picture."""

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            now_s = frame.monotonic_s + (10_000.0 if frame.index >= 6 else 0.0)
            yield replace(frame, monotonic_s=now_s, utc_s=now_s)


def test_the_hours_between_two_recordings_make_no_visit_longer() -> None:
    sink, _ = replay(Continued([BIRD] * 12, fps=5))
    changes = visits(sink)
    assert [change.kind for change in changes] == ["start", "end", "start", "end"]
    assert [change.visit.duration_s for change in changes[1::2]] == pytest.approx([1.0, 1.0])


class Seldom(ScanWhole):
    """Can afford a look at few of the frames."""

    def regions(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        return [] if frame.index % 50 else super().regions(frame, motion, tracks)


@pytest.mark.parametrize("sure_score", [0.5, 1.0])
def test_a_frame_that_is_not_looked_at_is_no_sign_that_a_bird_has_left(sure_score: float) -> None:
    images = [EMPTY] * 100 + [BIRD] * 400 + [EMPTY] * 300
    sink, _ = replay(FakeCamera(images, fps=10), plan=Seldom(), sure_score=sure_score)
    start, end = visits(sink)
    assert (start.kind, end.kind) == ("start", "end")
    assert end.visit.duration_s == pytest.approx(35)


class Switching(FakeCamera):
    """Does something with the controls before a frame."""

    def __init__(
        self, images: list[Image], actions: dict[int, Callable[[], None]], fps: float = 5.0
    ) -> None:
        super().__init__(images, fps)
        self._actions = actions

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            self._actions.get(frame.index, lambda: None)()
            yield frame


def test_controls_hold_from_the_next_frame_on() -> None:
    controls = Controls(0.6)

    def switch(enabled: bool) -> None:
        controls.enabled = enabled

    def raise_threshold() -> None:
        controls.threshold = 0.9999999

    camera = Switching(
        [BIRD] * 40, {5: lambda: switch(False), 20: lambda: switch(True), 35: raise_threshold}
    )
    sink, _ = replay(camera, controls=controls)
    frames = [event for event in sink.events if isinstance(event, FrameProcessed)]
    found = [len(event.detections) for event in frames]
    assert found == [1] * 5 + [0] * 15 + [1] * 15 + [0] * 5
    # Switched off is as if the bird had left.
    assert [change.kind for change in visits(sink)] == ["start", "end", "start", "end"]


def test_a_snapshot_is_the_frame_after_the_request() -> None:
    controls = Controls(0.6)
    camera = Switching([EMPTY] * 6, {3: controls.ask_for_snapshot})
    sink, _ = replay(camera, controls=controls)
    taken = [event for event in sink.events if isinstance(event, SnapshotTaken)]
    assert [event.frame.index for event in taken] == [3]


class BreakingCamera(FakeCamera):
    """Fails after its pictures."""

    def frames(self) -> Iterator[Frame]:
        yield from super().frames()
        raise CameraError("the cable is loose")


def test_a_camera_that_fails_still_ends_the_visit() -> None:
    sink = MemorySink()
    with pytest.raises(CameraError, match="cable"):
        replay(BreakingCamera([BIRD] * 4), sink=sink)
    assert [change.kind for change in visits(sink)] == ["start", "end"]
    assert len(sink.events) == 4 + 2


def read_rgb(path: str) -> Image:
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def test_the_snapshot_is_there_when_the_alert_comes(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Checking(MemorySink):
        def emit(self, event: object) -> None:
            if isinstance(event, VisitChanged):
                seen.append(Path(str(event.visit.snapshot)).is_file())

    folder = tmp_path / "new" / "folder"
    replay(FakeCamera([BIRD] * 3), snapshots=Snapshots(folder), sink=Checking())
    assert seen == [True, True]
    [picture] = folder.iterdir()
    assert read_rgb(str(picture)).shape == BIRD.shape


def test_the_oldest_snapshots_make_room_for_new_ones(tmp_path: Path) -> None:
    mine = tmp_path / "holiday.jpg"
    mine.write_bytes(b"x" * 50_000)
    os.utime(mine, (0, 0))
    for day in range(1, 10):
        old = tmp_path / f"feeder-2024010{day}T120000.jpg"
        old.write_bytes(b"x" * 10_000)
        os.utime(old, (day * 86400, day * 86400))
    replay(FakeCamera([BIRD] * 3), snapshots=Snapshots(tmp_path, keep_mb=0.045))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[0] == "feeder-19700101T000000000.jpg"
    assert left[1:-1] == [f"feeder-2024010{day}T120000.jpg" for day in (6, 7, 8, 9)]
    assert left[-1] == mine.name


def test_a_folder_that_vanishes_costs_the_picture_and_not_the_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "snapshots"
    snapshots = Snapshots(folder)
    folder.rmdir()
    sink, _ = replay(FakeCamera([BIRD] * 3 + [EMPTY] * 9 + [BIRD] * 3), snapshots=snapshots)
    assert [change.visit.snapshot for change in visits(sink)] == [None] * 4
    assert len([r for r in caplog.records if "without a picture" in r.getMessage()]) == 1


# live cameras

RNG = np.random.default_rng(0)


def noisy(image: Image, light: float = 1.0) -> Image:
    grey = np.maximum(image, 60) * light + RNG.normal(0, 3, image.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def healths(sink: MemorySink) -> list[Health]:
    return [event for event in sink.events if isinstance(event, Health)]


class LosingCamera(FakeCamera):
    """Is lost for some seconds after its first pictures."""

    def __init__(self, before: list[Image], lost_s: int, after: list[Image]) -> None:
        super().__init__([*before, *after])
        self._before, self._lost_s = len(before), lost_s

    def frames(self) -> Iterator[Frame | Silence]:
        for frame in super().frames():
            shift = self._lost_s if frame.index >= self._before else 0
            if frame.index == self._before:
                for second in range(1, self._lost_s + 1):
                    now_s = frame.monotonic_s + second
                    yield Silence(now_s, now_s, lost=True, error="loose")
            now_s = frame.monotonic_s + shift + (shift > 0)
            yield Frame(frame.image, frame.index, now_s, now_s, "fake")


def test_a_visit_ends_and_health_is_reported_while_the_camera_is_lost() -> None:
    bird = [noisy(BIRD) for _ in range(5)]
    sink, summary = replay(LosingCamera(bird, 60, bird), live=True)
    assert [change.kind for change in visits(sink)] == ["start", "end", "start", "end"]
    assert [health.faults for health in healths(sink)] == [(), ("lost",), ("lost",), ()]
    assert healths(sink)[1].last_error == "loose"
    assert summary.frames == 10


def test_in_the_dark_nothing_is_looked_for() -> None:
    night = [noisy(BIRD, 0.02) for _ in range(100)]
    sink, summary = replay(FakeCamera(night), live=True, threshold=0.01)
    looked = [event.detections for event in sink.events if isinstance(event, FrameProcessed)]
    # until it is sure
    assert len(summary.detect_ms) == 50
    assert len(looked) == 100
    assert healths(sink)[-1].dark == (len(healths(sink)) > 1)


def test_a_change_of_size_does_not_mix_old_places_with_new_ones() -> None:
    large = [np.repeat(np.repeat(noisy(BIRD), 2, axis=0), 2, axis=1) for _ in range(6)]
    small = [noisy(BIRD) for _ in range(6)]
    sink, _ = replay(FakeCamera([*small, *large]), live=True)
    processed = [event for event in sink.events if isinstance(event, FrameProcessed)]
    before, after = processed[5].tracks, processed[6].tracks
    assert not {track.id for track in before} & {track.id for track in after}
    assert ("size",) in [health.faults for health in healths(sink)]


def test_birds_outside_the_zones_are_not_there() -> None:
    left = ((0.0, 0.0), (0.3, 0.0), (0.3, 1.0), (0.0, 1.0))
    sink, _ = replay(FakeCamera([BIRD] * 5), zones=Zones(ZoneSettings(zones=[left])))
    assert visits(sink) == []


def test_a_still_small_bird_is_found_within_the_patrol_time() -> None:
    tiny = np.zeros((240, 320, 3), np.uint8)
    tiny[120:146, 200:226] = 255  # fades in the whole frame, stands out in a tile
    plan = Schedule(ScheduleSettings(patrol_s=3.0))
    sink, _ = replay(FakeCamera([tiny] * 40, fps=5), plan=plan, threshold=0.3)
    [start, _] = visits(sink)
    assert start.visit.started_utc_s <= 3.0


def test_a_bird_of_clay_is_given_up_after_a_while() -> None:
    frames = [noisy(BIRD * (190 / 255)) for _ in range(300)]  # a score of 0.98
    sink, _ = replay(FakeCamera(frames, fps=1), live=True)
    start, end = visits(sink)
    assert (start.kind, end.kind) == ("start", "end")
    assert end.visit.duration_s < 130


CLAY = BIRD * (190 / 255)


def test_a_bird_of_clay_is_still_known_after_hours_without_detection() -> None:
    controls = Controls(0.6)

    def switch(enabled: bool) -> None:
        controls.enabled = enabled

    frames = [noisy(CLAY) for _ in range(300)]
    actions = {30: lambda: switch(False), 270: lambda: switch(True)}  # 4800 s
    sink, _ = replay(Switching(frames, actions, fps=1 / 20), live=True, controls=controls)
    assert [change.kind for change in visits(sink)] == ["start", "end"]


def test_a_change_of_size_makes_places_unknown_to_the_evidence() -> None:
    lower = np.concatenate([CLAY, 0 * CLAY[-16:]])
    assert max(lower.shape) == max(CLAY.shape)
    frames = [noisy(CLAY) for _ in range(30)] + [noisy(lower) for _ in range(30)]
    sink, _ = replay(FakeCamera(frames, fps=1 / 20), live=True)
    assert [change.kind for change in visits(sink)] == ["start", "end"] * 2


def test_a_still_scene_costs_few_looks() -> None:
    plan = Schedule(ScheduleSettings(patrol_s=3.0))
    _, summary = replay(FakeCamera([noisy(EMPTY) for _ in range(150)], fps=5), plan=plan, live=True)
    assert summary.frames == 150
    # seven places in three seconds, and more only while the gate settles
    assert len(summary.detect_ms) <= 30 * 7 / 3 + 15
