"""Visits of the past as lines for people, and as CSV and JSON for programs."""

from __future__ import annotations

import csv
import heapq
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from edgebird.config import SERVICE_FOLDER, state_folder
from edgebird.errors import EdgebirdError, UsageError
from edgebird.history.store import (
    ALL_VISITS,
    Choice,
    StoredVisit,
    find_stores,
    keep_visit,
    newness,
    read_starts,
    read_visits,
)
from edgebird.mqtt.payloads import utc_iso
from edgebird.mqtt.topics import slug

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

CSV_COLUMNS = (
    "visit",
    "camera",
    "state",
    "started",
    "ended",
    "duration_s",
    "peak_count",
    "score",
    "left_px",
    "top_px",
    "right_px",
    "bottom_px",
    "frame_width_px",
    "frame_height_px",
    "snapshot",
    "kept",
)


def stores(setting: str | None, *, service: Path = SERVICE_FOLDER) -> list[Path]:
    """The files with visits of this machine: those of the user and those of the service.

    Args:
        setting: the folder to look in instead, None for these.
        service: where the service keeps its state.

    Raises:
        EdgebirdError: nothing is stored, or it may not be read.
        UsageError: the folder that was asked for does not exist.
    """
    if setting is not None and not os.path.isdir(setting):  # False also for a name too long
        raise UsageError(f"there is no folder {setting}, where visits could be stored")
    folders = [state_folder(setting)]
    if setting is None and service not in folders:
        folders.append(service)
    found = [path for folder in folders for path in find_stores(folder)]
    if found:
        return found
    # lexists, because the folder of a service may be a link to where only root may look
    closed = [f for f in folders if os.path.lexists(f) and not os.access(f, os.R_OK | os.X_OK)]
    if closed:
        raise EdgebirdError(f"the folder {closed[0]} belongs to another user: try with sudo")
    places = " or ".join(map(str, folders))
    raise EdgebirdError(
        f"no visits are stored in {places}; 'edgebird detect --camera 0' stores those of a camera, "
        "and --state FOLDER looks elsewhere"
    )


def select_visits(
    paths: Iterable[Path],
    choice: Choice = ALL_VISITS,
    unreadable: dict[Path, EdgebirdError] | None = None,
) -> Iterator[StoredVisit]:
    """Visits of some stores, newest last; only those of ``choice.last`` are in memory at once.

    Args:
        paths: the stores.
        choice: of visits.
        unreadable: takes the errors of stores that cannot be read, whose visits are left out from
            there on.

    Raises:
        EdgebirdError: a store cannot be read, and ``unreadable`` is not given; while they are gone
            through.
    """

    def visits_of(path: Path) -> Iterator[StoredVisit]:
        with _told(path, unreadable):
            yield from read_visits(path, choice)

    each = map(visits_of, _of_camera(paths, choice))
    visits = heapq.merge(*each, key=lambda visit: visit.started_utc_s)
    if choice.last is None:
        return visits
    order = newness()
    newest = heapq.nlargest(choice.last, visits, key=lambda visit: order(visit.started_utc_s))
    return iter(sorted(newest, key=lambda visit: visit.started_utc_s))


def select_starts(
    paths: Iterable[Path],
    choice: Choice = ALL_VISITS,
    unreadable: dict[Path, EdgebirdError] | None = None,
) -> list[float]:
    """When `select_visits` started, as seconds since 1970-01-01 UTC, the oldest first; for charts.
    What is of a clock that was ahead counts as the oldest.

    Raises:
        EdgebirdError: a store cannot be read, and ``unreadable`` is not given.
    """
    starts: list[float] = []
    for path in _of_camera(paths, choice):
        with _told(path, unreadable):
            starts += read_starts(path, choice)
    starts.sort(key=newness())
    return starts if choice.last is None else starts[-choice.last :]


def _of_camera(paths: Iterable[Path], choice: Choice) -> list[Path]:
    return [path for path in paths if choice.camera is None or slug(choice.camera) == path.stem]


