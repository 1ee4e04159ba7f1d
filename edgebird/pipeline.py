"""The loop: camera -> faults -> motion -> schedule -> detect -> track -> visits -> sinks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import cv2

from edgebird.camera import Camera
from edgebird.controls import Controls
from edgebird.detector import Detector
from edgebird.evidence import Evidence
from edgebird.faults import FaultWatch
from edgebird.health import HealthReporter
from edgebird.motion import Motion, MotionGate, small_luma
from edgebird.schedule import Pace, RegionPlan
from edgebird.service import Service
from edgebird.sinks import Sink
from edgebird.snapshots import Snapshots
from edgebird.structures import (
    Detections,
    Event,
    Frame,
    FrameProcessed,
    Silence,
    SnapshotTaken,
    Track,
    VisitChanged,
)
from edgebird.tracker import Tracker
from edgebird.visits import Visits
from edgebird.zones import Zones


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


@dataclass(frozen=True, kw_only=True)
class Senses:
    """What a camera that stays in its place and goes on for ever is watched with.

    Args:
        watch: its faults, and the light.
        gate: what moves.
        evidence: what that says about a detection.
    """

    watch: FaultWatch
    gate: MotionGate
    evidence: Evidence


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
    zones: Zones | None = None,
    senses: Senses | None = None,
    health: HealthReporter | None = None,
    service: Service | None = None,
    max_frames: int | None = None,
    reload: Callable[[], None] = lambda: None,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Process frames until the camera has no more, is closed, or ``max_frames`` are done.

    What goes on then is brought to its end: the open visit is reported, also when the camera
    fails. The camera and the sinks belong to the caller, who closes them; ``summary`` counts as
    it goes, so that it also holds after an error. Time is that of the frames throughout.
    Between frames ``reload`` may give the parts other settings.

    Raises:
        CameraError: part of the source could not be read; what was good has been processed.
    """

    def tell(event: Event) -> None:
        for sink in sinks:
            sink.emit(event)

    def tell_visits(changes: Sequence[VisitChanged]) -> None:
        for change in changes:
            summary.visits += change.kind == "start"
            tell(snapshots.save(change) if snapshots else change)

    def tell_health(moment: Frame | Silence, faults: tuple[str, ...], dark: bool) -> None:
        if health and (
            report := health.report(
                moment,
                faults=faults,
                dark=dark,
                degraded=plan.degraded if controls.enabled and not blind else None,
            )
        ):
            tell(report)

    # threads of OpenCV's own would take cores from the network, and gain little on small pictures
    cv2.setNumThreads(1)
    tracks: tuple[Track, ...] = ()
    faults: tuple[str, ...] = ()
    blind = dark = False
    pace = Pace()
    try:
        for frame in camera.frames():
            if service:
                service.alive(frame)
            reload()
            if isinstance(frame, Silence):
                if frame.lost:
                    pace.pause()
                tell_visits(visits.pass_time(frame.monotonic_s, least_gap_s=pace.gap_s))
                tell_health(frame, ("lost",) if frame.lost else faults, dark=dark)
                continue

            # faults and light
            if senses:
                luma = small_luma(frame)
                senses.watch.check(frame, luma)
                faults, dark, blind = senses.watch.faults, senses.watch.dark, senses.watch.blind
                if senses.watch.resized:
                    tracker.reset()
                    senses.evidence.reset()
                    tracks = ()

            # motion
            motion = Motion.none()
            if senses and not blind:
                motion = senses.gate.update(frame, luma, tracks)

            # schedule
            pace.frame(frame.monotonic_s)
            wanted = controls.enabled and not blind
            regions = plan.regions(frame, motion, tracks) if wanted else []
            if regions:
                pace.look(frame.monotonic_s)
            elif not wanted:
                pace.pause()

            # detect
            started_s, processor_s = time.perf_counter(), time.process_time()
            detections = Detections.none()
            threshold = controls.threshold
            floor = senses.evidence.floor(threshold) if senses else threshold
            if regions:
                detections = detector.detect(frame.image, regions, threshold=floor)
            detect_ms = (time.perf_counter() - started_s) * 1000
            processor_ms = (time.process_time() - processor_s) * 1000
            plan.spent(len(regions), processor_ms)
            if senses and regions:
                weighed = senses.evidence.weigh(detections, motion, frame.monotonic_s)
                # or a clay bird, however little it counts, would continue its track for ever
                detections = weighed.above(floor)
            if zones:
                detections = zones.inside(detections, *frame.size)

            # track: what is too weak to be reported may still continue a track
            tracks = tracker.update(
                detections, frame.monotonic_s, start_score=threshold, least_gap_s=pace.gap_s
            )
            found = detections.above(threshold)
            tell(FrameProcessed(camera_name, frame, found, tracks, detect_ms))
            if controls.take_snapshot():
                tell(SnapshotTaken(camera_name, frame))

            # visits
            tell_visits(visits.update(frame, tracks, least_gap_s=pace.gap_s))

            summary.frames += 1
            if regions:
                summary.detect_ms.append(detect_ms)
            if health:
                health.frame(frame, detect_ms if regions else None, processor_ms)
                tell_health(frame, faults, dark=dark)
            on_frame()
            if summary.frames == max_frames:
                break
    finally:
        tell_visits(visits.finish())
