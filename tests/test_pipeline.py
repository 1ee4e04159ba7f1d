"""The loop with fakes at its seams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_conv_detector import card, scene

from edgebird.camera import Camera
from edgebird.controls import Controls
from edgebird.detector.conv import ConvDetector
from edgebird.errors import CameraError
from edgebird.pipeline import Summary, run
from edgebird.schedule import Patrol, RegionPlan
from edgebird.snapshots import Snapshots
from edgebird.structures import (
    Frame,
    FrameProcessed,
    Image,
    SnapshotTaken,
    Track,
    TrackState,
    VisitChanged,
)
from edgebird.testing import FakeCamera, FakeInterpreter, MemorySink
from edgebird.tiles import Region, tile_regions
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings

EMPTY = scene()
BIRD = scene()
BIRD[32:48, 48:64] = 255  # one cell of the whole frame


def scan_whole(width: int, height: int, tracks: Sequence[Track]) -> list[Region]:
    return [(0, 0, width, height)]


def replay(
    camera: Camera,
    *,
    plan: RegionPlan = scan_whole,
    threshold: float = 0.6,
    snapshots: Snapshots | None = None,
    sink: MemorySink | None = None,
    max_frames: int | None = None,
    controls: Controls | None = None,
) -> tuple[MemorySink, Summary]:
    sink, summary = sink or MemorySink(), Summary()
    run(
        camera=camera,
        camera_name="feeder",
        plan=plan,
        detector=ConvDetector(FakeInterpreter(half_side_px=12), card()),
        controls=controls or Controls(threshold),
        tracker=Tracker(TrackerSettings(sure_score=1.0)),
        visits=Visits("feeder", VisitSettings(quiet_s=1.0)),
        snapshots=snapshots,
        sinks=[sink],
        summary=summary,
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


class Switching(FakeCamera):
    """Does something with the controls before a frame."""

    def __init__(self, images: list[Image], actions: dict[int, Callable[[], None]]) -> None:
        super().__init__(images)
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


def test_a_folder_that_vanishes_costs_the_picture_and_not_the_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "snapshots"
    snapshots = Snapshots(folder)
    folder.rmdir()
    sink, _ = replay(FakeCamera([BIRD] * 3 + [EMPTY] * 9 + [BIRD] * 3), snapshots=snapshots)
    assert [change.visit.snapshot for change in visits(sink)] == [None] * 4
    assert len([r for r in caplog.records if "without a picture" in r.getMessage()]) == 1


def bird_at(left: float, top: float, side: float) -> Track:
    box = (left, top, left + side, top + side)
    return Track(1, box, 0.9, 2, 0.0, 1.0, 0.9, TrackState.CONFIRMED)


def test_a_patrol_visits_every_tile_and_looks_at_the_whole_frame_each_time() -> None:
    patrol, tiles = Patrol(), tile_regions(640, 480)
    rounds = [patrol(640, 480, []) for _ in tiles]
    assert all(regions[0] == (0, 0, 640, 480) for regions in rounds)
    assert {region for regions in rounds for region in regions[1:]} == set(tiles)


def test_a_patrol_follows_small_birds_closely_and_large_ones_not() -> None:
    patrol = Patrol()
    small = patrol(640, 480, [bird_at(400, 300, 30)])
    assert len(small) == 3
    left, top, right, bottom = small[1]
    assert left < 400
    assert top < 300
    assert right > 430
    assert bottom > 330
    assert len(patrol(640, 480, [bird_at(100, 100, 300)])) == 2


def test_a_still_small_bird_is_found_within_one_round_of_the_patrol() -> None:
    tiny = np.zeros((240, 320, 3), np.uint8)
    tiny[120:146, 200:226] = 255  # fades in the whole frame, stands out in a tile
    count = len(tile_regions(320, 240))
    sink, _ = replay(FakeCamera([tiny] * (count + 2)), plan=Patrol(), threshold=0.3)
    assert [change.kind for change in visits(sink)] == ["start", "end"]
