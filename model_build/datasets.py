"""Pictures with boxes, from zip files or folders, and the split that everyone uses.

A pack is a zip file or a folder. Boxes stand in YOLO text files (``labels/`` beside ``images/``):
a line per box, class, centre x, centre y, width, height as fractions. Class 0 is a bird; an empty
file says that there is none. Pictures stay compressed in memory and are decoded when used.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png"}
# The validation species of CUB-200-2011 that CUB-200 (2010) writes in another way (without capitals
# after a hyphen), so that `load_packs` has crops of them among those to learn from.
_LEARNT_FROM_CROPS = {
    "American_Three_Toed_Woodpecker",
    "Black_Throated_Blue_Warbler",
    "Blue_Winged_Warbler",
    "Red_Bellied_Woodpecker",
    "Red_Breasted_Merganser",
    "Red_Legged_Kittiwake",
    "White_Throated_Sparrow",
}


@dataclass(frozen=True)
class Example:
    """One labelled picture.

    Args:
        name: ``<pack>/<file stem>``, unique.
        encoded: the compressed picture; empty if it stays in its file.
        fractions: float32 (N, 4), xyxy of the birds as fractions of width and height.
        path: of that file, which is read whenever the picture is asked for.
    """

    name: str
    encoded: bytes
    fractions: np.ndarray
    path: Path | None = None

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.name.rsplit("/", 1)[1]

    def picture(self) -> np.ndarray:
        """The decoded picture, uint8 (H, W, 3), RGB.

        Raises:
            ValueError: it cannot be decoded.
            OSError: its file cannot be read.
        """
        encoded = self.encoded if self.path is None else self.path.read_bytes()
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError(f"{self.name} is not a picture")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def boxes(self, width: int, height: int) -> np.ndarray:
        """The birds' boxes, float32 (N, 4), xyxy in pixels."""
        return self.fractions * np.array([width, height, width, height], np.float32)


def is_validation(key: str) -> bool:
    """Whether pictures of this key (a species or a file stem) are validation pictures."""
    return zlib.crc32(key.encode()) % 7 == 3


def split_key(stem: str) -> str:
    """What decides a picture's split: its species for ``cub_*`` pictures, else its stem."""
    if stem.startswith("cub_"):
        return species_of(stem.removeprefix("cub_"))
    return stem


def species_of(cub_stem: str) -> str:
    """``Acadian_Flycatcher_0025_42032`` -> ``Acadian_Flycatcher``."""
    return cub_stem.rsplit("_", 2)[0]


def species_in(examples: Iterable[Example]) -> set[str]:
    """The species that ``cub_*`` pictures among these show, in small letters: the two CUB editions
    write some differently (``Olive_Sided_Flycatcher``, ``Olive_sided_Flycatcher``).
    """
    return {split_key(e.stem).lower() for e in examples if e.stem.startswith("cub_")}


def is_unseen_in_cub_2011(species: str) -> bool:
    """Whether pictures of this species, as CUB-200-2011 writes it, can be measured on: no network
    that learnt from the packs has seen it.
    """
    return is_validation(species) and species not in _LEARNT_FROM_CROPS


def read_files(pack: Path, keep: Callable[[PurePosixPath], bool]) -> Iterator[tuple[str, bytes]]:
    """Names (inside the pack) and contents of a zip's or a folder's files, in name order."""
    if pack.is_dir():
        for path in sorted(p for p in pack.rglob("*") if p.is_file()):
            name = path.relative_to(pack).as_posix()
            if keep(PurePosixPath(name)):
                yield name, path.read_bytes()
        return
    with zipfile.ZipFile(pack) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/") and keep(PurePosixPath(name)):
                yield name, archive.read(name)


