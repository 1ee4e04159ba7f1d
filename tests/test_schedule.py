"""Where the network looks, and that it keeps to its budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from edgebird.motion import Motion
from edgebird.schedule import Pace, ScanEverything, Schedule, ScheduleSettings
from edgebird.structures import Box, Frame, Track, TrackState
from edgebird.tiles import Region, scan_regions, tile_around

WHOLE = (0, 0, 640, 480)
IMAGE = np.zeros((480, 640, 3), np.uint8)


def frame(seconds: float) -> Frame:
    return Frame(IMAGE, 0, seconds, seconds, "test")


def moving(*boxes: Box) -> Motion:
    return Motion(np.array(boxes, np.float32).reshape(-1, 4), np.zeros((120, 160), bool), 0.25)


def bird_at(left: float, top: float, side: float) -> Track:
    box = (left, top, left + side, top + side)
    return Track(1, box, 0.9, 2, 0.0, 1.0, 0.9, TrackState.CONFIRMED)


def schedule(**settings: float) -> Schedule:
    return Schedule(ScheduleSettings(**settings))


def schedule_on_patrol(**settings: float) -> Schedule:
    """One that has looked at the whole frame and goes on with the first tile."""
    plan = schedule(**settings)
    assert plan.regions(frame(0), STILL, ()) == [WHOLE]
    return plan


STILL = Motion.none()


@pytest.mark.parametrize("fps", [1, 5, 30])
def test_without_motion_all_of_the_frame_is_looked_at_within_the_patrol_time(fps: int) -> None:
    plan = schedule(patrol_s=3.0, budget_ms_per_s=1000)
    seen: set[object] = set()
    looks = 0
    for index in range(3 * fps + 1):
        regions = plan.regions(frame(index / fps), STILL, ())
        plan.spent(len(regions), 10.0 * len(regions))
        seen |= set(regions)
        looks += len(regions)
    assert seen == set(scan_regions(640, 480))
    assert looks <= len(seen) + 2


def test_what_moves_is_looked_at_closely_right_after_the_whole_frame() -> None:
    regions = schedule_on_patrol().regions(frame(0), moving((400, 300, 430, 330)), ())
    assert regions[0] == WHOLE
    left, top, right, bottom = regions[1]
    assert left < 400
    assert top < 300
    assert right > 430
    assert bottom > 330
    assert right - left == 216  # 0.45 of the height: the closest look
    assert len(regions) == 3  # and one of the patrol


def test_small_birds_are_followed_closely_and_large_ones_in_the_whole_frame() -> None:
    assert len(schedule_on_patrol().regions(frame(0), STILL, [bird_at(400, 300, 30)])) == 3
    assert len(schedule_on_patrol().regions(frame(0), STILL, [bird_at(100, 100, 300)])) == 2


@pytest.mark.parametrize(
    "places",
    [
        [(300, 200), (340, 210), (280, 220)],
        # at a border, where no tile has them in its middle
        [(2, 200), (5, 240), (0, 220)],
        [(608, 200), (605, 240), (610, 220)],
        [(300, 448), (340, 445), (320, 450)],
    ],
)
def test_one_close_look_serves_birds_that_sit_together(places: list[tuple[float, float]]) -> None:
    birds = [bird_at(x, y, 30) for x, y in places]
    assert len(schedule_on_patrol().regions(frame(0), STILL, birds)) == 3


CORNERS_AND_MIDDLE = [(20, 20), (590, 20), (20, 430), (590, 430), (305, 225)]


def flock() -> list[Track]:
    return [
        Track(number, (x, y, x + 30, y + 30), 0.9, 2, 0.0, 1.0, 0.9, TrackState.CONFIRMED)
        for number, (x, y) in enumerate(CORNERS_AND_MIDDLE)
    ]


def shows(regions: list[Region], box: Box) -> bool:
    """Whether a close look shows all of a box."""
    return any(
        right - left == 216 and left <= box[0] and top <= box[1] and right >= box[2]
        for left, top, right, bottom in regions
        if bottom >= box[3]
    )


def test_small_birds_that_sit_apart_get_their_close_looks_in_turn() -> None:
    plan, birds = schedule(budget_ms_per_s=5000), flock()
    seen = []
    for index in range(20):
        regions = plan.regions(frame(index / 2), STILL, birds)
        plan.spent(len(regions), 20.0 * len(regions))
        seen.append([shows(regions, bird.xyxy) for bird in birds])
    # each of them in every second frame at least
    assert (np.array(seen[1:]) | np.array(seen[:-1])).all()


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        # two in one corner, birds in the others and in the middle
        (
            (640, 480),
            [(2, 2, 27, 27), (40, 4, 65, 29)]
            + [(x, y, x + 25, y + 25) for x, y in CORNERS_AND_MIDDLE[1:]],
        ),
        # two that are longer than the tile is wide, in the lower corner of a strip
        (
            (2400, 300),
            [(0, 210, 250, 240), (0, 250, 250, 290)]
            + [(x, 140, x + 25, 165) for x in (600, 1200, 1800)],
        ),
    ],
)
def test_birds_that_share_a_tile_take_one_turn_together(
    size: tuple[int, int], boxes: list[Box]
) -> None:
    assert tile_around(boxes[0], *size) == tile_around(boxes[1], *size)
    birds = [
        Track(number, box, 0.9, 2, 0.0, 1.0, 0.9, TrackState.CONFIRMED)
        for number, box in enumerate(boxes)
    ]
    plan, image = schedule(budget_ms_per_s=5000), np.zeros((size[1], size[0], 3), np.uint8)
    looks = np.zeros(len(birds))
    for index in range(40):
        regions = plan.regions(Frame(image, 0, index / 2, 0.0, "test"), STILL, birds)
        plan.spent(len(regions), 20.0 * len(regions))
        looks += [tile_around(box, *size) in regions for box in boxes]
    assert looks.max() - looks.min() <= 2


def test_with_little_time_close_looks_go_round_as_well() -> None:
    plan, birds = schedule(budget_ms_per_s=200), flock()  # the whole frame and a close look
    plan.regions(frame(0), STILL, ())
    plan.spent(1, 400)
    seen = np.zeros(len(birds))
    for index in range(1, 51):
        regions = plan.regions(frame(index / 5), STILL, birds)
        plan.spent(len(regions), 20.0 * len(regions))
        seen += [shows(regions, bird.xyxy) for bird in birds]
    assert seen.min() >= 8


def test_one_close_look_is_kept_for_what_no_bird_explains() -> None:
    newcomer = (480.0, 225.0, 510.0, 255.0)
    birds = flock()
    regions = schedule_on_patrol().regions(frame(0), moving(birds[4].xyxy, newcomer), birds)
    assert shows(regions, newcomer)
    assert sum(right - left == 216 for left, _, right, _ in regions) == 3


def test_a_bird_is_not_gone_before_the_next_look_of_a_slow_board() -> None:
    pace = Pace()
    assert pace.gap_s == 0.5
    for index in range(50):
        pace.look(index / 10)
        assert pace.gap_s == 0.5


def test_a_bird_may_be_out_of_sight_at_one_look_however_seldom_they_are() -> None:
    pace = Pace()
    for seconds in (0.0, 5.0, 10.0):
        pace.look(seconds)
    assert 10 < pace.gap_s < 15
    # they come in fits and starts
    pace.look(10.1)
    assert pace.gap_s > 10
    pace.look(10.2)
    pace.look(10.3)
    assert pace.gap_s == 0.5


def test_a_night_says_nothing_of_the_pace() -> None:
    pace = Pace()
    pace.look(0.0)
    pace.look(2.0)
    gap_s = pace.gap_s
    pace.pause()
    pace.look(40_000.0)
    assert pace.gap_s == gap_s


def test_a_break_in_a_recording_says_nothing_of_the_pace() -> None:
    pace = Pace()
    for seconds in (0.0, 0.2, 0.4, 10_000.0, 10_000.2, 20_000.0):
        pace.frame(seconds)
        pace.look(seconds)
        assert pace.gap_s == 0.5
    # from now on they come so seldom
    for seconds in (30_000.0, 40_000.0):
        pace.frame(seconds)
        pace.look(seconds)
    assert pace.gap_s > 10_000


def test_frames_that_always_come_seldom_are_no_breaks() -> None:
    pace = Pace()
    for seconds in (0.0, 1000.0, 2000.0):
        pace.frame(seconds)
        pace.look(seconds)
        assert seconds == 0 or pace.gap_s == 2500


def test_after_motion_it_stays_alert_for_a_moment() -> None:
    plan = schedule(patrol_s=60)
    plan.regions(frame(0.0), moving((10, 10, 40, 40)), ())
    assert WHOLE in plan.regions(frame(0.8), STILL, ())
    assert plan.regions(frame(1.2), STILL, ()) == []


def test_a_change_of_light_is_a_reason_to_look() -> None:
    plan = schedule_on_patrol()
    assert plan.regions(frame(0.1), STILL, ()) == []
    assert WHOLE in plan.regions(frame(0.2), replace(STILL, light_changed=True), ())


def spend(plan: Schedule, ms_per_region: float, seconds: float, fps: float) -> tuple[float, int]:
    """Time spent, in ms, and frames looked at while birds are there all the time."""
    spent, looked = 0.0, 0
    for index in range(round(seconds * fps)):
        regions = plan.regions(frame(index / fps), STILL, [bird_at(400, 300, 30)])
        plan.spent(len(regions), ms_per_region * len(regions))
        spent += ms_per_region * len(regions)
        looked += bool(regions)
    return spent, looked


@pytest.mark.parametrize("ms_per_region", [6, 40, 150, 700])
def test_the_budget_is_kept_however_slow_the_board(ms_per_region: float) -> None:
    spent, _ = spend(schedule(budget_ms_per_s=500), ms_per_region, seconds=60, fps=10)
    # two seconds' worth are saved up at the beginning
    assert spent <= 500 * 62 + ms_per_region


def test_a_fast_board_does_all_and_a_slow_one_does_without_patrol_and_then_frames() -> None:
    fast, slow, slowest = schedule(), schedule(), schedule()
    _, looked = spend(fast, 6, 20, fps=10)
    assert (fast.degraded, looked) == (None, 200)
    _, looked = spend(slow, 20, 20, fps=10)
    assert (slow.degraded, looked) == ("patrol", 200)
    _, looked = spend(slowest, 150, 20, fps=10)
    assert slowest.degraded == "rate"
    assert 40 < looked < 100


@pytest.mark.parametrize(("budget", "ms_per_region"), [(500, 2600), (100, 250), (50, 110), (5, 6)])
def test_looks_that_cost_more_than_can_be_saved_up_come_seldom_and_do_not_end(
    budget: float, ms_per_region: float
) -> None:
    plan = schedule(budget_ms_per_s=budget)
    spend(plan, ms_per_region, 600, fps=5)
    assert plan.degraded == "rate"
    looks = 0
    for index in range(300 * 5):
        regions = plan.regions(frame(600 + index / 5), STILL, [bird_at(400, 300, 30)])
        plan.spent(len(regions), ms_per_region * len(regions))
        looks += len(regions)
    assert 0.8 <= looks * ms_per_region / (300 * budget) <= 1.1


def test_the_patrol_of_a_slow_board_leaves_no_stop_out() -> None:
    plan = schedule(budget_ms_per_s=60, patrol_s=1.0)
    looks = Counter[Region]()
    for index in range(1200):
        regions = plan.regions(frame(index / 5), STILL, ())
        plan.spent(len(regions), 100.0 * len(regions))
        looks.update(regions)
    assert looks.keys() == set(scan_regions(640, 480))
    assert max(looks.values()) <= 2 * min(looks.values())


def test_it_recovers_when_there_is_less_to_do() -> None:
    plan = schedule()
    spend(plan, 200, 20, fps=10)
    for index in range(60):
        regions = plan.regions(frame(30 + index / 10), STILL, ())
        plan.spent(len(regions), 6.0 * len(regions))
    assert plan.degraded is None


def test_sources_that_wait_are_scanned_completely() -> None:
    plan = ScanEverything()
    assert plan.regions(frame(0), STILL, ()) == scan_regions(640, 480)
    assert plan.degraded is None
