"""Garden birds, drawn for the demo camera.

A bird is drawn several times too large and scaled down, which smooths its edges. Its outline is
inflated to a rounded shape and lit from above, so that a network trained on photographs has
shading, texture and markings to go by. Coordinates are units of about a hundredth of the body's
length, x to the right and y down, for a bird that faces right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgebird.structures import Image

# float32, which OpenCV's type stubs cannot promise
Plane = NDArray[Any]
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

_CANVAS_UNITS = 170
_PX_PER_UNIT = 3
_ORIGIN_UNITS = 35
_LENGTH_UNITS = 133
_LIGHT = np.array([0.25, -0.80, 0.55], np.float32)


@dataclass(frozen=True, slots=True)
class Marking:
    """A coloured area of the plumage with a soft edge."""

    colour: Colour
    outline: Points
    softness: float = 1.6


@dataclass(frozen=True, slots=True)
class Plumage:
    """The colours of a kind of bird; ``markings`` are painted over the body in their order."""

    back: Colour
    wing: Colour
    wing_edge: Colour
    tail: Colour
    beak: Colour
    legs: Colour
    markings: tuple[Marking, ...]
    wing_bar: Colour | None = None
    eye_ring: Colour | None = None
    beak_length: float = 9.0
    beak_depth: float = 2.6
    streaks: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A picture with soft edges: alpha from 0 to 1, RGB from 0 to 255 and multiplied by alpha.

    ``foot_px`` is the point (x, y) that stands on things.
    """

    rgb: Plane
    alpha: Plane
    foot_px: tuple[float, float]


_BODY: Points = (
    *((88, 23), (85.5, 17), (79, 11.5), (70, 11.5), (62, 17), (53, 28), (41, 41), (29, 56)),
    *((19, 69), (22, 77), (33, 84), (47, 88), (60, 85), (72, 74), (81, 59), (85, 45), (87, 34)),
    (88.5, 28.5),
)
_WING: Points = (
    *((71, 41), (64, 34), (54, 36), (43, 46), (31, 59), (19, 72), (6, 87)),
    *((20, 81), (36, 76), (52, 69), (65, 58), (71, 49)),
)
_TAIL: Points = ((29, 62), (10, 82), (-9, 103), (-3, 107), (6, 104), (22, 90), (33, 80))
_WING_UP: Points = (
    (68, 40),
    (66, 10),
    (52, -22),
    (30, -34),
    (22, -22),
    (24, 2),
    (34, 30),
    (46, 50),
)
_WING_DOWN: Points = ((70, 44), (74, 72), (64, 104), (44, 122), (36, 112), (34, 88), (36, 62))

_FLIGHT = {"wings up": _WING_UP, "wings down": _WING_DOWN}
_LEAN_DEG = {"perched": 0, "alert": -14, "pecking": 58, "wings up": 22, "wings down": 22}

# areas that several kinds share
_BELLY: Points = ((24, 76), (44, 66), (66, 50), (84, 40), (95, 60), (70, 95), (40, 98), (20, 88))
_LOWER_BELLY: Points = ((16, 72), (34, 74), (52, 70), (68, 72), (76, 76), (60, 98), (30, 96))
_CHEEK: Points = ((71, 27), (76, 23), (84, 25), (86, 30), (82, 36), (74, 37), (69, 33))
_CROWN: Points = ((91, 21), (87, 21), (79, 18), (70, 19), (62, 22), (60, 8), (80, 2), (92, 12))
_THROAT: Points = ((92, 28), (86, 30), (82, 36), (80, 42), (84, 46), (94, 42))

