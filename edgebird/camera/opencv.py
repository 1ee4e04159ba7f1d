"""What OpenCV opens: V4L2 devices, network streams, and video files for ``files.py``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import cv2

from edgebird.camera.live import LiveCamera
from edgebird.errors import CameraError

_STREAM_TIMEOUT_MS = 10_000


def open_device(
    source: str, *, fps: float | None = None, size: tuple[int, int] | None = None
) -> LiveCamera:
    """Open a V4L2 camera by number or path, asking it for a rate and a size in pixels.

    Raises:
        CameraError: there is no such device, or it cannot be used.
    """
    path = Path(f"/dev/video{source}" if source.isdecimal() else source)

    def open_capture() -> cv2.VideoCapture:
        if not path.exists():
            raise CameraError(f"camera {source}: there is no {path}; {_devices_here()}")
        if not os.access(path, os.R_OK | os.W_OK):
            raise CameraError(
                f"camera {source}: no permission to use {path}; add the user to the group video "
                "(sudo usermod -aG video $USER) and log in again"
            )
        capture = open_quietly(str(path), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError(
                f"camera {source}: {path} is not a camera or is in use by another program; "
                "see `v4l2-ctl --list-devices`"
            )
        if size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps is not None:
            capture.set(cv2.CAP_PROP_FPS, fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    return LiveCamera(open_capture, source=source)


def open_stream(url: str) -> LiveCamera:
    """Open a network stream; RTSP goes over TCP.

    Raises:
        CameraError: nothing answers at the address, or it is not a video stream.
    """
    # "user:password@" is what FFmpeg wants, but nothing else may see it
    name = redact_url(url)

    def open_capture() -> cv2.VideoCapture:
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            _STREAM_TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            _STREAM_TIMEOUT_MS,
        ]
        capture = open_quietly(url, cv2.CAP_FFMPEG, timeouts)
        if not capture.isOpened():
            raise CameraError(
                f"camera {name} cannot be opened: check that the address is reachable from here, "
                "its path, and the user and password"
            )
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    return LiveCamera(open_capture, source=name)


def open_quietly(source: str, backend: int, parameters: Sequence[int] = ()) -> cv2.VideoCapture:
    """Open a capture without the messages that OpenCV and FFmpeg would write to stderr."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    silence_opencv()
    return cv2.VideoCapture(source, backend, list(parameters))


def silence_opencv() -> None:
    """Turn OpenCV's own log off: what it has to say comes as an error in our words."""
    if hasattr(cv2, "setLogLevel"):  # up to 4.x
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def redact_url(url: str) -> str:
    """The address without what may be secret: user and password, and all option values.

    Some cameras take the password as ``?pwd=...`` or even in the path as ``/user=..._password=``,
    so everything after the first ``?`` or ``=`` of the path goes too.
    """
    without_user = re.sub(r"://.*@", "://***@", url)
    return re.sub(r"([?=]).*", r"\1***", without_user)


def _devices_here() -> str:
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not devices:
        return "there is no video device here: check the cable, or use picamera2 for a ribbon one"
    return "there are " + ", ".join(devices)
