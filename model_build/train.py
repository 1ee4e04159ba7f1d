"""The training loop, readable top to bottom.

Everything a run needs to go on stands in one checkpoint file, written at regular steps and
replaced as a whole; a run that was stopped anywhere continues from there with the same pictures
in the same order. What happened stands in ``metrics.jsonl``, one JSON object a line, and for
TensorBoard in ``tensorboard/``.

The same loop runs on one CPU, on several GPUs (`tf.distribute.MirroredStrategy`) and on several
machines (`MultiWorkerMirroredStrategy`, set up by ``TF_CONFIG``): each replica of the network takes
its share of a batch, and all together make the step that one would have made with the whole batch.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from model_build.augment import Material
from model_build.checkpoint import (
    CHECKPOINT,
    checksum_of,
    restore_checkpoint,
    save_checkpoint,
)
from model_build.composing import Composer, Workers, default_processes
from model_build.cutouts import number_of
from model_build.input_pipeline import Part, picture_batches
from model_build.losses import bird_cells, detection_loss
from model_build.network import build_detector, scaled
from model_build.normalization import adopt_plain_weights, copy_without_normalization
from model_build.start_weights import load_start_weights
from model_build.trunk import freeze_trunk, trunk_named, trunk_variables
from model_build.whole_files import save_weights

LOG, WEIGHTS = "metrics.jsonl", "detector.weights.h5"
# How TensorBoard tells a curve from other things.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
)
# Gradients of the whole batch are shortened to this length.
_LONGEST_GRADIENT = 10.0
# Pictures in which normalizations see what they begin with.
_LOOKED_AT = 128


class Schedule(Protocol):
    """What `learning_rate` needs of a recipe, the detector's or the classifier's."""

    @property
    def steps(self) -> int:
        """Batches to train for."""

    @property
    def warmup_steps(self) -> int:
        """Over which the learning rate rises."""

    @property
    def learning_rate(self) -> float:
        """Its peak."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        trunk: which of `TRUNKS` the network has.
        narrowed: how narrow it is, see `Trunk`.
        size_px: side of the training pictures.
        steps: batches to train for.
        batch: pictures a step.
        learning_rate: of the new layers, after warm-up; falls to a hundredth along a cosine.
        trunk_rate: the trunk's share of it.
        warmup_steps: over which the learning rate rises.
        frozen_stride: the trunk does not learn up to this resolution, px.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101).
        ema: share of the old value that the averaged weights keep at each step.
        empty_share: of the photos used as they are, those without a bird.
        normalized: whether it learns with batch normalization, which is folded into its weights
            afterwards; several replicas normalize each over its share of a batch.
        seed: of the weights and the pictures.
    """

    trunk: str = "lite0"
    narrowed: tuple[int, ...] = ()
    size_px: int = 256
    steps: int = 5000
    batch: int = 16
    learning_rate: float = 1.5e-3
    trunk_rate: float = 0.2
    warmup_steps: int = 200
    frozen_stride: int = 4
    weight_decay: float = 1e-4
    ema: float = 0.9985
    empty_share: float = 0.25
    normalized: bool = False
    seed: int = 1


# For going on from trained weights with a few hundred pictures of one place.
FINE_TUNING = Recipe(steps=600, learning_rate=2e-4, warmup_steps=50, frozen_stride=8, ema=0.99)


@dataclass(frozen=True)
class Device:
    """What to train on.

    Args:
        name: for the log.
        strategy: spreads the work over replicas of the network.
        half_precision: compute in float16, with a scaled loss.
        xla: compile the network's part of a step with XLA.
        processes: that compose pictures, 0 for threads.
    """

    name: str
    strategy: tf.distribute.Strategy
    half_precision: bool = False
    xla: bool = False
    processes: int = 0

    @property
    def part(self) -> Part:
        """Which pictures of each batch are this machine's."""
        replicas = self.strategy.num_replicas_in_sync
        cluster = self.strategy.cluster_resolver
        if cluster is None:
            return Part(0, 1, replicas)
        spec, job, index = cluster.cluster_spec(), cluster.task_type, cluster.task_id
        chiefs = spec.num_tasks("chief") if "chief" in spec.jobs else 0
        machines = sum(spec.num_tasks(name) for name in ("chief", "worker") if name in spec.jobs)
        return Part(index + (chiefs if job == "worker" else 0), machines, replicas)


