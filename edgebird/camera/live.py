"""A live camera: another process keeps the newest picture, and a lost camera is opened again."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Literal

from edgebird.camera import is_stream
from edgebird.camera.slot import Picture, Slot
from edgebird.errors import CameraError
from edgebird.logs import NUMBERS_VARY
from edgebird.structures import Frame, Silence

log = logging.getLogger(__name__)

_SILENCE_S = 1.0
_LONGEST_PAUSE_S = 5.0
_KILLED_WITHIN_S = 5.0
_NO_MORE = "it gives no pictures any more"
# as much as a pipe holds
_PIPE_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a camera may take before its process is killed and a new one started.

    Args:
        open_s: to open.
        first_s: from then to the first picture.
        read_s: from one picture to the next.
    """

    open_s: float = 20.0
    first_s: float = 7.0
    read_s: float = 5.0


class LiveCamera:
    """Frames of a camera that does not wait for us: always the newest, older ones are dropped.

    The camera is read in a process of its own (see `edgebird.camera.worker`), which opens it again
    when it is lost, and which is killed and replaced when it hangs or ends. Loss and return are
    logged once each; lines that libraries write to standard error there are logged as warnings.

    Args:
        opener: the function that opens the camera, as ``module:name``; it runs in that process,
            returns a `Capture` and raises CameraError.
        arguments: its keyword arguments; they travel as JSON, out of sight of other users.
        source: the camera's name for logs and frames, without credentials.
        patience: time-outs.
        required: the camera has to be there now; otherwise one that is not counts as lost, and is
            waited for.

    Attributes:
        dropped: pictures that were replaced by a newer one before anybody asked for them.

    Raises:
        CameraError: a required camera cannot be opened, or opens but gives no picture.
    """

    def __init__(
        self,
        opener: str,
        arguments: dict[str, Any],
        *,
        source: str,
        patience: Patience | None = None,
        required: bool = True,
    ) -> None:
        self.source = source
        self.dropped = 0
        self._command = opener, json.dumps(arguments)
        self._patience = patience or Patience()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._iterating = False
        self._reader = self._start()
        try:
            self._first: Picture | None = self._wait_for_first() if required else None
        except BaseException:
            self.close()
            raise

    @property
    def frame_count(self) -> None:
        """A live camera has no end."""
        return None

    @property
    def process_id(self) -> int:
        """Of the process that reads the camera now."""
        return self._reader.process.pid

    def frames(self) -> Iterator[Frame | Silence]:
        """Yield the newest picture each time, waiting for one that was not yet seen."""
        with self._lock:
            if self._closing.is_set():
                return
            self._iterating = True
        try:
            yield from self._frames()
        finally:
            with self._lock:
                self._iterating = False
                self._reader.release()

    def restart(self) -> None:
        """Open the camera anew: for one that goes on, but no longer shows what is there.

        To be called between two frames.
        """
        with self._lock:
            if not self._closing.is_set():
                self._reader.release()
                self._reader = self._start()

    def close(self) -> None:
        """End ``frames`` and let go of the camera, also when it hangs."""
        with self._lock:
            self._closing.set()
            # the end of the process wakes whoever waits for its pictures
            self._reader.kill()
            if not self._iterating:
                self._reader.release()

    def _start(self) -> _Reader:
        return _Reader(*self._command, source=self.source)

    def _frames(self) -> Iterator[Frame | Silence]:
        index = 0
        lost, error = False, None
        pause_s, not_before_s = _SILENCE_S, 0.0
        picture, self._first = self._first, None
        while not self._closing.is_set():
            if picture is None:
                picture = self._next_picture(_SILENCE_S)
            if picture is not None:
                if lost:
                    log.warning("camera %s is back", self.source)
                lost, error, pause_s = False, None, _SILENCE_S
                times = picture.monotonic_s, picture.utc_s
                frame = Frame(picture.pixels, index, *times, self.source, picture.luma)
                picture = None
                index += 1
                yield frame
                continue
            if self._closing.is_set():
                return
            hangs = self._reader.hangs(self._patience)
            silence = "its process has ended" if self._reader.ended else "it does not answer"
            error = self._reader.problem or (hangs and silence) or error
            if not lost and error:
                # it may begin with the camera's name
                reason = error.removeprefix(f"camera {self.source}").lstrip(": ")
                log.warning("camera %s is lost: %s; trying again", self.source, reason)
                lost = True
            if hangs and time.monotonic() >= not_before_s:
                self.restart()
                not_before_s = time.monotonic() + pause_s
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            yield Silence(time.monotonic(), time.time(), lost, error or None)

    def _wait_for_first(self) -> Picture:
        reader = self._reader
        while not (reader.hangs(self._patience) or self._closing.is_set()):
            if (picture := self._next_picture(0.5)) is not None:
                return picture
            if reader.problem and not reader.was_open:
                raise CameraError(reader.problem)
            if reader.problem not in (None, _NO_MORE):
                raise CameraError(f"camera {self.source} cannot be used: {reader.problem}")
            if reader.problem:
                break
        if is_stream(self.source):
            advice = "set the camera to H.264, H.265 or MJPEG"
        else:
            advice = (
                "check that it is a camera, that no other program uses it, and for a Raspberry Pi "
                "ribbon camera use picamera2"
            )
        raise CameraError(f"camera {self.source} opens but gives no picture: {advice}")

    def _next_picture(self, timeout_s: float) -> Picture | None:
        """The newest picture; None when none comes in time, when the camera gets into trouble, or
        at the end.
        """
        give_up_s = time.monotonic() + timeout_s
        known = self._reader.problem
        while not self._closing.is_set():
            picture, missed = self._reader.take()
            self.dropped += missed
            left_s = give_up_s - time.monotonic()
            if picture is not None or left_s <= 0 or self._reader.problem != known:
                return picture
            if not self._reader.wait(left_s):
                self._closing.wait(left_s)
        return None


