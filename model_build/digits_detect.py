"""The ladder's last rung: from "is there an 8" to "where are the 8s", with the runtime's own code.

Nothing but the question changes. Each window of 36 pixels is asked whether an 8 stands in its
*middle*, so that a map of answers says where 8s are. The same weights then go into two int8 files:
one for windows of 36 pixels, for the runtime's ``window`` detector, and one that takes the canvas
as a whole, for its ``conv`` detector. The bird detector is this, with a better network and boxes
that are learnt.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import cv2
import keras
import numpy as np
from keras import layers
from tqdm import tqdm

from edgebird.classify import Classifier
from edgebird.detector import Detector
from edgebird.detector.conv import ConvDetector
from edgebird.detector.merge import pairwise_overlap
from edgebird.detector.window import WindowDetector
from edgebird.interpreter import TfliteInterpreter, default_threads
from edgebird.model import InputScaling, ModelCard, load_model, write_model
from edgebird.structures import Detections, Image
from model_build.digits import (
    CANVAS_PX,
    Canvases,
    Rung,
    fit,
    pipeline,
    scaled_steps,
)
from model_build.network import PIXEL_MEAN, PIXEL_SCALE
from model_build.quantize import output_names, to_int8
from model_build.work import milliseconds, multiply_accumulates

# Digits at MNIST's own size fill a window as a bird does.
_DIGIT_PX, _SCENE_PX, _DIGITS_A_SCENE = 28, 144, 9
# The network's answers lie this far apart: its tiles' step, times two for the pooling.
_STRIDE_PX = 8
# An 8 belongs to a window if their centres are this near; further away it is not asked, ...
_NEAR_PX = 4
# ... and from here on the answer is to be no.
_FAR_PX = 8
_THRESHOLD = 0.5
_SOME_CORNERS = ((0, 0), (60, 30), (100, 90))


def finds_several(learn: Canvases, exam: Canvases, folder: Path, *, effort: float) -> list[Rung]:
    """(f) Train the pipeline of (e) for the middle of a window, and find 8s among several digits.

    Args:
        learn: training digits.
        exam: test digits.
        folder: for the int8 models and a picture for each detector.
        effort: scales the training.

    Returns:
        A rung for the ``window`` detector and one for ``conv``. Their accuracy is that of a digit
        in the middle of a window, and of all digits on the canvases: an 8 is to be found with an
        IoU of 0.5, another digit is not to be.
    """
    model, training = pipeline(), _Windows(learn)
    steps = scaled_steps(3000, effort)
    with tqdm(total=steps, desc="digits, one of several", unit="step") as progress:
        fit(model, training.batch, steps, progress)
    sample = [_scene(learn)[0] for _ in range(20)]
    threads = default_threads()

    small, large = _for_windows(model), _for_scenes(model)
    # With 8s in their middle among them: the int8 output reaches as far as these take it.
    windows = [_rgb_of(canvas) for canvas in training.batch(100)[0]]
    classifier_file = _write(small, windows, folder / "digit_classifier.tflite")
    detector_file = _write(large, sample, folder / "digit_detector.tflite")
    loaded = load_model(classifier_file, "classifier")
    classifier = Classifier(TfliteInterpreter(loaded, threads), loaded.card)
    whole = load_model(detector_file, "detector")
    window = WindowDetector(classifier, smallest_bird_px=_DIGIT_PX)
    conv = ConvDetector(TfliteInterpreter(whole, threads), whole.card)

    centred, labels = exam.one_each(400, anywhere=False, sizes=(_DIGIT_PX / 18, _DIGIT_PX / 18))
    pictures = [_rgb_of(canvas) for canvas in centred]
    in_the_middle = float(((classifier.log_odds(pictures) > 0) == (labels == 1)).mean())
    scenes = [_scene(exam) for _ in range(40)]
    counts = {
        "window": len(window.windows(_SCENE_PX, _SCENE_PX, None)) * multiply_accumulates(small),
        "conv": multiply_accumulates(large),
    }
    rungs = []
    detectors: dict[str, Detector] = {"window": window, "conv": conv}
    for name, detector in detectors.items():
        found = [_find(detector, scene) for scene, _, _ in scenes]
        right, eights, false = _judge(found, [(boxes, e) for _, boxes, e in scenes])
        rungs.append(
            Rung(
                f"f  int8 {name}: {eights}, {false} false",
                in_the_middle,
                right,
                model.count_params(),
                counts[name],
                milliseconds(lambda detector=detector: _find(detector, scenes[0][0]), 5),
            )
        )
        _draw(folder / f"f_{name}.png", [s for s, _, _ in scenes[:8]], found[:8])
    return rungs


class _Windows:
    """Training windows around and beside digits of larger scenes."""

    def __init__(self, learn: Canvases, scenes: int = 600) -> None:
        self._rng = np.random.default_rng(0)
        self._scenes = [_scene(learn) for _ in range(scenes)]
        # Windows may reach over the border, as those of the padded map do.
        self._padded = [np.pad(s[..., 0], CANVAS_PX) for s, _, _ in self._scenes]

    def batch(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 (N, 36, 36, 1) and int32 (N,): 1 for an 8 in the middle; nearly half are."""
        pictures = np.zeros((count, CANVAS_PX, CANVAS_PX, 1), np.float32)
        labels = np.zeros(count, np.int32)
        for i in range(count):
            while True:
                number = int(self._rng.integers(len(self._scenes)))
                _, boxes, eights = self._scenes[number]
                centres = (boxes[:, :2] + boxes[:, 2:]) / 2
                if self._rng.random() < 0.75:
                    wanted = np.flatnonzero(eights == (self._rng.random() < 0.6))
                    if not len(wanted):
                        continue
                    centre = centres[self._rng.choice(wanted)] + self._rng.integers(-4, 5, 2)
                else:
                    centre = self._rng.integers(0, _SCENE_PX, 2)
                away = np.abs(centres[eights] - centre).max(axis=1).min(initial=np.inf)
                if away <= _NEAR_PX or away >= _FAR_PX:
                    break
            x, y = (int(n) + CANVAS_PX - CANVAS_PX // 2 for n in centre)
            pictures[i, :, :, 0] = self._padded[number][y : y + CANVAS_PX, x : x + CANVAS_PX] / 255
            labels[i] = away <= _NEAR_PX
        return pictures, labels


def _scene(canvases: Canvases) -> tuple[Image, np.ndarray, np.ndarray]:
    canvas, boxes, eights = canvases.several(_SCENE_PX, _DIGIT_PX, _DIGITS_A_SCENE)
    return _rgb(canvas), boxes, eights


def _rgb(grey: np.ndarray) -> Image:
    return np.repeat(grey[..., None], 3, axis=2)


def _rgb_of(canvas: np.ndarray) -> Image:
    """A canvas from 0 to 1 as the runtime takes it."""
    return _rgb((canvas[..., 0] * 255).astype(np.uint8))


def _grey(picture):
    return layers.Conv2D(1, 1, name="grey")(picture)


def _set_grey(model: keras.Model) -> None:
    """Grey from 0 to 1 of the runtime's scaled RGB."""
    kernel = np.full((1, 1, 3, 1), PIXEL_SCALE / 255 / 3, np.float32)
    model.get_layer("grey").set_weights([kernel, np.array([PIXEL_MEAN / 255], np.float32)])


def _odds_weights(model: keras.Model) -> list[np.ndarray]:
    """One output in place of two, their difference."""
    kernel, bias = model.get_layer("logits").get_weights()
    return [kernel[..., 1:] - kernel[..., :1], bias[1:] - bias[:1]]


def _features(trained: keras.Model, x):
    """The trained layers, all but the last, on a picture of another size."""
    copy = pipeline(x.shape[1])
    copy.set_weights(trained.get_weights())
    for layer in copy.layers[:-1]:
        x = layer(x)
    return x


def _for_windows(trained: keras.Model) -> keras.Model:
    """The network for one window, as a classifier of the runtime."""
    picture = keras.Input((CANVAS_PX, CANVAS_PX, 3), name="picture")
    x = _features(trained, _grey(picture))
    x = layers.GlobalAveragePooling2D(name="one_position")(x)
    model = keras.Model(picture, layers.Dense(1, name="log_odds")(x), name="digit_classifier")
    _set_grey(model)
    kernel, bias = _odds_weights(trained)
    model.get_layer("log_odds").set_weights([kernel[0, 0], bias])
    return model


def _for_scenes(trained: keras.Model) -> keras.Model:
    """The network for a whole scene, as a detector of the runtime: a cell's window reaches beyond
    the cell by the same on all sides, and boxes are as large as digits are.
    """
    picture = keras.Input((_SCENE_PX, _SCENE_PX, 3), name="picture")
    x = layers.ZeroPadding2D((CANVAS_PX - _STRIDE_PX) // 2, name="border")(_grey(picture))
    x = _features(trained, x)
    objectness = layers.Conv2D(1, 1, name="objectness")(x)
    box = layers.Conv2D(4, 1, name="box")(x)
    model = keras.Model(picture, [objectness, box], name="digit_detector")
    _set_grey(model)
    model.get_layer("objectness").set_weights(_odds_weights(trained))
    kernel, bias = model.get_layer("box").get_weights()
    half_in_cells = _DIGIT_PX / 2 / _STRIDE_PX
    model.get_layer("box").set_weights([0 * kernel, 0 * bias + math.log(half_in_cells)])
    return model


def _write(model: keras.Model, pictures: list[Image], path: Path) -> Path:
    """Quantize and write the model with a card, as the runtime wants it."""
    content = to_int8(model, pictures)
    side = model.input_shape[1]
    is_detector = isinstance(model.output, list)
    card = ModelCard(
        name=model.name,
        task="detector" if is_detector else "classifier",
        input_size_px=(side, side),
        input_scaling=InputScaling(PIXEL_MEAN, PIXEL_SCALE),
        outputs=output_names(content) if is_detector else ["log_odds"],
        stride_px=_STRIDE_PX if is_detector else side,
        labels=["8"],
        threshold=_THRESHOLD,
        threshold_chosen_at=None,
        metrics={},
        training_data=[],
        licence="Apache-2.0",
        commit="",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    write_model(content, card, path)
    return path


def _find(detector: Detector, scene: Image) -> Detections:
    whole = (0, 0, scene.shape[1], scene.shape[0])
    return detector.detect(scene, [whole], threshold=_THRESHOLD)


def _judge(
    found: list[Detections], scenes: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, str, int]:
    """The share of digits judged right, "found of all" 8s, and detections where no 8 is."""
    right, hits, all_eights, false, digits = 0, 0, 0, 0, 0
    for detections, (boxes, eights) in zip(found, scenes, strict=True):
        iou, _ = pairwise_overlap(boxes, detections.xyxy)
        taken = iou.max(axis=1, initial=0) >= 0.5
        right += int((taken == eights).sum())
        hits += int((taken & eights).sum())
        all_eights += int(eights.sum())
        digits += len(eights)
        on_an_eight = (iou[eights] >= 0.5).any(axis=0)
        false += int((~on_an_eight).sum())
    return right / digits, f"{hits} of {all_eights}", false


def _draw(path: Path, scenes: list[Image], found: list[Detections]) -> None:
    cells = []
    for scene, detections in zip(scenes, found, strict=True):
        picture = cv2.resize(scene, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        for left, top, right, bottom in (2 * detections.xyxy).round().astype(int).tolist():
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), (60, 220, 60), 2)
        cells.append(cv2.copyMakeBorder(picture, 2, 2, 2, 2, cv2.BORDER_CONSTANT))
    half = len(cells) // 2
    cv2.imwrite(str(path), np.vstack([np.hstack(cells[:half]), np.hstack(cells[half : 2 * half])]))
