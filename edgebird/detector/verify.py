"""The second look: a doubtful detection is judged again by the classifier, which sees it at the
camera's full resolution where the detector saw a shrunk frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebird.classify import Classifier
from edgebird.detector import Detector
from edgebird.structures import Box, Boxes, Detections, Image, Scores
from edgebird.tiles import Region

# Windows looked at: side in box lengths, and shift to the right and down in box lengths.
_WINDOWS = (
    (1.2, 0.0, 0.0),
    (1.6, 0.0, 0.0),
    (1.35, -0.1, 0.1),
    (1.35, 0.1, -0.1),
)
# How much the classifier's log-odds weigh beside the detector's, and how far they can move it.
WEIGHT, REACH = 0.2, 1.0
# A frame has few birds; with more doubtful detections than this, it is noise that costs time.
_MAX_LOOKS = 4


class VerifyingDetector:
    """A detector whose doubtful detections are confirmed or dropped by the classifier.

    The log-odds of both looks are added, the classifier's with less weight and within a limit
    (``reach``). So a detection far from the threshold is neither looked at again nor changed: at a
    threshold of 0.5 those below 0.27 and above 0.73.

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
        """Find birds as the detector does, with a second look at those around the threshold.

        Args:
            image: uint8 (H, W, 3), RGB.
            regions: parts of the frame to look at; default: all of it.
            threshold: lowest score wanted, 0 to 1.

        Returns:
            Birds in pixels of the full frame, best first; a score holds both looks.
        """
        limit = _log_odds(np.float32(threshold))
        low = 1 / (1 + np.exp(self._reach - limit))
        found = self._detector.detect(image, regions, threshold=float(low))
        score = found.score.copy()
        doubtful = np.abs(_log_odds(found.score) - limit) < self._reach
        for i in np.flatnonzero(doubtful)[:_MAX_LOOKS]:
            seen = second_look(self._classifier, image, found.xyxy[i])
            score[i] = both_looks(score[i : i + 1], seen, self._weight, self._reach)[0]
        order = np.argsort(-score, kind="stable")
        return Detections(found.xyxy[order], score[order]).above(threshold)


def second_look(classifier: Classifier, image: Image, xyxy: Boxes) -> float:
    """The classifier's mean log-odds of a bird over a few windows around one box, (4,)."""
    left, top, right, bottom = xyxy.tolist()
    return float(classifier.log_odds(windows_around((left, top, right, bottom), image)).mean())


def both_looks(score: Scores, seen: float | Scores, weight: float, reach: float) -> Scores:
    """The detector's score, (N,), with ``weight`` times the classifier's log-odds added to its
    own, but at most ``reach``.
    """
    moved = _log_odds(score) + np.clip(weight * np.asarray(seen), -reach, reach)
    return (1 / (1 + np.exp(-moved))).astype(np.float32)


def windows_around(box: Box, image: Image) -> list[Image]:
    """A few shifted and scaled square parts of the image around a box, as far as it reaches."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    length = max(right - left, bottom - top, 1.0)
    parts = []
    for scale, shift_x, shift_y in _WINDOWS:
        half = scale * length / 2
        x, y = (left + right) / 2 + shift_x * length, (top + bottom) / 2 + shift_y * length
        x0 = int(min(max(x - half, 0), width - 1))
        y0 = int(min(max(y - half, 0), height - 1))
        x1, y1 = int(min(x + half, width)), int(min(y + half, height))
        parts.append(image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])
    return parts


def _log_odds(score: Scores | np.float32) -> Scores:
    bounded = np.clip(np.asarray(score, np.float32), 1e-6, 1 - 1e-6)
    return np.log(bounded / (1 - bounded)).astype(np.float32)
