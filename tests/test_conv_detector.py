"""The convolutional detector on a network whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebird.camera.demo import DemoFeeder
from edgebird.detector import conv
from edgebird.detector.both_ways import BothWays
from edgebird.detector.conv import ConvDetector, decode_maps, still_detector
from edgebird.detector.merge import merge
from edgebird.interpreter import Interpreter, TfliteInterpreter
from edgebird.model import DEFAULT_DETECTOR, InputScaling, ModelCard, load_model
from edgebird.structures import Boxes, Image, Scores
from edgebird.testing import FakeInterpreter
from edgebird.tiles import Region


def card() -> ModelCard:
    return ModelCard(
        name="fake",
        task="detector",
        input_size_px=(64, 64),
        input_scaling=InputScaling(127, 128),
        outputs=list(FakeInterpreter.outputs),
        stride_px=8,
        labels=["bird"],
        threshold=0.5,
        threshold_chosen_at=None,
        metrics={},
        training_data=[],
        licence="none",
        commit="none",
        sha256="0" * 64,
    )


def scene(*spots: tuple[int, int], size: tuple[int, int] = (128, 96)) -> Image:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in spots:
        image[y - 6 : y + 6, x - 6 : x + 6] = 255
    return image


def centres(xyxy: np.ndarray) -> list[tuple[float, float]]:
    return sorted(zip(xyxy[:, [0, 2]].mean(axis=1), xyxy[:, [1, 3]].mean(axis=1), strict=True))


def test_a_map_is_decoded_around_the_centre_of_its_cells() -> None:
    logits = np.full((2, 4, 6, 1), -9, np.float32)
    logits[1, 1, 2] = 2
    logits[0, 3, 4] = 1
    log_distances = np.zeros((2, 4, 6, 4), np.float32)
    log_distances[1, 1, 2] = np.log([1, 0.5, 2, 3])
    xyxy, score, tiles = decode_maps(logits, log_distances, 8, 0.5)
    assert xyxy.tolist() == [
        [20 - 8, 12 - 4, 20 + 16, 12 + 24],
        [36 - 8, 28 - 8, 36 + 8, 28 + 8],
    ]
    assert score == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))])
    assert tiles.tolist() == [1, 0]


def test_a_tile_full_of_candidates_leaves_the_others_theirs() -> None:
    logits = np.full((2, 16, 16, 1), -9, np.float32)
    logits[0] = 3
    logits[1, 5, 5] = 0
    _, score, tiles = decode_maps(logits, np.zeros((2, 16, 16, 4), np.float32), 8, 0.4)
    assert (tiles == 0).sum() == 100
    assert (tiles == 1).sum() == 1
    assert (np.diff(score) <= 0).all()


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 1.0])
def test_extreme_thresholds_are_numbers_like_others(threshold: float) -> None:
    logits = np.zeros((1, 2, 2, 1), np.float32)
    xyxy, _, _ = decode_maps(logits, np.zeros((1, 2, 2, 4), np.float32), 8, threshold)
    assert len(xyxy) == (0 if threshold == 1.0 else 4)


def test_birds_are_found_where_they_are_once_each() -> None:
    detector = ConvDetector(FakeInterpreter(half_side_px=12.5), card())
    found = detector.detect(scene((30, 40), (100, 60)), threshold=0.6)
    assert len(found) == 2
    for (x, y), (want_x, want_y) in zip(centres(found.xyxy), [(30, 40), (100, 60)], strict=True):
        assert abs(x - want_x) < 8
        assert abs(y - want_y) < 8
    assert (np.diff(found.score) <= 0).all()


def test_few_boxes_are_compared_at_once_however_many_tiles_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []

    def counting(xyxy: Boxes, score: Scores) -> NDArray[np.intp]:
        compared.append(len(score))
        return merge(xyxy, score)

    monkeypatch.setattr(conv, "merge", counting)
    noise = np.random.default_rng(0).integers(0, 256, (128, 640, 3), np.uint8)
    ConvDetector(FakeInterpreter(), card()).detect(noise, threshold=0.01)
    assert sum(compared[:-1]) > 300
    assert max(compared[:-1]) <= 100


def test_a_bird_that_several_tiles_show_is_one() -> None:
    interpreter = FakeInterpreter()
    assert len(ConvDetector(interpreter, card()).detect(scene((40, 40)), threshold=0.5)) == 1
    assert interpreter.runs > 1


def test_only_the_given_regions_are_looked_at() -> None:
    interpreter = FakeInterpreter()
    detector = ConvDetector(interpreter, card())
    found = detector.detect(scene((20, 20), (110, 70)), [(64, 32, 128, 96)], threshold=0.6)
    assert interpreter.runs == 1
    assert len(found) == 1
    assert centres(found.xyxy)[0][0] > 90


def test_boxes_end_at_the_frame() -> None:
    found = ConvDetector(FakeInterpreter(), card()).detect(scene((6, 36)), threshold=0.5)
    assert len(found) == 1
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [128, 96, 128, 96]).all()


def test_what_fills_the_view_has_to_be_surer() -> None:
    """Of two boxes with the same odds the one that fills the view scores lower, and is left out
    where that falls below the threshold.
    """
    whole: list[Region] = [(0, 0, 64, 64)]
    image = scene((32, 32), size=(64, 64))
    small, large = (
        ConvDetector(FakeInterpreter(half_side_px=half), card()) for half in (12.0, 24.0)
    )
    sure, doubted = (float(d.detect(image, whole, threshold=0.05).score[0]) for d in (small, large))
    assert doubted / (1 - doubted) == pytest.approx(0.6 * sure / (1 - sure), rel=1e-3)
    between = (sure + doubted) / 2
    assert len(small.detect(image, whole, threshold=between)) > 0
    assert len(large.detect(image, whole, threshold=between)) == 0


@pytest.mark.parametrize(("grey", "in_small_view"), [(115, False), (128, True)])
def test_what_a_small_view_shows_has_to_be_surer(grey: int, in_small_view: bool) -> None:
    image = scene()
    image[40:80, 80:120] = grey  # scores of 0.31 and 0.5
    detector = ConvDetector(FakeInterpreter(), card())
    large: list[Region] = [(64, 20, 128, 84)]
    small: list[Region] = [(80, 40, 120, 80)]
    assert len(detector.detect(image, large, threshold=0.25)) > 0
    assert (len(detector.detect(image, small, threshold=0.25)) > 0) == in_small_view


def test_parts_of_what_is_too_long_for_its_tile_go_with_it() -> None:
    """A tile shows a large bird and a part of it: both are left to the whole frame."""

    class LargeBirdWithItsHead(FakeInterpreter):
        """A cell in the middle says a large bird, a weaker one beside it a small one."""

        def run(self, images: Sequence[Image]) -> list[np.ndarray]:
            logits = np.full((8, 8, 1), -9, np.float32)
            half_px = np.full((8, 8, 4), 8, np.float32)
            logits[3, 3], half_px[3, 3] = 3, 26
            logits[3, 4], half_px[3, 4] = 2, 9
            answers = {"objectness": logits, "box": np.log(half_px / 8)}
            return [np.stack([answers[name]] * len(images)) for name in card().outputs]

    detector = ConvDetector(LargeBirdWithItsHead(), card())
    assert len(detector.detect(scene(), [(20, 10, 84, 74)], threshold=0.5)) == 0
    whole = detector.detect(scene(size=(64, 64)), [(0, 0, 64, 64)], threshold=0.5)
    assert len(whole) == 1
    assert whole.xyxy[0].tolist() == pytest.approx([2, 2, 54, 54], abs=0.1)


@pytest.mark.parametrize(("grey", "seen"), [(96, False), (115, True)])
def test_a_tile_has_to_be_somewhat_sure(grey: int, seen: bool) -> None:
    image = scene()
    image[40:80, 80:120] = grey  # scores of 0.12 and 0.31
    detector = ConvDetector(FakeInterpreter(), card())
    assert len(detector.detect(image, [(0, 0, 128, 96)], threshold=0.05)) > 0
    assert (len(detector.detect(image, [(64, 20, 128, 84)], threshold=0.05)) > 0) == seen


def test_looked_at_both_ways_a_mirrored_picture_has_mirrored_birds() -> None:
    """The network alone knows left from right: the shipped one says other things of a mirrored
    picture.
    """
    model = load_model(DEFAULT_DETECTOR, "detector")
    network = TfliteInterpreter(model, 1)
    image = DemoFeeder(seed=0, fps=10, seconds=60, pace=False).render(3.0)
    height, width = image.shape[:2]
    mirrored = np.ascontiguousarray(image[:, ::-1])
    whole: list[Region] = [(0, 0, width, height)]

    def seen(interpreter: Interpreter, picture: Image) -> np.ndarray:
        found = ConvDetector(interpreter, model.card).detect(picture, whole, threshold=0.3)
        assert len(found)
        left, top, right, bottom = found.xyxy[0]
        if picture is mirrored:
            left, right = width - right, width - left
        return np.array([left, top, right, bottom, found.score[0]])

    both = BothWays(network, model.card)
    np.testing.assert_allclose(seen(both, image), seen(both, mirrored), atol=1e-2)
    assert np.abs(seen(network, image) - seen(network, mirrored)).max() > 0.01
    ways = seen(both, image), seen(network, image), seen(network, mirrored)
    both_odds, one_odds, other_odds = (np.log(s[4] / (1 - s[4])) for s in ways)
    assert min(one_odds, other_odds) - 1e-3 <= both_odds <= max(one_odds, other_odds) + 1e-3


class CountingInterpreter(FakeInterpreter):
    """Notes how many tiles it is given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[int] = []

    def run(self, images: Sequence[Image]) -> list[np.ndarray]:
        self.at_once.append(len(images))
        return super().run(images)


