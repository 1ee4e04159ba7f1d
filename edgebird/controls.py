"""What can be changed while detection runs, from any thread."""

from __future__ import annotations

from threading import Event


class Controls:
    """Read by the loop at each frame.

    Args:
        threshold: how sure a detection must be, 0 to 1.

    Attributes:
        threshold: may be set at any time.
        enabled: False lets frames pass without looking for birds; visits end as if they had left.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.enabled = True
        self._snapshot = Event()

    def ask_for_snapshot(self) -> None:
        """Have the next frame published."""
        self._snapshot.set()

    def take_snapshot(self) -> bool:
        """Whether the frame at hand was asked for; true once for each request."""
        if not self._snapshot.is_set():
            return False
        self._snapshot.clear()
        return True
