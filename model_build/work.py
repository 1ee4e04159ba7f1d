"""How much work a network is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

from model_build.start_weights import convolutions, undelegated


def multiply_accumulates(model: keras.Model) -> int:
    """Multiplications of one picture through the network's convolutions and connected layers."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            total += int(np.prod(layer.kernel.shape))
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            positions = int(np.prod(layer.output.shape[1:3]))
            total += int(np.prod(layer.kernel.shape)) * positions
    return total


def multiply_accumulates_in(tflite: Path) -> int:
    """The same of a TFLite model, as it is run.

    Raises:
        ValueError: it is no TFLite model.
    """
    total = 0
    for layer in convolutions(undelegated(tflite)):
        total += int(np.prod(layer.kernel["shape"])) * int(np.prod(layer.output["shape"][1:-1]))
    return total


def milliseconds(run: Callable[[], object], repeats: int = 15) -> float:
    """Median time of a call, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000
