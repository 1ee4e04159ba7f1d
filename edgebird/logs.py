"""What edgebird says about itself while it runs, on standard error.

Where it goes decides what a line looks like:

- a terminal or a pipe: the message, for the person who is there;
- a file: date, time, level and message, since nobody was there;
- the journal of systemd: the message with its priority. Time, program and process stand beside it
  there already.

With ``--log-json`` each line is a JSON object in all three: ``time`` (UTC), ``level``, ``logger``,
``message`` and, for an error that nobody expected, ``traceback``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

log = logging.getLogger("edgebird")

NUMBERS_VARY = {"numbers_vary": True}
"""``extra`` of a message that is the same as others that differ in numbers only, for `Repeats`."""

_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")
_REPEATS = 5
_WINDOW_S = 60.0
_REMEMBERED = 100


def set_up(
    stream: TextIO | None = None,
    *,
    as_json: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Let all loggers write to ``stream`` (default: standard error): edgebird from INFO, libraries
    from WARNING, and nothing in a flood (see `Repeats`).

    May be called again, to change its mind.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(stream, as_json, environment))
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    # A terminal shows Python's own traceback best; elsewhere each line needs its level.
    if not isinstance(handler.formatter, PlainFormatter):
        sys.excepthook = _log_unexpected
        threading.excepthook = lambda args: _log_unexpected(
            args.exc_type, args.exc_value, args.exc_traceback
        )


def is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to ``stream`` goes to systemd's journal.

    systemd.exec(5): ``JOURNAL_STREAM`` holds device and inode of the journal's end, to be compared,
    because a program may have redirected its output since.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a real file
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def is_json() -> bool:
    """Whether `set_up` was asked for JSON."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)


class PlainFormatter(logging.Formatter):
    """The message for a person; one that ends the program names it."""

    def format(self, record: logging.LogRecord) -> str:
        """The text."""
        text = super().format(record)
        return f"edgebird: {text}" if record.levelno >= logging.ERROR else text


class JournalFormatter(logging.Formatter):
    """Each line begins with its priority as ``<N>``, see sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        """The text."""
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines() or [""])


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The text."""
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


class Repeats(logging.Filter):
    """Lets the same message of one logger pass five times a minute, then counts, and tells how many
    were left out when it passes again. Numbers in it are ignored where it comes with
    `NUMBERS_VARY`.

    A loose cable or a library that complains about each picture must not fill a disk.

    Args:
        clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # from a message to when its minute began, how often it passed, how many were left out
        self._seen: OrderedDict[tuple[str, str], tuple[float, int, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message passes."""
        message = record.getMessage()
        varies = getattr(record, "numbers_vary", False)
        key = record.name, _NUMBER.sub("#", message) if varies else message
        now_s = self._clock()
        began_s, passed, left_out = self._seen.pop(key, (now_s, 0, 0))
        if now_s - began_s >= _WINDOW_S:
            if left_out:
                record.msg, record.args = f"{message} (and {left_out} times before)", ()
            began_s, passed, left_out = now_s, 0, 0
        passes = passed < _REPEATS
        self._seen[key] = began_s, passed + passes, left_out + (not passes)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return passes


def _formatter(stream: TextIO, as_json: bool, environment: Mapping[str, str]) -> logging.Formatter:
    if as_json:
        return JsonFormatter()
    if is_journal(stream, environment):
        return JournalFormatter()
    if _is_file(stream):
        return logging.Formatter(
            "%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
        )
    return PlainFormatter()


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _priority(level: int) -> int:
    """The syslog priority of a level: 2 critical, 3 error, 4 warning, 6 informational, 7 debug."""
    if level >= logging.WARNING:
        return 2 + (level < logging.CRITICAL) + (level < logging.ERROR)
    return 6 if level >= logging.INFO else 7


def _log_unexpected(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> Any:
    if error is not None and not isinstance(error, SystemExit):
        log.critical("unexpected error: %r", error, exc_info=(kind, error, trace))
