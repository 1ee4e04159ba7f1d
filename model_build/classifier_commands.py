"""``python -m model_build classifier``: the bird classifier's commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from model_build.classifier_data import ClassifierData

DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("data"),
    show_default=True,
    help="Folder made by 'fetch'.",
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


@click.group()
def classifier() -> None:
    """Train, quantize, measure and ship the classifier: bird or not.

    \b
    In this order, after 'fetch':
      1. python -m model_build classifier train      (40 min on 2 cores; article: 10 min)
      2. python -m model_build classifier quantize   calibrated, int8        (1 min)
      3. python -m model_build classifier evaluate   on 15,000 pictures      (5 min)
      4. python -m model_build classifier export     ship it in edgebird/models
    """


@classifier.command()
@DATA
@RUNS
@RECIPE
@click.option("--steps", type=click.IntRange(1), help="Batches to train for.")
@click.option("--batch", type=click.IntRange(1), help="Pictures a batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Its peak.")
@click.option("--seed", type=int, help="Another seed, another run.")
def train(data: Path, runs: Path, recipe: str, **changes: float | None) -> None:
    """Train the network, or go on with a training that was stopped.

    Writes checkpoint.npz, metrics.jsonl (a line each 500 steps, with the accuracy on pictures set
    aside for the calibration) and at the end classifier.weights.h5 to the run's folder.
    """
    from model_build.classifier import RECIPES, WEIGHTS, train_classifier
    from model_build.classifier_export import raw_log_odds
    from model_build.classifier_report import answers_for, figures

    changed = {name: value for name, value in changes.items() if value is not None}
    chosen = dataclasses.replace(RECIPES[recipe], **changed)
    pictures = _load(data)
    watched = pictures.calibration[::4]

    def validate(model: object) -> dict[str, float]:
        at = figures(answers_for(watched, raw_log_odds(model, watched)), 0.5)
        return {"watched accuracy": at.accuracy, "watched ap": at.average_precision or 0.0}

    folder = _folder(runs, recipe)
    try:
        train_classifier(pictures.training, chosen, folder, validate=validate)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"trained: {folder / WEIGHTS}; next: python -m model_build classifier quantize")


@classifier.command()
@DATA
@RUNS
@RECIPE
def quantize(data: Path, runs: Path, recipe: str) -> None:
    """Calibrate, and make the int8 bird_classifier.tflite and its card in the run's folder."""
    weights = _weights(_folder(runs, recipe))

    import numpy as np

    from edgebird.model import write_model
    from model_build.classifier import RECIPES, build_classifier
    from model_build.classifier_export import (
        classifier_card,
        fit_calibration,
        raw_log_odds,
        representative_pictures,
        to_int8,
        verdict_model,
    )

    pictures = _load(data)
    chosen = RECIPES[recipe]
    model = build_classifier(chosen)
    model.load_weights(weights)
    calibration = fit_calibration(
        raw_log_odds(model, pictures.calibration),
        np.array([p.bird for p in pictures.calibration]),
    )
    verdict = verdict_model(model, chosen, calibration)
    verdict.save_weights(weights.with_name(VERDICT))
    content = to_int8(verdict, representative_pictures(pictures.training, chosen.size_px))
    path = weights.with_name(MODEL)
    write_model(content, classifier_card(content, chosen), path)
    click.echo(
        f"{path}: {len(content) / 1e6:.2f} MB, log-odds x {calibration[0]:.2f} "
        f"{calibration[1]:+.2f}; next: python -m model_build classifier evaluate"
    )


@classifier.command()
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
    from model_build.classifier import RECIPES
    from model_build.classifier_export import KerasClassifier, load_verdict
    from model_build.classifier_report import measure, table

    pictures = _load(data).holdout
    rows = {}
    for recipe in found:
        folder = _folder(runs, recipe)
        model = load_model(folder / MODEL, "classifier")
        interpreters = {
            "float": KerasClassifier(load_verdict(folder / VERDICT, RECIPES[recipe])),
            "int8": TfliteInterpreter(model, default_threads()),
        }
        rows[recipe] = measure(model, interpreters, pictures, folder / "report")
    click.echo(table(rows))
    click.echo("next: python -m model_build classifier export")


@classifier.command()
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


def _folder(runs: Path, recipe: str) -> Path:
    return runs / f"classifier-{recipe}"


def _weights(folder: Path) -> Path:
    weights = folder / "classifier.weights.h5"
    if not weights.exists():
        raise click.ClickException(f"no {weights}; first: classifier train")
    return weights


def _load(data: Path) -> ClassifierData:
    from model_build.classifier_data import load_classifier_data

    try:
        return load_classifier_data(data)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(f"{error}; first: python -m model_build fetch PACKS") from None
