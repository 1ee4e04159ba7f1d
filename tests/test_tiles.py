from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebird.tiles import (
    PADDING_VALUE,
    SMALL_TILE_SHARE,
    TILE_SHARE,
    cut_tile,
    cut_tiles,
    scan_regions,
    thorough_scan_regions,
    tile_around,
    tile_regions,
    tile_side,
    touches_inner_border,
    window_starts,
)

LENGTHS = st.integers(1, 4000)
SIDES = st.integers(1, 2000)


@given(length=LENGTHS, window=st.integers(1, 700), share=st.floats(0, 0.9))
def test_windows_cover_the_axis_overlap_and_end_flush(
    length: int, window: int, share: float
) -> None:
    overlap = int(window * share)
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    if window >= length:
        assert starts == [0]
        return
    assert starts[-1] + window == length
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= window - overlap).all()


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(0, 5, 1), (5, 0, 0), (5, 3, 3), (5, 3, -1)]
)
def test_windows_that_cannot_be_are_refused(length: int, window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="no windows"):
        window_starts(length, window, overlap)


@given(width=SIDES, height=SIDES, share=st.sampled_from([TILE_SHARE, SMALL_TILE_SHARE]))
def test_tiles_are_full_squares_inside_the_frame(width: int, height: int, share: float) -> None:
    side = tile_side(width, height, share)
    for left, top, right, bottom in tile_regions(width, height, share):
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height
        assert right - left == bottom - top == side


@given(st.tuples(SIDES, SIDES, st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.2)))
def test_a_small_bird_lies_whole_in_some_tile(
    case: tuple[int, int, float, float, float],
) -> None:
    width, height, x, y, share = case
    side = share * min(width, height)
    left, top = x * (width - side), y * (height - side)
    assert any(
        r[0] <= left + 1 and r[1] <= top + 1 and r[2] >= left + side - 1 and r[3] >= top + side - 1
        for r in tile_regions(width, height)
    )


@given(width=SIDES, height=SIDES, x=st.floats(0, 1), y=st.floats(0, 1), share=st.floats(0, 0.5))
def test_the_tile_around_a_box_is_inside_and_holds_its_centre(
    width: int, height: int, x: float, y: float, share: float
) -> None:
    centre = x * width, y * height
    half = share * min(width, height) / 2
    box = centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half
    left, top, right, bottom = tile_around(box, width, height)
    smallest, largest = (tile_side(width, height, s) for s in (SMALL_TILE_SHARE, TILE_SHARE))
    assert smallest <= right - left == bottom - top <= largest
    # what is not too large for any tile can be told from a part of something larger in its own
    assert 10 * half <= right - left + 1 or right - left == largest
    assert 0 <= left <= centre[0] + 1
    assert centre[0] - 1 <= right <= width
    assert 0 <= top <= centre[1] + 1
    assert centre[1] - 1 <= bottom <= height


def test_a_frame_is_scanned_whole_first() -> None:
    assert scan_regions(640, 480)[0] == (0, 0, 640, 480)
    assert len(scan_regions(640, 480)) == 7
    assert thorough_scan_regions(640, 480)[:7] == scan_regions(640, 480)
    assert len(thorough_scan_regions(640, 480)) == 19


@given(width=SIDES, height=SIDES)
def test_the_parts_of_any_shape_are_few_and_cover_it(width: int, height: int) -> None:
    regions = thorough_scan_regions(width, height)
    assert len(regions) <= 120
    if max(width, height) <= 8 * min(width, height):
        small = tile_regions(width, height, SMALL_TILE_SHARE)
        first = [(0, 0, width, height), *tile_regions(width, height)]
        assert regions == [*first, *(region for region in small if region not in first)]
        return
    assert regions[: len(scan_regions(width, height))] == scan_regions(width, height)
    for parts in (scan_regions(width, height)[1:], regions[1:]):
        seen = np.zeros((height, width), bool)
        for left, top, right, bottom in parts:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            seen[top:bottom, left:right] = True
        assert seen.all()


@pytest.mark.parametrize("size", [(2000, 20), (10, 5000), (65_000, 1)])
def test_a_thin_strip_has_few_tiles_of_bounded_size(size: tuple[int, int]) -> None:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    regions = thorough_scan_regions(*size)
    assert len(regions) < 50
    assert all(tile.shape == (64, 64, 3) for _, tile, _, _ in cut_tiles(image, regions, 64))


def test_a_tile_keeps_proportions_and_is_padded_with_grey() -> None:
    image = np.full((100, 200, 3), 250, np.uint8)
    tile, scale = cut_tile(image, (0, 0, 200, 100), 64)
    assert tile.shape == (64, 64, 3)
    assert scale == pytest.approx(0.32)
    assert (tile[:32] == 250).all()
    assert (tile[32:] == PADDING_VALUE).all()


@given(width=st.integers(30, 400), height=st.integers(30, 400))
def test_tiles_of_a_scan_show_what_each_cut_alone_would(width: int, height: int) -> None:
    """Where a tile lies is told to a fraction of a pixel: a picture whose values are its places
    says so itself.
    """
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.dstack([columns * (250 / width), rows * (250 / height), rows * 0]).astype(np.uint8)
    regions = tile_regions(width, height)
    for region, tile, scale, (x, y) in cut_tiles(image, regions, 64):
        assert tile.shape == (64, 64, 3)
        assert abs(x - region[0]) <= 0.51 / scale + 0.01 * width
        assert abs(y - region[1]) <= 0.51 / scale + 0.01 * height
        middle_x, middle_y = x + 16.5 / scale, y + 16.5 / scale
        assert tile[16, 16, 0] == pytest.approx(middle_x * 250 / width, abs=4 + 250 / width)
        assert tile[16, 16, 1] == pytest.approx(middle_y * 250 / height, abs=4 + 250 / height)


def test_a_frame_is_scaled_once_where_its_tiles_overlap_much() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    scan = list(cut_tiles(image, scan_regions(640, 480), 256))
    assert len({id(tile.base) for _, tile, _, _ in scan[1:]}) == 1
    one = [tile for _, tile, _, _ in cut_tiles(image, tile_regions(640, 480)[:1], 256)]
    assert one[0].flags.c_contiguous


def test_a_strip_one_pixel_wide_can_be_cut() -> None:
    tile, _ = cut_tile(np.zeros((900, 1, 3), np.uint8), (0, 0, 1, 900), 64)
    assert tile.shape == (64, 64, 3)


def test_only_borders_inside_the_frame_count_as_inner() -> None:
    boxes = np.array([[0, 0, 20, 20], [40, 10, 50, 20], [20, 20, 30, 30]], np.float32)
    regions = np.array([[0, 0, 50, 100]] * 3, np.float32)
    touching = touches_inner_border(boxes, regions, 100, 100, np.ones(3, np.float32))
    assert touching.tolist() == [False, True, False]
