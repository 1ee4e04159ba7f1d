"""A live camera: a thread keeps the newest picture, and a lost camera is opened again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import cv2

from edgebird.errors import CameraError
from edgebird.structures import Frame, Image

log = logging.getLogger(__name__)

_LAST_RETRY_S = 30.0
_JOIN_S = 1.0


class Capture(Protocol):
    """The two methods of ``cv2.VideoCapture`` that a live camera needs."""

    def read(self) -> tuple[bool, Any]:
        """Wait for a picture: (True, uint8 (H, W, 3) BGR), or (False, None) when none comes."""

    def release(self) -> None:
        """Let go of the device."""


class LiveCamera:
    """Frames of a camera that does not wait for us: always the newest, older ones are dropped.

    A camera that gives no more pictures is logged once and opened again, at first after
    ``first_retry_s``, then at doubling intervals up to 30 s; meanwhile ``frames`` waits.

    Args:
        open_capture: opens the device or stream; raises CameraError when that fails.
        source: the camera's name for logs and frames, without credentials.
        first_retry_s: wait before the first attempt to open a lost camera again.

    Attributes:
        dropped: pictures that were replaced by a newer one before anybody asked for them.

    Raises:
        CameraError: the camera cannot be opened, or opens but gives no picture.
    """

    def __init__(
        self, open_capture: Callable[[], Capture], *, source: str, first_retry_s: float = 1.0
    ) -> None:
        self.source = source
        self.dropped = 0
        self._open_capture = open_capture
        self._first_retry_s = first_retry_s
        self._newest: tuple[Image, float, float] | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        capture = open_capture()
        if not self._read(capture):
            capture.release()
            raise CameraError(
                f"camera {source} opens but gives no picture: check that it is a camera, that no "
                "other program uses it, and for a Raspberry Pi ribbon camera use picamera2"
            )
        # A read can hang in the driver; a daemon thread does not keep the program from ending.
        self._thread = threading.Thread(
            target=self._run, args=(capture,), name=f"camera {source}", daemon=True
        )
        self._thread.start()

    @property
    def frame_count(self) -> None:
        """A live camera has no end."""
        return None

    def frames(self) -> Iterator[Frame]:
        """Yield the newest picture each time, waiting for one that was not yet seen."""
        index = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._closing.is_set())
                if self._newest is None or self._closing.is_set():
                    return
                (bgr, monotonic_s, utc_s), self._newest = self._newest, None
            rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype("uint8", copy=False)
            yield Frame(rgb, index, monotonic_s, utc_s, self.source)
            index += 1

    def close(self) -> None:
        """End ``frames`` and let go of the camera; a read that hangs is not waited for."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(_JOIN_S)

    def _read(self, capture: Capture) -> bool:
        """Put the next picture into the slot; False when the camera gave none."""
        try:
            ok, bgr = capture.read()
        except cv2.error:
            return False
        if not ok:
            return False
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = (bgr, time.monotonic(), time.time())
            self._changed.notify_all()
        return True

    def _run(self, capture: Capture | None) -> None:
        lost = False
        retry_s = self._first_retry_s
        while not self._closing.is_set():
            if capture is not None and self._read(capture):
                if lost:
                    log.warning("camera %s is back", self.source)
                lost, retry_s = False, self._first_retry_s
                continue
            if not lost:
                log.warning("camera %s is lost, trying to open it again", self.source)
                lost = True
            if capture is not None:
                capture.release()
            # jitter, so that several cameras of one hub do not come back in step
            self._closing.wait(retry_s * random.uniform(0.8, 1.2))
            retry_s = min(2 * retry_s, _LAST_RETRY_S)
            capture = self._reopen()
        if capture is not None:
            capture.release()

    def _reopen(self) -> Capture | None:
        if self._closing.is_set():
            return None
        try:
            return self._open_capture()
        except CameraError as error:
            log.debug("%s", error)
            return None
