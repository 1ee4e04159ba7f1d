"""What the network should say for a scene."""

from __future__ import annotations

import numpy as np

from model_build.augment import Scene

# Pixels of the picture for a cell of the network's maps.
STRIDE = 8
# A cell belongs to a bird if its centre lies in the box's middle: within this share of the box's
# width and height from its centre, but not further than so many cells (a large bird needs no more
# votes than a small one), and always the nearest cell.
_POSITIVE_SHARE, _POSITIVE_CELLS = 0.18, 2.5
_NEAREST_CELL_PX = 0.51 * STRIDE
# Around that, as far as this share, it is no bird's centre and no background either.
_IGNORED_SHARE, _IGNORED_CELLS = 0.36, 4.5
POSITIVE, NEGATIVE, IGNORED = 1.0, 0.0, -1.0


def target_map(scene: Scene) -> np.ndarray:
    """The training target of a scene, by cell.

    Returns:
        float32 (h, w, 5): `POSITIVE`, `NEGATIVE` or `IGNORED`, and the distances in pixels to the
        left, top, right and bottom side of the cell's bird (zeros without one).
    """
    height, width = (side // STRIDE for side in scene.picture.shape[:2])
    target = np.zeros((height, width, 5), np.float32)
    state = target[..., 0]
    y, x = np.mgrid[:height, :width] * STRIDE + STRIDE / 2
    for left, top, right, bottom in scene.ignored:
        state[(x >= left) & (x < right) & (y >= top) & (y < bottom)] = IGNORED
    # Large birds first, so that a small one before a large one keeps its cells.
    areas = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
    for left, top, right, bottom in scene.boxes[np.argsort(-areas)]:
        dx, dy = np.abs(x - (left + right) / 2), np.abs(y - (top + bottom) / 2)

        def near(share: float, cells: float, *, dx=dx, dy=dy, w=right - left, h=bottom - top):
            reach_x = max(_NEAREST_CELL_PX, min(share * w, cells * STRIDE))
            reach_y = max(_NEAREST_CELL_PX, min(share * h, cells * STRIDE))
            return (dx <= reach_x) & (dy <= reach_y)

        state[near(_IGNORED_SHARE, _IGNORED_CELLS) & (state == NEGATIVE)] = IGNORED
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        positive = near(_POSITIVE_SHARE, _POSITIVE_CELLS) & inside
        state[positive] = POSITIVE
        sides = np.stack([x - left, y - top, right - x, bottom - y], axis=-1)
        target[positive, 1:] = sides[positive]
    return target
