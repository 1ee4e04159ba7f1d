"""Alerts on disk until the broker has them."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgebird.database import open_database, open_or_begin_anew
from edgebird.mqtt.payloads import Number, OutboxPayload

MAX_ROWS = 10_000
MAX_BYTES = 8_000_000
MAX_AGE_S = 7 * 86400.0
_RETRY_DISK_S = 60.0
# What a clock differs by from one that runs evenly after it was set, and not just kept right.
_CLOCK_STEP_S = 60.0

_SCHEMA = 1
_TABLES = """
CREATE TABLE alerts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    created_s REAL NOT NULL,
    visit TEXT NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alert:
    """One message that must arrive.

    Args:
        visit: the visit that it tells of.
        topic: where it goes.
        payload: JSON.
        created_s: when it came about, as seconds since 1970-01-01 UTC.
        number: its place in the order; given by the outbox.
    """

    visit: str
    topic: str
    payload: bytes
    created_s: float
    number: int = 0


def _since_boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Outbox:
    """A queue of alerts in an SQLite file, and a few values beside them; for one thread at a time.

    Bounded by rows, bytes and age: beyond, the oldest are dropped and counted. The file is in WAL
    mode, where an ended or killed process leaves a whole outbox behind. A power cut is another
    matter: what is added with ``durable`` has reached the disk (one fsync each), the rest of the
    last half minute may not have.

    A disk that is full, read-only or broken does not stop it: it goes on in memory, says so once,
    and moves back when the disk can be written to again. A damaged file is set aside. Numbers only
    ever grow, also from one to the other.

    A clock that is set takes the alerts of this run along: they are as old as before.

    Args:
        path: of the file; None keeps all in memory.
        max_rows: most alerts.
        max_bytes: most bytes of payload.
        max_age_s: how long an alert is worth delivering.
        now_s: the time of day, as seconds since 1970-01-01 UTC.
        monotonic_s: a clock that nobody sets, and that runs on while the machine sleeps.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
        max_age_s: float = MAX_AGE_S,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = _since_boot_s,
    ) -> None:
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._clock_s = now_s() - monotonic_s()
        self._retry_s = 0.0
        self._on_disk = path is not None
        self._rows = self._bytes = 0
        self._dropping = False
        try:
            self._db = _open(path)
            self._last = _last_given(self._db)
        except (sqlite3.Error, OSError) as error:
            # What is on the disk may come back with it: number beyond all that can be there.
            self._last = round(now_s() * 1000)
            self._leave_disk(error, None)
        self._earlier = self._last  # up to here the alerts are of earlier runs
        self._count()

    @property
    def waiting(self) -> int:
        """How many alerts are in it."""
        return self._rows

    @property
    def last_number(self) -> int:
        """The place of the newest alert that is in it, 0 if there is none."""
        (number,) = self._one("SELECT max(number) FROM alerts")
        return number or 0

    def add(self, alerts: Sequence[Alert], *, durable: bool) -> None:
        """Append alerts; returns when they are stored, and with ``durable`` on the disk itself."""
        self._follow_clock()
        now_s = self._now_s()
        rows = []
        for number, a in enumerate(alerts, self._last + 1):
            # else it was made just before the clock was set
            fits = now_s - self._max_age_s <= a.created_s <= now_s
            rows.append((number, a.created_s if fits else now_s, a.visit, a.topic, a.payload))

        def insert() -> None:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with self._db:
                self._db.executemany("INSERT INTO alerts VALUES (?, ?, ?, ?, ?)", rows)
                self._rows += len(alerts)
                self._bytes += sum(len(alert.payload) for alert in alerts)
                self._trim()

        self._on_either(insert)
        self._last += len(alerts)

    def page(self, after: int, up_to: int | None, limit: int) -> list[Alert]:
        """Some alerts in order.

        Args:
            after: the number that the first must exceed.
            up_to: the last number wanted; None is the newest.
            limit: how many at most.
        """
        if not self._rows:
            return []
        query = (
            "SELECT visit, topic, payload, created_s, number FROM alerts "
            "WHERE number > ? AND number <= ? ORDER BY number LIMIT ?"
        )
        values = (after, 1 << 62 if up_to is None else up_to, limit)
        rows = self._on_either(lambda: self._db.execute(query, values).fetchall())
        return [Alert(*row) for row in rows]

    def has(self, visit: str, up_to: int) -> bool:
        """Whether an alert of the visit waits that is not newer than ``up_to``."""
        query = "SELECT 1 FROM alerts WHERE number <= ? AND visit = ? LIMIT 1"
        found = self._on_either(lambda: self._db.execute(query, (up_to, visit)).fetchone())
        return found is not None

    def remove(self, numbers: Sequence[int], *, refused: bool = False) -> None:
        """Forget alerts that the broker has, or those it does not want: they count as dropped."""

        def delete() -> None:
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._db:
                rows = self._rows
                for number in numbers:
                    gone = self._db.execute(
                        "DELETE FROM alerts WHERE number = ? RETURNING length(payload)", (number,)
                    ).fetchone()
                    if gone is not None:
                        self._rows -= 1
                        self._bytes -= gone[0]
                if refused:
                    self._count_dropped(rows - self._rows)
            self._dropping &= self._rows > 0

        self._on_either(delete)

    def kept(self) -> dict[str, str]:
        """All values that were kept, by name."""
        query = "SELECT name, value FROM kept WHERE typeof(value) = 'text'"
        return dict(self._on_either(lambda: self._db.execute(query).fetchall()))

    def keep(self, values: Mapping[str, str]) -> None:
        """Keep values over a restart."""

        def upsert() -> None:
            with self._db:
                self._db.executemany("REPLACE INTO kept VALUES (?, ?)", list(values.items()))

        self._on_either(upsert)

    def tidy(self) -> int:
        """Drop what is too old, and go back to a disk that was lost; to be called now and then.

        Returns:
            The last number of the older alerts that came back with the disk, mostly 0 for none.
        """
        came_back = 0
        if not self._on_disk and self._path is not None and time.monotonic() >= self._retry_s:
            came_back = self._return_to_disk()
        self._follow_clock()
        oldest_s = self._oldest_s()
        if oldest_s is not None and self._is_old(oldest_s):

            def trim() -> None:
                with self._db:
                    self._trim()

            self._on_either(trim)
        return came_back

    def state(self) -> OutboxPayload:
        """What there is to tell about it."""
        oldest_s = self._oldest_s()
        return OutboxPayload(
            waiting=self._rows,
            bytes=self._bytes,
            oldest_s=0.0 if oldest_s is None else round(max(0.0, self._now_s() - oldest_s), 1),
            dropped=read_kept(self.kept().get("dropped"), Number) or 0,
            storage="disk" if self._on_disk else "memory",
        )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _trim(self) -> None:
        """Drop the oldest beyond the bounds; inside the caller's transaction."""
        oldest = "SELECT number, created_s, length(payload) FROM alerts ORDER BY number LIMIT 1"
        dropped = 0
        while (row := self._db.execute(oldest).fetchone()) is not None:
            number, created_s, size = row
            within = self._rows <= self._max_rows and self._bytes <= self._max_bytes
            if within and not self._is_old(created_s):
                break
            self._db.execute("DELETE FROM alerts WHERE number = ?", (number,))
            self._rows -= 1
            self._bytes -= size
            dropped += 1
        if dropped:
            if not self._dropping:
                logger.warning(
                    "too many or too old alerts wait in the outbox: the oldest are dropped"
                )
            self._dropping = True
            self._count_dropped(dropped)

    def _count_dropped(self, count: int) -> None:
        self._db.execute(
            "INSERT INTO kept VALUES ('dropped', ?) ON CONFLICT (name) "
            "DO UPDATE SET value = value + excluded.value",
            (str(count),),
        )

    def _is_old(self, created_s: float) -> bool:
        return created_s < self._now_s() - self._max_age_s

    def _follow_clock(self) -> None:
        """Have the alerts of this run as old as they are when the clock was set."""
        clock_s = self._now_s() - self._monotonic_s()
        step_s = clock_s - self._clock_s
        if abs(step_s) < _CLOCK_STEP_S:
            return
        self._clock_s = clock_s

        def shift() -> None:
            with self._db:
                self._db.execute(
                    "UPDATE alerts SET created_s = created_s + ? WHERE number > ?",
                    (step_s, self._earlier),
                )

        self._on_either(shift)

    def _oldest_s(self) -> float | None:
        """When the first in line was made, the next that is dropped; None without one."""
        if not self._rows:
            return None
        # Not the minimum over all, which would read the whole file at each tick. The outer query
        # has a row even when the disk is lost in this moment, and all alerts with it.
        first = "SELECT created_s FROM alerts ORDER BY number LIMIT 1"
        oldest_s: float | None = self._one(f"SELECT min(created_s) FROM ({first})")[0]
        return oldest_s

    def _count(self) -> None:
        query = "SELECT count(*), coalesce(sum(length(payload)), 0) FROM alerts"
        self._rows, self._bytes = self._db.execute(query).fetchone()

    def _one(self, query: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._on_either(lambda: self._db.execute(query).fetchone())
        return row

    def _on_either(self, work: Callable[[], T]) -> T:
        """Work on the disk, or in memory when the disk does not take it."""
        try:
            return work()
        except sqlite3.Error as error:
            if not self._on_disk:
                raise
            disk = self._db
            self._leave_disk(error, disk)
            disk.close()
            self._count()
            return work()

    def _leave_disk(self, error: Exception, disk: sqlite3.Connection | None) -> None:
        self._db = _open(None)
        self._has_all = False
        if disk is not None:
            try:
                _copy(disk, self._db)
                self._has_all = True
            except sqlite3.Error:
                logger.debug("the outbox %s cannot even be read", self._path)
        self._on_disk = False
        self._retry_s = time.monotonic() + _RETRY_DISK_S
        logger.warning(
            "the outbox %s cannot be written (%s); alerts are kept in memory only, and those that "
            "wait are lost when edgebird ends",
            self._path,
            getattr(error, "strerror", None) or error,
        )

    def _return_to_disk(self) -> int:
        """Try to; the last number of the older alerts that are found there, 0 without any."""
        self._retry_s = time.monotonic() + _RETRY_DISK_S
        came_back = 0
        try:
            disk = _open(self._path)
            try:
                if not self._has_all:
                    query = "SELECT coalesce(max(number), 0) FROM alerts"
                    (came_back,) = disk.execute(query).fetchone()
                last = _last_given(disk)
                _copy(self._db, disk, replace=self._has_all)
            except sqlite3.Error:
                disk.close()
                raise
        except (sqlite3.Error, OSError):
            return 0
        self._db.close()
        self._db = disk
        self._last = max(self._last, last)
        self._on_disk = True
        self._count()
        logger.warning("the outbox %s can be written again", self._path)
        return came_back


def read_kept(value: str | None, kind: type[T]) -> T | None:
    """What a value that was kept says, as JSON; None where there is none or it is damaged."""
    try:
        return None if value is None else msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError:
        return None


def _open(path: Path | None) -> sqlite3.Connection:
    """Open or create an outbox; a damaged one is set aside and a new one begun."""
    if path is None:
        return open_database(None, tables=_TABLES, schema=_SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    loss = "alerts that waited in it are lost"
    return open_or_begin_anew(path, tables=_TABLES, schema=_SCHEMA, loss=loss)


def _last_given(db: sqlite3.Connection) -> int:
    """The highest number that an alert of the file ever had."""
    # of those that are there as well: the sequence may be damaged
    sound = "typeof(seq) = 'integer' AND seq < 1 << 53"
    numbers = f"SELECT number FROM alerts UNION SELECT seq FROM sqlite_sequence WHERE {sound}"
    number: int = db.execute(f"SELECT coalesce(max(number), 0) FROM ({numbers})").fetchone()[0]
    return number


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, replace: bool = True) -> None:
    """Put what the source holds in the place of what the target does, or else beside it."""
    with target:
        for table, values in (("alerts", "?, ?, ?, ?, ?"), ("kept", "?, ?")):
            if replace:
                target.execute(f"DELETE FROM {table}")
            target.executemany(
                f"REPLACE INTO {table} VALUES ({values})", source.execute(f"SELECT * FROM {table}")
            )
