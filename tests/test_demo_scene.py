"""The demo's scene is the same for a seed, and birds come and go as the detector needs it."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from edgebird.camera.demo import HEIGHT_PX, WIDTH_PX, DemoFeeder
from edgebird.camera.drawn_birds import PLUMAGES, bird
from edgebird.structures import Box


def visible_birds(feeder: DemoFeeder, t_s: float) -> list[Box]:
    """The true boxes of the birds that are at least half inside the frame."""
    boxes: list[Box] = []
    for placed in feeder._placed(t_s):
        solid = (placed.sprite.alpha > 0.5).astype(np.uint8)
        inset_x, inset_y, width, height = cv2.boundingRect(solid)
        left, top = placed.left_px + inset_x, placed.top_px + inset_y
        right, bottom = left + width, top + height
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, WIDTH_PX), min(bottom, HEIGHT_PX)
        inside = max(x1 - x0, 0) * max(y1 - y0, 0)
        if 2 * inside >= width * height:
            boxes.append((float(x0), float(y0), float(x1), float(y1)))
    return boxes


@pytest.fixture(scope="module")
def feeder() -> DemoFeeder:
    return DemoFeeder(seed=0)


def test_the_same_seed_draws_the_same_pictures(feeder: DemoFeeder) -> None:
    image = feeder.render(4.0)
    assert image.shape == (480, 640, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, DemoFeeder(seed=0).render(4.0))
    assert (image != DemoFeeder(seed=1).render(4.0)).any()


@pytest.mark.parametrize("seed", range(3))
def test_three_visits_in_27_seconds_with_empty_time_between(seed: int) -> None:
    feeder = DemoFeeder(seed)
    times_s = np.arange(0, 27, 0.1)
    present = np.array([bool(visible_birds(feeder, t)) for t in times_s])
    arrivals_s = times_s[1:][present[1:] & ~present[:-1]]
    departures_s = times_s[1:][~present[1:] & present[:-1]]
    assert len(arrivals_s) == len(departures_s) == 3
    assert arrivals_s[0] < 3
    assert (departures_s - arrivals_s > 4).all()
    assert (arrivals_s[1:] - departures_s[:-1] > 3).all()
    assert max(len(visible_birds(feeder, t)) for t in times_s) == 2


def test_perched_birds_are_of_a_size_that_a_feeder_camera_sees(feeder: DemoFeeder) -> None:
    for t_s in np.arange(2.5, 54, 9):
        for x0, y0, x1, y1 in visible_birds(feeder, t_s):
            assert 0 <= x0 < x1 <= WIDTH_PX
            assert 0 <= y0 < y1 <= HEIGHT_PX
            assert 0.1 < (x1 - x0) / WIDTH_PX < 0.35


def test_the_picture_changes_where_the_bird_is(feeder: DemoFeeder) -> None:
    (x0, y0, x1, y1) = (round(value) for value in visible_birds(feeder, 3.0)[0])
    change = np.abs(feeder.render(3.0).astype(int) - feeder.render(0.0)).max(axis=2)
    assert np.median(change[y0:y1, x0:x1]) > 3 * np.median(change)


@pytest.mark.parametrize("kind", PLUMAGES)
def test_every_kind_can_be_drawn_facing_both_ways(kind: str) -> None:
    right, left = (bird(kind, "perched", 120, faces) for faces in (True, False))
    np.testing.assert_array_equal(right.rgb, left.rgb[:, ::-1])
    assert right.alpha.max() == pytest.approx(1, abs=0.01)


def test_frames_keep_the_pace_of_real_time() -> None:
    camera = DemoFeeder(seconds=0.5, fps=10)
    start_s = time.monotonic()
    frames = list(camera.frames())
    assert len(frames) == 5
    assert time.monotonic() - start_s >= 0.4


def test_without_pace_the_times_are_the_same_but_nobody_waits() -> None:
    frames = list(DemoFeeder(seconds=2, fps=5, pace=False).frames())
    steps_s = np.diff([frame.monotonic_s for frame in frames])
    np.testing.assert_allclose(steps_s, 0.2, atol=1e-6)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="fps must be above 0"):
        DemoFeeder(fps=0)
