"""Batch normalization: a network may learn with it, and loses it afterwards.

Ioffe and Szegedy, 2015, arXiv:1502.03167. A trained one is a factor and an offset for each channel,
which the convolution before it takes on: so it costs nothing at use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
import numpy as np
from keras import layers

# Of the trunks' batch normalizations, as they were trained on ImageNet.
EPSILON = 1e-3


def normalized_after(
    layer: layers.Layer, x: keras.KerasTensor, normalized: bool
) -> keras.KerasTensor:
    """The layer's answer, on request with a batch normalization after it, which helps its training;
    `copy_without_normalization` takes it out again.
    """
    x = layer(x)
    if normalized:
        name = normalization_name(layer.name)
        x = layers.BatchNormalization(epsilon=EPSILON, name=name)(x)
    return x


def adopt_plain_weights(
    model: keras.Model, plain: keras.Model, pictures: Iterable[np.ndarray]
) -> None:
    """Give a network with batch normalizations the weights of the same one without. Each
    normalization begins with the mean and the variance that it sees, and changes nothing at first.

    Args:
        model: changed.
        plain: its layers have the same names.
        pictures: batches as the networks take them, to see means and variances in.
    """
    present = {layer.name for layer in model.layers}
    normalized = [layer.name for layer in plain.layers if normalization_name(layer.name) in present]
    probe = keras.Model(plain.input, [plain.get_layer(name).output for name in normalized])
    means, squares, batches = [0.0] * len(normalized), [0.0] * len(normalized), 0
    for batch in pictures:
        for i, values in enumerate(probe(batch)):
            by_channel = np.reshape(values, (-1, values.shape[-1])).astype(np.float64)
            means[i] += by_channel.mean(axis=0)
            squares[i] += np.square(by_channel).mean(axis=0)
        batches += 1
    for name, total, square in zip(normalized, means, squares, strict=True):
        mean = total / batches
        variance = np.maximum(square / batches - mean**2, 0.0)
        norms = [np.sqrt(variance + EPSILON), mean, mean, variance]
        model.get_layer(normalization_name(name)).set_weights(norms)
    for layer in plain.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


def copy_without_normalization(trained: keras.Model, plain: keras.Model) -> None:
    """Give a network without batch normalizations the weights of a trained one with them, as far
    as their layers have the same names.
    """
    by_name = {layer.name: layer for layer in trained.layers}
    for layer in plain.layers:
        if not layer.weights or layer.name not in by_name:
            continue
        weights = by_name[layer.name].get_weights()
        if (after := by_name.get(normalization_name(layer.name))) is not None:
            weights = folded(weights, after.get_weights(), after.epsilon)
        layer.set_weights(weights)


def folded(
    weights: Sequence[np.ndarray], norms: Sequence[np.ndarray], epsilon: float
) -> list[np.ndarray]:
    """A layer's kernel and bias that take on the batch normalization after it: once trained, that
    is a factor and an offset for each channel.

    Args:
        weights: the kernel, with the channels as its last axis that is not 1, and the bias.
        norms: gain, offset, mean and variance, each (channels,).
        epsilon: of the batch normalization.
    """
    kernel, bias = weights
    gain, offset, mean, variance = norms
    gain = gain / np.sqrt(variance + epsilon)
    # a depthwise convolution's is (kh, kw, channels, 1)
    factor = gain[:, None] if kernel.shape[-1] == 1 else gain
    return [kernel * factor, (bias - mean) * gain + offset]


def normalization_name(layer: str) -> str:
    """The name of the normalization after a layer, if there is one."""
    return f"{layer}_normalized"
