"""Alerts as lines for a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TextIO

from edgebird.structures import Event, VisitChanged


class ConsoleSink:
    """Writes a line when a visit starts and when it ends; frames pass silently.

    Args:
        stream: written to and flushed, not closed.
        times: begin each line with the time of day.
    """

    def __init__(self, stream: TextIO, *, times: bool = True) -> None:
        self._stream = stream
        self._times = times

    def emit(self, event: Event) -> None:
        """Write a visit's line.

        Raises:
            BrokenPipeError: nobody reads the stream any more.
        """
        if isinstance(event, VisitChanged):
            visit = event.visit
            utc_s = visit.started_utc_s if visit.ended_utc_s is None else visit.ended_utc_s
            line = visit_line(
                event.kind,
                datetime.fromtimestamp(utc_s, UTC) if self._times else None,
                visit.camera,
                duration_s=visit.duration_s,
                peak_count=visit.peak_count,
                score=visit.best_score,
                snapshot=visit.snapshot,
            )
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing is pending."""


def visit_line(
    kind: Literal["start", "end"],
    moment: datetime | None,
    place: str,
    *,
    duration_s: float,
    peak_count: int,
    score: float,
    snapshot: str | None,
) -> str:
    """One line that tells of a visit's start or end, in local time; None leaves the time out."""
    line = f"{place}  " if moment is None else f"{moment.astimezone():%H:%M:%S}  {place}  "
    if kind == "start":
        return line + f"bird arrived (score {score:.2f})"
    birds = "1 bird" if peak_count == 1 else f"{peak_count} birds"
    line += f"visit over after {duration_s:.0f} s, up to {birds}, best shot's score {score:.2f}"
    return line if snapshot is None else f"{line}, picture {snapshot}"
