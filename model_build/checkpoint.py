"""A training's whole state in one file, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

CHECKPOINT = "checkpoint.npz"


def save_checkpoint(path: Path, state: list, step: int, recipe: Any, pictures: int = 0) -> None:
    """Write the state, replacing the file only when it is complete.

    Args:
        path: of the file.
        state: variables, in an order that stays.
        step: so many are done.
        recipe: a dataclass with all settings of the training.
        pictures: a number that tells one collection of pictures from another.
    """
    partial = path.with_suffix(".partial.npz")
    arrays = {f"{i:04d}": variable.numpy() for i, variable in enumerate(state)}
    np.savez(partial, step=step, recipe=json.dumps(asdict(recipe)), pictures=pictures, **arrays)
    partial.replace(path)


def restore_checkpoint(path: Path, state: list, recipe: Any, pictures: int = 0) -> int:
    """Load the state of an earlier run and return its step; 0 where there is none.

    Raises:
        ValueError: the checkpoint belongs to another recipe, or to other pictures or labels.
    """
    if not path.exists():
        return 0
    cure = "give the same ones to go on, or another folder for a new run"
    settings = settings_of(path)
    if settings != json.loads(json.dumps(asdict(recipe))):
        raise ValueError(f"{path} was made with other settings: {settings}; {cure}")
    with np.load(path) as saved:
        if int(saved["pictures"]) != pictures:
            raise ValueError(
                f"{path} was made with other pictures or labels, or by another version; {cure}"
            )
        for i, variable in enumerate(state):
            variable.assign(saved[f"{i:04d}"])
        return int(saved["step"])


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of the training that a checkpoint belongs to.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    with np.load(path) as saved:
        return json.loads(str(saved["recipe"]))
