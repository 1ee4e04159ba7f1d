"""Measuring a model: which pictures may choose its threshold and change its card."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")

from test_model_build import detections, example, material
from test_own_pictures import drawn_feeder, three_labels

from edgebird.errors import OutputError
from edgebird.model import DEFAULT_DETECTOR, Model, load_model, write_model
from edgebird.structures import Detections
from model_build.__main__ import _is_foreign, _measured_on, main
from model_build.augment import Material
from model_build.card_page import card_page
from model_build.own_pictures import load_own_pictures
from model_build.runs import Origin
from model_build.train import Recipe, train
from model_build.validation import evaluate_models, own_set

__all__ = ["material"]  # a fixture

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


def test_a_threshold_that_was_not_chosen_here_is_not_said_to_be(model: Model) -> None:
    evaluate_models(model, DETECTORS, [WITH_EMPTY_ONES], 0.01)
    inherited = evaluate_models(model, DETECTORS, [WITH_EMPTY_ONES], 0.01, 0.6)
    assert inherited.threshold == 0.6
    assert inherited.threshold_chosen_at is None
    page = card_page(inherited, 0.6)
    assert "The threshold is that of the model it was trained on from." in page
    assert "was chosen on" not in page
    assert "The threshold" not in card_page(inherited, 0.7)
    chosen = evaluate_models(model, DETECTORS, [WITH_EMPTY_ONES], 0.01, 0.25)
    assert chosen.threshold_chosen_at is not None
    assert "The threshold was chosen on `own`." in card_page(chosen, 0.25)


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


def test_names_of_birds_are_for_other_pictures_only(model: Model, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_model(model.content, model.card, run / "bird_detector.tflite")
    (run / "detector.weights.h5").touch()
    Origin(data=str(tmp_path / "feeder")).write(run)
    for step in ("evaluate", "report"):
        result = CliRunner().invoke(main, [step, "--run", str(run), "--bird", "robin"])
        assert result.exit_code == 2
        assert "--bird goes with --data" in result.stderr


def test_names_of_birds_are_those_of_the_pictures_measured_on(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    Origin(data=str(tmp_path / "feeder"), birds=["crow"]).write(run)
    three_labels(other)
    [own] = _measured_on(run, other, ("robin",))[1]
    assert sum(len(load()[1].boxes) for load in own.items) == 8


def test_a_run_keeps_which_pictures_it_learns_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_build.train.train", lambda *given, record, **_: record(given[2]))
    folder, run = drawn_feeder(tmp_path / "feeder"), tmp_path / "run"
    given = ["--data", str(folder), "--run", str(run), "--packs", str(tmp_path)]
    result = CliRunner().invoke(main, ["train", *given])
    assert result.exit_code == 0
    assert Origin.read(run).learnt == load_own_pictures(folder).learnt


def test_what_a_run_is_made_from_is_written_before_its_weights(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, origin = Recipe(size_px=64), Origin(data="feeder", learnt=7)
    # nothing is left to do but that
    monkeypatch.setattr("model_build.train.restore_checkpoint", lambda *_: recipe.steps)
    (tmp_path / "detector.weights.h5").mkdir()
    with pytest.raises(OutputError, match=r"detector\.weights\.h5: Is a directory"):
        train(material, recipe, tmp_path, record=origin.write)
    assert Origin.read(tmp_path) == origin
    assert not list(tmp_path.glob("*partial*"))
