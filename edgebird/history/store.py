"""The visits of one camera on disk."""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgebird.database import as_text, open_or_begin_anew
from edgebird.disk import believed_until_s
from edgebird.errors import EdgebirdError
from edgebird.structures import Box, Visit
from edgebird.visit_ids import MOMENT, started_utc_s_of

MAX_BYTES = 20_000_000
KEPT = "kept"
_KEEP_HOURS = 31 * 24
# What is dropped at once when there is no more room.
_DROP_SHARE = 0.02
_WAIT_S = 5.0
_ROWS_AT_ONCE = 500

_SCHEMA = 1
# A camera's ids end in the time, so the order of the ids is that of the visits.
_TABLES = """
CREATE TABLE visits (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    started_s REAL NOT NULL,
    ended_s REAL,
    duration_s REAL NOT NULL,
    peak_count INTEGER NOT NULL,
    score REAL,
    box TEXT,
    frame_size TEXT,
    picture TEXT,
    kept INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE written (hour INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
PRAGMA user_version = 1;
"""
_COLUMNS = (
    "id, state, started_s, ended_s, duration_s, peak_count, score, box, frame_size, picture, kept"
)
# Seconds since 1970 that can be written as a date, in any zone.
_Moment = Annotated[float, Meta(ge=0, le=2.5e11)]
_Text = str | None
# What the columns hold unless they are damaged.
_Row = tuple[str, str, _Moment, _Moment | None, float, int, float | None, _Text, _Text, _Text, int]
_CHOSEN = "started_s >= ? AND kept >= ? AND started_s BETWEEN 0 AND 2.5e11 AND typeof(id) = 'text'"
# What is later than a time that is given was of a wrong clock: it counts as the oldest.
_OLDEST_FIRST = "started_s <= ?, id"

State = Literal["open", "over", "cut"]


@dataclass(frozen=True, slots=True)
class StoredVisit:
    """A visit as it is remembered.

    Args:
        id: as in its alerts.
        camera: the camera's name.
        state: ``open`` while it goes on, ``over``, or ``cut`` if edgebird or the power ended
            first, so that its end is not known.
        started_utc_s: as seconds since 1970-01-01 UTC.
        ended_utc_s: likewise; None unless it is over.
        duration_s: of what is known of it.
        peak_count: most birds at once.
        score: of the best shot, 0 to 1; None if only the picture is left of it.
        box: of that bird, in pixels; likewise.
        frame_size: width and height in pixels; likewise.
        snapshot: path of its picture, None if there is none (any more).
        kept: never dropped.
    """

    id: str
    camera: str
    state: State
    started_utc_s: float
    ended_utc_s: float | None
    duration_s: float
    peak_count: int
    score: float | None
    box: Box | None
    frame_size: tuple[int, int] | None
    snapshot: Path | None
    kept: bool


