"""What comparing pictures of one place does, measured with the runtime's code on composed places
and in a nest box.

A place is a bird-free validation picture with things that always stand there, and perhaps with
wind in its leaves. Its pictures are taken in changing light: half of them with a bird, a sixth with
other things that were not there before, a third empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from edgebird.camera.files import read_picture
from edgebird.detector import Detector
from edgebird.place_scores import best_log_odds, lift
from edgebird.places import Novelty, Places, weighed
from edgebird.structures import Detections, Frame, Image
from model_build.augment import (
    COUNTED_SHARE,
    Material,
    brightened,
    distractor,
    log_uniform,
    paste,
    pick,
)
from model_build.cutouts import decode_cutout
from model_build.datasets import Example
from model_build.hard_pictures import (
    CANVAS_PX,
    SMALLEST_SHARE,
    of_kind,
    place_without_birds,
    seen_by_camera,
)
from model_build.metrics import Truth, at_threshold, judge
from model_build.validation import LOWEST_SCORE, as_it_is

PICTURES = 15
_SEED = 22
_LARGEST_SHARE = 0.3
# What the pictures of a place show, again and again.
_SHOWN = ("bird", "bird", "empty", "bird", "thing", "empty")
_KINDS = ("plain", "silhouette", "low contrast", "hidden")
# How far leaves move, in pixels of `CANVAS_PX`.
_WINDS = (0.0, 0.7, 2.5)


def composed_places(
    count: int, material: Material, size: tuple[int, int] = CANVAS_PX
) -> Iterator[tuple[Image, Truth]]:
    """The pictures of the first places, one place after another; see `composed_place`."""
    for number in range(count):
        yield from composed_place(number, material, size)


def composed_place(
    number: int, material: Material, size: tuple[int, int] = CANVAS_PX
) -> Iterator[tuple[Image, Truth]]:
    """The pictures of place ``number``; `Truth.kind` says which of `_SHOWN` each is.

    Args:
        number: of the place.
        material: of validation pictures.
        size: of each picture, width and height in pixels.
    """
    rng = np.random.default_rng([_SEED, number])
    empty = place_without_birds(rng, material, 0.7, size)
    backlit = rng.random() < 0.4
    if backlit:
        empty = brightened(empty, rng.uniform(1.2, 1.7), rng.uniform(0, 30))
    wind_px = float(rng.choice(_WINDS)) * size[0] / CANVAS_PX[0]
    for _ in range(rng.integers(0, 3)):
        _paste(rng, empty, distractor(rng, material), backlit)
    for index in range(PICTURES):
        canvas = _swaying(rng, empty, wind_px)
        canvas = brightened(canvas, float(np.exp(rng.normal(0, 0.15))), 0)
        kind = _SHOWN[index % len(_SHOWN)]
        boxes: list[np.ndarray] = []
        if kind == "bird":
            canvas, boxes = _with_a_bird(rng, canvas, material, backlit)
        elif kind == "thing":
            for _ in range(rng.integers(1, 3)):
                _paste(rng, canvas, distractor(rng, material), backlit)
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        canvas, xyxy = seen_by_camera(rng, canvas, xyxy, "plain")
        yield canvas, Truth(xyxy, size, kind)


def nestbox_pictures(frames: Sequence[Example]) -> Iterator[tuple[Image, Truth]]:
    """The frames of a real camera, each "bird" or "empty"."""
    for frame in frames:
        picture, truth = as_it_is(frame)
        yield picture, replace(truth, kind="bird" if len(truth.boxes) else "empty")


def _paste(rng: Generator, canvas: np.ndarray, rgba: np.ndarray, backlit: bool):
    longest_px = log_uniform(rng, SMALLEST_SHARE, _LARGEST_SHARE) * canvas.shape[1]
    return paste(rng, canvas, rgba, longest_px, backlit, [], 0.1)


def _with_a_bird(
    rng: Generator, canvas: np.ndarray, material: Material, backlit: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    while True:
        seen = canvas.copy()
        bird = decode_cutout(pick(rng, material.cutouts))
        kind = str(rng.choice(_KINDS))
        if kind == "silhouette" and not backlit:
            kind = "plain"
        pasted = _paste(rng, seen, of_kind(rng, bird, canvas, kind), backlit)
        if pasted is not None and pasted.visible_share >= COUNTED_SHARE:
            return seen, [pasted.box]


def _swaying(rng: Generator, picture: np.ndarray, wind_px: float) -> np.ndarray:
    """The picture with its parts moved a little, each its own way."""
    if not wind_px:
        return picture.copy()
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for axis in (x, y):
        moved = rng.normal(0, wind_px, (6, 8)).astype(np.float32)
        axis += cv2.resize(moved, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


@dataclass(frozen=True)
class Rule:
    """How the pictures of a place are compared.

    Args:
        bonus: log-odds for what is new, ...
        penalty: ... and those off for what is not.
        lifts: whether a place where birds score low is lifted (`edgebird.place_scores`).
    """

    bonus: float
    penalty: float
    lifts: bool = False


@dataclass(frozen=True)
class Row:
    """What comparing does, at the default threshold.

    Args:
        rule: how the pictures were compared.
        ap50: over all pictures.
        recall: of the birds.
        empty_flagged: share of the empty pictures with a false alarm, None if none are empty.
        things_flagged: share of the pictures with other new things that have one, None likewise.
    """

    rule: Rule
    ap50: float
    recall: float
    empty_flagged: float | None
    things_flagged: float | None


def compare_places(
    detector: Detector,
    threshold: float,
    pictures: Iterable[tuple[Image, Truth]],
    rules: Sequence[Rule],
    folder: Path,
) -> list[Row]:
    """Look through pictures, and compare those of each place in several ways.

    Args:
        detector: for pictures on their own.
        threshold: its default one.
        pictures: those of a place follow each other.
        rules: to try.
        folder: an empty one, for the pictures.
    """
    truths: dict[Path, Truth] = {}
    for number, (picture, truth) in enumerate(pictures):
        path = folder / f"{number:05}.png"
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        truths[path] = truth
    known = Places.of(list(truths))
    found, news = [], []
    for path in tqdm(truths, "looking"):
        image = read_picture(path)
        found.append(detector.detect(image, threshold=LOWEST_SCORE))
        news.append(known.new_in(Frame(image, 0, 0.0, 0.0, str(path))))
    numbers = [known.place_of(path) for path in truths]
    rows = []
    for rule in rules:
        seen = _compared(found, news, numbers, rule, threshold)
        figures = at_threshold(judge(seen, list(truths.values())), threshold)
        rows.append(
            Row(
                rule,
                figures.ap50 or 0.0,
                figures.recall or 0.0,
                *(_flagged(seen, truths, kind, threshold) for kind in ("empty", "thing")),
            )
        )
    return rows


def _compared(
    found: Sequence[Detections],
    news: Sequence[Novelty | None],
    places: Sequence[int | None],
    rule: Rule,
    threshold: float,
) -> list[Detections]:
    """What was found in each picture, weighed by what is new in it."""

    def weigh(index: int, lifted: float) -> Detections:
        return weighed(found[index], news[index], rule.bonus + lifted, rule.penalty)

    best: dict[int | None, list[float]] = defaultdict(list)
    for index, place in enumerate(places):
        if news[index] is not None:
            best[place].append(best_log_odds(weigh(index, 0.0)))
    lifts = {
        place: lift(scores, threshold) if rule.lifts else 0.0 for place, scores in best.items()
    }
    return [weigh(index, lifts.get(place, 0.0)) for index, place in enumerate(places)]


def _flagged(
    found: Sequence[Detections], truths: dict[Path, Truth], kind: str, threshold: float
) -> float | None:
    pairs = zip(found, truths.values(), strict=True)
    flagged = [len(d.above(threshold)) > 0 for d, truth in pairs if truth.kind == kind]
    return float(np.mean(flagged)) if flagged else None


def table(rows: Sequence[Row]) -> str:
    """For a person, and in Markdown."""
    columns = [
        "new",
        "usual",
        "lifted",
        "AP50",
        "recall",
        "empty flagged",
        "other new things flagged",
    ]
    lines = [f"| {' | '.join(columns)} |", "|--:" * len(columns) + "|"]
    for row in rows:
        flagged = [
            "" if share is None else f"{share:.1%}"
            for share in (row.empty_flagged, row.things_flagged)
        ]
        lines.append(
            f"| {row.rule.bonus:.1f} | {0 - row.rule.penalty:.1f} "
            f"| {'yes' if row.rule.lifts else 'no'} | {row.ap50:.3f} | {row.recall:.3f} "
            f"| {' | '.join(flagged)} |"
        )
    return "\n".join(lines)
