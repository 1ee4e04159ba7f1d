"""Makes a network easier to quantize without changing what it computes.

An int8 tensor has one scale for all its channels. Where a few channels are ten times as large as
the others, these are left with a handful of levels. In the trunk nothing bends the values between
one block's last convolution and the next one's first, so a channel can be made smaller in the
former and its use in the latter larger by as much: the network computes the same, and all channels
fill the scale (cross-layer equalization, Nagel et al., 2019, arXiv:1906.04721).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np

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


STREAMS = (
    Stream((0,), ("block1_expand",)),
    Stream((1, 2), ("block2_expand", "block3_expand")),
    Stream((3, 4), ("block4_expand", "block5_expand", "lateral8")),
    Stream((5, 6, 7), ("block6_expand", "block7_expand", "block8_expand")),
    Stream((8, 9, 10), ("block9_expand", "block10_expand", "block11_expand", "lateral16")),
    Stream(
        (11, 12, 13, 14), ("block12_expand", "block13_expand", "block14_expand", "block15_expand")
    ),
    Stream((15,), ("lateral32",)),
)


def channel_sizes(model: keras.Model, pictures: Iterable[np.ndarray]) -> list[np.ndarray]:
    """How large each channel of each of `STREAMS` gets.

    Args:
        model: a detector of `network.build_detector`.
        pictures: float32 (N, S, S, 3), as the network takes them.

    Returns:
        For each stream float32 (channels,).
    """
    names = [stream.tensors for stream in STREAMS]
    outputs = [[model.get_layer(name).output for name in stream] for stream in names]
    look = keras.Model(model.input, outputs)
    sizes = [np.full(stream[0].shape[-1], 1e-6, np.float32) for stream in outputs]
    for picture in pictures:
        for size, tensors in zip(sizes, look(picture, training=False), strict=True):
            for tensor in tensors:
                values = np.abs(np.asarray(tensor)).reshape(-1, len(size))
                np.maximum(size, np.quantile(values, _FITTING_SHARE, axis=0), out=size)
    return sizes


def equalize(model: keras.Model, pictures: Iterable[np.ndarray]) -> None:
    """Give all channels of each stream the same size, in place.

    Args:
        model: a detector of `network.build_detector`; its outputs stay the same but for rounding.
        pictures: float32 (N, S, S, 3), to measure with.
    """
    for stream, size in zip(STREAMS, channel_sizes(model, pictures), strict=True):
        factor = (np.exp(np.log(size).mean()) / size).clip(1 / _MOST, _MOST)
        for block in stream.writers:
            layer = model.get_layer(f"block{block}_project")
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * factor, bias * factor])
        for name in stream.readers:
            layer = model.get_layer(name)
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel / factor[:, None], bias])
