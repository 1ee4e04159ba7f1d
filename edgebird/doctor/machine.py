"""Where facts about a machine come from; tests have others."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# adjtimex(2) gives this where the clock follows nothing; and systemd takes no larger error, in
# microseconds, for a clock that follows something.
_TIME_ERROR = 5
_LARGEST_ERROR_US = 16_000_000


@dataclass(frozen=True, slots=True)
class User:
    """Who we are: name and all group ids."""

    name: str
    gids: frozenset[int]

    @staticmethod
    def current() -> User:
        """The user of this process."""
        uid = os.geteuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        return User(name, frozenset([os.getegid(), *os.getgroups()]))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said: its exit code, output and errors."""

    code: int
    output: str
    errors: str


def may_use(path: Path) -> bool:
    """Whether we may read and write something."""
    return os.access(path, os.R_OK | os.W_OK)


def run_program(command: Sequence[str], timeout_s: float = 15.0) -> Answer | None:
    """Run a program; None if it is not there or does not end in time."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Answer(done.returncode, done.stdout, done.stderr)


def clock_is_synchronised() -> bool:
    """Whether the kernel's clock follows a time server or the like, whatever program sees to that.

    Asks the kernel with adjtimex(2), as `timedatectl` does.
    """
    # struct timex: modes, offset, freq, maxerror, ...; modes of 0 changes nothing
    timex = ctypes.create_string_buffer(512)
    state = ctypes.CDLL(None).adjtimex(timex)
    *_, largest_error_us = struct.unpack_from("@Illl", timex)
    return state not in (-1, _TIME_ERROR) and largest_error_us < _LARGEST_ERROR_US


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that can be asked.

    Args:
        root: folder that stands for ``/`` where files are read.
        run: runs a program.
        statvfs: tells of a file system, like `os.statvfs`.
        clock_is_synchronised: whether the clock follows something.
        user: who we are.
        may_use: whether this user may read and write something.
    """

    root: Path = Path("/")
    run: Callable[[Sequence[str]], Answer | None] = run_program
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs
    clock_is_synchronised: Callable[[], bool] = clock_is_synchronised
    user: User = field(default_factory=User.current)
    may_use: Callable[[Path], bool] = may_use

    def at(self, path: str) -> Path:
        """Where an absolute path is."""
        return self.root / path.lstrip("/")

    def text(self, path: str | Path) -> str | None:
        """What a file says, None if it is not there or cannot be read."""
        place = path if isinstance(path, Path) else self.at(path)
        try:
            return place.read_text("utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return None

    def number(self, path: str | Path) -> int | None:
        """The number in a file, None if there is none."""
        text = self.text(path)
        return int(text) if text is not None and text.lstrip("-").isdecimal() else None

    def found(self, pattern: str) -> list[Path]:
        """Paths that match an absolute glob."""
        return sorted(self.root.glob(pattern.lstrip("/")))
