"""Keeps one annotated picture of each visit: its best shot."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

from edgebird.annotate import draw_birds, make_folder, write_jpeg
from edgebird.errors import OutputError
from edgebird.structures import VisitChanged

log = logging.getLogger(__name__)

# The end of a visit's id: its time.
_OUR_PICTURE = re.compile(r"-\d{8}T\d{6}\.jpg\Z")


class Snapshots:
    """Writes ``<folder>/<visit id>.jpg`` when a visit starts, and again with the best shot when it
    ends.

    This comes before the sinks, so that an alert never names a picture that is not there. A disk
    that cannot take it does not stop detection: the alert goes out without a picture.

    Args:
        folder: for the pictures.
        keep_mb: the oldest ones are deleted when all of them take more than so many megabytes.

    Raises:
        OutputError: the folder cannot be created or written to at the start.
    """

    def __init__(self, folder: Path, *, keep_mb: float = 500.0) -> None:
        make_folder(folder)
        self._folder = folder.resolve()
        self._keep_bytes = keep_mb * 1e6
        self._failing = False

    def limit(self, keep_mb: float) -> None:
        """Keep to another limit from the next picture on."""
        self._keep_bytes = keep_mb * 1e6

    def save(self, change: VisitChanged) -> VisitChanged:
        """Write the picture; the same change with its path filled in."""
        if change.best_image is None:
            return change
        visit = change.visit
        path = self._folder / f"{visit.id}.jpg"
        try:
            write_jpeg(draw_birds(change.best_image, [(visit.best_xyxy, visit.best_score)]), path)
        except OutputError as error:
            if not self._failing:
                log.warning("%s; alerts go out without a picture", error)
            self._failing = True
            return change
        if self._failing:
            log.warning("snapshots can be written again")
        self._failing = False
        if change.kind == "end":
            self._delete_oldest(path)
        return replace(change, visit=replace(visit, snapshot=str(path)))

    def _delete_oldest(self, newest: Path) -> None:
        """Keep to the limit; what is in the folder besides our pictures is left alone."""
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if _OUR_PICTURE.search(entry.name):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, entry.path))
            surplus = sum(size for _, size, _ in found) - self._keep_bytes
            for _, size, path in sorted(found):
                if surplus <= 0 or path == str(newest):
                    break
                os.unlink(path)
                surplus -= size
        except OSError as error:
            log.debug("old snapshots cannot be deleted: %s", error)
