"""Keeps one annotated picture of each visit: its best shot."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edgebird.annotate import draw_birds, make_folder, write_jpeg
from edgebird.errors import OutputError
from edgebird.structures import VisitChanged

log = logging.getLogger(__name__)


class Snapshots:
    """Writes ``<folder>/<visit id>.jpg`` when a visit starts, and again with the best shot when it
    ends.

    This comes before the sinks, so that an alert never names a picture that is not there. A disk
    that cannot take it does not stop detection: the alert goes out without a picture.

    Raises:
        OutputError: the folder cannot be created or written to at the start.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder.resolve()
        self._failing = False

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
        return replace(change, visit=replace(visit, snapshot=str(path)))
