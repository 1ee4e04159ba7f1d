"""The detector network: EfficientNet-Lite trunk, top-down merge, stride-8 head.

On Lite0's trunk:

::

    picture (S, S, 3)
      │ stem, blocks 0-4      stride 8,   40 channels ──1x1──────────► + ─► head ─► objectness logit
      │ blocks 5-10           stride 16, 112 channels ──1x1──► + ─up──►             and box per cell
      └ blocks 11-15          stride 32, 320 channels ──1x1─up─►

Top-down merge: Lin et al., 2017, arXiv:1612.03144.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from model_build.normalization import normalized_after
from model_build.targets import STRIDE as STRIDE  # the network's too
from model_build.trunk import LITE0, Trunk, relu6

# Pixels 0..255 become (pixel - PIXEL_MEAN) / PIXEL_SCALE, which int8 represents exactly.
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
# The head predicts ln(distance / STRIDE) to the four sides of the box; this range covers
# distances from 0.4 to 400 pixels and bounds what int8 has to resolve.
LOG_DISTANCE_RANGE = (-3.0, 3.9)
# The resolutions of the trunk that the head looks at, px.
FEATURE_STRIDES = (8, 16, 32)


def scaled(pictures: np.ndarray) -> np.ndarray:
    """Pixels 0..255 as the networks take them, float32."""
    return (pictures.astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE


def _separable(x, kernel: int, channels: int, name: str, normalized: bool):
    x = layers.DepthwiseConv2D(kernel, padding="same", name=f"{name}_depthwise")(x)
    pointwise = layers.Conv2D(channels, 1, name=f"{name}_pointwise")
    return relu6(normalized_after(pointwise, x, normalized), f"{name}_relu")


def build_detector(
    size_px: int,
    trunk: Trunk = LITE0,
    *,
    channels: int = 64,
    batch_size: int | None = None,
    normalized: bool = False,
) -> keras.Model:
    """The network with fresh weights.

    Args:
        size_px: side of the square input; a multiple of 32.
        trunk: what looks at the picture.
        channels: width of the merged map and the head.
        batch_size: fixed for export, None for training.
        normalized: with batch normalizations to learn with, see `normalization`.

    Returns:
        A model from float32 (N, size, size, 3), scaled by `PIXEL_MEAN` and `PIXEL_SCALE`, to two
        float32 maps with one cell per `STRIDE` pixels: objectness logits (N, size/8, size/8, 1)
        and boxes (N, size/8, size/8, 4), ln(distance / STRIDE) from the cell's centre to the
        left, top, right and bottom side.
    """
    if size_px % 32:
        raise ValueError(f"the input size must be a multiple of 32, not {size_px}")
    picture = keras.Input((size_px, size_px, 3), batch_size=batch_size, name="picture")
    blocks = trunk.blocks(picture, normalized=normalized)
    laterals = [
        layers.Conv2D(channels, 1, name=f"lateral{stride}")(blocks[trunk.last_blocks[stride]])
        for stride in FEATURE_STRIDES
    ]
    x = relu6(laterals.pop(), "merge32_relu")
    for stride in (16, 8):
        # XLA has no gradient of it in half precision
        x = layers.UpSampling2D(2, interpolation="bilinear", dtype="float32", name=f"up{stride}")(x)
        x = layers.Add(name=f"merge{stride}")([x, laterals.pop()])
        x = _separable(x, 5, channels, f"smooth{stride}", normalized)
    x = _separable(x, 5, channels, "head1", normalized)
    # Two branches, since what says "bird" and what says "its border is here" differ, and two
    # outputs, since one int8 scale cannot serve both.
    objectness = _separable(x, 3, channels, "objectness_branch", normalized)
    box = _separable(x, 5, channels, "box_branch", normalized)
    objectness = layers.Conv2D(
        1,
        1,
        name="objectness",
        dtype="float32",
        # Start by expecting a bird in one cell of a hundred (Lin et al., 2017, arXiv:1708.02002).
        bias_initializer=keras.initializers.Constant(-4.6),
    )(objectness)
    box = layers.Conv2D(
        4, 1, name="box", dtype="float32", bias_initializer=keras.initializers.Constant(1.5)
    )(box)
    return keras.Model(picture, [objectness, box], name="bird_detector")
