"""A picture on its way from the process that reads a camera to the one that looks at it."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

import cv2
import numpy as np

from edgebird.structures import Image

# Sequence number, height and width of the picture, height and width of its luma, capture times.
_HEADER = struct.Struct("<QIIIIdd")
_HEADER_BYTES = 64
_BUFFERS = 3
# Memory is taken only where something was written, so room for 12 megapixels costs nothing.
_BUFFER_BYTES = 40 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What a capture delivers.

    Args:
        pixels: uint8, shape (height, width, 3); in B, G, R order as OpenCV has it when it is put
            into a slot, in R, G, B order when it is taken.
        monotonic_s: when it was taken.
        utc_s: when it was taken, as seconds since 1970-01-01 UTC.
        luma: a small picture of its brightness, uint8 (h, w), if the camera makes one.
    """

    pixels: Image
    monotonic_s: float
    utc_s: float
    luma: Image | None = None


class Slot:
    """Holds the newest picture for another process; older ones are overwritten.

    There is no lock that a killed process could leave locked. The writer goes round three buffers
    and counts pictures in an eventfd, which also orders memory between the two; the reader takes
    the latest counted one and throws away what was overwritten meanwhile.

    Args:
        memory_fd: of the shared memory, a memfd.
        count_fd: of the eventfd.
    """

    def __init__(self, memory_fd: int, count_fd: int) -> None:
        self.memory_fd = memory_fd
        self.count_fd = count_fd
        self._memory = mmap.mmap(memory_fd, _BUFFERS * _BUFFER_BYTES)
        self._sequence = 0

    @staticmethod
    def create() -> Slot:
        """A new one, to be shared by handing on its two file descriptors."""
        memory_fd = os.memfd_create("edgebird-camera")
        os.ftruncate(memory_fd, _BUFFERS * _BUFFER_BYTES)
        return Slot(memory_fd, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def put(self, picture: Picture) -> None:
        """Write a picture (the side that reads the camera).

        Raises:
            ValueError: it does not fit.
        """
        luma = np.zeros((0, 0), np.uint8) if picture.luma is None else picture.luma
        if _HEADER_BYTES + picture.pixels.nbytes + luma.nbytes > _BUFFER_BYTES:
            raise ValueError(
                f"a picture of {picture.pixels.shape[1]} x {picture.pixels.shape[0]} pixels"
            )
        self._sequence += 1
        at = self._start(self._sequence)
        _HEADER.pack_into(self._memory, at, 0, 0, 0, 0, 0, 0.0, 0.0)
        self._array(at, picture.pixels.shape, 0)[:] = picture.pixels
        self._array(at, luma.shape, picture.pixels.nbytes)[:] = luma
        times = picture.monotonic_s, picture.utc_s
        shapes = *picture.pixels.shape[:2], *luma.shape
        _HEADER.pack_into(self._memory, at, self._sequence, *shapes, *times)
        os.eventfd_write(self.count_fd, 1)

    def take(self) -> tuple[Picture | None, int]:
        """The newest picture that was not taken yet, its colours turned to R, G, B order.

        Returns:
            The picture, None when there is none, and how many older ones were missed.
        """
        try:
            missed = os.eventfd_read(self.count_fd) - 1
        except BlockingIOError:
            return None, 0
        self._sequence += missed + 1
        at = self._start(self._sequence)
        sequence, height, width, luma_height, luma_width, *times = self._header(at)
        if sequence != self._sequence:
            return None, missed + 1
        # the copy that has to be made anyway turns the colours
        rgb = cv2.cvtColor(self._array(at, (height, width, 3), 0), cv2.COLOR_BGR2RGB)
        image: Image = rgb.astype(np.uint8, copy=False)
        luma = self._array(at, (luma_height, luma_width), image.nbytes).copy()
        if self._header(at)[0] != self._sequence:
            return None, missed + 1
        return Picture(image, times[0], times[1], luma if luma.size else None), missed

    def close(self) -> None:
        """Let go of memory and file descriptors."""
        self._memory.close()
        os.close(self.memory_fd)
        os.close(self.count_fd)

    def _header(self, at: int) -> tuple[int, int, int, int, int, float, float]:
        header: tuple[int, int, int, int, int, float, float] = _HEADER.unpack_from(self._memory, at)
        return header

    def _array(self, at: int, shape: tuple[int, ...], after_bytes: int) -> Image:
        offset = at + _HEADER_BYTES + after_bytes
        return np.ndarray(shape, np.uint8, self._memory, offset)

    @staticmethod
    def _start(sequence: int) -> int:
        return sequence % _BUFFERS * _BUFFER_BYTES
