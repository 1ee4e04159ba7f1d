"""SQLite files that outlive kill -9, and what to do with one that is damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

# In WAL mode SQLite maps a file into memory, whose blocks it has the disk set aside first: one for
# each 4 kB. Where blocks are smaller (ext4 on less than 512 MB), some are then still missing on a
# full disk, which does not fail but ends the process (SIGBUS).
_MAPPED_BLOCK_BYTES = 4096
# In hexadecimal digits, since a damaged name need not be text.
_NAMES = "SELECT hex(t.name), hex(c.name) FROM sqlite_master AS t, pragma_table_info(t.name) AS c"

logger = logging.getLogger(__name__)


def open_database(
    path: Path | None, *, tables: str, schema: int, page_size: int = 4096, durable: bool = False
) -> sqlite3.Connection:
    """Open or create a database that an ended or killed process leaves whole.

    It is in WAL mode, which writes least; on a disk of small blocks in the older mode, which is
    safe there.

    Args:
        path: of the file, whose folder exists; None keeps all in memory.
        tables: makes them in a new file, and sets its ``user_version``.
        schema: the ``user_version`` that is understood.
        page_size: of a new file, in bytes: no less than this is written at a time.
        durable: whether each commit has reached the disk itself when it returns.

    Raises:
        sqlite3.OperationalError, OSError: the disk is full, read-only or broken, or it is locked.
        sqlite3.DatabaseError: the file is damaged, or of another version.
    """
    # The thread that opens it hands it to the one that uses it.
    db = sqlite3.connect(path or ":memory:", timeout=1.0, check_same_thread=False)
    db.text_factory = as_text
    try:
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute(f"PRAGMA journal_mode = {_journal_mode(path)}")
        db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        db.execute("PRAGMA journal_size_limit = 1000000")
        db.execute("PRAGMA cache_size = -256")
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found == 0:
            db.executescript(f"BEGIN;{tables}COMMIT;")
        elif found != schema:
            raise sqlite3.DatabaseError(f"it is of version {found}, not {schema}")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        with closing(sqlite3.connect(":memory:")) as new:
            new.executescript(tables)
            if not set(new.execute(_NAMES)) <= set(db.execute(_NAMES)):
                raise sqlite3.DatabaseError("a table or a column has another name")
    except sqlite3.Error:
        db.close()
        raise
    except UnicodeDecodeError as error:  # SQLite's complaint quotes what is no text any more
        db.close()
        raise sqlite3.DatabaseError("its schema is damaged") from error
    return db


def as_text(data: bytes) -> str:
    """What a column holds: one damaged letter must not make all of its table unreadable."""
    return data.decode(errors="replace")


def _journal_mode(path: Path | None) -> str:
    if path is not None and os.statvfs(path.parent).f_bsize < _MAPPED_BLOCK_BYTES:
        return "PERSIST"
    return "WAL"


def open_or_begin_anew(
    path: Path, *, tables: str, schema: int, loss: str, page_size: int = 4096, durable: bool = False
) -> sqlite3.Connection:
    """Open or create a database; a damaged one is set aside and a new one begun.

    Args:
        path: of the file, whose folder exists.
        tables: see `open_database`.
        schema: likewise.
        loss: what a damaged file means, for the log.
        page_size: likewise.
        durable: likewise.

    Raises:
        sqlite3.OperationalError, OSError: the disk is full, read-only or broken, or it is locked.
    """
    try:
        return open_database(
            path, tables=tables, schema=schema, page_size=page_size, durable=durable
        )
    except sqlite3.OperationalError:  # locked, full, read-only: not the file's fault
        raise
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(".damaged")
        os.replace(path, aside)
        for ending in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        logger.warning("%s is damaged (%s): it is now %s, and %s", path, error, aside.name, loss)
        return open_database(
            path, tables=tables, schema=schema, page_size=page_size, durable=durable
        )
