"""Birds, and things that are no birds, cut out of their photos with soft edges.

A feeder's birds are small and dark against leaves, a photo pack's large and centred. Pasting birds
on other backgrounds closes the gap, but only if the paste's edge does not give it away: so each
bird is cut along its outline (GrabCut, Rother et al., 2004) and the outline is feathered. Other
animals and things are cut out in the same way, so that an outline alone does not say "bird".
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from model_build.datasets import Example
from model_build.whole_files import replacing

LONGEST_SIDE_PX = 176
_MARGIN = 0.25  # context around the box that GrabCut takes for background, in box sides
_SMALLEST_SIDE_PX = 24
# So many pictures are cut before a file of them is written.
_PART = 1000


def cut_out(picture: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """Cut one bird out.

    Args:
        picture: uint8 (H, W, 3), RGB.
        box: its xyxy in pixels.

    Returns:
        uint8 (h, w, 4), RGBA, cropped to the bird, its longest side at most `LONGEST_SIDE_PX`; None
        where no convincing outline was found.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    if min(x1 - x0, y1 - y0) < _SMALLEST_SIDE_PX:
        return None
    left = int(max(0, x0 - _MARGIN * (x1 - x0)))
    top = int(max(0, y0 - _MARGIN * (y1 - y0)))
    right = int(min(width, x1 + _MARGIN * (x1 - x0)))
    bottom = int(min(height, y1 + _MARGIN * (y1 - y0)))
    crop = picture[top:bottom, left:right]
    scale = min(1.0, LONGEST_SIDE_PX / max(x1 - x0, y1 - y0))
    if scale < 1:
        crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    bx0, by0, bx1, by1 = (np.array([x0 - left, y0 - top, x1 - left, y1 - top]) * scale).round()
    rectangle = (int(bx0), int(by0), int(bx1 - bx0), int(by1 - by0))
    if rectangle[2] >= crop.shape[1] - 2 and rectangle[3] >= crop.shape[0] - 2:
        return None  # no background left to tell the bird from

    labels = np.zeros(crop.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(
            crop, labels, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:
        return None
    bird = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    bird = cv2.morphologyEx(bird, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(bird)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, w, h, area = stats[largest]
    box_area = rectangle[2] * rectangle[3]
    # A bird fills a third to nine tenths of its box and spans it; less is a part of the bird,
    # more is the background taken along.
    if not (0.25 < area / box_area < 0.9 and w * h > 0.6 * box_area):
        return None
    alpha = cv2.GaussianBlur((parts == largest).astype(np.uint8) * 255, (0, 0), 1.2)
    return np.dstack([crop, alpha])[y : y + h, x : x + w]


def write_cutouts(boxed: Iterable[Example], crops: Iterable[Example], path: Path) -> int:
    """Cut what is in ``boxed`` pictures (with boxes) and in ``crops`` (one thing each, the box
    unknown but nearly the picture) out, and write it to a zip of PNG files.

    Returns:
        How many were good enough to keep.

    Raises:
        OutputError: it cannot be written.
    """
    examples = _with_something_to_cut(boxed, crops)
    with tqdm(desc=path.stem, total=len(examples)) as progress:
        return _write(_cut_out_of(examples, progress), path, _mark_of(examples))


def are_cut_out_of(boxed: Iterable[Example], path: Path) -> bool:
    """Whether `write_cutouts` made a file from these pictures with the boxes they have now."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _mark_of(_with_something_to_cut(boxed, []))
    except (FileNotFoundError, zipfile.BadZipFile):
        return False


def number_of(examples: Iterable[Example]) -> int:
    """A number that tells some pictures with their boxes from others."""
    number = 0
    for example in examples:
        number = zlib.crc32(os.fsencode(f"{example.name} {len(example.encoded)}\n"), number)
        number = zlib.crc32(example.fractions.tobytes(), number)
    return number


def _mark_of(examples: Iterable[Example]) -> bytes:
    return f"{number_of(examples):08x}".encode()


def write_cutouts_in_parts(boxed: Iterable[Example], crops: Iterable[Example], path: Path) -> int:
    """`write_cutouts` for many pictures: what is done stays in a folder beside the file if this is
    stopped, and is not done again.

    Raises:
        OutputError: a file cannot be written.
    """
    examples = _with_something_to_cut(boxed, crops)
    folder = path.with_suffix(".parts")
    folder.mkdir(exist_ok=True)
    parts = []
    with tqdm(desc=path.stem, total=len(examples)) as progress:
        for first in range(0, len(examples), _PART):
            some = examples[first : first + _PART]
            # named by the pictures: others make another part
            parts.append(folder / f"{number_of(some):08x}.zip")
            if parts[-1].exists():
                progress.update(len(some))
            else:
                _write(_cut_out_of(some, progress), parts[-1])
    count = _write(map(read_named_cutouts, parts), path)
    shutil.rmtree(folder)
    return count


def _with_something_to_cut(boxed: Iterable[Example], crops: Iterable[Example]) -> list[Example]:
    return [e for e in boxed if len(e.fractions)] + list(crops)


def _write(cutouts: Iterable[Iterable[tuple[str, bytes]]], path: Path, mark: bytes = b"") -> int:
    count = 0
    # with the process's number: several machines of a training may share a disk
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with replacing(path, partial), zipfile.ZipFile(partial, "w") as archive:
        archive.comment = mark
        for things in cutouts:
            for name, encoded in things:
                # a name of bytes that are no text would not be written
                archive.writestr(name.encode(errors="backslashreplace").decode(), encoded)
                count += 1
    return count


def _cut_out_of(examples: list[Example], progress: tqdm) -> Iterator[list[tuple[str, bytes]]]:
    """`_cut_all` of each, on all cores if there are many: GrabCut keeps Python's lock."""
    for things in _on_all_cores(examples):
        yield things
        progress.update()


def _on_all_cores(examples: list[Example]) -> Iterator[list[tuple[str, bytes]]]:
    if len(examples) < 100:
        yield from map(_cut_all, examples)
        return
    # not forked: a training that starts with this has threads
    cores, spawn = len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, spawn) as pool:
        yield from pool.map(_cut_all, examples, chunksize=8)


def _cut_all(example: Example) -> list[tuple[str, bytes]]:
    """File names and PNGs of the things in a picture that could be cut out."""
    picture = example.picture()
    height, width = picture.shape[:2]
    boxes = example.boxes(width, height)
    if not len(boxes):
        inset = 0.05 * np.array([width, height, -width, -height])
        boxes = np.array([[0, 0, width, height]]) + inset
    found = [cut_out(picture, box) for box in boxes]
    return [
        (
            f"{example.name}_{number}.png",
            cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))[1].tobytes(),
        )
        for number, rgba in enumerate(found)
        if rgba is not None
    ]


def read_cutouts(path: Path) -> list[bytes]:
    """The encoded RGBA pictures of `write_cutouts`, in the order written."""
    return [encoded for _, encoded in read_named_cutouts(path)]


def read_named_cutouts(path: Path) -> Iterator[tuple[str, bytes]]:
    """The same with their names, ``<pack>/<stem>_<number>.png``."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def decode_cutout(encoded: bytes) -> np.ndarray:
    """uint8 (h, w, 4), RGBA."""
    bgra = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA)
