from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebird.detector.merge import CONTAINED_LIMIT, IOU_LIMIT, merge, pairwise_overlap
from edgebird.structures import Box

COORDINATE = st.integers(0, 40)
BOX = st.tuples(COORDINATE, COORDINATE, st.integers(1, 30), st.integers(1, 30)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
SCORED = st.lists(st.tuples(BOX, st.integers(0, 20)), max_size=12)


def covered_pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@given(a=BOX, b=BOX)
def test_overlap_is_that_of_counting_pixels(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    iou, contained = pairwise_overlap(np.array([a], np.float32), np.array([b], np.float32))
    pixels_a, pixels_b = covered_pixels(a), covered_pixels(b)
    shared = len(pixels_a & pixels_b)
    assert np.isclose(iou[0, 0], shared / len(pixels_a | pixels_b), atol=1e-5)
    assert np.isclose(contained[0, 0], shared / min(len(pixels_a), len(pixels_b)), atol=1e-5)


@given(SCORED)
def test_merging_is_that_of_the_plain_loop(boxes: list[tuple[tuple[int, ...], int]]) -> None:
    xyxy = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    score = np.array([score / 20 for _, score in boxes], np.float32)
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-score[i], i)):
        pixels = covered_pixels(boxes[i][0])
        for k in kept:
            other = covered_pixels(boxes[k][0])
            shared = len(pixels & other)
            if shared / len(pixels | other) > IOU_LIMIT + 1e-6:
                break
            if shared / min(len(pixels), len(other)) > CONTAINED_LIMIT + 1e-6:
                break
        else:
            kept.append(i)
    assert merge(xyxy, score).tolist() == kept


@pytest.mark.parametrize(
    ("one", "other", "birds"),
    [
        # they share 0.46 and 0.54 of their union
        ((0, 0, 30, 10), (11, 0, 41, 10), 2),
        ((0, 0, 30, 10), (9, 0, 39, 10), 1),
        # 0.85 and 0.95 of the smaller one lie in the other
        ((0, 0, 40, 40), (23, 0, 43, 20), 2),
        ((0, 0, 40, 40), (21, 0, 41, 20), 1),
    ],
)
def test_half_of_the_union_or_nine_tenths_of_the_smaller_make_one_bird(
    one: Box, other: Box, birds: int
) -> None:
    assert len(merge(np.array([one, other], np.float32), np.ones(2, np.float32))) == birds


def test_nothing_merges_to_nothing() -> None:
    assert merge(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)).tolist() == []


def test_a_box_without_area_overlaps_nothing() -> None:
    empty = np.array([[5, 5, 5, 9]], np.float32)
    iou, contained = pairwise_overlap(empty, np.array([[0, 0, 10, 10]], np.float32))
    assert iou[0, 0] == contained[0, 0] == 0
