"""Makes a network easier to quantize without changing what it computes.

An int8 tensor has one scale for all its channels. Where a few channels are ten times as large as
the others, these are left with a handful of levels. In the trunk nothing bends the values between
one block's last convolution and the next one's first, so a channel can be made smaller in the
former and its use in the latter larger by as much: the network computes the same, and all channels
fill the scale (cross-layer equalization, Nagel et al., 2019, arXiv:1906.04721).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from model_build.network import FEATURE_STRIDES
from model_build.trunk import Trunk

# Of a channel's values this share must fit: the rare ones beyond do not decide its size.
_FITTING_SHARE = 0.999
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


def streams_of(trunk: Trunk) -> list[Stream]:
    """One for each stage of a trunk: its blocks all add to it, and the next stage reads it."""
    streams, first = [], 0
    laterals = {trunk.last_blocks[stride]: f"lateral{stride}" for stride in FEATURE_STRIDES}
    for stage in trunk.stages:
        end = first + stage.repeats
        readers = [f"block{block}_expand" for block in range(first + 1, end)]
        if stage is not trunk.stages[-1]:
            readers.append(f"block{end}_expand")
        if end - 1 in laterals:
            readers.append(laterals[end - 1])
        streams.append(Stream(tuple(range(first, end)), tuple(readers)))
        first = end
    return streams


def channel_sizes(
    model: keras.Model, streams: Sequence[Stream], pictures: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """How large each channel of each stream gets.

    Args:
        model: a detector of `network.build_detector`.
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


def equalize(model: keras.Model, trunk: Trunk, pictures: Iterable[np.ndarray]) -> None:
    """Give all channels of each stream the same size, in place.

    Args:
        model: a detector of `network.build_detector`; its outputs stay the same but for rounding.
        trunk: the model's.
        pictures: float32 (N, S, S, 3), to measure with.
    """
    streams = streams_of(trunk)
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
