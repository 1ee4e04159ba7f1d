"""The classifier's two networks and their training.

``edgebird``, which the runtime ships::

    picture (128, 128, 3) ─► EfficientNet-Lite2 with ImageNet weights ─► mean over positions
                          ─► dropout ─► 2 outputs

``article``, the network of the article, with convolutions that stay inside the picture
(valid padding), as a sliding window's do; batch normalization helps its training and is no part of
what comes of it::

    picture (32, 32, 3) ─► convolution 32 ─► 2x2 max pooling ─► convolution 64 ─► convolution 64
                        ─► 2x2 max pooling ─► fully connected 512 ─► dropout ─► 2 outputs
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tqdm import tqdm

from model_build.checkpoint import (
    CHECKPOINT,
    checksum_of,
    restore_checkpoint,
    save_checkpoint,
    settings_of,
)
from model_build.classifier_data import TrainingPictures
from model_build.classifier_pictures import ArticleMix, FeederMix
from model_build.network import PIXEL_MEAN, PIXEL_SCALE
from model_build.normalization import normalized_after
from model_build.start_weights import load_keras_weights
from model_build.train import learning_rate
from model_build.trunk import LITE2, Trunk, freeze_trunk
from model_build.whole_files import save_weights

LOG, WEIGHTS = "metrics.jsonl", "classifier.weights.h5"
# Of what the classes of the sets teach beside "bird or not", in the sum of the losses.
_CONCEPTS_SHARE = 0.5


@dataclass(frozen=True)
class ClassifierRecipe:
    """How to train a classifier.

    Args:
        network: which one.
        size_px: side of the pictures.
        steps: batches to train for.
        batch: pictures a step.
        learning_rate: after warm-up; falls to a hundredth along a cosine.
        warmup_steps: over which the learning rate rises.
        frozen_blocks: of the trunk, from the picture on, that do not learn.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101).
        ema: share of the old value that the averaged weights keep at each step.
        concepts: whether it also learns to tell apart the classes that the sets give (cat from
            ship): that says more about a picture than "no bird" does.
        windows: whether it also sees windows of photos and scenes; pictures of single things only
            are a good first stage.
        normalized: whether it learns with batch normalization, which is folded into its weights
            afterwards.
        seed: of the weights and the pictures.
    """

    network: Literal["edgebird", "article"]
    size_px: int
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int = 200
    frozen_blocks: int = 1
    weight_decay: float = 1e-4
    ema: float = 0.999
    concepts: bool = False
    windows: bool = True
    normalized: bool = False
    seed: int = 1

    @property
    def trunk(self) -> Trunk | None:
        """What the network looks through; None for the article's, which has none."""
        return LITE2 if self.network == "edgebird" else None


RECIPES = {
    "edgebird": ClassifierRecipe(
        network="edgebird",
        size_px=128,
        steps=3800,
        batch=32,
        learning_rate=3e-4,
        frozen_blocks=4,
        weight_decay=0.02,
        concepts=True,
        normalized=True,
    ),
    "article": ClassifierRecipe(
        network="article",
        size_px=32,
        steps=24_000,
        batch=96,
        learning_rate=1e-3,
        weight_decay=0.05,
        concepts=True,
        normalized=True,
    ),
}


def recipe_of(folder: Path) -> ClassifierRecipe:
    """How the run in a folder is trained, as its checkpoint says.

    Raises:
        FileNotFoundError: it has no checkpoint.
    """
    return ClassifierRecipe(**settings_of(folder / CHECKPOINT))


