"""Training on someone's own folder of pictures: the feeder that the network shall know.

A feeder's owner has a few hundred frames, most of them empty, and one bird in most of the others.
That is enough to teach a trained network a place and its light, in particular what is no bird
there. The frames are used as photos, their empty ones as backgrounds, and their birds are cut out
and pasted like those of the packs.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from edgebird.camera.files import read_picture
from edgebird.errors import CameraError
from edgebird.structures import Image
from model_build.augment import Material
from model_build.datasets import Example, is_unseen_in_cub_2011, species_of
from model_build.labels import AS_FRACTIONS, Label, bird_names, natural_key, read_labels

# The runtime looks at two thirds of a frame's shorter side with 256 pixels: a bird is hardly ever
# shown to the network larger than this.
LONGEST_SIDE_PX = 800
VALIDATION_SHARE, LARGEST_VALIDATION_SHARE = 1 / 7, 0.4
_VALIDATION_FOLDERS = {"val", "valid", "validation", "test"}
_BLOCKS = 21
_RANDOM_NUMBER = re.compile(r"^[0-9a-f]{8}-")
_SMALLEST_BIRD_PX = 8
_SHOWN_PROBLEMS, _SHOWN_FOLDERS = 10, 5


@dataclass(frozen=True)
class OwnPictures:
    """A folder's pictures, split.

    Args:
        format: of their labels.
        train: to learn from.
        validation: to measure on, in full size and left in their files; of other clips than those
            learnt from.
        unlabelled: how many pictures have no label and are not used.
        problems: what could not be used, a line each.
    """

    format: str
    train: list[Example]
    validation: list[Example]
    unlabelled: int
    problems: list[str]

    @property
    def learnt(self) -> int:
        """A number that tells the pictures to learn from, by their names."""
        return zlib.crc32(os.fsencode("\n".join(example.name for example in self.train)))

    def __str__(self) -> str:
        """A summary in a few lines."""
        lines = [f"{self.format} labels"]
        for name, examples in (("to learn from", self.train), ("to measure on", self.validation)):
            birds = sum(len(e.fractions) for e in examples)
            empty = sum(not len(e.fractions) for e in examples)
            if examples:
                lines.append(f"{len(examples):6d} pictures {name}: {birds} birds, {empty} empty")
        if self.train and self.validation:
            lines[-1] += f" ({self._measured()})"
        if self.unlabelled:
            lines.append(
                f"{self.unlabelled:6d} pictures without a label are left out; if there is no bird "
                "in them, add --unlabelled-are-empty"
            )
        if self.problems:
            lines.append(f"{len(self.problems):6d} labels or pictures could not be used:")
            lines.extend(f"       {problem}" for problem in self.problems[:_SHOWN_PROBLEMS])
            if len(self.problems) > _SHOWN_PROBLEMS:
                lines.append("       ...")
        # a file's name may have bytes that are no text
        return "\n".join(lines).encode(errors="backslashreplace").decode()

    def _measured(self) -> str:
        """Which pictures are measured on, in a few words."""
        folders = list(dict.fromkeys(_folder_of(example) for example in self.validation))
        if not {_folder_of(example) for example in self.train}.isdisjoint(folders):
            return "runs of neighbours"
        shown, more = folders[:_SHOWN_FOLDERS], len(folders) - _SHOWN_FOLDERS
        return ", ".join(name or "." for name in shown) + (f" and {more} more" if more > 0 else "")


def load_own_pictures(
    folder: Path,
    birds: Sequence[str] = (),
    *,
    unlabelled_are_empty: bool = False,
    unseen: bool = False,
    usual: Sequence[str] = (),
) -> OwnPictures:
    """Read a folder of pictures with labels, see `labels`.

    Args:
        folder: with the pictures.
        birds: names in the labels that mean a bird; by default ``bird``, or the only one.
        unlabelled_are_empty: whether there is no bird in pictures without a label.
        unseen: whether no network learns from the folder, so that all of it is to measure on. (Of
            CUB-200-2011 only some species, see `datasets.is_unseen_in_cub_2011`.)
        usual: for ``unseen`` pictures, see `labels.bird_names`.

    Raises:
        ValueError: the labels cannot be read or used, or there are too few birds.
    """
    labels = read_labels(folder)
    problems = list(labels.problems)
    used = bird_names(
        sorted({name for label in labels.by_picture.values() for name in label.names}),
        birds,
        usual if unseen else None,
    )
    wanted = dict(labels.by_picture)
    if unlabelled_are_empty:
        wanted |= {path: Label(AS_FRACTIONS) for path in labels.unlabelled}

    def load(item: tuple[Path, Label]) -> Example | str:
        path, label = item
        try:
            picture = read_picture(path)
            fractions = _fractions(label, used, picture)
        except (CameraError, ValueError) as error:
            return f"{path}: {error}" if isinstance(error, ValueError) else str(error)
        name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
        return Example(name, b"" if unseen else _encoded(path, picture), fractions)

    ordered = [(path, wanted[path]) for path in _in_order(wanted)]
    with ThreadPoolExecutor() as pool:
        loaded = list(tqdm(pool.map(load, ordered), "reading pictures", len(ordered)))
    problems.extend(item for item in loaded if isinstance(item, str))
    examples = [item for item in loaded if isinstance(item, Example)]
    inside = [e.name.removeprefix(f"{folder.name}/") for e in examples]
    clips = [_folder_of(e) for e in examples]
    validation = set(range(len(examples))) if unseen else None
    if labels.format == "CUB-200-2011":
        # the same species as in the packs, which have pictures of this set
        validation = {
            i
            for i, e in enumerate(examples)
            if is_unseen_in_cub_2011(species_of(Path(e.name).stem))
        }
    if not unseen and (not validation or len(validation) == len(examples)):
        validation = split(clips, [len(e.fractions) > 0 for e in examples])
    details = f"; the first problem: {problems[0]}" if problems else ""
    if unseen and not validation:
        raise ValueError(f"{folder}: there is no picture to measure on{details}")
    if validation is None:
        with_birds = sum(len(e.fractions) > 0 for e in examples)
        raise ValueError(
            f"{folder}: {with_birds} usable pictures with birds are too few to learn from some and "
            f"measure on others{details}"
        )
    return OwnPictures(
        labels.format,
        [] if unseen else [e for i, e in enumerate(examples) if i not in validation],
        # not the smaller copy, since `edgebird detect` looks at the camera's pictures, too; and not
        # in memory, since many have no room there
        [replace(examples[i], encoded=b"", path=folder / inside[i]) for i in sorted(validation)],
        len(labels.unlabelled) * (not unlabelled_are_empty),
        problems,
    )


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Pictures in natural order, a clip's frames beside each other.

    Label Studio exports each with a random number before its name, which is left off where all of a
    folder have one. Numbers without a letter are no random ones, but dates.
    """
    by_folder: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    keys = {}
    for folder, inside in by_folder.items():
        exported = all(_RANDOM_NUMBER.match(path.name) for path in inside)
        dated = all(path.name[:8].isdecimal() for path in inside)
        for path in inside:
            name = _RANDOM_NUMBER.sub("", path.name) if exported and not dated else path.name
            keys[path] = natural_key(folder / name), natural_key(path)
    return sorted(keys, key=keys.__getitem__)


