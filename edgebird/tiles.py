"""Where the square window of the network is laid on a frame. Pure functions.

A frame is scanned at two scales: once as a whole, shrunk to fit, which finds birds that are
large or close; and in overlapping square tiles, which shows small birds larger to the network.
Where there is time, as with pictures on their own, smaller tiles are a third scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird.structures import Box, Boxes, Image

# Grey: the middle of the networks' input range, so that padding is silent.
PADDING_VALUE = 127
# A tile's side and the overlap of neighbours, as shares of the frame's shorter side and of the
# tile. A bird of up to a third of a tile is seen whole by at least one.
TILE_SHARE, SMALL_TILE_SHARE = 2 / 3, 0.45
OVERLAP_SHARE = 1 / 3
# A frame that is longer than so many of its shorter sides is cut across, not into tiles, of which
# it would have thousands.
_LONGEST_SHAPE = 8
# A close look at something shows so many times its length, as far as the shares allow.
_CLOSE_LOOK = 5.0

Region = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, half-open."""


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Start positions of windows that cover ``length``.

    Every window is full-size and lies inside, neighbours overlap by at least ``overlap``, and the
    last one is flush with the end. A ``window`` as long as the axis or longer gives one start, 0.

    Raises:
        ValueError: a length is not positive, or the overlap is not smaller than the window.
    """
    if length < 1 or window < 1 or not 0 <= overlap < window:
        raise ValueError(f"no windows of {window} with overlap {overlap} on {length}")
    if window >= length:
        return [0]
    count = math.ceil((length - window) / (window - overlap)) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def tile_side(width: int, height: int, share: float = TILE_SHARE) -> int:
    """The side of a frame's tiles in pixels: a share of its shorter side."""
    return max(1, round(min(width, height) * share))


def tile_around(box: Box, width: int, height: int) -> Region:
    """A tile with a box in its middle, as far as the frame's borders allow; a smaller one around a
    smaller box.
    """
    smallest, largest = (tile_side(width, height, s) for s in (SMALL_TILE_SHARE, TILE_SHARE))
    length = max(box[2] - box[0], box[3] - box[1])
    side = min(max(round(_CLOSE_LOOK * length), smallest), largest)
    left, top = (
        round(min(max((low + high - side) / 2, 0), end - side))
        for low, high, end in ((box[0], box[2], width), (box[1], box[3], height))
    )
    return left, top, left + side, top + side


def tile_regions(width: int, height: int, share: float = TILE_SHARE) -> list[Region]:
    """The square tiles of a frame, row by row, their side a share of its shorter side."""
    side = tile_side(width, height, share)
    overlap = int(side * OVERLAP_SHARE)
    return [
        (x, y, x + side, y + side)
        for y in window_starts(height, side, overlap)
        for x in window_starts(width, side, overlap)
    ]


def scan_regions(width: int, height: int) -> list[Region]:
    """The whole frame and all of its tiles, or the pieces of a thin strip."""
    return [(0, 0, width, height), *_parts(width, height, TILE_SHARE)]


def thorough_scan_regions(width: int, height: int) -> list[Region]:
    """The whole frame, all of its tiles, and all of its small tiles."""
    whole_and_tiles = scan_regions(width, height)
    small = _parts(width, height, SMALL_TILE_SHARE)
    # those of a strip may be the same
    return [*whole_and_tiles, *(region for region in small if region not in whole_and_tiles)]


def _parts(width: int, height: int, share: float) -> list[Region]:
    """The tiles of a frame; of a strip, pieces as wide as it is, their number bounded."""
    longer, shorter = max(width, height), min(width, height)
    if longer <= _LONGEST_SHAPE * shorter:
        return tile_regions(width, height, share)
    length = max(shorter, round(share * longer / _LONGEST_SHAPE))
    starts = window_starts(longer, length, int(length * OVERLAP_SHARE))
    if width > height:
        return [(x, 0, x + length, height) for x in starts]
    return [(0, y, width, y + length) for y in starts]


