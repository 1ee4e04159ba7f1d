"""Weights to start a training from: a Keras file, or the int8 ``.tflite`` that is shipped.

No float weights are kept in the project, since the int8 model holds nearly all of them: each is off
by half a step at most, and there are 255 steps for every channel. A training goes on from there as
well as from the original, and what runs on the Pi is what is taught.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from model_build.trunk import CHANNEL_AXIS, block_and_part

# "bird_detector_1/block0_depthwise_1/depthwise": the exporter numbers models and layers that it
# has seen before.
_TENSOR_NAME = re.compile(r"[^/]+/(?P<layer>\w+?)(_\d+)?/(convolution|depthwise)$")


def load_start_weights(model: keras.Model, path: Path) -> None:
    """Load weights into a network of `network.build_detector`.

    Args:
        model: changed.
        path: a ``.weights.h5`` of a training, or an int8 ``.tflite`` of `quantize`.

    Raises:
        ValueError: the file is damaged or of another network.
    """
    if path.suffix == ".tflite":
        load_tflite_weights(model, path)
    else:
        load_keras_weights(model, path)


def load_keras_weights(model: keras.Model, path: Path) -> None:
    """Load the ``.weights.h5`` of a training into its network.

    Raises:
        ValueError: the file is damaged or of another network.
    """
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} does not hold weights of this network: {reason}") from error


def load_tflite_weights(model: keras.Model, path: Path) -> None:
    """Read an int8 model's weights back into the float network, dequantized channel by channel.

    Args:
        model: changed; its trunk is as narrow as `channels_left` says.
        path: of the ``.tflite``.

    Raises:
        ValueError: it is no TFLite model, or of another network.
    """
    layers = {
        layer.name: layer
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D))
    }
    found = _convolutions(path)
    if found.keys() != layers.keys():
        odd = sorted(found.keys() ^ layers.keys())
        raise ValueError(
            f"{path} is a model of another network, perhaps on another --trunk: {len(odd)} layers "
            f"differ, {odd[0]} is one"
        )
    for name, (kernel, bias) in found.items():
        wanted = [tuple(weights.shape) for weights in layers[name].weights]
        if [kernel.shape, bias.shape] != wanted:
            raise ValueError(
                f"{path} is a model of another network: its layer {name} has a kernel of "
                f"{kernel.shape}, {wanted[0]} is needed"
            )
        layers[name].set_weights([kernel, bias])


def channels_left(path: Path) -> list[int]:
    """How many channels each block of an int8 model's trunk filters, from the second block on:
    `pruning` has left out the others.

    Raises:
        ValueError: it is no TFLite model, or of another network.
    """
    left = {}
    for layer, (kernel, _) in _convolutions(path).items():
        block, part = block_and_part(layer) or (0, "")
        if block and part == "depthwise":
            left[block] = kernel.shape[CHANNEL_AXIS[part]]
    return [left[block] for block in sorted(left)]


def _convolutions(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each convolution by its layer's name, in Keras's layout, float32."""
    interpreter = undelegated(path)
    found = {}
    for kernel, bias, _ in convolutions(interpreter):
        match = _TENSOR_NAME.match(kernel["name"])
        if match is None or bias is None:
            raise ValueError(f"{path} is a model of another network: {kernel['name']!r} in it")
        # (out, h, w, in) becomes (h, w, in, out), and (1, h, w, out) becomes (h, w, out, 1).
        values = _dequantized(interpreter, kernel).transpose(1, 2, 3, 0)
        found[match["layer"]] = (values, _dequantized(interpreter, bias))
    return found


def undelegated(path: Path) -> Interpreter:
    """A TFLite model whose convolutions are all there to be looked at: delegates would replace them
    by operations of their own.

    Raises:
        ValueError: it is no TFLite model.
    """
    try:
        interpreter = Interpreter(
            model_content=path.read_bytes(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a TFLite model") from error
    return interpreter


class Convolution(NamedTuple):
    """What TFLite says of the tensors of a convolution or connected layer, bias or not."""

    kernel: dict
    bias: dict | None
    output: dict


def convolutions(interpreter: Interpreter) -> Iterator[Convolution]:
    """The convolutions and connected layers of a model of `undelegated`."""
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
    for operation in interpreter._get_ops_details():
        if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            _, kernel, bias = (tensors.get(index) for index in operation["inputs"][:3])
            yield Convolution(kernel, bias, tensors[operation["outputs"][0]])


def _dequantized(interpreter: Interpreter, details: dict) -> np.ndarray:
    values = interpreter.get_tensor(details["index"]).astype(np.float32)
    quantization = details["quantization_parameters"]
    scales = quantization["scales"].astype(np.float32)
    if not len(scales):  # a float model
        return values
    shape = [1] * values.ndim
    shape[quantization["quantized_dimension"]] = -1
    zero_points = quantization["zero_points"].astype(np.float32)
    return (values - zero_points.reshape(shape)) * scales.reshape(shape)
