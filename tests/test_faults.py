"""What goes wrong with a camera is told once when it begins and once when it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest

from edgebird.faults import FaultWatch
from edgebird.motion import small_luma
from edgebird.structures import Frame, Image

RNG = np.random.default_rng(0)
FPS = 2.0


def garden() -> Image:
    """Large and small shapes, as anything has."""
    coarse = cv2.resize(RNG.uniform(60, 180, (12, 16, 3)), (160, 120))
    return np.clip(coarse + RNG.uniform(-30, 30, (120, 160, 3)), 0, 255).astype(np.uint8)


GARDEN = garden()


def shot(scene: Image = GARDEN, light: float = 1.0) -> Image:
    return np.clip(scene * light + RNG.normal(0, 2, scene.shape), 0, 255).astype(np.uint8)


def shots(seconds: float, scene: Image = GARDEN, light: float = 1.0) -> list[Image]:
    return [shot(scene, light) for _ in range(round(seconds * FPS))]


class Watched:
    """A watch and the frames that it has seen."""

    def __init__(self, **options: object) -> None:
        self.restarts = 0
        self.watch = FaultWatch("cam", restart=self.restart, **options)  # type: ignore[arg-type]
        self.seconds = 0.0
        self.clock_s = 1e9

    def restart(self) -> None:
        self.restarts += 1

    def see(self, pictures: Iterable[Image]) -> list[tuple[str, ...]]:
        seen = []
        for picture in pictures:
            frame = Frame(picture, 0, self.seconds, self.clock_s + self.seconds, "cam")
            self.watch.check(frame, small_luma(frame))
            self.seconds += 1 / FPS
            seen.append(self.watch.faults)
        return seen


BLURRED = np.asarray(cv2.GaussianBlur(GARDEN, (0, 0), 5), np.uint8)


@pytest.mark.parametrize(
    ("fault", "pictures", "blind"),
    [
        ("frozen", lambda: [GARDEN] * 40, True),
        ("black", lambda: shots(20, light=0.01), True),
        ("covered", lambda: shots(40, np.full_like(GARDEN, 90)), True),
        ("blurred", lambda: shots(60, BLURRED), False),
        ("size", lambda: [shot()[:90] for _ in range(20)], False),
    ],
)
def test_each_fault_is_found_told_once_and_over_when_it_is_over(
    fault: str,
    pictures: Callable[[], list[Image]],
    blind: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    camera = Watched()
    assert not any(camera.see(shots(90)))
    assert camera.see(pictures())[-1] == (fault,)
    assert camera.watch.blind == blind
    assert camera.see(shots(40))[-1] == ()
    assert not camera.watch.blind
    told = [message for message in caplog.messages if fault in message]
    assert len(told) == 2
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "pictures",
    [lambda: [GARDEN] * round(11 * FPS), lambda: shots(25, BLURRED)],
    ids=["frozen", "blurred"],
)
def test_what_may_pass_is_no_fault_yet(pictures: Callable[[], list[Image]]) -> None:
    camera = Watched()
    camera.see(shots(90))
    assert not any(camera.see(pictures()))


def test_a_healthy_camera_has_no_faults_in_changing_light(
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = Watched()
    lights = 0.6 + 0.4 * np.sin(np.arange(600) / 30)
    assert not any(camera.see(shot(light=light) for light in lights))
    assert caplog.messages == []


def test_a_frozen_camera_is_opened_anew_once_a_minute() -> None:
    camera = Watched()
    camera.see(shots(5))
    camera.see([GARDEN] * round(150 * FPS))
    assert camera.restarts == 3


def test_nightfall_is_no_fault_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    camera = Watched()
    dusk = [shot(light=light) for light in np.linspace(1, 0.01, 200)]
    night = [np.zeros_like(GARDEN)] * 100
    assert not any(camera.see([*dusk, *night]))
    assert camera.watch.dark
    assert camera.watch.blind
    dawn = [shot(light=light) for light in np.linspace(0.01, 1, 200)]
    assert not any(camera.see(dawn))
    assert not camera.watch.dark
    assert [message.split(": ")[1].split(",")[0] for message in caplog.messages] == [
        "too dark to see birds",
        "light enough again",
    ]


def test_a_camera_that_starts_in_the_dark_says_dark() -> None:
    camera = Watched()
    assert not any(camera.see([np.zeros_like(GARDEN)] * 60))
    assert camera.watch.dark


def test_a_lightning_flash_at_night_is_not_a_camera_that_turned_black() -> None:
    camera = Watched()
    camera.see([np.zeros_like(GARDEN)] * 60)
    camera.see([np.full_like(GARDEN, 200)])
    assert camera.see([np.zeros_like(GARDEN)] * 20)[-1] == ()


def test_a_size_that_was_asked_for_and_not_given_is_a_fault() -> None:
    assert Watched(size=(1280, 720)).see([GARDEN]) == [("size",)]


def test_a_change_of_size_is_told_to_the_loop_in_the_frame_where_it_happens() -> None:
    camera = Watched()
    resized = []
    for picture in [*shots(2), shot()[:90], shot()[:90], shot()]:
        camera.see([picture])
        resized.append(camera.watch.resized)
    assert resized == [False] * 4 + [True, False, True]


@pytest.mark.parametrize("step_s", [3600.0, -86400.0])
def test_a_clock_that_is_set_is_told_for_a_while(step_s: float) -> None:
    camera = Watched()
    camera.see(shots(5))
    camera.clock_s += step_s
    assert camera.see([shot()]) == [("clock",)]
    seen = camera.see(shots(100))
    assert seen[0] == ("clock",)
    assert seen[-1] == ()


def test_what_stays_different_for_hours_becomes_usual() -> None:
    camera = Watched()
    camera.see(shots(90))
    small = [shot()[:90] for _ in range(3)]
    assert camera.see(small)[-1] == ("size",)
    camera.seconds += 7 * 3600
    assert camera.see([shot()[:90] for _ in range(3)])[-1] == ()
