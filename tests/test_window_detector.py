"""The sliding window and the second look on a classifier whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_classify import card

from edgebird.classify import Classifier
from edgebird.config import DetectorSection
from edgebird.detector import open_detector
from edgebird.detector.conv import ConvDetector
from edgebird.detector.merge import pairwise_overlap
from edgebird.detector.verify import VerifyingDetector, window_around
from edgebird.detector.window import WindowDetector, boxes_from_windows, windows_over
from edgebird.errors import UsageError
from edgebird.structures import Detections, Image
from edgebird.testing import FakeBatchInterpreter
from edgebird.tiles import Region


def scene(*spots: tuple[int, int], side: int = 36, size: tuple[int, int] = (160, 120)) -> Image:
    """Black, with white squares around the spots."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    half = side // 2
    for x, y in spots:
        image[max(0, y - half) : y + half, max(0, x - half) : x + half] = 255
    return image


def window_detector(smallest_bird_px: int | None = 28) -> WindowDetector:
    return WindowDetector(Classifier(FakeBatchInterpreter(), card()), smallest_bird_px)


# --- where windows are laid


@settings(deadline=None)
@given(
    st.integers(0, 50), st.integers(0, 50), st.integers(4, 200), st.integers(4, 200),
    st.integers(16, 250),
)  # fmt: skip
def test_windows_cover_their_region_are_square_and_stay_inside(
    left: int, top: int, width: int, height: int, smallest: int
) -> None:
    windows = np.array(windows_over((left, top, left + width, top + height), smallest))
    sides = windows[:, 2:] - windows[:, :2]
    assert (sides[:, 0] == sides[:, 1]).all()
    assert sides.min() == min(smallest, width, height)
    assert sides.max() == min(width, height)
    for side in np.unique(sides):
        these = windows[sides[:, 0] == side]
        assert these.min(axis=0)[:2].tolist() == [left, top]
        assert these.max(axis=0)[2:].tolist() == [left + width, top + height]
        for axis in (0, 1):
            # No gap between neighbours wider than the stride (and rounding) allows.
            assert (np.diff(np.unique(these[:, axis])) <= max(1, side // 4 + 1)).all()


def test_windows_too_small_to_show_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="3 px"):
        windows_over((0, 0, 100, 100), 3)


def test_the_smallest_bird_decides_the_work() -> None:
    few, many = (len(window_detector(px).windows(640, 480, None)) for px in (80, 40))
    assert 3 < many / few < 6
    assert window_detector(None).windows(640, 480, None)[0][2] == round(0.12 * 480 / 0.8)


def test_with_the_whole_frame_other_regions_add_no_windows() -> None:
    detector = window_detector()
    whole: Region = (0, 0, 160, 120)
    assert detector.windows(160, 120, [whole, (0, 0, 80, 80)]) == detector.windows(160, 120, None)
    twice = detector.windows(160, 120, [(0, 0, 80, 80), (0, 0, 80, 80)])
    assert len(twice) == len(set(twice)) > 0


# --- what is found


def test_bright_spots_are_found_where_they_are_once_each() -> None:
    found = window_detector().detect(scene((40, 50), (120, 80)), threshold=0.9)
    assert len(found) == 2
    centres = sorted(((found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2).tolist())
    np.testing.assert_allclose(centres, [(40, 50), (120, 80)], atol=5)
    iou, _ = pairwise_overlap(found.xyxy, np.array([[104, 64, 136, 96]], np.float32))
    assert iou.max() > 0.5


def test_only_given_regions_are_looked_at() -> None:
    found = window_detector().detect(
        scene((40, 50), (120, 80)), [(80, 40, 160, 120)], threshold=0.9
    )
    assert len(found) == 1
    assert found.xyxy[0, 0] >= 80


def test_an_empty_scene_has_no_birds_and_odd_shapes_are_scanned() -> None:
    for size in ((160, 120), (1, 1), (3, 200)):
        assert len(window_detector().detect(scene(size=size), threshold=0.1)) == 0


def test_a_box_is_the_mean_of_its_windows_weighted_by_odds() -> None:
    windows = np.array([[0, 0, 40, 40], [8, 0, 48, 40], [100, 100, 140, 140]], np.float32)
    xyxy, score = boxes_from_windows(windows, np.array([0.8, 0.5, 0.6], np.float32))
    np.testing.assert_allclose(score, [0.8, 0.6], atol=1e-6)
    # Odds of 4 to 1: a fifth of the way to the second; then four fifths as large.
    np.testing.assert_allclose(xyxy[0], [5.6, 4, 37.6, 36], atol=1e-4)
    none = boxes_from_windows(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    assert none[0].shape == (0, 4)


# --- the second look


class FixedDetector:
    """Finds the same boxes in every picture."""

    def __init__(self, boxes: list[list[float]], scores: list[float]) -> None:
        self.asked: list[float] = []
        self._found = Detections(np.array(boxes, np.float32), np.array(scores, np.float32))

    def detect(self, image: Image, regions: object = None, *, threshold: float) -> Detections:
        self.asked.append(threshold)
        return self._found.above(threshold)


BRIGHT, DARK = [20.0, 30.0, 60.0, 70.0], [100.0, 60.0, 140.0, 100.0]


def looked_twice(
    boxes: list[list[float]], scores: list[float], threshold: float = 0.5
) -> tuple[Detections, FakeBatchInterpreter]:
    interpreter = FakeBatchInterpreter()
    detector = VerifyingDetector(
        FixedDetector(boxes, scores), Classifier(interpreter, card()), weight=0.4, reach=1.5
    )
    found = detector.detect(scene((40, 50), side=60), threshold=threshold)
    return found, interpreter


def test_a_doubtful_bird_is_confirmed_and_a_doubtful_shadow_dropped() -> None:
    found, _ = looked_twice([DARK, BRIGHT], [0.6, 0.4])
    assert found.xyxy.tolist() == [BRIGHT]
    # Log-odds of the first look, moved by the furthest that is allowed.
    assert found.score[0] == pytest.approx(1 / (1 + 1.5 * np.exp(-1.5)), abs=1e-3)


def test_sure_detections_are_neither_looked_at_nor_changed() -> None:
    found, interpreter = looked_twice([DARK, BRIGHT], [0.9, 0.05], threshold=0.02)
    assert found.score.tolist() == pytest.approx([0.9, 0.05])
    assert interpreter.batches == []


@pytest.mark.parametrize("threshold", [0.02, 0.4, 0.7])
def test_a_score_does_not_depend_on_the_threshold(threshold: float) -> None:
    found, _ = looked_twice([DARK, BRIGHT], [0.8, 0.6], threshold=threshold)
    assert found.xyxy.tolist() == [BRIGHT, DARK][: len(found)]
    assert found.score.tolist() == pytest.approx([0.870, 0.472][: len(found)], abs=2e-3)


def test_the_first_look_is_asked_for_all_that_could_be_confirmed() -> None:
    first = FixedDetector([BRIGHT], [0.5])
    looks = VerifyingDetector(first, Classifier(FakeBatchInterpreter(), card()), reach=1.5)
    looks.detect(scene(), threshold=0.5)
    assert first.asked == [pytest.approx(1 / (1 + np.exp(1.5)))]


def test_a_frame_full_of_doubts_costs_a_bounded_time() -> None:
    boxes = [[float(x), 0.0, float(x + 5), 5.0] for x in range(0, 150, 5)]
    found, interpreter = looked_twice(boxes, [0.6] * len(boxes))
    assert len(interpreter.batches) == 4
    assert len(found) == len(boxes) - 4


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (-5, -5, 300, 300), (159, 119, 160, 120), (50, 50, 50, 50)]
)
def test_a_window_around_any_box_shows_something(box: tuple[float, float, float, float]) -> None:
    assert min(window_around(box, scene()).shape[:2]) >= 1


# --- choosing one


@pytest.mark.parametrize(
    ("verify", "kind"),
    [(None, VerifyingDetector), (True, VerifyingDetector), (False, ConvDetector)],
)
def test_the_convolutional_detector_with_a_second_look_is_the_default(
    verify: bool | None, kind: type
) -> None:
    _, detector = open_detector(DetectorSection(verify=verify))
    assert type(detector) is kind


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (DetectorSection(name="window", verify=True), "--verify"),
        (DetectorSection(smallest_bird_px=40), "smallest_bird_px"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: DetectorSection, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        open_detector(settings)
