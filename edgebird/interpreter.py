"""Runs a TFLite model. The only module that imports a TFLite library, and the only place where
numbers are quantized and dequantized.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird.errors import ModelError
from edgebird.model import Model
from edgebird.native_messages import collected
from edgebird.structures import Image

# Packages and their modules, in order of preference: the maintained library, and its predecessor,
# which still has wheels for 32-bit ARM.
_LIBRARIES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
)

# "Created TensorFlow Lite XNNPACK delegate for CPU." and the like
_CHATTER = re.compile(rb"INFO: ")


class Interpreter(Protocol):
    """A loaded network."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the pictures it takes, in pixels."""

    def run(self, images: Sequence[Image]) -> Sequence[NDArray[np.float32]]:
        """Outputs, in the order of the model card, each for all pictures, (N, ...)."""


def _library() -> tuple[str, Any]:
    """The package that runs networks here, and its class that does so."""
    tried = []
    for package, module in _LIBRARIES:
        try:
            return package, importlib.import_module(module).Interpreter
        except (ImportError, AttributeError) as error:
            _raise_interrupt(error)
            tried.append(f"{package} ({error})")
    raise ModelError(
        "no library to run the model; install one with 'pip install ai-edge-litert'. Tried: "
        + ", ".join(tried)
    )