def build_classifier(recipe: ClassifierRecipe) -> keras.Model:
    """The recipe's network as it is trained, with fresh weights; the trunk with ImageNet's.

    Args:
        recipe: says which, its size, and whether with batch normalization.

    Returns:
        A model from float32 (N, size, size, 3), scaled by `PIXEL_MEAN` and `PIXEL_SCALE`, to
        float32 logits (N, 2), other and bird.
    """
    picture = keras.Input((recipe.size_px, recipe.size_px, 3), name="picture")
    if recipe.trunk is None:
        x = article_network(picture, normalized=recipe.normalized)
    else:
        blocks = recipe.trunk.blocks(picture, normalized=recipe.normalized)
        top = recipe.trunk.top(blocks[-1], normalized=recipe.normalized)
        x = layers.Dropout(0.2, name="dropout")(top)
    logits = layers.Dense(2, name="logits", dtype="float32")(x)
    model = keras.Model(picture, logits, name=recipe.network)
    if recipe.trunk is not None:
        recipe.trunk.load_imagenet_weights(model)
    return model


def article_network(picture, *, normalized: bool = False):
    """The article's network up to its outputs; its layers' names are those of `dense_article`."""
    x = layers.Flatten(name="flatten")(article_features(picture, normalized=normalized))
    x = _rectified(layers.Dense(512, name="connected"), x, normalized)
    return layers.Dropout(0.5, name="dropout")(x)


def article_features(x, *, normalized: bool = False):
    """The article's convolutions: a map with a cell for every 4 x 4 pixels."""
    x = _rectified(layers.Conv2D(32, 3, name="conv1"), x, normalized)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = _rectified(layers.Conv2D(64, 3, name="conv2"), x, normalized)
    x = _rectified(layers.Conv2D(64, 3, name="conv3"), x, normalized)
    return layers.MaxPooling2D(2, name="pool2")(x)


def _rectified(layer: layers.Layer, x, normalized: bool):
    """The layer's answer, normalized over the batch on request, without what is negative."""
    return layers.ReLU(name=f"{layer.name}_rectified")(normalized_after(layer, x, normalized))


def _with_concepts(model: keras.Model, concepts: int) -> keras.Model:
    """The model with, if there are any, a second output: a logit for each of the concepts."""
    outputs = {"logits": model.output}
    if concepts:
        finer = layers.Dense(concepts, name="concepts", dtype="float32")
        outputs["concepts"] = finer(model.get_layer("dropout").output)
    return keras.Model(model.input, outputs)


def picture_mix(
    pictures: TrainingPictures, recipe: ClassifierRecipe, seed: int
) -> ArticleMix | FeederMix:
    """The recipe's pictures; another seed, others."""
    if recipe.network == "article":
        return ArticleMix(pictures, recipe.size_px, seed)
    return FeederMix(pictures, recipe.size_px, seed, windows=recipe.windows)