def choose_device(processes: int | None = None) -> Device:
    """The machines of ``TF_CONFIG``, else all GPUs of this one, else its CPU.

    To be called before TensorFlow is used for anything else.

    Args:
        processes: that compose pictures; None for as many as a GPU asks for.

    Raises:
        ValueError: ``TF_CONFIG`` cannot be understood.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    if os.environ.get("TF_CONFIG"):
        try:
            _check_machines()
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"TF_CONFIG cannot be understood: {error}") from error
        name = f"{strategy.num_replicas_in_sync} replicas on several machines"
    elif gpus > 1:
        strategy = tf.distribute.MirroredStrategy()
        name = f"{gpus} GPUs"
    else:
        strategy = tf.distribute.get_strategy()
        name = "GPU" if gpus else "CPU"
    if processes is None:
        processes = default_processes() if gpus else 0
    return Device(name, strategy, half_precision=gpus > 0, xla=gpus > 0, processes=processes)


def learning_rate(step: int, recipe: Schedule) -> float:
    """Rises over the warm-up, then falls along a cosine to a hundredth."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    material: Material,
    recipe: Recipe,
    folder: Path,
    *,
    start_from: Path | None = None,
    checkpoint_every: int = 500,
    validate: Callable[[keras.Model], dict[str, float]] | None = None,
    record: Callable[[Path], None] | None = None,
    device: Device | None = None,
) -> keras.Model:
    """Train, or go on with the run in ``folder``.

    Args:
        material: the training pictures.
        recipe: how to train.
        folder: for the checkpoint, the logs and the final ``detector.weights.h5``; of several
            machines the first one writes and reads it.
        start_from: weights to start from in place of ImageNet's, see `load_start_weights`.
        checkpoint_every: steps between checkpoints, each with a line in the log.
        validate: figures for the log from a model with the averaged weights.
        record: writes to ``folder`` what later steps need to know, before there are weights.
        device: what to train on.

    Returns:
        The model with the averaged weights.

    Raises:
        ValueError: the run in ``folder`` has other settings, pictures or boxes, began with other
            weights or on another kind of device, or its checkpoint is damaged; or ``start_from``
            holds no weights of this network.
        OutputError: the checkpoint or the weights cannot be written.
    """
    device = device or choose_device()
    strategy, part = device.strategy, device.part
    replicas, is_chief = part.replicas, part.index == 0
    keras.mixed_precision.set_global_policy("mixed_float16" if device.half_precision else "float32")
    keras.utils.set_random_seed(recipe.seed)
    composer = Composer(material, recipe.seed, recipe.size_px, recipe.empty_share)
    with strategy.scope():
        trunk = trunk_named(recipe.trunk, recipe.narrowed)
        model = build_detector(recipe.size_px, trunk, normalized=recipe.normalized)
        averaged = build_detector(recipe.size_px, trunk, normalized=recipe.normalized)
        # what comes of it
        plain = build_detector(recipe.size_px, trunk) if recipe.normalized else averaged
        if start_from is None:
            trunk.load_imagenet_weights(model)
        elif recipe.normalized:
            load_start_weights(plain, start_from)
            adopt_plain_weights(model, plain, _first_pictures(composer))
        else:
            load_start_weights(model, start_from)
        freeze_trunk(model, trunk.last_blocks[recipe.frozen_stride] + 1)
        averaged.set_weights(model.get_weights())
        optimizer = keras.optimizers.AdamW(
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            global_clipnorm=_LONGEST_GRADIENT / replicas,
        )
        if device.half_precision:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
    in_trunk = trunk_variables(model)
    slower = [v for v in model.trainable_variables if v.path in in_trunk]

    @tf.function(jit_compile=device.xla)
    def losses_and_gradients(pictures: tf.Tensor, target: tf.Tensor, birds: tf.Tensor):
        with tf.GradientTape() as tape:
            logits, log_distances = model(pictures, training=True)
            losses = detection_loss(target, logits, log_distances, birds)
            scaled = optimizer.scale_loss(losses["loss"])
        return losses, tape.gradient(scaled, model.trainable_variables)

    def replica_step(pictures: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        # Divided by the birds of the whole batch, the replicas' losses and gradients add up to
        # those of one replica with the whole batch.
        birds = _sum_over_replicas(bird_cells(target))
        losses, gradients = losses_and_gradients(pictures, target, birds)
        # The optimizer adds the replicas' gradients up, but shortens each replica's before: so
        # each is given the mean, and shortens it to its share of the whole length.
        means = [g / replicas for g in _sum_over_replicas(gradients)]
        optimizer.apply(means, model.trainable_variables)
        return losses

    @tf.function
    def train_step(pictures: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        before = [tf.identity(v.value) for v in slower]
        losses = strategy.run(replica_step, (pictures, target))
        # AdamW's step does not depend on the gradient's size, so a lower rate for the trunk has
        # to shorten the step itself.
        for variable, old in zip(slower, before, strict=True):
            strategy.extended.update(
                variable.value,
                lambda v, old: v.assign(old + recipe.trunk_rate * (v - old)),
                (old,),
            )
        for mean, variable in zip(averaged.variables, model.variables, strict=True):
            strategy.extended.update(
                mean.value,
                lambda mean, new: mean.assign(recipe.ema * mean + (1 - recipe.ema) * new),
                (variable.value,),
            )
        return {name: strategy.reduce("SUM", loss, axis=None) for name, loss in losses.items()}

    state = [*model.variables, *averaged.variables, *optimizer.variables]
    checkpoint, pictures = folder / CHECKPOINT, _fingerprint(material)
    start = checksum_of(start_from)
    step = restore_checkpoint(checkpoint, state, recipe, pictures, start) if is_chief else 0
    if part.machines > 1:
        step = _take_over_from_chief(strategy, state, step)
    with (
        closing(Workers(composer, device.processes)) as workers,
        closing(Log(folder, is_chief)) as log,
    ):
        batches = iter(
            strategy.distribute_datasets_from_function(
                lambda _: picture_batches(workers, recipe.batch, step, recipe.steps, part)
            )
        )
        sums: dict[str, tf.Tensor] = {}
        started, started_step = time.monotonic(), step
        progress = tqdm(
            total=recipe.steps,
            initial=step,
            desc=f"training on {device.name}",
            unit="step",
            disable=not is_chief,
        )
        while step < recipe.steps:
            optimizer.learning_rate = learning_rate(step, recipe)
            losses = train_step(*next(batches))
            step += 1
            progress.update()
            # Not turned into numbers before they are needed: that would wait for the GPU.
            sums = {name: loss + sums.get(name, 0.0) for name, loss in losses.items()}
            if step % checkpoint_every and step < recipe.steps:
                continue
            taken = step - started_step
            line: dict[str, float] = {
                "step": step,
                "pictures": step * recipe.batch,
                "pictures_per_s": round(taken * recipe.batch / (time.monotonic() - started), 1),
                **{name: round(float(total) / taken, 4) for name, total in sums.items()},
            }
            if is_chief:
                if validate is not None:
                    line.update(validate(averaged))
                log.write(line)
                progress.set_postfix({k: line[k] for k in ("loss", "pictures_per_s")})
                save_checkpoint(checkpoint, state, step, recipe, pictures, start)
            sums, started, started_step = {}, time.monotonic(), step
        progress.close()
    if recipe.normalized:
        copy_without_normalization(averaged, plain)
    if is_chief:
        if record is not None:
            record(folder)
        save_weights(plain, folder / WEIGHTS)
    if part.machines > 1:
        # The first machine to leave would look like a failure to the others.
        _wait_for_all(strategy)
    return plain


def _first_pictures(composer: Composer) -> Iterator[np.ndarray]:
    """A few batches of a run's pictures, as the network takes them."""
    for start in range(0, _LOOKED_AT, 4):
        yield scaled(np.stack([composer(start + i)[0] for i in range(4)]))


class Log:
    """Writes figures by step: a JSON object a line, and for TensorBoard.

    Args:
        folder: of the run, made where it is missing.
        active: whether to write anything.
    """

    def __init__(self, folder: Path, active: bool) -> None:
        self._lines = None
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = (folder / LOG).open("a")
            self._events = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, line: dict[str, float]) -> None:
        """Write figures with their ``step``."""
        if self._lines is None:
            return
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        with self._events.as_default(line["step"]):
            for name, value in line.items():
                if name != "step":
                    # tf.summary.scalar() would ask for TensorBoard to be installed here
                    tf.summary.write(name.replace(" ", "_"), float(value), metadata=_SCALAR)
        self._events.flush()

    def close(self) -> None:
        """Close the files."""
        if self._lines is not None:
            self._lines.close()
            self._events.close()


# --- replicas


def _check_machines() -> None:
    """Look whether ``TF_CONFIG`` says which machines there are and which of them this one is.

    Raises:
        ValueError: it does not.
    """
    told = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    jobs = told.cluster_spec().jobs
    if told.task_type not in jobs or told.task_id is None or not {"chief", "worker"} & set(jobs):
        raise ValueError(
            'expected {"cluster": {"worker": [a host:port for each machine]}, "task": '
            '{"type": "worker", "index": the number of this one}}'
        )


def is_machine_gone(error: tf.errors.OpError) -> bool:
    """Whether an error of a training on several machines means that another one has left it."""
    left = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    between = isinstance(error, tf.errors.InternalError) and "ollective" in error.message
    return between or isinstance(error, left)


def reason_of(error: tf.errors.OpError) -> str:
    """The line of an error's message that says what is wrong: the last one before the operation."""
    lines = error.message.partition("\n\t [[")[0].splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "unknown")
    return re.sub(r"^\{\{.*?\}\}", "", last).strip()