def yolo_boxes(text: str) -> np.ndarray:
    """Boxes of class 0 in a YOLO label file, float32 (N, 4), xyxy as fractions."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    birds = np.array([r[1:5] for r in rows if int(r[0]) == 0], np.float32).reshape(-1, 4)
    centre, half = birds[:, :2], birds[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1).clip(0, 1)


def load_boxed(pack: Path) -> list[Example]:
    """The pictures of a pack in YOLO layout that have a label file.

    Raises:
        FileNotFoundError: there is no such pack.
        ValueError: it holds no labelled picture.
    """
    if not pack.exists():
        raise FileNotFoundError(f"no pack {pack}")
    files = dict(read_files(pack, lambda p: p.suffix.lower() in {*PICTURE_SUFFIXES, ".txt"}))
    examples = []
    for name, encoded in files.items():
        path = PurePosixPath(name)
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        label = str(path.with_suffix(".txt")).replace("images/", "labels/", 1)
        if label in files:
            fractions = yolo_boxes(files[label].decode())
            examples.append(Example(f"{pack.stem}/{path.stem}", encoded, fractions))
    if not examples:
        raise ValueError(f"{pack} holds no picture with a label file")
    return examples


def load_unboxed(pack: Path, under: str = "") -> list[Example]:
    """The pictures of a pack that has no boxes, those whose path starts with ``under``."""
    if not pack.exists():
        raise FileNotFoundError(f"no pack {pack}")
    none = np.zeros((0, 4), np.float32)
    return [
        Example(f"{pack.stem}/{PurePosixPath(name).stem}", encoded, none)
        for name, encoded in read_files(
            pack,
            lambda p: p.suffix.lower() in PICTURE_SUFFIXES and str(p).startswith(under),
        )
    ]


def tiny_imagenet_others(pack: Path) -> list[Example]:
    """The Tiny-ImageNet pictures (64 px) of the classes that are not birds."""
    files = dict(read_files(pack, lambda p: True))
    rows = (line.split("\t") for line in files["classes.tsv"].decode().splitlines())
    others = {row[0] for row in rows if row[2] == "0"}
    none = np.zeros((0, 4), np.float32)
    examples = []
    for name, encoded in files.items():
        path = PurePosixPath(name)
        if path.suffix.lower() in PICTURE_SUFFIXES and path.parts[-2] in others:
            examples.append(Example(f"{pack.stem}/{path.stem}", encoded, none))
    return examples


@dataclass(frozen=True)
class Packs:
    """All the pictures, split. See the data's own README for what each pack is.

    Args:
        boxed: photos with boxes or known to be bird-free.
        crops: photos cropped around one bird, without a box.
        distractors: small pictures of things that are no birds.
        nestbox: a real camera's frames, for validation only.
    """

    boxed_train: list[Example]
    boxed_validation: list[Example]
    crops_train: list[Example]
    distractors_train: list[Example]
    distractors_validation: list[Example]
    nestbox: list[Example]


def objects_of(boxed: Iterable[Example], distractors: Iterable[Example]) -> list[Example]:
    """The pictures that show one thing each, which is no bird: ImageNet's and Tiny-ImageNet's."""
    return [*(e for e in boxed if e.name.startswith("imagenet_samples/")), *distractors]


def load_packs(folder: Path) -> Packs:
    """Read all packs from a folder that holds them as zip files or folders.

    Crops of species that are validation species are left out, in either edition's spelling: the
    two CUB editions overlap.

    Raises:
        FileNotFoundError: a pack is missing.
    """

    def pack(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else folder / f"{name}.zip"

    boxed = [
        *load_boxed(pack("bird_boxes")),
        *load_boxed(pack("coco_train128")),
        *load_unboxed(pack("imagenet_samples"), under="other/"),
    ]
    validation = [e for e in boxed if is_validation(split_key(e.stem))]
    unseen = species_in(validation)
    crops = load_unboxed(pack("cub200_2010_crops"))
    distractors = tiny_imagenet_others(pack("tiny_imagenet_subset"))
    return Packs(
        boxed_train=[e for e in boxed if not is_validation(split_key(e.stem))],
        boxed_validation=validation,
        crops_train=[
            e
            for e in crops
            if not is_validation(species := species_of(e.stem)) and species.lower() not in unseen
        ],
        distractors_train=[e for e in distractors if not is_validation(e.stem)],
        distractors_validation=[e for e in distractors if is_validation(e.stem)],
        nestbox=load_boxed(pack("nestbox_pi_camera")),
    )
