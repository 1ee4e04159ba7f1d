from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgebird.structures import Frame, Track, TrackState, VisitChanged
from edgebird.visits import Visits, VisitSettings, shot_quality

NOON_UTC_S = 1_750_000_000.0


def frame(seconds: float) -> Frame:
    image = np.full((48, 64, 3), int(seconds * 10) % 256, np.uint8)
    return Frame(image, 0, seconds, NOON_UTC_S + seconds, "test")


def bird(
    track_id: int, first_s: float, last_s: float, score: float = 0.7, *, confirmed: bool = True
) -> Track:
    state = TrackState.CONFIRMED if confirmed else TrackState.TENTATIVE
    return Track(track_id, (1.0, 2.0, 30.0, 40.0), score, 3, first_s, last_s, score, state)


def replay(steps: list[tuple[float, list[Track]]], quiet_s: float = 2.0) -> list[VisitChanged]:
    visits = Visits("feeder", VisitSettings(quiet_s=quiet_s))
    changes = [
        change for seconds, tracks in steps for change in visits.update(frame(seconds), tracks)
    ]
    return changes + visits.finish()


def test_a_visit_lasts_from_the_first_to_the_last_sight() -> None:
    steps = [(0.0, [bird(1, 0, 0, confirmed=False)])]
    steps += [(s / 5, [bird(1, 0, s / 5)]) for s in range(1, 21)]
    steps += [(s / 5, [bird(1, 0, 4.0)]) for s in range(21, 40)]
    start, end = replay(steps)
    assert (start.kind, end.kind) == ("start", "end")
    assert start.visit.id == end.visit.id
    assert start.visit.started_utc_s == NOON_UTC_S
    assert start.visit.duration_s == pytest.approx(0.2)
    assert start.visit.ended_utc_s is None
    assert end.visit.duration_s == pytest.approx(4.0)
    assert end.visit.ended_utc_s == pytest.approx(NOON_UTC_S + 4.0, abs=1e-3)


def test_it_ends_when_quiet_and_another_one_begins() -> None:
    steps = [(0.0, [bird(1, 0, 0)]), (2.0, []), (2.5, []), (10.0, [bird(2, 10, 10)])]
    changes = replay(steps)
    assert [change.kind for change in changes] == ["start", "end", "start", "end"]
    assert changes[0].visit.id != changes[2].visit.id


def test_a_bird_that_is_back_after_the_end_of_its_visit_begins_another() -> None:
    # the tracker still knows it, since it was away for less than its longest gap
    changes = replay(
        [(0.0, [bird(1, 0, 0)]), (0.6, []), (0.7, [bird(1, 0, 0.7)]), (0.9, [bird(1, 0, 0.9)])],
        quiet_s=0.5,
    )
    assert [change.kind for change in changes] == ["start", "end", "start", "end"]
    assert [round(c.visit.started_utc_s - NOON_UTC_S, 3) for c in changes] == [0, 0, 0.7, 0.7]
    assert changes[-1].visit.duration_s == pytest.approx(0.2)
    # within one second, and yet told apart
    assert changes[0].visit.id == "feeder-20250615T150640000"
    assert changes[2].visit.id == "feeder-20250615T150640700"


def test_birds_that_take_turns_make_one_visit_and_its_peak_counts_them() -> None:
    both = [bird(1, 0, 1), bird(2, 1, 1)]
    start, end = replay([(0.0, [bird(1, 0, 0)]), (1.0, both), (2.0, [bird(2, 1, 2)])])
    assert start.visit.peak_count == 1
    assert end.visit.peak_count == 2


def test_a_tentative_track_is_no_visit() -> None:
    assert replay([(0.0, [bird(1, 0, 0, confirmed=False)])]) == []


def test_the_best_shot_is_that_of_the_highest_score() -> None:
    steps = [(s, [bird(1, 0, s, score)]) for s, score in ((0.0, 0.6), (1.0, 0.9), (2.0, 0.7))]
    start, end = replay(steps)
    assert (start.visit.best_score, end.visit.best_score) == (0.6, 0.9)
    assert end.best_image is not None
    assert end.best_image[0, 0, 0] == 10


def test_the_best_shot_is_of_the_better_of_two_birds() -> None:
    better = replace(bird(2, 0, 0, 0.9), xyxy=(32.0, 2.0, 60.0, 40.0))
    for pair in ([bird(1, 0, 0, 0.6), better], [better, bird(1, 0, 0, 0.6)]):
        for change in replay([(0.0, pair)]):
            assert (change.visit.best_score, change.visit.best_xyxy) == (0.9, better.xyxy)


