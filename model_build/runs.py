"""What a training run is made from, kept in its folder so that the later steps need no telling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgebird.model import TrainingData, load_model
from model_build.augment import Material
from model_build.checkpoint import OTHER_PICTURES
from model_build.cutouts import are_cut_out_of, read_cutouts, write_cutouts
from model_build.datasets import Example, Packs, load_packs
from model_build.own_pictures import OwnPictures, load_own_pictures, mixed, own_material
from model_build.whole_files import replacing

RECORD = "run.json"
# How many times more often than other bird-free pictures the hard ones are shown.
_HARD_AGAIN = 3

PACKS_DATA = [
    TrainingData("CUB-200-2011 (42 species), boxes", "research, non-commercial"),
    TrainingData("CUB-200 (2010), cropped birds", "research, non-commercial"),
    TrainingData("web photos of 48 Singapore species", "terms unclear"),
    TrainingData("Pascal VOC 2007, bird-free photos", "Flickr terms"),
    TrainingData("COCO train2017, first 128 photos", "Flickr terms"),
    TrainingData("ImageNet samples and Tiny-ImageNet, no birds", "ImageNet terms, research"),
]


def trunk_data(trunk: str) -> TrainingData:
    """What one of `trunk.TRUNKS` was trained with before."""
    name = f"EfficientNet-{trunk.capitalize()} trunk trained on ImageNet"
    return TrainingData(name, "Apache-2.0")


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run is made from.

    Args:
        data: folder made by ``gather``, or of own pictures.
        packs: folder made by ``gather`` whose pictures are mixed with own ones.
        birds: names in own labels that mean a bird.
        unlabelled_are_empty: whether own pictures without a label show no bird.
        trunk: which of `trunk.TRUNKS` the network has.
        narrowed: how narrow it is, see `trunk.Trunk`.
        size_px: side of the pictures trained with.
        hard_negatives: file that names bird-free pictures which a model took for birds.
        threshold: of the model that the training started from, see `validation`.
        training_data: all that went into the weights.
        learnt: `OwnPictures.learnt`; None for the packs alone, and in runs of earlier versions.
    """

    data: str
    packs: str | None = None
    birds: list[str] = []
    unlabelled_are_empty: bool = False
    trunk: str = "lite0"
    narrowed: tuple[int, ...] = ()
    size_px: int = 256
    hard_negatives: str | None = None
    threshold: float | None = None
    training_data: list[TrainingData] = msgspec.field(
        default_factory=lambda: [*PACKS_DATA, trunk_data("lite0")]
    )
    learnt: int | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is about own pictures, and not the packs alone."""
        return not is_gathered(Path(self.data))

    def write(self, run: Path) -> None:
        """Keep it in the run's folder.

        Raises:
            OutputError: it cannot be written.
        """
        run.mkdir(parents=True, exist_ok=True)
        path, partial = run / RECORD, run / f"{RECORD}.partial"
        with replacing(path, partial):
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @staticmethod
    def read(run: Path) -> Origin:
        """That of a run.

        Raises:
            ValueError: the record is damaged.
        """
        path = run / RECORD
        if not path.exists():
            return Origin(data="data")
        try:
            return msgspec.json.decode(path.read_bytes(), type=Origin)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path} is not valid: {error}") from error


def is_gathered(data: Path) -> bool:
    """Whether a folder was made by ``gather``."""
    return (data / "packs").exists()


def origin_of(
    data: Path,
    *,
    packs: Path,
    birds: Sequence[str],
    unlabelled_are_empty: bool,
    trunk: str,
    size_px: int | None,
    hard_negatives: Path | None = None,
    start_from: Path | None,
) -> Origin:
    """The origin of a new run.

    Args:
        data: folder made by ``gather``, or of own pictures.
        packs: folder made by ``gather``, to be mixed with own pictures where it is there.
        birds: names in own labels that mean a bird.
        unlabelled_are_empty: see `Origin`.
        trunk: which of `trunk.TRUNKS` the network has.
        size_px: side of the pictures trained with; None for that of the model to start from.
        hard_negatives: see `Origin`.
        start_from: a model with its card, or weights, perhaps in the folder of their run.

    Raises:
        ModelError: the model to start from does not fit its card.
        ValueError: it is none of a detector.
    """
    own = not is_gathered(data)
    mixed_in = own and is_gathered(packs)
    start = _Start((), None, None, [trunk_data(trunk)])
    if start_from is not None:
        start = _start_of(start_from) or start
    everything = [
        *([] if own else PACKS_DATA),
        *start.training_data,
        *(PACKS_DATA if mixed_in else []),
        *([TrainingData(f"own pictures: {data.resolve().name}", "their owner's")] if own else []),
    ]
    return Origin(
        data=str(data.resolve()),
        packs=str(packs.resolve()) if mixed_in else None,
        birds=list(birds) if own else [],
        unlabelled_are_empty=own and unlabelled_are_empty,
        trunk=trunk,
        narrowed=start.narrowed,
        size_px=size_px or start.size_px or 256,
        hard_negatives=None if hard_negatives is None else str(hard_negatives.resolve()),
        threshold=start.threshold if own else None,
        training_data=list({d.name: d for d in everything}.values()),
    )


class _Start(NamedTuple):
    """What is known of weights to start from, see `Origin`."""

    narrowed: tuple[int, ...]
    size_px: int | None
    threshold: float | None
    training_data: list[TrainingData]


def _start_of(weights: Path) -> _Start | None:
    """What a model's card says, or for float weights their run's folder; None without either.

    A run's threshold is the one chosen for its int8 model, where that was measured.
    """
    if weights.suffix == ".tflite":
        from model_build.start_weights import channels_left  # takes TensorFlow

        card = load_model(weights, "detector").card
        narrowed = tuple(channels_left(weights))
        return _Start(narrowed, card.input_size_px[0], card.threshold, card.training_data)
    run, int8 = weights.parent, weights.with_name("bird_detector.tflite")
    if not (run / RECORD).exists():
        return None
    origin, threshold = Origin.read(run), None
    if int8.exists():
        card = load_model(int8, "detector").card
        threshold = card.threshold if card.metrics else None
    return _Start(
        origin.narrowed, origin.size_px, threshold or origin.threshold, origin.training_data
    )


@dataclass(frozen=True)
class Gathered:
    """The packs with what was cut out of them."""

    packs: Packs
    material: Material
    cutouts_validation: list[bytes]
    objects_validation: list[bytes]


def load_gathered(data: Path) -> Gathered:
    """Read what ``gather`` made.

    Raises:
        FileNotFoundError: something is missing.
        ValueError: a pack is not what it should be.
    """
    packs = load_packs(data / "packs")
    names = ("cutouts_train", "cutouts_validation", "objects_train", "objects_validation")
    cutouts = {name: read_cutouts(data / f"{name}.zip") for name in names}
    material = Material(
        birds=[e for e in packs.boxed_train if len(e.fractions)],
        empties=[e for e in packs.boxed_train if not len(e.fractions)],
        cutouts=cutouts["cutouts_train"],
        objects=cutouts["objects_train"],
        distractors=packs.distractors_train,
    )
    return Gathered(packs, material, cutouts["cutouts_validation"], cutouts["objects_validation"])


@dataclass(frozen=True)
class Sources:
    """The pictures of a run: to train with, and to measure on."""

    material: Material
    own: OwnPictures | None
    gathered: Gathered | None


def write_hard_negatives(path: Path, examples: Sequence[Example]) -> None:
    """Write down which pictures are hard: a name a line."""
    lines = "".join(f"{example.name}\n" for example in examples)
    path.write_text(lines, encoding="utf-8", errors="surrogateescape")


def read_hard_negatives(path: Path, empties: Sequence[Example]) -> list[Example]:
    """The bird-free pictures that a file names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: none of the pictures is among ``empties``.
    """
    names = set(path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"))
    hard = [example for example in empties if example.name in names]
    if not hard:
        raise ValueError(f"{path} names none of the bird-free training pictures")
    return hard


def load_sources(origin: Origin, run: Path, say: Callable[[str], None]) -> Sources:
    """Read the pictures of a run. Birds cut out of own ones are kept in the run's folder.

    Args:
        origin: of the run.
        run: its folder.
        say: told what own pictures there are.

    Raises:
        FileNotFoundError: the packs are incomplete.
        ValueError: pictures or labels cannot be used, or the run learnt from others of the folder,
            so that those to measure on now may be among them.
        OutputError: what was cut out cannot be written.
    """
    if not origin.is_own:
        gathered = load_gathered(Path(origin.data))
        return Sources(_with_hard_ones(gathered.material, origin), None, gathered)
    own = load_own_pictures(
        Path(origin.data), origin.birds, unlabelled_are_empty=origin.unlabelled_are_empty
    )
    if origin.learnt not in (None, own.learnt):
        raise ValueError(f"{run / RECORD} {OTHER_PICTURES}")
    say(str(own))
    cutouts = run / "cutouts.zip"
    if not are_cut_out_of(own.train, cutouts):
        run.mkdir(parents=True, exist_ok=True)
        write_cutouts(own.train, [], cutouts)
    material = own_material(own.train, read_cutouts(cutouts))
    gathered = None
    if origin.packs is not None:
        gathered = load_gathered(Path(origin.packs))
        material = mixed(material, gathered.material)
    return Sources(_with_hard_ones(material, origin), own, gathered)


def load_unseen(
    origin: Origin, folder: Path, say: Callable[[str], None], birds: Sequence[str] = ()
) -> tuple[list[Example], Gathered | None]:
    """Read pictures that a run has nothing to do with, to measure on all of them.

    Args:
        origin: of the run.
        folder: with the pictures and their labels.
        say: told what there is.
        birds: names in its labels that mean a bird, in place of the run's.

    Returns:
        The pictures, and the packs where those were mixed with the run's own pictures.

    Raises:
        FileNotFoundError: the packs are incomplete.
        ValueError: pictures or labels cannot be used, or the run may have learnt from them.
    """
    learnt, other = Path(origin.data).resolve(), folder.resolve()
    if origin.is_own and (learnt in other.parents or other in learnt.parents):
        raise ValueError(
            f"{folder} and {learnt}, which was trained with, have pictures in common: what a "
            "network has learnt says little about it; without --data it is measured on those of "
            "its own folder that were kept for that"
        )
    own = load_own_pictures(
        folder,
        birds,
        unlabelled_are_empty=origin.unlabelled_are_empty,
        unseen=True,
        usual=origin.birds,
    )
    say(str(own))
    gathered = None if origin.packs is None else load_gathered(Path(origin.packs))
    return own.validation, gathered


def _with_hard_ones(material: Material, origin: Origin) -> Material:
    """With the hard negatives of an origin, if any, more often."""
    if origin.hard_negatives is None:
        return material
    hard = read_hard_negatives(Path(origin.hard_negatives), material.empties)
    return replace(material, empties=[*material.empties, *hard * _HARD_AGAIN])
