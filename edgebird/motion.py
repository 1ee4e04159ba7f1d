"""Where something moves: seen on a small picture of the frame's brightness, at almost no cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird.structures import Box, Boxes, Frame, Image, Track
from edgebird.zones import Zones

LUMA_WIDTH_PX = 160

# What was there for most of this time is the scene. A bird that keeps still becomes part of it
# after half a minute (-90 s * ln 0.7), and goes on being followed by its detections.
_MEMORY_S = 90.0
_SCENE_SHARE = 0.7
# Areas where motion begins or ends so often, in the last minutes and without a bird, are restless.
_RESTLESS_PER_S = 0.25
_RESTLESS_MEMORY_S = 120.0
_MOSTLY = 0.7
# More of the frame than this does not move at once: the light has changed, or the camera.
LIGHT_CHANGED_SHARE = 0.35
_SETTLING_S = 1.5
# else the model would not learn the new light where frames are farther apart than that
_SETTLING_FRAMES = 3
_MAX_REGIONS = 4

# log(brightness), spread over 256 levels: whatever multiplies the light adds a constant. The offset
# keeps the noise of dark pixels small.
_OFFSET = 12.0
_LEVELS_PER_UNIT = 255 / np.log((255 + _OFFSET) / _OFFSET)
_LOG = np.log(np.arange(256, dtype=np.float32) / np.float32(_OFFSET) + 1) * _LEVELS_PER_UNIT
_LOG = _LOG.astype(np.float32)
# In these levels; together, 20 % of brightness are the least that is seen to move.
LEAST_NOISE = 4.0
LEAST_SIGMAS = 4.0


def log_levels(luma: Image) -> NDArray[np.float32]:
    """Brightness on a logarithmic scale of 0 to 255, float32: the light is a constant added to it.

    Args:
        luma: uint8, of any shape with two axes.
    """
    return np.asarray(cv2.LUT(luma, _LOG), np.float32)


def fitted_size(picture: Image, longest_px: int) -> tuple[int, int]:
    """Width and height of a picture, shrunk to ``longest_px`` on its longer side if it is more."""
    height, width = picture.shape[:2]
    scale = min(1.0, longest_px / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def small_luma(frame: Frame) -> Image:
    """The frame's brightness, uint8, `LUMA_WIDTH_PX` on its longer side at most."""
    luma = frame.image[..., 1] if frame.luma is None else frame.luma
    height, width = luma.shape
    # every n-th pixel first: the averaging that follows still sees plenty
    step = max(1, max(width, height) // (2 * LUMA_WIDTH_PX))
    luma = luma[::step, ::step]
    size = fitted_size(luma, LUMA_WIDTH_PX)
    if size == luma.shape[::-1]:
        return np.ascontiguousarray(luma)
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """What moved in one frame.

    Args:
        boxes: float32 (N, 4), around what moves, in pixels of the frame, largest first.
        moving: bool (h, w), the small picture's pixels that move.
        scale: from frame to small picture.
        light_changed: the whole picture changed at once, which says nothing about birds.
    """

    boxes: Boxes
    moving: NDArray[np.bool_]
    scale: float
    light_changed: bool = False

    @staticmethod
    def none() -> Motion:
        """Nothing moves."""
        return Motion(np.zeros((0, 4), np.float32), np.zeros((1, 1), bool), 1.0)

    def share_of(self, box: Box) -> float:
        """How much of a box, in pixels of the frame, moves: 0 to 1."""
        return share_of(self.moving, box, self.scale)


def share_of(mask: NDArray[np.bool_], box: Box, scale: float) -> float:
    """How much of a box is in a mask, 0 to 1.

    Args:
        mask: bool (h, w).
        box: xyxy, ...
        scale: ... and from its pixels to the mask's.
    """
    left, top, right, bottom = (round(value * scale) for value in box)
    part = mask[top : max(bottom, top + 1), left : max(right, left + 1)]
    return float(part.mean()) if part.size else 0.0


class MotionGate:
    """Tells a bird from the light, the rain and the leaves, as far as brightness can.

    A background model of OpenCV's (Zivkovic, 2004, Improved adaptive Gaussian mixture model) sees
    the small picture with the light divided out, by the median of all pixels' ratios to what is
    usual. So clouds and automatic exposure leave it cold; what changes the whole picture at once
    in another way (lightning, a lamp) is waited out while the model settles. What moves all the
    time, leaves in the wind, is learned as restless and then only counts where it reaches calm
    parts; where birds are followed nothing is learned. Most rain is thinner than any bird.

    Args:
        zones: where motion counts, and of which size.
    """

    def __init__(self, zones: Zones) -> None:
        self._zones = zones
        self._shape = (0, 0)
        self._last_s = self._settled_s = self._started_s = 0.0
        self._frames = self._settled_frame = 0

    def update(self, frame: Frame, luma: Image, tracks: Sequence[Track]) -> Motion:
        """Take in one frame.

        Args:
            frame: its time and size.
            luma: its `small_luma`.
            tracks: the birds that were followed up to now.
        """
        if luma.shape != self._shape:
            self._start(luma, frame.monotonic_s)
        # a frame after a long pause is no reason to forget everything
        step_s = min(max(frame.monotonic_s - self._last_s, 0.0), 1.0)
        self._last_s = frame.monotonic_s
        self._frames += 1
        settling = frame.monotonic_s < self._settled_s or self._frames < self._settled_frame
        rate = max(step_s / _MEMORY_S, 1 / (self._frames + 1), 0.4 if settling else 0.0)
        raw = self._model.apply(self._without_light(luma, rate), learningRate=min(rate, 1.0))
        changed = np.asarray(cv2.morphologyEx(raw, cv2.MORPH_OPEN, _KERNEL), np.uint8)
        scale = luma.shape[1] / frame.size[0]
        if (changed > 0).mean() > LIGHT_CHANGED_SHARE:
            if not settling:
                self._settled_s = frame.monotonic_s + _SETTLING_S
                self._settled_frame = self._frames + _SETTLING_FRAMES
            return Motion(np.zeros((0, 4), np.float32), np.zeros(self._shape, bool), scale, True)
        if settling:
            return Motion(np.zeros((0, 4), np.float32), np.zeros(self._shape, bool), scale, True)
        restless = self._learn_restless(changed, tracks, scale, step_s)
        counts = cv2.bitwise_and(changed, self._zones.drawn(*luma.shape[::-1]))
        boxes, moving = self._blobs(np.asarray(counts), restless, scale, frame.size)
        return Motion(boxes, moving, scale)

    def _start(self, luma: Image, now_s: float) -> None:
        self._shape = luma.shape
        self._model = cv2.createBackgroundSubtractorMOG2(
            varThreshold=LEAST_SIGMAS**2, detectShadows=False
        )
        self._model.setBackgroundRatio(_SCENE_SHARE)
        # else it would believe in less noise than there is, and see it everywhere
        self._model.setVarInit(LEAST_NOISE**2)
        self._model.setVarMin(LEAST_NOISE**2)
        self._usual = log_levels(luma)
        self._restless = np.zeros(luma.shape, np.float32)
        self._changed = np.zeros(luma.shape, np.uint8)
        self._started_s = now_s
        self._last_s = self._settled_s = now_s
        self._frames = self._settled_frame = 0

    def _without_light(self, luma: Image, rate: float) -> NDArray[np.float32]:
        """The small picture as it would be in the usual light, on a logarithmic scale.

        Only differences count: what is usual may wander as a whole, over days, to below 0 or
        above 255, so that it must not be cut off there.
        """
        # the median filter takes away the noise of the sensor and single drops of rain
        levels = log_levels(np.asarray(cv2.medianBlur(luma, 3), np.uint8))
        ratios = cv2.subtract(levels, self._usual)
        levels -= np.float32(np.median(np.asarray(ratios)[::2, ::2]))
        cv2.accumulateWeighted(levels, self._usual, min(rate, 1.0))
        return levels

    def _learn_restless(
        self, changed: Image, tracks: Sequence[Track], scale: float, step_s: float
    ) -> NDArray[np.bool_]:
        """Count where motion begins and ends; where that happens all the time, (h, w)."""
        turns, self._changed = np.asarray(cv2.bitwise_xor(changed, self._changed)), changed
        self._restless *= np.float32(math.exp(-step_s / _RESTLESS_MEMORY_S))
        if turns.any():
            # a leaf that goes to and fro will go a little farther some time
            learned = np.asarray(cv2.dilate(turns, _KERNEL, iterations=4), np.uint8)
            for track in tracks:
                # with room around for wings and shadows
                grow_px = 0.3 * (track.xyxy[2] - track.xyxy[0])
                left, top, right, bottom = (round(value * scale) for value in track.xyxy)
                grow = max(1, round(grow_px * scale))
                learned[max(top - grow, 0) : bottom + grow, max(left - grow, 0) : right + grow] = 0
            self._restless += learned > 0
        seen_s = self._last_s - self._started_s
        over_s = min(max(seen_s, _RESTLESS_MEMORY_S / 6), _RESTLESS_MEMORY_S)
        restless: NDArray[np.bool_] = self._restless > _RESTLESS_PER_S * over_s
        return restless

    def _blobs(
        self, changed: Image, restless: NDArray[np.bool_], scale: float, size: tuple[int, int]
    ) -> tuple[Boxes, NDArray[np.bool_]]:
        """Boxes in frame pixels around what moves together, and its pixels."""
        moving = np.zeros(self._shape, bool)
        if not changed.any():
            return np.zeros((0, 4), np.float32), moving
        near = cv2.dilate(changed, _KERNEL, iterations=2)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(near)
        boxes = []
        for label in np.argsort(-stats[1:, cv2.CC_STAT_AREA])[: 4 * _MAX_REGIONS] + 1:
            pixels = (labels == label) & (changed > 0)
            if restless[pixels].mean() > _MOSTLY:
                continue
            left, top, width, height = cv2.boundingRect(pixels.astype(np.uint8))
            box = np.array([left, top, left + width, top + height]) / scale
            if self._zones.fits(box[None].astype(np.float32), *size)[0]:
                boxes.append(box)
                moving |= pixels
        return np.array(boxes[:_MAX_REGIONS], np.float32).reshape(-1, 4), moving


_KERNEL = np.ones((3, 3), np.uint8)
