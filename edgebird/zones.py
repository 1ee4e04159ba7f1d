"""Where in the frame birds count, and of which size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird.structures import Boxes, Detections, Image

Polygon = Sequence[tuple[float, float]]
"""Corners x, y as fractions of the frame's width and height."""


@dataclass(frozen=True, kw_only=True)
class ZoneSettings:
    """Parts of the frame, and sizes of birds, that count.

    Args:
        zones: polygons; birds count whose middle is in one of them. None given: everywhere.
        masks: polygons in which nothing counts, such as a street or a flag.
        min_bird: shortest longer side of a bird, as a share of the frame's longer side.
        max_bird: longest one.
    """

    zones: Sequence[Polygon] = ()
    masks: Sequence[Polygon] = ()
    min_bird: float = 0.01
    max_bird: float = 1.0


class Zones:
    """Answers what counts, for frames of any size."""

    def __init__(self, settings: ZoneSettings) -> None:
        self.change(settings)

    def change(self, settings: ZoneSettings) -> None:
        """Have something else count from now on."""
        self._settings = settings
        self._drawn: dict[tuple[int, int], Image] = {}

    def drawn(self, width: int, height: int) -> Image:
        """What counts as a picture: uint8 (height, width), 255 inside and 0 outside."""
        if (width, height) not in self._drawn:
            picture = np.full((height, width), 0 if self._settings.zones else 255, np.uint8)
            for polygons, value in ((self._settings.zones, 255), (self._settings.masks, 0)):
                for polygon in polygons:
                    corners = np.array(polygon, np.float64) * (width, height)
                    cv2.fillPoly(picture, [np.round(corners).astype(np.int32)], value)
            # a camera may change its size, but not for ever
            self._drawn = {(width, height): picture}
        return self._drawn[width, height]

    def fits(self, xyxy: Boxes, width: int, height: int) -> NDArray[np.bool_]:
        """Which boxes, (N, 4) in pixels of a frame, have a size that counts: bool (N,)."""
        share = (xyxy[:, 2:] - xyxy[:, :2]).max(axis=1) / max(width, height)
        fits: NDArray[np.bool_] = share >= self._settings.min_bird
        return fits & (share <= self._settings.max_bird)

    def inside(self, detections: Detections, width: int, height: int) -> Detections:
        """The birds that count, of those in a frame of so many pixels."""
        if not len(detections):
            return detections
        scale = 160 / max(width, height)
        drawn = self.drawn(max(1, round(width * scale)), max(1, round(height * scale)))
        centre = (detections.xyxy[:, :2] + detections.xyxy[:, 2:]) / 2 * scale
        column = centre[:, 0].astype(int).clip(0, drawn.shape[1] - 1)
        row = centre[:, 1].astype(int).clip(0, drawn.shape[0] - 1)
        keep = self.fits(detections.xyxy, width, height) & (drawn[row, column] > 0)
        return Detections(detections.xyxy[keep], detections.score[keep])
