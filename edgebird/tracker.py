"""Follows birds from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgebird.detector.merge import pairwise_overlap
from edgebird.structures import Box, Boxes, Detections, Track, TrackState

# The newest step's part in what is believed of a bird's speed.
_SPEED_SHARE = 0.5
# A bird's speed is good for so long.
_SLOWING_S = 1.0
# What it costs a detection to be where a bird was and not where its speed would take it.
_MISSED_TURN = 0.1
# Twice as long costs so much of the nearness, times ln 2.
_SIZE_WEIGHT = 0.3
# What shares this much of the smaller box with a bird of the same frame is a part of it, such as
# the wings of one that takes off.
_PART_OF_BIRD = 0.6


@dataclass(frozen=True, kw_only=True)
class TrackerSettings:
    """How detections become tracks.

    Args:
        confirm_hits: detections before a track counts as a bird.
        sure_score: a single detection this sure is enough.
        max_gap_s: how long a bird may be hidden and still be the same one; longer where looks are
            seldom.
    """

    confirm_hits: int = 2
    sure_score: float = 0.85
    max_gap_s: float = 2.0


class Tracker:
    """Links detections to the birds they may be, best fit first; those left over start new ones.

    A bird is expected where its speed takes it, more uncertainly the longer it was not seen, so
    birds that cross, or that a twig hides for a moment, keep their tracks. A detection too weak to
    start a track may still continue one (as in ByteTrack, Zhang et al., 2022, arXiv:2110.06864).
    What mostly covers, or lies in, a bird that is followed starts none: it is the same bird, or
    else one that is followed as soon as the two sit apart.

    Time comes with the detections, so a replayed video gives the same tracks at any speed.

    Args:
        settings: when to believe it; may be replaced between two frames.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self.settings = settings
        self._tracks: list[Track] = []
        self._speeds: dict[int, NDArray[np.float32]] = {}
        self._next_id = 1

    def update(
        self,
        detections: Detections,
        now_s: float,
        *,
        start_score: float = 0.0,
        least_gap_s: float = 0.0,
    ) -> tuple[Track, ...]:
        """Take in one frame's detections.

        Args:
            detections: best first; their boxes are copied into the tracks they go to.
            now_s: the frame's ``monotonic_s``.
            start_score: lowest score with which a new track starts, 0 to 1.
            least_gap_s: in place of a smaller ``max_gap_s``; see `Pace`.

        Returns:
            All tracks alive: seen within the last ``max_gap_s``.
        """
        oldest_s = now_s - max(self.settings.max_gap_s, least_gap_s)
        tracks = [track for track in self._tracks if track.last_seen_s >= oldest_s]
        matches = self._matches(detections.xyxy, tracks, now_s)
        followed = list(matches)
        for i, (box, score) in enumerate(detections.rows()):
            if i in matches:
                track = tracks[matches[i]]
                self._learn_speed(track, box, now_s)
                tracks[matches[i]] = self._seen_again(track, box, score, now_s)
            elif score >= start_score and not _is_part(detections.xyxy, i, followed):
                followed.append(i)
                tracks.append(self._seen_first(box, score, now_s))
        self._tracks = tracks
        self._speeds = {track.id: self._speeds[track.id] for track in tracks}
        return tuple(tracks)

    def reset(self) -> None:
        """Forget all birds: the frame has another size, or a long time has passed."""
        self._tracks, self._speeds = [], {}

    def _matches(self, boxes: Boxes, tracks: list[Track], now_s: float) -> dict[int, int]:
        """Which detection continues which track, by their indices."""
        if not len(boxes) or not tracks:
            return {}
        last = np.array([track.xyxy for track in tracks], np.float32).reshape(-1, 4)
        unseen_s = np.array([now_s - track.last_seen_s for track in tracks], np.float32)
        speeds = np.array([self._speeds[track.id] for track in tracks], np.float32)
        # A bird does not fly straight on for long.
        ahead_s = _SLOWING_S * (1 - np.exp(-unseen_s / _SLOWING_S))
        shift = speeds.reshape(-1, 2) * ahead_s[:, None]
        expected = last + np.concatenate([shift, shift], axis=1)
        slack = 1 + np.minimum(unseen_s, 1.0)
        # Where it was is as good as where it might be by now: birds stop as they please.
        both = _nearness(boxes, np.concatenate([last, expected]), np.tile(slack, 2))
        nearness = np.maximum(both[:, : len(last)] - _MISSED_TURN, both[:, len(last) :])
        matches: dict[int, int] = {}
        taken: set[int] = set()
        best_first = np.argsort(-nearness, axis=None, kind="stable")
        for i, j in zip(*np.unravel_index(best_first, nearness.shape), strict=True):
            if nearness[i, j] <= 0:
                break
            if i not in matches and j not in taken:
                matches[int(i)] = int(j)
                taken.add(int(j))
        return matches

    def _learn_speed(self, track: Track, box: Box, now_s: float) -> None:
        step_s = now_s - track.last_seen_s
        if step_s <= 0:
            return
        moved = _centre(box) - _centre(track.xyxy)
        share = _SPEED_SHARE if track.hits > 1 else 1.0
        self._speeds[track.id] += share * (moved / np.float32(step_s) - self._speeds[track.id])

    def _seen_first(self, box: Box, score: float, now_s: float) -> Track:
        track_id, self._next_id = self._next_id, self._next_id + 1
        self._speeds[track_id] = np.zeros(2, np.float32)
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
        sure = best_score >= self.settings.sure_score
        if sure or hits >= self.settings.confirm_hits:
            return TrackState.CONFIRMED
        return TrackState.TENTATIVE


