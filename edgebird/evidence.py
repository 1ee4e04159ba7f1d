"""Weighs detections by what a camera that does not move knows of a place.

Something that moves there and was not there before speaks for a bird. A place that is detected
again and again, and where nothing ever moved, is a knot, a leaf or the feeder itself.

Scores are log-odds of a bird; evidence that does not depend on the picture's content adds to them,
as independent observations do (naive Bayes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgebird.detector.merge import pairwise_overlap
from edgebird.motion import Motion
from edgebird.odds import log_odds, probability
from edgebird.structures import Box, Detections


@dataclass(frozen=True, kw_only=True)
class EvidenceSettings:
    """How much motion, and the lack of it, weigh.

    Args:
        motion_bonus: added to the log-odds of what moves.
        still_penalty: taken from the log-odds of what never moved, at most.
        still_after_s: so long something may be detected without ever having moved before it counts
            for less; the penalty is whole after twice that time. What came with motion may keep
            still for ten times as long, but not at a place that was once found to be a perch.
    """

    motion_bonus: float = 0.7
    still_penalty: float = 6.0
    still_after_s: float = 60.0


# So many times as long may keep still what came with motion.
_TRUST = 10
# Part of a box that has to move.
MOVING_SHARE = 0.08
_SAME_PLACE_IOU = 0.5
_MAX_PLACES = 64
# Counts only while it is looked: what stands there still does so after a night.
_FORGET_AFTER_S = 3600.0
# Between two looks at a place, a few rounds of the patrol: longer pauses are no sight of it.
_LONGEST_STEP_S = 30.0


@dataclass(slots=True)
class _Place:
    """Where something is detected.

    ``unseen_s`` is for how long it was looked for and not found, ``still_s`` for how long since it
    last moved, ``moved`` whether it ever did, and ``perch`` whether it once kept still for so long
    that it is no bird.
    """

    xyxy: Box
    last_seen_s: float
    unseen_s: float = 0.0
    still_s: float = 0.0
    moved: bool = False
    perch: bool = False


class Evidence:
    """Remembers places where detections came from, over hours.

    Args:
        settings: how much it weighs; may be replaced between two frames.
    """

    def __init__(self, settings: EvidenceSettings) -> None:
        self.settings = settings
        self._places: list[_Place] = []
        self._last_s: float | None = None

    def floor(self, threshold: float) -> float:
        """The lowest score that motion may lift to the threshold, 0 to 1."""
        return probability(log_odds(threshold) - self.settings.motion_bonus)

    def weigh(self, detections: Detections, motion: Motion, now_s: float) -> Detections:
        """The same detections with their scores changed, best first.

        Only for frames that were looked at: others say nothing of what is there.

        Args:
            detections: of one frame, as the detector found them.
            motion: of the same frame.
            now_s: the frame's ``monotonic_s``.
        """
        if motion.light_changed:
            return self._weigh_in_other_light(detections)
        self._forget(now_s)
        scores = []
        for xyxy, score in detections.rows():
            moves = motion.share_of(xyxy) >= MOVING_SHARE
            place = self._place_of(xyxy, now_s)
            # a bird may be there now, in front of the knot: some time for it, but no trust
            place.still_s = 0.0 if moves else place.still_s + self._step_s(place, now_s)
            place.moved |= moves
            place.xyxy, place.last_seen_s, place.unseen_s = xyxy, now_s, 0.0
            bonus = self.settings.motion_bonus if moves else 0.0
            scores.append(probability(log_odds(score) + bonus - self._penalty(place)))
        return detections.rescored(np.array(scores, np.float32))

    def reset(self) -> None:
        """Forget all places: the frame has another size, so they are elsewhere in it."""
        self._places = []

    def _forget(self, now_s: float) -> None:
        step_s = 0.0 if self._last_s is None else min(now_s - self._last_s, _LONGEST_STEP_S)
        self._last_s = now_s
        for place in self._places:
            place.unseen_s += step_s
        self._places = [p for p in self._places if p.unseen_s < _FORGET_AFTER_S]

    def _weigh_in_other_light(self, detections: Detections) -> Detections:
        """What moves says nothing then; what is known of a place still holds."""
        scores = []
        for xyxy, score in detections.rows():
            place = self._known_place(xyxy)
            penalty = 0.0 if place is None else self._penalty(place)
            scores.append(probability(log_odds(score) - penalty) if penalty else score)
        return detections.rescored(np.array(scores, np.float32))

    def _penalty(self, place: _Place) -> float:
        trusted = place.moved and not place.perch
        limit_s = self.settings.still_after_s * (_TRUST if trusted else 1)
        share = min(max(place.still_s / limit_s - 1, 0.0), 1.0)
        place.perch |= share == 1
        return self.settings.still_penalty * share

    @staticmethod
    def _step_s(place: _Place, now_s: float) -> float:
        step_s = now_s - place.last_seen_s
        return step_s if step_s <= _LONGEST_STEP_S else 0.0

    def _known_place(self, xyxy: Box) -> _Place | None:
        if self._places:
            known = np.array([place.xyxy for place in self._places], np.float32)
            iou, _ = pairwise_overlap(np.array([xyxy], np.float32), known)
            nearest = int(iou[0].argmax())
            if iou[0, nearest] > _SAME_PLACE_IOU:
                return self._places[nearest]
        return None

    def _place_of(self, xyxy: Box, now_s: float) -> _Place:
        if (place := self._known_place(xyxy)) is not None:
            return place
        latest_first = sorted(self._places, key=lambda place: -place.last_seen_s)
        self._places = [_Place(xyxy, now_s), *latest_first[: _MAX_PLACES - 1]]
        return self._places[0]
