"""From tracks to visits, the unit a person cares about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from edgebird.structures import Box, Frame, Image, Track, TrackState, Visit, VisitChanged
from edgebird.tracker import birds_at_once
from edgebird.visit_ids import visit_id


@dataclass(frozen=True, kw_only=True)
class VisitSettings:
    """When a visit is over.

    Args:
        quiet_s: time without a bird after which the visit has ended; longer where looks are seldom.
        cooldown_s: after a visit no other begins for so long; a bird that is still there then
            begins one.
    """

    quiet_s: float = 2.5
    cooldown_s: float = 0.0


class Visits:
    """Turns the tracks of one camera into visits.

    A visit starts with the first confirmed track and ends when no bird was seen for ``quiet_s``;
    birds that come and go in between belong to it. Its times are those of the first and the last
    detection, so waiting for confirmation and for quiet does not shift them.

    Args:
        camera: its name.
        settings: when a visit is over; may be replaced between two frames.
    """

    def __init__(self, camera: str, settings: VisitSettings) -> None:
        self._camera = camera
        self.settings = settings
        self._visit: Visit | None = None
        self._first_seen_s = self._last_seen_s = -math.inf

    def update(
        self, frame: Frame, tracks: Sequence[Track], *, least_gap_s: float = 0.0
    ) -> list[VisitChanged]:
        """Take in one frame's tracks; a visit that starts or ends with it.

        Args:
            frame: with its time.
            tracks: all that are alive.
            least_gap_s: in place of a smaller ``quiet_s``; see `Pace`.
        """
        now_s = frame.monotonic_s
        changes = self.pass_time(now_s, least_gap_s=least_gap_s)
        seen_now = [t for t in tracks if t.state is TrackState.CONFIRMED and t.last_seen_s == now_s]
        cools_down = now_s < self._last_seen_s + self.settings.cooldown_s
        if not seen_now or (self._visit is None and cools_down):
            return changes
        best = max(seen_now, key=lambda t: t.score)
        quality = shot_quality(frame.image, best.xyxy, best.score)
        shown = tuple((track.xyxy, track.score) for track in seen_now)
        birds = birds_at_once(tracks)
        if self._visit is None:
            # A bird of the visit before, which its track outlasted, is here anew from now on.
            arrivals = [t.first_seen_s for t in seen_now if t.first_seen_s > self._last_seen_s]
            self._first_seen_s = min(arrivals, default=now_s)
            self._visit = self._begin(frame, best, birds)
            changes.append(VisitChanged("start", self._visit, frame.image, shown))
            self._best_image, self._best_birds, self._best_quality = frame.image, shown, quality
        self._last_seen_s = now_s
        self._visit = replace(
            self._visit,
            duration_s=now_s - self._first_seen_s,
            peak_count=max(self._visit.peak_count, birds),
        )
        if quality > self._best_quality:
            self._visit = replace(
                self._visit, best_score=best.score, best_xyxy=best.xyxy, frame_size=frame.size
            )
            self._best_image, self._best_birds, self._best_quality = frame.image, shown, quality
        return changes

    def pass_time(self, now_s: float, *, least_gap_s: float = 0.0) -> list[VisitChanged]:
        """End the visit that goes on if it has been quiet for long enough; for when no frame comes.

        Args:
            now_s: in the time of the frames.
            least_gap_s: in place of a smaller ``quiet_s``; see `Pace`.
        """
        quiet_s = max(self.settings.quiet_s, least_gap_s)
        if self._visit is None or now_s - self._last_seen_s <= quiet_s:
            return []
        return self.finish()

    def finish(self) -> list[VisitChanged]:
        """End the visit that goes on, if any: at quiet, or when the source ends."""
        if self._visit is None:
            return []
        visit, self._visit = self._visit, None
        ended = replace(visit, ended_utc_s=visit.started_utc_s + visit.duration_s)
        return [VisitChanged("end", ended, self._best_image, self._best_birds)]

    def _begin(self, frame: Frame, best: Track, birds: int) -> Visit:
        duration_s = frame.monotonic_s - self._first_seen_s
        started_utc_s = frame.utc_s - duration_s
        return Visit(
            id=visit_id(self._camera, started_utc_s),
            camera=self._camera,
            started_utc_s=started_utc_s,
            duration_s=duration_s,
            ended_utc_s=None,
            peak_count=birds,
            best_score=best.score,
            best_xyxy=best.xyxy,
            frame_size=frame.size,
        )


def shot_quality(image: Image, xyxy: Box, score: float) -> float:
    """How good a picture of a bird is: sure, large, sharp, and not cut by the frame's border.

    Args:
        image: uint8 (H, W, 3).
        xyxy: the bird.
        score: 0 to 1.

    Returns:
        Above 0, higher is better; only good for comparing pictures of one camera.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = (round(value) for value in xyxy)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right - left < 3 or bottom - top < 3:
        return 0.0
    cut = left <= 1 or top <= 1 or right >= width - 1 or bottom >= height - 1
    size = max(right - left, bottom - top) / max(width, height)
    # every n-th pixel: how sharp it looks at the size of a thumbnail
    step = max(1, max(right - left, bottom - top) // 96)
    green = np.ascontiguousarray(image[top:bottom:step, left:right:step, 1])
    _, edges = cv2.meanStdDev(cv2.Laplacian(green, cv2.CV_16S))
    sharpness = 1 - math.exp(-float(edges[0, 0]) / 20)
    return score * (0.5 + 0.5 * sharpness) * math.sqrt(size) * (0.5 if cut else 1.0)
