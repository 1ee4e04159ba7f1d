"""Pictures of one camera tell more together than each alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from test_tracker import found

from edgebird.camera.demo import DemoFeeder
from edgebird.camera.files import PictureSequence, list_pictures, read_picture
from edgebird.cli import cli
from edgebird.errors import CameraError
from edgebird.motion import share_of
from edgebird.odds import log_odds, probability
from edgebird.pictures import PictureResult, scan_pictures
from edgebird.place_scores import MOST_LIFT, lift
from edgebird.places import (
    LEAST_PICTURES,
    NEW_BONUS,
    USUAL_PENALTY,
    Novelty,
    Places,
    weighed,
)
from edgebird.structures import Box, Detections, Frame, Image

WIDTH_PX, HEIGHT_PX = 320, 240
BIRD: Box = (200.0, 60.0, 250.0, 110.0)
FEEDER: Box = (60.0, 120.0, 110.0, 180.0)


def garden(seed: int) -> Image:
    """A place with details of its own, and a feeder."""
    rng = np.random.default_rng(seed)
    image = np.zeros((HEIGHT_PX, WIDTH_PX, 3))
    for cells in (4, 12, 40):
        noise = rng.uniform(-50, 50, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    image = (image + 130).clip(20, 235).astype(np.uint8)
    image[120:180, 60:110] = (90, 60, 40)
    return image


def write(
    folder: Path, name: str, place: Image, *things: Box, light: float = 1.0, seed: int = 0
) -> Path:
    """A picture of a place as a camera takes it, with dark things in it."""
    image = place.astype(np.float32)
    for left, top, right, bottom in things:
        middle = round((left + right) / 2), round((top + bottom) / 2)
        axes = round((right - left) / 2), round((bottom - top) / 2)
        cv2.ellipse(image, middle, axes, 0, 0, 360, (25, 20, 20), -1)
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    seen = (image * light + noise).clip(0, 255).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    path = folder / name
    cv2.imwrite(str(path), cv2.cvtColor(seen, cv2.COLOR_RGB2BGR))
    return path


def days(folder: Path, count: int = 8) -> list[Path]:
    """Pictures of one place in changing light, all empty."""
    lights = np.linspace(0.6, 1.1, count)
    return [
        write(folder, f"day{i}.jpg", garden(1), light=float(light), seed=i)
        for i, light in enumerate(lights)
    ]


def new_in(places: Places, path: Path) -> Novelty | None:
    return places.new_in(Frame(read_picture(path), 0, 0.0, 0.0, str(path)))


def share(places: Places, path: Path, box: Box = (0, 0, WIDTH_PX, HEIGHT_PX)) -> float:
    """How much of a box is new in a picture that does not stand alone."""
    new = new_in(places, path)
    assert new is not None
    return share_of(new.new, box, new.scale)


def test_what_is_in_one_picture_of_a_place_only_is_new_there(tmp_path: Path) -> None:
    empty = days(tmp_path)
    visited = write(tmp_path, "visited.jpg", garden(1), BIRD, light=0.8, seed=9)
    places = Places.of([*empty, visited])
    assert len(places) == len(empty) + 1
    assert share(places, visited, BIRD) > 0.6
    assert share(places, visited, FEEDER) == 0
    assert share(places, visited) < 0.05
    assert not any(share(places, path) for path in empty)


def test_what_is_in_most_pictures_of_a_place_is_usual_there(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, f"{i}.jpg", garden(1), *([BIRD] if i % 3 else []), seed=i) for i in range(9)
    ]
    places = Places.of(paths)
    assert share(places, paths[1], BIRD) == 0


def test_leaves_that_move_in_all_pictures_are_not_new(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    paths = []
    for i in range(10):
        swaying = garden(1)
        swaying[:100] = np.roll(swaying[:100], int(rng.integers(-4, 5)), axis=1)
        paths.append(write(tmp_path, f"{i}.jpg", swaying, seed=i))
    places = Places.of(paths)
    assert max(share(places, path) for path in paths) < 0.05


def test_two_cameras_in_one_folder_are_two_places(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, f"{i}-{camera}.jpg", garden(camera), seed=i)
        for i in range(LEAST_PICTURES)
        for camera in (1, 2)
    ]
    visited = write(tmp_path, "6-2.jpg", garden(2), BIRD, seed=7)
    places = Places.of([*paths, visited])
    assert len(places) == len(paths) + 1
    assert share(places, visited, BIRD) > 0.6
    assert not any(share(places, path) for path in paths)


def test_a_place_is_known_again_after_many_others(tmp_path: Path) -> None:
    paths = []
    for i in range(20):
        paths.append(write(tmp_path, f"{i}-feeder.jpg", garden(1), seed=i))
        elsewhere = np.roll(garden(50 + i), 17 * i, axis=1)
        paths.append(write(tmp_path, f"{i}-elsewhere.jpg", elsewhere))
    assert len(Places.of(paths)) == 20


def test_pictures_of_different_places_stand_alone(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{i}.jpg", np.roll(garden(i), 17 * i, axis=1)) for i in range(12)]
    # flat ones have nothing that could tell one place from another
    for i in range(6):
        flat = np.full((HEIGHT_PX, WIDTH_PX, 3), 150 + i, np.uint8)
        paths.append(write(tmp_path, f"sky{i}.jpg", flat, seed=i))
    places = Places.of(paths)
    assert not places
    assert new_in(places, paths[0]) is None


def test_too_few_pictures_stand_alone_and_are_not_even_read(tmp_path: Path) -> None:
    paths = days(tmp_path, LEAST_PICTURES - 1)

    def go_on() -> bool:
        pytest.fail("a picture was read")

    assert not Places.of(paths, go_on)


def test_a_picture_that_cannot_be_read_stands_alone(tmp_path: Path) -> None:
    paths = days(tmp_path)
    paths[3].write_bytes(b"")
    places = Places.of(paths)
    assert len(places) == len(paths) - 1
    assert new_in(places, paths[2]) is not None
    with pytest.raises(CameraError):
        read_picture(paths[3])


@pytest.mark.parametrize("size", [(1, 1), (700, 1), (3, 700), (40, 30)])
def test_odd_sizes_are_no_error(size: tuple[int, int], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(LEAST_PICTURES)]
    for path in paths:
        cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))
    places = Places.of(paths)
    assert all(new_in(places, path) is None for path in paths)


def test_it_ends_where_it_is_told_to(tmp_path: Path) -> None:
    paths = days(tmp_path)
    seen = iter(range(1, len(paths)))
    places = Places.of(paths, lambda: next(seen) < LEAST_PICTURES)
    assert [new_in(places, path) is not None for path in paths] == [True] * 5 + [False] * 3


def test_where_the_light_has_changed_too_much_nothing_is_said(tmp_path: Path) -> None:
    paths = days(tmp_path)
    places = Places.of(paths)
    # a sunny half and a dark one
    write(tmp_path, paths[3].name, (garden(1) * np.linspace(0.1, 2, WIDTH_PX)[None, :, None]))
    assert new_in(places, paths[3]) is None


def test_where_leaves_sway_it_cannot_be_told_what_is_new(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(10):
        place = garden(1)
        leaves = rng.integers(20, 235, (12, 10, 3), np.uint8)
        place[120:180, 60:110] = cv2.resize(leaves, (50, 60), interpolation=cv2.INTER_NEAREST)
        paths.append(write(tmp_path, f"{i}.jpg", place, seed=i))
    novelty = new_in(Places.of(paths), paths[0])
    assert novelty is not None
    assert novelty.is_new(FEEDER) is None
    assert novelty.is_new(BIRD) is False
    both = weighed(found((FEEDER, 0.75), (BIRD, 0.75)), novelty, NEW_BONUS, USUAL_PENALTY)
    assert dict(both.rows()) == pytest.approx(
        {FEEDER: 0.75, BIRD: probability(log_odds(0.75) - USUAL_PENALTY)}, abs=1e-3
    )


def test_pictures_that_vanish_meanwhile_are_no_error(tmp_path: Path) -> None:
    paths = days(tmp_path)
    places = Places.of(paths)
    frame = Frame(read_picture(paths[0]), 0, 0.0, 0.0, str(paths[0]))
    for path in paths[1:]:
        path.unlink()
    assert places.new_in(frame) is None


def test_pictures_of_a_place_are_found_among_many_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    of_one = days(tmp_path)
    mixed: list[Path] = []
    for path in of_one:
        mixed.append(path)
        for _ in range(12):
            cells = rng.integers(0, 256, (24, 32, 3), np.uint8)
            other = cv2.resize(cells, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_NEAREST)
            mixed.append(write(tmp_path, f"other{len(mixed)}.jpg", other))
    places = Places.of(mixed)
    assert [path for path in mixed if places.place_of(path) is not None] == of_one


class Unsure:
    """Sees the bird and the feeder in each picture, as sure of each as told."""

    def __init__(self, bird: float, feeder: float) -> None:
        self._seen = found((BIRD, bird), (FEEDER, feeder))
        self.asked: list[float] = []

    def detect(self, image: Image, regions: object = None, *, threshold: float) -> Detections:
        self.asked.append(threshold)
        return self._seen.above(threshold)


def scan(
    paths: Sequence[Path] | PictureSequence,
    detector: Unsure | Faint,
    places: Places,
    threshold: float = 0.7,
    results: list[PictureResult] | None = None,
) -> list[PictureResult]:
    results = [] if results is None else results
    pictures = paths if isinstance(paths, PictureSequence) else PictureSequence(list(paths))
    scan_pictures(
        pictures, detector, threshold, results.append, places=places, default_threshold=0.7
    )
    return results


def test_what_is_new_counts_for_more_and_what_is_always_there_for_less(tmp_path: Path) -> None:
    paths = [*days(tmp_path), write(tmp_path, "visited.jpg", garden(1), BIRD, seed=9)]
    *empty, visited = scan(paths, Unsure(bird=0.6, feeder=0.75), Places.of(paths))
    assert visited.detections.xyxy.tolist() == [list(BIRD)]
    assert float(visited.detections.score[0]) == pytest.approx(0.803, abs=1e-3)
    assert not any(len(result.detections) for result in empty)
    alone = scan(paths, Unsure(bird=0.6, feeder=0.75), Places([]))
    assert all(result.detections.xyxy.tolist() == [list(FEEDER)] for result in alone)


def test_a_picture_on_its_own_is_looked_at_as_ever(tmp_path: Path) -> None:
    alone = Unsure(bird=0.6, feeder=0.6)
    paths = [write(tmp_path, "visited.jpg", garden(1), BIRD)]
    [result] = scan(paths, alone, Places.of(paths))
    assert alone.asked == [0.7]
    assert not len(result.detections)


class Faint:
    """Finds the bird, where one is, with a low score."""

    def __init__(self, score: float) -> None:
        self._score = score
        self.looks = 0

    def detect(self, image: Image, regions: object = None, *, threshold: float) -> Detections:
        self.looks += 1
        left, top, right, bottom = (round(side) for side in BIRD)
        middle = image[(top + bottom) // 2, (left + right) // 2]
        shown = middle.max() < 60
        return found((BIRD, self._score if shown else 0.02)).above(threshold)


def visited_days(folder: Path, visits: int) -> list[Path]:
    """Twelve pictures of one place, the last of them with a bird."""
    return [
        write(folder, f"{i:02}.jpg", garden(1), *([BIRD] if i >= 12 - visits else []), seed=i)
        for i in range(12)
    ]


def test_where_birds_score_low_and_all_else_lower_they_are_lifted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths, detector = visited_days(tmp_path, visits=4), Faint(0.4)
    with caplog.at_level("INFO"):
        results = scan(paths, detector, Places.of(paths))
    assert [len(result.detections) for result in results] == [0] * 8 + [1] * 4
    assert detector.looks == 12
    [told] = [record.getMessage() for record in caplog.records if "score low" in record.message]
    assert "was taken: new things there count as birds from a score of 0." in told
    alone = scan(paths, Faint(0.4), Places([]))
    assert not any(len(result.detections) for result in alone)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9])
def test_another_threshold_leaves_the_scores_as_they_are(tmp_path: Path, threshold: float) -> None:
    paths = visited_days(tmp_path, visits=4)
    usual = scan(paths, Faint(0.4), Places.of(paths))
    other = scan(paths, Faint(0.4), Places.of(paths), threshold)
    scores = [result.detections.score[:1].tolist() for result in usual[8:]]
    assert [r.detections.score[:1].tolist() for r in other[8:]] == (
        scores if threshold < 0.7 else [[]] * 4
    )


def test_what_came_once_or_twice_is_not_lifted(tmp_path: Path) -> None:
    paths = visited_days(tmp_path, visits=2)
    results = scan(paths, Faint(0.4), Places.of(paths))
    assert not any(len(result.detections) for result in results)


def test_birds_that_are_seen_well_lift_nothing(tmp_path: Path) -> None:
    paths = visited_days(tmp_path, visits=4)
    results = scan(paths, Faint(0.9), Places.of(paths))
    scores = [float(result.detections.score[0]) for result in results[8:]]
    assert scores == pytest.approx([probability(log_odds(0.9) + NEW_BONUS)] * 4, abs=1e-4)


def test_a_picture_that_is_gone_by_then_is_passed_over(tmp_path: Path) -> None:
    paths = visited_days(tmp_path, visits=4)
    places = Places.of(paths)
    paths[2].unlink()
    results: list[PictureResult] = []
    with pytest.raises(CameraError, match="1 of 12"):
        scan(paths, Faint(0.4), places, results=results)
    assert [len(result.detections) for result in results] == [0] * 7 + [1] * 4


def test_looking_ahead_ends_when_asked_to(tmp_path: Path) -> None:
    paths = visited_days(tmp_path, visits=4)
    pictures = PictureSequence(paths)

    class Impatient(Faint):
        def detect(self, image: Image, regions: object = None, *, threshold: float) -> Detections:
            pictures.close()
            return super().detect(image, regions, threshold=threshold)

    detector = Impatient(0.4)
    results = scan(pictures, detector, Places.of(paths))
    assert (detector.looks, len(results)) == (1, 1)


scores = st.lists(st.floats(-4, 4), max_size=40)


@given(scores, st.floats(0.05, 0.95), st.randoms())
def test_a_lift_keeps_within_its_bounds_and_does_not_ask_for_the_order(
    best: list[float], threshold: float, random: Random
) -> None:
    lifted = lift(best, threshold)
    assert 0 <= lifted <= MOST_LIFT
    shuffled = random.sample(best, len(best))
    assert lift(shuffled, threshold) == pytest.approx(lifted, abs=1e-9)
    # without pictures that stand out there is nothing to lift
    assert lift([-3.0] * len(best), threshold) == 0


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0, 0.5))
def test_a_lift_keeps_above_what_empty_pictures_score(
    empty: int, visited: int, spread: float
) -> None:
    best = [*np.linspace(-2 - spread, -2 + spread, empty), *np.linspace(-0.2, 0.8, visited)]
    lifted = lift(best, 0.72)
    assert log_odds(0.72) - lifted >= -2 + spread
    assume(empty > visited / 3)  # with fewer, the birds themselves are what falls into two groups
    enough = visited >= 3 and visited >= 0.15 * len(best) and len(best) >= 5
    assert (lifted > 0) == enough
    assert lift([score + 1.0 for score in best], 0.72) == 0  # seen well


def test_a_folder_of_one_camera_is_told(tmp_path: Path) -> None:
    feeder = DemoFeeder(seed=0, fps=1, seconds=8, pace=False)
    for index, frame in enumerate(feeder.frames()):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    assert len(list_pictures(str(tmp_path))) == 8
    told = CliRunner().invoke(cli, ["detect", "--source", str(tmp_path)])
    assert told.exit_code == 0
    assert "8 of 8 pictures show a place seen in others" in told.output
    told = CliRunner().invoke(cli, ["detect", "--source", str(tmp_path), "--no-compare"])
    assert told.exit_code == 0
    assert "show a place" not in told.output
