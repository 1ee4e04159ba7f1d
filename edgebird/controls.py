"""What can be changed while detection runs, from any thread."""

from __future__ import annotations

import time
from threading import Event

# Whoever asks for pictures without end gets some, and the loop goes on.
_SNAPSHOT_PAUSE_S = 1.0


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
        self._snapshot_s = -_SNAPSHOT_PAUSE_S

    def ask_for_snapshot(self) -> None:
        """Have the next frame published."""
        self._snapshot.set()

    def take_snapshot(self) -> bool:
        """Whether the frame at hand was asked for; true once for each request, or for those of a
        second.
        """
        now_s = time.monotonic()
        if not self._snapshot.is_set() or now_s - self._snapshot_s < _SNAPSHOT_PAUSE_S:
            return False
        self._snapshot_s = now_s
        self._snapshot.clear()
        return True
