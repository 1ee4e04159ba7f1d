"""A camera that does not move knows more than one picture shows."""

from __future__ import annotations

import numpy as np
import pytest
from test_tracker import found, square

from edgebird.evidence import Evidence, EvidenceSettings
from edgebird.motion import Motion
from edgebird.structures import Box

SETTINGS = EvidenceSettings(motion_bonus=0.7, still_penalty=3.0, still_after_s=60.0)
PERCH, ELSEWHERE = square(100, 100, 40), square(300, 200, 40)


def moving_at(*boxes: Box, light_changed: bool = False) -> Motion:
    moving = np.zeros((120, 160), bool)
    for left, top, right, bottom in boxes:
        moving[round(top / 4) : round(bottom / 4), round(left / 4) : round(right / 4)] = True
    return Motion(np.array(boxes, np.float32).reshape(-1, 4), moving, 0.25, light_changed)


STILL = moving_at()


class Place:
    """Looked at every second."""

    def __init__(self) -> None:
        self.evidence = Evidence(SETTINGS)
        self.seconds = 0

    def look(self, box: Box, score: float, motion: Motion = STILL, times: int = 1) -> float:
        for _ in range(times):
            self.seconds += 1
            weighed = self.evidence.weigh(found((box, score)), motion, float(self.seconds))
        return float(weighed.score[0])


def test_what_moves_counts_for_more_and_the_rest_stays_as_it_is() -> None:
    birds = found((PERCH, 0.5), (ELSEWHERE, 0.55))
    weighed = Evidence(SETTINGS).weigh(birds, moving_at(PERCH), 0.0)
    assert weighed.xyxy[0].tolist() == list(PERCH)
    assert weighed.score.tolist() == pytest.approx([0.668, 0.55], abs=1e-3)


def test_motion_lifts_what_reaches_the_floor_to_the_threshold() -> None:
    evidence = Evidence(SETTINGS)
    floor = evidence.floor(0.6)
    assert floor < 0.6
    weighed = evidence.weigh(found((PERCH, floor)), moving_at(PERCH), 0.0)
    assert weighed.score[0] == pytest.approx(0.6, abs=1e-4)


def test_a_change_of_light_says_nothing() -> None:
    motion = moving_at(PERCH, light_changed=True)
    assert Place().look(PERCH, 0.5, motion) == pytest.approx(0.5)


def test_what_is_known_of_a_place_holds_in_other_light() -> None:
    place = Place()
    place.look(PERCH, 0.9, times=120)
    known = place.look(PERCH, 0.9)
    assert known < 0.4
    assert place.look(PERCH, 0.9, moving_at(PERCH, light_changed=True)) == pytest.approx(known)
    assert place.look(ELSEWHERE, 0.9, moving_at(PERCH, light_changed=True)) == pytest.approx(0.9)
    # nor was anything learnt from it
    assert place.look(PERCH, 0.9) == pytest.approx(known)


def test_what_never_moves_counts_for_less_and_less() -> None:
    place = Place()
    assert place.look(PERCH, 0.8, times=55) == pytest.approx(0.8)
    assert 0.3 < place.look(PERCH, 0.8, times=35) < 0.7
    assert place.look(PERCH, 0.8, times=60) == pytest.approx(0.166, abs=0.01)
    # only there
    assert place.look(ELSEWHERE, 0.8) == pytest.approx(0.8)


def test_a_bird_that_came_and_then_keeps_still_is_believed_for_minutes() -> None:
    place = Place()
    place.look(PERCH, 0.8, moving_at(PERCH), times=2)
    assert place.look(PERCH, 0.8, times=300) == pytest.approx(0.8)


def test_a_bird_at_a_known_perch_is_believed_while_it_stirs() -> None:
    place = Place()
    place.look(PERCH, 0.8, times=200)
    assert place.look(PERCH, 0.8, moving_at(PERCH)) > 0.8
    assert place.look(PERCH, 0.8, times=50) == pytest.approx(0.8)
    # and when it has gone, the knot is not taken for it for long
    assert place.look(PERCH, 0.8, times=70) < 0.2


def test_time_that_nobody_looked_does_not_count() -> None:
    place = Place()
    for _ in range(20):
        place.seconds += 60
        score = place.look(PERCH, 0.8)
    assert score == pytest.approx(0.8)


def test_its_memory_is_bounded() -> None:
    place = Place()
    for x in range(300):
        place.look(square(50 * x, 10, 20), 0.7)
    assert len(place.evidence._places) <= 64
    for _ in range(125):  # an hour and more, of looks
        place.seconds += 29
        place.look(PERCH, 0.7)
    assert len(place.evidence._places) == 1


def test_a_place_that_is_seen_again_and_again_is_not_forgotten() -> None:
    place = Place()
    known = place.look(PERCH, 0.9, times=200)
    for _ in range(130):  # an hour and more
        place.seconds += 28
        assert place.look(PERCH, 0.9) == pytest.approx(known)


def test_what_was_not_seen_for_longest_makes_room() -> None:
    place = Place()
    for x in range(63):
        place.look(square(50 * x, 10, 20), 0.7)
    known = place.look(PERCH, 0.9, times=120)
    for x in (9000, 9100):
        place.look(square(x, 10, 20), 0.7)
    assert place.look(PERCH, 0.9) == pytest.approx(known, abs=0.02)


def test_a_place_is_followed_where_it_sways_to() -> None:
    place = Place()
    for step in range(200):
        score = place.look(square(100 + step / 2, 100, 40), 0.9)
    assert score < 0.4


def test_what_is_known_of_a_place_outlasts_a_night_in_which_nobody_looks() -> None:
    place = Place()
    known = place.look(PERCH, 0.9, times=120)
    place.seconds += 14 * 3600
    assert place.look(PERCH, 0.9) == pytest.approx(known)


def test_after_a_reset_no_place_is_known() -> None:
    place = Place()
    place.look(PERCH, 0.9, times=120)
    place.evidence.reset()
    assert place.look(PERCH, 0.9) == pytest.approx(0.9)
