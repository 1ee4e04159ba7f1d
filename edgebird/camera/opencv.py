"""What OpenCV opens: V4L2 devices, network streams, and video files for ``files.py``."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from edgebird.camera.live import LiveCamera, Patience
from edgebird.camera.settings import CameraSettings, turned
from edgebird.camera.slot import Picture
from edgebird.errors import CameraError, UsageError

STABLE_NAMES = Path("/dev/v4l/by-id")

_STREAM_TIMEOUT_MS = 8000
# Of a file FFmpeg gives the pictures as fast as it gets them.
_FILE_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
_HOST_AND_PORT = re.compile(r"(\[.*\]|[^@:]*)(:\d+)?")
# Some send a whole picture, which the others build on, every ten seconds only.
_STREAM_PATIENCE = Patience(open_s=2.5 * _STREAM_TIMEOUT_MS / 1000, first_s=20.0, read_s=10.0)


def open_device(source: str, settings: CameraSettings, *, required: bool = True) -> LiveCamera:
    """Open a V4L2 camera by number, path, or name below /dev/v4l/by-id.

    Raises:
        CameraError: there is no such device, or it cannot be used, and it is required now.
    """
    arguments = {"source": source, "settings": asdict(settings)}
    return LiveCamera(f"{__name__}:device_capture", arguments, source=source, required=required)


def open_stream(url: str, settings: CameraSettings, *, required: bool = True) -> LiveCamera:
    """Open a network stream; RTSP goes over TCP.

    Raises:
        CameraError: nothing answers at the address, or it is not a video stream, and it is
            required now.
    """
    arguments = {"url": url, "settings": asdict(settings)}
    # "user:password@" is what FFmpeg wants, but nothing else may see it
    name = redact_url(url)
    return LiveCamera(
        f"{__name__}:stream_capture",
        arguments,
        source=name,
        patience=_STREAM_PATIENCE,
        required=required,
    )


def check_address(url: str) -> None:
    """Find out whether an address says where a stream comes from.

    Raises:
        UsageError: it names no host, or a file, or where the host begins is not clear.
    """
    name = redact_url(url)
    scheme, _, rest = url.partition("://")
    place = _place(rest)
    after = rest[len(place) :]
    # else a part of the password would be taken for the host, which stands in topics
    if "@" in after and not _HOST_AND_PORT.fullmatch(place):
        raise UsageError(
            f"camera {name}: write @ / : ? # % and spaces in a user or password as "
            "%40 %2F %3A %3F %23 %25 %20, and an @ after the host as %40, too"
        )
    if not host_of(url):
        raise UsageError(
            f"camera {name} names no host: give an address such as "
            "rtsp://user:password@camera.local/stream"
        )
    if not scheme.lower().startswith("http"):
        return
    suffix = PurePosixPath(re.split("[?#]", after, maxsplit=1)[0]).suffix.lower()
    if suffix == ".m3u8":
        raise UsageError(
            f"camera {name} comes in pieces of several seconds (HLS): use the camera's rtsp:// "
            "address"
        )
    if suffix in _FILE_SUFFIXES:
        raise UsageError(
            f"camera {name} is a file, or comes as one: of a camera give the rtsp:// address; "
            "download a video, and give the file"
        )


def host_of(url: str) -> str:
    """The host that an address names, without user, password and port; "" if it names none."""
    # a password may hold what urlsplit takes for an IPv6 address
    place = _place(url.partition("://")[2]).rpartition("@")[2]
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""


def _place(rest: str) -> str:
    """User, password, host and port of an address, of which all but the scheme is given."""
    return re.split("[/?#]", rest, maxsplit=1)[0]


def device_path(source: str) -> Path:
    """Where a camera given by number, path or stable name is."""
    if source.isdecimal():
        return Path(f"/dev/video{source}")
    return Path(source) if source.startswith("/") else STABLE_NAMES / source


def device_capture(source: str, settings: dict[str, Any]) -> OpenCVCapture:
    """Open a V4L2 device (in the process that reads it); see `open_device`."""
    wanted = CameraSettings(**settings)
    path = device_path(source)
    if not os.path.exists(path):
        raise CameraError(f"camera {source}: there is no {path}; {_devices_here()}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError(
            f"camera {source}: no permission to use {path}; add the user to the group video "
            "(sudo usermod -aG video $USER) and log in again"
        )
    # OpenCV knows device nodes, not the links to them
    capture = open_quietly(str(path.resolve()), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraError(
            f"camera {source}: {path} is not a camera or is in use by another program; "
            "see `edgebird cameras`"
        )
    for setting, value in _device_settings(wanted):
        capture.set(setting, value)
    return OpenCVCapture(capture, wanted)


def _device_settings(wanted: CameraSettings) -> list[tuple[int, float]]:
    """What to ask of a V4L2 device, in the order in which drivers take it: format, size, rate."""
    width, height = wanted.size or (640, 480)
    # Up to VGA raw pictures fit through USB 2 and cost no decoding; larger ones come as JPEG.
    code = wanted.pixel_format or ("YUYV" if width * height <= 640 * 480 else "MJPG")
    fourcc = cv2.VideoWriter.fourcc(*code.ljust(4))
    settings: list[tuple[int, float]] = [(cv2.CAP_PROP_FOURCC, fourcc)]
    if wanted.size is not None:
        settings += [(cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)]
    return [
        *settings,
        # OpenCV rounds it, so that 0.5 would be none at all; what is too much is thinned out later
        (cv2.CAP_PROP_FPS, math.ceil(wanted.fps)),
        # OpenCV gives a buffer back only after it has decoded what is in it. The driver needs one
        # meanwhile, or it drops every other picture; more would only hold older pictures.
        (cv2.CAP_PROP_BUFFERSIZE, 2),
    ]


def stream_capture(url: str, settings: dict[str, Any]) -> OpenCVCapture:
    """Open a stream (in the process that reads it); see `open_stream`."""
    timeouts = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        _STREAM_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        _STREAM_TIMEOUT_MS,
    ]
    scheme, separator, rest = url.partition("://")
    # FFmpeg knows them in small letters only
    capture = open_quietly(scheme.lower() + separator + rest, cv2.CAP_FFMPEG, timeouts)
    if not capture.isOpened():
        name = redact_url(url)
        spelling = " (in a password write / as %2F, @ as %40)" if "@" in name else ""
        raise CameraError(
            f"camera {name} cannot be opened: check that the address is reachable from here, its "
            f"path, and the user and password{spelling}"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return OpenCVCapture(capture, CameraSettings(**settings))


class OpenCVCapture:
    """An open ``cv2.VideoCapture`` that delivers at most the wanted rate.

    Pictures that come faster are taken from the device but not decoded, which is what costs. Those
    of a stream are all decoded as they are taken, since most build on the ones before.
    """

    def __init__(
        self,
        capture: cv2.VideoCapture,
        settings: CameraSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capture = capture
        self._settings = settings
        self._clock = clock
        # a tenth early is in time: cameras are not that regular
        self._interval_s = 0.9 / settings.fps
        self._next_s = 0.0
        self._stalled = False

    def read(self) -> Picture | None:
        """The next picture, turned as the settings say; None when there is none or it is spoilt."""
        asked_s = self._clock()
        while not self._stalled and self._capture.grab():
            now_s, utc_s = self._clock(), time.time()
            # FFmpeg has waited in vain, and its decoder gives an old picture that it still had
            self._stalled = now_s - asked_s >= _STREAM_TIMEOUT_MS / 1000
            if self._stalled:
                return None
            asked_s = now_s
            if now_s >= self._next_s:
                self._next_s = now_s + self._interval_s
                ok, bgr = self._capture.retrieve()
                if not ok:
                    return None
                return Picture(
                    turned(bgr.astype(np.uint8, copy=False), self._settings), now_s, utc_s
                )
        return None

    def release(self) -> None:
        """Let go of the device or stream."""
        self._capture.release()


def open_quietly(source: str, backend: int, parameters: Sequence[int] = ()) -> cv2.VideoCapture:
    """Open a capture without the messages that OpenCV and FFmpeg would write to stderr.

    Raises:
        CameraError: the source's name is not UTF-8, which would crash OpenCV.
    """
    if not _is_utf8(source):
        name = redact_url(source)
        raise CameraError(f"the name {name!r} is not UTF-8, which OpenCV cannot take: rename it")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    silence_opencv()
    return cv2.VideoCapture(source, backend, list(parameters))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def silence_opencv() -> None:
    """Turn OpenCV's own log off: what it has to say comes as an error in our words."""
    if hasattr(cv2, "setLogLevel"):  # up to 4.x
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def redact_url(source: str) -> str:
    """An address without what may be secret: user and password, and all option values. Other
    sources are as they were.

    Some cameras take the password as ``?pwd=...`` or even in the path as ``/user=..._password=``,
    so everything after the first ``?`` or ``=`` of the path goes too.
    """
    if "://" not in source and not re.match("(rtsp|http)s?:/", source, re.IGNORECASE):
        return source
    without_user = re.sub(r"\A([^:]*:/*).*@", r"\1***@", source, flags=re.DOTALL)
    return re.sub(r"([?=]).*", r"\1***", without_user, flags=re.DOTALL)


def _devices_here() -> str:
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not devices:
        return "there is no video device here: check the cable, or use picamera2 for a ribbon one"
    return "there are " + ", ".join(devices)
