"""Models and their cards: the ``.json`` beside each ``.tflite`` that says what it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgebird.errors import ModelError, OutputError
from edgebird.whole_files import write_files

MODELS_FOLDER = Path(__file__).parent / "models"
DEFAULT_DETECTOR = MODELS_FOLDER / "bird_detector.tflite"
DEFAULT_CLASSIFIER = MODELS_FOLDER / "bird_classifier.tflite"


class InputScaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pixel of 0..255 enters the network as (pixel - mean) / scale."""

    mean: float
    scale: Annotated[float, Meta(gt=0)]


class OperatingPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the default threshold was chosen at."""

    dataset: str
    precision: float
    recall: float


class DatasetMetrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model reached on one validation set.

    Args:
        pictures: how many.
        birds: how many boxes in them.
        ap50: average precision at an intersection over union of 0.5; None without birds.
        precision: at the default threshold; None where nothing was detected.
        recall: at the default threshold; None without birds.
        empty_pictures: pictures without a bird.
        empty_flagged: of those, with a detection at the default threshold.
        recall_by_size: for birds from tiny to large.
        recall_by_kind: by what makes the pictures difficult.
    """

    pictures: int
    birds: int
    ap50: float | None
    precision: float | None
    recall: float | None
    empty_pictures: int
    empty_flagged: int
    recall_by_size: dict[str, float] = {}
    recall_by_kind: dict[str, float] = {}


class ClassifierMetrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a classifier reached on one set of pictures.

    Args:
        pictures: how many.
        true_positives: birds called birds, at the default threshold.
        false_positives: others called birds.
        false_negatives: birds called others.
        true_negatives: others called others.
        accuracy: share of right answers.
        precision: share of birds among what was called a bird; None where nothing was.
        recall: share of the birds that were called birds; None without birds.
        average_precision: area under the precision-recall curve; None without birds.
        calibration_error: expected calibration error, how far probabilities are from frequencies.
    """

    pictures: int
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    accuracy: float
    precision: float | None
    recall: float | None
    average_precision: float | None
    calibration_error: float


class TrainingData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set that went into the weights, and its terms."""

    name: str
    terms: str


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the runtime has to know of a model, and what a person may want to.

    Args:
        name: of the model.
        task: what it does.
        input_size_px: width and height of the input.
        input_scaling: from pixels to the network's numbers.
        outputs: names of its outputs in order. Of a detector: ``objectness`` (log-odds of a bird,
            one per cell) and ``box`` (ln(distance / stride) to the four sides). Of a classifier:
            ``log_odds`` (of a bird, calibrated).
        stride_px: size of an output cell in input pixels; a classifier has one cell.
        labels: what it can find.
        threshold: the default score threshold, 0 to 1.
        threshold_chosen_at: precision and recall there.
        metrics: of a detector, by set name, by ``float``, ``int8`` (both the network alone, as a
            video's frames are looked at), ``frames`` and ``stills`` (int8 and its second look, as
            frames and as pictures on their own are looked at).
        training_data: every set used.
        licence: of the weights.
        commit: of the code that trained it.
        sha256: of the ``.tflite`` file.
        classifier_metrics: of a classifier, by set name, by ``float`` and ``int8``.
    """

    name: str
    task: Literal["detector", "classifier"]
    input_size_px: tuple[int, int]
    input_scaling: InputScaling
    outputs: list[str]
    stride_px: Annotated[int, Meta(ge=1)]
    labels: list[str]
    threshold: Annotated[float, Meta(ge=0, le=1)]
    threshold_chosen_at: OperatingPoint | None
    metrics: dict[str, dict[str, DatasetMetrics]]
    training_data: list[TrainingData]
    licence: str
    commit: str
    sha256: str
    classifier_metrics: dict[str, dict[str, ClassifierMetrics]] = {}


@dataclass(frozen=True)
class Model:
    """A model that was read and fits its card."""

    path: Path
    content: bytes
    card: ModelCard


def load_model(path: Path, task: Literal["detector", "classifier"]) -> Model:
    """Read a model and its card, and check that they belong together.

    Raises:
        ModelError: one of the two is missing or unreadable, the checksum differs, or the model is
            for another task.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the model {path} ({error.strerror}); "
            "give another with --model, or reinstall edgebird for the one it ships"
        ) from error
    card_path = path.with_suffix(".json")
    try:
        card = msgspec.json.decode(card_path.read_bytes(), type=ModelCard)
    except OSError as error:
        raise ModelError(
            f"the model {path.name} needs its card {card_path} beside it ({error.strerror})"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"the model card {card_path} is not valid: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        raise ModelError(
            f"the model {path} does not belong to its card: its sha256 starts {digest[:12]}, the "
            f"card says {card.sha256[:12]}; copy both files again from the same place"
        )
    if card.task != task:
        raise ModelError(f"{path} is a {card.task}, a {task} is needed here")
    return Model(path, content, card)


def write_model(content: bytes, card: ModelCard, path: Path) -> None:
    """Write a model to ``path`` and its card beside it; the counterpart of `load_model`.

    What is there is replaced when both are complete; a model that is there already is left alone.

    Raises:
        OutputError: they cannot be written.
    """
    encoded = msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"
    both = {path: content, path.with_suffix(".json"): encoded}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_files(
            {
                target: wanted
                for target, wanted in both.items()
                if not (target.is_file() and target.read_bytes() == wanted)
            }
        )
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
