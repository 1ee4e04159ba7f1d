"""The build stage's command line: ``python -m model_build``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import click

from model_build.classifier_commands import classifier
from model_build.digits_commands import digits

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("data"),
    show_default=True,
    help="Folder made by 'fetch'.",
)
RUN = click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/detector"),
    show_default=True,
    help="Folder of the training run.",
)


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Train the bird detector and turn it into what the runtime ships.

    \b
    In this order:
      1. python -m model_build fetch PACKS   gather pictures, cut birds out  (once, 10 min)
      2. python -m model_build train         train the network               (1 h on 2 cores)
      3. python -m model_build quantize      make the int8 .tflite           (2 min)
      4. python -m model_build evaluate      measure float and int8          (5 min)
      5. python -m model_build export        ship it in edgebird/models

    Each step tells more with --help. A training that was stopped goes on where it was.
    The classifier, bird or not, has the same steps: python -m model_build classifier --help.
    The idea behind it all, on handwritten digits: python -m model_build digits.
    """


main.add_command(classifier)
main.add_command(digits)


@main.command()
@click.argument("packs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder to write to.",
)
def fetch(packs: Path, data: Path) -> None:
    """Gather the picture packs from the folder PACKS and cut the birds out of their photos.

    PACKS holds bird_boxes, coco_train128, imagenet_samples, cub200_2010_crops,
    tiny_imagenet_subset and nestbox_pi_camera, as zip files or folders. They are linked and not
    copied. What is there already is not made again.
    """
    from model_build.cutouts import write_cutouts
    from model_build.datasets import load_packs, objects_of

    data.mkdir(parents=True, exist_ok=True)
    link = data / "packs"
    if link.resolve() != packs.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(packs.resolve(), target_is_directory=True)
    try:
        gathered = load_packs(link)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(
            f"{error}; PACKS must hold the packs that --help names"
        ) from None
    for name, examples in (
        ("training photos", gathered.boxed_train),
        ("validation photos", gathered.boxed_validation),
        ("cropped birds", gathered.crops_train),
        ("distractors", gathered.distractors_train),
        ("nest box frames", gathered.nestbox),
    ):
        click.echo(f"{len(examples):6d} {name}")
    objects = {
        "validation": objects_of(gathered.boxed_validation, gathered.distractors_validation),
        "train": objects_of(gathered.boxed_train, gathered.distractors_train),
    }
    for name, boxed, crops in (
        ("cutouts_validation", gathered.boxed_validation, []),
        ("cutouts_train", gathered.boxed_train, gathered.crops_train),
        ("objects_validation", [], objects["validation"]),
        ("objects_train", [], objects["train"]),
    ):
        path = data / f"{name}.zip"
        if not path.exists():
            click.echo(f"{write_cutouts(boxed, crops, path):6d} {name} cut out")


@main.command()
@DATA
@RUN
@click.option("--steps", type=click.IntRange(1), help="Batches to train for.")
@click.option("--batch", type=click.IntRange(1), help="Pictures a batch.")
@click.option("--size", "size_px", type=click.IntRange(64), help="Side of the pictures, px.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Its peak.")
@click.option(
    "--empty-share",
    type=click.FloatRange(0, 0.8),
    help="Of the photos used as they are, those without a bird: more for fewer false alarms.",
)
@click.option("--seed", type=int, help="Another seed, another run.")
@click.option(
    "--start-from",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights to start from (detector.weights.h5) in place of ImageNet's.",
)
def train(data: Path, run: Path, start_from: Path | None, **changes: float | None) -> None:
    """Train the network, or go on with a training that was stopped.

    Writes checkpoint.npz, metrics.jsonl (a line each 500 steps) and at the end
    detector.weights.h5 to the run's folder. Uses a GPU in mixed precision where there is one.
    """
    from model_build.train import Recipe
    from model_build.train import train as run_training
    from model_build.validation import training_figures

    recipe = dataclasses.replace(Recipe(), **{k: v for k, v in changes.items() if v is not None})
    material, sets = _load(data)
    try:
        run_training(
            material,
            recipe,
            run,
            start_from=start_from,
            validate=lambda model: training_figures(model, sets),
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"trained: {run / 'detector.weights.h5'}; next: python -m model_build quantize")


@main.command()
@DATA
@RUN
@click.option("--size", "size_px", default=256, show_default=True, help="Side of the input, px.")
def quantize(data: Path, run: Path, size_px: int) -> None:
    """Make the int8 bird_detector.tflite and its card in the run's folder."""
    weights = _weights(run)

    from edgebird.model import write_model
    from model_build.quantize import card_for
    from model_build.quantize import quantize as to_int8

    material, _ = _load(data)
    content = to_int8(weights, material, size_px)
    path = run / "bird_detector.tflite"
    write_model(content, card_for(content, size_px, threshold=0.5), path)
    click.echo(f"{path}: {len(content) / 1e6:.2f} MB; next: python -m model_build evaluate")


@main.command()
@DATA
@RUN
@click.option(
    "--flagged-share",
    default=0.01,
    show_default=True,
    help="Share of empty validation pictures that the default threshold may flag.",
)
def evaluate(data: Path, run: Path, flagged_share: float) -> None:
    """Measure the float and the int8 model on val, val-small, nestbox and empty-hard.

    Uses the runtime's own detector code. Chooses the default threshold on val (nestbox is never
    tuned on) and writes the figures into the card in the run's folder.
    """
    weights = _weights(run)

    from model_build.validation import evaluate_models, table

    _, sets = _load(data)
    card = evaluate_models(weights, run / "bird_detector.tflite", sets, flagged_share)
    click.echo(table(card))
    click.echo("next: python -m model_build export")


@main.command()
@RUN
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("edgebird/models"),
    show_default=True,
)
def export(run: Path, to: Path) -> None:
    """Copy the measured model and its card to where the runtime finds them."""
    from edgebird.errors import ModelError
    from edgebird.model import load_model, write_model

    try:
        model = load_model(run / "bird_detector.tflite", "detector")
    except ModelError as error:
        raise click.ClickException(str(error)) from None
    if not model.card.metrics:
        raise click.ClickException("its figures are missing; first: python -m model_build evaluate")
    write_model(model.content, model.card, to / model.path.name)
    click.echo(f"shipped: {to / model.path.name}, threshold {model.card.threshold}")


def _weights(run: Path) -> Path:
    weights = run / "detector.weights.h5"
    if not weights.exists():
        raise click.ClickException(f"no {weights}; first: python -m model_build train")
    return weights


def _load(data: Path):
    """The training material and the validation sets."""
    from model_build.augment import Material
    from model_build.cutouts import read_cutouts
    from model_build.datasets import load_packs
    from model_build.validation import validation_sets

    try:
        packs = load_packs(data / "packs")
        names = ("cutouts_train", "cutouts_validation", "objects_train", "objects_validation")
        cutouts = {name: read_cutouts(data / f"{name}.zip") for name in names}
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(f"{error}; first: python -m model_build fetch PACKS") from None
    material = Material(
        birds=[e for e in packs.boxed_train if len(e.fractions)],
        empties=[e for e in packs.boxed_train if not len(e.fractions)],
        cutouts=cutouts["cutouts_train"],
        objects=cutouts["objects_train"],
        distractors=packs.distractors_train,
    )
    return material, validation_sets(
        packs, cutouts["cutouts_validation"], cutouts["objects_validation"]
    )


if __name__ == "__main__":
    main()
