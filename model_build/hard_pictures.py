"""Validation pictures that are hard in the ways that feeders are.

Composed with fixed seeds from validation pictures only, so that they can be made again anywhere
that the packs are. Photo packs show birds large, sharp and in the middle; a figure measured on them
says little about a feeder.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from edgebird.structures import Image
from model_build.augment import (
    COUNTED_SHARE,
    Material,
    background_photo,
    beside_the_bird,
    brightened,
    distractor,
    jpeg_compressed,
    log_uniform,
    motion_blurred,
    paste,
    pick,
)
from model_build.cutouts import decode_cutout
from model_build.metrics import Truth

# Width and height: of a poor camera, whose smallest birds are 20 pixels long, ...
CANVAS_PX = (480, 360)
# ... and as most cameras give them.
CAMERA_CANVAS_PX = (1280, 960)
SMALLEST_SHARE, LARGEST_SHARE = 0.04, 0.4
_SMALL_SEED, _EMPTY_SEED = 20, 21

# What makes a picture difficult, besides its birds being small; every kind is as frequent.
KINDS = (
    "plain",
    "foliage",
    "backlit",
    "silhouette",
    "low contrast",
    "hidden",
    "border",
    "several",
    "motion blur",
    "noise",
    "compression",
    "grey",
    "wide angle",
)


def small_birds_picture(
    number: int, material: Material, size: tuple[int, int] = CANVAS_PX
) -> tuple[Image, Truth]:
    """Picture ``number`` of ``val-small``: birds at 4-40 % of the canvas on a bird-free picture.

    Args:
        number: of the picture; it decides the kind of difficulty.
        material: of validation pictures.
        size: width and height in pixels.
    """
    rng = np.random.default_rng([_SMALL_SEED, number])
    kind = KINDS[number % len(KINDS)]
    canvas = place_without_birds(rng, material, 0.9 if kind == "foliage" else 0.5, size)
    backlit = kind in ("backlit", "silhouette")
    if backlit or kind == "foliage":
        canvas = brightened(canvas, rng.uniform(1.2, 1.8), rng.uniform(0, 40))
    boxes: list[np.ndarray] = []
    wanted = int(rng.integers(3, 6)) if kind == "several" else int(rng.choice([1, 2], p=[0.7, 0.3]))
    for _ in range(40):
        if len(boxes) == wanted:
            break
        bird = of_kind(rng, decode_cutout(pick(rng, material.cutouts)), canvas, kind)
        longest_px = log_uniform(rng, SMALLEST_SHARE, LARGEST_SHARE) * size[0]
        before = canvas.copy()
        hidden_share = 1.0 if kind == "hidden" else 0.1
        pasted = paste(rng, canvas, bird, longest_px, backlit, boxes, hidden_share)
        if (
            pasted is not None
            and pasted.visible_share >= COUNTED_SHARE
            and (kind != "border" or _touches_border(pasted.box, size))
        ):
            boxes.append(pasted.box)
        else:
            canvas = before
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    canvas, xyxy = seen_by_camera(rng, canvas, xyxy, kind)
    return canvas, Truth(xyxy, size, kind)


def empty_picture(
    number: int, material: Material, size: tuple[int, int] = CANVAS_PX
) -> tuple[Image, Truth]:
    """Picture ``number`` of ``empty-hard``: no bird, but animals, things, leaves and patches as
    small, as dark and as soft-edged as birds would be. Arguments as for `small_birds_picture`.
    """
    rng = np.random.default_rng([_EMPTY_SEED, number])
    canvas = place_without_birds(rng, material, 0.5, size)
    backlit = rng.random() < 1 / 3
    if backlit:
        canvas = brightened(canvas, rng.uniform(1.2, 1.8), rng.uniform(0, 40))
    for _ in range(rng.integers(1, 6)):
        longest_px = log_uniform(rng, SMALLEST_SHARE, 0.5) * size[0]
        paste(rng, canvas, distractor(rng, material), longest_px, backlit, [], 0.2)
    kind = KINDS[number % len(KINDS)]
    none = np.zeros((0, 4), np.float32)
    canvas, _ = seen_by_camera(rng, canvas, none, kind)
    return canvas, Truth(none, size)


def place_without_birds(
    rng: Generator, material: Material, leaves_share: float, size: tuple[int, int]
) -> np.ndarray:
    """Leaves, branches and sky beside the birds of photos, or a photo without a bird."""
    leaves = rng.random() < leaves_share
    return (beside_the_bird if leaves else background_photo)(rng, material, *size)


def of_kind(rng: Generator, bird: np.ndarray, canvas: np.ndarray, kind: str) -> np.ndarray:
    """The cut-out bird, RGBA, changed as its picture's kind asks for."""
    colour = bird[..., :3].astype(np.float32)
    if kind == "silhouette":
        colour = colour * 0.12
    elif kind == "low contrast":
        around = canvas.reshape(-1, 3).mean(axis=0)
        colour = around + (colour - colour.mean(axis=(0, 1))) * 0.35 + rng.uniform(-30, 30)
    return np.dstack([colour.clip(0, 255).astype(np.uint8), bird[..., 3]])


def _touches_border(box: np.ndarray, size: tuple[int, int]) -> bool:
    return bool((box[:2] <= 0).any() or (box[2:] >= size).any())


def seen_by_camera(
    rng: Generator, canvas: np.ndarray, boxes: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its boxes as a camera takes it that is bad in the way its kind says."""
    quality = int(rng.integers(60, 95))
    noise = rng.uniform(1, 4)
    if kind == "wide angle":
        canvas, boxes = _wide_angle(canvas, boxes, rng.uniform(0.15, 0.35))
    elif kind == "motion blur":
        # as far as it would move in a smaller picture
        length_px = int(rng.integers(5, 12)) * canvas.shape[1] // CANVAS_PX[0]
        canvas = motion_blurred(rng, canvas, length_px)
    elif kind == "noise":
        noise = rng.uniform(10, 25)
    elif kind == "compression":
        quality = int(rng.integers(10, 30))
    elif kind == "grey":
        grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
        canvas = np.repeat(grey[..., None], 3, axis=2)
        noise = rng.uniform(4, 12)
    field = rng.normal(0, noise, canvas.shape[:2] + (1 if kind == "grey" else 3,))
    canvas = (canvas + field).clip(0, 255).astype(np.uint8)
    return jpeg_compressed(canvas, quality), boxes


def _wide_angle(
    canvas: np.ndarray, boxes: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bend the picture like a barrel: its corners move inwards by ``strength`` of their way."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dx, dy = x - width / 2, y - height / 2
    radius2 = (dx**2 + dy**2) / (width**2 + height**2) * 4
    stretch = (1 + strength * radius2) / (1 + strength)
    from_x, from_y = width / 2 + dx * stretch, height / 2 + dy * stretch
    bent = cv2.remap(canvas, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    kept = []
    for left, top, right, bottom in boxes:
        inside = (from_x >= left) & (from_x < right) & (from_y >= top) & (from_y < bottom)
        rows, columns = np.nonzero(inside)
        if len(rows):
            kept.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return bent, np.array(kept, np.float32).reshape(-1, 4)
