"""Bird or not: whole pictures, or crops of a frame, through the classifier."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird import odds
from edgebird.camera.files import PictureSequence, list_pictures, names_for_people
from edgebird.errors import CameraError
from edgebird.interpreter import TfliteInterpreter
from edgebird.model import DEFAULT_CLASSIFIER, ModelCard, load_model
from edgebird.structures import Image, Scores

log = logging.getLogger(__name__)

# Crops that go through the network at once. More is no faster; fewer leaves threads idle.
_BATCH = 16
# Share of a picture's sides that a thorough look sees a second time, from closer.
_CLOSER = 0.87


class BatchInterpreter(Protocol):
    """A loaded network that takes several pictures at once."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the pictures it takes, in pixels."""

    def run_batch(self, images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        """Outputs for uint8 pictures (N, height, width, 3), float32, with the batch axis."""


def fit_to_input(picture: Image, size: tuple[int, int]) -> Image:
    """A picture of any size as the classifier sees it: scaled to ``size`` (width, height), in both
    directions on its own, so that all of it is seen.
    """
    shrinks = picture.shape[0] * picture.shape[1] > size[0] * size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=method).astype(np.uint8, copy=False)


def _closer(picture: Image) -> Image:
    """The middle of a picture at the picture's own size."""
    height, width = picture.shape[:2]
    inner_height, inner_width = max(1, round(_CLOSER * height)), max(1, round(_CLOSER * width))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return fit_to_input(
        picture[top : top + inner_height, left : left + inner_width], (width, height)
    )


class Classifier:
    """Says how likely a picture shows a bird.

    Args:
        interpreter: runs the network, whose output is the log-odds of a bird.
        card: of the model.
        thorough: look at each picture four times, as it is and from a little closer, both mirrored,
            too, and say the mean (test-time augmentation): what looks like a bird one way only
            is mostly none.
    """

    def __init__(
        self, interpreter: BatchInterpreter, card: ModelCard, *, thorough: bool = False
    ) -> None:
        self._interpreter = interpreter
        self._thorough = thorough
        self.threshold = card.threshold

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of what the network sees, in pixels."""
        return self._interpreter.input_size

    def log_odds(self, pictures: Sequence[Image]) -> Scores:
        """ln(p / (1 - p)) of a bird for each picture.

        Args:
            pictures: uint8 (H, W, 3), RGB, each of any size.

        Returns:
            float32 (N,).
        """
        results = [np.zeros(0, np.float32)]
        views = 4 if self._thorough else 1
        at_once = _BATCH // views
        for start in range(0, len(pictures), at_once):
            part = pictures[start : start + at_once]
            fitted = np.stack([fit_to_input(picture, self.input_size) for picture in part])
            if self._thorough:
                fitted = np.concatenate([fitted, np.stack([_closer(look) for look in fitted])])
                fitted = np.concatenate([fitted, fitted[:, :, ::-1]])
            looks = len(fitted)
            if start and looks < _BATCH:
                # Another batch size would have the network set up anew.
                fitted = np.pad(fitted, ((0, _BATCH - looks), (0, 0), (0, 0), (0, 0)))
            [answers] = self._interpreter.run_batch(fitted)
            results.append(answers.reshape(-1)[:looks].reshape(views, -1).mean(axis=0))
        return np.concatenate(results)

    def probabilities(self, pictures: Sequence[Image]) -> Scores:
        """The probability of a bird for each picture, float32 (N,); see `log_odds`."""
        return odds.probability(self.log_odds(pictures))


def open_classifier(
    threads: int, path: Path = DEFAULT_CLASSIFIER, *, thorough: bool = False
) -> Classifier:
    """The classifier in a file, by default the one that is shipped.

    Raises:
        ModelError: it cannot be loaded.
    """
    model = load_model(path, "classifier")
    return Classifier(TfliteInterpreter(model, threads), model.card, thorough=thorough)


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows a bird, and the probability that it does.

    Args:
        path: of the picture.
        name: the file's, with its path where pictures of several folders are looked at.
        bird: whether it shows one.
        probability: that it does.
    """

    path: Path
    name: str
    bird: bool
    probability: float


def classify_pictures(
    sources: Sequence[str],
    classifier: Classifier,
    on_verdict: Callable[[Verdict], None],
    *,
    threshold: float | None = None,
) -> None:
    """Say of each picture whether it shows a bird.

    Args:
        sources: pictures, folders and globs.
        classifier: looks at them.
        on_verdict: called for each picture in order.
        threshold: lowest probability called a bird; default: the classifier's.

    Raises:
        CameraError: some could not be read; raised after all others are done, each is logged.
    """
    least = classifier.threshold if threshold is None else threshold
    bad = 0
    listed = []
    for source in sources:
        try:
            listed.append(list_pictures(source))
        except CameraError as error:
            log.warning("%s", error)
            bad += 1
    name_of = names_for_people(path for paths in listed for path in paths)
    for paths in listed:
        try:
            for frame in PictureSequence(paths).frames():
                path = Path(frame.source)
                [probability] = classifier.probabilities([frame.image])
                bird = bool(probability >= least)
                on_verdict(Verdict(path, name_of(path), bird, float(probability)))
        except CameraError as error:
            log.warning("%s", error)
            bad += 1
    if bad:
        raise CameraError(
            f"{bad} of {len(sources)} sources could not be read in full (see above); "
            "all else was classified"
        )
