"""Cameras: where frames come from. ``open_camera`` picks the backend by the source's form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

from edgebird.camera.settings import CameraSettings
from edgebird.errors import CameraError, UsageError
from edgebird.structures import Frame, Silence

_FORMS = (
    "a device number, /dev/video*, a name that `edgebird cameras` lists, picamera2, demo:, a "
    "rtsp:// or http:// address, a video, a picture or a folder of pictures"
)
_STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https")
# Slower, and its picture would be taken for one that has stopped.
_LOWEST_LIVE_FPS = 0.5
_GLOB_CHARACTERS = frozenset("*?[")


class Camera(Protocol):
    """Yields frames until it is exhausted or closed."""

    @property
    def frame_count(self) -> int | None:
        """Frames to come from a source that waits for us, 0 if unknown; None for a live one."""

    def frames(self) -> Iterator[Frame | Silence]:
        """Yield RGB frames with rising index and time; to be iterated once.

        A live camera yields a Silence about each second in which no frame comes.

        Raises:
            CameraError: what was asked for could not be read, in whole or in part. It is raised
                after the last good frame.
        """

    def close(self) -> None:
        """Let go of the camera and end the iteration; from any thread, more than once."""


def open_camera(
    source: str,
    *,
    fps: float | None = None,
    settings: CameraSettings | None = None,
    required: bool = True,
) -> Camera:
    """Open the camera that ``source`` describes.

    Args:
        source: "0", "/dev/video0" or a name below /dev/v4l/by-id (V4L2), "picamera2" or
            "picamera2:1", a stream's address (rtsp, rtsps, http, https), "demo:" or
            "demo:?seed=3&seconds=60&fps=10&pace=0", a video file, or pictures (one, a folder, a
            glob) as the frames of one camera.
        fps: at most so many frames a second of a live camera (default 10), given to pictures
            (default 5) and to the demo (default 10); videos keep their own rate.
        settings: for live cameras; ``fps`` overrules theirs.
        required: a live camera has to be there now; otherwise one that is not is waited for.

    Raises:
        UsageError: no backend knows this form of source, or an option in it does not fit.
        CameraError: the device, stream or file cannot be opened.
    """
    settings = settings or CameraSettings()
    settings = settings if fps is None else replace(settings, fps=fps)
    if is_live(source):
        check_live_form(source)
        check_live_rate(settings.fps)
    if _is_device(source):
        from edgebird.camera.opencv import open_device

        return open_device(source, settings, required=required)
    name, colon, rest = source.partition(":")
    if name == "picamera2":
        from edgebird.camera.picamera import open_picamera

        return open_picamera(int(rest or 0), settings, required=required)
    if name == "demo" and colon:
        return _open_demo(source, rest, fps)
    if (scheme := _scheme(source)) is not None:
        if scheme not in _STREAM_SCHEMES:
            raise UsageError(f"unknown kind of source {scheme}://; use {_FORMS}")
        from edgebird.camera.opencv import open_stream

        return open_stream(source, settings, required=required)
    return _open_files(source, fps)


def check_live_form(source: str) -> None:
    """Find out whether a live source says which camera it is, without opening it.

    Raises:
        UsageError: it does not.
    """
    name, colon, number = source.partition(":")
    if name == "picamera2" and colon and not number.isdecimal():
        raise UsageError(f"camera {source!r}: give a number after the colon, as in picamera2:1")
    if is_stream(source):
        from edgebird.camera.opencv import check_address

        check_address(source)


def check_live_rate(fps: float) -> None:
    """Find out whether that is enough for a live camera.

    Raises:
        UsageError: it is not.
    """
    if fps < _LOWEST_LIVE_FPS:
        raise UsageError(
            f"{fps:g} frames a second are too few to follow birds by: give fps of "
            f"{_LOWEST_LIVE_FPS:g} or more for a live camera"
        )


def is_pictures(source: str) -> bool:
    """Whether the source is a picture, a folder or a glob, which are scanned one by one."""
    if (
        not source
        or _is_device(source)
        or source.startswith("demo:")
        or _scheme(source) is not None
    ):
        return False
    from edgebird.camera.files import PICTURE_SUFFIXES

    suffix = Path(source).suffix.lower()
    # os.path, here and below: what may not be looked at is not there, and opening it says why
    if os.path.exists(source):
        return os.path.isdir(source) or suffix in PICTURE_SUFFIXES
    return bool(_GLOB_CHARACTERS & set(source)) or suffix in PICTURE_SUFFIXES


def is_live(source: str) -> bool:
    """Whether the source is a camera or a stream, which can be known only by opening it."""
    return _is_device(source) or source.partition(":")[0] == "picamera2" or is_stream(source)


def is_stream(source: str) -> bool:
    """Whether the source is the address of a stream."""
    return _scheme(source) in _STREAM_SCHEMES


def _is_device(source: str) -> bool:
    # here, since the process that reads a camera needs no settings
    from edgebird.config import STABLE_NAME

    # /dev/shm holds ordinary files, which may well be pictures
    return (
        source.isdecimal()
        or (source.startswith("/dev/") and not (os.path.isfile(source) or os.path.isdir(source)))
        or STABLE_NAME.fullmatch(source) is not None
        or (bool(source) and "/" not in source and os.path.exists(f"/dev/v4l/by-id/{source}"))
    )


def _scheme(source: str) -> str | None:
    # one slash is a slip, and what follows may still be a password that no message shows
    match = re.match(r"([a-z][a-z0-9+.-]*)://|((?:rtsp|http)s?):/", source, re.IGNORECASE)
    return (match[1] or match[2]).lower() if match else None


def _open_files(source: str, fps: float | None) -> Camera:
    from edgebird.camera.files import (
        PICTURE_SUFFIXES,
        VIDEO_SUFFIXES,
        PictureSequence,
        VideoFile,
        endings,
        list_pictures,
    )

    path = Path(source)
    if is_pictures(source):
        return PictureSequence(list_pictures(source), fps=fps or 5.0)
    try:
        there = bool(source) and path.exists()
    except OSError as error:
        raise CameraError(f"{source} cannot be read: {error.strerror}") from error
    if not there:
        raise CameraError(f"there is no file or folder {source!r}; a source can be {_FORMS}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFile(path)
    raise CameraError(
        f"{source}: its name does not end like a picture's or a video's (known endings: "
        f"{endings(PICTURE_SUFFIXES | VIDEO_SUFFIXES)})"
    )


def _open_demo(source: str, options: str, fps: float | None) -> Camera:
    from edgebird.camera.demo import DemoFeeder

    kinds = {"seed": int, "seconds": float, "fps": float, "pace": int}
    values: dict[str, float] = {}
    for key, text in parse_qsl(options.removeprefix("?"), keep_blank_values=True):
        if key not in kinds:
            raise UsageError(f"{source}: unknown option {key!r}; there are {', '.join(kinds)}")
        try:
            values[key] = kinds[key](text)
        except ValueError as error:
            raise UsageError(f"{source}: {key}={text} is not a number") from error
    try:
        return DemoFeeder(
            seed=int(values.get("seed", 0)),
            seconds=values.get("seconds", 0.0),
            fps=values.get("fps", fps or 10.0),
            pace=bool(values.get("pace", 1)),
        )
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from error
