"""What moves is told from the light, the rain and the leaves."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from edgebird.motion import Motion, MotionGate, small_luma
from edgebird.structures import Box, Frame, Image, Track, TrackState
from edgebird.zones import Zones, ZoneSettings

WIDTH, HEIGHT = 160, 120
RNG = np.random.default_rng(0)


def garden() -> Image:
    small = RNG.integers(40, 200, (12, 16), dtype=np.uint8)
    grey = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


GARDEN = garden()


def shot(scene: Image = GARDEN, light: float = 1.0) -> Image:
    """A picture with a sensor's noise."""
    noise = RNG.normal(0, 2.5, scene.shape)
    return np.clip(scene * light + noise, 0, 255).astype(np.uint8)


def with_bird(box: Box, scene: Image = GARDEN) -> Image:
    scene = scene.copy()
    left, top, right, bottom = (round(value) for value in box)
    cv2.ellipse(
        scene,
        ((left + right) // 2, (top + bottom) // 2),
        ((right - left) // 2, (bottom - top) // 2),
        0,
        0,
        360,
        (20, 20, 20),
        -1,
    )
    return scene


def watch(
    pictures: Sequence[Image],
    *,
    fps: float = 5.0,
    zones: ZoneSettings | None = None,
    tracks: Sequence[Track] = (),
) -> list[Motion]:
    gate = MotionGate(Zones(zones or ZoneSettings()))
    seen = []
    for index, picture in enumerate(pictures):
        frame = Frame(picture, index, index / fps, index / fps, "test")
        seen.append(gate.update(frame, small_luma(frame), tracks))
    return seen


def still(count: int = 25) -> list[Image]:
    return [shot() for _ in range(count)]


def test_a_still_scene_has_no_motion() -> None:
    assert sum(len(motion.boxes) for motion in watch(still(100))) == 0


def test_a_bird_that_lands_is_boxed_in_the_first_frame() -> None:
    bird = (100.0, 50.0, 120.0, 65.0)
    motion = watch([*still(), shot(with_bird(bird))])[-1]
    [box] = motion.boxes
    assert np.abs(box - bird).max() < 4
    assert motion.share_of(bird) > 0.4
    assert motion.share_of((10, 10, 30, 25)) == 0


@pytest.mark.parametrize(
    "bird", [(0, 50, 20, 65), (140, 50, 160, 65), (60, 0, 80, 15), (60, 105, 80, 120)]
)
def test_a_bird_that_is_cut_by_the_border_is_boxed_up_to_it(bird: Box) -> None:
    left, top, right, bottom = (round(value) for value in bird)
    scene = GARDEN.copy()
    scene[top:bottom, left:right] = 20
    [box] = watch([*still(), shot(scene)])[-1].boxes
    assert np.abs(box - bird).max() < 2


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080), (200, 100), (90, 160)])
def test_boxes_are_in_pixels_of_the_frame_whatever_its_size(size: tuple[int, int]) -> None:
    def at_size(picture: Image) -> Image:
        return np.asarray(cv2.resize(picture, size), np.uint8)

    empty = [at_size(shot()) for _ in range(25)]
    motion = watch([*empty, at_size(shot(with_bird((100, 50, 120, 65))))])[-1]
    [box] = motion.boxes
    scale = np.array([size[0] / WIDTH, size[1] / HEIGHT] * 2)
    assert np.abs(box / scale - (100, 50, 120, 65)).max() < 5


def test_slow_changes_of_light_are_no_motion() -> None:
    lights = 0.7 + 0.3 * np.sin(np.arange(200) / 20)
    assert sum(len(motion.boxes) for motion in watch([shot(light=light) for light in lights])) == 0


@pytest.mark.parametrize("light", [0.5, 0.75, 1.25])
def test_a_sudden_step_of_light_is_no_motion(light: float) -> None:
    after = [shot(light=light) for _ in range(20)]
    assert sum(len(motion.boxes) for motion in watch([*still(), *after])) == 0


def test_lightning_is_told_as_such_and_is_over_soon() -> None:
    flash = [np.full_like(GARDEN, 250)]
    seen = watch([*still(), *flash, *still(20), shot(with_bird((100, 50, 120, 65)))])
    assert seen[25].light_changed
    assert sum(len(motion.boxes) for motion in seen[:-1]) == 0
    assert len(seen[-1].boxes) == 1


@pytest.mark.parametrize("fps", [5.0, 1.0, 0.5, 0.1])
def test_it_settles_after_a_change_however_seldom_frames_come(fps: float) -> None:
    other = np.ascontiguousarray(GARDEN[::-1, ::-1])
    seen = watch([*still(30), *(shot(other) for _ in range(12))], fps=fps)
    assert seen[30].light_changed
    assert not any(motion.light_changed for motion in seen[-3:])


