"""Fakes for tests, of edgebird itself and of what is built on it; nothing falls back to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgebird.structures import Event, Frame, Image


class FakeCamera:
    """A camera that yields the given RGB pictures, ``1 / fps`` seconds apart from time 0 on."""

    def __init__(self, frames: Iterable[Image], fps: float = 5.0, name: str = "fake") -> None:
        self._images = frames
        self._fps = fps
        self._name = name
        self._closed = False

    @property
    def frame_count(self) -> None:
        """It passes for a live camera."""
        return None

    def frames(self) -> Iterator[Frame]:
        """Yield one frame for each picture until closed."""
        for index, image in enumerate(self._images):
            if self._closed:
                return
            seconds = index / self._fps
            yield Frame(image, index, seconds, seconds, self._name)

    def close(self) -> None:
        """End the iteration before the next frame."""
        self._closed = True


class MemorySink:
    """A sink that keeps all events in the list ``events``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def emit(self, event: Event) -> None:
        """Append the event."""
        self.events.append(event)

    def close(self) -> None:
        """Note that the sink was closed."""
        self.closed = True


class FakeInterpreter:
    """A network that takes every bright cell of a tile for a bird of a fixed size.

    Pixels of 128 give a score of 0.5, brighter ones more; the box reaches ``half_side_px`` from the
    cell's centre to each side.

    Args:
        size_px: side of the tiles it takes.
        stride_px: size of a cell.
        half_side_px: half of the boxes' side, in tile pixels.
    """

    outputs = ("box", "objectness")

    def __init__(self, size_px: int = 64, stride_px: int = 8, half_side_px: float = 10.0) -> None:
        self.runs = 0
        self._size_px = size_px
        self._stride_px = stride_px
        self._log_distance = np.log(half_side_px / stride_px)

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._size_px, self._size_px

    def run(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        """The maps for each tile, as a detector's card describes them."""
        self.runs += len(images)
        cells = self._size_px // self._stride_px
        parts = np.stack(images).reshape(-1, cells, self._stride_px, cells, self._stride_px, 3)
        logits = (parts.mean(axis=(2, 4, 5)) - 128) / 16
        box = np.full((len(images), cells, cells, 4), self._log_distance)
        return [box.astype(np.float32), logits[..., None].astype(np.float32)]


class FakeBatchInterpreter:
    """A classifier's network that takes bright pictures for birds: a mean of 128 gives log-odds
    of 0, each 16 more give 1 more.

    Args:
        size_px: side of the pictures it takes.
    """

    def __init__(self, size_px: int = 32) -> None:
        self.batches: list[int] = []
        self._size_px = size_px

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._size_px, self._size_px

    def run_batch(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The log-odds of each picture, float32 (N, 1)."""
        self.batches.append(len(images))
        odds = (images.mean(axis=(1, 2, 3)) - 128) / 16
        return [odds.astype(np.float32)[:, None]]
