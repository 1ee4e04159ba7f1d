"""When birds come: visits by hour of the day and by day, in a terminal and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np

from edgebird.errors import OutputError
from edgebird.structures import Image

_DAYS_IN_TERMINAL = 31
_DAYS_IN_PICTURE = 366
_EIGHTHS = "▏▎▍▌▋▊▉█"

_WIDTH_PX, _PANEL_PX = 1200, 420
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 80, 30, 60, 60
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PALE, _BAR = (50, 50, 50), (225, 225, 225), (70, 130, 60)


def counts_by_hour(starts: Sequence[float]) -> list[int]:
    """How many visits started in each of the 24 hours of the day, local time.

    Args:
        starts: when they did, as seconds since 1970-01-01 UTC.
    """
    hours = Counter(_local(start_s).hour for start_s in starts)
    return [hours[hour] for hour in range(24)]


def counts_by_day(starts: Sequence[float], most_days: int) -> list[tuple[date, int]]:
    """How many visits started on each day from the first to the last, local time.

    Args:
        starts: as for `counts_by_hour`, at least one. Those of days to come are left out: they are
            of a clock that was ahead.
        most_days: only the last days, if there are more.
    """
    days = Counter(_local(start_s).date() for start_s in starts)
    today = datetime.now().astimezone().date()
    last = max((day for day in days if day <= today), default=today)
    first = min(max(min(days), last - timedelta(days=most_days - 1)), last)
    return [
        (day, days[day])
        for day in (first + timedelta(days=n) for n in range((last - first).days + 1))
    ]


def chart_lines(starts: Sequence[float], width: int, *, blocks: bool = True) -> list[str]:
    """Bars for a terminal.

    Args:
        starts: when visits started, as seconds since 1970-01-01 UTC; at least one.
        width: of the terminal, in characters.
        blocks: whether it can show Unicode's blocks; else bars are made of ``#``.
    """
    lines = ["visits by hour of the day", ""]
    hours = [(f"{hour:02}", count) for hour, count in enumerate(counts_by_hour(starts))]
    lines += _bars(hours, width, blocks)
    days = counts_by_day(starts, _DAYS_IN_TERMINAL)
    lines += ["", f"visits by day{_left_out(starts, days)}", ""]
    lines += _bars([(f"{day:%a %Y-%m-%d}", count) for day, count in days], width, blocks)
    return lines


def write_plot(starts: Sequence[float], path: Path) -> None:
    """Write both charts as a PNG.

    Args:
        starts: when visits started, as seconds since 1970-01-01 UTC; without any both charts are
            empty.
        path: of the picture.

    Raises:
        OutputError: it cannot be written.
    """
    if starts:
        days = counts_by_day(starts, _DAYS_IN_PICTURE)
        first, last = _local(min(starts)).date(), _local(max(starts)).date()
        title = f"{len(starts)} visits from {first} to {last}, by hour of the day"
    else:
        days = [(datetime.now().astimezone().date(), 0)]
        title = "no visits"
    upper = _panel(
        title, [(f"{hour:02}", count) for hour, count in enumerate(counts_by_hour(starts))]
    )
    lower = _panel(
        f"by day{_left_out(starts, days)}", [(f"{day:%d %b %y}", count) for day, count in days]
    )
    _, encoded = cv2.imencode(".png", np.vstack([upper, lower])[..., ::-1])
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _left_out(starts: Sequence[float], days: Sequence[tuple[date, int]]) -> str:
    """What to add to the heading where days before or after those shown had visits, too."""
    text = ""
    first = _local(min(starts)).date() if starts else days[0][0]
    if first < days[0][0]:
        text = f", the last {len(days)} of {(days[-1][0] - first).days + 1}"
    end = datetime.combine(days[-1][0] + timedelta(days=1), datetime.min.time()).astimezone()
    end_s = end.timestamp()
    ahead = sum(start_s >= end_s for start_s in starts)
    return text + (f", without {ahead} ahead of the clock" if ahead else "")


def _local(start_s: float) -> datetime:
    return datetime.fromtimestamp(start_s, UTC).astimezone()


def _bars(rows: Sequence[tuple[str, int]], width: int, blocks: bool) -> list[str]:
    most = max(1, *(count for _, count in rows))
    room = max(8, width - len(rows[0][0]) - len(str(most)) - 5)
    lines = []
    for label, count in rows:
        eighths = -(-count * room * 8 // most)  # the smallest count is still seen
        whole, rest = divmod(eighths, 8)
        bar = _EIGHTHS[-1] * whole + (_EIGHTHS[rest - 1] if rest else "")
        if not blocks:
            bar = "#" * -(-eighths // 8)
        lines.append(f"  {label}  {bar}{' ' if bar else ''}{count or ''}".rstrip())
    return lines


def _panel(title: str, bars: Sequence[tuple[str, int]]) -> Image:
    """A bar chart, uint8 (height, width, 3), RGB."""
    canvas = np.full((_PANEL_PX, _WIDTH_PX, 3), 255, np.uint8)
    bottom = _PANEL_PX - _BOTTOM_PX
    height, width = bottom - _TOP_PX, _WIDTH_PX - _LEFT_PX - _RIGHT_PX
    _write(canvas, title, (_LEFT_PX, 35), 0.7)
    step = _grid_step(max(1, *(count for _, count in bars)))
    top = step * -(-max(1, *(count for _, count in bars)) // step)
    for value in range(0, top + 1, step):
        y = bottom - round(height * value / top)
        cv2.line(canvas, (_LEFT_PX, y), (_LEFT_PX + width, y), _PALE, 1)
        text_width = cv2.getTextSize(str(value), _FONT, 0.5, 1)[0][0]
        _write(canvas, str(value), (_LEFT_PX - 10 - text_width, y + 5), 0.5)
    pitch = width / len(bars)
    gap = pitch * 0.1 if pitch > 4 else 0.0
    label_px = max(cv2.getTextSize(label, _FONT, 0.5, 1)[0][0] for label, _ in bars)
    every = -(-(label_px + 12) // max(1, int(pitch)))
    for number, (label, count) in enumerate(bars):
        left = _LEFT_PX + number * pitch
        if count:
            y = min(bottom - 2, bottom - round(height * count / top))
            corner = max(round(left + gap), round(left + pitch - gap) - 1), bottom
            cv2.rectangle(canvas, (round(left + gap), y), corner, _BAR, cv2.FILLED)
        if number % every == 0:
            text_width = cv2.getTextSize(label, _FONT, 0.5, 1)[0][0]
            middle = left + pitch / 2 - text_width / 2
            x = min(max(round(middle), 5), _WIDTH_PX - text_width - 5)
            _write(canvas, label, (x, bottom + 24), 0.5)
    cv2.line(canvas, (_LEFT_PX, bottom), (_LEFT_PX + width, bottom), _INK, 1)
    return canvas


def _grid_step(most: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... with which a chart has at most six lines."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if most <= 5 * step:
                return step
        power *= 10


def _write(canvas: Image, text: str, place: tuple[int, int], scale: float) -> None:
    cv2.putText(canvas, text, place, _FONT, scale, _INK, 1, cv2.LINE_AA)
