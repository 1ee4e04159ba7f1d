"""The brute-force detector: a window slides over the frame at every scale, and the classifier looks
at each part on its own.

It computes everything many times over, since neighbouring windows share most of their pixels; what
the convolutional detector saves is measured against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebird.classify import Classifier
from edgebird.detector.merge import merge, pairwise_overlap
from edgebird.structures import Boxes, Detections, Image, Scores
from edgebird.tiles import Region, window_starts

# Without a wish: the smallest bird is this share of the frame's shorter side.
_SMALLEST_SHARE = 0.12
# A bird fills about this share of the window that it is seen in best, as in the training pictures.
_FILL = 0.8
# From one scale to the next, and from one window to the next in window sides: a bird is then never
# further than an eighth of a window, or a fifth of its size, from the best window.
_SCALE_STEP = 1.4
_STRIDE_SHARE = 0.25
# Two windows show the same bird from this overlap on: less than for boxes, which end at the bird.
_SAME_IOU, _SAME_CONTAINED = 0.25, 0.6
# More windows than this that show a bird are noise; the best are kept.
_MAX_CANDIDATES = 500


def windows_over(region: Region, smallest_px: int) -> list[Region]:
    """Square windows over a region, the smallest first: of each side from ``smallest_px`` on, by
    factors of 1.4 up to the region's shorter side, a quarter of the side apart.

    Every window lies inside the region. A region that is smaller gives one row of windows.

    Raises:
        ValueError: the smallest window is less than 4 px.
    """
    if smallest_px < 4:
        raise ValueError(f"windows of {smallest_px} px are too small")
    left, top, right, bottom = region
    width, height = right - left, bottom - top
    largest = min(width, height)
    windows = []
    side = float(min(smallest_px, largest))
    while True:
        length = round(side)
        overlap = length - max(1, round(length * _STRIDE_SHARE))
        windows += [
            (left + x, top + y, left + x + length, top + y + length)
            for y in window_starts(height, length, overlap)
            for x in window_starts(width, length, overlap)
        ]
        if length == largest:
            return windows
        side = min(side * _SCALE_STEP, largest)


class WindowDetector:
    """Finds birds with the classifier, window by window.

    Args:
        classifier: looks at the windows.
        smallest_bird_px: how long the smallest bird wanted is, in pixels of the frame; default: an
            eighth of the frame's shorter side. Half the size takes four times the work.
    """

    def __init__(self, classifier: Classifier, smallest_bird_px: int | None = None) -> None:
        self._classifier = classifier
        self._smallest_bird_px = smallest_bird_px

    def windows(self, width: int, height: int, regions: Sequence[Region] | None) -> list[Region]:
        """All windows for a frame of this size; see `detect`."""
        frame = (0, 0, width, height)
        if regions is None or frame in regions:
            regions = [frame]
        bird_px = self._smallest_bird_px or _SMALLEST_SHARE * min(width, height)
        smallest_px = max(4, round(bird_px / _FILL))
        # What two regions share is looked at once.
        return list(dict.fromkeys(w for r in regions for w in windows_over(r, smallest_px)))

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        """Find birds in the given regions of a frame, or in all of it.

        Args:
            image: uint8 (H, W, 3), RGB.
            regions: parts of the frame to look at; with the whole frame among them the others
                add nothing.
            threshold: lowest score wanted, 0 to 1.

        Returns:
            Birds in pixels of the full frame, best first.
        """
        height, width = image.shape[:2]
        windows = self.windows(width, height, regions)
        crops = [image[top:bottom, left:right] for left, top, right, bottom in windows]
        score = self._classifier.probabilities(crops)
        keep = np.argsort(-score, kind="stable")[:_MAX_CANDIDATES]
        keep = keep[score[keep] >= threshold]
        xyxy, score = boxes_from_windows(np.array(windows, np.float32)[keep], score[keep])
        return Detections(xyxy, score)


def boxes_from_windows(windows: Boxes, score: Scores) -> tuple[Boxes, Scores]:
    """One box for each bird from the windows that show one.

    The best window stays of those that overlap; its box is the mean of these, weighted by their
    odds, shrunk by what a bird leaves free around it.

    Args:
        windows: (N, 4), xyxy.
        score: (N,), 0 to 1.

    Returns:
        Boxes (M, 4) and the best window's score (M,), best first.
    """
    stays = merge(windows, score, iou_limit=_SAME_IOU, contained_limit=_SAME_CONTAINED)
    iou, _ = pairwise_overlap(windows[stays], windows)
    certain = np.clip(score.astype(np.float64), 1e-4, 1 - 1e-4)
    # The odds, not the probability: 0.99 is a far better window than 0.9.
    weight = np.where(iou > 0.5, certain / (1 - certain), 0)
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    mean = (weight[:, :, None] * windows[None]).sum(axis=1) / total
    centre, half = (mean[:, :2] + mean[:, 2:]) / 2, (mean[:, 2:] - mean[:, :2]) / 2 * _FILL
    xyxy = np.concatenate([centre - half, centre + half], axis=1)
    return xyxy.astype(np.float32), score[stays]
