"""What a tile costs, beside a yardstick that many boards have been measured with:
EfficientNet-Lite0 at 224 x 224 pixels, quantized in the same way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from keras import layers
from tqdm import tqdm

from edgebird.interpreter import TfliteInterpreter
from edgebird.model import load_model, write_model
from model_build.classifier import RECIPES
from model_build.classifier_export import classifier_card
from model_build.quantize import to_int8
from model_build.trunk import LITE0
from model_build.work import multiply_accumulates_in

_YARDSTICK_PX = 224
_WARM_UP_TILES = 10


def yardstick(size_px: int = _YARDSTICK_PX) -> keras.Model:
    """EfficientNet-Lite0 with ImageNet's weights and one class, which leaves 0.3 % of it out."""
    picture = keras.Input((size_px, size_px, 3), batch_size=1, name="picture")
    x = LITE0.top(LITE0.blocks(picture)[-1])
    model = keras.Model(picture, layers.Dense(1, name="class")(x), name="lite0")
    LITE0.load_imagenet_weights(model)
    return model


def yardstick_file(path: Path) -> None:
    """Write the yardstick as an int8 model with a card."""
    model = yardstick()
    noise = np.random.default_rng(0).integers(0, 256, (20, *model.input_shape[1:]), np.uint8)
    content = to_int8(model, list(noise))
    recipe = replace(RECIPES["edgebird"], size_px=_YARDSTICK_PX)
    write_model(content, classifier_card(content, recipe), path)


def alternately_ms(models: Mapping[str, TfliteInterpreter], rounds: int) -> dict[str, float]:
    """Median time of a tile on each model in ms; the models take turns, since a machine's speed
    changes while one waits for it.
    """
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in tqdm(range(_WARM_UP_TILES + rounds), "tiles", leave=False):
        for name, model in models.items():
            width, height = model.input_size
            tile = rng.integers(0, 256, (height, width, 3), np.uint8)
            seconds = model.time_bare_s([tile])
            if turn >= _WARM_UP_TILES:
                times[name].append(seconds * 1000)
    return {name: float(np.median(values)) for name, values in times.items()}


def tile_times(tflite: Path, rounds: int) -> str:
    """A detector beside the yardstick on one thread, as a table for a person.

    Args:
        tflite: the detector, with its card.
        rounds: tiles that each of the two is timed on.

    Raises:
        ModelError: the model does not fit its card.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lite0.tflite"
        yardstick_file(path)
        timed = {
            "detector": TfliteInterpreter(load_model(tflite, "detector"), 1),
            "Lite0": TfliteInterpreter(load_model(path, "classifier"), 1),
        }
        work = {
            "detector": multiply_accumulates_in(tflite),
            "Lite0": multiply_accumulates_in(path),
        }
    ms = alternately_ms(timed, rounds)
    lines = [f"{'network':<10} {'input':>5} {'M multiply-accumulates':>22} {'ms':>6}"]
    lines += [
        f"{name:<10} {timed[name].input_size[0]:>5} {work[name] / 1e6:>22.0f} {ms[name]:>6.2f}"
        for name in timed
    ]
    time_ratio, work_ratio = ms["detector"] / ms["Lite0"], work["detector"] / work["Lite0"]
    lines.append(
        f"{time_ratio:.2f} times the time for {work_ratio:.2f} times the work: "
        f"{time_ratio / work_ratio:.2f} of what the work alone would take"
    )
    return "\n".join(lines)