def _folder_of(example: Example) -> str:
    """Where a picture lies in the folder of all; empty where it lies in that itself."""
    return example.name.partition("/")[2].rpartition("/")[0]


def split(clips: Sequence[str], has_bird: Sequence[bool]) -> set[int] | None:
    """Which pictures are for validation: whole clips, since a clip's frames are nearly the same.

    A clip is a folder. Folders named ``val``, ``valid``, ``validation`` or ``test`` are for
    validation; else clips in the order of their names' checksums, until they have a seventh of the
    pictures. Where that cannot be, as with all pictures in one folder, each run of neighbouring
    pictures takes a clip's place.

    Args:
        clips: the folder of each picture, pictures in natural order.
        has_bird: of each picture.

    Returns:
        Indices of pictures, or None where not both parts would have birds.
    """
    named = {i for i, c in enumerate(clips) if _VALIDATION_FOLDERS & set(c.lower().split("/"))}
    if any(has_bird[i] for i in named) and any(b for i, b in enumerate(has_bird) if i not in named):
        return named
    length = math.ceil(len(clips) / _BLOCKS) if clips else 1
    blocks = [f"{clip} {i // length}" for i, clip in enumerate(clips)]
    return _whole_groups(clips, has_bird) or _whole_groups(blocks, has_bird)


def _whole_groups(groups: Sequence[str], has_bird: Sequence[bool]) -> set[int] | None:
    members: defaultdict[str, set[int]] = defaultdict(set)
    for i, group in enumerate(groups):
        members[group].add(i)
    birds = {i for i, bird in enumerate(has_bird) if bird}
    chosen: set[int] = set()
    for group in sorted(members, key=lambda name: zlib.crc32(os.fsencode(name))):
        if len(chosen) >= VALIDATION_SHARE * len(groups) and chosen & birds:
            break
        more = chosen | members[group]
        if len(more) <= LARGEST_VALIDATION_SHARE * len(groups) and birds - more:
            chosen = more
    return chosen if chosen & birds else None


