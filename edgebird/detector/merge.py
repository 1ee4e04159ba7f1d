"""From many overlapping boxes to one box a bird."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgebird.structures import Boxes, Scores

# Two boxes are the same bird if they share this much of their union, ...
IOU_LIMIT = 0.5
# ... or if one lies almost wholly in the other: the head and the whole bird, or a tile's view of
# one half.
CONTAINED_LIMIT = 0.9


def pairwise_overlap(a: Boxes, b: Boxes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Intersection over union, and intersection over the smaller area, of all pairs.

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy.

    Returns:
        Two float32 arrays of shape (N, M), 0 to 1; boxes without area overlap nothing.
    """
    # side by side, since for so few boxes the number of numpy's calls is what counts
    size = np.minimum(a[:, None, 2:], b[None, :, 2:])
    size -= np.maximum(a[:, None, :2], b[None, :, :2])
    np.maximum(size, 0, out=size)
    shared = size[..., 0] * size[..., 1]
    area_a, area_b = _area(a)[:, None], _area(b)[None, :]
    tiny = np.float32(1e-9)
    iou = shared / np.maximum(area_a + area_b - shared, tiny)
    contained = shared / np.maximum(np.minimum(area_a, area_b), tiny)
    return iou.astype(np.float32, copy=False), contained.astype(np.float32, copy=False)


def _area(boxes: Boxes) -> NDArray[np.float32]:
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area: NDArray[np.float32] = size[:, 0] * size[:, 1]
    return area


def merge(
    xyxy: Boxes,
    score: Scores,
    *,
    iou_limit: float = IOU_LIMIT,
    contained_limit: float = CONTAINED_LIMIT,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: the best box stays, those of the same bird go, and so on.

    Args:
        xyxy: (N, 4), in any order.
        score: (N,).
        iou_limit: two boxes that share more than this of their union are of the same bird, 0 to 1.
        contained_limit: so are those that share more than this of the smaller one, 0 to 1.

    Returns:
        Indices of the boxes that stay, best first (equal scores: the earlier one first).
    """
    order = np.argsort(-score, kind="stable")
    iou, contained = pairwise_overlap(xyxy[order], xyxy[order])
    same = (iou > iou_limit) | (contained > contained_limit)
    stays = np.ones(len(order), bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~same[i, i + 1 :]
    return order[stays]
