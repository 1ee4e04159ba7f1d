"""The short form of the fault drill."""

from __future__ import annotations

from pathlib import Path

from drill_camera import FAULTS, drill


def test_the_loop_goes_on_after_each_kind_of_fault_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    outcome = drill(tmp_path / "orders", list(FAULTS), hold_s=(0.6, 0.8), read_s=2.0)
    assert outcome.complaint() is None
    assert outcome.reported >= {"lost", "size"}