def cut_tile(image: Image, region: Region, size_px: int) -> tuple[Image, float]:
    """Scale a region to fit a square of ``size_px``, the rest filled with grey.

    Returns:
        The tile, uint8 (size, size, 3), the region in its upper left corner, and the scale from
        frame to tile pixels.
    """
    left, top, right, bottom = region
    part = image[top:bottom, left:right]
    scale = size_px / max(part.shape[:2])
    width = max(1, round(part.shape[1] * scale))
    height = max(1, round(part.shape[0] * scale))
    resized = _resized(part, width, height)
    if width == height == size_px:
        return resized, scale
    tile = np.full((size_px, size_px, 3), PADDING_VALUE, np.uint8)
    tile[:height, :width] = resized
    return tile, scale


class Tile(NamedTuple):
    """A part of a frame as the network takes it.

    Args:
        region: which part.
        image: uint8 (size, size, 3).
        scale: from pixels of the frame to the tile's.
        corner: x and y of the tile's upper left corner in the frame, in its pixels.
    """

    region: Region
    image: Image
    scale: float
    corner: tuple[float, float]


def cut_tiles(image: Image, regions: Sequence[Region], size_px: int) -> Iterator[Tile]:
    """Cut several regions of one frame as `cut_tile` does.

    Square ones of one size that overlap much are cut from one scaled frame, which has fewer pixels
    than all of them together: half the work for a scan. Their corners are then those of its pixels.
    Where that frame is smaller than the camera's, the whole frame is scaled on from it.

    Yields:
        A tile for each region, in order.
    """
    height, width = image.shape[:2]
    sides = Counter(r[2] - r[0] for r in regions if r[2] - r[0] == r[3] - r[1])
    scaled = {}
    whole = image
    for side, count in sides.items():
        size = round(width * size_px / side), round(height * size_px / side)
        if count * size_px**2 > size[0] * size[1]:
            scaled[side] = _resized(image, *size)
            if size_px <= max(size) < max(whole.shape[:2]):
                whole = scaled[side]
    for region in regions:
        left, top, right, bottom = region
        side = right - left
        if side == bottom - top and side in scaled:
            frame = scaled[side]
            x_scale, y_scale = frame.shape[1] / width, frame.shape[0] / height
            x = min(round(left * x_scale), frame.shape[1] - size_px)
            y = min(round(top * y_scale), frame.shape[0] - size_px)
            tile = frame[y : y + size_px, x : x + size_px]
            yield Tile(region, tile, size_px / side, (x / x_scale, y / y_scale))
        elif region == (0, 0, width, height):
            tile, _ = cut_tile(whole, (0, 0, whole.shape[1], whole.shape[0]), size_px)
            yield Tile(region, tile, size_px / max(width, height), (0, 0))
        else:
            yield Tile(region, *cut_tile(image, region, size_px), (left, top))


def _resized(part: Image, width: int, height: int) -> Image:
    """Shrink by halves while that does not shrink too much, then to the size that is wanted.

    Averaging over areas of any size is as good, but takes an eighth of the network's time: only
    exact halves have a fast way, and from there linear interpolation leaves out no pixel.
    """
    while part.shape[1] >= 2 * width and part.shape[0] >= 2 * height:
        half = part.shape[1] // 2, part.shape[0] // 2
        part = cv2.resize(part, half, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    if part.shape[:2] == (height, width):
        return part
    resized = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def centre_inside(boxes: Boxes, regions: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes, (N, 4), have their centre in their region, (N, 4): bool (N,)."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside: NDArray[np.bool_] = ((centre >= regions[:, :2]) & (centre < regions[:, 2:])).all(axis=1)
    return inside


def touches_inner_border(
    boxes: Boxes,
    regions: NDArray[np.float32],
    width: int,
    height: int,
    margin_px: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Which boxes, (N, 4), end at a border of their region, (N, 4), that is not one of the frame.

    Such a box shows a part of a bird that a neighbouring tile, or the whole frame, sees better.

    Args:
        boxes: xyxy in pixels of the frame.
        regions: where each was seen.
        width: of the frame.
        height: of the frame.
        margin_px: (N,), how near to a border is at it.

    Returns:
        bool (N,).
    """
    margin_px = margin_px[:, None]
    low, high = regions[:, :2], regions[:, 2:]
    touching = (boxes[:, :2] < low + margin_px) & (low > 0)
    touching |= (boxes[:, 2:] > high - margin_px) & (high < (width, height))
    either: NDArray[np.bool_] = touching.any(axis=1)
    return either