@contextmanager
def _told(path: Path, unreadable: dict[Path, EdgebirdError] | None) -> Iterator[None]:
    try:
        yield
    except EdgebirdError as error:
        if unreadable is None:
            raise
        unreadable[path] = error


def set_kept(paths: Sequence[Path], ids: Sequence[str], keep: bool) -> None:
    """Keep visits for ever, or not any more.

    Raises:
        EdgebirdError: there is no such visit, or it cannot be changed; those before it are.
    """
    for id_ in ids:
        # its own camera's store first: it does not matter then whether others can be read
        likely = sorted(paths, key=lambda path: not id_.startswith(f"{path.stem}-"))
        # ids are ASCII, and SQLite takes no name that is not UTF-8
        if not (id_.isascii() and any(keep_visit(path, id_, keep) for path in likely)):
            raise EdgebirdError(f"there is no visit {id_}; 'edgebird visits' lists them")


def parse_since(text: str, now: datetime) -> datetime:
    """A moment, given as a date, a date and time, ``today``, or a time ago such as ``7d``.

    Args:
        text: what somebody wrote.
        now: the present, in local time, which is meant where no zone is given.

    Raises:
        UsageError: it is none of these.
    """
    if text == "today":
        # naive at first, because the clocks may have been changed since midnight
        return datetime.combine(now.date(), datetime.min.time()).astimezone()
    try:
        if ago := re.fullmatch(r"(\d{1,6})([mhdw])", text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
        # a naive time is local, of the offset that held then
        return moment.astimezone() if moment.tzinfo is None else moment
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"since {text!r}? Give a date (2026-03-14), a date and time (2026-03-14T08:00), today, "
            "or a time ago: 90m, 24h, 7d, 4w"
        ) from error


def visit_line(visit: StoredVisit) -> str:
    """One line for a person, in local time."""
    started = datetime.fromtimestamp(visit.started_utc_s, UTC).astimezone()
    birds = "1 bird" if visit.peak_count == 1 else f"{visit.peak_count} birds"
    score = "?" if visit.score is None else f"{visit.score:.2f}"
    line = f"{started:%a %Y-%m-%d %H:%M:%S}  {_duration(visit):>8}  {birds:>7}  {score:>4}"
    marks = ["kept"] * visit.kept + [str(visit.snapshot)] * (visit.snapshot is not None)
    return "  ".join([line, visit.id, *marks])


def visit_record(visit: StoredVisit) -> dict[str, Any]:
    """The visit as JSON, with the names that it has in alerts; times in UTC."""
    return {
        "visit": visit.id,
        "camera": visit.camera,
        "state": visit.state,
        "started": utc_iso(visit.started_utc_s),
        "ended": None if visit.ended_utc_s is None else utc_iso(visit.ended_utc_s),
        "duration_s": visit.duration_s,
        "peak_count": visit.peak_count,
        "score": visit.score,
        "box": visit.box,
        "frame_size": visit.frame_size,
        "snapshot": None if visit.snapshot is None else str(visit.snapshot),
        "kept": visit.kept,
    }


def csv_lines(visits: Iterable[StoredVisit]) -> Iterator[str]:
    """A table with a line of headings; times in UTC, empty where nothing is known."""
    yield ",".join(CSV_COLUMNS)
    for visit in visits:
        record = visit_record(visit)
        record["kept"] = int(visit.kept)
        box, size = visit.box or (None,) * 4, visit.frame_size or (None,) * 2
        record |= dict(zip(CSV_COLUMNS[8:14], (*box, *size), strict=True))
        line = StringIO()
        csv.writer(line, lineterminator="").writerow(record[name] for name in CSV_COLUMNS)
        yield line.getvalue()


def _duration(visit: StoredVisit) -> str:
    if visit.state != "over":
        return {"open": "going on", "cut": "cut off"}[visit.state]
    seconds = visit.duration_s
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.0f} min"
