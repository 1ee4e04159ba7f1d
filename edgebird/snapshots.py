"""Keeps one annotated picture of each visit: its best shot."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

from edgebird.annotate import draw_birds, make_folder, write_jpeg
from edgebird.disk import DiskUse, believed_until_s, free_mb, is_read_only
from edgebird.errors import OutputError
from edgebird.structures import VisitChanged
from edgebird.visit_ids import MOMENT

_OUR_PICTURE = re.compile(rf"{MOMENT}\.jpg\Z")
_HALF_WRITTEN = re.compile(rf"\A\..+{MOMENT}\.jpg\.partial\Z")
_PART = "pictures"
# So much room is made at once, so that the folder need not be read for each picture.
_ROOM_SHARE = 0.05
# A limit that was reached holds until there is so much less or more, and is not said each minute.
_SLACK = 0.1
# Longer than a small board takes to compress a large picture, and a worn card to take it.
_HANGS_S = 5.0


class Snapshots:
    """Writes ``<folder>/<visit id>.jpg`` when a visit starts, and again with the best shot when it
    ends.

    This comes before the sinks, so that an alert never names a picture that is not there. A disk
    that cannot take it, or shall not, does not stop detection: the alert goes out without a
    picture. One that hangs is waited for once, for some seconds, and then no more until it goes
    on. What was left half written by an earlier run is deleted at the start.

    Args:
        folder: for the pictures.
        keep_mb: the oldest ones are deleted when all of them take more than so many megabytes;
            those in the folder ``kept`` in it do not count and stay.
        reserve_mb: the oldest ones also make room when less than this is free on the disk; without
            any to delete, no pictures are written.
        write_mb_per_day: no pictures are written when more than this was written within 24 hours,
            in all and over restarts.
        disk: counts what is written, and is told what is wrong.

    Raises:
        OutputError: the folder cannot be created or written to at the start, and is not one with
            pictures whose disk has become read-only.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_mb: float = 500.0,
        reserve_mb: float = 0.0,
        write_mb_per_day: float = math.inf,
        disk: DiskUse | None = None,
    ) -> None:
        self._disk = disk or DiskUse()
        try:
            make_folder(folder)
        except OutputError as error:
            # Where there are pictures already it is no wrong setting but a card that fails, and a
            # service that starts again goes on.
            if not (is_read_only(folder) and self._has_pictures(folder)):
                raise
            self._disk.fail(_PART, f"{error}; alerts go out without a picture")
        self._folder = folder.resolve()
        self._keep_bytes = keep_mb * 1e6
        self._reserve_mb = reserve_mb
        self._write_mb_per_day = write_mb_per_day
        self._paused = False
        self._writing: Future[str | None] | None = None
        self._last: str | None = None
        self._delete_half_written()
        self._room_bytes = 0.0
        self._make_room()

    def limit(self, *, keep_mb: float, reserve_mb: float, write_mb_per_day: float) -> None:
        """Keep to other limits from the next picture on."""
        self._keep_bytes = keep_mb * 1e6
        self._reserve_mb = reserve_mb
        self._write_mb_per_day = write_mb_per_day
        self._room_bytes = 0.0

    def save(self, change: VisitChanged) -> VisitChanged:
        """Write the picture; the same change with its path filled in."""
        if change.best_image is None:
            return change
        if self._writing is None or self._writing.done():
            self._writing = Future()
            work = (change, self._writing)
            Thread(target=self._write, args=work, name="pictures", daemon=True).start()
            with suppress(TimeoutError):
                snapshot = self._writing.result(_HANGS_S)
                return replace(change, visit=replace(change.visit, snapshot=snapshot))
        self._disk.fail(_PART, f"the disk of {self._folder} hangs; alerts go out without a picture")
        # that of its start may be there
        known = self._last == str(self._folder / f"{change.visit.id}.jpg")
        return replace(change, visit=replace(change.visit, snapshot=self._last if known else None))

    # --- on a thread of its own, one picture at a time

    def _write(self, change: VisitChanged, written: Future[str | None]) -> None:
        try:
            written.set_result(self._path_when_written(change))
        except BaseException as error:  # noqa: BLE001  (the thread that waits shall have it)
            written.set_exception(error)

    def _path_when_written(self, change: VisitChanged) -> str | None:
        assert change.best_image is not None
        path = self._folder / f"{change.visit.id}.jpg"
        try:
            self._check_limits(path)
            size = write_jpeg(draw_birds(change.best_image, change.best_birds), path)
        except OutputError as error:
            self._disk.fail(_PART, f"{error}; alerts go out without a picture")
            return _path_of(path)  # that of its start may be there
        self._last = str(path)
        self._disk.recover(_PART, f"pictures can be written to {self._folder} again")
        self._disk.count(size)
        self._room_bytes -= size
        if self._room_bytes < 0:
            self._make_room(path)
        return str(path)

    def _check_limits(self, path: Path) -> None:
        """Raise OutputError when a limit says that this picture shall not be written now."""
        slack = _SLACK if self._paused else 0.0
        self._paused = True
        limit = self._write_mb_per_day
        if self._disk.written_mb_per_day > limit * (1 - slack):
            raise OutputError(
                f"more than {limit:g} MB were written within a day, the limit that the setting "
                "write_mb_per_day sets to spare the disk"
            )
        try:
            free = free_mb(self._folder)
        except OSError as error:
            reason = error.strerror
            raise OutputError(f"cannot write to {self._folder}: {reason}") from error
        lacking_mb = self._reserve_mb * (1 + _SLACK) - free
        if free < self._reserve_mb * (1 + slack) and not self._give_way(path, lacking_mb * 1e6):
            raise OutputError(
                f"only {free:.0f} MB are free on the disk of {self._folder}, the setting "
                f"reserve_mb leaves {self._reserve_mb:g} MB to others, and there is no older "
                "picture to delete"
            )
        self._paused = False

    def _give_way(self, path: Path, lacking_bytes: float) -> bool:
        """Delete the oldest pictures where the disk has too little room.

        Not more than a share at once, because what fills the disk may take that room, too. Where
        all of them are less than what is lacking, it would not help that they go: then a new one
        only takes the place of the oldest.

        Returns:
            Whether a picture may be written to the path: one went, or is there already.
        """
        there = os.path.isfile(path)
        pictures = self._pictures()
        wanted_bytes = min(lacking_bytes, _ROOM_SHARE * self._keep_bytes)
        if lacking_bytes > sum(size for _, size, _ in pictures):
            wanted_bytes = 0 if there else 1
        return _delete_oldest(pictures, wanted_bytes, path) > 0 or there

    def _make_room(self, newest: Path | None = None) -> None:
        """Keep to the limit; what is in the folder besides our pictures is left alone."""
        pictures = self._pictures()
        total = sum(size for _, size, _ in pictures)
        room = _ROOM_SHARE * self._keep_bytes
        _delete_oldest(pictures, total + room - self._keep_bytes, newest)
        # Other cameras may use the folder too, so this much is as long as our count holds.
        self._room_bytes = room

    def _pictures(self) -> list[tuple[float, int, str]]:
        """When each was written, its size in bytes and its path; the oldest first, and before them
        those of a clock that was ahead.
        """
        found = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _OUR_PICTURE.search(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, entry.path))
        until_s = believed_until_s()
        return sorted(found, key=lambda picture: (picture[0] <= until_s, picture))

    @staticmethod
    def _has_pictures(folder: Path) -> bool:
        try:
            return any(_OUR_PICTURE.search(name) for name in os.listdir(folder))
        except OSError:
            return False

    def _delete_half_written(self) -> None:
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _HALF_WRITTEN.match(entry.name):
                    os.unlink(entry.path)


def _delete_oldest(
    pictures: Sequence[tuple[float, int, str]], wanted_bytes: float, newest: Path | None
) -> int:
    """Delete until so much is gone, or only the newest is left; how many bytes went."""
    gone = 0
    for _, size, path in pictures:
        if gone >= wanted_bytes:
            break
        if path == str(newest):
            continue
        with suppress(OSError):
            os.unlink(path)
            gone += size
    return gone


def _path_of(picture: Path) -> str | None:
    # unlike Path.is_file it does not raise where a disk fails
    return str(picture) if os.path.isfile(picture) else None
