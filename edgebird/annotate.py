"""Pictures for people: boxes drawn in, as JPEG."""

from __future__ import annotations

import math
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
_MQTT_LONGEST_PX = 1024
# The smallest limit on messages seen at hosted brokers is 128 KiB.
_MQTT_MAX_BYTES = 120_000
_MQTT_QUALITIES = (85, 70, 50, 30)


def draw_birds(image: Image, birds: Sequence[tuple[Box, float]]) -> Image:
    """A copy of the image with a labelled frame around each bird.

    Args:
        image: uint8 (H, W, 3), RGB.
        birds: box in pixels and score from 0 to 1 of each.
    """
    canvas = np.ascontiguousarray(image).copy()
    # 1 for 640 x 480; by the area, or in a panorama the labels would be larger than the birds
    unit = math.sqrt(canvas.shape[0] * canvas.shape[1] / (640 * 480))
    line_px = max(1, round(2 * unit))
    scale = max(0.35, 0.5 * unit)
    for (left, top, right, bottom), _ in birds:
        corners = (round(left), round(top)), (round(right), round(bottom))
        cv2.rectangle(canvas, *corners, _GREEN_RGB, line_px)
    # after all frames, which would strike them through; the surest is the one on top
    for box, score in sorted(birds, key=lambda bird: bird[1]):
        left, top, _, bottom = map(round, box)
        label = f"bird {score:.2f}"
        (width, height), below = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, line_px)
        x = min(max(left, 0), max(0, canvas.shape[1] - width))
        # Above the box, or else below it, or inside where there is no room either.
        if top > height + below:
            y = top - below
        elif bottom + height + 2 + below < canvas.shape[0]:
            y = bottom + height + 2
        else:
            y = max(top, 0) + height + 2
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
    encoded = _jpeg(_fitted(image, _JPEG_LONGEST_PX), _JPEG_QUALITY)
    if not encoded:
        raise OutputError(f"cannot write {path}: a JPEG cannot hold {image.shape[1::-1]} pixels")
    try:
        write_files({path: encoded})
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return len(encoded)


def jpeg_for_mqtt(image: Image, birds: Sequence[tuple[Box, float]] = ()) -> bytes:
    """A JPEG of at most 1024 pixels and about 120 kB, with a frame around each bird.

    Args:
        image: uint8 (H, W, 3), RGB.
        birds: box in pixels and score from 0 to 1 of each.
    """
    picture = _fitted(image, _MQTT_LONGEST_PX)
    scale = picture.shape[1] / image.shape[1]
    # drawn into the small picture, or a panorama's labels could not be read in it
    picture = draw_birds(
        picture,
        [
            ((left * scale, top * scale, right * scale, bottom * scale), score)
            for (left, top, right, bottom), score in birds
        ],
    )
    encoded = b""
    for quality in _MQTT_QUALITIES:
        encoded = _jpeg(picture, quality)
        if len(encoded) <= _MQTT_MAX_BYTES:
            break
    return encoded


def _jpeg(image: Image, quality: int) -> bytes:
    """Nothing if it cannot be one."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes() if done else b""


def _fitted(image: Image, longest_px: int) -> Image:
    longest = max(image.shape[:2])
    if longest <= longest_px:
        return image
    size = [max(1, side * longest_px // longest) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