class _Lines:
    """Lines out of a pipe, as far as they have come.

    Attributes:
        ended: nothing comes any more.
    """

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self.ended = False
        self._pipe = pipe
        self._unfinished = b""
        os.set_blocking(pipe.fileno(), False)

    def fileno(self) -> int:
        """The pipe's file descriptor, to wait for."""
        return self._pipe.fileno()

    def read(self) -> list[str]:
        """Those that came since the last time, without waiting; the last one may lack its end."""
        try:
            heard = os.read(self._pipe.fileno(), _PIPE_BYTES)
        except BlockingIOError:
            return []
        self.ended |= not heard
        *lines, self._unfinished = (self._unfinished + (heard or b"\n")).split(b"\n")
        # what never ends its line must not fill the memory
        self._unfinished = self._unfinished[-_PIPE_BYTES:]
        return [text for line in lines if (text := line.decode(errors="replace").strip())]

    def close(self) -> None:
        """Close the pipe."""
        self._pipe.close()


class _Reader:
    """One process that reads the camera.

    Args:
        opener: the function that opens it, as ``module:name``.
        arguments: that function's, as JSON.
        source: the camera's name for logs.

    Attributes:
        problem: why the camera is closed, as the process said; None when it is not.
        was_open: the camera has been open.
    """

    def __init__(self, opener: str, arguments: str, *, source: str) -> None:
        self._source = source
        self.problem: str | None = None
        self.was_open = False
        self._slot = Slot.create()
        fds = self._slot.memory_fd, self._slot.count_fd
        self.process = subprocess.Popen(
            # -P: without modules of the folder that we were started in
            [sys.executable, "-P", "-m", "edgebird.camera.worker", opener, *map(str, fds)],
            # takes the arguments; its end closes with us, and then the process ends
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            # Ctrl-C is for us, who end it in order
            process_group=0,
            env={
                # a camera that is away would have it tell so each time it is opened
                "LIBCAMERA_LOG_LEVELS": "*:ERROR",
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": "4",
            },
        )
        assert self.process.stdin is not None
        self._stdin = self.process.stdin
        self._messages = _Lines(self.process.stdout)
        self._complaints = _Lines(self.process.stderr)
        with suppress(BrokenPipeError):  # it has ended, which shows in its messages
            os.write(self._stdin.fileno(), f"{arguments}\n".encode())
        self._released = False
        self._waits_for: Literal["open", "first", "next"] = "open"
        self._active_s = time.monotonic()

    def take(self) -> tuple[Picture | None, int]:
        """The newest picture that was not taken yet and how many were missed, without waiting."""
        picture, missed = self._slot.take()
        # Then, as it may have been closed after that picture, which does not open it again.
        self._hear()
        if picture is not None and self._waits_for != "open":
            self.problem = None
            self._waits_for = "next"
            self._active_s = time.monotonic()
        return picture, missed

    def wait(self, timeout_s: float) -> bool:
        """Wait for a picture or a message; False at once when the process has ended."""
        if self.ended:
            return False
        select.select([self._slot.count_fd, self._messages.fileno()], [], [], timeout_s)
        return True

    @property
    def ended(self) -> bool:
        """Whether the process has ended, by all that was heard."""
        return self._messages.ended

    def hangs(self, patience: Patience) -> bool:
        """Whether it has ended, or nothing was heard of it for too long."""
        limits_s = {"open": patience.open_s, "first": patience.first_s, "next": patience.read_s}
        return self.ended or time.monotonic() - self._active_s > limits_s[self._waits_for]

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()

    def release(self) -> None:
        """End the process, and close what we shared with it."""
        if self._released:
            return
        self._released = True
        self.kill()
        # One that is stuck in the kernel cannot be waited for; it goes when its driver lets it.
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_KILLED_WITHIN_S)
        self._pass_on()  # its last words
        for pipe in (self._stdin, self._messages, self._complaints):
            pipe.close()
        self._slot.close()

    def _pass_on(self) -> None:
        """Log what libraries complained of."""
        for line in self._complaints.read():
            log.warning("camera %s: %s", self._source, line, extra=NUMBERS_VARY)

    def _hear(self) -> None:
        self._pass_on()
        for line in self._messages.read():
            message = json.loads(line)
            self._active_s = time.monotonic()
            is_open = message["state"] == "open"
            self._waits_for = "first" if is_open else "open"
            self.was_open |= is_open
            if message["state"] == "closed":
                self.problem = message.get("error", _NO_MORE)
