"""The plain values that travel through the pipeline. No I/O here.

Boxes are always ``xyxy``: left, top, right, bottom in pixels of the full frame, half-open
(the pixel column ``right`` is the first one outside). Units stand in the names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Boxes = NDArray[np.float32]
    Scores = NDArray[np.float32]
else:
    # what only tells of visits (`edgebird watch`, `visits`) does without numpy and its 12 MB
    Image = Boxes = Scores = Any
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture with the time it was taken.

    Args:
        image: uint8, shape (height, width, 3), RGB.
        index: 0 for the first frame of its source.
        monotonic_s: capture time in seconds that never runs backwards; for a video its position.
        utc_s: capture time as seconds since 1970-01-01 UTC.
        source: the camera's or the file's name.
        luma: a small picture of its brightness, uint8 (h, w), where the camera makes one itself.

    Raises:
        ValueError: the image is not uint8 of shape (H, W, 3), or is empty.
    """

    image: Image
    index: int
    monotonic_s: float
    utc_s: float
    source: str
    luma: Image | None = None

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.image.dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"expected uint8 (H, W, 3), got {self.image.dtype} {shape}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True, slots=True)
class Silence:
    """No frame: a live camera yields this about each second in which none comes.

    Args:
        monotonic_s: when, in the time of the frames.
        utc_s: when, as seconds since 1970-01-01 UTC.
        lost: the camera is being opened again, it is not just slow.
        error: why, as far as it is known.
    """

    monotonic_s: float
    utc_s: float
    lost: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The birds found in one frame, best first.

    Args:
        xyxy: float32, shape (N, 4), pixels of the full frame.
        score: float32, shape (N,), confidence from 0 to 1.

    Raises:
        ValueError: shapes do not agree, or a value is not a finite number.
    """

    xyxy: Boxes
    score: Scores

    def __post_init__(self) -> None:
        import numpy as np

        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4:
            raise ValueError(f"expected boxes of shape (N, 4), got {self.xyxy.shape}")
        if self.score.shape != (len(self.xyxy),):
            raise ValueError(f"{len(self.xyxy)} boxes but scores of shape {self.score.shape}")
        if not (np.isfinite(self.xyxy).all() and np.isfinite(self.score).all()):
            raise ValueError("boxes and scores must be finite numbers")

    def __len__(self) -> int:
        return len(self.score)

    @staticmethod
    def none() -> Detections:
        """No birds."""
        import numpy as np

        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def rows(self) -> list[tuple[Box, float]]:
        """Box and score of each, as plain numbers."""
        return [
            ((left, top, right, bottom), score)
            for (left, top, right, bottom), score in zip(
                self.xyxy.tolist(), self.score.tolist(), strict=True
            )
        ]

    def above(self, threshold: float) -> Detections:
        """Those that score at least ``threshold``."""
        keep = self.score >= threshold
        return Detections(self.xyxy[keep], self.score[keep])

    def rescored(self, score: Scores) -> Detections:
        """The same boxes with other scores, (N,), best first; equal ones stay in their order."""
        import numpy as np

        order = np.argsort(-score, kind="stable")
        return Detections(self.xyxy[order], score[order])


class TrackState(StrEnum):
    """Where a track is in its life."""

    TENTATIVE = "tentative"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class Track:
    """One bird followed over several frames.

    ``hits`` counts the frames in which it was detected; times are the frames' ``monotonic_s``.
    """

    id: int
    xyxy: Box
    score: float
    hits: int
    first_seen_s: float
    last_seen_s: float
    best_score: float
    state: TrackState


@dataclass(frozen=True, slots=True)
class Visit:
    """A stay of one or more birds at the feeder, from the first to the last moment seen.

    ``ended_utc_s`` is None while the visit goes on. ``snapshot`` is the path of the picture
    of the best shot, None where none is kept.
    """

    id: str
    camera: str
    started_utc_s: float
    duration_s: float
    ended_utc_s: float | None
    peak_count: int
    best_score: float
    best_xyxy: Box
    frame_size: tuple[int, int]
    snapshot: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.started_utc_s):
            raise ValueError(f"a visit cannot start at {self.started_utc_s}")


@dataclass(frozen=True, slots=True, eq=False)
class FrameProcessed:
    """Event: a frame went through the detector and the tracker."""

    camera: str
    frame: Frame
    detections: Detections
    tracks: tuple[Track, ...]
    inference_ms: float

    def birds(self) -> list[tuple[Box, float, int | None]]:
        """Box, score and track id of each detection; None where it belongs to no track."""
        # the tracker copies a detection's box into the track it goes to
        seen_now = [track for track in self.tracks if track.last_seen_s == self.frame.monotonic_s]
        ids = {track.xyxy: track.id for track in seen_now}
        return [(box, score, ids.get(box)) for box, score in self.detections.rows()]


@dataclass(frozen=True, slots=True, eq=False)
class VisitChanged:
    """Event: a visit began or came to its end. This is the alert.

    ``best_image`` is the full frame of the best shot so far, uint8 (H, W, 3), RGB; ``best_birds``
    are all birds seen in it, box and score of each.
    """

    kind: Literal["start", "end"]
    visit: Visit
    best_image: Image | None = None
    best_birds: tuple[tuple[Box, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SnapshotTaken:
    """Event: the frame at hand, which somebody asked for."""

    camera: str
    frame: Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Event: how a camera and its loop are doing. None stands for what is not known.

    Args:
        camera: its name.
        utc_s: when this was so.
        fps: frames processed a second, over the time since the last report.
        inference_ms: median time in the detector for a frame.
        frame_age_s: time since the newest frame was captured.
        dropped_frames: frames that were replaced by newer ones before they were looked at, in all.
        faults: what is wrong with the camera now, in one word each: ``lost``, ``frozen``, ...
        temperature_c: of the processor.
        load_1min: the system's load average.
        memory_mib: resident memory of this process.
        disk_used_mb: what edgebird keeps on disk.
        written_mb_per_day: what it wrote there within the last 24 hours, over restarts.
        disk_problem: why visits or pictures are not stored now, or alerts not sent, as one line.
        last_error: the latest problem as one line.
        dark: it is too dark to see birds, and detection pauses.
        degraded: what the budget of the processor does not allow now, ``patrol`` (birds that keep
            still are found later) or ``rate`` (frames are skipped).
        detect_ms_per_s: processor time spent in the detector for each second of camera time.
    """

    camera: str
    utc_s: float
    fps: float | None = None
    inference_ms: float | None = None
    frame_age_s: float | None = None
    dropped_frames: int = 0
    faults: tuple[str, ...] = ()
    temperature_c: float | None = None
    load_1min: float | None = None
    memory_mib: float | None = None
    disk_used_mb: float | None = None
    written_mb_per_day: float | None = None
    disk_problem: str | None = None
    last_error: str | None = None
    dark: bool = False
    degraded: str | None = None
    detect_ms_per_s: float | None = None


Event = FrameProcessed | VisitChanged | SnapshotTaken | Health
