"""A scripted camera: a day or a month at a feeder, drawn or out of pictures, with all that happens.

A scenario is a TOML file::

    seed = 1
    days = 1.0
    fps = 5                         # while something happens
    quiet_fps = 0.05                # else, to save time
    visits_per_day = 40             # drawn by lot, besides the scripted ones
    night = [21.0, 5.5]             # hours of the day: dark from and to
    pictures = "my-feeder"          # instead of the drawn feeder: a folder with the folders
                                    # empty/ and bird/
    [[event]]
    kind = "visit"                  # or light, lightning, leaves, decoy, lost, frozen, black
    at_s = 60.0
    for_s = 8.0
    strength = 0.5                  # of a light: what it is multiplied with

A visit that is not over within the days does not take place. A decoy is a bird of clay: it looks
like one and never moves. Only the drawn feeder has decoys and leaves.

Time is carried by the frames, so a week takes as long as its frames do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
from msgspec import Meta

from edgebird.camera import drawn_birds, drawn_garden
from edgebird.camera.demo import (
    FLIGHT_IN_S,
    FLIGHT_OUT_S,
    HEIGHT_PX,
    WIDTH_PX,
    Visitor,
    blend,
    cast_shadow,
    make_visitor,
    place,
)
from edgebird.camera.drawn_birds import PLUMAGES
from edgebird.camera.files import list_pictures, read_picture
from edgebird.errors import ConfigError
from edgebird.structures import Frame, Image, Silence

Kind = Literal["visit", "light", "lightning", "leaves", "decoy", "lost", "frozen", "black"]

_DAY_S = 86400.0
# 2025-06-01, midnight: a replay is the same each time
_START_UTC_S = 1_748_736_000.0
# The full frame rate begins so long before something happens, and ends so long after it.
_LEAD_S, _TAIL_S = 8.0, 6.0
# Between visits that are drawn by lot: long enough for the one before to end.
_BETWEEN_VISITS_S = 20.0
_DUSK_S = 1800.0
_NOISE_FIELDS = 8
_NOISE_DEVIATION = 2.5


class ScriptedEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that happens from ``at_s`` on for ``for_s``, in seconds from midnight."""

    kind: Kind
    at_s: Annotated[float, Meta(ge=0)]
    for_s: Annotated[float, Meta(gt=0)]
    strength: Annotated[float, Meta(gt=0, le=4)] = 0.5

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens in front of a scripted camera; see the module's docstring."""

    seed: Annotated[int, Meta(ge=0)] = 0
    days: Annotated[float, Meta(gt=0, le=60)] = 1.0
    fps: Annotated[float, Meta(gt=0, le=60)] = 5.0
    quiet_fps: Annotated[float, Meta(gt=0, le=60)] = 0.05
    visits_per_day: Annotated[int, Meta(ge=0, le=1000)] = 0
    night: tuple[float, float] | None = None
    pictures: str | None = None
    event: tuple[ScriptedEvent, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError when the night does not fit."""
        if self.night is None:
            return
        if not all(0 <= hour <= 24 for hour in self.night):
            raise ValueError(f"night is two hours of the day, 0 to 24, not {list(self.night)}")
        first_h, last_h = _visiting_hours(self.night)
        if self.visits_per_day and first_h >= last_h:
            raise ValueError(f"a night of {list(self.night)} leaves no two hours for visits")


def load_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Raises:
        ConfigError: it cannot be read, or something in it does not fit.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Scenario)
    except OSError as error:
        raise ConfigError(f"cannot read the scenario {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}".replace("`$.", "`")) from error


def week(days: float = 7.0, seed: int = 0) -> Scenario:
    """A common week: visits, clouds and switched lights, wind, nights, and a cable that wobbles."""
    rng = np.random.default_rng(seed)
    events = []
    for day in range(math.ceil(days)):
        daily = {"light": 16, "leaves": 4, "lightning": 2, "lost": 2, "frozen": 1}
        for kind, count in daily.items():
            for at_h in rng.uniform(6.5, 19.5, count):
                length_s = {"light": rng.uniform(20, 60), "leaves": rng.uniform(60, 180)}
                events.append(
                    ScriptedEvent(
                        kind=kind,  # type: ignore[arg-type]
                        at_s=float(day * _DAY_S + at_h * 3600),
                        for_s=float(length_s.get(kind, 0.4 if kind == "lightning" else 30.0)),
                        strength=float(rng.choice([0.5, 0.7, 1.3, 1.6])),
                    )
                )
    return Scenario(seed=seed, days=days, visits_per_day=40, night=(21.0, 5.5), event=tuple(events))


@dataclass(frozen=True, slots=True)
class Stay:
    """A scripted visit: when a bird is in the picture, in the time of the frames."""

    start_s: float
    end_s: float


class ScenarioCamera:
    """Yields the frames of a scenario as a live camera would, as fast as they are asked for.

    Args:
        scenario: what happens.

    Attributes:
        stays: the visits that are to be found.
        stopped: whether it was closed before the end of its script.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.stopped = False
        self._closed = False
        others = [event for event in scenario.event if event.kind != "visit"]
        end_s = scenario.days * _DAY_S
        scripted = [e for e in scenario.event if e.kind == "visit" and e.end_s < end_s]
        self._visits = sorted([*scripted, *_by_lot(scenario, others)], key=lambda event: event.at_s)
        self._events = sorted([*others, *self._visits], key=lambda event: event.at_s)
        self.stays = [Stay(visit.at_s, visit.end_s) for visit in self._visits]
        self._rng = np.random.default_rng(scenario.seed)
        self._noise: list[Any] = []

    @property
    def frame_count(self) -> None:
        """It passes for a live camera."""
        return None

    @cached_property
    def _scene(self) -> DrawnScene | PictureScene:
        if self._scenario.pictures is None:
            return DrawnScene(self._scenario.seed)
        return PictureScene(Path(self._scenario.pictures))

    def frames(self) -> Iterator[Frame | Silence]:
        """Yield what the camera sees, and a Silence each second while it is lost.

        Raises:
            CameraError: the scenario's pictures cannot be read.
        """
        index = 0
        frozen: Image | None = None
        for now_s, events in self._moments():
            if self._closed:
                self.stopped = True
                return
            kinds = {event.kind for event in events}
            if "lost" in kinds:
                yield Silence(now_s, _START_UTC_S + now_s, lost=True, error="the cable is loose")
                continue
            if "frozen" not in kinds or frozen is None:
                frozen = self._shot(now_s, events)
            yield Frame(frozen, index, now_s, _START_UTC_S + now_s, "scenario")
            index += 1

    def close(self) -> None:
        """End the iteration before the next frame."""
        self._closed = True

    def _moments(self) -> Iterator[tuple[float, list[ScriptedEvent]]]:
        """Times of frames, and what happens then."""
        end_s = self._scenario.days * _DAY_S
        busy = _joined([(e.at_s - _LEAD_S, e.end_s + _TAIL_S) for e in self._events])
        now_s, next_event, going_on = 0.0, 0, list[ScriptedEvent]()
        next_busy = 0
        while now_s < end_s:
            while next_event < len(self._events) and self._events[next_event].at_s <= now_s:
                going_on.append(self._events[next_event])
                next_event += 1
            going_on = [event for event in going_on if event.end_s > now_s]
            yield now_s, going_on
            while next_busy < len(busy) and busy[next_busy][1] <= now_s:
                next_busy += 1
            begins_s = busy[next_busy][0] if next_busy < len(busy) else math.inf
            if now_s >= begins_s:
                step_s = 1.0 if any(e.kind == "lost" for e in going_on) else 1 / self._scenario.fps
                now_s += step_s
            else:
                now_s = min(now_s + 1 / self._scenario.quiet_fps, max(begins_s, now_s + 1e-3))

    def _shot(self, now_s: float, events: list[ScriptedEvent]) -> Image:
        visit = next((event for event in events if event.kind == "visit"), None)
        image = self._scene.draw(now_s, visit, {event.kind for event in events})
        light = _daylight(now_s, self._scenario.night)
        for event in events:
            light *= {"light": event.strength, "lightning": 4.0, "black": 0.0}.get(event.kind, 1.0)
        if abs(light - 1) > 0.002:
            image = np.asarray(cv2.convertScaleAbs(image, alpha=light), np.uint8)
        return self._noisy(image)

    def _noisy(self, image: Image) -> Image:
        """With a sensor's noise: one of a few fields, shifted by lot."""
        height, width = image.shape[:2]
        if not self._noise or self._noise[0].shape[0] < height + 32:
            shape = (height + 32, width + 32, 3)
            self._noise = [
                self._rng.normal(0, _NOISE_DEVIATION, shape).round().astype(np.int8)
                for _ in range(_NOISE_FIELDS)
            ]
        x, y = self._rng.integers(0, 32, 2).tolist()
        field = self._noise[int(self._rng.integers(_NOISE_FIELDS))]
        noise = field[y : y + height, x : x + width]
        return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


class DrawnScene:
    """The feeder of the demo, drawn in such a way that a week of it is drawn within minutes.

    Args:
        seed: chooses the garden and the birds.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._garden = drawn_garden.garden(WIDTH_PX, HEIGHT_PX, seed)
        self._twig = drawn_garden.twig(seed)
        self._calm = self._with_twig(0.0)
        self._visitor: tuple[float, Visitor] | None = None

    def draw(self, now_s: float, visit: ScriptedEvent | None, kinds: set[Kind]) -> Image:
        """The scene at a time, without noise: uint8 (480, 640, 3), RGB."""
        image = self._calm
        if "leaves" in kinds:
            image = self._with_twig(3 * math.sin(1.3 * now_s) + 1.5 * math.sin(3.1 * now_s))
        if "decoy" in kinds:
            image = self._with_decoy(image)
        return image if visit is None else self._with_bird(image, now_s, visit)

    def _with_decoy(self, image: Image) -> Image:
        left, _, stand_y = drawn_garden.table_top_px(WIDTH_PX, HEIGHT_PX)
        sprite = drawn_birds.bird("blackbird", "perched", 150, True)
        x, y = round(left - sprite.foot_px[0]), round(stand_y + 4 - sprite.foot_px[1])
        scene = image.astype(np.float32)
        blend(scene, sprite.rgb, sprite.alpha, x, y)
        return scene.clip(0, 255).astype(np.uint8)

    def _with_twig(self, sway_px: float) -> Image:
        height, width = self._twig.alpha.shape
        part = self._garden[24 : 24 + height, :width].copy()
        shift = np.array([[1, 0, 0], [sway_px / 120, 1, 0]], np.float32)
        rgb, alpha = (
            cv2.warpAffine(plane, shift, (width, height))
            for plane in (self._twig.rgb, self._twig.alpha)
        )
        blend(part, rgb, alpha, 0, 0)
        scene = self._garden.clip(0, 255).astype(np.uint8) if sway_px == 0 else self._calm.copy()
        scene[24 : 24 + height, :width] = part.clip(0, 255).astype(np.uint8)
        return scene

    def _with_bird(self, image: Image, now_s: float, visit: ScriptedEvent) -> Image:
        if self._visitor is None or self._visitor[0] != visit.at_s:
            rng = np.random.default_rng((self._seed, round(visit.at_s * 10)))
            left, right, _ = drawn_garden.table_top_px(WIDTH_PX, HEIGHT_PX)
            kind = str(rng.choice(sorted(PLUMAGES)))
            # it sits from the end of its flight on until it flies off
            sits_s = max(visit.for_s - FLIGHT_OUT_S, FLIGHT_IN_S + 0.7)
            reach_px = (left + 40, right - 40)
            self._visitor = visit.at_s, make_visitor(rng, kind, FLIGHT_IN_S, sits_s, reach_px)
        bird = place(self._visitor[1], now_s - visit.at_s)
        if bird is None:
            return image
        height, width = bird.sprite.alpha.shape
        # only around the bird: the rest of the scene is as it was
        x0, y0 = max(bird.left_px - 20, 0), max(bird.top_px - 20, 0)
        x1, y1 = min(bird.left_px + width + 20, WIDTH_PX), min(bird.top_px + height + 40, HEIGHT_PX)
        if x0 >= x1 or y0 >= y1:
            return image
        scene = np.zeros(image.shape, np.float32)
        scene[y0:y1, x0:x1] = image[y0:y1, x0:x1]
        cast_shadow(scene, bird)
        blend(scene, bird.sprite.rgb, bird.sprite.alpha, bird.left_px, bird.top_px)
        image = image.copy()
        image[y0:y1, x0:x1] = scene[y0:y1, x0:x1].clip(0, 255).astype(np.uint8)
        return image


class PictureScene:
    """Pictures of a real feeder: those of ``bird/`` in turn during a visit, else of ``empty/``.

    Args:
        folder: with the two folders.

    Raises:
        CameraError: one of them has no picture, or a picture cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._empty = [read_picture(path) for path in list_pictures(str(folder / "empty"))]
        self._bird = [read_picture(path) for path in list_pictures(str(folder / "bird"))]
        size = self._empty[0].shape[1::-1]
        self._empty, self._bird = (
            [np.asarray(cv2.resize(picture, size), np.uint8) for picture in pictures]
            for pictures in (self._empty, self._bird)
        )

    def draw(self, now_s: float, visit: ScriptedEvent | None, kinds: set[Kind]) -> Image:
        """The picture of a time: uint8 (H, W, 3), RGB."""
        # a new one each half second; the empty scene changes every ten minutes
        if visit is not None:
            return self._bird[int(now_s * 2) % len(self._bird)]
        return self._empty[int(now_s / 600) % len(self._empty)]


def _by_lot(scenario: Scenario, others: list[ScriptedEvent]) -> list[ScriptedEvent]:
    """Visits by daylight that do not meet each other, nor a camera that sees nothing."""
    rng = np.random.default_rng((scenario.seed, 1))
    first_h, last_h = _visiting_hours(scenario.night)
    taken = [
        (event.at_s, event.end_s)
        for event in (*others, *scenario.event)
        if event.kind in ("visit", "lost", "frozen", "black")
    ]
    visits = []
    for day in range(math.ceil(scenario.days)):
        for _ in range(scenario.visits_per_day):
            hour = rng.uniform(first_h, last_h)
            at_s = round(float(day * _DAY_S + hour * 3600), 1)
            visit = ScriptedEvent("visit", at_s, round(float(1.4 + rng.exponential(10.0)), 1))
            apart = all(
                visit.end_s + _BETWEEN_VISITS_S < start_s or end_s + _BETWEEN_VISITS_S < at_s
                for start_s, end_s in taken
            )
            if apart and visit.end_s < scenario.days * _DAY_S:
                visits.append(visit)
                taken.append((at_s, visit.end_s))
    return visits


def _visiting_hours(night: tuple[float, float] | None) -> tuple[float, float]:
    """From when until when there is light, but for an hour of dawn and of dusk; the end may be
    above 24 where the night begins after midnight.
    """
    if night is None:
        return 1.0, 23.0
    dark_h, light_h = night
    first_h = (light_h + 1) % 24
    return first_h, first_h + (dark_h - light_h) % 24 - 2


def _daylight(now_s: float, night: tuple[float, float] | None) -> float:
    """How much light there is, 0 to 1: by night none, at its edges more or less."""
    if night is None:
        return 1.0
    dark_h, light_h = night
    since_light_s = (now_s - light_h * 3600) % _DAY_S
    until_dark_s = (dark_h - light_h) % 24 * 3600 - since_light_s
    return float(np.clip(min(since_light_s, until_dark_s) / _DUSK_S, 0.01, 1.0))


def _joined(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans of time with those that overlap made one, in order."""
    joined: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end_s)
        else:
            joined.append((start_s, end_s))
    assert all(a[1] < b[0] for a, b in pairwise(joined))
    return joined