PLUMAGES: dict[str, Plumage] = {
    "robin": Plumage(
        back=(124, 102, 70),
        wing=(116, 92, 62),
        wing_edge=(158, 134, 98),
        tail=(108, 84, 58),
        beak=(52, 44, 40),
        legs=(128, 82, 58),
        markings=(
            Marking((228, 222, 210), _LOWER_BELLY, 4.0),
            Marking((222, 214, 200), _BELLY, 4.0),
            Marking(
                (150, 156, 158),
                ((95, 12), (80, 12), (70, 22), (64, 36), (64, 54), (72, 66), (90, 68), (99, 40)),
                2.6,
            ),
            Marking(
                (222, 104, 36),
                ((95, 15), (84, 16), (75, 24), (70, 36), (70, 50), (76, 61), (90, 62), (99, 40)),
                1.4,
            ),
        ),
    ),
    "blue tit": Plumage(
        back=(132, 148, 88),
        wing=(84, 118, 164),
        wing_edge=(142, 172, 204),
        tail=(82, 116, 168),
        beak=(48, 48, 54),
        legs=(92, 104, 122),
        wing_bar=(238, 240, 240),
        beak_length=6.0,
        markings=(
            Marking((238, 208, 62), _BELLY, 3.0),
            Marking(
                (244, 244, 240),
                ((94, 12), (80, 12), (66, 16), (63, 28), (70, 38), (84, 40), (96, 34)),
                1.0,
            ),
            Marking((74, 134, 204), _CROWN, 1.2),
            Marking(
                (34, 44, 74), ((92, 25), (80, 23), (63, 23), (61, 27), (78, 26), (92, 27)), 0.6
            ),
            Marking(
                (34, 44, 74),
                ((92, 29), (86, 31), (84, 37), (74, 39), (63, 32), (60, 36), (74, 44), (94, 42)),
                0.9,
            ),
        ),
    ),
    "great tit": Plumage(
        back=(126, 140, 78),
        wing=(92, 108, 126),
        wing_edge=(158, 174, 186),
        tail=(74, 88, 106),
        beak=(38, 38, 42),
        legs=(96, 100, 112),
        wing_bar=(236, 238, 236),
        beak_length=7.5,
        markings=(
            Marking((232, 206, 66), _BELLY, 3.0),
            Marking((26, 28, 36), ((98, 8), (78, 4), (60, 12), (60, 26), (68, 40), (98, 46)), 1.0),
            Marking((246, 246, 240), _CHEEK, 1.0),
            Marking(
                (26, 28, 36), ((80, 40), (92, 42), (90, 62), (78, 84), (73, 82), (80, 60)), 1.6
            ),
        ),
    ),
    "goldfinch": Plumage(
        back=(170, 132, 92),
        wing=(34, 32, 34),
        wing_edge=(96, 92, 88),
        tail=(38, 36, 38),
        beak=(232, 208, 184),
        legs=(190, 150, 128),
        wing_bar=(246, 208, 40),
        beak_length=10.0,
        beak_depth=3.2,
        markings=(
            Marking((240, 232, 220), _BELLY, 4.0),
            Marking((190, 150, 108), ((64, 44), (82, 46), (84, 60), (72, 70), (62, 60)), 4.0),
            Marking((244, 240, 232), ((72, 16), (80, 16), (82, 40), (70, 41), (66, 30)), 1.4),
            Marking((28, 26, 30), ((80, 6), (66, 8), (61, 22), (66, 34), (71, 30), (72, 17)), 1.2),
            Marking(
                (196, 34, 34), ((98, 12), (81, 11), (77, 20), (78, 32), (85, 39), (98, 40)), 1.2
            ),
        ),
    ),
    "sparrow": Plumage(
        back=(146, 102, 66),
        wing=(134, 90, 56),
        wing_edge=(206, 172, 128),
        tail=(102, 80, 62),
        beak=(48, 44, 44),
        legs=(176, 128, 106),
        wing_bar=(240, 232, 218),
        beak_length=8.5,
        beak_depth=4.2,
        streaks=0.5,
        markings=(
            Marking((200, 192, 180), _BELLY, 4.0),
            Marking((214, 208, 198), _CHEEK, 2.2),
            Marking((112, 112, 112), _CROWN, 1.4),
            Marking(
                (128, 70, 36), ((80, 24), (70, 17), (62, 18), (58, 28), (66, 38), (71, 28)), 1.4
            ),
            Marking((32, 28, 28), _THROAT, 1.4),
            Marking((34, 30, 30), ((93, 24), (84, 22), (78, 23), (84, 26), (93, 27)), 0.8),
        ),
    ),
    "blackbird": Plumage(
        back=(46, 42, 40),
        wing=(42, 38, 36),
        wing_edge=(78, 70, 64),
        tail=(38, 35, 34),
        beak=(240, 152, 28),
        legs=(92, 66, 44),
        eye_ring=(240, 170, 40),
        beak_length=12.0,
        markings=(),
    ),
}


