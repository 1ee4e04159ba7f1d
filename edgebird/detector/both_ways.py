"""Each tile looked at twice, as it is and mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebird.interpreter import Interpreter
from edgebird.model import ModelCard
from edgebird.structures import Image

# Left and right change places: distances to the left, top, right and bottom side.
_MIRRORED_SIDES = (2, 1, 0, 3)


class BothWays:
    """An interpreter whose answers are the mean of a tile's and of its mirror image's.

    What the network only sees one way round is mostly no bird, so the mean tells birds from others
    better, at twice the time (test-time augmentation; Krizhevsky et al., 2012, ImageNet
    Classification with Deep Convolutional Neural Networks).

    Args:
        interpreter: runs the network of a detector.
        card: says which output is which.
    """

    def __init__(self, interpreter: Interpreter, card: ModelCard) -> None:
        self._interpreter = interpreter
        self._outputs = card.outputs

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the pictures it takes, in pixels."""
        return self._interpreter.input_size

    def run(self, images: Sequence[Image]) -> Sequence[NDArray[np.float32]]:
        """Mean maps of each tile, in the order of the card; see `Interpreter`."""
        seen = self._interpreter.run(images)
        mirrored = self._interpreter.run([np.ascontiguousarray(tile[:, ::-1]) for tile in images])
        means = []
        for name, one, other in zip(self._outputs, seen, mirrored, strict=True):
            back = other[:, :, ::-1]
            if name == "box":
                back = back[..., _MIRRORED_SIDES]
            means.append((one + back) / np.float32(2))
        return means
