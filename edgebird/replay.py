"""Replays a scenario through the whole loop, and counts what was found, missed and imagined."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from edgebird.camera.scenario import Stay
from edgebird.health import memory_mib
from edgebird.structures import Event, Frame, FrameProcessed, Health, VisitChanged

_DAY_S = 86400.0
# A visit may be reported a little before a bird is half inside the frame, and end a little late.
_SLACK_S = 2.0
# What the figures ask of: shorter visits need not be found.
_SHORTEST_S = 1.0


@dataclass
class Verdict:
    """What a replay came to.

    Args:
        visits: how many visits longer than a second there were; where it was stopped, until then.
        found: how many of them were reported.
        miscounted: how many of these with more than the one bird that came.
        missed_s: when the others began, in seconds from the beginning.
        false_s: when visits were reported that did not happen.
        false_minutes: for how long visits were reported while there was none.
        alert_delay_s: median time from a bird's coming into the picture to its alert.
        alert_delay_p95_s: the 95th percentile of that.
        hours: of scenario.
        frames: that were looked through.
        faults: begun, by name.
        degraded: reports that told of too little processor time, by what was done without; the
            board's own time counts even where the scenario's runs faster.
        memory_mib: of the process at the end of each day.
        took_s: real time.
        stopped: whether it was before the end of the script; what came later is not judged.
    """

    visits: int = 0
    found: int = 0
    miscounted: int = 0
    missed_s: list[float] = field(default_factory=list)
    false_s: list[float] = field(default_factory=list)
    false_minutes: float = 0.0
    alert_delay_s: float | None = None
    alert_delay_p95_s: float | None = None
    hours: float = 0.0
    frames: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    took_s: float = 0.0
    stopped: bool = False

    @property
    def recall(self) -> float:
        """Share of visits that were reported, 0 to 1."""
        return self.found / self.visits if self.visits else 1.0

    @property
    def false_per_hour(self) -> float:
        """Visits that were reported and did not happen, per hour of scenario."""
        return len(self.false_s) / self.hours if self.hours else 0.0

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return {
            "visits": self.visits,
            "found": self.found,
            "recall": round(self.recall, 4),
            "miscounted": self.miscounted,
            "missed_s": self.missed_s,
            "false_visits": len(self.false_s),
            "false_per_hour": round(self.false_per_hour, 4),
            "false_s": self.false_s,
            "false_minutes": round(self.false_minutes, 2),
            "alert_delay_s": self.alert_delay_s,
            "alert_delay_p95_s": self.alert_delay_p95_s,
            "hours": round(self.hours, 3),
            "frames": self.frames,
            "faults": self.faults,
            "degraded": self.degraded,
            "memory_mib": [round(value, 1) for value in self.memory_mib],
            "took_s": round(self.took_s, 1),
            "stopped": self.stopped,
        }

    def lines(self) -> list[str]:
        """The same for a person."""
        pace = self.hours * 3600 / self.took_s if self.took_s else 0.0
        delay = (
            ""
            if self.alert_delay_s is None
            else (
                f", alert after {self.alert_delay_s:.1f} s (95 %: {self.alert_delay_p95_s:.1f} s)"
            )
        )
        memory = " ".join(f"{value:.0f}" for value in self.memory_mib)
        stopped = "stopped before the end of the script; what came until then is judged"
        return [
            *([stopped] if self.stopped else []),
            f"{self.hours:.1f} h in {self.took_s:.0f} s ({pace:.0f} times as fast as real), "
            f"{self.frames} frames",
            f"visits: {self.found} of {self.visits} found{delay}",
            *([f"    missed at {_clock(at_s)}" for at_s in self.missed_s]),
            f"told with more than one bird: {self.miscounted}",
            f"false visits: {len(self.false_s)} ({self.false_per_hour:.3f} per hour), "
            f"{self.false_minutes:.1f} min reported without a bird",
            *([f"    at {_clock(at_s)}" for at_s in self.false_s]),
            f"faults reported: {_listed(self.faults) or 'none'}",
            *(
                [f"too little processor time, done without: {_listed(self.degraded)}"]
                if self.degraded
                else []
            ),
            *([f"memory at the end of each day, MiB: {memory}"] if memory else []),
        ]


class _Report(NamedTuple):
    """A visit as it was reported, in the time of the frames; ``told_s`` is when it first was."""

    start_s: float
    end_s: float
    told_s: float
    birds: int

    def belongs_to(self, stay: Stay) -> bool:
        """Whether it is about a scripted visit."""
        return self.start_s < stay.end_s + _SLACK_S and self.end_s > stay.start_s - _SLACK_S


class Judge:
    """A sink that compares what is reported with what happens in a scenario.

    Args:
        stays: the visits that are to be found.
    """

    def __init__(self, stays: list[Stay]) -> None:
        self._stays = [stay for stay in stays if stay.end_s - stay.start_s > _SHORTEST_S]
        self._all = stays
        self._frame: Frame | None = None
        self._reported: dict[str, _Report] = {}
        self._faults: tuple[str, ...] = ()
        self._verdict = Verdict()
        self._started_s = time.monotonic()

    def emit(self, event: Event) -> None:
        """Take note of it."""
        if isinstance(event, FrameProcessed):
            self._note_day(event.frame)
            self._frame = event.frame
            self._verdict.frames += 1
        elif isinstance(event, VisitChanged) and self._frame is not None:
            # UTC and the frames' time have a fixed distance
            offset_s = self._frame.utc_s - self._frame.monotonic_s
            visit = event.visit
            start_s = visit.started_utc_s - offset_s
            before = self._reported.get(visit.id)
            self._reported[visit.id] = _Report(
                start_s,
                start_s + visit.duration_s,
                self._frame.monotonic_s if before is None else before.told_s,
                visit.peak_count,
            )
        elif isinstance(event, Health):
            self._verdict.faults.update(set(event.faults) - set(self._faults))
            self._faults = event.faults
            if event.degraded:
                self._verdict.degraded[event.degraded] += 1

    def close(self) -> None:
        """Nothing is pending."""

    def verdict(self, *, stopped: bool = False) -> Verdict:
        """What it came to, after the end of the replay.

        Args:
            stopped: whether that was before the end of the script.
        """
        verdict = self._verdict
        verdict.stopped = stopped
        stays = self._stays
        if stopped:
            # a bird that nobody saw, or saw only come, was not missed
            last_s = -math.inf if self._frame is None else self._frame.monotonic_s
            stays = [stay for stay in stays if stay.end_s <= last_s + _SLACK_S]
        verdict.visits = len(stays)
        reported = sorted(self._reported.values())
        delays = []
        for stay in stays:
            told = [report for report in reported if report.belongs_to(stay)]
            if told:
                verdict.found += 1
                verdict.miscounted += any(report.birds > 1 for report in told)
                delays.append(max(told[0].told_s - stay.start_s, 0.0))
            else:
                verdict.missed_s.append(stay.start_s)
        verdict.false_s = [
            round(report.start_s, 1)
            for report in reported
            if not any(report.belongs_to(stay) for stay in self._all)
        ]
        verdict.false_minutes = sum(map(self._alone_s, reported)) / 60
        if delays:
            delays.sort()
            verdict.alert_delay_s = round(median(delays), 3)
            verdict.alert_delay_p95_s = round(delays[int(0.95 * (len(delays) - 1))], 3)
        if self._frame is not None:
            verdict.hours = self._frame.monotonic_s / 3600
        verdict.took_s = time.monotonic() - self._started_s
        return verdict

    def _alone_s(self, report: _Report) -> float:
        """For how long a visit was reported while there was none."""
        start_s, end_s = report.start_s, report.end_s
        shared_s = sum(
            max(min(end_s, stay.end_s + _SLACK_S) - max(start_s, stay.start_s - _SLACK_S), 0.0)
            for stay in self._all
        )
        return max(end_s - start_s - shared_s, 0.0)

    def _note_day(self, frame: Frame) -> None:
        last = self._frame
        if last is not None and frame.monotonic_s // _DAY_S > last.monotonic_s // _DAY_S:
            gc.collect()
            self._verdict.memory_mib.append(memory_mib())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _clock(seconds: float) -> str:
    day, within_s = divmod(seconds, _DAY_S)
    minutes, rest_s = divmod(within_s, 60)
    hours, minutes = divmod(minutes, 60)
    return f"day {day + 1:.0f}, {hours:02.0f}:{minutes:02.0f}:{rest_s:04.1f}"