def picture_batches(
    pictures: TrainingPictures, recipe: ClassifierRecipe, first_step: int, workers: int = 2
) -> tf.data.Dataset:
    """Batches of float32 pictures, int32 labels and int32 concepts, from step ``first_step`` on.

    A concept is an index into `TrainingPictures.concepts`, or -1.

    Picture ``n`` of a run is always the same, whatever the number of workers.
    """
    mix = picture_mix(pictures, recipe, recipe.seed)
    index = {concept: i for i, concept in enumerate(pictures.concepts)}

    def compose(number: np.int64) -> tuple[np.ndarray, np.int32, np.int32]:
        picture, label, concept = mix(int(number))
        return picture, np.int32(label), np.int32(index.get(concept, -1))

    def load(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        wanted = [tf.uint8, tf.int32, tf.int32]
        picture, label, concept = tf.numpy_function(compose, [number], wanted)
        picture.set_shape((recipe.size_px, recipe.size_px, 3))
        label.set_shape(())
        concept.set_shape(())
        return (tf.cast(picture, tf.float32) - PIXEL_MEAN) / PIXEL_SCALE, label, concept

    numbers = tf.data.Dataset.range(first_step * recipe.batch, recipe.steps * recipe.batch)
    return (
        numbers.map(load, num_parallel_calls=workers, deterministic=True)
        .batch(recipe.batch, drop_remainder=True)
        .prefetch(4)
    )


def train_classifier(
    pictures: TrainingPictures,
    recipe: ClassifierRecipe,
    folder: Path,
    *,
    start_from: Path | None = None,
    checkpoint_every: int = 500,
    validate: Callable[[keras.Model], dict[str, float]] | None = None,
) -> keras.Model:
    """Train, or go on with the run in ``folder``.

    Args:
        pictures: to learn from.
        recipe: how to train.
        folder: for the checkpoint, the log and the final weights.
        start_from: weights of an earlier run to start from.
        checkpoint_every: steps between checkpoints, each with a line in the log.
        validate: figures for the log from a model with the averaged weights.

    Returns:
        The model with the averaged weights.

    Raises:
        ValueError: the folder holds a run with another recipe, or one that began with other
            weights, or its checkpoint is damaged; or ``start_from`` is no file with this network's
            weights.
        OutputError: the checkpoint or the weights cannot be written.
    """
    keras.utils.set_random_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    model, averaged = build_classifier(recipe), build_classifier(recipe)
    if start_from is not None:
        load_keras_weights(model, start_from)
    if recipe.trunk is not None:
        freeze_trunk(model, recipe.frozen_blocks)
    averaged.set_weights(model.get_weights())
    learner = _with_concepts(model, len(pictures.concepts) if recipe.concepts else 0)
    optimizer = keras.optimizers.AdamW(
        recipe.learning_rate, weight_decay=recipe.weight_decay, global_clipnorm=5.0
    )
    learning = learner.trainable_variables
    optimizer.build(learning)

    @tf.function
    def train_step(
        batch: tf.Tensor, labels: tf.Tensor, concepts: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            answer = learner(batch, training=True)
            logits = answer["logits"]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = total = tf.reduce_mean(losses)
            if "concepts" in answer:
                finer = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    tf.maximum(concepts, 0), answer["concepts"]
                )
                known = tf.cast(concepts >= 0, tf.float32)
                total = loss + _CONCEPTS_SHARE * tf.reduce_mean(known * finer)
        optimizer.apply(tape.gradient(total, learning), learning)
        # Over the first steps the average forgets the start faster.
        taken = tf.cast(optimizer.iterations.value, tf.float32)
        keep = tf.minimum(recipe.ema, (taken + 1) / (taken + 10))
        for mean, variable in zip(averaged.weights, model.weights, strict=True):
            mean.assign(keep * mean + (1 - keep) * variable)
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(right, tf.float32))

    state = [*learner.variables, *averaged.variables, *optimizer.variables]
    start = checksum_of(start_from)
    step = restore_checkpoint(folder / CHECKPOINT, state, recipe, start=start)
    batches = iter(picture_batches(pictures, recipe, step))
    sums, started, started_step = np.zeros(2), time.monotonic(), step
    progress = tqdm(total=recipe.steps, initial=step, desc=f"training {recipe.network}")
    with progress, (folder / LOG).open("a") as log:
        while step < recipe.steps:
            optimizer.learning_rate = learning_rate(step, recipe)
            sums += [float(value) for value in train_step(*next(batches))]
            step += 1
            progress.update()
            if step % checkpoint_every and step < recipe.steps:
                continue
            taken = step - started_step
            loss, accuracy = sums / taken
            line = {
                "step": step,
                "pictures": step * recipe.batch,
                "pictures_per_s": round(taken * recipe.batch / (time.monotonic() - started), 1),
                "loss": round(loss, 4),
                "accuracy": round(accuracy, 4),
            }
            if validate is not None:
                line.update(validate(averaged))
            log.write(json.dumps(line) + "\n")
            log.flush()
            progress.set_postfix({k: line[k] for k in ("loss", "pictures_per_s")})
            save_checkpoint(folder / CHECKPOINT, state, step, recipe, start=start)
            sums, started, started_step = np.zeros(2), time.monotonic(), step
    save_weights(averaged, folder / WEIGHTS)
    return averaged
