"""Fakes for tests, of edgebird itself and of what is built on it; nothing falls back to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
