from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebird.detector.merge import pairwise_overlap
from edgebird.structures import Box, Detections, Track, TrackState
from edgebird.tracker import Tracker, TrackerSettings, birds_at_once


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


def test_where_looks_are_seldom_a_bird_may_be_hidden_for_longer() -> None:
    tracker = Tracker(TrackerSettings(max_gap_s=2.0))
    bird = found((square(0, 0), 0.7))
    for seconds in (0.0, 5.0, 10.0):
        [track] = tracker.update(bird, seconds, least_gap_s=7.5)
    assert (track.id, track.hits) == (1, 3)
    assert tracker.update(Detections.none(), 17.6, least_gap_s=7.5) == ()


def test_two_frames_of_the_same_time_say_nothing_of_a_birds_speed() -> None:
    tracker = Tracker(TrackerSettings())
    for x, seconds in ((0, 0.0), (4, 0.0), (6, 0.2)):
        [track] = tracker.update(found((square(x, 0), 0.9)), seconds)
    assert (track.id, track.hits) == (1, 3)


def test_two_birds_side_by_side_stay_two() -> None:
    tracker = Tracker(TrackerSettings())
    for step in range(6):
        birds = found((square(100 - step, 0), 0.8), (square(130 + step, 0), 0.7))
        tracks = tracker.update(birds, step * 0.2)
    assert {t.id: t.hits for t in tracks} == {1: 6, 2: 6}


def test_a_bird_that_opens_its_wings_stays_one() -> None:
    tracker = Tracker(TrackerSettings())
    tracker.update(found(((204, 260, 333, 380), 0.97)), 0.0)
    # a frame of the demo: the bird takes off, and its tail, where it was, looks like one, too
    tail, bird = (185, 258, 300, 351), (119, 232, 282, 357)
    tracker.update(found((bird, 0.96), (tail, 0.74)), 0.1)
    tracks = tracker.update(found(((25, 117, 192, 283), 0.9)), 0.2)
    assert birds_at_once(tracks) == 1


def test_a_bird_half_behind_another_is_a_second_one() -> None:
    tracker = Tracker(TrackerSettings())
    for step in range(2):
        tracks = tracker.update(found((square(0, 0), 0.9), (square(10, 0), 0.8)), step * 0.2)
    assert birds_at_once(tracks) == 2


def test_the_detections_box_is_copied_exactly() -> None:
    detections = found(((0.1, 0.2, 30.3, 40.7), 0.6))
    [track] = Tracker(TrackerSettings()).update(detections, 0.0)
    assert list(track.xyxy) == detections.xyxy[0].tolist()


def test_birds_that_cross_keep_their_tracks() -> None:
    tracker = Tracker(TrackerSettings())
    for step in range(21):
        right, left = square(100 + 12 * step, 50, 40), square(340 - 12 * step, 58, 40)
        if abs(right[0] - left[0]) < 30:  # one hides the other
            tracks = tracker.update(found((right, 0.8)), step * 0.2)
        else:
            tracks = tracker.update(found((right, 0.8), (left, 0.8)), step * 0.2)
    by_id = {track.id: track.xyxy[0] for track in tracks}
    assert by_id == {1: 340, 2: 100}


def test_three_birds_that_cross_one_another_stay_three() -> None:
    tracker = Tracker(TrackerSettings())
    for step in range(26):
        along = 10 * step
        birds = [
            (square(50 + along, 40, 30), 0.8),
            (square(300 - along, 60, 30), 0.75),
            (square(175, 20 + 4 * step, 30), 0.7),
        ]
        tracks = tracker.update(found(*birds), step * 0.2)
    assert {track.id: round(track.xyxy[0]) for track in tracks} == {1: 300, 2: 50, 3: 175}


@pytest.mark.parametrize("speed_px_per_s", [0, 20, 60])
def test_a_bird_that_hops_on_behind_a_twig_is_the_same_one(speed_px_per_s: float) -> None:
    tracker = Tracker(TrackerSettings(max_gap_s=2.0))
    hidden_s = 1.8
    for step in range(10):
        seen = square(100 + speed_px_per_s * step / 5, 50, 40)
        tracker.update(found((seen, 0.8)), step / 5)
    back = square(100 + speed_px_per_s * (9 / 5 + hidden_s), 52, 40)
    [track] = tracker.update(found((back, 0.8)), 9 / 5 + hidden_s)
    assert track.id == 1


def test_a_weak_detection_continues_a_track_but_starts_none() -> None:
    tracker = Tracker(TrackerSettings())
    assert tracker.update(found((square(0, 0), 0.4)), 0.0, start_score=0.5) == ()
    tracker.update(found((square(0, 0), 0.6)), 0.2, start_score=0.5)
    [track] = tracker.update(found((square(2, 0), 0.4)), 0.4, start_score=0.5)
    assert (track.hits, track.score, track.best_score) == (
        2,
        pytest.approx(0.4),
        pytest.approx(0.6),
    )


def test_after_a_reset_nothing_is_known() -> None:
    tracker = Tracker(TrackerSettings())
    tracker.update(found((square(0, 0), 0.7)), 0.0)
    tracker.reset()
    assert [track.id for track in tracker.update(found((square(0, 0), 0.7)), 0.2)] == [2]


SPOT = st.tuples(st.integers(0, 600), st.integers(0, 400), st.integers(1, 80))
FRAMES = st.lists(st.lists(st.tuples(SPOT, st.integers(1, 99)), max_size=5), max_size=12)


@given(FRAMES)
def test_every_detection_goes_to_one_track_or_is_part_of_another(
    frames: list[list[tuple[tuple[int, int, int], int]]],
) -> None:
    tracker = Tracker(TrackerSettings())
    ids: set[int] = set()
    for number, spots in enumerate(frames):
        birds = [(square(*spot), score / 100) for spot, score in spots]
        tracks = tracker.update(found(*birds), number * 0.5)
        assert len({t.id for t in tracks}) == len(tracks)
        seen_now = [t for t in tracks if t.last_seen_s == number * 0.5]
        left = [box for box, _ in birds]
        for track in seen_now:
            left.remove(track.xyxy)
        followed = np.array([t.xyxy for t in seen_now], np.float32).reshape(-1, 4)
        for box in left:
            _, contained = pairwise_overlap(np.array([box], np.float32), followed)
            assert contained.max() > 0.59
        assert all(t.first_seen_s <= t.last_seen_s for t in tracks)
        assert all(t.best_score >= t.score for t in tracks)
        new = {t.id for t in tracks} - ids
        assert all(i > max(ids, default=0) for i in new)
        ids |= new


def confirmed(number: int, first_s: float, last_s: float) -> Track:
    return Track(number, square(0, 0), 0.8, 3, first_s, last_s, 0.8, TrackState.CONFIRMED)


def test_birds_at_once_are_those_whose_times_overlap() -> None:
    assert birds_at_once([]) == 0
    tentative = Track(9, square(0, 0), 0.8, 1, 0, 5, 0.8, TrackState.TENTATIVE)
    assert birds_at_once([confirmed(1, 0, 5), tentative]) == 1
    # one hidden for a moment, one found again as another
    assert birds_at_once([confirmed(1, 0, 4.5), confirmed(2, 2, 5)]) == 2
    assert birds_at_once([confirmed(1, 0, 4.5), confirmed(2, 4.6, 5)]) == 1
    assert birds_at_once([confirmed(1, 0, 1), confirmed(2, 1, 3), confirmed(3, 2, 3)]) == 2
