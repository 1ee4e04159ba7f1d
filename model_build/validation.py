"""The validation sets and how a model fares on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import msgspec
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from edgebird.classify import open_classifier
from edgebird.detector import Detector
from edgebird.detector.conv import ConvDetector, still_detector
from edgebird.detector.verify import VerifyingDetector
from edgebird.interpreter import TfliteInterpreter, default_threads
from edgebird.model import (
    InputScaling,
    Model,
    ModelCard,
    OperatingPoint,
    load_model,
    write_model,
)
from edgebird.structures import Detections, Image
from edgebird.tiles import Region
from model_build.augment import Material
from model_build.datasets import Example, Packs
from model_build.hard_pictures import CANVAS_PX, KINDS, empty_picture, small_birds_picture
from model_build.metrics import (
    Truth,
    at_threshold,
    average_precision,
    best_threshold,
    judge,
    quietest_threshold,
)
from model_build.network import PIXEL_MEAN, PIXEL_SCALE, STRIDE, build_detector, scaled
from model_build.trunk import Trunk

# Lower than any threshold in use: average precision needs the whole curve.
LOWEST_SCORE = 0.02


SMALL_PICTURES, EMPTY_PICTURES = 30 * len(KINDS), 400


@dataclass(frozen=True)
class ValidationSet:
    """Pictures with what is in them.

    Args:
        name: of the set.
        items: make a picture when asked for: a set is larger than a small machine's memory.
        files: the folder and name of each picture; none where they are composed.
    """

    name: str
    items: Sequence[Callable[[], tuple[Image, Truth]]]
    files: Sequence[str] = ()


def validation_sets(
    packs: Packs,
    cutouts: Sequence[bytes],
    objects: Sequence[bytes],
    canvas: tuple[int, int] = CANVAS_PX,
) -> list[ValidationSet]:
    """``val``, ``val-small``, ``nestbox`` and ``empty-hard``.

    Args:
        packs: of which only validation pictures are used.
        cutouts: birds cut out of validation pictures.
        objects: things that are no birds, cut out of validation pictures.
        canvas: width and height of the composed pictures, in pixels.
    """
    material = validation_material(packs, cutouts, objects)
    small = [partial(small_birds_picture, i, material, canvas) for i in range(SMALL_PICTURES)]
    empty = [partial(empty_picture, i, material, canvas) for i in range(EMPTY_PICTURES)]
    return [
        _as_they_are("val", packs.boxed_validation),
        ValidationSet("val-small", small),
        _as_they_are("nestbox", packs.nestbox),
        ValidationSet("empty-hard", empty),
    ]


def validation_material(
    packs: Packs, cutouts: Sequence[bytes], objects: Sequence[bytes]
) -> Material:
    """What hard validation pictures are composed of; arguments as for `validation_sets`."""
    return Material(
        birds=[e for e in packs.boxed_validation if len(e.fractions)],
        empties=[e for e in packs.boxed_validation if not len(e.fractions)],
        cutouts=cutouts,
        objects=objects,
        distractors=packs.distractors_validation,
    )


def own_set(examples: Sequence[Example]) -> ValidationSet:
    """``own``: someone's own pictures, as they are."""
    return _as_they_are("own", examples)


def _as_they_are(name: str, examples: Sequence[Example]) -> ValidationSet:
    return ValidationSet(name, [partial(as_it_is, e) for e in examples], [e.name for e in examples])


def as_it_is(example: Example) -> tuple[Image, Truth]:
    """A picture, and what is in it."""
    picture = example.picture()
    size = picture.shape[1], picture.shape[0]
    return picture, Truth(example.boxes(*size), size)


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

    def run(self, images: Sequence[Image]) -> list[np.ndarray]:
        """Outputs for each picture, float32 (N, ...); one at a time, as on the Pi."""
        answers = [self._run(tf.constant(scaled(image[None]))) for image in images]
        return [np.concatenate(output) for output in zip(*answers, strict=True)]


def measured_detectors(
    weights: Path, tflite: Path, trunk: Trunk
) -> tuple[Model, dict[str, Detector]]:
    """What a trained model is judged as.

    Args:
        weights: of the float model.
        tflite: the int8 model, with its card.
        trunk: of both.

    Returns:
        The int8 model, and detectors: ``float`` and ``int8`` are the network alone, at two scales;
        ``frames`` and ``stills`` what `edgebird detect` does with a video's frames and with
        pictures on their own, second look by the shipped classifier included.

    Raises:
        ModelError: the int8 model does not fit its card, or there is no classifier.
    """
    model = load_model(tflite, "detector")
    float_model = build_detector(model.card.input_size_px[0], trunk)
    float_model.load_weights(weights)
    int8 = TfliteInterpreter(model, default_threads())
    classifier = open_classifier(default_threads())
    alone = ConvDetector(int8, model.card)
    return model, {
        "float": ConvDetector(KerasInterpreter(float_model), float_card(float_model)),
        "int8": alone,
        "frames": VerifyingDetector(alone, classifier),
        "stills": VerifyingDetector(still_detector(int8, model.card), classifier),
    }


