"""The demo camera: a feeding table that drawn birds visit. Nothing tells the detector where."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from edgebird.camera import drawn_birds, drawn_garden
from edgebird.camera.drawn_birds import PLUMAGES, Plane, Sprite
from edgebird.structures import Frame, Image

WIDTH_PX, HEIGHT_PX = 640, 480

# Of seconds and of frames a second: beyond all use, so that no product of them overflows.
_MOST = 1e9
# One visit in each period: the bird lands after the first seconds and is gone well before the end.
_PERIOD_S = 9.0
FLIGHT_IN_S, FLIGHT_OUT_S = 0.5, 0.45
_HOP_S = 0.22
_WING_BEAT_S = 0.13
_NOISE_FIELDS = 5
_NOISE_DEVIATION = 2.5


@dataclass(frozen=True, slots=True)
class Stay:
    """What a bird does from one hop to the next."""

    start_s: float
    pose: str
    x_px: float
    faces_right: bool


@dataclass(frozen=True, slots=True)
class Visitor:
    """One bird's visit: it lands with its first stay and leaves at ``end_s``."""

    kind: str
    length_px: int
    end_s: float
    stays: tuple[Stay, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A sprite with the place of its upper left corner in the frame."""

    sprite: Sprite
    left_px: int
    top_px: int
    shadow: float


class DemoFeeder:
    """A drawn garden at 640 x 480 pixels; the same seed gives the same pictures.

    Args:
        seed: chooses the garden, the birds and what they do.
        seconds: how much time there is to see; 0 is without an end.
        fps: frames per second.
        pace: in real time; otherwise as fast as the frames are asked for, with the same times.

    Raises:
        ValueError: ``seconds`` is negative, ``fps`` not above 0, or one of them too large.
    """

    def __init__(
        self, seed: int = 0, seconds: float = 0.0, fps: float = 10.0, pace: bool = True
    ) -> None:
        if not (0 <= seconds <= _MOST and 0 < fps <= _MOST and seed >= 0):
            raise ValueError(
                "seed and seconds must not be negative and fps must be above 0, and neither "
                "seconds nor fps too large"
            )
        self._seed = seed
        self._frame_count = round(seconds * fps) if seconds else None
        self._fps = fps
        self._pace = pace
        self._closing = threading.Event()
        self._garden = drawn_garden.garden(WIDTH_PX, HEIGHT_PX, seed)
        self._twig = drawn_garden.twig(seed)
        rng = np.random.default_rng(seed)
        shape = (_NOISE_FIELDS, HEIGHT_PX, WIDTH_PX, 3)
        self._noise = rng.normal(0, _NOISE_DEVIATION, shape).astype(np.float32)

    @property
    def frame_count(self) -> None:
        """It passes for a live camera."""
        return None

    def frames(self) -> Iterator[Frame]:
        """Yield the scene from its beginning, with times that count from now.

        At a real pace the moments that a slow reader missed are skipped, as with a live camera.
        """
        start_s, start_utc_s = time.monotonic(), time.time()
        index = moment = 0
        while self._frame_count is None or moment < self._frame_count:
            t_s = moment / self._fps
            wait_s = start_s + t_s - time.monotonic() if self._pace else 0.0
            if self._closing.wait(max(wait_s, 0.0)):
                return
            yield Frame(self.render(t_s), index, start_s + t_s, start_utc_s + t_s, "demo")
            index += 1
            moment += 1
            if self._pace:
                moment = max(moment, int((time.monotonic() - start_s) * self._fps))

    def close(self) -> None:
        """End the iteration."""
        self._closing.set()

    def render(self, t_s: float) -> Image:
        """The scene at a time: uint8, shape (480, 640, 3), RGB."""
        scene = self._garden.copy()
        sway_px = 3 * math.sin(1.3 * t_s) + 1.5 * math.sin(3.1 * t_s)
        shift = np.array([[1, 0, 0], [sway_px / 120, 1, 0]], np.float32)
        size = self._twig.alpha.shape[::-1]
        blend(
            scene,
            cv2.warpAffine(self._twig.rgb, shift, size),
            cv2.warpAffine(self._twig.alpha, shift, size),
            0,
            24,
        )
        placed = self._placed(t_s)
        for bird in placed:
            cast_shadow(scene, bird)
        for bird in placed:
            blend(scene, bird.sprite.rgb, bird.sprite.alpha, bird.left_px, bird.top_px)
        scene = cv2.GaussianBlur(scene, (0, 0), 0.6)
        scene += self._noise[round(t_s * 1000) * 7919 % _NOISE_FIELDS]
        return np.clip(scene, 0, 255).astype(np.uint8)

    def _placed(self, t_s: float) -> list[Placed]:
        period, within_s = divmod(t_s, _PERIOD_S)
        placed = [place(visitor, within_s) for visitor in _visitors(self._seed, int(period))]
        return [bird for bird in placed if bird is not None]


def _visitors(seed: int, period: int) -> list[Visitor]:
    """Who comes in a period; times count from its beginning."""
    rng = np.random.default_rng((seed, period))
    # all kinds have come once before one comes again
    order = np.random.default_rng((seed, period // len(PLUMAGES))).permutation(sorted(PLUMAGES))
    kind = str(order[period % len(order)])
    left, right, _ = drawn_garden.table_top_px(WIDTH_PX, HEIGHT_PX)
    middle = (left + right) / 2
    visitors = [make_visitor(rng, kind, 2.2, rng.uniform(6.6, 7.2), (left + 40, right - 40))]
    if period % 3 == 1:
        # two of a kind keep to their halves of the table
        visitors = [
            make_visitor(rng, kind, 2.2, rng.uniform(6.6, 7.2), (left + 20, middle - 75)),
            make_visitor(rng, kind, 3.0, rng.uniform(6.2, 7.0), (middle + 75, right - 20)),
        ]
    return visitors


def make_visitor(
    rng: np.random.Generator, kind: str, start_s: float, end_s: float, reach_px: tuple[float, float]
) -> Visitor:
    """A bird that lands at ``start_s``, keeps to ``reach_px`` and flies off at ``end_s``."""
    stays: list[Stay] = []
    x_px = rng.uniform(*reach_px)
    faces_right = bool(rng.integers(2))
    at_s = start_s
    while at_s < end_s - 0.6:
        pose = str(rng.choice(["perched", "alert", "pecking"], p=[0.5, 0.25, 0.25]))
        stays.append(Stay(at_s, pose if stays else "perched", x_px, faces_right))
        at_s += rng.uniform(0.5, 1.1) if pose == "pecking" else rng.uniform(0.8, 1.8)
        if rng.random() < 0.35:
            faces_right = not faces_right
        elif rng.random() < 0.6:
            x_px += rng.uniform(20, 60) * (1 if faces_right else -1)
            x_px = min(max(x_px, reach_px[0]), reach_px[1])
    length_px = round(rng.uniform(142, 174) * (1.15 if kind == "blackbird" else 1.0))
    return Visitor(kind, length_px, end_s, tuple(stays))


def place(visitor: Visitor, t_s: float) -> Placed | None:
    """Where the bird is at a time within its period, None when it is not there."""
    first = visitor.stays[0]
    if not first.start_s - FLIGHT_IN_S <= t_s < visitor.end_s + FLIGHT_OUT_S:
        return None
    stand_y = drawn_garden.table_top_px(WIDTH_PX, HEIGHT_PX)[2] + 4
    stay = next((s for s in reversed(visitor.stays) if s.start_s <= t_s), first)
    pose, x, y, faces_right = stay.pose, stay.x_px, stand_y, stay.faces_right
    if t_s < first.start_s or t_s >= visitor.end_s:
        if t_s < first.start_s:
            away = ((first.start_s - t_s) / FLIGHT_IN_S) ** 1.5
            side = -1 if faces_right else 1
        else:
            away = ((t_s - visitor.end_s) / FLIGHT_OUT_S) ** 1.5
            side = 1 if faces_right else -1
        # a curve from outside the frame down to the table, or back up
        x += side * away * (x + 200 if side < 0 else WIDTH_PX + 200 - x)
        y -= away * 260
        pose = "wings up" if (t_s / _WING_BEAT_S) % 1 < 0.5 else "wings down"
    elif stay is not first and t_s < stay.start_s + _HOP_S:
        before = visitor.stays[visitor.stays.index(stay) - 1]
        done = (t_s - stay.start_s) / _HOP_S
        x = before.x_px + done * (stay.x_px - before.x_px)
        y -= 0.5 * abs(stay.x_px - before.x_px) * math.sin(math.pi * done)
    sprite = drawn_birds.bird(visitor.kind, pose, visitor.length_px, faces_right)
    left, top = round(x - sprite.foot_px[0]), round(y - sprite.foot_px[1])
    return Placed(sprite, left, top, shadow=max(0.0, 1 - (stand_y - y) / 50))


def blend(scene: Plane, rgb: Plane, alpha: Plane, left_px: int, top_px: int) -> None:
    """Lay a picture (already multiplied by its alpha) over the scene, cut at the scene's edges."""
    height, width = alpha.shape
    x0, y0 = max(left_px, 0), max(top_px, 0)
    x1, y1 = min(left_px + width, scene.shape[1]), min(top_px + height, scene.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    cut = np.s_[y0 - top_px : y1 - top_px, x0 - left_px : x1 - left_px]
    scene[y0:y1, x0:x1] *= 1 - alpha[cut][..., None]
    scene[y0:y1, x0:x1] += rgb[cut]


def cast_shadow(scene: Plane, bird: Placed) -> None:
    """Darken the table under the bird."""
    if not bird.shadow:
        return
    width = bird.sprite.alpha.shape[1] // 2
    y, x = np.ogrid[-1 : 1 : complex(22), -1 : 1 : complex(2 * width)]
    alpha = (0.5 * bird.shadow * np.exp(-3 * (x**2 + y**2))).astype(np.float32)
    left = round(bird.left_px + bird.sprite.foot_px[0] - width)
    top = round(drawn_garden.table_top_px(WIDTH_PX, HEIGHT_PX)[2] - 7)
    blend(scene, np.zeros((*alpha.shape, 3), np.float32), alpha, left, top)
