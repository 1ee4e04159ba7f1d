"""What the network should say for a scene, and how wrong it is."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model_build.augment import Scene
from model_build.network import LOG_DISTANCE_RANGE, STRIDE

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


def detection_loss(
    target: tf.Tensor, logits: tf.Tensor, log_distances: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Quality focal loss on objectness and GIoU loss on boxes.

    The objectness of a bird's cell is asked to be the IoU that its box reaches, that of the
    background zero (Li et al., 2020, arXiv:2006.04388); boxes learn by generalized IoU
    (Rezatofighi et al., 2019, arXiv:1902.09630).

    Args:
        target: float32 (N, h, w, 5) of `target_map`.
        logits: float32 (N, h, w, 1).
        log_distances: float32 (N, h, w, 4).

    Returns:
        Scalars ``objectness``, ``box`` and ``loss``, their weighted sum.
    """
    state = target[..., 0]
    positive = tf.cast(tf.equal(state, POSITIVE), tf.float32)
    counted = tf.cast(tf.not_equal(state, IGNORED), tf.float32)
    wanted = target[..., 1:]
    predicted = tf.exp(tf.clip_by_value(log_distances, *LOG_DISTANCE_RANGE)) * STRIDE

    iou, giou = _ious(wanted, predicted)
    quality = tf.stop_gradient(iou) * positive
    logits = logits[..., 0]
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=quality, logits=logits)
    hardness = tf.square(tf.abs(quality - tf.sigmoid(logits)))
    birds = tf.maximum(tf.reduce_sum(positive), 1.0)
    objectness = tf.reduce_sum(entropy * hardness * counted) / birds
    box = tf.reduce_sum((1 - giou) * positive) / birds
    return {"objectness": objectness, "box": box, "loss": 2 * objectness + box}


def _ious(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """IoU and generalized IoU of boxes given as distances from a common point."""
    smaller, larger = tf.minimum(a, b), tf.maximum(a, b)
    shared = _area(smaller)
    union = tf.maximum(_area(a) + _area(b) - shared, 1e-6)
    hull = tf.maximum(_area(larger), 1e-6)
    iou = shared / union
    return iou, iou - (hull - union) / hull


def _area(sides: tf.Tensor) -> tf.Tensor:
    return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])