class VisitStore:
    """Visits, and bytes written by the hour, in an SQLite file; for one thread at a time.

    What `put` has returned from outlives ``kill -9`` and a power cut: each commit is synced to the
    disk. Bounded by size: beyond, the oldest visits are dropped. A damaged file is set aside.

    Args:
        path: of the file, whose name is the camera's; it and its folder are created.
        max_bytes: how large it may grow.

    Raises:
        sqlite3.Error, OSError: the disk is full, read-only or broken.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._camera = path.stem
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        # Small pages: a commit writes whole ones, and a visit is a few hundred bytes.
        self._db = open_or_begin_anew(
            path,
            tables=_TABLES,
            schema=_SCHEMA,
            loss="a new one is begun",
            page_size=1024,
            durable=True,
        )

    def begin(self, pictures: Path | None) -> None:
        """Make good what the end of an earlier run has left: visits that went on are cut off, and
        pictures and visits agree again.

        A broken picture is deleted, a whole one without a visit gets one; a visit forgets a picture
        that is gone. Pictures of other cameras, and files that are none, are left alone.

        Args:
            pictures: folder of the pictures, None if there are none.

        Raises:
            sqlite3.Error, OSError: the disk fails.
        """
        with self._db:
            self._db.execute("UPDATE visits SET state = 'cut' WHERE state = 'open'")
        if pictures is None:
            return
        here = set(self._pictures_in(pictures))
        kept = set(self._pictures_in(pictures / KEPT))
        rows = self._db.execute("SELECT id, picture FROM visits WHERE typeof(picture) = 'text'")
        known = {id_ for id_, picture in rows if Path(picture).parent == pictures}
        with self._db:
            self._db.executemany(
                "UPDATE visits SET picture = NULL WHERE id = ?",
                [(id_,) for id_ in known - here - kept],
            )
            for id_ in sorted((here | kept) - known):
                picture = pictures / f"{id_}.jpg"
                where = picture if id_ in here else pictures / KEPT / picture.name
                if _is_whole_jpeg(where):
                    self._adopt(id_, picture)
                else:
                    with suppress(OSError):  # a broken picture that stays is no reason to fail
                        where.unlink()
            self._db.executemany(
                "UPDATE visits SET kept = 1 WHERE id = ? AND NOT kept", [(id_,) for id_ in kept]
            )

    def put(self, visits: Iterable[Visit], hours: Mapping[int, int]) -> None:
        """Store visits at their start or end, and what was written; returns when it is on the disk.

        Args:
            visits: the newest state of each; a picture that is named must be on the disk itself.
            hours: bytes written by the hour since 1970; other hours stay as they are.

        Raises:
            sqlite3.Error: the disk fails; nothing was stored.
        """
        names = [name for name in _COLUMNS.split(", ") if name not in ("id", "kept")]
        update = ", ".join(f"{name} = excluded.{name}" for name in names)
        upsert = (
            f"INSERT INTO visits ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0) "
            f"ON CONFLICT (id) DO UPDATE SET {update}"
        )
        with self._db:
            self._db.executemany(upsert, [_row(visit) for visit in visits])
            self._db.executemany("REPLACE INTO written VALUES (?, ?)", list(hours.items()))
            if hours:
                newest = max(hours)  # what is later was of a wrong clock
                self._db.execute(
                    "DELETE FROM written WHERE hour < ? OR hour > ?",
                    (newest - _KEEP_HOURS, newest),
                )
            self._trim()

    def hours(self) -> dict[int, int]:
        """Bytes written, by the hour since 1970; of the last month."""
        known = "SELECT hour, bytes FROM written WHERE typeof(bytes) = 'integer'"
        return dict(self._db.execute(known).fetchall())

    def visits(self) -> list[StoredVisit]:
        """All visits in order."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM visits ORDER BY id")
        return [visit for row in rows if (visit := _stored(row, self._camera))]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _pictures_in(self, folder: Path) -> Iterator[str]:
        ours = re.compile(rf"({re.escape(self._camera)}{MOMENT})\.jpg")
        try:
            with os.scandir(folder) as entries:
                yield from (match[1] for entry in entries if (match := ours.fullmatch(entry.name)))
        except FileNotFoundError:
            return

    def _adopt(self, id_: str, picture: Path) -> None:
        """Remember a picture, of a visit that is known or else of one that only it tells of."""
        try:
            started_utc_s = started_utc_s_of(id_)
        except ValueError:
            return
        self._db.execute(
            "INSERT INTO visits (id, state, started_s, duration_s, peak_count, picture) "
            "VALUES (?, 'cut', ?, 0, 1, ?) "
            "ON CONFLICT (id) DO UPDATE SET picture = excluded.picture",
            (id_, started_utc_s, str(picture)),
        )

    def _trim(self) -> None:
        """Drop the oldest when there is too much; inside the caller's transaction."""
        oldest = f"SELECT id FROM visits WHERE NOT kept ORDER BY {_OLDEST_FIRST} LIMIT ?"
        while self._used_bytes() > self._max_bytes:
            (count,) = self._db.execute("SELECT count(*) FROM visits").fetchone()
            values = believed_until_s(), 1 + int(count * _DROP_SHARE)
            if not self._db.execute(f"DELETE FROM visits WHERE id IN ({oldest})", values).rowcount:
                break  # all that is left is kept

    def _used_bytes(self) -> int:
        (size,) = self._db.execute("PRAGMA page_size").fetchone()
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (unused,) = self._db.execute("PRAGMA freelist_count").fetchone()
        used: int = (pages - unused) * size
        return used


