"""The loop with fakes at its seams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import pytest
from test_conv_detector import card, scene

from edgebird.camera import Camera
from edgebird.detector.conv import ConvDetector
from edgebird.errors import CameraError
from edgebird.motion import Motion
from edgebird.pipeline import Summary, run
from edgebird.schedule import RegionPlan, ScanEverything
from edgebird.snapshots import Snapshots
from edgebird.structures import Frame, FrameProcessed, Image, Track, VisitChanged
from edgebird.testing import FakeCamera, FakeInterpreter, MemorySink
from edgebird.tiles import Region
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings

EMPTY = scene()
BIRD = scene()
BIRD[32:48, 48:64] = 255  # one cell of the whole frame


class ScanWhole(ScanEverything):
    def regions(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        return [(0, 0, *frame.size)]


def replay(
    camera: Camera,
    *,
    plan: RegionPlan | None = None,
    threshold: float = 0.6,
    snapshots: Snapshots | None = None,
    sink: MemorySink | None = None,
    max_frames: int | None = None,
) -> tuple[MemorySink, Summary]:
    sink, summary = sink or MemorySink(), Summary()
    run(
        camera=camera,
        camera_name="feeder",
        plan=plan or ScanWhole(),
        detector=ConvDetector(FakeInterpreter(half_side_px=12), card()),
        threshold=threshold,
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
