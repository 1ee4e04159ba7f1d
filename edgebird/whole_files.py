"""Writes files so that a reader sees the old one or the whole new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path


def write_files(
    contents: Mapping[Path, bytes], *, prepare: Callable[[int], None] | None = None
) -> None:
    """Write files, each in place of what is there once all of them are complete.

    Args:
        contents: of the files, by path.
        prepare: given the descriptor of each while it is empty, and nobody else may read it yet.

    Raises:
        OSError: one cannot be written; nothing is left of those that were begun.
    """
    partials = {path: path.with_name(f".{path.name}.partial") for path in contents}
    try:
        for path, content in contents.items():
            partials[path].unlink(missing_ok=True)
            with open(partials[path], "xb", opener=_for_us_only if prepare else None) as file:
                if prepare:
                    prepare(file.fileno())
                file.write(content)
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            # it is mostly gone, and what keeps us from writing may keep us from deleting, too
            with suppress(OSError):
                partial.unlink()


def _for_us_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