def test_most_rain_is_thinner_than_a_bird() -> None:
    def rain() -> Image:
        scene = GARDEN.copy()
        for x, y in RNG.integers(0, (WIDTH, HEIGHT - 10), (60, 2)).tolist():
            cv2.line(scene, (x, y), (x, y + 6), (200, 200, 200), 1)
        return shot(scene)

    seen = watch([*still(), *(rain() for _ in range(60))])
    # now and then drops meet
    assert sum(len(motion.boxes) > 0 for motion in seen) < 15


def leaves() -> Image:
    """A leaf anywhere around its twig."""
    x, y = RNG.uniform((20, 15), (50, 30)).tolist()
    return with_bird((x, y, x + 22, y + 20))


def windy() -> list[Image]:
    return [*still(), *(shot(leaves()) for _ in range(300))]


def test_leaves_that_sway_all_the_time_are_learned_as_restless() -> None:
    seen = watch(windy())
    early, late = (sum(len(m.boxes) > 0 for m in part) for part in (seen[25:75], seen[-50:]))
    assert early > 4
    assert late <= 2


def test_a_bird_is_seen_beside_restless_leaves() -> None:
    pictures = windy()
    bird = (100.0, 75.0, 120.0, 90.0)
    motion = watch([*pictures, shot(with_bird(bird, leaves()))])[-1]
    assert any(np.abs(box - bird).max() < 5 for box in motion.boxes)


def test_where_birds_are_followed_nothing_is_learned_as_restless() -> None:
    track = Track(1, (20, 15, 72, 50), 0.9, 5, 0, 0, 0.9, TrackState.CONFIRMED)
    seen = watch(windy(), tracks=[track])
    assert sum(len(motion.boxes) > 0 for motion in seen[-50:]) > 10


def test_masks_zones_and_sizes_leave_motion_out() -> None:
    right = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    both = with_bird((15, 20, 35, 35), with_bird((100, 50, 120, 65)))
    pictures = [*still(), shot(both)]

    def lefts(settings: ZoneSettings) -> list[bool]:
        return sorted(bool(box[0] < 80) for box in watch(pictures, zones=settings)[-1].boxes)

    assert lefts(ZoneSettings()) == [False, True]
    assert lefts(ZoneSettings(zones=(right,))) == [False]
    assert lefts(ZoneSettings(masks=(right,))) == [True]
    assert lefts(ZoneSettings(min_bird=0.3)) == []
    assert lefts(ZoneSettings(max_bird=0.05)) == []


def test_the_gate_takes_a_new_size_of_frames() -> None:
    larger = [np.asarray(cv2.resize(picture, (640, 360)), np.uint8) for picture in still()]
    assert sum(len(motion.boxes) for motion in watch([*still(), *larger])) == 0


def test_time_counts_and_not_frames() -> None:
    """A bird that keeps still fades into the scene as fast at 2 as at 10 frames a second."""

    def fades_after_s(fps: float) -> float:
        bird = (100, 50, 120, 65)
        pictures = [*still(int(40 * fps)), *(shot(with_bird(bird)) for _ in range(int(60 * fps)))]
        seen = watch(pictures, fps=fps)
        return sum(motion.share_of(bird) > 0.2 for motion in seen) / fps

    slow, fast = fades_after_s(1), fades_after_s(3)
    assert 3 < fast < 60
    assert slow == pytest.approx(fast, rel=0.5)


def test_a_luma_picture_of_the_camera_is_used_as_it_is() -> None:
    luma = np.full((120, 160), 77, np.uint8)
    frame = Frame(shot(), 0, 0, 0, "test", luma)
    assert (small_luma(frame) == 77).all()
    assert small_luma(frame).shape == (120, 160)


def test_shadows_that_wander_over_the_garden_for_half_an_hour_do_not_blind_it() -> None:
    # each second another quarter of the garden lies in the shade
    def shaded(second: int) -> Image:
        scene = GARDEN.copy()
        left = second % 4 * WIDTH // 4
        scene[:, left : left + WIDTH // 4] //= 2
        return shot(scene)

    windy = [shaded(second) for second in range(1800)]
    calm = [shot() for _ in range(200)]
    seen = watch([*windy, *calm, shot(with_bird((60, 50, 90, 75)))], fps=1.0)
    assert not len(seen[-2].boxes)
    assert len(seen[-1].boxes) == 1
