"""Which parts of a frame to look at.

A plan is a function from a frame's width and height and the current tracks to regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgebird.structures import Track
from edgebird.tiles import Region, scan_regions, tile_around, tile_regions

RegionPlan = Callable[[int, int, Sequence[Track]], list[Region]]

# A bird this long, as a share of the frame's longer side, is seen well in the whole frame.
_LARGE_BIRD_SHARE = 0.2
_MAX_FOLLOWED = 2


def scan_everything(width: int, height: int, tracks: Sequence[Track]) -> list[Region]:
    """The whole frame and all of its tiles: for sources that wait for us."""
    return scan_regions(width, height)


class Patrol:
    """A few regions a frame, for live cameras on small boards.

    The whole frame each time; a tile around the smaller birds that are being followed; and one of
    the other tiles in turn, so that a small bird that keeps still is found after one round.
    """

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, width: int, height: int, tracks: Sequence[Track]) -> list[Region]:
        """The regions of the next frame."""
        limit_px = _LARGE_BIRD_SHARE * max(width, height)
        small = [t for t in tracks if max(_sides(t)) < limit_px]
        latest = sorted(small, key=lambda t: -t.last_seen_s)[:_MAX_FOLLOWED]
        tiles = tile_regions(width, height)
        turn, self._turn = self._turn % len(tiles), self._turn + 1
        followed = [tile_around(track.xyxy, width, height) for track in latest]
        return list(dict.fromkeys([(0, 0, width, height), *followed, tiles[turn]]))


def _sides(track: Track) -> tuple[float, float]:
    left, top, right, bottom = track.xyxy
    return right - left, bottom - top
