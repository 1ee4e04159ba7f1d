"""Detectors: from a picture to boxes. A detector is anything with ``detect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgebird.structures import Detections, Image
from edgebird.tiles import Region


class Detector(Protocol):
    """Finds birds in a picture."""

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        """Find birds in the given regions of a frame, or in all of it, best first."""