@lru_cache(maxsize=48)
def bird(kind: str, pose: str, length_px: int, faces_right: bool) -> Sprite:
    """A bird of ``length_px`` pixels from beak to tail.

    ``pose`` is "perched", "alert" or "pecking", or "wings up" or "wings down" in flight.
    """
    large, foot = _large_bird(kind, pose)
    side = round(length_px * _CANVAS_UNITS / _LENGTH_UNITS)
    small = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    rgb, alpha = small[..., :3], small[..., 3] / 255
    foot_x, foot_y = foot[0] * side, foot[1] * side
    if not faces_right:
        rgb, alpha, foot_x = rgb[:, ::-1], alpha[:, ::-1], side - foot_x
    left, top, width, height = cv2.boundingRect((alpha > 0.02).astype(np.uint8))
    cut = np.s_[top : top + height, left : left + width]
    return Sprite(
        np.ascontiguousarray(rgb[cut]),
        np.ascontiguousarray(alpha[cut]),
        (foot_x - left, foot_y - top),
    )


@lru_cache(maxsize=64)
def _large_bird(kind: str, pose: str) -> tuple[Image, tuple[float, float]]:
    """RGBA with the colours multiplied by alpha, and the foot's place as fractions of the side.

    Kept as bytes: all kinds in all poses are 30 MB.
    """
    plumage = PLUMAGES[kind]
    flying = pose in _FLIGHT
    rgb, alpha = _unturned_bird(kind, pose if flying else "standing")
    canvas = _Canvas(rgb.copy(), alpha.copy())
    hip, foot = (52.0, 80.0), (58.0, 104.0)
    canvas.lean(_LEAN_DEG[pose], hip)
    if not flying:
        canvas.legs(plumage, hip, foot)
    x, y = ((value + _ORIGIN_UNITS) / _CANVAS_UNITS for value in foot)
    rgba = np.dstack([canvas.rgb * canvas.alpha[..., None], 255 * canvas.alpha])
    return np.clip(rgba + 0.5, 0, 255).astype(np.uint8), (x, y)


@lru_cache(maxsize=2)
def _unturned_bird(kind: str, wings: str) -> tuple[Plane, Plane]:
    plumage = PLUMAGES[kind]
    side = _CANVAS_UNITS * _PX_PER_UNIT
    canvas = _Canvas(np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32))
    if wings == "wings up":
        canvas.feathers(_WING_UP, plumage, shade=0.75, offset=(8, 4))
    canvas.feathers(_TAIL, plumage, tail=True)
    canvas.beak(plumage)
    canvas.body(plumage)
    if wings not in _FLIGHT:
        canvas.feathers(_WING, plumage)
    canvas.eye(plumage)
    if wings in _FLIGHT:
        canvas.feathers(_FLIGHT[wings], plumage)
    return canvas.rgb, canvas.alpha