def birds_at_once(tracks: Sequence[Track]) -> int:
    """How many birds are, or were a moment ago, in view at the same time.

    Not every bird is found in every frame, so a confirmed track counts from its first to its last
    sight. One that ended before another began does not count beside it: that is mostly the same
    bird, found again.
    """
    birds = [track for track in tracks if track.state is TrackState.CONFIRMED]
    return max(
        (
            sum(bird.first_seen_s <= then_s <= bird.last_seen_s for bird in birds)
            for then_s in {bird.last_seen_s for bird in birds}
        ),
        default=0,
    )


def _is_part(boxes: Boxes, index: int, others: list[int]) -> bool:
    """Whether a box, (N, 4), mostly covers another of the given ones, or lies in it."""
    _, contained = pairwise_overlap(boxes[index : index + 1], boxes[others])
    return bool((contained >= _PART_OF_BIRD).any())


def _centre(box: Box) -> NDArray[np.float32]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], np.float32)


def _nearness(a: Boxes, b: Boxes, slack: NDArray[np.float32]) -> NDArray[np.float32]:
    """How well two boxes may be the same bird a moment later: 1 in place, 0 and less if their
    centres are further apart than the larger bird is long, times ``slack``. Boxes that overlap
    always count; those of very different sizes count less.

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy.
        slack: (M,), 1 and more.

    Returns:
        float32 (N, M).
    """
    iou, _ = pairwise_overlap(a, b)
    centre_a, centre_b = (a[:, :2] + a[:, 2:]) / 2, (b[:, :2] + b[:, 2:]) / 2
    distance = np.linalg.norm(centre_a[:, None] - centre_b[None], axis=2)
    length_a, length_b = (a[:, 2:] - a[:, :2]).max(axis=1), (b[:, 2:] - b[:, :2]).max(axis=1)
    longest = np.maximum(np.maximum(length_a[:, None], length_b[None]), 1)
    shortest = np.maximum(np.minimum(length_a[:, None], length_b[None]), 1)
    unlike = _SIZE_WEIGHT * np.log(longest / shortest)
    nearness: NDArray[np.float32] = np.maximum(1 - distance / (longest * slack) - unlike, iou)
    return nearness
