"""The classifier's training pictures: each a pure function of a seed and its number.

At use the classifier sees whole pictures as small as 32 px and crops of 20 to 300 px around what
the detector or a sliding window points at: in poor light, badly centred, half hidden. `FeederMix`
is made for that. `ArticleMix` is what the article does: the packs' pictures as they are, mirrored,
turned by up to 25 degrees and blurred with a sigma of up to 3 pixels, each now and then; and, which
the article does not, every other one a little closer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from edgebird.classify import fit_to_input
from edgebird.detector.merge import pairwise_overlap
from model_build.augment import camera_effects, pick, training_scene
from model_build.classifier_data import Labelled, TrainingPictures

BIRD, OTHER = 1, 0
# A crop counts as a bird's if its side is between these multiples of the bird's longer side, ...
_TIGHTEST, _WIDEST = 0.8, 1.9
# ... and as background if it shows less than this share of any bird.
_SHOWN_SHARE = 0.12
_SCENE_PX = 256


class Lesson(NamedTuple):
    """A training picture, uint8 (H, W, 3), `BIRD` or `OTHER`, and its set's class, if any."""

    picture: np.ndarray
    label: int
    concept: str = ""


class ArticleMix:
    """The article's pictures and augmentation, ``size_px`` square.

    Args:
        pictures: of which only CIFAR-10 and the packs of single things are used.
        size_px: side of the pictures.
        seed: another seed, other pictures.
    """

    # Of birds among the pictures shown, and of CIFAR-10's among both.
    bird_share, cifar_share = 0.3, 0.7

    def __init__(self, pictures: TrainingPictures, size_px: int, seed: int) -> None:
        self._pictures, self._size_px, self._seed = pictures, size_px, seed
        self._shrunk: dict[str, np.ndarray] = {}

    def __call__(self, number: int) -> Lesson:
        """Picture ``number``."""
        rng = np.random.default_rng([self._seed, number])
        label = BIRD if rng.random() < self.bird_share else OTHER
        source = self._pictures
        if rng.random() < self.cifar_share:
            pool = source.cifar_birds if label == BIRD else source.cifar_others
        else:
            pool = source.birds if label == BIRD else source.others
        labelled = pick(rng, pool)
        picture = self._at_size(labelled)
        if rng.random() < 0.5:
            part = _cropped(rng, picture, 0.75)
            picture = fit_to_input(part, (self._size_px, self._size_px))
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        if rng.random() < 0.3:
            picture = turned(picture, rng.uniform(-25, 25))
        if rng.random() < 0.15:
            picture = cv2.GaussianBlur(np.ascontiguousarray(picture), (0, 0), rng.uniform(0.01, 3))
        return Lesson(np.ascontiguousarray(picture), label, labelled.concept)

    def _at_size(self, labelled: Labelled) -> np.ndarray:
        picture = self._shrunk.get(labelled.example.name)
        if picture is None:
            picture = fit_to_input(labelled.picture(), (self._size_px, self._size_px))
            self._shrunk[labelled.example.name] = picture
        return picture


class FeederMix:
    """Pictures as the runtime meets them, ``size_px`` square.

    Args:
        pictures: to make them of.
        size_px: side of the pictures.
        seed: another seed, other pictures.
        windows: with windows of photos and of composed scenes, not of single things only.
    """

    def __init__(
        self, pictures: TrainingPictures, size_px: int, seed: int, *, windows: bool = True
    ) -> None:
        self._pictures, self._size_px, self._seed = pictures, size_px, seed
        # The shares: hard ones (CIFAR-10's blurred planes and birds) get most. A third are birds.
        single: list[tuple[float, Callable[[Generator], Lesson]]] = [
            (0.19, lambda rng: self._cifar(rng, BIRD)),
            (0.48, lambda rng: self._cifar(rng, OTHER)),
            (0.07, lambda rng: self._single(rng, BIRD)),
            (0.13, lambda rng: self._single(rng, OTHER)),
        ]
        seen = [(0.06, self._window), (0.07, self._scene_window)] if windows else []
        self._sources = single + seen

    def __call__(self, number: int) -> Lesson:
        """Picture ``number``."""
        rng = np.random.default_rng([self._seed, number])
        upto = np.cumsum([share for share, _ in self._sources])
        _, source = self._sources[int(np.searchsorted(upto, rng.random() * upto[-1]))]
        picture, label, concept = source(rng)
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        if rng.random() < 0.2:
            picture = turned(picture, rng.uniform(-20, 20))
        picture = fit_to_input(np.ascontiguousarray(picture), (self._size_px, self._size_px))
        if rng.random() < 0.2:
            picture = _with_a_patch(rng, picture)
        return Lesson(picture, label, concept)

    def _cifar(self, rng: Generator, label: int) -> Lesson:
        source = self._pictures
        labelled = pick(rng, source.cifar_birds if label == BIRD else source.cifar_others)
        picture = labelled.picture()
        picture = _cropped(rng, picture, 0.8) if rng.random() < 0.5 else picture
        # Each is seen a few times only: more variety would be more than there is time to learn.
        picture = _other_light(rng, picture) if rng.random() < 0.4 else picture
        return Lesson(picture, label, labelled.concept)

    def _single(self, rng: Generator, label: int) -> Lesson:
        labelled = pick(rng, self._pictures.birds if label == BIRD else self._pictures.others)
        picture = labelled.picture()
        if rng.random() < 0.4:
            # as it is: seen through a camera only, it would be taken for a bird too easily
            picture = _other_light(rng, _cropped(rng, picture, 0.8))
            return Lesson(picture, label, labelled.concept)
        # A part of a bird's crop may show no bird; a part of another thing is no bird either.
        picture = _cropped(rng, picture, 0.65 if label == BIRD else 0.35)
        return Lesson(self._as_a_camera_sees_it(rng, picture), label, labelled.concept)

    def _window(self, rng: Generator) -> Lesson:
        """A square part of a photo, around a bird or beside all birds."""
        example = pick(rng, self._pictures.photos)
        photo = example.picture()
        boxes = example.boxes(photo.shape[1], photo.shape[0])
        picture, label = window_of(rng, photo, boxes, boxes)
        return Lesson(self._as_a_camera_sees_it(rng, picture), label)

    def _scene_window(self, rng: Generator) -> Lesson:
        """The same of one of the detector's training scenes, which has its camera effects; often
        around a thing that is no bird, since those are what the detector will ask about.
        """
        number = int(rng.integers(2**31))
        scene = training_scene(self._seed, number, self._pictures.material, _SCENE_PX)
        shown = np.concatenate([scene.boxes, scene.ignored])
        if len(scene.others) and rng.random() < 0.4:
            window = _window_around(rng, pick(rng, scene.others))
            if _is_free(window, shown):
                return Lesson(_part(scene.picture, window), OTHER)
        return Lesson(*window_of(rng, scene.picture, scene.boxes, shown))

    def _as_a_camera_sees_it(self, rng: Generator, picture: np.ndarray) -> np.ndarray:
        """Shrunk as if it had been far away, then through a cheap camera."""
        side = int(np.exp(rng.uniform(np.log(22), np.log(200))))
        if side < max(picture.shape[:2]):
            scale = side / max(picture.shape[:2])
            size = [max(1, round(n * scale)) for n in picture.shape[1::-1]]
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            return camera_effects(rng, np.ascontiguousarray(picture))
        return _other_light(rng, picture)


