"""All checks in their order, and their findings as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

import edgebird
from edgebird.doctor import Check, Examination, parts, system

_BROKER_CURE = "check url, user and password under [mqtt], or --mqtt, and the broker's own log"

EXAMINATIONS = (
    Examination("python", parts.python, 40),
    Examination("board", system.board),
    Examination("settings", parts.settings, exit_code=2),
    Examination("model", parts.model, 60, 4, "install edgebird again, or give another --model"),
    Examination("permissions", parts.permissions, exit_code=3),
    Examination("camera", parts.camera, 60, 3, "`edgebird cameras` lists what is here"),
    Examination("light", parts.light),
    Examination("broker", parts.broker, 60, 5, _BROKER_CURE),
    Examination("home assistant", parts.home_assistant, 30, 5, _BROKER_CURE),
    Examination("clock", system.clock),
    Examination("wi-fi", system.wifi),
    Examination("disk", system.disk, exit_code=6),
    Examination("card", system.card),
    Examination("power", system.power),
    Examination("temperature", system.temperature),
    Examination("service", system.service),
    Examination("recent errors", system.recent_errors),
)

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": None}


def check_lines(name: str, check: Check) -> list[str]:
    """A finding for the terminal."""
    first, *more = check.found.splitlines() or [""]
    state = click.style(
        f"{check.state:<5}", fg=_COLOURS[check.state], bold=check.state == "fail" or None
    )
    indent = " " * 21
    lines = [f"{state} {name:<14} {first}", *(indent + line for line in more)]
    return lines + ([f"{indent}-> {check.cure}"] if check.cure else [])


def as_json(findings: Sequence[tuple[Examination, Check]]) -> dict[str, Any]:
    """All findings as one JSON object."""
    return {
        "edgebird": edgebird.__version__,
        "checks": [
            {"name": e.name, "state": check.state, "found": check.found, "cure": check.cure}
            for e, check in findings
        ],
    }


def exit_code(findings: Sequence[tuple[Examination, Check]]) -> int:
    """That of the first check that failed, 0 if none did."""
    return next((e.exit_code for e, check in findings if check.state == "fail"), 0)
