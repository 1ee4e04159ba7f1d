"""Examines an installation, one thing after the other: ``edgebird doctor``.

Each check is a function that is given the installation and says what it found. It has a limited
time, and whatever goes wrong in it is its own finding.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Literal, NoReturn

from edgebird.config import Config
from edgebird.doctor.machine import Machine
from edgebird.errors import EdgebirdError
from edgebird.structures import Frame

_WAKE_S = 0.2

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Args:
        state: ``ok``, ``warn`` (works, but look at it), ``fail``, or ``skip`` (cannot be known
            here, or is not used).
        found: for a person.
        cure: what to do about it, if anything.
    """

    state: State
    found: str
    cure: str = ""


@dataclass(kw_only=True)
class Installation:
    """What is examined.

    Args:
        machine: this one.
        config: its settings.
        config_path: the file that they are from, if any.

    Attributes:
        frame: a picture of its camera, once that was opened.
        broker_answers: the broker was tried out, and is good.
    """

    machine: Machine
    config: Config
    config_path: Path | None = None
    frame: Frame | None = field(default=None, init=False)
    broker_answers: bool = field(default=False, init=False)


@dataclass(frozen=True, slots=True)
class Examination:
    """A check to be made.

    Args:
        name: of what is looked at.
        look: does it.
        limit_s: how long that may take.
        exit_code: of the program if it fails; see `edgebird.errors`.
        cure: where an error has none of its own.
    """

    name: str
    look: Callable[[Installation], Check]
    limit_s: float = 20.0
    exit_code: int = 1
    cure: str = ""


def examine(
    installation: Installation, examinations: Sequence[Examination]
) -> Iterator[tuple[Examination, Check]]:
    """Make the checks in their order; each one's finding as soon as it is there.

    Ctrl-C during a check ends the whole process, with exit code 130.
    """
    for examination in examinations:
        yield examination, _bounded(examination, installation)


def _bounded(examination: Examination, installation: Installation) -> Check:
    answers: SimpleQueue[Check] = SimpleQueue()

    def look() -> None:
        try:
            answers.put(examination.look(installation))
        except EdgebirdError as error:
            answers.put(Check("fail", str(error), examination.cure))
        except Exception as error:  # noqa: BLE001  (the others are to go on)
            found = f"could not be looked at: {type(error).__name__}: {error}"
            answers.put(Check("fail", found, "this is a mistake in edgebird: please report it"))

    try:
        Thread(target=look, name=examination.name, daemon=True).start()
        give_up_s = time.monotonic() + examination.limit_s
        while time.monotonic() < give_up_s:
            # not once for all: Python 3.11 may not heed a Ctrl-C before it wakes
            with suppress(Empty):
                return answers.get(timeout=_WAKE_S)
        return Check(
            "fail",
            f"no answer within {examination.limit_s:.0f} s",
            "something hangs: try again, and after a restart of this machine",
        )
    except KeyboardInterrupt:
        _leave()


def _leave() -> NoReturn:
    """End at once: were Python to end in its own way, a check that is in the middle of native code
    would abort the process (SIGABRT).
    """
    try:
        with suppress(OSError):  # whoever read our output is gone
            sys.stderr.write("\n")  # after the terminal's ^C
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(130)
