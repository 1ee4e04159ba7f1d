"""The garden of the demo camera: a feeding table in front of foliage far out of focus."""

from __future__ import annotations

import cv2
import numpy as np

from edgebird.camera.drawn_birds import Colour, Plane, Points, Sprite, f32


def garden(width_px: int, height_px: int, seed: int) -> Plane:
    """The scene without birds: float32, shape (height, width, 3), RGB, 0 to 255."""
    rng = np.random.default_rng(seed)
    size = (width_px, height_px)
    down = np.linspace(0, 1, height_px, dtype=np.float32)[:, None, None]
    scene = f32((196, 212, 216)) * (1 - down) + f32((92, 124, 62)) * down
    scene = np.broadcast_to(scene, (height_px, width_px, 3)).copy()
    # foliage in three distances, each blurred less than the one behind it
    for count, radius_px, blur_px, top in (
        (50, 90, 42, 0.25),
        (90, 48, 22, 0.32),
        (60, 26, 13, 0.5),
    ):
        layer: Plane = np.zeros((height_px, width_px, 4), np.float32)
        for _ in range(count):
            x = rng.uniform(0, width_px)
            # the hedge is high at the sides and opens towards the sky in the middle
            opening = 0.24 * np.exp(-(((x / width_px - 0.45) / 0.22) ** 2))
            y = height_px * rng.uniform(top + opening - 0.2, 1.05)
            green = rng.uniform(58, 158)
            colour = (green * rng.uniform(0.55, 0.95), green, green * rng.uniform(0.28, 0.55))
            axes = (
                round(radius_px * rng.uniform(0.4, 1)),
                round(radius_px * rng.uniform(0.3, 0.8)),
            )
            centre = (round(x), round(y))
            cv2.ellipse(layer, centre, axes, rng.uniform(0, 180), 0, 360, (*colour, 1), -1)
        layer = cv2.GaussianBlur(layer, (0, 0), blur_px)
        scene = scene * (1 - layer[..., 3:]) + layer[..., :3]
    glow = np.zeros_like(scene)
    for _ in range(26):
        centre = (round(rng.uniform(0, width_px)), round(rng.uniform(0, 0.62 * height_px)))
        disc = np.zeros_like(scene)
        tint = f32((246, 250, 206)) * rng.uniform(0.06, 0.2)
        cv2.circle(disc, centre, round(rng.uniform(7, 19)), tint.tolist(), -1, cv2.LINE_AA)
        glow = np.maximum(glow, disc)
    scene += cv2.GaussianBlur(glow, (0, 0), 1.6)
    scene += 9 * _smooth_noise(rng, size, 40)[..., None]
    _table(scene, rng)
    return np.clip(scene, 0, 255)


def table_top_px(width_px: int, height_px: int) -> tuple[float, float, float]:
    """Left end, right end and height of the line on the table where birds stand."""
    return 0.20 * width_px, 0.80 * width_px, 0.775 * height_px


