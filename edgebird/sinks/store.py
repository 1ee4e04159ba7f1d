"""Visits on disk, and an eye on the disk."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread

from edgebird.disk import DiskUse, folders_mb, free_mb, sync
from edgebird.history.store import KEPT, MAX_BYTES, VisitStore
from edgebird.structures import Event, Visit, VisitChanged

_PART = "visits"
_MOST_WAITING = 10_000
# How often the count of writes is stored, which is a write too, and the folders are added up.
_LOOK_EVERY_S = 600.0
# A disk that was full is tried again when so much is free; with less it is full again at once.
_ROOM_MB = 0.128
_CLOSE_S = 5.0

logger = logging.getLogger(__name__)


class StoreSink:
    """Stores each visit at its start, and once more at its end.

    A thread of its own does that; ``emit`` only leaves a note for it. When the disk is full,
    read-only or broken, visits wait in memory, which is said once, and are stored when it takes
    them again. What was stored at the end has its picture on the disk itself.

    Args:
        path: of the file; see `VisitStore`.
        pictures: folder of the snapshots, None if there are none.
        folders: whose files count as what edgebird keeps, besides these.
        max_bytes: how large the file may grow.
        disk: is told what is kept and what is wrong.
        retry_s: time until a disk that failed is tried again.
    """

    def __init__(
        self,
        path: Path,
        *,
        disk: DiskUse,
        pictures: Path | None = None,
        folders: Sequence[Path] = (),
        max_bytes: int = MAX_BYTES,
        retry_s: float = 60.0,
    ) -> None:
        self._path = path
        self._disk = disk
        self._pictures = None if pictures is None else pictures.resolve()
        shown = [] if self._pictures is None else [self._pictures, self._pictures / KEPT]
        self._folders = {*shown, *folders, path.parent}
        self._max_bytes = max_bytes
        self._retry_s = retry_s
        self._lock = Lock()
        self._waiting: dict[str, Visit] = {}
        self._wake = Flag()
        self._wake.set()
        self._stopping = False
        # our thread's own
        self._store: VisitStore | None = None
        self._begun = False
        self._try_s = self._look_s = self._hours_s = -1e9
        self._thread = Thread(target=self._run, name="visit store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many visits are not yet stored."""
        return len(self._waiting)

    def emit(self, event: Event) -> None:
        """Take note of a visit that starts or ends; returns at once."""
        if not isinstance(event, VisitChanged):
            return
        with self._lock:
            # as the newest, also if its start still waits
            self._waiting.pop(event.visit.id, None)
            self._waiting[event.visit.id] = event.visit
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        self._wake.set()

    def close(self) -> None:
        """Store what waits, within five seconds."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_CLOSE_S)
        if self._waiting:
            logger.warning(
                "visits that could not be stored in %s: %d", self._path, len(self._waiting)
            )

    # --- on our own thread

    def _run(self) -> None:
        stopping = False
        while not stopping:
            self._wake.wait(self._retry_s if self._store is None else _LOOK_EVERY_S)
            self._wake.clear()
            stopping = self._stopping
            now_s = time.monotonic()
            if self._store is not None or stopping or self._is_time_to_try(now_s):
                self._work(now_s, stopping)
            if now_s >= self._look_s:
                self._look_s = now_s + _LOOK_EVERY_S
                self._disk.used_mb = folders_mb(self._folders)
        if self._store is not None:
            self._store.close()

    def _work(self, now_s: float, stopping: bool) -> None:
        try:
            store = self._store = self._store or self._open()
            with self._lock:
                waiting = dict(self._waiting)
            hours_due = stopping or now_s >= self._hours_s
            if waiting or hours_due:
                hours = self._disk.hours() if hours_due else {}
                store.put([_with_safe_picture(visit) for visit in waiting.values()], hours)
        except (sqlite3.Error, OSError) as error:
            self._leave(error, now_s)
            return
        if hours_due:
            self._hours_s = now_s + _LOOK_EVERY_S
        with self._lock:
            for id_, visit in waiting.items():
                if self._waiting.get(id_) is visit:
                    del self._waiting[id_]
        self._disk.recover(_PART, f"visits can be stored in {self._path} again")

    def _is_time_to_try(self, now_s: float) -> bool:
        if now_s < self._try_s:
            return False
        try:
            return not self._begun or free_mb(self._path.parent) >= _ROOM_MB
        except OSError:  # the folder is gone; perhaps it can be made again
            return True

    def _open(self) -> VisitStore:
        store = VisitStore(self._path, max_bytes=self._max_bytes)
        if not self._begun:
            try:
                store.begin(self._pictures)
                self._disk.restore(store.hours())
            except BaseException:
                store.close()
                raise
            self._begun = True
        return store

    def _leave(self, error: Exception, now_s: float) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        self._try_s = now_s + self._retry_s
        reason = getattr(error, "strerror", None) or error
        self._disk.fail(
            _PART,
            f"visits cannot be stored in {self._path} ({reason}); they are kept in memory only, "
            "until the disk takes them",
        )


def _with_safe_picture(visit: Visit) -> Visit:
    """The visit with its picture if that has reached the disk itself; at its start it need not."""
    if visit.snapshot is None:
        return visit
    if visit.ended_utc_s is not None:
        try:
            sync(Path(visit.snapshot))
        except OSError:
            pass
        else:
            return visit
    return replace(visit, snapshot=None)
