"""Cameras that do what a test wants, opened in the process that reads them, as real ones are."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgebird.camera.live import LiveCamera, Patience
from edgebird.camera.picamera import PicameraCapture
from edgebird.camera.settings import CameraSettings
from edgebird.camera.slot import Picture
from edgebird.errors import CameraError
from edgebird.structures import Image

RED = (230, 20, 10)
SIZE = (64, 48)

# the process that reads a camera has to find this file
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
)


def red_picture(size: tuple[int, int] = SIZE) -> Image:
    return np.full((size[1], size[0], 3), RED, np.uint8)


class ScriptedCapture:
    """Gives red pictures, whose corner counts them, and then does what ``then`` says.

    Before each it complains so many times, as native libraries do.
    """

    def __init__(
        self,
        play: int,
        then: str,
        pace_s: float = 0.005,
        size: tuple[int, int] = SIZE,
        complaints: int = 0,
    ) -> None:
        self._left = play
        self._then = then
        self._pace_s = pace_s
        self._size = size
        self._complaints = complaints
        self._count = 0

    def read(self) -> Picture | None:
        if self._left == 0:
            if self._then == "hang":
                time.sleep(3600)
            if self._then == "die":
                os._exit(1)
            if self._then == "break":
                raise ZeroDivisionError("the driver is broken")
            return None
        self._left -= 1
        time.sleep(self._pace_s)
        for number in range(self._complaints):
            with suppress(BlockingIOError):
                os.write(2, b"Corrupt JPEG data: %d extraneous bytes before marker 0xd7\n" % number)
        pixels = red_picture(self._size)[..., ::-1].copy()
        pixels[0, 0] = self._count
        self._count += 1
        return Picture(pixels, time.monotonic(), time.time())

    def release(self) -> None:
        pass


def scripted_capture(script: list[dict[str, Any]], state: str) -> ScriptedCapture:
    """The n-th opening follows the n-th part of the script, the last one from then on."""
    opened = Path(state)
    number = int(opened.read_text()) if opened.exists() else 0
    opened.write_text(str(number + 1))
    part = script[min(number, len(script) - 1)]
    if "refuse" in part:
        raise CameraError(part["refuse"])
    return ScriptedCapture(**part)


def scripted_camera(
    *script: dict[str, Any], state: Path, patience: Patience | None = None
) -> LiveCamera:
    arguments = {"script": script, "state": str(state)}
    return LiveCamera("stand_ins:scripted_capture", arguments, source="cam", patience=patience)


class StandInLibcamera:
    """As much of libcamera as is used."""

    class ColorSpace:
        Sycc = staticmethod(lambda: "from 0 to 255")

    Transform = staticmethod(lambda hflip, vflip: (hflip, vflip))


class StandInPicamera2:
    """As much of Picamera2 as is used, as its manual describes it: formats named by their bytes
    from high to low, rows of YUV420 padded to 64 pixels, requests that have to be released.
    """

    camera_properties: Mapping[str, Any] = {"Model": "imx708", "PixelArraySize": (4608, 2592)}

    def __init__(self, number: int) -> None:
        self.camera_controls = {"AfMode": (0, 2, 0), "LensPosition": (0, 32, 1), "ExposureTime": ()}
        if number > 0:
            raise IndexError("list index out of range")
        self.configuration: dict[str, Any] = {}
        self.started = False
        self.held = 0

    def create_video_configuration(self, main: dict[str, Any], **more: Any) -> dict[str, Any]:
        known = {"lores", "raw", "buffer_count", "queue", "transform", "colour_space", "controls"}
        assert more.keys() <= known
        return {"main": main, **more}

    def configure(self, configuration: dict[str, Any]) -> None:
        main, lores = (configuration[name]["size"] for name in ("main", "lores"))
        assert lores[0] <= main[0]
        assert lores[1] <= main[1]
        # without a size of its own it has the main stream's
        raw = configuration.get("raw", {}).get("size", main)
        assert not any(side % 2 for side in (*main, *lores, *raw))
        self.configuration = configuration

    def start(self) -> None:
        assert self.configuration
        self.started = True

    def capture_request(self, wait: bool) -> StandInRequest:
        assert wait is False
        if not self.started:
            raise RuntimeError("Camera has not been started")
        if self.held >= self.configuration["buffer_count"]:
            raise AssertionError("all buffers are held: a request was not released")
        self.held += 1
        return StandInRequest(self)

    def wait(self, job: StandInRequest, timeout: float) -> StandInRequest:
        time.sleep(0.01)
        return job

    def close(self) -> None:
        self.started = False


class StandInRequest:
    def __init__(self, camera: StandInPicamera2) -> None:
        self._camera = camera
        self._taken_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 20_000_000

    def make_array(self, name: str) -> Image:
        stream = self._camera.configuration[name]
        width, height = stream["size"]
        if stream["format"] == "YUV420":
            padded = -(-width // 64) * 64
            yuv = np.full((height * 3 // 2, padded), 128, np.uint8)
            yuv[:height, :width] = 77
            yuv[:height, width:] = 0
            return yuv
        order = {"RGB888": slice(None, None, -1), "BGR888": slice(None)}[stream["format"]]
        return np.broadcast_to(np.array(RED, np.uint8)[order], (height, width, 3)).copy()

    def get_metadata(self) -> dict[str, Any]:
        return {"SensorTimestamp": self._taken_ns, "FrameDuration": 100_000}

    def release(self) -> None:
        self._camera.held -= 1


class StallingPicamera2(StandInPicamera2):
    """Gives one picture, then none in time."""

    waits = 0

    def wait(self, job: StandInRequest, timeout: float) -> StandInRequest:
        self.waits += 1
        if self.waits > 1:
            raise TimeoutError
        return super().wait(job, timeout)


def picamera_stand_in(
    number: int, settings: dict[str, Any], stall: bool = False
) -> PicameraCapture:
    make = StallingPicamera2 if stall else StandInPicamera2
    return PicameraCapture(make, StandInLibcamera, number, CameraSettings(**settings))
