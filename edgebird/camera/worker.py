"""The process that reads one camera: ``python -m edgebird.camera.worker``, started by `LiveCamera`.

A read can hang in a driver or a library for ever, and a thread that hangs there cannot be ended:
it keeps the device open, so that nobody else can use it. A process can be killed, and what it held
is free again. It costs about 20 MB of memory of its own; code pages are shared with the parent.

It opens its camera, puts each picture into the `Slot` and, when none comes any more, opens the
camera again, with growing pauses. It tells its parent, one JSON object a line: ``{"state":
"opening"}``, ``{"state": "open"}``, or ``{"state": "closed", "error": "..."}``, without an error
when pictures just came no more. After many openings it ends, to be replaced by a new one, as it
does after an error that nobody expected, which it tells before. What libraries complain of goes to
its standard error, which the parent reads, too.

Its standard input begins with a line, what to give to the opening function; it ends with its
parent, whose end of that closes then.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

from edgebird.camera.slot import Picture, Slot
from edgebird.errors import CameraError, EdgebirdError

FIRST_RETRY_S = 0.5
# The camera is found again within this time (and its own start) after it has come back.
LAST_RETRY_S = 5.0
# What gives pictures for less long (an address with a single one, a camera that dies after each
# first) would otherwise be lost and back twice a second without end.
_STEADY_S = 10.0
# What a library leaves behind at each opening (picamera2 two file descriptors, when the camera is
# in use by another program) must not add up until nothing can be opened any more.
MOST_OPENINGS = 50
# Some pictures of a shaky cable cannot be decoded; so many in a row are no accident.
_MAX_BAD_READS = 5
_BAD_READ_PAUSE_S = 0.02


class Capture(Protocol):
    """An open camera."""

    def read(self) -> Picture | None:
        """Wait for the next picture; None when it is spoilt or does not come in time."""

    def release(self) -> None:
        """Let go of the device."""


def serve(
    make: Any,
    slot: Slot,
    say: Any,
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep the slot filled, until the camera was opened `MOST_OPENINGS` times.

    Args:
        make: opens the camera; a function without arguments that returns a `Capture` or raises
            CameraError.
        slot: takes the pictures.
        say: takes each message for the parent.
        pause: waits for so many seconds before the camera is opened again; another one in tests.
        clock: the time in seconds; another one in tests.
    """
    retry_s = FIRST_RETRY_S
    for _ in range(MOST_OPENINGS):
        say({"state": "opening"})
        try:
            capture: Capture = make()
        except EdgebirdError as error:
            say({"state": "closed", "error": str(error)})
        else:
            say({"state": "open"})
            end = {"state": "closed"}
            open_s = clock()
            try:
                if _fill(slot, capture) and clock() - open_s >= _STEADY_S:
                    retry_s = FIRST_RETRY_S
            except CameraError as error:
                end["error"] = str(error)
            capture.release()
            say(end)
        # jitter, so that several cameras of one hub do not come back in step
        pause(retry_s * random.uniform(0.8, 1.2))
        retry_s = min(2 * retry_s, LAST_RETRY_S)


def _fill(slot: Slot, capture: Capture) -> int:
    """Pass on pictures until no more come; how many there were.

    Raises:
        CameraError: they are too large.
    """
    pictures = bad = 0
    while bad < _MAX_BAD_READS:
        picture = _read(capture)
        if picture is None:
            bad += 1
            time.sleep(_BAD_READ_PAUSE_S)
        else:
            try:
                slot.put(picture)
            except ValueError as error:
                raise CameraError(
                    f"it gives {error}, which is too large: set camera.size to [3840, 2160] or "
                    "less ([1920, 1080] with 512 MB of memory), that of a stream in the camera's "
                    "own settings"
                ) from error
            pictures += 1
            bad = 0
    return pictures


def _read(capture: Capture) -> Picture | None:
    """The next picture, None for anything else that a broken camera gives."""
    try:
        picture = capture.read()
    except (cv2.error, CameraError):
        return None
    if picture is None:
        return None
    shape = np.shape(picture.pixels)
    good = picture.pixels.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and 0 not in shape
    return picture if good else None


def _end_with_parent() -> None:
    # The main thread may hang in a driver by then, so nothing less will do.
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(argv: list[str]) -> None:
    """Entry point of the process.

    Args:
        argv: the opening function as ``module:name``, and the file descriptors of the slot. The
            function's keyword arguments come as JSON, the first line of standard input: all users
            of a machine can see what programs were started with, and a stream's password is none
            of their business.
    """
    module, _, name = argv[0].partition(":")
    slot = Slot(int(argv[1]), int(argv[2]))
    arguments = json.loads(sys.stdin.readline())
    # A library that complains of each picture must not be held up when nobody reads it.
    os.set_blocking(2, False)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    # Messages have standard output for themselves, whatever libraries print.
    messages = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, str]) -> None:
        os.write(messages, json.dumps(message).encode() + b"\n")

    try:
        open_capture = getattr(importlib.import_module(module), name)
        serve(lambda: open_capture(**arguments), slot, say)
    except BrokenPipeError:
        return
    except Exception as error:  # noqa: BLE001  (whatever a library raises, the parent has to know)
        say({"state": "closed", "error": f"the camera's process ended with {error!r}"})
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