class _Canvas:
    """A bird in the making: RGB and alpha planes, values from 0 to 255 and from 0 to 1."""

    def __init__(self, rgb: Plane, alpha: Plane) -> None:
        self.rgb = rgb
        self.alpha = alpha

    def body(self, plumage: Plumage) -> None:
        mask = _soft(self._mask(_spline(_BODY)), 0.5)
        colour = np.empty_like(self.rgb)
        colour[:] = plumage.back
        for marking in plumage.markings:
            edge = self._ragged_edge(_soft(self._mask(_spline(marking.outline)), marking.softness))
            colour += edge[..., None] * (f32(marking.colour) - colour)
        colour *= (1 + 0.10 * _down() + 0.06 * _mottle())[..., None]
        self._paint(colour * _shading(mask, depth=26)[..., None], mask)

    def feathers(
        self,
        outline: Points,
        plumage: Plumage,
        *,
        tail: bool = False,
        shade: float = 1.0,
        offset: tuple[float, float] = (0, 0),
    ) -> None:
        """A wing or tail: rows of overlapping feathers with light edges, along its length."""
        points = _spline(outline) + f32(offset)
        mask = _soft(self._mask(points), 0.4)
        colour = np.empty_like(self.rgb)
        colour[:] = plumage.tail if tail else plumage.wing
        along, across = self._axes(points)
        # quills fan out from the shoulder: lines of equal angle, softened near it
        fan = np.sin((across / (0.55 + 0.45 * along)) * (22 if tail else 34))
        vane = np.clip((fan - 0.72) / 0.2, 0, 1) * np.clip((along - 0.30) / 0.1, 0, 1)
        if not tail:
            # coverts: scales in shifted rows on the half next to the shoulder
            row = np.floor(along * 13)
            scale = np.hypot((along * 13) % 1 - 0.1, (across * 9 + row / 2) % 1 - 0.5)
            rim = np.clip(1 - np.abs(scale - 0.62) / 0.16, 0, 1)
            vane = np.maximum(vane, 0.8 * rim * np.clip((0.46 - along) / 0.08, 0, 1))
        lit = f32(plumage.wing_edge) - colour
        colour += (0.75 * vane)[..., None].astype(np.float32) * lit
        dark = np.clip((-fan - 0.75) / 0.2, 0, 1) * np.clip((along - 0.35) / 0.1, 0, 1)
        colour *= (1 - 0.35 * dark)[..., None].astype(np.float32)
        if plumage.wing_bar is not None and not tail:
            bar = np.clip(1 - np.abs(along - 0.44 - 0.1 * across) / 0.035, 0, 1)
            bar = self._ragged_edge(bar.astype(np.float32))
            colour += bar[..., None] * (f32(plumage.wing_bar) - colour)
        colour *= (1 + (0.08 + 0.3 * plumage.streaks) * _down())[..., None]
        # the wing lies on the body and throws a thin shadow on it
        shadow = np.roll(_soft(mask, 2.5), (10, 4), (0, 1)) * (1 - mask) * self.alpha
        self.rgb *= (1 - 0.35 * shadow)[..., None]
        self._paint(colour * shade * _shading(mask, depth=14)[..., None], mask)

    def beak(self, plumage: Plumage) -> None:
        tip_x, tip_y = 87 + plumage.beak_length, 27.2
        half = plumage.beak_depth
        outline = [
            (84, 25.6 - half),
            (88, 25.2 - half),
            (tip_x - 2, tip_y - 1),
            (tip_x, tip_y + 0.6),
        ]
        outline += [(88, 26.2 + half), (84, 26.6 + half)]
        mask = _soft(self._mask(f32(outline)), 0.25)
        colour = np.empty_like(self.rgb)
        colour[:] = plumage.beak
        y, x = self._grid()
        # lit from above, with the line between the two halves
        colour *= (1.25 - 0.07 * np.clip(y - 22, 0, 10))[..., None]
        line = np.exp(-(((y - 26.2 - 0.1 * (x - 88)) / 0.35) ** 2))
        colour *= (1 - 0.5 * line)[..., None]
        self._paint(colour, mask)

    def eye(self, plumage: Plumage) -> None:
        y, x = self._grid()
        distance = np.hypot(x - 80.5, y - 22.6)
        ring = plumage.eye_ring or (60, 54, 48)
        for colour, radius in ((ring, 3.7), ((14, 10, 10), 3.0)):
            mask = np.clip((radius - distance) / 0.5, 0, 1).astype(np.float32)
            self._paint(np.broadcast_to(f32(colour), self.rgb.shape), mask)
        glint = np.clip((1.0 - np.hypot(x - 81.4, y - 21.3)) / 0.4, 0, 1).astype(np.float32)
        self._paint(np.full_like(self.rgb, 248), glint)

    def lean(self, degrees: float, pivot: tuple[float, float]) -> None:
        """Turn the bird head down about ``pivot``."""
        centre = [(value + _ORIGIN_UNITS) * _PX_PER_UNIT for value in pivot]
        turn = cv2.getRotationMatrix2D(centre, -degrees, 1.0)
        side = self.alpha.shape[0]
        self.rgb = cv2.warpAffine(self.rgb, turn, (side, side), flags=cv2.INTER_LINEAR)
        self.alpha = cv2.warpAffine(self.alpha, turn, (side, side), flags=cv2.INTER_LINEAR)

    def legs(self, plumage: Plumage, hip: tuple[float, float], foot: tuple[float, float]) -> None:
        """Two thin legs with toes, behind the body."""
        mask = np.zeros(self.alpha.shape, np.uint8)
        for dx in (-6.0, 2.0):
            top = (hip[0] + dx + 4, hip[1])
            ankle = (foot[0] + dx - 1, foot[1] - 2)
            self._line(mask, top, ankle, 1.9)
            for toe in (-4.0, 4.5, 7.0):
                self._line(mask, ankle, (foot[0] + dx + toe, foot[1] + 0.8 * (toe < 7)), 1.5)
        below = mask.astype(np.float32) / 255 * (1 - self.alpha)
        y, _ = self._grid()
        colour = f32(plumage.legs) * (1.1 - 0.012 * (y - 84))[..., None]
        self.rgb += below[..., None] * (colour - self.rgb)
        self.alpha += below

    def _paint(self, colour: Plane, mask: Plane) -> None:
        self.rgb += mask[..., None] * (np.clip(colour, 0, 255) - self.rgb)
        self.alpha = np.maximum(self.alpha, mask)

    def _mask(self, points: Plane) -> Plane:
        mask = np.zeros(self.alpha.shape, np.uint8)
        px = np.round((points + _ORIGIN_UNITS) * _PX_PER_UNIT * 16).astype(np.int32)
        cv2.fillPoly(mask, [px], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def _line(
        self, mask: Image, start: tuple[float, float], end: tuple[float, float], width: float
    ) -> None:
        ends = [
            tuple(round((value + _ORIGIN_UNITS) * _PX_PER_UNIT) for value in point)
            for point in (start, end)
        ]
        cv2.line(mask, ends[0], ends[1], 255, round(width * _PX_PER_UNIT), cv2.LINE_AA)

    def _ragged_edge(self, mask: Plane) -> Plane:
        """The mask with its edge torn along the feathers."""
        rows, columns = np.indices(mask.shape, np.float32)
        torn_x, torn_y = _ragged()
        return cv2.remap(mask, columns + torn_x, rows + torn_y, cv2.INTER_LINEAR)

    def _axes(self, points: Plane) -> tuple[Plane, Plane]:
        """For each pixel: place along the area's first-to-farthest axis (0..1), and across it."""
        root = points[0]
        far = points[np.argmax(np.linalg.norm(points - root, axis=1))]
        length = float(np.linalg.norm(far - root))
        direction = (far - root) / length
        y, x = self._grid()
        along = ((x - root[0]) * direction[0] + (y - root[1]) * direction[1]) / length
        across = ((y - root[1]) * direction[0] - (x - root[0]) * direction[1]) / length
        return along, across

    def _grid(self) -> tuple[Plane, Plane]:
        grid: Plane = np.indices(self.alpha.shape, np.float32) / _PX_PER_UNIT - _ORIGIN_UNITS
        return grid[0], grid[1]


def _spline(points: Points, steps: int = 10) -> Plane:
    """A closed Catmull-Rom curve through the points, shape (len(points) * steps, 2)."""
    p1 = f32(points)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[:, None, None]
    curve: Plane = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return np.swapaxes(curve, 0, 1).reshape(-1, 2)


def _soft(mask: Plane, units: float) -> Plane:
    return cv2.GaussianBlur(mask, (0, 0), units * _PX_PER_UNIT)


def _shading(mask: Plane, depth: float) -> Plane:
    """Brightness of the mask inflated to a rounded body ``depth`` units thick, lit from above."""
    inside = (mask > 0.5).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5) / _PX_PER_UNIT
    rim = 1 - np.clip(distance / depth, 0, 1)
    height = _soft((np.sqrt(1 - rim**2) * depth * 0.75).astype(np.float32), 1.6)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=_PX_PER_UNIT / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=_PX_PER_UNIT / 8)
    facing = -slope_x * _LIGHT[0] - slope_y * _LIGHT[1] + _LIGHT[2]
    facing /= np.sqrt(slope_x**2 + slope_y**2 + 1)
    return f32(0.52 + 0.62 * np.clip(facing, -0.3, 1))


def f32(values: ArrayLike) -> Plane:
    """The values as a float32 array."""
    return np.asarray(values, np.float32)


@lru_cache(maxsize=1)
def _down() -> Plane:
    """Fine feathers, lying along the body, which points up to the right."""
    return _streaky_noise(1, length_px=5, width_px=1.6)


@lru_cache(maxsize=1)
def _mottle() -> Plane:
    return _streaky_noise(2, length_px=16, width_px=12)


@lru_cache(maxsize=1)
def _ragged() -> tuple[Plane, Plane]:
    """By how many pixels, in x and y, the edges of markings are torn."""
    return 2.4 * _streaky_noise(3, length_px=6, width_px=2), 2.4 * _streaky_noise(4, 6, 2)


def _streaky_noise(seed: int, length_px: float, width_px: float) -> Plane:
    """Noise of unit deviation for a bird's square, stretched along a line up to the right."""
    side = _CANVAS_UNITS * _PX_PER_UNIT
    noise: Plane = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=length_px, sigmaY=width_px)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 50, 1)
    turned = cv2.warpAffine(noise, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    normalized: Plane = turned / turned.std()
    return normalized