def test_few_tiles_are_held_at_once_and_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    image = scene((40, 40), (700, 40), size=(740, 100))
    network = CountingInterpreter()
    found = still_detector(network, card()).detect(image, threshold=0.5)
    assert network.at_once[:2] == [64, 64]
    assert network.at_once[2] == network.at_once[3] < 64
    monkeypatch.setattr(conv, "_TILES_AT_ONCE", 1000)
    at_once = still_detector(network, card()).detect(image, threshold=0.5)
    assert max(network.at_once) > 64
    np.testing.assert_array_equal(found.xyxy, at_once.xyxy)
    np.testing.assert_array_equal(found.score, at_once.score)
    assert {round(x, -2) for x, _ in centres(found.xyxy)} == {0, 700}


@pytest.mark.parametrize("x", [30, 500, 970])
def test_a_bird_in_a_thin_strip_is_found(x: int) -> None:
    image = scene((x, 30), size=(1000, 60))
    found = still_detector(FakeInterpreter(), card()).detect(image, threshold=0.5)
    assert centres(found.xyxy)[0] == pytest.approx((x, 30), abs=8)


def test_an_empty_scene_has_no_birds() -> None:
    assert len(ConvDetector(FakeInterpreter(), card()).detect(scene(), threshold=0.05)) == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (2000, 40)])
def test_odd_shapes_of_pictures_are_scanned(size: tuple[int, int]) -> None:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    assert len(ConvDetector(FakeInterpreter(), card()).detect(image, threshold=0.5)) == 0
