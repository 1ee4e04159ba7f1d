"""``python -m model_build digits``: the ladder on handwritten digits."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Climb the article's ladder, on digits.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder with the gathered packs, or one with MNIST's four files.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/digits"),
    show_default=True,
    help="Folder for a picture of each rung.",
)
@click.option(
    "--effort",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Scales the trainings' lengths.",
)
def digits(data: Path, to: Path, effort: float) -> None:
    """Climb the ladder of the article: from "is it an 8" to a detector, on handwritten digits.

    Trains and measures each rung, prints one table and saves a picture of each. Without MNIST it
    takes the 1,797 digits of scikit-learn.
    """
    from model_build.digits import climb, load_digits, table

    folders = (data, data / "packs" / "mnist", data / "mnist")
    source = next((f for f in folders if (f / "train-images-idx3-ubyte.gz").exists()), None)
    try:
        loaded = load_digits(source)
    except (OSError, EOFError, ValueError) as error:
        raise click.ClickException(f"MNIST in {source} cannot be read: {error}") from None
    click.echo(f"{loaded.source}: {len(loaded.train):,} to learn, {len(loaded.test):,} to test")
    click.echo(table(climb(loaded, to, effort=effort)))
    click.echo(f"pictures: {to}")