def _sum_over_replicas(values):
    """The sum of a tensor or of each of a list of tensors over all replicas of the network."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def _take_over_from_chief(strategy: tf.distribute.Strategy, state: list, step: int) -> int:
    """Give all machines the first one's state and step: only that one has the checkpoint."""

    @tf.function
    def from_chief(values: list[tf.Tensor]) -> list[tf.Tensor]:
        def share() -> list[tf.Tensor]:
            first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
            return _sum_over_replicas([v if first else tf.zeros_like(v) for v in values])

        return [strategy.experimental_local_results(v)[0] for v in strategy.run(share)]

    # A list of one type is summed at once, where hundreds of single values would each have to be
    # agreed upon; float64 holds weights and counts exactly.
    numbers = [step, *(variable.numpy() for variable in state)]
    common, *values = from_chief([tf.constant(n, tf.float64) for n in numbers])
    for variable, value in zip(state, values, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    return int(common)


@tf.function
def _wait_for_all(strategy: tf.distribute.Strategy) -> None:
    strategy.run(lambda: _sum_over_replicas(tf.constant(1.0)))


def _fingerprint(material: Material) -> int:
    """A number that tells one collection of pictures with their boxes from another."""
    pictures = number_of(chain(material.birds, material.empties, material.distractors))
    sizes = [str(len(c)) for pool in (material.cutouts, material.objects) for c in pool]
    return zlib.crc32("\n".join(sizes).encode(), pictures)
