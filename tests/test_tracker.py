from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebird.structures import Box, Detections, TrackState
from edgebird.tracker import Tracker, TrackerSettings


def found(*birds: tuple[Box, float]) -> Detections:
    ranked = sorted(birds, key=lambda bird: -bird[1])
    return Detections(
        np.array([box for box, _ in ranked], np.float32).reshape(-1, 4),
        np.array([score for _, score in ranked], np.float32),
    )


def square(x: float, y: float, side: float = 20) -> Box:
    return (x, y, x + side, y + side)


def test_a_bird_that_moves_keeps_its_track() -> None:
    tracker = Tracker(TrackerSettings())
    for step in range(10):
        [track] = tracker.update(found((square(10 * step, 50), 0.6)), step * 0.2)
    assert track.id == 1
    assert track.hits == 10
    assert track.last_seen_s == pytest.approx(1.8)


def test_a_track_needs_two_hits_or_one_sure_one() -> None:
    tracker = Tracker(TrackerSettings(confirm_hits=2, sure_score=0.9))
    weak, sure = square(0, 0), square(200, 200)
    tracks = tracker.update(found((weak, 0.5), (sure, 0.95)), 0.0)
    assert {t.xyxy: t.state for t in tracks} == {
        weak: TrackState.TENTATIVE,
        sure: TrackState.CONFIRMED,
    }
    tracks = tracker.update(found((weak, 0.5)), 0.2)
    assert all(t.state is TrackState.CONFIRMED for t in tracks)


def test_a_hidden_bird_comes_back_as_itself_but_not_after_the_gap() -> None:
    tracker = Tracker(TrackerSettings(max_gap_s=2.0))
    bird = found((square(0, 0), 0.7))
    tracker.update(bird, 0.0)
    assert [t.id for t in tracker.update(Detections.none(), 1.9)] == [1]
    assert [t.id for t in tracker.update(bird, 2.0)] == [1]
    assert tracker.update(Detections.none(), 4.1) == ()
    assert [t.id for t in tracker.update(bird, 4.2)] == [2]


def test_two_birds_side_by_side_stay_two() -> None:
    tracker = Tracker(TrackerSettings())
    for step in range(6):
        birds = found((square(100 - step, 0), 0.8), (square(130 + step, 0), 0.7))
        tracks = tracker.update(birds, step * 0.2)
    assert {t.id: t.hits for t in tracks} == {1: 6, 2: 6}


def test_the_detections_box_is_copied_exactly() -> None:
    detections = found(((0.1, 0.2, 30.3, 40.7), 0.6))
    [track] = Tracker(TrackerSettings()).update(detections, 0.0)
    assert list(track.xyxy) == detections.xyxy[0].tolist()


SPOT = st.tuples(st.integers(0, 600), st.integers(0, 400), st.integers(1, 80))
FRAMES = st.lists(st.lists(st.tuples(SPOT, st.integers(1, 99)), max_size=5), max_size=12)


@given(FRAMES)
def test_every_detection_goes_to_exactly_one_track(
    frames: list[list[tuple[tuple[int, int, int], int]]],
) -> None:
    tracker = Tracker(TrackerSettings())
    ids: set[int] = set()
    for number, spots in enumerate(frames):
        birds = [(square(*spot), score / 100) for spot, score in spots]
        tracks = tracker.update(found(*birds), number * 0.5)
        assert len({t.id for t in tracks}) == len(tracks)
        seen_now = [t for t in tracks if t.last_seen_s == number * 0.5]
        assert sorted(t.xyxy for t in seen_now) == sorted(box for box, _ in birds)
        assert all(t.first_seen_s <= t.last_seen_s for t in tracks)
        assert all(t.best_score >= t.score for t in tracks)
        new = {t.id for t in tracks} - ids
        assert all(i > max(ids, default=0) for i in new)
        ids |= new
