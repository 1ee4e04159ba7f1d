"""Scenarios are drawn as they are written, and what is made of them is judged rightly."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebird.camera.scenario import (
    Scenario,
    ScenarioCamera,
    ScriptedEvent,
    load_scenario,
    week,
)
from edgebird.errors import CameraError, ConfigError
from edgebird.replay import Judge
from edgebird.structures import Detections, Frame, FrameProcessed, Health, Silence, Visit
from edgebird.structures import VisitChanged as Changed

SCRIPT = """
days = 0.002
fps = 5
quiet_fps = 0.5
[[event]]
kind = "visit"
at_s = 30.0
for_s = 6.0
[[event]]
kind = "light"
at_s = 60.0
for_s = 5.0
strength = 0.5
[[event]]
kind = "lost"
at_s = 90.0
for_s = 10.0
[[event]]
kind = "frozen"
at_s = 120.0
for_s = 4.0
"""


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[Frame | Silence]:
    path = tmp_path_factory.mktemp("scenario") / "script.toml"
    path.write_text(SCRIPT)
    return list(ScenarioCamera(load_scenario(path)).frames())


def during(moments: list[Frame | Silence], start_s: float, end_s: float) -> list[Frame]:
    return [m for m in moments if isinstance(m, Frame) and start_s <= m.monotonic_s < end_s]


def test_frames_come_often_while_something_happens_and_seldom_else(
    moments: list[Frame | Silence],
) -> None:
    assert len(during(moments, 30, 36)) == pytest.approx(30, abs=1)
    assert len(during(moments, 150, 170)) == pytest.approx(10, abs=1)
    times = [moment.monotonic_s for moment in moments]
    assert all(before < after for before, after in pairwise(times))
    assert times[-1] == pytest.approx(0.002 * 86400, abs=2.1)


def test_a_visit_shows_a_bird_and_the_rest_is_empty(moments: list[Frame | Silence]) -> None:
    frames = during(moments, 24, 40)
    table = np.s_[240:400]
    empty = frames[0].image[table].astype(int)
    change = [np.abs(frame.image[table] - empty).mean() for frame in frames]
    shown = [
        frame.monotonic_s
        for frame, value in zip(frames, change, strict=True)
        if value > np.median(change[:20]) + 1
    ]
    assert (shown[0], shown[-1]) == pytest.approx((30.4, 35.7), abs=0.6)


def test_light_loss_and_frost_are_shown(moments: list[Frame | Silence]) -> None:
    before, after = during(moments, 58, 60)[0].image.mean(), during(moments, 61, 64)[0].image.mean()
    assert after == pytest.approx(before / 2, rel=0.05)
    silences = [m for m in moments if isinstance(m, Silence)]
    assert len(silences) == 10
    assert all(silence.lost for silence in silences)
    assert during(moments, 90, 99.5) == []
    frozen = [frame.image for frame in during(moments, 120.5, 123.5)]
    assert all((image == frozen[0]).all() for image in frozen)


def test_the_same_scenario_is_drawn_the_same_again() -> None:
    event = ScriptedEvent(kind="visit", at_s=2.0, for_s=2.0)
    scenario = Scenario(days=5 / 86400, fps=4, seed=3, event=(event,))
    one, two = (list(ScenarioCamera(scenario).frames()) for _ in "12")
    assert len(one) == len(two) > 15
    assert all(
        (a.image == b.image).all()
        for a, b in zip(one, two, strict=True)
        if isinstance(a, Frame) and isinstance(b, Frame)
    )


def test_visits_by_lot_are_by_day_and_apart_from_one_another_and_from_losses() -> None:
    scenario = week(days=3)
    camera = ScenarioCamera(scenario)
    assert len(camera.stays) > 60
    for before, after in pairwise(camera.stays):
        assert after.start_s - before.end_s > 10
    for stay in camera.stays:
        assert 6 * 3600 < stay.start_s % 86400 < 21 * 3600
        for event in scenario.event:
            if event.kind in ("lost", "frozen"):
                assert stay.end_s < event.at_s or stay.start_s > event.end_s


def test_visits_that_are_not_over_within_the_days_do_not_take_place() -> None:
    events = [ScriptedEvent(kind="visit", at_s=at_s, for_s=3.0) for at_s in (2.0, 8.0, 90_000.0)]
    camera = ScenarioCamera(Scenario(days=10 / 86400, fps=2, event=tuple(events)))
    assert [(stay.start_s, stay.end_s) for stay in camera.stays] == [(2.0, 5.0)]
    frames = during(list(camera.frames()), 0, 10)
    first, last = (frame.image.astype(int) for frame in (frames[0], frames[-1]))
    assert frames[-1].monotonic_s > 9
    assert np.abs(last - first).max() < 40  # noise, and no bird


def test_nights_are_dark() -> None:
    camera = ScenarioCamera(Scenario(days=1, night=(21.0, 5.5), quiet_fps=1 / 7200))
    light = {
        round(frame.monotonic_s / 3600): frame.image.mean()
        for frame in camera.frames()
        if isinstance(frame, Frame)
    }
    assert max(light[hour] for hour in (0, 2, 4, 22)) < 5
    assert min(light[hour] for hour in (8, 12, 18)) > 60


def test_a_night_may_begin_after_midnight() -> None:
    night = (0.5, 4.5)
    for stay in ScenarioCamera(Scenario(days=3, visits_per_day=30, night=night)).stays:
        assert 5.5 * 3600 <= stay.start_s % 86400 <= 23.5 * 3600
    hours = range(0, 24, 2)
    camera = ScenarioCamera(Scenario(days=1, night=(23.0, 5.0), quiet_fps=1 / 7200))
    later = ScenarioCamera(Scenario(days=1, night=(1.0, 7.0), quiet_fps=1 / 7200))
    evening, small_hours = (
        {round(f.monotonic_s / 3600): f.image.mean() for f in c.frames() if isinstance(f, Frame)}
        for c in (camera, later)
    )
    assert [hour for hour in hours if evening[hour] < 5] == [0, 2, 4]
    assert [hour for hour in hours if small_hours[hour] < 5] == [2, 4, 6]


def test_pictures_of_a_real_feeder_can_be_the_scene(tmp_path: Path) -> None:
    for folder, shade in (("empty", 60), ("bird", 160)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), np.full((90, 120, 3), shade, np.uint8))
    event = ScriptedEvent(kind="visit", at_s=20.0, for_s=5.0)
    scenario = Scenario(days=0.0005, pictures=str(tmp_path), event=(event,))
    frames = [f for f in ScenarioCamera(scenario).frames() if isinstance(f, Frame)]
    assert frames[0].size == (120, 90)
    bright = [f.monotonic_s for f in frames if f.image.mean() > 100]
    assert (bright[0], bright[-1]) == pytest.approx((20.0, 24.8), abs=0.3)
    with pytest.raises(CameraError, match="nowhere"):
        next(ScenarioCamera(Scenario(pictures=str(tmp_path / "nowhere"))).frames())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("dayz = 1", "dayz"),
        ("days = 100.0", "days"),
        ('[[event]]\nkind = "rain"\nat_s = 1.0\nfor_s = 1.0', "kind"),
        ("[[event", "script.toml"),
        ("night = [21.0, 25.0]", "night"),
        ("night = [7.0, 6.0]\nvisits_per_day = 4\n", "night"),
    ],
)
def test_a_wrong_scenario_is_one_clear_line(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=place) as caught:
        load_scenario(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        load_scenario(tmp_path / "none.toml")


# the judge


def frame_at(seconds: float) -> FrameProcessed:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), 0, seconds, 1000 + seconds, "scenario")
    return FrameProcessed("replay", frame, Detections.none(), (), 1.0)


def visit(number: int, start_s: float, duration_s: float, *, ended: bool, birds: int) -> Changed:
    end = 1000 + start_s + duration_s if ended else None
    box = (0.0, 0.0, 1.0, 1.0)
    value = Visit(str(number), "replay", 1000 + start_s, duration_s, end, birds, 0.9, box, (2, 2))
    return Changed("end" if ended else "start", value)


def test_the_judge_counts_found_missed_and_false_visits_and_delays() -> None:
    events = [ScriptedEvent(kind="visit", at_s=at_s, for_s=5.0) for at_s in (10.0, 50.0, 90.0)]
    short = ScriptedEvent(kind="visit", at_s=120.0, for_s=0.5)
    scenario = Scenario(days=0.01, event=(*events, short))
    judge = Judge(ScenarioCamera(scenario).stays)
    reported = [(10.4, 10.8, 4), (52, 54, 2), (200, 201, 60)]
    for number, (start_s, told_s, seconds) in enumerate(reported):
        judge.emit(frame_at(told_s))
        judge.emit(visit(number, start_s, 0.4, ended=False, birds=1))
        judge.emit(frame_at(start_s + seconds + 3))
        judge.emit(visit(number, start_s, seconds, ended=True, birds=1 + number))
    judge.emit(Health(camera="replay", utc_s=0, faults=("lost",)))
    judge.emit(Health(camera="replay", utc_s=1, faults=("lost",)))
    judge.emit(Health(camera="replay", utc_s=2, degraded="patrol"))
    judge.emit(frame_at(3600.0))
    verdict = judge.verdict()
    assert (verdict.visits, verdict.found, verdict.missed_s) == (3, 2, [90.0])
    assert verdict.miscounted == 1
    assert verdict.false_s == [200.0]
    assert verdict.false_minutes == pytest.approx(1.0)
    assert verdict.false_per_hour == pytest.approx(1.0)
    assert verdict.alert_delay_s == pytest.approx(2.4)
    assert verdict.faults == {"lost": 1}
    assert verdict.degraded == {"patrol": 1}
    assert "missed at day 1, 00:01:30" in "\n".join(verdict.lines())
    assert verdict.as_json()["recall"] == pytest.approx(0.6667)


def test_what_comes_after_the_last_frame_is_not_judged() -> None:
    events = [ScriptedEvent(kind="visit", at_s=at_s, for_s=5.0) for at_s in (10.0, 50.0, 90.0)]
    judge = Judge(ScenarioCamera(Scenario(days=0.01, event=tuple(events))).stays)
    judge.emit(frame_at(11.0))
    judge.emit(visit(0, 10.4, 0.4, ended=False, birds=1))
    judge.emit(frame_at(52.0))
    judge.emit(visit(1, 50.4, 1.4, ended=True, birds=1))
    verdict = judge.verdict(stopped=True)
    # the second bird was still there: neither found nor missed, nor told for nothing
    assert (verdict.visits, verdict.found) == (1, 1)
    assert (verdict.missed_s, verdict.false_s) == ([], [])
    assert verdict.lines()[0].startswith("stopped before the end")
    assert verdict.as_json()["stopped"] is True
    unseen = Judge([]).verdict()
    assert (unseen.visits, unseen.recall, unseen.stopped) == (0, 1.0, False)
    assert not any("stopped" in line for line in unseen.lines())


def test_a_replay_knows_whether_it_was_stopped() -> None:
    camera = ScenarioCamera(Scenario(days=0.001, quiet_fps=0.1))
    assert len(list(camera.frames())) > 5
    camera.close()  # as is done after each replay
    assert not camera.stopped
    camera = ScenarioCamera(Scenario(days=0.001, quiet_fps=0.1))
    for _ in camera.frames():
        camera.close()
    assert camera.stopped
