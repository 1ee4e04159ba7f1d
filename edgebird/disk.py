"""What is written to disks and what is wrong with them: a card shall live long and not fill up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock

HOURS_A_DAY = 24
# A Pi without a clock starts a little in the past; what is later still was of a wrong clock.
_HOURS_AHEAD = 24
_MB = 1e6

logger = logging.getLogger(__name__)


class DiskUse:
    """Counts by the hour what this process writes, and knows what is wrong with its disks; shared
    by the threads that write and the one that reports.

    Args:
        written: how many bytes this process has had written to disks so far; None where the system
            does not tell. Then only what is passed to `count` counts.
        now_s: the time of day, as seconds since 1970-01-01 UTC.
    """

    def __init__(
        self,
        *,
        written: Callable[[], int | None] | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.used_mb: float | None = None
        self._written = written or written_bytes
        self._now_s = now_s
        self._lock = Lock()
        self._hours: dict[int, int] = {}
        self._seen = self._written() or 0
        self._problems: dict[str, str] = {}

    def count(self, size: int = 0) -> None:
        """Take note of what was written since the last time.

        Args:
            size: what the caller has written, in bytes; for systems that do not tell.
        """
        with self._lock:
            total = self._written()
            grown = size if total is None else total - self._seen
            self._seen += grown
            hour = self._hour()
            # less than before: a file was deleted before it reached the disk
            self._hours[hour] = max(0, self._hours.get(hour, 0) + grown)

    def restore(self, hours: Mapping[int, int]) -> None:
        """Add what earlier runs have written, as bytes by the hour since 1970."""
        with self._lock:
            for hour, size in hours.items():
                self._hours[hour] = self._hours.get(hour, 0) + size

    def hours(self) -> dict[int, int]:
        """Bytes by the hour since 1970, of the last day."""
        self.count()
        with self._lock:
            now = self._hour()
            last_day = range(now - HOURS_A_DAY + 1, now + _HOURS_AHEAD + 1)
            self._hours = {hour: size for hour, size in self._hours.items() if hour in last_day}
            return dict(self._hours)

    @property
    def written_mb_per_day(self) -> float:
        """What was written within the last 24 hours, this and the earlier runs together."""
        return sum(self.hours().values()) / _MB

    @property
    def problem(self) -> str | None:
        """What is wrong now, as one line."""
        return next(iter(list(self._problems.values())), None)

    def fail(self, part: str, problem: str) -> None:
        """Something cannot be written; said once until it recovers."""
        if part not in self._problems:
            logger.warning("%s", problem)
        self._problems[part] = problem

    def recover(self, part: str, message: str) -> None:
        """It can be written again, which is said if it was not so before."""
        if self._problems.pop(part, None) is not None:
            logger.warning("%s", message)

    def _hour(self) -> int:
        return int(self._now_s() // 3600)


def believed_until_s() -> float:
    """The latest time that what is kept can be of, as seconds since 1970-01-01 UTC: what bears a
    later one is of a clock that was ahead, and counts as the oldest.
    """
    return time.time() + _HOURS_AHEAD * 3600


def written_bytes(io: Path = Path("/proc/self/io")) -> int | None:
    """What this process has had written to disks, in bytes: pictures, visits, alerts, and all else.

    Counted by the system in whole pages, without what was deleted before it was written, and
    without what the file system writes for itself. None where the system does not tell.
    """
    try:
        fields = dict(line.split(": ") for line in io.read_text().splitlines())
        return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])
    except (OSError, ValueError, KeyError):
        return None


def is_read_only(folder: Path) -> bool:
    """Whether the disk that a folder is on can only be read, as a card's that fails; False where
    there is no such folder.
    """
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def free_mb(folder: Path) -> float:
    """Room on the disk that a folder is on, in MB.

    Raises:
        OSError: the folder is gone.
    """
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize / _MB


def folders_mb(folders: Iterable[Path]) -> float:
    """How much the files right in some folders take, in MB; a missing folder has none."""
    total = 0
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except OSError:
            # the folder or a file in it has just gone; what was seen so far will do
            continue
    return total / _MB


def sync(path: Path) -> None:
    """Return when a file and its name have reached the disk itself.

    Raises:
        OSError: the file is gone, or the disk fails.
    """
    for thing in (path, path.parent):
        descriptor = os.open(thing, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
