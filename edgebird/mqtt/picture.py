"""Pictures small enough for a broker."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from edgebird.annotate import draw_birds
from edgebird.motion import fitted_size
from edgebird.structures import Box, Image

_LONGEST_PX = 1024
# The smallest limit on messages seen at hosted brokers is 128 KiB.
_MAX_BYTES = 120_000
_QUALITIES = (85, 70, 50, 30)


def jpeg_for_mqtt(image: Image, birds: Sequence[tuple[Box, float]] = ()) -> bytes:
    """A JPEG of at most 1024 pixels and about 120 kB, with a frame around each bird.

    Args:
        image: uint8 (H, W, 3), RGB.
        birds: box in pixels and score from 0 to 1 of each.
    """
    canvas = draw_birds(image, birds) if birds else image
    size = fitted_size(canvas, _LONGEST_PX)
    if size != canvas.shape[1::-1]:
        canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype("uint8", copy=False)
    bgr = cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR)
    encoded = b""
    for quality in _QUALITIES:
        _, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        encoded = buffer.tobytes()
        if len(encoded) <= _MAX_BYTES:
            break
    return encoded
