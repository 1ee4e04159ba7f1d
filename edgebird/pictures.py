"""Scans pictures one by one, each whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebird.annotate import draw_birds, write_jpeg
from edgebird.camera.files import PictureSequence
from edgebird.detector import Detector
from edgebird.place_scores import PlaceScores
from edgebird.places import Places
from edgebird.structures import Detections


@dataclass(frozen=True, eq=False)
class PictureResult:
    """What was found in one picture.

    Args:
        path: of the picture.
        size: its width and height in pixels.
        detections: boxes in pixels of the full picture, best first.
        inference_ms: how long it took to look through it.
    """

    path: Path
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
        on_look: called after each picture that was looked at: some are ahead of their turn.
        save: folder for annotated copies of the pictures with birds.
        max_pictures: stop after so many.

    Raises:
        CameraError: some pictures could not be read; raised after all others are done.
        OutputError: an annotated copy cannot be written.
    """
    names: Counter[str] = Counter()
    scores = PlaceScores(detector, places, threshold, lambda: not pictures.closed, on_look)
    for count, frame in enumerate(pictures.frames(), start=1):
        path = Path(frame.source)
        detections, took_ms = scores.look(frame)
        if save is not None and len(detections):
            birds = zip(detections.xyxy.tolist(), detections.score.tolist(), strict=True)
            # bird.jpg and bird.png of one folder must not overwrite each other.
            names[path.stem] += 1
            number = names[path.stem]
            name = path.stem if number == 1 else f"{path.stem}-{number}"
            write_jpeg(draw_birds(frame.image, list(birds)), save / f"{name}.jpg")
        on_result(PictureResult(path, frame.size, detections, took_ms))
        if count == max_pictures:
            break
