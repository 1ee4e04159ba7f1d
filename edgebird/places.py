"""Pictures of one place, compared with each other.

A folder of pictures is often that of one camera that does not move. What is in one of its pictures
and not in most others came and will go again, as birds do; what is in all of them is the feeder, a
knot or a leaf. So what is new counts for more and what is not for less, much as on a live camera
(`evidence`).

The pictures may be in any order and any light. What a place usually looks like is the median of its
pictures, with the light divided out (`motion.log_levels`); what differs from it, and by more than
pictures of the place mostly do, is new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird.camera.files import read_small_grey
from edgebird.errors import CameraError
from edgebird.evidence import MOVING_SHARE
from edgebird.motion import (
    LEAST_NOISE,
    LEAST_SIGMAS,
    LIGHT_CHANGED_SHARE,
    LUMA_WIDTH_PX,
    fitted_size,
    log_levels,
    share_of,
)
from edgebird.odds import log_odds, probability
from edgebird.structures import Box, Detections, Frame, Image

# Log-odds for what is new, and those off for what is not (measured on composed places: with more
# for what is new more other things are taken for birds, with more off birds that hardly show are
# missed; see `model_build.places`).
NEW_BONUS, USUAL_PENALTY = 1.0, 0.5
# Only what lies in a calm part is known not to be new: in leaves that sway nothing could be told.
# There a place's pictures differ by at most so many times the least; so much of the box has to be
# there (measured: else birds that sit in windy places are missed).
_CALM_TOLERANCE, _CALM_SHARE = 2.0, 0.3
# With fewer pictures, what is usual in a place and what is new could not be told apart.
LEAST_PICTURES = 5
# More of them, spread over all, show no better what is usual there and how its birds score.
_MOST_COMPARED = 40
# Only the places seen last come into question. A camera's pictures mostly follow each other, but in
# a mixed folder others come between (of 89 of one camera in random order among 1,200 others 87 are
# found; with 8 in place of 64 it is 5).
_LATEST_PLACES = 64
# A picture shows a place if so much of it is as bright there, within 20 %, and the details of that
# (what its surroundings do not have) agree so well; compared at this size. Of 8,596 photos of
# different places no five are taken for pictures of one.
_MATCH_WIDTH_PX = 80
_EQUAL_SHARE, _EQUAL_LEVELS = 0.5, 15.0
_DETAIL_SIGMA_PX, _DETAIL_CORRELATION = 3.0, 0.6
# A place's mean follows the light of the day.
_MEAN_OF = 10
_SIGMA_OF_MEDIAN_DEVIATION = 1.4826
_KERNEL = np.ones((3, 3), np.uint8)

Levels = NDArray[np.float32]


class Places:
    """What is new in each of many pictures, where enough of them show the same place.

    Args:
        groups: pictures of one place each; those of fewer than `LEAST_PICTURES` are taken to stand
            alone.
    """

    def __init__(self, groups: Sequence[Sequence[Path]]) -> None:
        self._groups = [group for group in groups if len(group) >= LEAST_PICTURES]
        self._group_of = {path: i for i, group in enumerate(self._groups) for path in group}
        # kept for a few places only: a folder may be one of thousands of pictures
        self._usual = lru_cache(_LATEST_PLACES)(lambda place: _usual_of(self.sample(place)))

    @classmethod
    def of(cls, paths: Sequence[Path], go_on: Callable[[], bool] = lambda: True) -> Places:
        """Look through pictures once, quickly, to find out which show the same place.

        Args:
            paths: of the pictures; one that cannot be read stands alone.
            go_on: called after each; False leaves it at those that were seen.
        """
        if len(paths) < LEAST_PICTURES:
            return cls([])
        groups: list[list[Path]] = []
        latest: deque[_Place] = deque(maxlen=_LATEST_PLACES)
        for path in paths:
            with suppress(CameraError):
                grey = read_small_grey(path)
                levels = _levels(grey, fitted_size(grey, _MATCH_WIDTH_PX))
                place = next((p for p in reversed(latest) if p.shows(grey.shape, levels)), None)
                if place is None:
                    groups.append([])
                    place = _Place(grey.shape, levels, groups[-1])
                else:
                    latest.remove(place)
                latest.append(place)
                place.add(path, levels)
            if not go_on():
                break
        return cls(groups)

    def __len__(self) -> int:
        """How many pictures have enough others of their place."""
        return len(self._group_of)

    def place_of(self, path: Path) -> int | None:
        """A number for the place that a picture shows; None if it stands alone."""
        return self._group_of.get(path)

    def sample(self, place: int) -> list[Path]:
        """Some pictures of a place, spread over all of them."""
        paths = self._groups[place]
        chosen = np.linspace(0, len(paths) - 1, min(len(paths), _MOST_COMPARED)).round()
        return [paths[index] for index in chosen.astype(int).tolist()]

    def new_in(self, frame: Frame) -> Novelty | None:
        """What is new in a picture, whose path is ``frame.source``; None where it stands alone or
        the light has changed too much to tell.
        """
        place = self.place_of(Path(frame.source))
        usual = None if place is None else self._usual(place)
        if usual is None:
            return None
        height, width = usual.levels.shape
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), np.uint8)
        differ = _levels(grey, (width, height)) - usual.levels
        differ -= np.float32(np.median(differ))
        new = (np.abs(differ) > usual.tolerance).astype(np.uint8)
        moving = np.asarray(cv2.morphologyEx(new, cv2.MORPH_OPEN, _KERNEL)).astype(bool)
        if moving.mean() > LIGHT_CHANGED_SHARE:
            return None
        calm = usual.tolerance <= _CALM_TOLERANCE * LEAST_SIGMAS * LEAST_NOISE
        return Novelty(moving, calm, width / frame.size[0])


@dataclass(frozen=True, eq=False)
class Novelty:
    """What is new in a picture of a place.

    Args:
        new: bool (h, w), the small picture's pixels that are.
        calm: bool (h, w), those in which the place's pictures hardly differ.
        scale: from picture to small picture.
    """

    new: NDArray[np.bool_]
    calm: NDArray[np.bool_]
    scale: float

    def is_new(self, box: Box) -> bool | None:
        """Whether what is in a box, in pixels of the picture, is new; None where that cannot be
        told.
        """
        if share_of(self.new, box, self.scale) >= MOVING_SHARE:
            return True
        return False if share_of(self.calm, box, self.scale) >= _CALM_SHARE else None


def weighed(
    detections: Detections, novelty: Novelty | None, bonus: float, penalty: float
) -> Detections:
    """The detections with ``bonus`` added to the log-odds of those that are new, and ``penalty``
    taken from those of what is always there; best first. As they are where that is not known.
    """
    if novelty is None:
        return detections
    added = {True: bonus, False: -penalty, None: 0.0}
    scores = [
        probability(log_odds(score) + added[novelty.is_new(box)])
        for box, score in detections.rows()
    ]
    return detections.rescored(np.array(scores, np.float32))


class _Place:
    """What the latest pictures of a place show on average, and a list of all of them."""

    def __init__(self, shape: tuple[int, ...], levels: Levels, paths: list[Path]) -> None:
        self._shape, self._mean, self._paths = shape, levels, paths

    def shows(self, shape: tuple[int, ...], levels: Levels) -> bool:
        """Whether a picture of this shape is one of this place."""
        if shape != self._shape:
            return False
        differ = levels - self._mean
        equal = np.abs(differ - np.median(differ)) < _EQUAL_LEVELS
        if equal.mean() < _EQUAL_SHARE:
            return False
        a, b = (_details(picture)[equal] for picture in (levels, self._mean))
        a, b = a - a.mean(), b - b.mean()
        both = float(np.sqrt((a * a).sum() * (b * b).sum()))
        return float((a * b).sum()) > _DETAIL_CORRELATION * both

    def add(self, path: Path, levels: Levels) -> None:
        """Take in one more picture."""
        self._paths.append(path)
        differ = levels - self._mean
        share = np.float32(1 / min(len(self._paths), _MEAN_OF))
        self._mean = self._mean + share * (differ - np.median(differ))


def _details(levels: Levels) -> Levels:
    blurred = np.asarray(cv2.GaussianBlur(levels, (0, 0), _DETAIL_SIGMA_PX), np.float32)
    return levels - blurred


@dataclass(frozen=True)
class _Usual:
    """What a place looks like, and how far a picture may differ from that: float32 (h, w)."""

    levels: Levels
    tolerance: Levels


def _usual_of(paths: Sequence[Path]) -> _Usual | None:
    """None if the pictures are gone by now."""
    pictures: list[Image] = []
    for path in paths:
        with suppress(CameraError):
            pictures.append(read_small_grey(path))
    if len(pictures) < LEAST_PICTURES:
        return None
    size = fitted_size(pictures[0], LUMA_WIDTH_PX)
    stack = np.stack([_levels(picture, size) for picture in pictures])
    # all in one light: most of a picture is as usual, so the median of what differs is the light
    for _ in range(2):
        differ = stack - np.median(stack, axis=0)
        stack -= np.median(differ, axis=(1, 2))[:, None, None]
    usual = np.median(stack, axis=0)
    sigma = _SIGMA_OF_MEDIAN_DEVIATION * np.median(np.abs(stack - usual), axis=0)
    # a leaf that goes to and fro will go a little farther some time
    tolerance = cv2.dilate(LEAST_SIGMAS * np.maximum(LEAST_NOISE, sigma), _KERNEL)
    return _Usual(usual.astype(np.float32), np.asarray(tolerance, np.float32))


def _levels(grey: Image, size: tuple[int, int]) -> Levels:
    """The `log_levels` of a grey picture at another size, width and height; float32 (h, w)."""
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    # takes away noise and compression's blocks
    return log_levels(np.asarray(cv2.medianBlur(small, 3), np.uint8))
