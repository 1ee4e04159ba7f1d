"""The Raspberry Pi's ribbon camera, through the system's picamera2.

Section numbers in comments are those of "The Picamera2 Library" (Raspberry Pi Ltd, the manual that
the package's own README points to).
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from edgebird.camera.live import LiveCamera
from edgebird.camera.settings import CameraSettings, turned
from edgebird.camera.slot import Picture
from edgebird.errors import CameraError
from edgebird.structures import Image

_FRAME_TIMEOUT_S = 4.0
_DEFAULT_SIZE = (1280, 720)
_LUMA_WIDTH_PX = 320
# Raw pictures take memory, too: three of them, each of so many pixels at most 6 MB.
_MOST_RAW_PX = 4_200_000
# The end of a USB camera's id: the numbers of its maker and of the product.
_USB_ID = re.compile(r"-[0-9a-f]{4}:[0-9a-f]{4}\Z")


def open_picamera(
    number: int = 0,
    settings: CameraSettings | None = None,
    *,
    opener: str = f"{__name__}:picamera_capture",
    required: bool = True,
) -> LiveCamera:
    """Open a ribbon camera.

    Args:
        number: which camera, as `list_picameras` counts them.
        settings: what is asked of it; 1280 x 720 pixels without a size. Of the sensor all is
            shown, but for what a picture of another shape leaves out. Of a size above half the
            sensor's it may be the middle only.
        opener: stands in for `picamera_capture` in tests, see `LiveCamera`.
        required: the camera has to be there now.

    Raises:
        CameraError: picamera2 is not installed, or the camera cannot be used, and it is required.
    """
    arguments = {"number": number, "settings": asdict(settings or CameraSettings())}
    return LiveCamera(opener, arguments, source=f"picamera2:{number}", required=required)


def picamera_capture(number: int, settings: dict[str, Any]) -> PicameraCapture:
    """Open a ribbon camera (in the process that reads it); see `open_picamera`."""
    wanted = CameraSettings(**settings)
    return PicameraCapture(_import("picamera2").Picamera2, _import("libcamera"), number, wanted)


class PicameraCapture:
    """A started ribbon camera: its pictures at full detail, each with a small one of its luma.

    Args:
        make: ``picamera2.Picamera2``, or what stands in for it.
        libcamera: the module, or what stands in for it.
        number: of the camera.
        settings: what is asked of it.

    Raises:
        CameraError: it cannot be used.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        libcamera: Any,
        number: int,
        settings: CameraSettings,
    ) -> None:
        # The camera mirrors, and so turns by 180 degrees, at no cost; the rest is left to us.
        half_turn = settings.rotate in (180, 270)
        mirrored = (settings.flip_horizontal != half_turn, settings.flip_vertical != half_turn)
        self._left_to_do = CameraSettings(rotate=90 if settings.rotate in (90, 270) else 0)
        width, height = tuple(settings.size or _DEFAULT_SIZE)
        # 4.2.2.1 image sizes: even ones. 4.2.4: the second stream must not be larger than the main.
        luma_width = min(_LUMA_WIDTH_PX, width) // 2 * 2
        luma_height = max(2, round(luma_width * height / width / 2) * 2)
        self._luma_size = luma_width, luma_height
        camera = None
        try:
            # 8.4 multiple cameras: the constructor takes the number
            camera = make(number)
            configuration = camera.create_video_configuration(
                # Appendix A: names are those of the bytes from high to low. "RGB888" comes as an
                # array in B, G, R order, which is what a capture is to deliver.
                main={"size": (width, height), "format": "RGB888"},
                # 4.2.4 the lores stream: on boards before the Pi 5 always YUV420
                lores={"size": self._luma_size, "format": "YUV420"},
                raw=_raw_stream((width, height), camera.camera_properties),
                # 4.2.1.3: the default is 6. One being filled, one queued, one being read are
                # enough for newest-frame-wins, and fit the contiguous memory of a 512 MB board.
                buffer_count=3,
                # 4.2.1.4: with a queue, a picture may be older than the wish for it
                queue=False,
                # 4.2.1.1 transforms
                transform=libcamera.Transform(hflip=mirrored[0], vflip=mirrored[1]),
                # 4.2.1.2 colour spaces: the luma from 0 to 255. The default depends on the
                # library's version and the size, and in some of them black is 16.
                colour_space=libcamera.ColorSpace.Sycc(),
                controls=_controls(settings, camera.camera_controls),
            )
            camera.configure(configuration)  # 4.1
            camera.start()  # 2.3
        except (RuntimeError, IndexError, OSError) as error:
            if camera is not None:
                camera.close()
            raise CameraError(
                f"camera picamera2:{number} cannot be opened ({error}): check the ribbon cable, "
                "`rpicam-hello --list-cameras`, and that no other program uses it"
            ) from error
        self._camera = camera

    def read(self) -> Picture | None:
        """The next picture; None when none comes in time."""
        # 6.5 asynchronous capture: without waiting there is a job, and `wait` takes a time-out
        job = self._camera.capture_request(wait=False)
        try:
            request = self._camera.wait(job, timeout=_FRAME_TIMEOUT_S)
            try:
                # 6.4 requests: both pictures of one request are of the same moment
                pixels = request.make_array("main")
                luma = self._luma(request.make_array("lores"))
                age_s = _age_s(request.get_metadata())
            finally:
                request.release()  # 6.4: its buffer goes back to the camera
        except (TimeoutError, RuntimeError):
            return None
        pixels, luma = (turned(image, self._left_to_do) for image in (pixels, luma))
        return Picture(pixels, time.monotonic() - age_s, time.time() - age_s, luma)

    def release(self) -> None:
        """Stop the camera and let go of it."""
        self._camera.close()

    def _luma(self, yuv: Image) -> Image:
        """The brightness in a YUV420 picture.

        Appendix A: all rows of Y, then half as many of U and V. Rows may be padded at their end.
        """
        width, height = self._luma_size
        return np.ascontiguousarray(yuv[:height, :width])


