"""The convolutional detector: the network scores every position of a tile at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgebird.detector.both_ways import BothWays
from edgebird.detector.merge import merge
from edgebird.interpreter import Interpreter
from edgebird.model import ModelCard
from edgebird.odds import log_odds, probability
from edgebird.structures import Boxes, Detections, Image, Scores
from edgebird.tiles import (
    Region,
    centre_inside,
    cut_tiles,
    scan_regions,
    thorough_scan_regions,
    touches_inner_border,
)

# In a tile a box longer than the first share of it, or ending nearer to its border than the second,
# is mostly a part of a bird that the whole frame shows better. Before it goes, it takes the parts
# of the same bird in its tile along (measured: else `nestbox` loses 0.03 AP50; with 0.4 in place of
# 0.6 small birds are missed).
_LARGEST_IN_TILE = 0.6
_BORDER_OF_TILE = 0.047
# A bird that fills the view is seen for sure. What fills it and is half doubted is mostly a cat, a
# person or a bus, so the odds of boxes longer than the first share count for less (measured on
# validation pictures: with as many empty pictures flagged, half as many small birds more).
_FILLS_VIEW = 0.6
_ODDS_OF_FILLING = 0.6
# What a tile is less sure of than the first score is mostly a part of a larger bird, and in a tile
# smaller than the second share of the frame's shorter side what it is less sure of than the third
# (measured: else `nestbox` loses 0.03 and 0.07 AP50).
_SURE_IN_TILE = 0.15
_SMALL_VIEW, _SURE_IN_SMALL_VIEW = 0.55, 0.4
# More candidates than this from one tile are noise; the best are kept.
_MAX_CANDIDATES = 100
# So many tiles are held at once; pictures of usual shapes have fewer.
_TILES_AT_ONCE = 64


def decode_maps(
    logits: np.ndarray, log_distances: np.ndarray, stride_px: int, threshold: float
) -> tuple[Boxes, Scores, NDArray[np.intp]]:
    """Boxes from the network's two maps of several tiles.

    Each cell stands for its centre. ``log_distances`` are ln(distance / stride) from there to the
    left, top, right and bottom side (the form of Tian et al., 2019, FCOS, arXiv:1904.01355).

    Args:
        logits: float32 (tiles, h, w, 1), log-odds of a bird.
        log_distances: float32 (tiles, h, w, 4).
        stride_px: size of a cell in tile pixels.
        threshold: lowest score wanted, 0 to 1.

    Returns:
        Boxes (N, 4) in pixels of their tile, scores (N,) and which tile each is in (N,), best
        first, before any merging.
    """
    tiles, rows, columns = np.nonzero(logits[..., 0] >= log_odds(threshold))
    score = probability(logits[tiles, rows, columns, 0])
    best = np.argsort(-score, kind="stable")
    if len(best) > _MAX_CANDIDATES:
        by_tile = [best[tiles[best] == tile][:_MAX_CANDIDATES] for tile in range(len(logits))]
        best = np.concatenate(by_tile)
        best = best[np.argsort(-score[best], kind="stable")]
    tiles, rows, columns, score = tiles[best], rows[best], columns[best], score[best]
    centre = (np.stack([columns, rows], axis=1) + 0.5) * stride_px
    distance = np.exp(log_distances[tiles, rows, columns]) * stride_px
    xyxy = np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], axis=1)
    return xyxy.astype(np.float32), score.astype(np.float32), tiles


class ConvDetector:
    """Finds birds with a fully-convolutional network, tile by tile.

    Args:
        interpreter: runs the network.
        card: says what the network's outputs mean.
        scan: where to look in a frame of this width and height when nobody says.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        card: ModelCard,
        scan: Callable[[int, int], Sequence[Region]] = scan_regions,
    ) -> None:
        self._interpreter = interpreter
        self._scan = scan
        self._stride_px = card.stride_px
        self._objectness = card.outputs.index("objectness")
        self._box = card.outputs.index("box")

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        """Find birds in the given regions of a frame (default: all of it, as ``scan`` says).

        Args:
            image: uint8 (H, W, 3), RGB.
            regions: parts of the frame to look at.
            threshold: lowest score wanted, 0 to 1.

        Returns:
            Birds in pixels of the full frame, best first.
        """
        height, width = image.shape[:2]
        regions = self._scan(width, height) if regions is None else regions
        if not regions:
            return Detections.none()
        size_px = self._interpreter.input_size[0]
        tiles = cut_tiles(image, regions, size_px)
        outputs, where = [], []
        while some := list(islice(tiles, _TILES_AT_ONCE)):
            outputs.append(self._interpreter.run([tile.image for tile in some]))
            where += [(*tile.region, *tile.corner, tile.scale) for tile in some]
        maps = [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
        xyxy, score, seen_in = decode_maps(
            maps[self._objectness], maps[self._box], self._stride_px, threshold
        )
        if not len(xyxy):
            return Detections.none()

        looks = np.array(where, np.float32)[seen_in]
        views, corners, scales = looks[:, :4], looks[:, 4:6], looks[:, 6:]
        xyxy = xyxy / scales + np.concatenate([corners, corners], axis=1)
        longest_px = (xyxy[:, 2:] - xyxy[:, :2]).max(axis=1)
        view_px = (views[:, 2:] - views[:, :2]).max(axis=1)
        odds = np.where(longest_px > _FILLS_VIEW * view_px, _ODDS_OF_FILLING, 1.0)
        score = (odds * score / (odds * score + 1 - score)).astype(np.float32)
        part = touches_inner_border(xyxy, views, width, height, _BORDER_OF_TILE * view_px)
        part |= longest_px > _LARGEST_IN_TILE * view_px
        small_view = view_px < _SMALL_VIEW * min(width, height)
        part |= score < np.where(small_view, _SURE_IN_SMALL_VIEW, _SURE_IN_TILE)
        part &= (views != (0, 0, width, height)).any(axis=1)
        # a centre outside of its region lies in the padding
        seen = centre_inside(xyxy, views) & (score >= threshold)
        xyxy, score, part, seen_in = xyxy[seen], score[seen], part[seen], seen_in[seen]
        best = _merged_in_each(seen_in, xyxy, score)
        best = best[~part[best]]
        xyxy, score = xyxy[best], score[best]
        limits = np.array([width, height, width, height], np.float32)
        xyxy = xyxy.clip(0, limits)
        stays = merge(xyxy, score)
        return Detections(xyxy[stays], score[stays])


def _merged_in_each(tile: NDArray[np.intp], xyxy: Boxes, score: Scores) -> NDArray[np.intp]:
    """Which boxes, (N,), stay when those of the same tile are merged; best first.

    Tile by tile, since all pairs of all tiles at once may be gigabytes.
    """
    rows = (np.flatnonzero(tile == one) for one in np.unique(tile))
    none = np.zeros(0, np.intp)
    stays = np.sort(np.concatenate([none, *(i[merge(xyxy[i], score[i])] for i in rows)]))
    return stays[np.argsort(-score[stays], kind="stable")]


def still_detector(interpreter: Interpreter, card: ModelCard) -> ConvDetector:
    """The most thorough one, for pictures on their own: at three scales and both ways.

    A live camera shows a bird again in its next frame, and has no time for all that.
    """
    return ConvDetector(BothWays(interpreter, card), card, thorough_scan_regions)
