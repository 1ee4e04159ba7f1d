"""The training loop, readable top to bottom.

Everything a run needs to go on stands in one checkpoint file, written at regular steps and
replaced as a whole; a run that was stopped anywhere continues from there with the same pictures
in the same order. What happened stands in ``metrics.jsonl``, one JSON object a line.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from model_build.augment import Material, training_scene
from model_build.network import (
    PIXEL_MEAN,
    PIXEL_SCALE,
    build_detector,
    freeze_trunk,
    load_imagenet_trunk,
    trunk_variables,
)
from model_build.targets import detection_loss, target_map

CHECKPOINT, LOG = "checkpoint.npz", "metrics.jsonl"


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        size_px: side of the training pictures.
        steps: batches to train for.
        batch: pictures a step.
        learning_rate: of the new layers, after warm-up; falls to a hundredth along a cosine.
        trunk_rate: the trunk's share of it.
        warmup_steps: over which the learning rate rises.
        frozen_blocks: of the trunk, from the picture on, that do not learn.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101).
        ema: share of the old value that the averaged weights keep at each step.
        empty_share: of the photos used as they are, those without a bird.
        seed: of the weights and the pictures.
    """

    size_px: int = 256
    steps: int = 5000
    batch: int = 16
    learning_rate: float = 1.5e-3
    trunk_rate: float = 0.2
    warmup_steps: int = 200
    frozen_blocks: int = 3
    weight_decay: float = 1e-4
    ema: float = 0.9985
    empty_share: float = 0.25
    seed: int = 1


def picture_batches(
    material: Material, recipe: Recipe, first_step: int, workers: int = 2
) -> tf.data.Dataset:
    """Batches of float32 pictures and target maps, from step ``first_step`` on.

    Picture ``n`` of a run is always the same, whatever the number of workers.
    """
    cells = recipe.size_px // 8

    def compose(number: np.int64) -> tuple[np.ndarray, np.ndarray]:
        scene = training_scene(
            recipe.seed, int(number), material, recipe.size_px, recipe.empty_share
        )
        return scene.picture, target_map(scene)

    def load(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        picture, target = tf.numpy_function(compose, [number], [tf.uint8, tf.float32])
        picture.set_shape((recipe.size_px, recipe.size_px, 3))
        target.set_shape((cells, cells, 5))
        return (tf.cast(picture, tf.float32) - PIXEL_MEAN) / PIXEL_SCALE, target

    numbers = tf.data.Dataset.range(first_step * recipe.batch, recipe.steps * recipe.batch)
    return (
        numbers.map(load, num_parallel_calls=workers, deterministic=True)
        .batch(recipe.batch, drop_remainder=True)
        .prefetch(4)
    )


def learning_rate(step: int, recipe: Recipe) -> float:
    """Rises over the warm-up, then falls along a cosine to a hundredth."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def use_accelerator() -> str:
    """Set half precision where there is a GPU; the device's name for the log."""
    if tf.config.list_physical_devices("GPU"):
        keras.mixed_precision.set_global_policy("mixed_float16")
        return "GPU, mixed precision"
    return "CPU, float32"


def train(
    material: Material,
    recipe: Recipe,
    folder: Path,
    *,
    start_from: Path | None = None,
    checkpoint_every: int = 500,
    validate: Callable[[keras.Model], dict[str, float]] | None = None,
) -> keras.Model:
    """Train, or go on with the run in ``folder``.

    Args:
        material: the training pictures.
        recipe: how to train.
        folder: for the checkpoint, the log and the final ``detector.weights.h5``.
        start_from: weights to start from in place of ImageNet's.
        checkpoint_every: steps between checkpoints, each with a line in the log.
        validate: figures for the log from a model with the averaged weights.

    Returns:
        The model with the averaged weights.
    """
    device = use_accelerator()
    keras.utils.set_random_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = build_detector(recipe.size_px)
    averaged = build_detector(recipe.size_px)
    if start_from is not None:
        model.load_weights(start_from)
    else:
        load_imagenet_trunk(model)
    freeze_trunk(model, recipe.frozen_blocks)
    averaged.set_weights(model.get_weights())

    optimizer = keras.optimizers.AdamW(
        recipe.learning_rate, weight_decay=recipe.weight_decay, global_clipnorm=10.0
    )
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    in_trunk = trunk_variables(model)
    rates = [recipe.trunk_rate if v.path in in_trunk else 1.0 for v in model.trainable_variables]

    @tf.function
    def train_step(pictures: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        before = [tf.identity(v.value) for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            logits, log_distances = model(pictures, training=True)
            losses = detection_loss(target, logits, log_distances)
            scaled = optimizer.scale_loss(losses["loss"])
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        # AdamW's step does not depend on the gradient's size, so a lower rate for the trunk has
        # to shorten the step itself.
        for variable, old, rate in zip(model.trainable_variables, before, rates, strict=True):
            if rate != 1.0:
                variable.assign(old + rate * (variable - old))
        for mean, variable in zip(averaged.variables, model.variables, strict=True):
            mean.assign(recipe.ema * mean + (1 - recipe.ema) * variable)
        return losses

    state = [*model.variables, *averaged.variables, *optimizer.variables]
    step = _restore(folder / CHECKPOINT, state, recipe)
    batches = iter(picture_batches(material, recipe, step))
    sums: dict[str, float] = {}
    started, started_step = time.monotonic(), step
    progress = tqdm(total=recipe.steps, initial=step, desc=f"training on {device}", unit="step")
    with progress, (folder / LOG).open("a") as log:
        while step < recipe.steps:
            optimizer.learning_rate = learning_rate(step, recipe)
            losses = train_step(*next(batches))
            step += 1
            progress.update()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            if step % checkpoint_every and step < recipe.steps:
                continue
            taken = step - started_step
            line: dict[str, object] = {
                "step": step,
                "pictures": step * recipe.batch,
                "pictures_per_s": round(taken * recipe.batch / (time.monotonic() - started), 1),
                **{name: round(total / taken, 4) for name, total in sums.items()},
            }
            if validate is not None:
                line.update(validate(averaged))
            log.write(json.dumps(line) + "\n")
            log.flush()
            progress.set_postfix({k: line[k] for k in ("loss", "pictures_per_s")})
            _save(folder / CHECKPOINT, state, step, recipe)
            sums, started, started_step = {}, time.monotonic(), step
    averaged.save_weights(folder / "detector.weights.h5")
    return averaged


def _save(path: Path, state: list, step: int, recipe: Recipe) -> None:
    """Write the whole state, replacing the file only when it is complete."""
    partial = path.with_suffix(".partial.npz")
    arrays = {f"{i:04d}": np.asarray(variable.value) for i, variable in enumerate(state)}
    np.savez(partial, step=step, recipe=json.dumps(asdict(recipe)), **arrays)
    partial.replace(path)


def _restore(path: Path, state: list, recipe: Recipe) -> int:
    """Load the state of an earlier run and return its step; 0 where there is none.

    Raises:
        ValueError: the checkpoint belongs to another recipe.
    """
    if not path.exists():
        return 0
    with np.load(path) as saved:
        if json.loads(str(saved["recipe"])) != asdict(recipe):
            raise ValueError(
                f"{path} was made with other settings: {saved['recipe']}; "
                "give the same ones to go on, or another folder for a new run"
            )
        for i, variable in enumerate(state):
            variable.assign(saved[f"{i:04d}"])
        return int(saved["step"])
