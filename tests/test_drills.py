"""Short forms of the drills; the long ones are commands, see drills.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from drills import run_cost, run_delivery, run_outage, run_peer


def test_every_alert_arrives_in_order_whoever_is_killed(tmp_path: Path) -> None:
    report = run_delivery(tmp_path, events=120, kills=2, per_s=100.0, seed=1)
    assert (report.missing, report.out_of_order) == ([], 0)
    assert report.outbox_intact
    # What was under way may come twice: a window of 20 for each connection that ended.
    assert report.duplicates <= 20 * (report.edgebird_kills + report.broker_kills + 1)


def test_after_a_long_outage_new_alerts_do_not_wait_for_the_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = run_outage(tmp_path, visits=260)
    assert report.missing == 0
    assert report.slowest_live_s < report.drained_s
    assert report.age_told
    assert "520 alerts waited for the MQTT broker" in caplog.text


def test_nobody_changes_anything_but_by_a_valid_command(tmp_path: Path) -> None:
    report = run_peer(tmp_path, messages=1500)
    assert report.wrongly_changed == 0
    assert report.valid == report.obeyed > 0
    assert report.still_serves


def test_the_loop_hardly_waits_for_what_it_publishes(tmp_path: Path) -> None:
    # How long is measured by the command; here it must only not be the time of a network or a disk.
    assert run_cost(tmp_path, frames=100).median_ms < 50
