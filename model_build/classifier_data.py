"""Bird or not: the classifier's pictures and their split.

Three parts that share no picture, and for CUB no species either between the first two and the last:

- **training**;
- **calibration**: taken off the training pictures, mixed much like the hold-out; what the
  network's confidence is set by;
- **hold-out**: 15,000 pictures, the 10,000 official CIFAR-10 test pictures and 5,000 more, CUB
  birds and other things in the proportion of the article this project comes from (18,000 birds to
  52,000 others).

The hold-out takes in the validation pictures of `datasets`, so that the classifier has seen none of
the pictures that its second look is judged on.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from model_build.augment import Material
from model_build.cutouts import read_named_cutouts
from model_build.datasets import (
    PICTURE_SUFFIXES,
    Example,
    Packs,
    load_packs,
    load_unboxed,
    read_files,
    species_in,
    species_of,
    split_key,
)

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
BIRD_SHARE = 18_000 / 70_000
# Beside CIFAR-10's own test part.
HOLDOUT_EXTRA, CALIBRATION_EXTRA = 5000, 1500
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Labelled:
    """A picture and what it shows.

    Args:
        example: the picture.
        bird: whether it shows one.
        kind: what it is for the report (``airplane``, ``CUB``).
        concept: the class that its set gives it (``airplane``, ``n02123045``), empty without one.
    """

    example: Example
    bird: bool
    kind: str
    concept: str = ""

    def picture(self) -> np.ndarray:
        """The decoded picture, uint8 (H, W, 3), RGB, without black padding."""
        return without_padding(self.example.picture())


@dataclass(frozen=True)
class TrainingPictures:
    """What the classifier learns from.

    Args:
        cifar_birds: 32 px.
        cifar_others: 32 px.
        birds: cropped around one bird, larger.
        others: pictures of one other thing, larger.
        photos: whole photos with all their birds' boxes, for crops like those of a window.
        material: for the detector's composed scenes, where birds are small and dark.
    """

    cifar_birds: Sequence[Labelled]
    cifar_others: Sequence[Labelled]
    birds: Sequence[Labelled]
    others: Sequence[Labelled]
    photos: Sequence[Example]
    material: Material

    @property
    def concepts(self) -> list[str]:
        """All classes that the sets tell apart, in order."""
        pools = (self.cifar_birds, self.cifar_others, self.birds, self.others)
        return sorted({p.concept for pool in pools for p in pool if p.concept})


@dataclass(frozen=True)
class ClassifierData:
    """The three parts; see the module."""

    training: TrainingPictures
    calibration: list[Labelled]
    holdout: list[Labelled]


def is_held_out(key: str) -> bool:
    """Whether pictures of this key (a species or a file stem) are never trained on.

    Twice as many as `datasets.is_validation` says, and those among them: the hold-out is larger.
    """
    return zlib.crc32(key.encode()) % 7 in (3, 5)


def is_for_calibration(name: str) -> bool:
    """Whether a training picture is set aside for the calibration: one in ten."""
    return zlib.crc32(f"calibration {name}".encode()) % 10 == 0


def without_padding(picture: np.ndarray) -> np.ndarray:
    """The picture without black bars at its borders: only bird crops have them, so that a network
    could learn "black bar means bird". A picture that is black as a whole stays as it is.
    """
    bright = picture.max(axis=2) > 12
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return picture
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def read_cifar10(pack: Path) -> dict[str, list[Labelled]]:
    """CIFAR-10 from a ``.tar.xz`` or a folder with ``train/<class>/`` and ``test/<class>/``.

    Returns:
        The pictures of ``train`` and of ``test``.

    Raises:
        FileNotFoundError: there is no such pack.
        ValueError: a class is missing.
    """
    parts: dict[str, list[Labelled]] = {"train": [], "test": []}
    for name, encoded in _files(pack):
        part, kind, file = PurePosixPath(name).parts[-3:]
        example = Example(f"cifar10/{part}/{kind}-{PurePosixPath(file).stem}", encoded, _NO_BOXES)
        parts[part].append(Labelled(example, kind == "bird", kind, kind))
    for part, pictures in parts.items():
        if missing := set(CIFAR_CLASSES) - {p.kind for p in pictures}:
            raise ValueError(f"{pack} has no {part} pictures of {', '.join(sorted(missing))}")
    return parts


def _files(pack: Path) -> Iterator[tuple[str, bytes]]:
    if pack.is_dir():
        yield from read_files(pack, lambda p: p.suffix in PICTURE_SUFFIXES)
        return
    with tarfile.open(pack) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".jpg"):
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def load_classifier_data(data: Path) -> ClassifierData:
    """Everything from the folder that ``gather`` made; CIFAR-10 may come from ``fetch``.

    Raises:
        FileNotFoundError: a pack or the cut-outs are missing.
        ValueError: a pack is not what it should be, or too small for the hold-out.
    """
    folder = data / "packs"
    fetched = data / "cifar10"
    cifar = read_cifar10(fetched if fetched.exists() else _pack(folder, "cifar10_jpg", ".tar.xz"))
    crops = load_unboxed(_pack(folder, "cub200_2010_crops"))
    cub = [Labelled(e, True, "CUB") for e in crops]
    tiny = _tiny_imagenet(_pack(folder, "tiny_imagenet_subset"))
    things = [
        Labelled(e, False, "ImageNet")
        for e in load_unboxed(_pack(folder, "imagenet_samples"), under="other/")
    ]
    web = [
        Labelled(e, True, "ImageNet")
        for e in load_unboxed(_pack(folder, "imagenet_samples"), under="birds/")
    ]

    # Photos and crops are of two editions, which write some species differently.
    packs = load_packs(folder)
    photos = [*packs.boxed_train, *packs.boxed_validation]
    seen = species_in(e for e in photos if not is_held_out(_key(e)))
    unseen = species_in(e for e in photos if is_held_out(_key(e)))

    def is_never_seen(example: Example) -> bool:
        key = _key(example)
        return is_held_out(key) and key.lower() not in seen

    def may_be_seen(example: Example) -> bool:
        key = _key(example)
        return not is_held_out(key) and key.lower() not in unseen

    def held_out(pictures: Iterable[Labelled]) -> list[Labelled]:
        return [p for p in pictures if is_never_seen(p.example)]

    def trained(pictures: Iterable[Labelled]) -> list[Labelled]:
        return [p for p in pictures if may_be_seen(p.example)]

    others = [*(p for p in tiny if not p.bird), *things]
    birds = [*cub, *(p for p in tiny if p.bird), *web]
    calibration = [p for p in cifar["train"] if is_for_calibration(p.example.name)]
    set_aside = [p for p in trained([*birds, *others]) if is_for_calibration(p.example.name)]
    cub_aside = [p for p in set_aside if p.kind == "CUB"]
    others_aside = [p for p in set_aside if not p.bird]
    calibration += choose_in_proportion(cub_aside, others_aside, CALIBRATION_EXTRA)
    holdout = cifar["test"] + choose_in_proportion(held_out(cub), held_out(others), HOLDOUT_EXTRA)

    def learned(pictures: Iterable[Labelled]) -> list[Labelled]:
        return [p for p in trained(pictures) if not is_for_calibration(p.example.name)]

    cifar_train = [p for p in cifar["train"] if not is_for_calibration(p.example.name)]
    set_aside_names = {p.example.name for p in calibration}
    material = _material(data, packs, lambda e: may_be_seen(e) and e.name not in set_aside_names)
    training = TrainingPictures(
        cifar_birds=[p for p in cifar_train if p.bird],
        cifar_others=[p for p in cifar_train if not p.bird],
        birds=learned(birds),
        others=learned(others),
        photos=[*material.birds, *material.empties],
        material=material,
    )
    return ClassifierData(training, calibration, holdout)


def _pack(folder: Path, name: str, suffix: str = ".zip") -> Path:
    for path in (folder / name, folder / f"{name}{suffix}"):
        if path.exists():
            return path
    raise FileNotFoundError(f"no pack {folder / name}{suffix}")


def _key(example: Example) -> str:
    if example.name.startswith("cub200_2010_crops/"):
        return species_of(example.stem)
    return split_key(example.stem)


def _tiny_imagenet(pack: Path) -> list[Labelled]:
    files = dict(read_files(pack, lambda p: True))
    rows = (line.split("\t") for line in files["classes.tsv"].decode().splitlines())
    is_bird = {row[0]: row[2] == "1" for row in rows}
    pictures = []
    for name, encoded in files.items():
        path = PurePosixPath(name)
        if len(path.parts) > 1 and path.parts[-2] in is_bird:
            example = Example(f"{pack.stem}/{path.stem}", encoded, _NO_BOXES)
            concept = path.parts[-2]
            pictures.append(Labelled(example, is_bird[concept], "Tiny-ImageNet", concept))
    return pictures


def choose_in_proportion(
    birds: Sequence[Labelled], others: Sequence[Labelled], total: int
) -> list[Labelled]:
    """``total`` pictures with a share of birds of `BIRD_SHARE`; always the same."""
    wanted_birds = round(total * BIRD_SHARE)
    chosen = []
    for pool, wanted in ((birds, wanted_birds), (others, total - wanted_birds)):
        if len(pool) < wanted:
            kind = "birds" if pool is birds else "other pictures"
            raise ValueError(f"{len(pool)} {kind} set aside, {wanted} are needed: a pack is short")
        # The checksum's order is as good as chance and does not change with the number of pictures.
        by_chance = sorted(pool, key=lambda p: zlib.crc32(f"chosen {p.example.name}".encode()))
        chosen += by_chance[:wanted]
    return chosen


def _material(data: Path, packs: Packs, is_learned: Callable[[Example], bool]) -> Material:
    """What the detector's scenes are composed of, without anything that is held out.

    Args:
        data: folder made by ``gather``.
        packs: its packs.
        is_learned: whether a picture, or what was cut out of it, may be seen in training.
    """

    def cutouts(path: Path) -> list[bytes]:
        return [
            encoded
            for name, encoded in read_named_cutouts(path)
            if is_learned(Example(name.rsplit("_", 1)[0], b"", _NO_BOXES))
        ]

    photos = [e for e in packs.boxed_train if is_learned(e)]
    return Material(
        birds=[e for e in photos if len(e.fractions)],
        empties=[e for e in photos if not len(e.fractions)],
        cutouts=cutouts(data / "cutouts_train.zip"),
        objects=cutouts(data / "objects_train.zip"),
        distractors=[e for e in packs.distractors_train if is_learned(e)],
    )
