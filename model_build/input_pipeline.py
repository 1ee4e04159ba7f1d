"""Training pictures in batches, composed ahead of the network.

Picture ``n`` of a run is always the same: whatever the number of threads or processes that compose,
of replicas of the network, or of machines, and wherever the run is taken up again.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import tensorflow as tf

from model_build.composing import Workers
from model_build.network import PIXEL_MEAN, PIXEL_SCALE
from model_build.targets import STRIDE


@dataclass(frozen=True)
class Part:
    """Which part of each batch this machine composes.

    Args:
        index: of the machine.
        machines: how many share a batch.
        replicas: of the network, on all machines together.
    """

    index: int = 0
    machines: int = 1
    replicas: int = 1


def picture_batches(
    workers: Workers, batch: int, first_step: int, steps: int, part: Part | None = None
) -> tf.data.Dataset:
    """Batches of float32 pictures and target maps, from step ``first_step`` on.

    Args:
        workers: compose the pictures.
        batch: pictures a step, of all replicas together.
        first_step: where to begin.
        steps: where the run ends.
        part: which of each batch's pictures to make; one replica's at a time.

    Raises:
        ValueError: a batch cannot be divided among the replicas.
    """
    part = part or Part()
    if batch % part.replicas:
        raise ValueError(
            f"a batch of {batch} pictures cannot be divided among {part.replicas} replicas of the "
            "network: give a --batch that can"
        )
    cells, size_px = workers.size_px // STRIDE, workers.size_px
    share = batch // part.machines

    def load(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        picture, target = tf.numpy_function(workers.compose, [number], [tf.uint8, tf.float32])
        picture.set_shape((size_px, size_px, 3))
        target.set_shape((cells, cells, 5))
        return (tf.cast(picture, tf.float32) - PIXEL_MEAN) / PIXEL_SCALE, target

    numbers = tf.data.Dataset.range(first_step * batch, steps * batch)
    if part.machines > 1:
        numbers = numbers.filter(lambda n: n % batch // share == part.index)
    return (
        numbers.map(load, num_parallel_calls=workers.calls, deterministic=True)
        .batch(batch // part.replicas, drop_remainder=True)
        .prefetch(max(4, 2 * part.replicas // part.machines))
    )


def measure_input(workers: Workers, batch: int, seconds: float) -> float:
    """How many pictures a second the pipeline alone delivers.

    The first batches do not count: processes start and the first pictures are decoded then.
    """
    batches = iter(picture_batches(workers, batch, 0, 1_000_000))
    for _ in range(max(4, workers.calls)):
        next(batches)
    started = time.monotonic()
    for count in itertools.count(1):
        next(batches)
        taken = time.monotonic() - started
        if taken >= seconds:
            return count * batch / taken
    raise AssertionError("an endless count ended")