def _raise_interrupt(error: BaseException) -> None:
    """Raise what an error came of if that was Ctrl-C: a library that loads may make it its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        cause = cause.__cause__ or cause.__context__


def interpreter_name() -> str:
    """Which library runs networks here, and its version as far as it is known.

    Raises:
        ModelError: there is none.
    """
    from importlib.metadata import PackageNotFoundError, version

    package, _ = _library()
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # a build of another name
        return package


def default_threads() -> int:
    """All cores that this process may use, up to four: more do not pay for a network this small."""
    return min(4, len(os.sched_getaffinity(0)))


class TfliteInterpreter:
    """A TFLite model behind the `Interpreter` protocol.

    Args:
        model: the model and its card.
        threads: how many CPU threads it may use.

    Raises:
        ModelError: the file is not a TFLite model, or its inputs and outputs are not those that
            the card names.
    """

    def __init__(self, model: Model, threads: int) -> None:
        _, interpreter_class = _library()
        where = f"the model {model.path}"
        try:
            with collected(_CHATTER):
                self._tflite = interpreter_class(model_content=model.content, num_threads=threads)
                self._tflite.allocate_tensors()
        # a library made for another numpy: SystemError
        except (ValueError, RuntimeError, SystemError) as error:
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise ModelError(f"{where} cannot be loaded: {reason}") from error
        inputs, outputs = self._tflite.get_input_details(), self._tflite.get_output_details()

        width, height = model.card.input_size_px
        if len(inputs) != 1 or tuple(inputs[0]["shape"]) != (1, height, width, 3):
            raise ModelError(
                f"{where} takes {[tuple(map(int, i['shape'])) for i in inputs]}, its card says "
                f"one picture of (1, {height}, {width}, 3)"
            )
        if len(outputs) != len(model.card.outputs):
            raise ModelError(
                f"{where} has {len(outputs)} outputs, its card names {len(model.card.outputs)}"
            )
        shapes = [tuple(map(int, output["shape"])) for output in outputs]
        if model.card.task == "detector":
            self._check_maps(where, model, shapes)
        else:
            self._check_verdict(where, model, shapes)
        self._where = where
        self._size = (width, height)
        self._batch = 1
        self._input = inputs[0]["index"]
        self._outputs = [(o["index"], *_scale(where, o)) for o in outputs]
        self._pixel_table = _pixel_table(where, inputs[0], model)
        self._takes_pixels_less_128 = self._pixel_table.dtype == np.int8 and np.array_equal(
            self._pixel_table, np.arange(-128, 128)
        )

    @staticmethod
    def _check_maps(where: str, model: Model, shapes: list[tuple[int, ...]]) -> None:
        width, height = model.card.input_size_px
        cells = (height // model.card.stride_px, width // model.card.stride_px)
        channels = {"objectness": 1, "box": 4}
        for name, shape in zip(model.card.outputs, shapes, strict=True):
            if name not in channels:
                raise ModelError(f"{where}: unknown output {name!r} in its card")
            if shape != (1, *cells, channels[name]):
                raise ModelError(
                    f"{where}: output {name!r} has shape {shape}, its card says "
                    f"(1, {cells[0]}, {cells[1]}, {channels[name]})"
                )
        missing = set(channels) - set(model.card.outputs)
        if missing:
            raise ModelError(f"{where}: its card names no output {', '.join(sorted(missing))}")

    @staticmethod
    def _check_verdict(where: str, model: Model, shapes: list[tuple[int, ...]]) -> None:
        if model.card.outputs != ["log_odds"]:
            raise ModelError(
                f"{where}: a classifier has one output, 'log_odds'; its card names "
                f"{', '.join(model.card.outputs)}"
            )
        if shapes != [(1, 1)]:
            raise ModelError(f"{where}: output 'log_odds' has shape {shapes[0]}, not (1, 1)")

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the pictures it takes, in pixels."""
        return self._size

    def run(self, images: Sequence[Image]) -> Sequence[NDArray[np.float32]]:
        """Run the network on pictures, at least one, one after the other.

        Args:
            images: each uint8 (height, width, 3), RGB, exactly of the input size.

        Returns:
            The outputs in the order of the card, each float32 (N, ...) for all pictures.

        Raises:
            ValueError: a picture has another shape.
        """
        wanted = (self._size[1], self._size[0], 3)
        for image in images:
            if image.shape != wanted:
                raise ValueError(f"expected {wanted}, got {image.shape}")
        # First all inputs, then all runs, then all answers: threads of the network that have to
        # wait between two runs fall asleep, and the network pushes everything else out of the
        # processor's caches.
        self._set_up_for(1)
        answers = []
        for pixels in [self._quantized(image) for image in images]:
            self._tflite.set_tensor(self._input, pixels[None])
            self._tflite.invoke()
            answers.append([self._tflite.get_tensor(index) for index, _, _ in self._outputs])
        return self._dequantized([np.concatenate(output) for output in zip(*answers, strict=True)])

    def run_batch(self, images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        """Run the network on several pictures at once.

        Another number of pictures than the last time costs a set-up of the network.

        Args:
            images: uint8 (N, height, width, 3), RGB, exactly of the input size.

        Returns:
            The outputs in the order of the card, float32, with the batch axis.

        Raises:
            ValueError: the pictures have another shape.
            ModelError: the network takes one picture at a time only.
        """
        if not len(images) or images.shape[1:] != (self._size[1], self._size[0], 3):
            raise ValueError(
                f"expected {('N', self._size[1], self._size[0], 3)}, got {images.shape}"
            )
        self._set_up_for(len(images))
        self._tflite.set_tensor(self._input, self._quantized(images))
        self._tflite.invoke()
        return self._dequantized([self._tflite.get_tensor(index) for index, _, _ in self._outputs])

    def time_bare_s(self, images: Sequence[Image]) -> float:
        """How long the network alone takes for pictures as `run` takes them, in seconds.

        Nothing but handing over the input and running: what is left is what we add.
        """
        self._set_up_for(1)
        inputs = [self._quantized(image)[None] for image in images]
        start_s = time.perf_counter()
        for quantized in inputs:
            self._tflite.set_tensor(self._input, quantized)
            self._tflite.invoke()
        return time.perf_counter() - start_s

    def _quantized(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """One picture or several, (..., width, 3), as the network takes them."""
        if self._takes_pixels_less_128:
            # all that changes is the highest bit
            return np.bitwise_xor(images, np.uint8(128)).view(np.int8)
        # OpenCV looks a table up five times as fast as numpy, but in one picture only.
        rows = cv2.LUT(images.reshape(-1, *images.shape[-2:]), self._pixel_table)
        return np.asarray(rows).reshape(images.shape)

    def _dequantized(self, outputs: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        # Widen first: an int8 minus its zero point does not fit an int8.
        return [
            (raw.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
            for raw, (_, scale, zero_point) in zip(outputs, self._outputs, strict=True)
        ]

    def _set_up_for(self, batch: int) -> None:
        if batch == self._batch:
            return
        shape = (batch, self._size[1], self._size[0], 3)
        try:
            with collected(_CHATTER):
                self._tflite.resize_tensor_input(self._input, shape)
                self._tflite.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"{self._where} cannot take {batch} pictures at once; convert it with a batch "
                f"size that is left open ({str(error).splitlines()[0]})"
            ) from error
        self._batch = batch


def _scale(where: str, details: dict[str, Any]) -> tuple[float, int]:
    """Scale and zero point of a tensor; (1, 0) for a float one."""
    if details["dtype"] == np.float32:
        return 1.0, 0
    scale, zero_point = details["quantization"]
    if scale == 0:
        raise ModelError(f"{where}: the tensor {details['name']!r} is not quantized as a whole")
    return float(scale), int(zero_point)


def _pixel_table(where: str, details: dict[str, Any], model: Model) -> NDArray[Any]:
    """What each pixel value 0..255 becomes at the network's input, in the input's own type."""
    scaling = model.card.input_scaling
    values = (np.arange(256, dtype=np.float32) - scaling.mean) / scaling.scale
    dtype = details["dtype"]
    if dtype == np.float32:
        return values
    scale, zero_point = _scale(where, details)
    limits = np.iinfo(dtype)
    quantized = np.round(values / scale) + zero_point
    table: NDArray[Any] = np.clip(quantized, limits.min, limits.max).astype(dtype)
    return table
