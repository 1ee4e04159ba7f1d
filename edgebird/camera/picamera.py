"""The Raspberry Pi's ribbon camera, through the system's picamera2."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgebird.camera.live import LiveCamera
from edgebird.errors import CameraError

_FRAME_TIMEOUT_S = 5.0
_DEFAULT_SIZE = (1280, 720)


def open_picamera(
    number: int = 0,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    picamera2_class: Callable[[int], Any] | None = None,
) -> LiveCamera:
    """Open a ribbon camera.

    Args:
        number: which camera, as ``rpicam-hello --list-cameras`` counts them.
        fps: frame rate; the library's default when None.
        size: (width, height) in pixels, 1280 x 720 when None.
        picamera2_class: stands in for ``picamera2.Picamera2`` in tests.

    Raises:
        CameraError: picamera2 is not installed, or the camera cannot be used.
    """
    make = picamera2_class or _import_picamera2()
    return LiveCamera(
        lambda: _PicameraCapture(make, number, fps, size or _DEFAULT_SIZE),
        source=f"picamera2:{number}",
    )


class _PicameraCapture:
    """A started ribbon camera in the shape of ``cv2.VideoCapture``."""

    def __init__(
        self,
        make: Callable[[int], Any],
        number: int,
        fps: float | None,
        size: tuple[int, int],
    ) -> None:
        camera = None
        try:
            camera = make(number)
            configuration = camera.create_video_configuration(
                # The names are those of the bytes from high to low: the array of "RGB888" has
                # B, G, R order, which is what a capture is to deliver; "BGR888" would be RGB.
                main={"size": size, "format": "RGB888"},
                # one frame being filled, one queued, one being read
                buffer_count=3,
                controls={} if fps is None else {"FrameRate": fps},
            )
            camera.configure(configuration)
            camera.start()
        except (RuntimeError, IndexError, OSError) as error:
            if camera is not None:
                camera.close()
            raise CameraError(
                f"camera picamera2:{number} cannot be opened ({error}): check the ribbon cable, "
                "`rpicam-hello --list-cameras`, and that no other program uses it"
            ) from error
        self._camera = camera

    def read(self) -> tuple[bool, Any]:
        """The next picture in B, G, R order; (False, None) when none comes in time."""
        try:
            job = self._camera.capture_array("main", wait=False)
            return True, self._camera.wait(job, timeout=_FRAME_TIMEOUT_S)
        except (TimeoutError, RuntimeError):
            return False, None

    def release(self) -> None:
        self._camera.close()


def _import_picamera2() -> Callable[[int], Any]:
    try:
        make: Callable[[int], Any] = importlib.import_module("picamera2").Picamera2
    except ImportError as error:
        raise CameraError(
            f"picamera2 cannot be imported ({error}): `sudo apt install python3-picamera2` and use "
            "an environment made with `python3 -m venv --system-site-packages`"
        ) from error
    return make