def _raw_stream(wanted: tuple[int, int], properties: dict[str, Any]) -> dict[str, Any]:
    """What the sensor is to give: all that it sees, with pixels put together where it has many.

    Without it the library takes the mode of the sensor whose size is next to the wanted one, and
    modes of small sizes often show its middle only.

    Args:
        wanted: width and height of the picture. A larger one than this would give is left to the
            library.
        properties: the camera's.
    """
    width, height = properties.get("PixelArraySize", (0, 0))
    while width * height > _MOST_RAW_PX:
        width, height = width // 2, height // 2
    if wanted[0] > width or wanted[1] > height:
        return {}
    return {"size": (width // 2 * 2, height // 2 * 2)}


def _controls(settings: CameraSettings, available: Any) -> dict[str, Any]:
    """Controls to start with: 5.1 and Appendix C for their names and units, 5.2 for autofocus.

    Args:
        settings: what is asked for.
        available: names that this camera knows; a control that it lacks is left out.
    """
    wanted: dict[str, Any] = {"FrameRate": settings.fps, "ExposureValue": settings.exposure_value}
    # AfModeEnum: 0 manual, 2 continuous
    if settings.autofocus == "continuous":
        wanted["AfMode"] = 2
    else:
        wanted |= {"AfMode": 0, "LensPosition": settings.focus_dioptres}
    if settings.exposure_us is not None:
        wanted["ExposureTime"] = settings.exposure_us
    if settings.gain is not None:
        wanted["AnalogueGain"] = settings.gain
    # the frame rate is a name of the library's own, for two limits of the camera's
    return {k: v for k, v in wanted.items() if k in available or k == "FrameRate"}


def _age_s(metadata: dict[str, Any]) -> float:
    """Seconds since a picture was taken: 6.2 metadata, SensorTimestamp in ns since boot."""
    taken_ns = metadata.get("SensorTimestamp")
    if taken_ns is None:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - float(taken_ns) / 1e9)


def list_picameras() -> list[dict[str, Any]]:
    """The ribbon cameras that are there, as ``Picamera2.global_camera_info()`` tells (8.4).

    The ``Num`` of each is what opens it: its place in that list, in which USB cameras are, too.

    Raises:
        CameraError: picamera2 is not installed.
    """
    cameras: list[dict[str, Any]] = _import("picamera2").Picamera2.global_camera_info()
    return [
        {**camera, "Num": place}
        for place, camera in enumerate(cameras)
        if not _USB_ID.search(camera["Id"])
    ]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CameraError(
            f"{name} cannot be imported ({error}): simplest is `sudo deploy/install.sh --camera "
            "picamera2`"
        ) from error
