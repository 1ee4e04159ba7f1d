"""Which V4L2 cameras are here, and what they can do: asked of the kernel, without opening a stream.

Structures and numbers are those of the kernel's <linux/videodev2.h>, the same on all platforms.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_QUERYCAP = 0x80685600
_ENUM_FMT = 0xC0405602
_ENUM_FRAMESIZES = 0xC02C564A
_ENUM_FRAMEINTERVALS = 0xC034564B

_CAPABILITY = struct.Struct("=16s32s32sIII12x")
_FORMAT = struct.Struct("=III32sII12x")
_FRAME_SIZE = struct.Struct("=III6I8x")
_FRAME_INTERVAL = struct.Struct("=IIIII6I8x")

_VIDEO_CAPTURE = 0x1
_DEVICE_CAPS = 0x80000000
_CAPTURE_BUFFERS = 1
_DISCRETE = 1
# a driver that never says "no more" must not keep us for ever
_MAX_ENTRIES = 64

Ioctl = Callable[[int, int, bytearray], int]
"""Like ``fcntl.ioctl``: file descriptor, request, buffer that is changed in place."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A picture format that a camera offers.

    Args:
        pixel_format: its four-letter code, such as MJPG.
        size: width and height in pixels.
        fps: frame rates, fastest first; empty where the driver does not tell.
    """

    pixel_format: str
    size: tuple[int, int]
    fps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A camera: its path, the name it gives itself, its stable names, and what it offers.

    ``problem`` tells why it could not be asked, None if it could.
    """

    path: Path
    name: str
    stable_names: tuple[str, ...]
    modes: tuple[Mode, ...]
    problem: str | None = None


def list_devices(
    *,
    dev: Path = Path("/dev"),
    sysfs: Path = Path("/sys/class/video4linux"),
    ioctl: Ioctl = fcntl.ioctl,
) -> list[Device]:
    """All cameras of this machine, by number; devices that capture nothing are left out.

    Args:
        dev: folder of the device nodes.
        sysfs: folder in which the kernel names them.
        ioctl: asks the kernel; another one in tests.
    """
    devices = []
    for entry in sorted(sysfs.glob("video*"), key=lambda path: int(path.name[5:])):
        path = dev / entry.name
        name = _text_of(entry / "name") or entry.name
        try:
            # without waiting: a driver may be busy
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            devices.append(Device(path, name, _stable_names(path), (), error.strerror))
            continue
        try:
            if _captures(fd, ioctl):
                devices.append(Device(path, name, _stable_names(path), tuple(_modes(fd, ioctl))))
        except OSError as error:
            devices.append(Device(path, name, _stable_names(path), (), error.strerror))
        finally:
            os.close(fd)
    return devices


def _captures(fd: int, ioctl: Ioctl) -> bool:
    answer = bytearray(_CAPABILITY.size)
    ioctl(fd, _QUERYCAP, answer)
    *_, capabilities, of_device = _CAPABILITY.unpack(answer)
    # one camera often has several nodes: for pictures, for metadata
    return bool((of_device if capabilities & _DEVICE_CAPS else capabilities) & _VIDEO_CAPTURE)


def _modes(fd: int, ioctl: Ioctl) -> Iterator[Mode]:
    for index in range(_MAX_ENTRIES):
        answer = _asked(fd, ioctl, _ENUM_FMT, _FORMAT.pack(index, _CAPTURE_BUFFERS, 0, b"", 0, 0))
        if answer is None:
            return
        code = _FORMAT.unpack(answer)[4]
        for size in _sizes(fd, ioctl, code):
            pixel_format = code.to_bytes(4, "little").decode("ascii", "replace").rstrip()
            yield Mode(pixel_format, size, _rates(fd, ioctl, code, size))


def _sizes(fd: int, ioctl: Ioctl, code: int) -> Iterator[tuple[int, int]]:
    for index in range(_MAX_ENTRIES):
        question = _FRAME_SIZE.pack(index, code, 0, *[0] * 6)
        answer = _asked(fd, ioctl, _ENUM_FRAMESIZES, question)
        if answer is None:
            return
        _, _, kind, *numbers = _FRAME_SIZE.unpack(answer)
        if kind != _DISCRETE:
            # any size in a range (smallest, largest, step of each side): the largest stands for all
            yield numbers[1], numbers[4]
            return
        yield numbers[0], numbers[1]


def _rates(fd: int, ioctl: Ioctl, code: int, size: tuple[int, int]) -> tuple[float, ...]:
    rates = []
    for index in range(_MAX_ENTRIES):
        question = _FRAME_INTERVAL.pack(index, code, *size, 0, *[0] * 6)
        answer = _asked(fd, ioctl, _ENUM_FRAMEINTERVALS, question)
        if answer is None:
            break
        *_, kind, seconds, per, _, _, _, _ = _FRAME_INTERVAL.unpack(answer)
        if seconds:
            rates.append(per / seconds)
        if kind != _DISCRETE:
            break
    return tuple(sorted(rates, reverse=True))


def _asked(fd: int, ioctl: Ioctl, request: int, question: bytes) -> bytes | None:
    """The kernel's answer, None when there is no such entry."""
    buffer = bytearray(question)
    try:
        ioctl(fd, request, buffer)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return None
        raise
    return bytes(buffer)


def _stable_names(path: Path) -> tuple[str, ...]:
    links = (path.parent / "v4l" / "by-id").glob("*")
    return tuple(sorted(link.name for link in links if link.resolve() == path.resolve()))


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
