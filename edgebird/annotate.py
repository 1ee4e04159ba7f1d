"""Pictures for people: boxes drawn in, written as JPEG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgebird.errors import OutputError
from edgebird.structures import Box, Image
from edgebird.whole_files import write_files

_GREEN_RGB = (60, 220, 60)
_BLACK_RGB = (0, 0, 0)
_JPEG_QUALITY = 88
# libjpeg writes nothing that is wider or higher
_JPEG_LONGEST_PX = 65500


def draw_birds(image: Image, birds: Sequence[tuple[Box, float]]) -> Image:
    """A copy of the image with a labelled frame around each bird.

    Args:
        image: uint8 (H, W, 3), RGB.
        birds: box in pixels and score from 0 to 1 of each.
    """
    canvas = np.ascontiguousarray(image).copy()
    unit = max(canvas.shape[:2]) / 640
    line_px = max(1, round(2 * unit))
    for (left, top, right, bottom), score in birds:
        corners = (round(left), round(top)), (round(right), round(bottom))
        cv2.rectangle(canvas, *corners, _GREEN_RGB, line_px)
        label = f"bird {score:.2f}"
        scale = max(0.35, 0.5 * unit)
        (width, height), below = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, line_px)
        # Above the box, or inside where there is no room.
        x = min(max(corners[0][0], 0), max(0, canvas.shape[1] - width))
        y = corners[0][1] - below if corners[0][1] > height + below else corners[0][1] + height + 2
        background = (x, y - height - 2), (x + width, y + below)
        cv2.rectangle(canvas, *background, _GREEN_RGB, cv2.FILLED)
        cv2.putText(canvas, label, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, _BLACK_RGB, line_px)
    return canvas


def make_folder(folder: Path) -> None:
    """Create a folder for pictures, and find out now whether it can be written to.

    Raises:
        OutputError: it cannot, or its name cannot be told in an alert.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"the folder {str(folder)!a} has a name that is not UTF-8") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write to the folder {folder}: permission denied")


def write_jpeg(image: Image, path: Path) -> int:
    """Write a picture; a reader sees the old file or the whole new one.

    One that is too long for a JPEG is shrunk until it fits.

    Returns:
        Its size in bytes.

    Raises:
        OutputError: the disk is full, the folder is gone or not writable, or the name is too long.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    bgr = cv2.cvtColor(_fitted(image), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, quality)
    if not done:
        raise OutputError(f"cannot write {path}: a JPEG cannot hold {image.shape[1::-1]} pixels")
    try:
        write_files({path: encoded.tobytes()})
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return encoded.size


def _fitted(image: Image) -> Image:
    height, width = image.shape[:2]
    if max(width, height) <= _JPEG_LONGEST_PX:
        return image
    scale = _JPEG_LONGEST_PX / max(width, height)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
