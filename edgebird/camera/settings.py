"""What is asked of a live camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from edgebird.structures import Image

Rotation = Literal[0, 90, 180, 270]

_ROTATIONS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """Wishes: a camera that cannot fulfil one gives what it has.

    Args:
        fps: frames per second, at most.
        size: width and height in pixels, before turning; the camera's own when None.
        pixel_format: of a V4L2 device, ``MJPG``, ``YUYV``, ...; chosen by size when None.
        flip_horizontal: mirror left and right.
        flip_vertical: mirror up and down.
        rotate: then turn so many degrees clockwise.
        autofocus: of a ribbon camera that can: ``continuous``, or ``fixed`` at ``focus_dioptres``.
        focus_dioptres: 1 / distance in metres, 0 for far away.
        exposure_us: exposure time of a ribbon camera in microseconds; automatic when None.
        gain: amplification of a ribbon camera; automatic when None.
        exposure_value: makes a ribbon camera's automatic exposure brighter (> 0) or darker (< 0),
            in stops.
    """

    fps: float = 10.0
    size: tuple[int, int] | None = None
    pixel_format: str | None = None
    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotate: Rotation = 0
    autofocus: Literal["continuous", "fixed"] = "continuous"
    focus_dioptres: float = 0.0
    exposure_us: int | None = None
    gain: float | None = None
    exposure_value: float = 0.0


def turned(image: Image, settings: CameraSettings) -> Image:
    """The picture, (H, W) or (H, W, 3), mirrored and turned as the settings say."""
    result: Any = image
    if settings.flip_horizontal or settings.flip_vertical:
        both = settings.flip_horizontal and settings.flip_vertical
        result = cv2.flip(result, -1 if both else int(settings.flip_horizontal))
    if settings.rotate:
        result = cv2.rotate(result, _ROTATIONS[settings.rotate])
    return np.asarray(result, np.uint8)