def find_stores(state: Path) -> list[Path]:
    """The stores of all cameras that keep their state in a folder, or in folders right in it."""
    return sorted({*state.glob("visits/*.sqlite"), *state.glob("*/visits/*.sqlite")})


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which visits to read.

    Args:
        since_s: only those that started then or later, as seconds since 1970-01-01 UTC.
        camera: only those of this camera, named as configured or as in its topics.
        kept: only those that are kept for ever.
        last: only so many, the newest; what is of a clock that was ahead counts as the oldest.
    """

    since_s: float = -math.inf
    camera: str | None = None
    kept: bool = False
    last: int | None = None


ALL_VISITS = Choice()


def read_visits(path: Path, choice: Choice = ALL_VISITS) -> Iterator[StoredVisit]:
    """Visits of one camera in order; edgebird may be writing at the same time.

    Some are read at a time: a year of them would not fit into a small board's memory, and a reader
    that waited for a pager with the file open would let its log grow.

    Raises:
        EdgebirdError: the file cannot be read; while it is gone through.
    """
    ids = _newest_ids(path, choice)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        some = tuple(ids[start : start + _ROWS_AT_ONCE])
        among = ",".join("?" * len(some))
        rows = _read(path, f"SELECT {_COLUMNS} FROM visits WHERE id IN ({among}) ORDER BY id", some)
        yield from (visit for row in rows if (visit := _stored(row, path.stem)))


def _newest_ids(path: Path, choice: Choice) -> list[str]:
    """Those of the chosen visits, in order."""
    found: list[str] = []
    for when in ("<=", ">"):
        newest = (
            f"SELECT id FROM visits WHERE {_CHOSEN} AND started_s {when} ? ORDER BY id DESC LIMIT ?"
        )
        most = -1 if choice.last is None else choice.last - len(found)
        values = choice.since_s, int(choice.kept), believed_until_s(), most
        found += [id_ for (id_,) in _read(path, newest, values)]
    return sorted(found)


def newness() -> Callable[[float], tuple[bool, float]]:
    """Orders times from the oldest to the newest; those of a clock that was ahead come first."""
    until_s = believed_until_s()
    return lambda started_s: (started_s <= until_s, started_s)


def read_starts(path: Path, choice: Choice = ALL_VISITS) -> list[float]:
    """When the visits of one camera started, as seconds since 1970-01-01 UTC, in the order of
    `newness`.

    Raises:
        EdgebirdError: the file cannot be read.
    """
    chosen = f"SELECT started_s FROM visits WHERE {_CHOSEN}"
    rows = _read(path, chosen, (choice.since_s, int(choice.kept)))
    starts = sorted((started_s for (started_s,) in rows), key=newness())
    return starts if choice.last is None else starts[-choice.last :]


def keep_visit(path: Path, id_: str, keep: bool) -> bool:
    """Have a visit and its picture kept for ever, or not so any more; edgebird may be running.

    Kept pictures are in the folder ``kept`` beside the others, where nothing is deleted.

    Returns:
        Whether this camera had that visit.

    Raises:
        EdgebirdError: it still goes on, or the disk does not take it.
    """
    with _as_line(path, "change"):
        rows = _rows(path, f"SELECT {_COLUMNS} FROM visits WHERE id = ?", (id_,))
        visit = _stored(rows[0], path.stem) if rows else None
        if visit is None:
            return False
        if visit.state == "open":
            raise EdgebirdError(f"the visit {id_} still goes on; it can be kept when it is over")
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S)) as db:
            # First the picture: the next start finds it and marks the visit.
            if visit.snapshot is not None:
                _move_picture(visit.snapshot, keep)
            with db:
                db.execute("UPDATE visits SET kept = ? WHERE id = ?", (int(keep), id_))
    return True


def _move_picture(picture: Path, keep: bool) -> None:
    folder = picture.parent.parent if picture.parent.name == KEPT else picture.parent
    target = folder / KEPT if keep else folder
    if not target.exists():
        target.mkdir()
        if os.geteuid() == 0:
            # `sudo edgebird visits keep` must leave it to the service
            owner = folder.stat()
            os.chown(target, owner.st_uid, owner.st_gid, follow_symlinks=False)
    picture.replace(target / picture.name)


@contextmanager
def _as_line(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's complaint quotes what is no text any more
        raise EdgebirdError(f"cannot {verb} the visits in {path}: its schema is damaged") from error
    except (sqlite3.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "" if os.access(path, os.W_OK) else "; it belongs to another user: try with sudo"
        raise EdgebirdError(f"cannot {verb} the visits in {path}: {reason}{hint}") from error


def _read(path: Path, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    with _as_line(path, "read"):
        return _rows(path, query, values)


def _rows(path: Path, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """What a query finds, without ever writing."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _fetch(uri, query, values)
    except sqlite3.OperationalError:
        # In WAL mode a reader locks in a file that it may not be allowed to create, or that has no
        # room on a full disk. Where the log is empty nobody writes, and it can do without.
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _fetch(f"{uri}&immutable=1", query, values)


