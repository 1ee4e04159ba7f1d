"""Which parts of a frame to look at, and how much of the processor that may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgebird.motion import Motion
from edgebird.structures import Box, Frame, Track
from edgebird.tiles import Region, scan_regions, tile_around

# A bird this long, as a share of the frame's longer side, is seen well in the whole frame.
_LARGE_BIRD_SHARE = 0.2
_MAX_CLOSE_LOOKS = 3
# After motion or a bird the whole frame is looked at for so long, each time.
_ALERT_S = 1.0
# Unused time is saved up for so long: a bird that lands after a quiet minute gets all it needs.
_SAVED_S = 2.0
_FIRST_GUESS_MS = 20.0
# A shortage is told of until it has been over for so long.
_SHORTAGE_SHOWN_S = 5.0


class RegionPlan(Protocol):
    """Decides where the detector looks."""

    degraded: str | None
    """What is done without for lack of time: ``patrol``, ``rate``, or None."""

    def regions(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        """Where to look in this frame; nowhere when there is no reason or no time to."""

    def spent(self, regions: int, ms: float) -> None:
        """Take note of how long the detector took for so many regions."""


class ScanEverything:
    """The whole frame and all of its tiles: for sources that wait for us."""

    degraded: str | None = None

    def regions(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        """All regions, each time."""
        return scan_regions(*frame.size)

    def spent(self, regions: int, ms: float) -> None:
        """It takes what it takes."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How thoroughly to look, and at what cost.

    Args:
        budget_ms_per_s: processor time for the network, in ms for each second of camera time;
            500 is half of one core.
        patrol_s: within this time all parts of a frame are looked at once though nothing moves,
            so that a bird that keeps still is found. Takes longer where the budget is too small.
    """

    budget_ms_per_s: float = 500.0
    patrol_s: float = 10.0


class Schedule:
    """A few regions a frame, for live cameras on small boards.

    The whole frame first, then tiles at full resolution around what moves and around the smaller
    birds that are followed, then the next tile of a patrol over all of them. When nothing moves
    only the patrol goes on, at the rate that ``patrol_s`` asks for, with the whole frame as one of
    its stops.

    All of that is paid from a budget. When it runs short the patrol is given up first, then close
    looks, and then frames are left out.

    Args:
        settings: how much to look; may be replaced between two frames.
    """

    def __init__(self, settings: ScheduleSettings) -> None:
        self.settings = settings
        self.degraded: str | None = None
        self._region_ms = _FIRST_GUESS_MS
        self._credit_ms = settings.budget_ms_per_s * _SAVED_S
        self._last_s: float | None = None
        self._alert_until_s = self._shortage_s = -math.inf
        self._patrols_due = 1.0
        self._turn = 0

    def regions(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        """Where to look in this frame; nowhere when there is no reason or no time to."""
        now_s = frame.monotonic_s
        step_s = 0.0 if self._last_s is None else max(now_s - self._last_s, 0.0)
        self._last_s = now_s
        budget = self.settings.budget_ms_per_s
        # a look that costs more than that is saved up for, however long it takes
        most_ms = max(budget * _SAVED_S, self._region_ms)
        self._credit_ms = min(self._credit_ms + budget * step_s, most_ms)
        stops = scan_regions(*frame.size)
        rate = len(stops) / self.settings.patrol_s
        self._patrols_due = min(self._patrols_due + rate * step_s, float(len(stops)))

        if len(motion.boxes) or motion.light_changed or tracks:
            self._alert_until_s = now_s + _ALERT_S
        wanted: list[Region] = []
        if now_s < self._alert_until_s:
            wanted = [stops[0], *self._close_looks(frame, motion, tracks)]
        patrols = max(int(self._patrols_due), len(wanted[:1]))
        on_patrol = [stops[(self._turn + i) % len(stops)] for i in range(patrols)]
        affordable = max(0, int(self._credit_ms / self._region_ms))
        chosen = [*wanted, *on_patrol][:affordable]
        patrolled = max(0, len(chosen) - len(wanted))
        self._turn += patrolled
        self._patrols_due = max(0.0, self._patrols_due - patrolled)
        self._note_shortage(len(wanted) + patrols, len(chosen), now_s)
        # a stop of the patrol may be where we look anyway
        return list(dict.fromkeys(chosen))

    def spent(self, regions: int, ms: float) -> None:
        """Take note of how long the detector took for so many regions."""
        self._credit_ms -= ms
        if regions:
            self._region_ms += 0.1 * (ms / regions - self._region_ms)

    def _close_looks(self, frame: Frame, motion: Motion, tracks: Sequence[Track]) -> list[Region]:
        """Tiles around followed birds, latest first, and around what moves."""
        limit_px = _LARGE_BIRD_SHARE * max(frame.size)
        followed = sorted(tracks, key=lambda track: -track.last_seen_s)
        moving: list[Box] = [(b[0], b[1], b[2], b[3]) for b in motion.boxes.tolist()]
        boxes = [track.xyxy for track in followed] + moving
        small = [box for box in boxes if max(box[2] - box[0], box[3] - box[1]) < limit_px]
        tiles: list[Region] = []
        for box in small:
            # one tile often shows several
            if len(tiles) < _MAX_CLOSE_LOOKS and not any(_well_inside(box, t) for t in tiles):
                tiles.append(tile_around(box, *frame.size))
        return tiles

    def _note_shortage(self, wanted: int, chosen: int, now_s: float) -> None:
        if chosen < wanted and (not chosen or self.degraded != "rate"):
            self.degraded = "patrol" if chosen else "rate"
            self._shortage_s = now_s
        elif now_s - self._shortage_s > _SHORTAGE_SHOWN_S:
            self.degraded = None


def _well_inside(box: Box, region: Region) -> bool:
    margin = (region[2] - region[0]) / 8
    return (
        box[0] - region[0] > margin
        and box[1] - region[1] > margin
        and region[2] - box[2] > margin
        and region[3] - box[3] > margin
    )
