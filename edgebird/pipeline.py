"""The loop: camera -> detector -> tracker -> visits -> sinks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from edgebird.camera import Camera
from edgebird.controls import Controls
from edgebird.detector import Detector
from edgebird.schedule import RegionPlan
from edgebird.sinks import Sink
from edgebird.snapshots import Snapshots
from edgebird.structures import Detections, FrameProcessed, SnapshotTaken, Track, VisitChanged
from edgebird.tracker import Tracker
from edgebird.visits import Visits


@dataclass
class Summary:
    """What a run did; of the times only the latest are kept, for a run may last for months."""

    frames: int = 0
    visits: int = 0
    detect_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1000))

    def __str__(self) -> str:
        frames = f"{self.frames} frame{'s' * (self.frames != 1)}"
        visits = f"{self.visits} visit{'s' * (self.visits != 1)}"
        pace = f", {median(self.detect_ms):.0f} ms per frame" if self.detect_ms else ""
        return f"{frames}, {visits}{pace}"


def run(
    *,
    camera: Camera,
    camera_name: str,
    plan: RegionPlan,
    detector: Detector,
    controls: Controls,
    tracker: Tracker,
    visits: Visits,
    snapshots: Snapshots | None,
    sinks: Sequence[Sink],
    summary: Summary,
    max_frames: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Process frames until the camera has no more, is closed, or ``max_frames`` are done.

    What goes on then is brought to its end: the open visit is reported, also when the camera
    fails. The camera and the sinks belong to the caller, who closes them; ``summary`` counts as
    it goes, so that it also holds after an error.

    Raises:
        CameraError: part of the source could not be read; what was good has been processed.
    """

    def report(changes: Sequence[VisitChanged]) -> None:
        for change in changes:
            summary.visits += change.kind == "start"
            complete = snapshots.save(change) if snapshots else change
            for sink in sinks:
                sink.emit(complete)

    tracks: tuple[Track, ...] = ()
    try:
        for frame in camera.frames():
            started_s = time.perf_counter()
            regions = plan(*frame.size, tracks)
            detections = Detections.none()
            if controls.enabled:
                detections = detector.detect(frame.image, regions, threshold=controls.threshold)
            detect_ms = (time.perf_counter() - started_s) * 1000
            tracks = tracker.update(detections, frame.monotonic_s)
            snapshot = controls.take_snapshot()
            for sink in sinks:
                sink.emit(FrameProcessed(camera_name, frame, detections, tracks, detect_ms))
                if snapshot:
                    sink.emit(SnapshotTaken(camera_name, frame))
            report(visits.update(frame, tracks))
            summary.frames += 1
            summary.detect_ms.append(detect_ms)
            on_frame()
            if summary.frames == max_frames:
                break
    finally:
        report(visits.finish())
