"""Birds in pictures, each judged by what the others of its place show and score.

Some cameras show birds poorly: from above, against the light, in infrared. There birds score lower
than elsewhere, and yet far higher than anything in the place's empty pictures. Where the best
scores of a place's pictures fall into two such groups, and the upper one is below the threshold on
average, what is new there is lifted so that most of the upper group counts. Where birds are seen
well nothing is: what scores lower there are other things.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgebird.camera.files import read_picture
from edgebird.detector import Detector
from edgebird.errors import CameraError
from edgebird.odds import log_odds, probability
from edgebird.places import LEAST_PICTURES, NEW_BONUS, USUAL_PENALTY, Novelty, Places, weighed
from edgebird.structures import Detections, Frame

# All of these are log-odds, measured on composed places and a nest box (see `model_build.places`).
# The most that a place's threshold may fall. What else is new, a squirrel, is lifted as well.
MOST_LIFT = 1.5
# How far above a place's empty pictures its threshold stays, and how far below its birds.
_ABOVE_EMPTY, _BELOW_BIRDS = 1.5, 1.0
# The upper group are birds if it is at least so many pictures, and so many of all: a camera is
# where birds come, and one thing that came once says nothing.
_LEAST_BIRDS, _LEAST_SHARE = 3, 0.15

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Look:
    """What the detector found in a picture, what is new there, and how long the detector took."""

    found: Detections
    new: Novelty | None
    took_ms: float

    def weighed(self, lifted: float) -> Detections:
        return weighed(self.found, self.new, NEW_BONUS + lifted, USUAL_PENALTY)


class PlaceScores:
    """Finds birds in pictures one by one, and lifts what is new where birds score low.

    For that it looks at some pictures of a place before the first of them is judged. None is looked
    at twice.

    Args:
        detector: finds the birds.
        places: which pictures show the same place, and so what is new in each.
        threshold: lowest score wanted, 0 to 1.
        default_threshold: the model's own. Birds score low where they mostly do not reach this,
            whatever is wanted, so that all thresholds see the same scores.
        go_on: asked before each look ahead; False leaves a place as it is.
        on_look: called after each picture that the detector has looked at.
    """

    def __init__(
        self,
        detector: Detector,
        places: Places,
        threshold: float,
        default_threshold: float,
        go_on: Callable[[], bool] = lambda: True,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        self._detector, self._places = detector, places
        self._threshold, self._default = threshold, default_threshold
        self._go_on, self._on_look = go_on, on_look
        # the lowest score that tells something of a place, or can be lifted to what is wanted
        least = min(log_odds(default_threshold) - _ABOVE_EMPTY, log_odds(threshold))
        self._floor = probability(least - NEW_BONUS - MOST_LIFT)
        self._lifts: dict[int, float] = {}
        self._ahead: dict[Path, _Look] = {}

    def look(self, frame: Frame) -> tuple[Detections, float]:
        """The birds in a picture, whose path is ``frame.source``, and how long the detector took,
        in milliseconds.
        """
        path = Path(frame.source)
        place = self._places.place_of(path)
        if place is not None and place not in self._lifts:
            self._lifts[place] = self._lift(place)
        look = self._ahead.pop(path, None) or self._look(frame)
        lifted = 0.0 if place is None else self._lifts[place]
        return look.weighed(lifted).above(self._threshold), look.took_ms

    def _look(self, frame: Frame) -> _Look:
        alone = self._places.place_of(Path(frame.source)) is None
        started_s = time.perf_counter()
        found = self._detector.detect(
            frame.image, threshold=self._threshold if alone else self._floor
        )
        took_ms = (time.perf_counter() - started_s) * 1000
        self._on_look()
        return _Look(found, self._places.new_in(frame), took_ms)

    def _lift(self, place: int) -> float:
        """Look at some pictures of a place, and see how far it has to be lifted."""
        best = []
        for path in self._places.sample(place):
            if not self._go_on():
                return 0.0
            with suppress(CameraError):
                look = self._look(Frame(read_picture(path), 0, 0.0, 0.0, str(path)))
                self._ahead[path] = look
                if look.new is not None:
                    best.append(best_log_odds(look.weighed(0.0)))
        lifted = lift(best, self._default)
        if lifted:
            log.info(
                "birds score low where %s was taken: new things there count as birds from a score "
                "of %.2f",
                path.name,
                probability(log_odds(self._threshold) - NEW_BONUS - lifted),
            )
        return lifted


def best_log_odds(detections: Detections) -> float:
    """Of the best of them; minus infinity if there are none."""
    return log_odds(float(detections.score[0])) if len(detections) else -np.inf


def lift(best: Sequence[float], threshold: float) -> float:
    """By how much what is new in a place is to be lifted, in log-odds, 0 to `MOST_LIFT`.

    Args:
        best: of each picture of the place, or of some, the log-odds of what is most like a bird.
        threshold: that birds mostly reach, 0 to 1.
    """
    wanted = log_odds(threshold)
    scores = np.sort(np.maximum(best, wanted - MOST_LIFT - _ABOVE_EMPTY))
    empty, birds = _two_groups(scores)
    if len(scores) < LEAST_PICTURES or len(birds) < max(_LEAST_BIRDS, _LEAST_SHARE * len(scores)):
        return 0.0
    if not wanted - MOST_LIFT <= birds.mean() <= wanted:
        return 0.0
    enough = max(empty.mean() + _ABOVE_EMPTY, birds.mean() - _BELOW_BIRDS)
    return float(np.clip(wanted - enough, 0, MOST_LIFT))


def _two_groups(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted values, cut where the means of both parts are farthest apart for their sizes (Otsu,
    1979); the second part is empty where all are equal.
    """
    cuts = np.arange(1, len(values))
    sums = np.cumsum(values)[cuts - 1]
    apart = (values.sum() - sums) / (len(values) - cuts) - sums / cuts
    between = cuts * (len(values) - cuts) * apart**2
    cut = int(cuts[np.argmax(between)]) if (between > 1e-9).any() else len(values)
    return values[:cut], values[cut:]