def _table(scene: Plane, rng: np.random.Generator) -> None:
    height_px, width_px = scene.shape[:2]
    left, right, stand = table_top_px(width_px, height_px)
    back, front, bottom = (round(stand + dy * height_px / 480) for dy in (-22, 24, 46))
    grain = _smooth_noise(rng, (width_px, height_px), 60, 0.8)
    grain += 0.6 * _smooth_noise(rng, (width_px, height_px), 14, 0.6)
    knots = 0.5 * _smooth_noise(rng, (width_px, height_px), 50, 20)

    def plank(corners: Points, colour: Colour, lit: float) -> None:
        mask = np.zeros((height_px, width_px), np.uint8)
        cv2.fillPoly(mask, [(f32(corners) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.8)[..., None]
        wood = f32(colour) * (lit * (1 + 0.07 * grain + 0.08 * knots))[..., None]
        scene[:] = scene * (1 - soft) + wood * soft

    margin = 0.07 * width_px
    middle, half = (left + right) / 2, 0.055 * width_px
    post = [(middle - half, bottom - 4), (middle + half, bottom - 4)]
    post += [(middle + half, height_px), (middle - half, height_px)]
    plank(post, (122, 92, 62), 0.72)
    top = [(left - 0.2 * margin, back), (right + 0.2 * margin, back)]
    top += [(right + margin, front), (left - margin, front)]
    plank(top, (186, 152, 110), 1.0)
    edge = [(left - margin, front), (right + margin, front)]
    edge += [(right + margin, bottom), (left - margin, bottom)]
    plank(edge, (146, 110, 74), 0.82)
    for _ in range(70):
        across = rng.uniform(0, 1)
        x = rng.uniform(left, right)
        y = back + 5 + across * (front - back - 9)
        colour = f32(((74, 60, 46), (204, 176, 116), (120, 90, 58))[rng.integers(3)])
        axes = (2 + across, 1 + 0.6 * across)
        _dot(scene, (x, y + 1.2), axes, f32((92, 70, 48)), rng.uniform(0, 180))
        _dot(scene, (x, y), axes, colour, rng.uniform(0, 180))


def twig(seed: int) -> Sprite:
    """A leafy twig that reaches into the picture; its foot is the end that it hangs by."""
    rng = np.random.default_rng(seed)
    scale = 3
    width, height = 210 * scale, 150 * scale
    drawn: Plane = np.zeros((height, width, 4), np.float32)
    t = np.linspace(0, 1, 40)
    stem = np.stack([t * 0.78 * width, height * (0.22 + 0.3 * t + 0.22 * t**2)], 1)
    for start, end, along in zip(stem[:-1], stem[1:], t[:-1], strict=True):
        thickness = round((5 - 4 * along) * scale)
        ends = np.round([start, end]).astype(int)
        cv2.line(drawn, ends[0], ends[1], (84, 64, 48, 1), thickness, cv2.LINE_AA)
    for along in np.linspace(0.12, 1.0, 15):
        root = stem[min(int(along * 40), 39)]
        turn_deg = rng.uniform(20, 75) * rng.choice([-1, 1]) + 25
        direction = np.array([np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))])
        length = rng.uniform(13, 20) * scale
        green = rng.uniform(92, 150)
        leaf = np.round(root + direction * length).astype(int)
        axes = (round(length), round(0.42 * length))
        colour = (0.72 * green, green, 0.36 * green, 1)
        cv2.ellipse(drawn, leaf, axes, turn_deg, 0, 360, colour, -1, cv2.LINE_AA)
        vein = np.round(root + direction * 1.8 * length).astype(int)
        light = (0.9 * green, 1.2 * green, 0.55 * green, 1)
        cv2.line(drawn, np.round(root).astype(int), vein, light, scale, cv2.LINE_AA)
    drawn = cv2.GaussianBlur(drawn, (0, 0), 1.6 * scale)
    drawn = cv2.resize(drawn, (width // scale, height // scale), interpolation=cv2.INTER_AREA)
    return Sprite(drawn[..., :3].copy(), drawn[..., 3].copy(), (0.0, 0.22 * height / scale))


def _dot(
    scene: Plane,
    centre: tuple[float, float],
    axes: tuple[float, float],
    colour: Plane,
    turn_deg: float,
) -> None:
    in_16ths = [round(16 * value) for value in (*centre, *axes)]
    cv2.ellipse(
        scene,
        (in_16ths[0], in_16ths[1]),
        (in_16ths[2], in_16ths[3]),
        turn_deg,
        0,
        360,
        colour.tolist(),
        -1,
        cv2.LINE_AA,
        4,
    )


def _smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], blur_x_px: float, blur_y_px: float = 0.0
) -> Plane:
    noise: Plane = rng.standard_normal(size[::-1]).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=blur_x_px, sigmaY=blur_y_px)
    normalized: Plane = noise / noise.std()
    return normalized
