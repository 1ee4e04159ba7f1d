"""Makes a network easier to quantize.

An int8 tensor has one scale for all its channels. Where a few channels are ten times as large as
the others, these are left with a handful of levels. In the trunk nothing bends the values between
one block's last convolution and the next one's first, so a channel can be made smaller in the
former and its use in the latter larger by as much: the network computes the same, and all channels
fill the scale (cross-layer equalization, Nagel et al., 2019, arXiv:1906.04721).

Rounding a kernel moves the mean of what it makes, and the next layers add up such shifts. The
rounding is known beforehand, so the biases can make up for it (bias correction, there too).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from model_build.network import FEATURE_STRIDES, scaled
from model_build.trunk import Trunk

# Of a channel's values this share must fit: the rare ones beyond do not decide its size.
_FITTING_SHARE = 0.999
# Pictures to measure with.
_LOOKED_AT = 64
# No channel is changed by more than this factor.
_MOST = 16.0


@dataclass(frozen=True)
class Stream:
    """A tensor that blocks add to and read from.

    Args:
        writers: blocks whose projections are added up in it.
        readers: convolutions that read it.
    """

    writers: tuple[int, ...]
    readers: tuple[str, ...]

    @property
    def tensors(self) -> list[str]:
        """Layers whose outputs are the stream's values."""
        first, *others = self.writers
        return [f"block{first}_project", *(f"block{block}_add" for block in others)]


def streams_of(model: keras.Model, trunk: Trunk) -> list[Stream]:
    """One for each stage of a model's trunk: its blocks all add to it, and the next stage reads it,
    and so may a detector's head and a classifier's top.
    """
    streams, first = [], 0
    laterals = {trunk.last_blocks[stride]: f"lateral{stride}" for stride in FEATURE_STRIDES}
    present = {layer.name for layer in model.layers}
    for stage in trunk.stages:
        end = first + stage.repeats
        readers = [f"block{block}_expand" for block in range(first + 1, end)]
        readers.append("top" if stage is trunk.stages[-1] else f"block{end}_expand")
        if end - 1 in laterals:
            readers.append(laterals[end - 1])
        here = tuple(reader for reader in readers if reader in present)
        streams.append(Stream(tuple(range(first, end)), here))
        first = end
    return streams


def channel_sizes(
    model: keras.Model, streams: Sequence[Stream], pictures: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """How large each channel of each stream gets.

    Args:
        model: on a trunk.
        streams: of its trunk.
        pictures: float32 (N, S, S, 3), as the network takes them.

    Returns:
        For each stream float32 (channels,).
    """
    names = [stream.tensors for stream in streams]
    outputs = [[model.get_layer(name).output for name in stream] for stream in names]
    look = keras.Model(model.input, outputs)
    sizes = [np.full(stream[0].shape[-1], 1e-6, np.float32) for stream in outputs]
    for picture in pictures:
        for size, tensors in zip(sizes, look(picture, training=False), strict=True):
            for tensor in tensors:
                values = np.abs(np.asarray(tensor)).reshape(-1, len(size))
                np.maximum(size, np.quantile(values, _FITTING_SHARE, axis=0), out=size)
    return sizes


def prepare_for_int8(
    model: keras.Model, trunk: Trunk | None, representative: Sequence[np.ndarray]
) -> None:
    """Equalize the channels of a model's trunk, then correct the biases, in place.

    Args:
        model: float; its outputs stay the same but for what corrects them once they are rounded.
        trunk: the model's; None if it is on none.
        representative: uint8 pictures (S, S, 3) of what it will see; the first 64 are looked at.
    """
    pictures = [scaled(picture[None]) for picture in representative[:_LOOKED_AT]]
    if trunk is not None:
        equalize(model, trunk, pictures)
    correct_biases(model, pictures)


def equalize(model: keras.Model, trunk: Trunk, pictures: Iterable[np.ndarray]) -> None:
    """Give all channels of each stream the same size, in place.

    Args:
        model: on the trunk; its outputs stay the same but for rounding.
        trunk: the model's.
        pictures: float32 (N, S, S, 3), to measure with.
    """
    streams = streams_of(model, trunk)
    for stream, size in zip(streams, channel_sizes(model, streams, pictures), strict=True):
        factor = (np.exp(np.log(size).mean()) / size).clip(1 / _MOST, _MOST)
        for block in stream.writers:
            layer = model.get_layer(f"block{block}_project")
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * factor, bias * factor])
        for name in stream.readers:
            layer = model.get_layer(name)
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel / factor[:, None], bias])


def correct_biases(model: keras.Model, pictures: Sequence[np.ndarray]) -> None:
    """Change each layer's biases so that its outputs keep their mean when its kernel is rounded to
    int8, in place.

    Args:
        model: the float model, as it will be quantized.
        pictures: float32 (N, S, S, 3), to measure with.
    """
    rounded = [layer for layer in model.layers if layer.weights]
    look = keras.Model(model.input, [layer.input for layer in rounded])
    errors = [_rounding_of(layer) for layer in rounded]
    shifts = [np.zeros(layer.output.shape[-1]) for layer in rounded]
    for picture in pictures:
        for shift, error, tensor in zip(shifts, errors, look(picture, training=False), strict=True):
            shift += np.asarray(error(tensor)).reshape(-1, len(shift)).mean(0) / len(pictures)
    for layer, shift in zip(rounded, shifts, strict=True):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias - shift])


def _rounding_of(layer: keras.Layer) -> keras.Layer:
    """The same layer with, for its kernel, what rounding that to int8 adds to it."""
    kernel, bias = layer.get_weights()
    # Each output has a scale of its own; a depthwise kernel's outputs are its inputs.
    output = 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else kernel.ndim - 1
    others = tuple(axis for axis in range(kernel.ndim) if axis != output)
    scale = np.maximum(np.abs(kernel).max(axis=others, keepdims=True), 1e-12) / 127
    error = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    error.build(layer.input.shape)
    error.set_weights([np.round(kernel / scale) * scale - kernel, np.zeros_like(bias)])
    return error
