"""``python -m model_build classifier``: the bird classifier's commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model_build.checkpoint import CHECKPOINT

if TYPE_CHECKING:
    from model_build.classifier_data import ClassifierData
    from model_build.validation import ValidationSet

DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("data"),
    show_default=True,
    help="Folder with the gathered packs.",
)
RUNS = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs: classifier-edgebird and classifier-article.",
)
RECIPE = click.option(
    "--recipe",
    type=click.Choice(["edgebird", "article"]),
    default="edgebird",
    show_default=True,
    help="The one that is shipped, or the network of the article.",
)
MODEL, VERDICT = "bird_classifier.tflite", "verdict.weights.h5"


@click.group(short_help="Train, measure and ship the classifier.")
def classifier() -> None:
    """Train, quantize, measure and ship the classifier: bird or not.

    \b
    In this order, once the packs are gathered (python -m model_build --help):
      1. python -m model_build classifier train     (1 h 30 min on 2 cores;
         model_build/README.md has the five stages of the shipped one)
      2. python -m model_build classifier quantize  calibrated, int8    (2 min)
      3. python -m model_build classifier evaluate  on 15,000 pictures  (15 min)
      4. python -m model_build classifier export    ship it in edgebird/models
    \b
    Then, with the detector that is shipped beside it:
      python -m model_build classifier compare      window against convolution
      python -m model_build classifier second-look  what detect --verify does
    """


@classifier.command(short_help="Train the network, or go on training it.")
@DATA
@RUNS
@RECIPE
@click.option("--steps", type=click.IntRange(1), help="Batches to train for.")
@click.option("--batch", type=click.IntRange(1), help="Pictures a batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Its peak.")
@click.option("--seed", type=int, help="Another seed, another run.")
@click.option(
    "--size", "size_px", type=click.IntRange(32), help="Side of the pictures, for a first stage."
)
@click.option(
    "--normalized/--no-normalized",
    default=None,
    help="With batch normalization, which makes a step take 1.4 times as long and is folded into "
    "the weights afterwards.",
)
@click.option(
    "--windows/--no-windows",
    default=None,
    help="With windows of photos and scenes, or pictures of single things only, for a first stage.",
)
@click.option(
    "--start-from",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="classifier.weights.h5 of an earlier run.",
)
def train(
    data: Path, runs: Path, recipe: str, start_from: Path | None, **changes: float | None
) -> None:
    """Train the network, or go on with a training that was stopped.

    Writes checkpoint.npz, metrics.jsonl (a line each 500 steps, with the accuracy on pictures set
    aside for the calibration) and at the end classifier.weights.h5 to the run's folder.
    """
    pictures = _load(data)

    from model_build.classifier import RECIPES, WEIGHTS, train_classifier
    from model_build.classifier_export import raw_log_odds
    from model_build.classifier_report import answers_for, figures

    changed = {name: value for name, value in changes.items() if value is not None}
    chosen = dataclasses.replace(RECIPES[recipe], **changed)
    watched = pictures.calibration[::4]

    def validate(model: object) -> dict[str, float]:
        at = figures(answers_for(watched, raw_log_odds(model, watched)), 0.5)
        return {"watched accuracy": at.accuracy, "watched ap": at.average_precision or 0.0}

    folder = _folder(runs, recipe)
    try:
        train_classifier(
            pictures.training, chosen, folder, start_from=start_from, validate=validate
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"trained: {folder / WEIGHTS}; next: python -m model_build classifier quantize")


@classifier.command(short_help="Calibrate, make the int8 model and its card.")
@DATA
@RUNS
@RECIPE
@click.option(
    "--precision",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Of what it calls birds, at least so many are to be birds, by more than two standard "
    "errors: the higher, the fewer false alarms and birds; 4 min more. 0: the threshold is 0.5.",
)
@click.option(
    "--average",
    "others",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="classifier.weights.h5 of an earlier stage, to take the mean of all stages' weights; "
    "again for each.",
)
def quantize(
    data: Path, runs: Path, recipe: str, precision: float, others: tuple[Path, ...]
) -> None:
    """Calibrate, and make the int8 bird_classifier.tflite and its card in the run's folder.

    With --precision it chooses the default threshold on the pictures set aside for the calibration.
    """
    weights = _weights(_folder(runs, recipe))

    import numpy as np

    from edgebird.interpreter import TfliteInterpreter, default_threads
    from edgebird.model import load_model, write_model
    from model_build.classifier import build_classifier, recipe_of
    from model_build.classifier_export import (
        average_with,
        classifier_card,
        fit_calibration,
        raw_log_odds,
        representative_pictures,
        verdict_model,
    )
    from model_build.classifier_report import choose_threshold
    from model_build.equalize import prepare_for_int8
    from model_build.quantize import to_int8
    from model_build.whole_files import save_weights

    pictures = _load(data)
    chosen = recipe_of(weights.parent)
    model = build_classifier(chosen)
    model.load_weights(weights)
    try:
        average_with(model, others)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    calibration = fit_calibration(
        raw_log_odds(model, pictures.calibration),
        np.array([p.bird for p in pictures.calibration]),
    )
    verdict = verdict_model(model, chosen, calibration)
    save_weights(verdict, weights.with_name(VERDICT))
    representative = representative_pictures(pictures.training, chosen)
    prepare_for_int8(verdict, chosen.trunk, representative)
    content = to_int8(verdict, representative)
    path = weights.with_name(MODEL)
    card = classifier_card(content, chosen)
    write_model(content, card, path)
    threshold = card.threshold
    if precision:
        int8 = load_model(path, "classifier")
        interpreter = TfliteInterpreter(int8, default_threads())
        try:
            threshold = choose_threshold(int8, interpreter, pictures.calibration, precision)
        except ValueError as error:
            raise click.ClickException(f"{error}: train longer, or ask for less") from None
    click.echo(
        f"{path}: {len(content) / 1e6:.2f} MB, log-odds x {calibration[0]:.2f} "
        f"{calibration[1]:+.2f}, threshold {threshold}; "
        "next: python -m model_build classifier evaluate"
    )


@classifier.command(short_help="Measure the float and the int8 models.")
@DATA
@RUNS
def evaluate(data: Path, runs: Path) -> None:
    """Measure each recipe's float and int8 model on the hold-out of 15,000 pictures.

    Prints one table, for the hold-out and for the CIFAR-10 test pictures among it, writes the
    figures into the cards, and curves and contact sheets to 'report' in each run's folder.
    """
    found = [r for r in ("article", "edgebird") if (_folder(runs, r) / MODEL).exists()]
    if not found:
        raise click.ClickException(f"no {MODEL} in {runs}; first: classifier quantize")

    from edgebird.interpreter import TfliteInterpreter, default_threads
    from edgebird.model import load_model
    from model_build.classifier import recipe_of
    from model_build.classifier_export import KerasClassifier, load_verdict
    from model_build.classifier_report import measure, most_taken_for_birds, table

    pictures = _load(data).holdout
    rows = {}
    for recipe in found:
        folder = _weights(_folder(runs, recipe)).parent
        model = load_model(folder / MODEL, "classifier")
        interpreters = {
            "float": KerasClassifier(load_verdict(folder / VERDICT, recipe_of(folder))),
            "int8": TfliteInterpreter(model, default_threads()),
        }
        rows[recipe] = measure(model, interpreters, pictures, folder / "report")
    click.echo(table(rows))
    for recipe in found:
        taken = most_taken_for_birds(_folder(runs, recipe) / "report")
        click.echo(f"{recipe}: taken for birds are {taken}")
    click.echo("next: python -m model_build classifier export")


@classifier.command(short_help="Copy model and card to the runtime.")
@RUNS
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("edgebird/models"),
    show_default=True,
)
def export(runs: Path, to: Path) -> None:
    """Copy the measured model and its card to where the runtime finds them."""
    from edgebird.errors import ModelError
    from edgebird.model import load_model, write_model

    try:
        model = load_model(_folder(runs, "edgebird") / MODEL, "classifier")
    except ModelError as error:
        raise click.ClickException(str(error)) from None
    if not model.card.classifier_metrics:
        raise click.ClickException("its figures are missing; first: classifier evaluate")
    write_model(model.content, model.card, to / MODEL)
    click.echo(f"shipped: {to / MODEL}")


@classifier.command(short_help="Find birds in three ways and compare them.")
@DATA
@RUNS
@click.option(
    "--pictures", default=40, show_default=True, type=click.IntRange(1), help="Of val-small."
)
def compare(data: Path, runs: Path, pictures: int) -> None:
    """Find birds in three ways: sliding window, the article's network over the whole frame, and
    the detector; print windows, multiplications, time and AP50 of each.

    Takes the shipped detector and classifier, and the article's classifier from the runs.
    """
    from edgebird.errors import ModelError
    from edgebird.model import DEFAULT_CLASSIFIER, DEFAULT_DETECTOR, load_model
    from model_build.classifier_compare import compare as run_comparison
    from model_build.classifier_compare import cost_table

    article = _folder(runs, "article")
    try:
        detector = load_model(DEFAULT_DETECTOR, "detector")
        classifiers = {
            "edgebird": load_model(DEFAULT_CLASSIFIER, "classifier"),
            "article": load_model(article / MODEL, "classifier"),
        }
    except ModelError as error:
        raise click.ClickException(str(error)) from None
    sets = {s.name: s for s in _validation_sets(data)}
    rows = run_comparison(detector, classifiers, article / VERDICT, sets["val-small"], pictures)
    click.echo(cost_table(rows))


@classifier.command("second-look", short_help="Measure what 'detect --verify' does.")
@DATA
@click.option("--every", default=1, show_default=True, help="Only every n-th picture of a set.")
@click.option("--stills", is_flag=True, help="As pictures on their own are looked at, not frames.")
@click.option(
    "--camera-size",
    is_flag=True,
    help="Compose val-small and empty-hard as large as most cameras' pictures are.",
)
@click.option(
    "--flagged-share",
    default=0.0143,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How many of the empty pictures may be flagged.",
)
@click.option(
    "--try",
    "settings",
    multiple=True,
    type=(float, float),
    metavar="WEIGHT REACH",
    help="Settings to try, again and again; default: those of the runtime.",
)
def second_look(
    data: Path,
    every: int,
    stills: bool,
    camera_size: bool,
    flagged_share: float,
    settings: tuple[tuple[float, float], ...],
) -> None:
    """Measure 'detect --verify': the birds found with as many false alarms as without it, and the
    false alarms where as many birds are found.

    Takes the shipped detector and classifier, and the detector's validation sets.
    """
    from edgebird.classify import open_classifier
    from edgebird.detector.conv import ConvDetector, still_detector
    from edgebird.detector.verify import REACH, WEIGHT
    from edgebird.errors import ModelError
    from edgebird.interpreter import TfliteInterpreter, default_threads
    from edgebird.model import DEFAULT_DETECTOR, load_model
    from model_build.hard_pictures import CAMERA_CANVAS_PX, CANVAS_PX
    from model_build.second_look import effect_table, effects, look_twice

    threads = default_threads()
    try:
        first = load_model(DEFAULT_DETECTOR, "detector")
        classifier = open_classifier(threads)
    except ModelError as error:
        raise click.ClickException(str(error)) from None
    make = still_detector if stills else ConvDetector
    detector = make(TfliteInterpreter(first, threads), first.card)
    sets = _validation_sets(data, CAMERA_CANVAS_PX if camera_size else CANVAS_PX)
    looked = {s.name: look_twice(detector, classifier, s, every) for s in sets}
    click.echo(effect_table(effects(looked, settings or ((WEIGHT, REACH),), flagged_share)))


def _folder(runs: Path, recipe: str) -> Path:
    return runs / f"classifier-{recipe}"


def _weights(folder: Path) -> Path:
    weights = folder / "classifier.weights.h5"
    # the checkpoint tells how it was trained
    for file in (weights, folder / CHECKPOINT):
        if not file.exists():
            raise click.ClickException(f"no {file}; first: classifier train")
    return weights


def _load(data: Path) -> ClassifierData:
    from model_build.classifier_data import load_classifier_data

    try:
        return load_classifier_data(data)
    except (FileNotFoundError, ValueError) as error:
        raise _not_gathered(error) from None


def _validation_sets(data: Path, *canvas: tuple[int, int]) -> list[ValidationSet]:
    from model_build.cutouts import read_cutouts
    from model_build.datasets import load_packs
    from model_build.validation import validation_sets

    try:
        packs = load_packs(data / "packs")
        cutouts, objects = (
            read_cutouts(data / f"{name}_validation.zip") for name in ("cutouts", "objects")
        )
    except (FileNotFoundError, ValueError) as error:
        raise _not_gathered(error) from None
    return validation_sets(packs, cutouts, objects, *canvas)


def _not_gathered(error: Exception) -> click.ClickException:
    return click.ClickException(f"{error}; first gather the packs: python -m model_build --help")
