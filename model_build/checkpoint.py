"""A training's whole state in one file, so that it goes on where it was stopped."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from model_build.whole_files import replacing

CHECKPOINT = "checkpoint.npz"
_CURE = "give the same ones to go on, or another folder for a new run"
OTHER_PICTURES = f"was made with other pictures or labels, or by another version; {_CURE}"


def save_checkpoint(
    path: Path, state: list, step: int, recipe: Any, pictures: int = 0, start: int = 0
) -> None:
    """Write the state, replacing the file only when it is complete and on the disk.

    Args:
        path: of the file.
        state: variables, in an order that stays.
        step: so many are done.
        recipe: a dataclass with all settings of the training.
        pictures: a number that tells one collection of pictures from another.
        start: `checksum_of` the weights that the training began with.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_suffix(".partial.npz")
    arrays = {f"{i:04d}": variable.numpy() for i, variable in enumerate(state)}
    told = {"step": step, "recipe": json.dumps(asdict(recipe)), "pictures": pictures}
    with replacing(path, partial):
        np.savez(partial, **told, start=start, **arrays)


def restore_checkpoint(
    path: Path, state: list, recipe: Any, pictures: int = 0, start: int = 0
) -> int:
    """Load the state of an earlier run and return its step; 0 where there is none.

    Raises:
        ValueError: the checkpoint belongs to another recipe, to other pictures or labels, to a
            training that began with other weights or in another precision, or it is damaged.
    """
    if not path.exists():
        return 0
    settings = settings_of(path)
    if settings != json.loads(json.dumps(asdict(recipe))):
        raise ValueError(f"{path} was made with other settings: {settings}; {_CURE}")
    with _opened(path) as saved:
        if int(saved["pictures"]) != pictures:
            raise ValueError(f"{path} {OTHER_PICTURES}")
        # earlier versions did not tell
        if "start" in saved and int(saved["start"]) != start:
            raise ValueError(f"{path} began with other weights (--start-from); {_CURE}")
        names = [name for name in saved if name.isdecimal()]
        if len(names) != len(state):
            # a GPU's half precision needs a scale for the loss
            raise ValueError(
                f"{path} has {len(names)} arrays, and {len(state)} are needed: what began on a GPU "
                "goes on on a GPU only, and what began without one without"
            )
        values = [saved[f"{i:04d}"] for i in range(len(state))]
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        return int(saved["step"])


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of the training that a checkpoint belongs to.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged.
    """
    with _opened(path) as saved:
        return json.loads(str(saved["recipe"]))


def checksum_of(weights: Path | None) -> int:
    """A number that tells a file of weights from others; 0 for none."""
    return 0 if weights is None else zlib.crc32(weights.read_bytes())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays of a checkpoint, each read when asked for."""
    damaged = f"{path} is damaged: delete it, and the training begins anew"
    with path.open("rb") as file:
        try:
            saved = np.load(file)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(damaged) from error
        try:
            yield saved
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(damaged) from error
