"""Measuring a model: which pictures may choose its threshold and change its card."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")

from test_model_build import detections, example

from edgebird.model import DEFAULT_DETECTOR, Model, load_model, write_model
from edgebird.structures import Detections
from model_build.__main__ import _is_foreign, main
from model_build.runs import Origin
from model_build.validation import evaluate_models, own_set

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

THRESHOLD = 0.55


class Unsure:
    """Sees something in every picture."""

    def detect(self, image: np.ndarray, *_: object, **__: object) -> Detections:
        return detections((10, 10, 60, 60, 0.3))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    shipped, path = load_model(DEFAULT_DETECTOR, "detector"), tmp_path / "run" / "m.tflite"
    card = msgspec.structs.replace(shipped.card, threshold=THRESHOLD)
    write_model(shipped.content, card, path)
    return load_model(path, "detector")


BIRDS = own_set([example(number) for number in range(3)])
WITH_EMPTY_ONES = own_set([example(1), example(100, bird=False)])
DETECTORS = {"stills": Unsure(), "int8": Unsure()}


def test_empty_pictures_choose_the_threshold(model: Model) -> None:
    card = evaluate_models(model, DETECTORS, [WITH_EMPTY_ONES], 0.01)
    assert card.threshold == pytest.approx(0.31)
    assert card.threshold_chosen_at is not None
    assert card.threshold_chosen_at.dataset == "own"
    assert load_model(model.path, "detector").card == card
    trusted = evaluate_models(model, DETECTORS, [WITH_EMPTY_ONES], 0.01, 0.6)
    assert trusted.threshold == pytest.approx(0.6)


@pytest.mark.parametrize("start_threshold", [None, 0.7])
def test_without_empty_pictures_the_threshold_stays(
    model: Model, start_threshold: float | None
) -> None:
    card = evaluate_models(model, DETECTORS, [BIRDS], 0.01, start_threshold)
    assert card.threshold == THRESHOLD
    assert card.threshold_chosen_at == model.card.threshold_chosen_at
    assert card.metrics["own"]["int8"].birds == 3
    assert load_model(model.path, "detector").card == card


def test_other_pictures_than_the_models_own_leave_its_card_alone(model: Model) -> None:
    card = evaluate_models(model, DETECTORS, [WITH_EMPTY_ONES], 0.01, foreign=True)
    assert card.threshold == THRESHOLD
    # nothing is as sure as that
    assert card.metrics["own"]["stills"].empty_flagged == 0
    assert card.metrics.keys() == {"own"}
    assert load_model(model.path, "detector").card == model.card


def test_the_packs_are_a_runs_own_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("data", "moved"):
        (tmp_path / name / "packs").mkdir(parents=True)
    (tmp_path / "feeder").mkdir()
    data, moved, feeder, other = (tmp_path / name for name in ("data", "moved", "feeder", "other"))
    of_packs, of_feeder = Origin(data=str(data)), Origin(data=str(feeder), packs=str(data))
    assert not _is_foreign(None, of_packs)
    assert not _is_foreign(feeder, of_feeder)
    assert not _is_foreign(moved, of_packs)
    assert not _is_foreign(moved, Origin(data=str(tmp_path / "gone")))
    assert _is_foreign(other, of_packs)
    assert _is_foreign(other, of_feeder)
    # a run of own pictures that the packs were mixed with
    assert _is_foreign(data, of_feeder)


# --- what cannot be written


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    return line


def test_what_cannot_be_written_is_told_in_a_line(model: Model, tmp_path: Path) -> None:
    run, to = tmp_path / "run", tmp_path / "to"
    write_model(model.content, model.card, run / "bird_detector.tflite")
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert "below/bird_detector.tflite: Not a direc" in refusal(
        "export", "--run", run, "--to", below
    )
    (to / "bird_detector.md").mkdir(parents=True)
    line = refusal("export", "--run", run, "--to", to)
    assert line == f"Error: {to / 'bird_detector.md'}: Is a directory"