def window_of(
    rng: Generator, photo: np.ndarray, boxes: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, int]:
    """A square window of a photo: around one of the birds, or almost free of birds.

    Args:
        rng: decides which.
        photo: uint8 (H, W, 3).
        boxes: float32 (N, 4), xyxy, birds that a window may be laid around.
        shown: float32 (M, 4), all birds, those that show little too.

    Returns:
        The part of the photo, and `BIRD` or `OTHER`.
    """
    height, width = photo.shape[:2]
    if len(boxes) and rng.random() < 0.5:
        return _part(photo, _window_around(rng, pick(rng, boxes))), BIRD
    for _ in range(10):
        side = min(height, width) * np.exp(rng.uniform(np.log(0.1), np.log(0.9)))
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        window = np.array([x, y, x + side, y + side], np.float32)
        if _is_free(window, shown):
            return _part(photo, window), OTHER
    # A bird everywhere: then at least a window that is sure to have one.
    left, top, right, bottom = (boxes if len(boxes) else shown)[0]
    side = max(right - left, bottom - top)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    return _part(photo, np.array([x, y, x + side, y + side])), BIRD


def _window_around(rng: Generator, box: np.ndarray) -> np.ndarray:
    """A square around a box, more or less wide and off its centre, (4,), xyxy."""
    left, top, right, bottom = box
    longest = max(right - left, bottom - top)
    side = longest * np.exp(rng.uniform(np.log(_TIGHTEST), np.log(_WIDEST)))
    slack = max(0.12 * longest, (side - longest) / 2)
    x = (left + right) / 2 + rng.uniform(-slack, slack)
    y = (top + bottom) / 2 + rng.uniform(-slack, slack)
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)


def _is_free(window: np.ndarray, birds: np.ndarray) -> bool:
    """Whether a window shows little of any bird, and is not filled by one."""
    if not len(birds):
        return True
    _, contained = pairwise_overlap(window[None], birds.astype(np.float32))
    return bool(contained.max() < _SHOWN_SHARE)


def _part(photo: np.ndarray, window: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    left, top, right, bottom = window.tolist()
    x0, y0 = max(0, round(left)), max(0, round(top))
    x1, y1 = min(width, round(right)), min(height, round(bottom))
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return photo[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


def turned(picture: np.ndarray, degrees: float) -> np.ndarray:
    """The picture turned around its centre; what comes in from outside is a mirror image."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(
        np.ascontiguousarray(picture), turn, (width, height), borderMode=cv2.BORDER_REFLECT_101
    )


def _cropped(rng: Generator, picture: np.ndarray, smallest: float) -> np.ndarray:
    """A part of the picture, each side at least ``smallest`` of its length."""
    height, width = picture.shape[:2]
    w, h = (max(1, round(n * rng.uniform(smallest, 1))) for n in (width, height))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return picture[y : y + h, x : x + w]


def _other_light(rng: Generator, picture: np.ndarray) -> np.ndarray:
    """Mildly brighter or darker, with more or less contrast and colour."""
    if rng.random() < 0.3:
        return picture
    gains = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, 3))
    offset = rng.normal(0, 12)
    ramp = np.arange(256, dtype=np.float32)[:, None]
    table = ((ramp - 128) * rng.uniform(0.8, 1.2) + 128) * gains + offset
    return cv2.LUT(np.ascontiguousarray(picture), table.clip(0, 255).astype(np.uint8)[None])


def _with_a_patch(rng: Generator, picture: np.ndarray) -> np.ndarray:
    """A square of it covered by one colour (DeVries and Taylor, 2017, arXiv:1708.04552)."""
    side = picture.shape[0]
    patch = max(1, round(side * rng.uniform(0.1, 0.35)))
    x, y = rng.integers(0, side - patch + 1, 2)
    picture = picture.copy()
    picture[y : y + patch, x : x + patch] = rng.integers(0, 256, 3)
    return picture
