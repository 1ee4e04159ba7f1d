"""What comparing pictures of one place does, measured on composed places with the runtime's code.

A place is a bird-free validation picture with things that always stand there, and perhaps with
wind in its leaves. Its pictures are taken in changing light: half of them with a bird, a sixth with
other things that were not there before, a third empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from edgebird.camera.files import read_picture
from edgebird.detector import Detector
from edgebird.places import Places, weighed
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
from model_build.hard_pictures import (
    HEIGHT_PX,
    SMALLEST_SHARE,
    WIDTH_PX,
    of_kind,
    place_without_birds,
    seen_by_camera,
)
from model_build.metrics import Truth, at_threshold, judge
from model_build.validation import LOWEST_SCORE

PICTURES = 15
_SEED = 22
_LARGEST_SHARE = 0.3
# What the pictures of a place show, again and again.
_SHOWN = ("bird", "bird", "empty", "bird", "thing", "empty")
_KINDS = ("plain", "silhouette", "low contrast", "hidden")
# How far leaves move, in pixels.
_WINDS = (0.0, 0.7, 2.5)


def composed_place(number: int, material: Material) -> Iterator[tuple[Image, Truth]]:
    """The pictures of place ``number``; `Truth.kind` says which of `_SHOWN` each is."""
    rng = np.random.default_rng([_SEED, number])
    empty = place_without_birds(rng, material, 0.7)
    backlit = rng.random() < 0.4
    if backlit:
        empty = brightened(empty, rng.uniform(1.2, 1.7), rng.uniform(0, 30))
    wind_px = float(rng.choice(_WINDS))
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
        yield canvas, Truth(xyxy, (WIDTH_PX, HEIGHT_PX), kind)


def _paste(rng: Generator, canvas: np.ndarray, rgba: np.ndarray, backlit: bool):
    longest_px = log_uniform(rng, SMALLEST_SHARE, _LARGEST_SHARE) * WIDTH_PX
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
    y, x = np.mgrid[:HEIGHT_PX, :WIDTH_PX].astype(np.float32)
    for axis in (x, y):
        moved = rng.normal(0, wind_px, (6, 8)).astype(np.float32)
        axis += cv2.resize(moved, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


@dataclass(frozen=True)
class Row:
    """What weighing does, at the default threshold.

    Args:
        weights: log-odds for what is new, and those off for what is not.
        ap50: over all pictures.
        recall: of the birds.
        empty_flagged: share of the empty pictures with a false alarm.
        things_flagged: share of the pictures with other new things that have one.
    """

    weights: tuple[float, float]
    ap50: float
    recall: float
    empty_flagged: float
    things_flagged: float


def compare_places(
    detector: Detector,
    threshold: float,
    material: Material,
    places: int,
    weights: Sequence[tuple[float, float]],
    folder: Path,
) -> list[Row]:
    """Look through composed places, and weigh what is new in each of several ways.

    Args:
        detector: for pictures on their own.
        threshold: its default one.
        material: of validation pictures.
        places: how many.
        weights: to try, each log-odds for what is new, and those off for what is not.
        folder: an empty one, for the pictures.
    """
    truths: dict[Path, Truth] = {}
    for place in range(places):
        for index, (picture, truth) in enumerate(composed_place(place, material)):
            path = folder / f"{place:03}-{index:02}.png"
            cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            truths[path] = truth
    known = Places.of(list(truths))
    found, news = [], []
    for path in tqdm(truths, "looking"):
        image = read_picture(path)
        found.append(detector.detect(image, threshold=LOWEST_SCORE))
        news.append(known.new_in(Frame(image, 0, 0.0, 0.0, str(path))))
    rows = []
    for bonus, penalty in weights:
        seen = [
            detections if new is None else weighed(detections, new, bonus, penalty)
            for detections, new in zip(found, news, strict=True)
        ]
        figures = at_threshold(judge(seen, list(truths.values())), threshold)
        rows.append(
            Row(
                (bonus, penalty),
                figures.ap50 or 0.0,
                figures.recall or 0.0,
                *(_flagged(seen, truths, kind, threshold) for kind in ("empty", "thing")),
            )
        )
    return rows


def _flagged(
    found: Sequence[Detections], truths: dict[Path, Truth], kind: str, threshold: float
) -> float:
    pairs = zip(found, truths.values(), strict=True)
    flagged = [len(d.above(threshold)) > 0 for d, truth in pairs if truth.kind == kind]
    return float(np.mean(flagged))


def table(rows: Sequence[Row]) -> str:
    """For a person, and in Markdown."""
    columns = ["new", "usual", "AP50", "recall", "empty flagged", "other new things flagged"]
    lines = [f"| {' | '.join(columns)} |", "|--:" * len(columns) + "|"]
    lines += [
        f"| {row.weights[0]:.1f} | {0 - row.weights[1]:.1f} | {row.ap50:.3f} | {row.recall:.3f} "
        f"| {row.empty_flagged:.1%} | {row.things_flagged:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)
