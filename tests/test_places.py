"""Pictures of one camera tell more together than each alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from test_tracker import found

from edgebird.camera.demo import DemoFeeder
from edgebird.camera.files import PictureSequence, list_pictures, read_picture
from edgebird.cli import cli
from edgebird.evidence import Evidence, EvidenceSettings
from edgebird.motion import Motion
from edgebird.pictures import PictureResult, scan_pictures
from edgebird.places import LEAST_PICTURES, Places
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


def motion_in(places: Places, path: Path) -> Motion:
    return places.motion(Frame(read_picture(path), 0, 0.0, 0.0, str(path)))


def test_what_is_in_one_picture_of_a_place_only_is_new_there(tmp_path: Path) -> None:
    empty = days(tmp_path)
    visited = write(tmp_path, "visited.jpg", garden(1), BIRD, light=0.8, seed=9)
    places = Places.of([*empty, visited])
    assert len(places) == len(empty) + 1
    motion = motion_in(places, visited)
    assert motion.share_of(BIRD) > 0.6
    assert motion.share_of(FEEDER) == 0
    assert motion.moving.mean() < 0.05
    for path in empty:
        assert not motion_in(places, path).moving.any()


def test_what_is_in_most_pictures_of_a_place_is_usual_there(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, f"{i}.jpg", garden(1), *([BIRD] if i % 3 else []), seed=i) for i in range(9)
    ]
    places = Places.of(paths)
    assert motion_in(places, paths[1]).share_of(BIRD) == 0


def test_leaves_that_move_in_all_pictures_are_not_new(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    paths = []
    for i in range(10):
        swaying = garden(1)
        swaying[:100] = np.roll(swaying[:100], int(rng.integers(-4, 5)), axis=1)
        paths.append(write(tmp_path, f"{i}.jpg", swaying, seed=i))
    places = Places.of(paths)
    shares = [motion_in(places, path).moving.mean() for path in paths]
    assert max(shares) < 0.05


def test_two_cameras_in_one_folder_are_two_places(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, f"{i}-{camera}.jpg", garden(camera), seed=i)
        for i in range(LEAST_PICTURES)
        for camera in (1, 2)
    ]
    visited = write(tmp_path, "6-2.jpg", garden(2), BIRD, seed=7)
    places = Places.of([*paths, visited])
    assert len(places) == len(paths) + 1
    assert motion_in(places, visited).share_of(BIRD) > 0.6
    assert not any(motion_in(places, path).moving.any() for path in paths)


def test_pictures_of_different_places_stand_alone(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{i}.jpg", np.roll(garden(i), 17 * i, axis=1)) for i in range(12)]
    # flat ones have nothing that could tell one place from another
    for i in range(6):
        flat = np.full((HEIGHT_PX, WIDTH_PX, 3), 150 + i, np.uint8)
        paths.append(write(tmp_path, f"sky{i}.jpg", flat, seed=i))
    places = Places.of(paths)
    assert not places
    assert not motion_in(places, paths[0]).moving.any()


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
    assert not places.knows(paths[3])


@pytest.mark.parametrize("size", [(1, 1), (700, 1), (3, 700), (40, 30)])
def test_odd_sizes_are_no_error(size: tuple[int, int], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(LEAST_PICTURES)]
    for path in paths:
        cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))
    places = Places.of(paths)
    assert not any(motion_in(places, path).moving.any() for path in paths)


def test_it_ends_where_it_is_told_to(tmp_path: Path) -> None:
    paths = days(tmp_path)
    seen = iter(range(1, len(paths)))
    places = Places.of(paths, lambda: next(seen) < LEAST_PICTURES)
    assert [places.knows(path) for path in paths] == [True] * 5 + [False] * 3


def test_pictures_that_vanish_meanwhile_are_no_error(tmp_path: Path) -> None:
    paths = days(tmp_path)
    places = Places.of(paths)
    frame = Frame(read_picture(paths[0]), 0, 0.0, 0.0, str(paths[0]))
    for path in paths[1:]:
        path.unlink()
    assert not places.motion(frame).moving.any()


class Unsure:
    """Sees the bird and the feeder in each picture, and is as unsure of both."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def detect(self, image: Image, regions: object = None, *, threshold: float) -> Detections:
        self.asked.append(threshold)
        return found((FEEDER, 0.61), (BIRD, 0.6)).above(threshold)


def scan(paths: Sequence[Path], detector: Unsure, motion_bonus: float = 0.7) -> list[PictureResult]:
    results: list[PictureResult] = []
    weights = EvidenceSettings(motion_bonus=motion_bonus, still_penalty=0.0)
    scan_pictures(
        PictureSequence(list(paths)),
        detector,
        0.7,
        results.append,
        places=Places.of(paths),
        evidence=Evidence(weights),
    )
    return results


def test_what_is_new_reaches_the_threshold_where_what_is_always_there_does_not(
    tmp_path: Path,
) -> None:
    paths = [*days(tmp_path), write(tmp_path, "visited.jpg", garden(1), BIRD, seed=9)]
    *empty, visited = scan(paths, Unsure())
    assert visited.detections.xyxy.tolist() == [list(BIRD)]
    assert float(visited.detections.score[0]) == pytest.approx(0.751, abs=1e-3)
    assert not any(len(result.detections) for result in empty)
    assert not any(len(result.detections) for result in scan(paths, Unsure(), motion_bonus=0.0))


def test_a_picture_on_its_own_is_looked_at_as_ever(tmp_path: Path) -> None:
    alone = Unsure()
    [result] = scan([write(tmp_path, "visited.jpg", garden(1), BIRD)], alone)
    assert alone.asked == [0.7]
    assert not len(result.detections)


def test_a_folder_of_one_camera_is_told(tmp_path: Path) -> None:
    feeder = DemoFeeder(seed=0, fps=1, seconds=8, pace=False)
    for index, frame in enumerate(feeder.frames()):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    assert len(list_pictures(str(tmp_path))) == 8
    told = CliRunner().invoke(cli, ["detect", "--source", str(tmp_path)])
    assert told.exit_code == 0
    assert "8 of 8 pictures show a place that others show, too" in told.stderr