def own_material(examples: Sequence[Example], cutouts: Sequence[bytes]) -> Material:
    """What scenes are composed of, from own pictures alone.

    Backgrounds are the empty pictures, or where there are none what is beside the birds; small
    pieces of them stand in for things that are no birds.

    Args:
        examples: to learn from.
        cutouts: their birds, from `cutouts.write_cutouts`.

    Raises:
        ValueError: there is no background, or the birds are too small.
    """
    birds = [e for e in examples if len(e.fractions)]
    empties = [e for e in examples if not len(e.fractions)]
    empties = empties or [beside for e in birds if (beside := _beside_birds(e)) is not None]
    if not empties:
        raise ValueError(
            "the birds fill their pictures, and without pictures that show none there is nothing "
            "to tell them from: add some empty ones"
        )
    if not cutouts:
        cutouts = [_encoded_png(rgba) for e in birds for rgba in _rough_cutouts(e)]
    if not cutouts:
        raise ValueError(
            f"no bird is larger than {_SMALLEST_BIRD_PX} of {LONGEST_SIDE_PX} pixels: too small to "
            "learn from"
        )
    rng = np.random.default_rng(0)
    pieces = [_piece(rng, empties[int(rng.integers(len(empties)))], i) for i in range(200)]
    return Material(birds, empties, cutouts, [], pieces)


def mixed(own: Material, packs: Material) -> Material:
    """Own pictures and those of the packs, as often the ones as the others: of which there are
    fewer, those are repeated.
    """

    def half(one: Sequence, other: Sequence) -> list:
        few, many = sorted((one, other), key=len)
        return [*few] * round(len(many) / max(1, len(few))) + [*many]

    return replace(
        packs,
        birds=half(own.birds, packs.birds),
        empties=half(own.empties, packs.empties),
        cutouts=half(own.cutouts, packs.cutouts),
        distractors=half(own.distractors, packs.distractors),
    )


def _fractions(label: Label, birds: set[str], picture: Image) -> np.ndarray:
    """The birds' boxes as fractions of the picture.

    Raises:
        ValueError: the label was made for a picture of another shape, or a box lies outside.
    """
    height, width = picture.shape[:2]
    if label.size not in (None, AS_FRACTIONS):
        # Scaled copies are fine, turned ones are not.
        aspect = label.size[0] / label.size[1]
        if not 0.97 < aspect / (width / height) < 1.03:
            w, h = label.size
            raise ValueError(
                f"its label is for {w:.0f} x {h:.0f} pixels, the picture has {width} x {height}"
            )
    if birds & set(label.crowds):
        raise ValueError("its label has a crowd of birds, and no box for each")
    boxes = [box for box, name in zip(label.xyxy, label.names, strict=True) if name in birds]
    scale = np.array((label.size or (width, height)) * 2, np.float32)
    fractions = (np.array(boxes, np.float32).reshape(-1, 4) / scale).clip(0, 1)
    if (fractions[:, 2:] <= fractions[:, :2]).any():
        raise ValueError("a box of its label lies outside of the picture")
    return fractions


def _encoded(path: Path, picture: Image) -> bytes:
    """The picture's file, or where it is large a smaller copy."""
    scale = LONGEST_SIDE_PX / max(picture.shape[:2])
    if scale >= 1:
        return path.read_bytes()
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    return cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def _beside_birds(example: Example) -> Example | None:
    """The largest strip of a picture beside its birds; None where all are narrow."""
    picture = example.picture()
    height, width = picture.shape[:2]
    boxes = example.boxes(width, height)
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    strips = [
        picture[:, : int(left)],
        picture[:, math.ceil(right) :],
        picture[: int(top)],
        picture[math.ceil(bottom) :],
    ]
    strip = max(strips, key=lambda s: min(s.shape[:2]))
    if min(strip.shape[:2]) < 32:
        return None
    none = np.zeros((0, 4), np.float32)
    return Example(f"{example.name}/beside", _encoded_png(strip), none)


def _piece(rng: np.random.Generator, example: Example, number: int) -> Example:
    """A small square out of a picture."""
    picture = example.picture()
    side = min(int(rng.integers(32, 128)), *picture.shape[:2])
    top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
    piece = picture[top : top + side, left : left + side]
    return Example(f"{example.name}/piece{number}", _encoded_png(piece), np.zeros((0, 4), "f4"))


def _rough_cutouts(example: Example) -> list[np.ndarray]:
    """The birds as soft ovals, RGBA, for pictures in which none has a clear outline."""
    picture = example.picture()
    cutouts = []
    for box in example.boxes(picture.shape[1], picture.shape[0]).round().astype(int):
        part = picture[box[1] : box[3], box[0] : box[2]]
        height, width = part.shape[:2]
        if min(height, width) < _SMALLEST_BIRD_PX:
            continue
        alpha = np.zeros((height, width), np.uint8)
        middle = (width // 2, height // 2)
        cv2.ellipse(alpha, middle, (int(width * 0.45), int(height * 0.45)), 0, 0, 360, 255, -1)
        cutouts.append(np.dstack([part, cv2.GaussianBlur(alpha, (0, 0), 0.04 * width + 0.5)]))
    return cutouts


def _encoded_png(picture: np.ndarray) -> bytes:
    """PNG of an RGB or RGBA picture."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    return cv2.imencode(".png", np.ascontiguousarray(picture[..., order]))[1].tobytes()