def _fetch(uri: str, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S)) as db:
        db.text_factory = as_text
        (schema,) = db.execute("PRAGMA user_version").fetchone()
        if schema != _SCHEMA:
            raise sqlite3.DatabaseError(f"it is of version {schema}, not {_SCHEMA}")
        return db.execute(query, values).fetchall()


def _row(visit: Visit) -> tuple[object, ...]:
    left, top, right, bottom = (round(float(value), 1) for value in visit.best_xyxy)
    return (
        visit.id,
        "open" if visit.ended_utc_s is None else "over",
        visit.started_utc_s,
        visit.ended_utc_s,
        round(float(visit.duration_s), 3),
        visit.peak_count,
        round(float(visit.best_score), 4),
        json.dumps([left, top, right, bottom]),
        json.dumps(visit.frame_size),
        visit.snapshot,
    )


def _stored(row: tuple[Any, ...], camera: str) -> StoredVisit | None:
    """The visit in a row without what is damaged of it; None where too much is."""
    try:
        msgspec.convert(row, _Row)
    except msgspec.ValidationError:
        return None
    id_, state, started_s, ended_s, duration_s, peak_count, score, box, size, picture, kept = row
    return StoredVisit(
        id_,
        camera,
        state if state in ("open", "over") else "cut",
        started_s,
        ended_s,
        duration_s,
        peak_count,
        score,
        _numbers(box, 4),
        _numbers(size, 2),
        None if picture is None else _where(picture),
        bool(kept),
    )


def _numbers(text: str | None, count: int) -> tuple[Any, ...] | None:
    """What a column holds as JSON; None without, or where it is damaged."""
    try:
        numbers = () if text is None else tuple(json.loads(text))
    except (ValueError, TypeError):
        return None
    return numbers if len(numbers) == count else None


def _where(picture: str) -> Path | None:
    """Where a picture is now: in its place, among the kept ones, or deleted to make room."""
    folder, name = os.path.split(picture)
    here = filter(os.path.isfile, (picture, os.path.join(folder, KEPT, name)))
    return next(map(Path, here), None)


def _is_whole_jpeg(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(-2, os.SEEK_END)
            return start == b"\xff\xd8" and file.read(2) == b"\xff\xd9"
    except OSError:  # also for a file that is empty
        return False
