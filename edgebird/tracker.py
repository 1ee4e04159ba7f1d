"""Follows birds from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgebird.detector.merge import pairwise_overlap
from edgebird.structures import Box, Boxes, Detections, Track, TrackState


@dataclass(frozen=True, kw_only=True)
class TrackerSettings:
    """How detections become tracks.

    Args:
        confirm_hits: detections before a track counts as a bird.
        sure_score: a single detection this sure is enough.
        max_gap_s: how long a bird may be hidden and still be the same one.
    """

    confirm_hits: int = 2
    sure_score: float = 0.85
    max_gap_s: float = 2.0


class Tracker:
    """Links each detection to the nearest track, else starts a new one.

    Time comes with the detections, so a replayed video gives the same tracks at any speed.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._tracks: list[Track] = []
        self._next_id = 1

    def update(self, detections: Detections, now_s: float) -> tuple[Track, ...]:
        """Take in one frame's detections.

        Args:
            detections: best first; their boxes are copied into the tracks they go to.
            now_s: the frame's ``monotonic_s``.

        Returns:
            All tracks alive: seen within the last ``max_gap_s``.
        """
        oldest_s = now_s - self._settings.max_gap_s
        tracks = [track for track in self._tracks if track.last_seen_s >= oldest_s]
        free = set(range(len(tracks)))
        boxes = np.array([track.xyxy for track in tracks], np.float32).reshape(-1, 4)
        nearness = _nearness(detections.xyxy, boxes)
        for i, (box, score) in enumerate(_rows(detections)):
            nearest = max(free, key=lambda j: float(nearness[i, j]), default=None)
            if nearest is not None and nearness[i, nearest] > 0:
                free.remove(nearest)
                tracks[nearest] = self._seen_again(tracks[nearest], box, score, now_s)
            else:
                tracks.append(self._seen_first(box, score, now_s))
        self._tracks = tracks
        return tuple(tracks)

    def _seen_first(self, box: Box, score: float, now_s: float) -> Track:
        track_id, self._next_id = self._next_id, self._next_id + 1
        state = self._state(1, score)
        return Track(track_id, box, score, 1, now_s, now_s, score, state)

    def _seen_again(self, track: Track, box: Box, score: float, now_s: float) -> Track:
        hits, best_score = track.hits + 1, max(track.best_score, score)
        return replace(
            track,
            xyxy=box,
            score=score,
            hits=hits,
            last_seen_s=now_s,
            best_score=best_score,
            state=self._state(hits, best_score),
        )

    def _state(self, hits: int, best_score: float) -> TrackState:
        sure = best_score >= self._settings.sure_score
        if sure or hits >= self._settings.confirm_hits:
            return TrackState.CONFIRMED
        return TrackState.TENTATIVE


def _rows(detections: Detections) -> list[tuple[Box, float]]:
    return [
        ((left, top, right, bottom), score)
        for (left, top, right, bottom), score in zip(
            detections.xyxy.tolist(), detections.score.tolist(), strict=True
        )
    ]


def _nearness(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """How well two boxes may be the same bird a moment later: 1 in place, 0 and less if their
    centres are further apart than the larger bird is long, and overlapping boxes always count.

    Returns:
        float32 (N, M).
    """
    iou, _ = pairwise_overlap(a, b)
    centre_a, centre_b = (a[:, :2] + a[:, 2:]) / 2, (b[:, :2] + b[:, 2:]) / 2
    distance = np.linalg.norm(centre_a[:, None] - centre_b[None], axis=2)
    length_a, length_b = (a[:, 2:] - a[:, :2]).max(axis=1), (b[:, 2:] - b[:, :2]).max(axis=1)
    longest = np.maximum(np.maximum(length_a[:, None], length_b[None]), 1)
    nearness: NDArray[np.float32] = np.maximum(1 - distance / longest, iou)
    return nearness
