"""Files that are written beside the old one first, so that a full disk costs the new one only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgebird.errors import OutputError


@contextmanager
def replacing(path: Path, partial: Path) -> Iterator[None]:
    """What is written to ``partial`` meanwhile takes the place of ``path``, once it is complete and
    on the disk.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        yield
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        # h5py's own words go on for lines
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(f"cannot write {path}: {reason}") from error
    finally:
        # it is mostly gone, and what keeps us from writing may keep us from deleting, too
        with suppress(OSError):
            partial.unlink()


def save_weights(model: Any, path: Path) -> None:
    """Write the weights of a Keras model.

    Args:
        model: that has them.
        path: of the file, ``.weights.h5``.

    Raises:
        OutputError: they cannot be written.
    """
    partial = path.with_name(f"partial.{path.name}")
    with replacing(path, partial):
        # On a full disk h5py prints tracebacks, now and when it is freed: look for room before.
        with partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _size_of(model))
        try:
            model.save_weights(partial)
        except RuntimeError as error:
            raise OSError(str(error).splitlines()[0]) from error


def _size_of(model: Any) -> int:
    """At least as many bytes as a file with a model's weights has."""
    return sum(variable.numpy().nbytes + 4096 for variable in model.variables)
