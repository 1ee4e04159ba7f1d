"""The validation sets and how a model fares on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import msgspec
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from edgebird.detector.conv import ConvDetector
from edgebird.interpreter import Interpreter, TfliteInterpreter, default_threads
from edgebird.model import InputScaling, ModelCard, OperatingPoint, load_model, write_model
from edgebird.structures import Detections, Image
from edgebird.tiles import Region
from model_build.augment import COUNTED_SHARE, Material, background_photo, paste
from model_build.cutouts import decode_cutout
from model_build.datasets import Packs
from model_build.metrics import (
    Judged,
    at_threshold,
    average_precision,
    judge,
    quietest_threshold,
)
from model_build.network import PIXEL_MEAN, PIXEL_SCALE, STRIDE, build_detector

SMALL_PICTURES, SMALL_SEED = 400, 20
# Lower than any threshold in use: average precision needs the whole curve.
LOWEST_SCORE = 0.02


@dataclass(frozen=True)
class ValidationSet:
    """Pictures with all their birds' boxes (float32 (N, 4), xyxy in pixels).

    Pictures are made when asked for: a set is larger than a small machine's memory.
    """

    name: str
    items: Sequence[Callable[[], tuple[Image, np.ndarray]]]


def validation_sets(packs: Packs, cutouts: Sequence[bytes]) -> list[ValidationSet]:
    """``val``, ``val-small`` and ``nestbox``.

    Args:
        packs: of which only validation pictures are used.
        cutouts: birds cut out of validation pictures.
    """
    material = Material(
        birds=[e for e in packs.boxed_validation if len(e.fractions)],
        empties=[e for e in packs.boxed_validation if not len(e.fractions)],
        cutouts=cutouts,
        objects=[],
        distractors=[],
    )

    def photo(example):
        def load() -> tuple[Image, np.ndarray]:
            picture = example.picture()
            return picture, example.boxes(picture.shape[1], picture.shape[0])

        return load

    def small(number: int):
        return lambda: small_scene(number, material)

    return [
        ValidationSet("val", [photo(e) for e in packs.boxed_validation]),
        ValidationSet("val-small", [small(i) for i in range(SMALL_PICTURES)]),
        ValidationSet("nestbox", [photo(e) for e in packs.nestbox]),
    ]


def small_scene(number: int, material: Material) -> tuple[Image, np.ndarray]:
    """Picture ``number`` of ``val-small``: one or two birds at 8-40 % of the canvas on a bird-free
    photo, a third of them backlit, some partly hidden or cut by the border.
    """
    rng = np.random.default_rng([SMALL_SEED, number])
    width, height = 320, 240
    canvas = background_photo(rng, material, width, height)
    backlit = rng.random() < 1 / 3
    boxes: list[np.ndarray] = []
    for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
        bird = decode_cutout(material.cutouts[int(rng.integers(len(material.cutouts)))])
        longest = np.exp(rng.uniform(np.log(0.08), np.log(0.4))) * width
        before = canvas.copy()
        pasted = paste(rng, canvas, bird, float(longest), backlit, boxes)
        if pasted is not None and pasted.visible_share >= COUNTED_SHARE:
            boxes.append(pasted.box)
        else:
            canvas = before
    return canvas, np.array(boxes, np.float32).reshape(-1, 4)


class KerasInterpreter:
    """The float model behind the runtime's `Interpreter` protocol, so that float and int8 are
    judged by the same code.
    """

    def __init__(self, model: keras.Model) -> None:
        _, height, width, _ = model.input_shape
        self._size = (width, height)
        # Compiled: called eagerly, each of its hundred layers would cost a trip through Python.
        self._run = tf.function(lambda picture: model(picture, training=False))

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._size

    def run(self, image: Image) -> list[np.ndarray]:
        """Outputs for one picture, float32, without the batch axis."""
        picture = (image.astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE
        return [np.asarray(output[0]) for output in self._run(tf.constant(picture[None]))]


def run_set(
    interpreter: Interpreter,
    card: ModelCard,
    dataset: ValidationSet,
    *,
    whole_only: bool = False,
    every: int = 1,
) -> Judged:
    """Run the runtime's detector over a set.

    Args:
        interpreter: of the float or the int8 model.
        card: of the model.
        dataset: what to look at.
        whole_only: only the whole picture at once, as a live camera's first look does, in place of
            the scan at two scales.
        every: take only every n-th picture, for a quick look.
    """
    detector = ConvDetector(interpreter, card)
    found: list[Detections] = []
    wanted: list[np.ndarray] = []
    for load in tqdm(dataset.items[::every], dataset.name, leave=False):
        picture, boxes = load()
        whole: list[Region] = [(0, 0, picture.shape[1], picture.shape[0])]
        regions = whole if whole_only else None
        found.append(detector.detect(picture, regions, threshold=LOWEST_SCORE))
        wanted.append(boxes)
    return judge(found, wanted)


def training_figures(model: keras.Model, sets: Sequence[ValidationSet]) -> dict[str, float]:
    """A quick look while training: AP50 on an eighth of ``val`` and of ``val-small``."""
    interpreter, card = KerasInterpreter(model), float_card(model)
    figures = {}
    for dataset in sets:
        if dataset.name != "nestbox":
            judged = run_set(interpreter, card, dataset, whole_only=True, every=8)
            figures[f"ap50 {dataset.name}"] = round(average_precision(judged) or 0.0, 4)
    return figures


def float_card(model: keras.Model) -> ModelCard:
    """A card that lets the runtime's detector read the float model's outputs."""
    size_px = model.input_shape[1]
    return ModelCard(
        name="float detector",
        task="detector",
        input_size_px=(size_px, size_px),
        input_scaling=InputScaling(PIXEL_MEAN, PIXEL_SCALE),
        outputs=["objectness", "box"],
        stride_px=STRIDE,
        labels=["bird"],
        threshold=0.5,
        threshold_chosen_at=None,
        metrics={},
        training_data=[],
        licence="",
        commit="",
        sha256="",
    )


def evaluate_models(
    weights: Path, tflite: Path, sets: Sequence[ValidationSet], flagged_share: float
) -> ModelCard:
    """Measure the float and the int8 model and write the figures into the int8 model's card.

    The threshold is the lowest at which at most ``flagged_share`` of the empty pictures of ``val``
    are flagged by the int8 model.

    Returns:
        The card as written.
    """
    model = load_model(tflite, "detector")
    float_model = build_detector(model.card.input_size_px[0])
    float_model.load_weights(weights)
    interpreters: dict[str, tuple[Interpreter, ModelCard]] = {
        "float": (KerasInterpreter(float_model), float_card(float_model)),
        "int8": (TfliteInterpreter(model, default_threads()), model.card),
    }
    judged = {
        dataset.name: {
            kind: run_set(interpreter, card, dataset)
            for kind, (interpreter, card) in interpreters.items()
        }
        for dataset in sets
    }
    threshold = quietest_threshold([judged["val"]["int8"]], flagged_share)
    metrics = {
        name: {kind: at_threshold(j, threshold) for kind, j in kinds.items()}
        for name, kinds in judged.items()
    }
    chosen = metrics["val"]["int8"]
    card = msgspec.structs.replace(
        model.card,
        threshold=threshold,
        threshold_chosen_at=OperatingPoint("val", chosen.precision or 0.0, chosen.recall or 0.0),
        metrics=metrics,
    )
    write_model(model.content, card, tflite)
    return card


def table(card: ModelCard) -> str:
    """The card's figures for a person."""
    lines = [f"default threshold {card.threshold}"]
    lines.append(f"{'set':<10} {'model':<6} {'AP50':>6} {'precision':>9} {'recall':>7}  flagged")
    for name, kinds in card.metrics.items():
        for kind, m in kinds.items():
            figures = [
                f"{value:.3f}" if value is not None else "-"
                for value in (m.ap50, m.precision, m.recall)
            ]
            lines.append(
                f"{name:<10} {kind:<6} {figures[0]:>6} {figures[1]:>9} {figures[2]:>7}  "
                f"{m.empty_flagged} of {m.empty_pictures} empty pictures"
            )
    return "\n".join(lines)