def look_through(
    detector: Detector, dataset: ValidationSet, *, whole_only: bool = False, every: int = 1
) -> tuple[list[Detections], list[Truth]]:
    """Run a detector over a set.

    Args:
        detector: of the runtime.
        dataset: what to look at.
        whole_only: only the whole picture at once, as a live camera's first look does.
        every: take only every n-th picture, for a quick look.

    Returns:
        What was found, and what is there, in each picture.
    """
    found: list[Detections] = []
    truths: list[Truth] = []
    for load in tqdm(dataset.items[::every], dataset.name, leave=False):
        picture, truth = load()
        whole: list[Region] = [(0, 0, picture.shape[1], picture.shape[0])]
        regions = whole if whole_only else None
        found.append(detector.detect(picture, regions, threshold=LOWEST_SCORE))
        truths.append(truth)
    return found, truths


def falsely_alarming(tflite: Path, empties: Sequence[Example], score: float) -> list[Example]:
    """The bird-free pictures in which an int8 model sees a bird.

    Args:
        tflite: the model.
        empties: the pictures.
        score: lowest one that counts.
    """
    model = load_model(tflite, "detector")
    detector = ConvDetector(TfliteInterpreter(model, default_threads()), model.card)
    found, _ = look_through(detector, own_set(empties))
    return [e for e, d in zip(empties, found, strict=True) if (d.score >= score).any()]


def training_figures(model: keras.Model, sets: Sequence[ValidationSet]) -> dict[str, float]:
    """A quick look while training: AP50 on ``own``, on an eighth of ``val`` and ``val-small``."""
    detector = ConvDetector(KerasInterpreter(model), float_card(model))
    figures = {}
    for dataset in sets:
        if dataset.name in ("own", "val", "val-small"):
            every = 1 if dataset.name == "own" else 8
            judged = judge(*look_through(detector, dataset, whole_only=True, every=every))
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
    model: Model,
    detectors: Mapping[str, Detector],
    sets: Sequence[ValidationSet],
    flagged_share: float,
    start_threshold: float | None = None,
    *,
    foreign: bool = False,
) -> ModelCard:
    """Measure the float and the int8 model and write the figures into the int8 model's card.

    The threshold is the lowest at which at most ``flagged_share`` of the empty pictures of ``own``,
    ``val`` and ``empty-hard`` are flagged as ``stills`` (`measured_detectors`). A few dozen empty
    pictures cannot vouch for a low one: where the training started from a model with a
    ``start_threshold``, it is not below that, unless one at which more of the ``own`` birds are
    found is better there (`best_threshold`). Without empty pictures it stays as it is. The card
    tells where it was chosen, unless it is the ``start_threshold``.

    Args:
        model: the int8 model.
        detectors: of `measured_detectors`.
        sets: to measure on.
        flagged_share: see above.
        start_threshold: see above.
        foreign: whether the sets are of other pictures than the model's own: these are measured on
            at its threshold, and its card stays as it is.

    Returns:
        The card, with the figures.

    Raises:
        OutputError: it cannot be written.
    """
    judged = {
        dataset.name: {
            kind: judge(*look_through(detector, dataset)) for kind, detector in detectors.items()
        }
        for dataset in sets
    }
    chosen_on = [name for name in ("own", "val", "empty-hard") if name in judged]
    stills = [judged[name]["stills"] for name in chosen_on]
    chooses = not foreign and any(len(one.best_empty_scores) for one in stills)
    threshold = quietest_threshold(stills, flagged_share) if chooses else model.card.threshold
    inherited = False
    if chooses and start_threshold is not None and "own" in judged:
        trusted = min(start_threshold, best_threshold(judged["own"]["stills"]))
        inherited = threshold < trusted == start_threshold
        threshold = max(threshold, trusted)
    metrics = {
        name: {kind: at_threshold(j, threshold) for kind, j in kinds.items()}
        for name, kinds in judged.items()
    }
    card = msgspec.structs.replace(model.card, threshold=threshold, metrics=metrics)
    if chooses:
        there = metrics[chosen_on[0]]["stills"]
        point = OperatingPoint(chosen_on[0], there.precision or 0.0, there.recall or 0.0)
        card = msgspec.structs.replace(card, threshold_chosen_at=None if inherited else point)
    if not foreign:
        write_model(model.content, card, model.path)
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
            if m.recall_by_kind and kind == "stills":
                by_group = m.recall_by_size | m.recall_by_kind
                recalls = ", ".join(f"{name} {value:.2f}" for name, value in by_group.items())
                lines.append(f"    recall: {recalls}")
    return "\n".join(lines)
