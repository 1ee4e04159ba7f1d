"""From a trained classifier to a calibrated int8 ``.tflite`` with its card, and its dense form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from edgebird.classify import fit_to_input
from edgebird.model import InputScaling, ModelCard, TrainingData
from model_build.classifier import (
    ClassifierRecipe,
    article_features,
    build_classifier,
    picture_mix,
)
from model_build.classifier_data import Labelled, TrainingPictures
from model_build.network import PIXEL_MEAN, PIXEL_SCALE, scaled
from model_build.normalization import copy_without_normalization
from model_build.quantize import current_commit
from model_build.runs import trunk_data
from model_build.start_weights import load_keras_weights

CLASSIFIER_DATA = [
    TrainingData("CIFAR-10", "no terms stated; from Tiny Images"),
    TrainingData("CUB-200 (2010), cropped birds", "research, non-commercial"),
    TrainingData("CUB-200-2011 (42 species), boxes", "research, non-commercial"),
    TrainingData("web photos of 48 Singapore species", "terms unclear"),
    TrainingData("Tiny-ImageNet and ImageNet samples", "ImageNet terms, research"),
    TrainingData("Pascal VOC 2007, bird-free photos", "Flickr terms"),
    TrainingData("COCO train2017, first 128 photos", "Flickr terms"),
]


class KerasClassifier:
    """The float model behind the runtime's `BatchInterpreter` protocol, so that float and int8 are
    judged by the same code.

    Args:
        model: with log-odds (N, 1), as `verdict_model` makes it.
    """

    def __init__(self, model: keras.Model) -> None:
        self._size_px = model.input_shape[1]
        self._run = tf.function(lambda pictures: model(pictures, training=False))

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._size_px, self._size_px

    def run_batch(self, images: np.ndarray) -> list[np.ndarray]:
        """The log-odds of uint8 pictures (N, H, W, 3), float32 (N, 1)."""
        return [np.asarray(self._run(tf.constant(scaled(images))))]


def average_with(model: keras.Model, others: Sequence[Path]) -> None:
    """Give a trained network the mean of its weights and those of the stages that it began with:
    all lie in one valley of the loss, and its middle is often better on other pictures than any
    stage is (Izmailov et al., 2018, arXiv:1803.05407).

    Args:
        model: whose weights change.
        others: ``classifier.weights.h5`` of the other stages.

    Raises:
        ValueError: a file has no such network's weights.
    """
    stages = [model.get_weights()]
    for weights in others:
        load_keras_weights(model, weights)
        stages.append(model.get_weights())
    model.set_weights([np.mean(same, axis=0) for same in zip(*stages, strict=True)])


def raw_log_odds(model: keras.Model, pictures: Sequence[Labelled], batch: int = 64) -> np.ndarray:
    """Bird's logit minus the other's, float32 (N,), as the network was trained to say."""
    size_px = model.input_shape[1]
    run = tf.function(lambda pixels: model(pixels, training=False))
    results = []
    for start in range(0, len(pictures), batch):
        fitted = [fit_to_input(p.picture(), (size_px, size_px)) for p in pictures[start:][:batch]]
        logits = np.asarray(run(tf.constant(scaled(np.stack(fitted)))))
        results.append(logits[:, 1] - logits[:, 0])
    return np.concatenate(results)


def fit_calibration(log_odds: np.ndarray, birds: np.ndarray) -> tuple[float, float]:
    """Slope and offset that make log-odds say frequencies (Platt, 1999; the slope is one over the
    temperature of Guo et al., 2017, arXiv:1706.04599; the offset is for another share of birds
    than in training).

    Args:
        log_odds: float (N,), of pictures that were not trained on.
        birds: bool (N,).

    Returns:
        ``a, b``, for the calibrated log-odds ``a * log_odds + b``.
    """
    x = np.stack([log_odds, np.ones_like(log_odds)], axis=1).astype(np.float64)
    y = birds.astype(np.float64)
    # Starting flat, Newton's method cannot overshoot by much; a weak prior (a slope around 1)
    # keeps the answer finite where the pictures are told apart without an error.
    ab, prior = np.array([0.5, 0.0]), np.array([1.0, 0.0])
    strength = np.diag([1.0, 0.01])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ ab, -50, 50)))
        gradient = x.T @ (p - y) + strength @ (ab - prior)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + strength
        ab = ab - np.clip(np.linalg.solve(hessian, gradient), -0.5, 0.5)
    return float(ab[0]), float(ab[1])


def verdict_model(
    trained: keras.Model, recipe: ClassifierRecipe, calibration: tuple[float, float]
) -> keras.Model:
    """The trained network with one output in place of two, the calibrated log-odds (N, 1), and
    without what only its training needs.

    The difference of two linear outputs, scaled and shifted, is one linear output; so calibration
    costs nothing at use.
    """
    model = _with_one_output(recipe)
    copy_without_normalization(trained, model)
    kernel, bias = trained.get_layer("logits").get_weights()
    slope, offset = calibration
    model.get_layer("log_odds").set_weights(
        [slope * (kernel[:, 1:] - kernel[:, :1]), slope * (bias[1:] - bias[:1]) + offset]
    )
    return model


def load_verdict(weights: Path, recipe: ClassifierRecipe) -> keras.Model:
    """The network of `verdict_model` from its saved weights."""
    model = _with_one_output(recipe)
    model.load_weights(weights)
    return model


def _with_one_output(recipe: ClassifierRecipe) -> keras.Model:
    model = build_classifier(replace(recipe, normalized=False))
    odds = layers.Dense(1, name="log_odds")(model.get_layer("dropout").output)
    return keras.Model(model.input, odds, name=recipe.network)


def dense_article(verdict: keras.Model, width: int, height: int) -> keras.Model:
    """The article's network over a larger picture at once: its fully-connected layers as
    convolutions, with the same weights.

    Args:
        verdict: the network with one output, for pictures of its own size.
        width: of the larger picture, in pixels.
        height: of the larger picture.

    Returns:
        A model to a map (N, rows, columns, 1): cell (i, j) is what ``verdict`` says of the window
        whose upper left corner is at pixel (4 i, 4 j).
    """
    picture = keras.Input((height, width, 3), name="picture")
    x = article_features(picture)
    # What was flattened for the fully-connected layer is now a kernel of that height and width.
    _, rows, columns, channels = verdict.get_layer("pool2").output.shape
    x = layers.Conv2D(512, (rows, columns), activation="relu", name="connected")(x)
    odds = layers.Conv2D(1, 1, name="log_odds")(x)
    model = keras.Model(picture, odds, name="dense_article")
    for name in ("conv1", "conv2", "conv3"):
        model.get_layer(name).set_weights(verdict.get_layer(name).get_weights())
    for name, shape in (("connected", (rows, columns, channels)), ("log_odds", (1, 1, 512))):
        kernel, bias = verdict.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel.reshape(*shape, -1), bias])
    return model


def representative_pictures(
    pictures: TrainingPictures, recipe: ClassifierRecipe, count: int = 400, seed: int = 7
) -> list[np.ndarray]:
    """What the network will see, for choosing the int8 scales: training pictures."""
    mix = picture_mix(pictures, recipe, seed)
    return [mix(number)[0] for number in range(count)]


def classifier_card(content: bytes, recipe: ClassifierRecipe) -> ModelCard:
    """The card of a freshly quantized classifier; its figures come from the evaluation."""
    own = recipe.network == "edgebird"
    return ModelCard(
        name="edgebird classifier" if own else "the article's classifier",
        task="classifier",
        input_size_px=(recipe.size_px, recipe.size_px),
        input_scaling=InputScaling(PIXEL_MEAN, PIXEL_SCALE),
        outputs=["log_odds"],
        stride_px=recipe.size_px,
        labels=["bird"],
        threshold=0.5,
        threshold_chosen_at=None,
        metrics={},
        training_data=[*CLASSIFIER_DATA, *([trunk_data("lite2")] if own else [])],
        licence="Apache-2.0; trained on data with research terms, see training_data",
        commit=current_commit(),
        sha256=hashlib.sha256(content).hexdigest(),
    )
