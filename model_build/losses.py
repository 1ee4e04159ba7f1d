"""How wrong the network's answer is."""

from __future__ import annotations

import tensorflow as tf

from model_build.network import LOG_DISTANCE_RANGE
from model_build.targets import IGNORED, POSITIVE, STRIDE

# A box that reaches this IoU is as good as any: a score has to say "bird", and asking it for the
# last pixel of the border as well keeps small birds, whose boxes are never that exact, below cats.
_GOOD_IOU = 0.75


def bird_cells(target: tf.Tensor) -> tf.Tensor:
    """How many cells of a batch's target maps belong to a bird, float32."""
    return tf.reduce_sum(tf.cast(tf.equal(target[..., 0], POSITIVE), tf.float32))


def detection_loss(
    target: tf.Tensor,
    logits: tf.Tensor,
    log_distances: tf.Tensor,
    birds: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Quality focal loss on objectness and GIoU loss on boxes.

    The objectness of a bird's cell is asked to be the IoU that its box reaches, as a share of a
    good one (`_GOOD_IOU`) and at most 1, that of the background zero (after Li et al., 2020,
    arXiv:2006.04388); boxes learn by generalized IoU (Rezatofighi et al., 2019, arXiv:1902.09630).

    Args:
        target: float32 (N, h, w, 5) of `target_map`.
        logits: float32 (N, h, w, 1).
        log_distances: float32 (N, h, w, 4).
        birds: the `bird_cells` to divide by: those of the whole batch, where this is a part of one.

    Returns:
        Scalars ``objectness``, ``box`` and ``loss``, their weighted sum.
    """
    state = target[..., 0]
    positive = tf.cast(tf.equal(state, POSITIVE), tf.float32)
    counted = tf.cast(tf.not_equal(state, IGNORED), tf.float32)
    wanted = target[..., 1:]
    predicted = tf.exp(tf.clip_by_value(log_distances, *LOG_DISTANCE_RANGE)) * STRIDE

    iou, giou = _ious(wanted, predicted)
    quality = tf.minimum(tf.stop_gradient(iou) / _GOOD_IOU, 1.0) * positive
    logits = logits[..., 0]
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=quality, logits=logits)
    hardness = tf.square(tf.abs(quality - tf.sigmoid(logits)))
    birds = tf.maximum(bird_cells(target) if birds is None else birds, 1.0)
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
