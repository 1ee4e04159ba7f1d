"""From a trained network to an int8 ``.tflite`` with its card."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from edgebird.model import InputScaling, ModelCard, TrainingData
from edgebird.tiles import cut_tile
from model_build.augment import Material, training_scene
from model_build.equalize import prepare_for_int8
from model_build.network import PIXEL_MEAN, PIXEL_SCALE, STRIDE, build_detector, scaled
from model_build.pruning import prune
from model_build.trunk import LITE0, Trunk


def representative_tiles(
    material: Material, size_px: int, count: int, seed: int
) -> Iterator[np.ndarray]:
    """What the detector will see, for choosing the int8 scales: half whole photos as they are,
    half composed scenes; uint8 (size, size, 3).
    """
    rng = np.random.default_rng(seed)
    photos = [*material.birds, *material.empties]
    for number in range(count):
        if number % 2:
            yield training_scene(seed, number, material, size_px).picture
        else:
            photo = material.decode(photos[int(rng.integers(len(photos)))])
            region = (0, 0, photo.shape[1], photo.shape[0])
            yield cut_tile(photo, region, size_px)[0]


def quantize(
    weights: Path,
    material: Material,
    size_px: int,
    trunk: Trunk = LITE0,
    *,
    tiles: int = 250,
    seed: int = 7,
    tolerance: float | None = None,
) -> bytes:
    """Quantize a detector, its idle channels left out (`prune`) and the others prepared for it
    before; see `prepare_for_int8` and `to_int8`.

    Args:
        weights: of the float model.
        material: what the representative tiles show.
        size_px: side of the input.
        trunk: the model's.
        tiles: how many representative ones.
        seed: of the tiles.
        tolerance: see `prune`.

    Returns:
        The ``.tflite`` file.
    """
    keras.mixed_precision.set_global_policy("float32")
    model = build_detector(size_px, trunk, batch_size=1)
    model.load_weights(weights)
    seen = list(representative_tiles(material, size_px, tiles, seed))
    pictures = [scaled(tile[None]) for tile in seen]
    model, trunk = prune(
        model,
        trunk,
        pictures,
        lambda narrow: build_detector(size_px, narrow, batch_size=1),
        tolerance=tolerance,
    )
    prepare_for_int8(model, trunk, seen)
    return to_int8(model, seen)


def to_int8(model: keras.Model, representative: Sequence[np.ndarray]) -> bytes:
    """A float model as full int8 ``.tflite``: weights per channel, activations by
    representative uint8 pictures of its input size.

    The input scale is exactly that of the pixels, so that a pixel p becomes the int8 p - 128.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8

        def with_the_full_range() -> Iterator[list[np.ndarray]]:
            # The extremes of a pixel fix the input's scale.
            extremes = np.zeros((1, *model.input_shape[1:]), np.uint8)
            extremes[0, 0, 0] = 255
            yield [scaled(extremes)]
            for picture in representative:
                yield [scaled(picture[None])]

        converter.representative_dataset = with_the_full_range
        return bytes(converter.convert())


def card_for(
    content: bytes, size_px: int, threshold: float, training_data: list[TrainingData]
) -> ModelCard:
    """The card of a freshly quantized detector; its figures come from `evaluate`."""
    return ModelCard(
        name="edgebird detector",
        task="detector",
        input_size_px=(size_px, size_px),
        input_scaling=InputScaling(PIXEL_MEAN, PIXEL_SCALE),
        outputs=output_names(content),
        stride_px=STRIDE,
        labels=["bird"],
        threshold=threshold,
        threshold_chosen_at=None,
        metrics={},
        training_data=training_data,
        licence="Apache-2.0; trained on data with research terms, see training_data",
        commit=current_commit(),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def output_names(content: bytes) -> list[str]:
    """The detector's outputs in the file's order, told apart by their channels."""
    interpreter = tf.lite.Interpreter(model_content=content)
    channels = {1: "objectness", 4: "box"}
    return [channels[int(o["shape"][-1])] for o in interpreter.get_output_details()]


def current_commit() -> str:
    """The checkout's commit, ``unknown`` outside of one."""
    command = ["git", "rev-parse", "HEAD"]
    where = Path(__file__).parent
    result = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown"
