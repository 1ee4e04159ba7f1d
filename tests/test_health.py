"""Health is reported now and then, and at once when a fault begins or ends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgebird.disk import DiskUse
from edgebird.health import HealthReporter, memory_mib, private_mib, temperature_c
from edgebird.structures import Frame, Health, Silence

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Live:
    dropped = 7
    process_id = os.getpid()


def reports(reporter: HealthReporter, faults: dict[int, tuple[str, ...]]) -> dict[int, Health]:
    """Two minutes at one frame a second; the faults that begin in some of them."""
    made, now = {}, ()
    for second in range(120):
        now = faults.get(second, now)
        frame = Frame(IMAGE, second, float(second), 1000.0 + second, "cam")
        reporter.frame(frame, 5.0 + second % 3, 10.0)
        if health := reporter.report(frame, faults=now):
            made[second] = health
    return made


def test_a_report_comes_each_half_minute() -> None:
    made = reports(HealthReporter("cam"), {})
    assert list(made) == [0, 30, 60, 90]
    health = made[60]
    assert (health.camera, health.utc_s, health.faults) == ("cam", 1060.0, ())
    assert health.fps == 1.0
    assert health.inference_ms == 6.0
    assert health.detect_ms_per_s == 10.0
    assert health.frame_age_s is None
    assert health.memory_mib is not None
    assert health.memory_mib > 10


def test_the_begin_and_the_end_of_a_fault_are_reported_at_once() -> None:
    made = reports(HealthReporter("cam"), {40: ("frozen",), 45: ()})
    assert list(made) == [0, 30, 40, 45, 75, 105]
    assert made[40].faults == ("frozen",)
    assert made[45].faults == ()


def test_silence_is_reported_with_its_reason() -> None:
    reporter = HealthReporter("cam")
    reporter.report(Frame(IMAGE, 0, 0.0, 0.0, "cam"), faults=())
    lost = Silence(1.0, 1.0, lost=True, error="the cable is loose")
    health = reporter.report(lost, faults=("lost",))
    assert health is not None
    assert health.last_error == "the cable is loose"


def test_a_live_camera_adds_its_drops_and_the_memory_of_its_process() -> None:
    alone = HealthReporter("cam").report(Frame(IMAGE, 0, 0.0, 0.0, "cam"), faults=())
    live = HealthReporter("cam", live=Live())
    frame = Frame(IMAGE, 0, 0.0, 0.0, "cam")
    live.frame(frame, None, 0.0)
    health = live.report(frame, faults=())
    assert alone is not None
    assert health is not None
    assert health.dropped_frames == 7
    assert health.frame_age_s is not None
    assert alone.memory_mib is not None
    assert health.memory_mib is not None
    assert health.memory_mib > alone.memory_mib


def test_what_is_kept_and_written_is_told_and_a_failing_disk_at_once() -> None:
    written = 0
    disk = DiskUse(written=lambda: written, now_s=lambda: 7200.0)
    disk.restore({1: 500_000})
    disk.used_mb, written = 3.0, 1_000_000
    reporter = HealthReporter("cam", disk=disk)

    def report(second: int) -> Health | None:
        return reporter.report(Frame(IMAGE, 0, float(second), 0.0, "cam"), faults=())

    health = report(0)
    assert health is not None
    assert (health.disk_used_mb, health.written_mb_per_day) == (3.0, 1.5)
    assert (health.disk_problem, health.last_error) == (None, None)
    assert report(1) is None
    disk.fail("visits", "the disk is full")
    health = report(2)
    assert health is not None
    assert (health.disk_problem, health.last_error) == ("the disk is full",) * 2
    assert report(3) is None
    disk.recover("visits", "it is not")
    health = report(4)
    assert health is not None
    assert (health.disk_problem, health.last_error) == (None, "the disk is full")


def test_what_the_system_does_not_tell_is_none_or_nothing(tmp_path: Path) -> None:
    assert temperature_c(tmp_path / "none") is None
    (tmp_path / "temp").write_text("48312\n")
    assert temperature_c(tmp_path / "temp") == 48.312
    assert private_mib(2**22 + 1) == 0.0
    assert 0 < private_mib(os.getpid()) <= memory_mib() + 1
