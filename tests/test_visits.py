from __future__ import annotations

import numpy as np
import pytest

from edgebird.structures import Frame, Track, TrackState, VisitChanged
from edgebird.visits import Visits, VisitSettings

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
    assert end.visit.ended_utc_s == pytest.approx(NOON_UTC_S + 4.0)


def test_it_ends_when_quiet_and_another_one_begins() -> None:
    steps = [(0.0, [bird(1, 0, 0)]), (2.0, []), (2.5, []), (10.0, [bird(2, 10, 10)])]
    changes = replay(steps)
    assert [change.kind for change in changes] == ["start", "end", "start", "end"]
    assert changes[0].visit.id != changes[2].visit.id


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


def test_the_end_of_the_source_ends_the_visit_once() -> None:
    visits = Visits("feeder", VisitSettings())
    visits.update(frame(0.0), [bird(1, 0, 0)])
    assert [change.kind for change in visits.finish()] == ["end"]
    assert visits.finish() == []
