"""Scans pictures one by one, each whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebird.annotate import draw_birds, write_jpeg
from edgebird.camera.files import PictureSequence, names_for_people
from edgebird.detector import Detector
from edgebird.errors import UsageError
from edgebird.place_scores import PlaceScores
from edgebird.places import Places
from edgebird.structures import Detections

# So many bytes of a picture's name at most go into that of its copy, which gets longer.
_LONGEST_STEM = 200


@dataclass(frozen=True, eq=False)
class PictureResult:
    """What was found in one picture.

    Args:
        path: of the picture.
        name: the file's, with its path where pictures of several folders are looked at.
        size: its width and height in pixels.
        detections: boxes in pixels of the full picture, best first.
        inference_ms: how long it took to look through it.
    """

    path: Path
    name: str
    size: tuple[int, int]
    detections: Detections
    inference_ms: float


def scan_pictures(
    pictures: PictureSequence,
    detector: Detector,
    threshold: float,
    on_result: Callable[[PictureResult], None],
    *,
    places: Places,
    default_threshold: float,
    on_look: Callable[[], None] = lambda: None,
    save: Path | None = None,
    max_pictures: int | None = None,
) -> None:
    """Look through each picture and hand over what is there.

    Args:
        pictures: to look through.
        detector: finds the birds.
        threshold: lowest score wanted, 0 to 1.
        on_result: called for each picture, also for those without a bird.
        places: which of the pictures show the same place, and so what is new in each.
        default_threshold: the model's own, see `PlaceScores`.
        on_look: called after each picture that was looked at: some are ahead of their turn.
        save: folder for annotated copies of the pictures with birds.
        max_pictures: stop after so many.

    Raises:
        CameraError: some pictures could not be read; raised after all others are done.
        OutputError: an annotated copy cannot be written.
    """
    names = {} if save is None else copy_names(pictures.paths)
    name_of = names_for_people(pictures.paths)
    scores = PlaceScores(
        detector, places, threshold, default_threshold, lambda: not pictures.closed, on_look
    )
    for count, frame in enumerate(pictures.frames(), start=1):
        path = Path(frame.source)
        detections, took_ms = scores.look(frame)
        if save is not None and len(detections):
            write_jpeg(draw_birds(frame.image, detections.rows()), save / names[path])
        on_result(PictureResult(path, name_of(path), frame.size, detections, took_ms))
        if count == max_pictures:
            break


def copy_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What the annotated copy of each picture is called: as the picture, with a number where that
    is another one's name, which bird.jpg and bird.png of one folder would share.
    """
    names: dict[Path, str] = {}
    # memory cards do not tell Bird.jpg from bird.jpg
    taken: set[str] = set()
    latest: Counter[str] = Counter()
    # those that can keep their name do so, whatever comes before them
    for path in sorted(paths, key=lambda path: path.suffix.lower() != ".jpg"):
        stem = path.stem
        while len(os.fsencode(stem)) > _LONGEST_STEM:
            stem = stem[:-1]
        name = stem
        while name.casefold() in taken:
            latest[stem.casefold()] += 1
            name = f"{stem}-{latest[stem.casefold()] + 1}"
        taken.add(name.casefold())
        names[path] = f"{name}.jpg"
    return names


def check_save_folder(folder: Path, paths: Sequence[Path]) -> None:
    """Find out whether annotated copies would take the place of the pictures themselves.

    Raises:
        UsageError: some of the pictures are in the folder.
    """
    # a copy may also replace what a link in another folder leads to
    homes = {path.parent for path in paths} | {path.resolve().parent for path in paths}
    if os.path.isdir(folder) and any(os.path.isdir(h) and h.samefile(folder) for h in homes):
        raise UsageError(
            f"the pictures themselves are in {folder}, where annotated copies would replace them: "
            "give another folder to save to"
        )
