"""From tracks to visits, the unit a person cares about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from edgebird.structures import Frame, Track, TrackState, Visit, VisitChanged


@dataclass(frozen=True, kw_only=True)
class VisitSettings:
    """When a visit is over.

    Args:
        quiet_s: time without a bird after which the visit has ended.
    """

    quiet_s: float = 2.5


class Visits:
    """Turns the tracks of one camera into visits.

    A visit starts with the first confirmed track and ends when no bird was seen for ``quiet_s``;
    birds that come and go in between belong to it. Its times are those of the first and the last
    detection, so waiting for confirmation and for quiet does not shift them.
    """

    def __init__(self, camera: str, settings: VisitSettings) -> None:
        self._camera = camera
        self._settings = settings
        self._visit: Visit | None = None
        self._first_seen_s = self._last_seen_s = 0.0

    def update(self, frame: Frame, tracks: Sequence[Track]) -> list[VisitChanged]:
        """Take in one frame's tracks; a visit that starts or ends with it."""
        now_s = frame.monotonic_s
        changes = []
        if self._visit is not None and now_s - self._last_seen_s > self._settings.quiet_s:
            changes += self.finish()
        birds = [t for t in tracks if t.state is TrackState.CONFIRMED]
        seen_now = [t for t in birds if t.last_seen_s == now_s]
        if not seen_now:
            return changes
        best = max(seen_now, key=lambda t: t.score)
        self._last_seen_s = now_s
        if self._visit is None:
            self._first_seen_s = min(t.first_seen_s for t in seen_now)
            self._visit = self._begin(frame, best)
            changes.append(VisitChanged("start", self._visit, frame.image))
            self._best_image = frame.image
        self._visit = replace(
            self._visit,
            duration_s=now_s - self._first_seen_s,
            peak_count=max(self._visit.peak_count, len(birds)),
        )
        if best.score > self._visit.best_score:
            self._visit = replace(
                self._visit, best_score=best.score, best_xyxy=best.xyxy, frame_size=frame.size
            )
            self._best_image = frame.image
        return changes

    def finish(self) -> list[VisitChanged]:
        """End the visit that goes on, if any: at quiet, or when the source ends."""
        if self._visit is None:
            return []
        visit, self._visit = self._visit, None
        ended = replace(visit, ended_utc_s=visit.started_utc_s + visit.duration_s)
        return [VisitChanged("end", ended, self._best_image)]

    def _begin(self, frame: Frame, best: Track) -> Visit:
        duration_s = frame.monotonic_s - self._first_seen_s
        started_utc_s = frame.utc_s - duration_s
        # A quiet time of seconds lies between visits, so the second makes them unique.
        started = datetime.fromtimestamp(started_utc_s, UTC)
        return Visit(
            id=f"{self._camera}-{started:%Y%m%dT%H%M%S}",
            camera=self._camera,
            started_utc_s=started_utc_s,
            duration_s=duration_s,
            ended_utc_s=None,
            peak_count=1,
            best_score=best.score,
            best_xyxy=best.xyxy,
            frame_size=frame.size,
        )
