"""The second look: a doubtful detection is judged again by the classifier, which sees it at the
camera's full resolution where the detector saw a shrunk frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebird.classify import Classifier
from edgebird.detector import Detector
from edgebird.odds import log_odds, probability
from edgebird.structures import Box, Detections, Image, Scores
from edgebird.tiles import Region

# Side of the window looked at, in box lengths (measured: four windows, shifted and mirrored, find
# no more birds than this one).
_WINDOW = 1.2
# How much the classifier's log-odds weigh beside the detector's, and how far they can move it.
WEIGHT, REACH = 0.05, 1.0
# Below the first score no second look makes a bird of it, from the second on it is one.
_DOUBTFUL = (0.1, 0.85)
# A frame has few birds; with more doubtful detections than this, it is noise that costs time.
_MAX_LOOKS = 4


class VerifyingDetector:
    """A detector whose doubtful detections are confirmed or dropped by the classifier.

    Args:
        detector: takes the first look.
        classifier: takes the second.
        weight: of the classifier's log-odds.
        reach: by how much it may move a detection's log-odds.
    """

    def __init__(
        self,
        detector: Detector,
        classifier: Classifier,
        *,
        weight: float = WEIGHT,
        reach: float = REACH,
    ) -> None:
        self._detector = detector
        self._classifier = classifier
        self._weight = weight
        self._reach = reach

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        """Find birds as the detector does, with a second look at what is doubtful.

        Args:
            image: uint8 (H, W, 3), RGB.
            regions: parts of the frame to look at; default: all of it.
            threshold: lowest score wanted, 0 to 1.

        Returns:
            Birds in pixels of the full frame, best first; a score holds both looks.
        """
        # What lies further below the threshold cannot reach it.
        liftable = probability(log_odds(threshold) - self._reach)
        least = min(max(liftable, _DOUBTFUL[0]), threshold)
        found = self._detector.detect(image, regions, threshold=least)
        seen = second_look(self._classifier, image, found)
        return both_looks(found, seen, self._weight, self._reach).above(threshold)


def second_look(classifier: Classifier, image: Image, found: Detections) -> Scores:
    """The classifier's log-odds of a bird in a window around each doubtful detection.

    Args:
        classifier: looks at the windows.
        image: uint8 (H, W, 3), RGB.
        found: in it, best first.

    Returns:
        float32 (N,); NaN for what is not looked at again.
    """
    seen = np.full(len(found), np.nan, np.float32)
    least, sure = _DOUBTFUL
    doubtful = np.flatnonzero((found.score >= least) & (found.score < sure))
    for i in doubtful[:_MAX_LOOKS]:
        left, top, right, bottom = found.xyxy[i].tolist()
        [seen[i]] = classifier.log_odds([window_around((left, top, right, bottom), image)])
    return seen


def both_looks(found: Detections, seen: Scores, weight: float, reach: float) -> Detections:
    """The detections, with ``weight`` times the classifier's log-odds, `second_look`, added to
    their own, but at most ``reach``; best first.
    """
    moved = log_odds(found.score) + np.clip(weight * seen, -reach, reach)
    score = np.where(np.isnan(seen), found.score, probability(moved)).astype(np.float32)
    return found.rescored(score)


def window_around(box: Box, image: Image) -> Image:
    """The square part of the image around a box, as far as the image reaches."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    half = _WINDOW * max(right - left, bottom - top, 1.0) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    x0 = int(min(max(x - half, 0), width - 1))
    y0 = int(min(max(y - half, 0), height - 1))
    x1, y1 = int(min(x + half, width)), int(min(y + half, height))
    return image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