def test_a_better_shot_of_another_size_brings_its_size_along() -> None:
    visits = Visits("feeder", VisitSettings())
    visits.update(frame(0.0), [bird(1, 0, 0)])
    large = replace(frame(1.0), image=np.zeros((96, 128, 3), np.uint8))
    visits.update(large, [replace(bird(1, 0, 1, 0.9), xyxy=(10.0, 10.0, 100.0, 90.0))])
    [end] = visits.finish()
    assert end.visit.best_xyxy == (10.0, 10.0, 100.0, 90.0)
    assert end.visit.frame_size == (128, 96)


def test_a_large_sharp_whole_bird_makes_the_best_shot() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    soft = np.asarray(cv2.GaussianBlur(noise, (0, 0), 5), np.uint8)
    middle = (40.0, 30.0, 100.0, 90.0)
    assert shot_quality(noise, middle, 0.9) > shot_quality(noise, middle, 0.7)
    assert shot_quality(noise, middle, 0.9) > shot_quality(soft, middle, 0.9)
    assert shot_quality(noise, middle, 0.8) > shot_quality(noise, (60, 45, 80, 65), 0.9)
    assert shot_quality(noise, middle, 0.7) > shot_quality(noise, (100, 30, 160, 90), 0.9)
    assert shot_quality(noise, (159, 119, 170, 130), 0.9) == 0


def test_no_visit_begins_while_it_cools_down() -> None:
    steps = [(0.0, [bird(1, 0, 0)]), (10.0, []), (12.0, [bird(2, 12, 12)]), (20.0, [])]
    steps += [(40.0, [bird(3, 40, 40)])]
    visits = Visits("feeder", VisitSettings(quiet_s=2.0, cooldown_s=30.0))
    changes = [c for seconds, tracks in steps for c in visits.update(frame(seconds), tracks)]
    starts = [c.visit.started_utc_s - NOON_UTC_S for c in changes if c.kind == "start"]
    assert starts == [0.0, 40.0]


def test_a_bird_that_stays_longer_than_the_cooling_down_is_a_visit() -> None:
    visits = Visits("feeder", VisitSettings(quiet_s=2.0, cooldown_s=30.0))
    visits.update(frame(0.0), [bird(1, 0, 0)])
    changes = [
        change
        for second in range(10, 60)
        for change in visits.update(frame(float(second)), [bird(2, 10, second)])
    ]
    assert [change.kind for change in changes] == ["end", "start"]
    assert changes[1].visit.started_utc_s == NOON_UTC_S + 10


def test_a_visit_ends_when_the_camera_is_silent_for_too_long() -> None:
    visits = Visits("feeder", VisitSettings(quiet_s=2.0))
    visits.update(frame(0.0), [bird(1, 0, 0)])
    assert visits.pass_time(1.9) == []
    assert [change.kind for change in visits.pass_time(2.1)] == ["end"]


def test_a_bird_not_seen_for_a_moment_does_not_count_twice() -> None:
    # the same bird, found again as another track
    steps = [(0.0, [bird(1, 0, 0)]), (0.2, [bird(1, 0, 0), bird(2, 0.2, 0.2)])]
    assert replay(steps)[-1].visit.peak_count == 1


def test_the_end_of_the_source_ends_the_visit_once() -> None:
    visits = Visits("feeder", VisitSettings())
    visits.update(frame(0.0), [bird(1, 0, 0)])
    assert [change.kind for change in visits.finish()] == ["end"]
    assert visits.finish() == []


def test_birds_that_come_together_are_counted_in_the_first_alert() -> None:
    start, end = replay([(0.0, [bird(1, 0, 0), bird(2, 0, 0)])])
    assert (start.visit.peak_count, end.visit.peak_count) == (2, 2)


def test_another_cooling_down_holds_at_once() -> None:
    visits = Visits("feeder", VisitSettings(cooldown_s=3600.0))
    visits.update(frame(0.0), [bird(1, 0, 0)])
    assert [c.kind for c in visits.update(frame(10.0), [bird(2, 10, 10)])] == ["end"]
    visits.settings = VisitSettings(cooldown_s=5.0)
    assert [c.kind for c in visits.update(frame(11.0), [bird(2, 10, 11)])] == ["start"]


def test_where_looks_are_seldom_a_visit_needs_more_quiet_to_end() -> None:
    visits = Visits("feeder", VisitSettings(quiet_s=2.0))
    visits.update(frame(0.0), [bird(1, 0, 0)])
    assert visits.pass_time(5.0, least_gap_s=6.0) == []
    assert visits.update(frame(5.0), [], least_gap_s=6.0) == []
    assert [change.kind for change in visits.pass_time(6.1, least_gap_s=6.0)] == ["end"]
