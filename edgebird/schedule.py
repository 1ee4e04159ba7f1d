"""Which parts of a frame to look at, and how much of the processor that may take."""

from __future__ import annotations

import math
from collections import deque
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
# Looks farther apart than that are seldom: what is out of sight then may be there all the same.
_SELDOM_S = 0.5
# Until after the next look of a slow board.
_LEAST_GAP_S = 0.5
_LATEST_STEPS = 3
# The next look may miss a bird, the one after it finds it again.
_STEPS_OUT_OF_SIGHT = 2.5
# After so long a time and so many steps of before without a frame, a recording was continued.
_BREAK_S = 60.0
_BREAK_STEPS = 10


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


class Pace:
    """How seldom looks are: that nobody looked is no sign that a bird has left.

    With few frames, or with a budget that allows few looks, more time may pass from one look to the
    next than a bird may be out of sight.

    Attributes:
        gap_s: for how long a bird may be out of sight at least.
    """

    def __init__(self) -> None:
        self.gap_s = _LEAST_GAP_S
        self._last_s: float | None = None
        self._steps_s: deque[float] = deque(maxlen=_LATEST_STEPS)
        self._frame_s = -math.inf
        self._frame_step_s = math.inf

    def frame(self, now_s: float) -> None:
        """Take note of a frame, looked at or not: before one that comes far later than those before
        it there was a pause.
        """
        step_s = now_s - self._frame_s
        if step_s > max(_BREAK_S, _BREAK_STEPS * self._frame_step_s):
            self.pause()
        self._frame_s, self._frame_step_s = now_s, step_s

    def look(self, now_s: float) -> None:
        """Take note of a look, in the time of the frames."""
        if self._last_s is not None:
            self._steps_s.append(now_s - self._last_s)
            step_s = max(self._steps_s)
            self.gap_s = _STEPS_OUT_OF_SIGHT * step_s if step_s > _SELDOM_S else _LEAST_GAP_S
        self._last_s = now_s

    def pause(self) -> None:
        """Nothing is looked for now; the time until the next look says nothing of the pace."""
        self._last_s = None


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

    The whole frame first, then tiles at full resolution around the smaller birds that are followed,
    in turn where they are many, and around what moves, then the next tile of a patrol over all of
    them. When nothing moves only the patrol goes on, at the rate that ``patrol_s`` asks for, with
    the whole frame as one of its stops.

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
        # Counted, not timed: those of one frame would all have waited for as long, and the first of
        # them would come first each time.
        self._close_looks_had = 0
        self._close_look_number: dict[int, int] = {}

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
        close: dict[Region, list[int]] = {}
        wanted: list[Region] = []
        if now_s < self._alert_until_s:
            close = self._close_looks(frame, motion, tracks)
            wanted = [stops[0], *close]
        patrols = max(int(self._patrols_due), len(wanted[:1]))
        on_patrol = [stops[(self._turn + i) % len(stops)] for i in range(patrols)]
        affordable = max(0, int(self._credit_ms / self._region_ms))
        chosen = [*wanted, *on_patrol][:affordable]
        patrolled = max(0, len(chosen) - len(wanted))
        self._turn += patrolled
        self._patrols_due = max(0.0, self._patrols_due - patrolled)
        self._note_close_looks(tracks, [i for tile in chosen for i in close.get(tile, [])])
        self._note_shortage(len(wanted) + patrols, len(chosen), now_s)
        # a stop of the patrol may be where we look anyway
        return list(dict.fromkeys(chosen))

    def spent(self, regions: int, ms: float) -> None:
        """Take note of how long the detector took for so many regions."""
        self._credit_ms -= ms
        if regions:
            self._region_ms += 0.1 * (ms / regions - self._region_ms)

    def _close_looks(
        self, frame: Frame, motion: Motion, tracks: Sequence[Track]
    ) -> dict[Region, list[int]]:
        """Tiles with the ids of the birds they are for: around those that had to wait longest for a
        close look, and around what moves, for which one is kept where no bird explains it.
        """
        limit_px = _LARGE_BIRD_SHARE * max(frame.size)
        waiting = sorted(tracks, key=lambda track: self._close_look_number.get(track.id, -1))
        moving: list[Box] = [(b[0], b[1], b[2], b[3]) for b in motion.boxes.tolist()]
        unknown = [
            box
            for box in moving
            if _length(box) < limit_px and not any(_has_centre(t.xyxy, box) for t in tracks)
        ]
        tiles: dict[Region, list[int]] = {}

        def look_at(box: Box, ids: list[int], most: int) -> None:
            if _length(box) >= limit_px:
                return
            # one tile often shows several
            for tile in tiles:
                if _well_inside(box, tile, frame.size):
                    tiles[tile] += ids
                    return
            tile = tile_around(box, *frame.size)
            if tile in tiles or len(tiles) < most:
                tiles.setdefault(tile, []).extend(ids)

        for track in waiting:
            look_at(track.xyxy, [track.id], _MAX_CLOSE_LOOKS - bool(unknown))
        for box in [*unknown, *moving]:
            look_at(box, [], _MAX_CLOSE_LOOKS)
        return tiles

    def _note_close_looks(self, tracks: Sequence[Track], seen: list[int]) -> None:
        fresh = {bird: self._close_looks_had + i for i, bird in enumerate(seen)}
        last = self._close_look_number | fresh
        self._close_looks_had += len(seen)
        self._close_look_number = {track.id: last[track.id] for track in tracks if track.id in last}

    def _note_shortage(self, wanted: int, chosen: int, now_s: float) -> None:
        if chosen < wanted and (not chosen or self.degraded != "rate"):
            self.degraded = "patrol" if chosen else "rate"
            self._shortage_s = now_s
        elif now_s - self._shortage_s > _SHORTAGE_SHOWN_S:
            self.degraded = None


def _length(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _has_centre(box: Box, of: Box) -> bool:
    x, y = (of[0] + of[2]) / 2, (of[1] + of[3]) / 2
    return box[0] <= x < box[2] and box[1] <= y < box[3]


def _well_inside(box: Box, region: Region, frame_size: tuple[int, int]) -> bool:
    """Whether a box is away from all sides of a region beyond which the frame goes on."""
    margin = (region[2] - region[0]) / 8
    return all(
        (region[i] == 0 or box[i] - region[i] > margin)
        and (region[i + 2] == frame_size[i] or region[i + 2] - box[i + 2] > margin)
        for i in (0, 1)
    )
