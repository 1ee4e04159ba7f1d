"""The ladder of the article this project comes from, on handwritten digits: from "is it an 8" on
centred digits to a network that finds 8s anywhere. Each rung is one idea, and each is measured.

A digit is 18 x 18 pixels. The first network sees one digit; all later ones have to say whether
there is an 8 on a canvas of 36 x 36 that holds one digit, in the middle or anywhere.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tqdm import tqdm

from model_build.work import milliseconds, multiply_accumulates

DIGIT_PX, CANVAS_PX = 18, 36
EIGHT = 8
# The article's fifth step: tiles of this side, this far apart, through one small network.
TILE_PX, TILE_STEP_PX = 12, 4
_SLIDE_STEP_PX = 2
_FILES = {
    ("train", "images"): "train-images-idx3-ubyte.gz",
    ("train", "labels"): "train-labels-idx1-ubyte.gz",
    ("test", "images"): "t10k-images-idx3-ubyte.gz",
    ("test", "labels"): "t10k-labels-idx1-ubyte.gz",
}


@dataclass(frozen=True)
class Digits:
    """Digits of 28 x 28 px, white on black.

    Args:
        source: where they come from.
        train: uint8 (N, 28, 28).
        train_labels: 0 to 9, (N,).
        test: uint8 (M, 28, 28).
        test_labels: (M,).
    """

    source: str
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Rung:
    """One line of the table; None where a figure makes no sense."""

    name: str
    centred: float | None
    off_centre: float | None
    parameters: int
    multiply_accumulates: int
    ms: float


def load_digits(folder: Path | None) -> Digits:
    """MNIST from a folder with its four files, else the 1,797 digits that scikit-learn carries.

    Raises:
        ValueError: a file is not what MNIST's are.
    """
    if folder is None or not all((folder / name).exists() for name in _FILES.values()):
        return _bundled_digits()
    parts = {key: _read_idx(folder / name) for key, name in _FILES.items()}
    return Digits(
        "MNIST",
        parts["train", "images"],
        parts["train", "labels"],
        parts["test", "images"],
        parts["test", "labels"],
    )


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zeros, type 8, the number of axes, their lengths, the values."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    axes = content[3]
    shape = tuple(np.frombuffer(content, ">u4", axes, 4))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _bundled_digits() -> Digits:
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    pictures = np.zeros((len(data.images), 28, 28), np.uint8)
    for place, small in zip(pictures, data.images, strict=True):
        large = cv2.resize(small.astype(np.float32), (20, 20), interpolation=cv2.INTER_CUBIC)
        place[4:24, 4:24] = (large * (255 / 16)).clip(0, 255)
    is_test = np.arange(len(pictures)) % 5 == 0
    labels = data.target.astype(np.uint8)
    return Digits(
        "scikit-learn's 1,797 digits",
        pictures[~is_test],
        labels[~is_test],
        pictures[is_test],
        labels[is_test],
    )


# --- pictures


class Canvases:
    """Digits on larger black canvases, half of them 8s.

    Args:
        pictures: uint8 (N, 28, 28).
        labels: (N,).
        seed: of all that is drawn by lot.
    """

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, seed: int) -> None:
        self._eights, self._others = pictures[labels == EIGHT], pictures[labels != EIGHT]
        self._rng = np.random.default_rng(seed)

    def digit(self, eight: bool, side_px: int) -> np.ndarray:
        """A digit scaled to ``side_px``."""
        pool = self._eights if eight else self._others
        picture = pool[self._rng.integers(len(pool))]
        return cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA)

    def one_each(
        self, count: int, *, anywhere: bool, sizes: tuple[float, float] = (1, 1)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Canvases with one digit.

        Args:
            count: how many.
            anywhere: at any position, or in the middle.
            sizes: smallest and largest size as multiples of `DIGIT_PX`.

        Returns:
            float32 (N, 36, 36, 1) from 0 to 1, and int32 (N,): 1 for an 8.
        """
        canvases = np.zeros((count, CANVAS_PX, CANVAS_PX, 1), np.float32)
        labels = self._rng.integers(0, 2, count).astype(np.int32)
        for canvas, label in zip(canvases, labels, strict=True):
            side = round(DIGIT_PX * self._rng.uniform(*sizes))
            free = CANVAS_PX - side
            x, y = self._rng.integers(0, free + 1, 2) if anywhere else (free // 2, free // 2)
            canvas[y : y + side, x : x + side, 0] = self.digit(bool(label), side) / 255
        return canvases, labels

    def several(
        self, side_px: int, digit_px: int, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One canvas with up to ``count`` digits that do not overlap.

        Returns:
            uint8 (side, side), boxes float32 (N, 4) and bool (N,): whether each is an 8.
        """
        canvas = np.zeros((side_px, side_px), np.uint8)
        boxes: list[tuple[int, int, int, int]] = []
        eights = []
        for _ in range(20 * count):
            x, y = (int(n) for n in self._rng.integers(0, side_px - digit_px + 1, 2))
            if any(abs(x - bx) < digit_px and abs(y - by) < digit_px for bx, by, _, _ in boxes):
                continue
            eights.append(bool(self._rng.random() < 0.4))
            canvas[y : y + digit_px, x : x + digit_px] = self.digit(eights[-1], digit_px)
            boxes.append((x, y, x + digit_px, y + digit_px))
            if len(boxes) == count:
                break
        return canvas, np.array(boxes, np.float32), np.array(eights)


def middle(canvases: np.ndarray) -> np.ndarray:
    """The middle 18 x 18 pixels, (N, 18, 18, 1)."""
    free = (CANVAS_PX - DIGIT_PX) // 2
    return canvases[:, free : free + DIGIT_PX, free : free + DIGIT_PX]


# --- networks; all end in two outputs, no 8 and 8


def connected_network() -> keras.Model:
    """(a) 324 inputs, one hidden layer."""
    return keras.Sequential(
        [
            keras.Input((DIGIT_PX, DIGIT_PX, 1)),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(2),
        ],
        name="connected",
    )


def deep_network() -> keras.Model:
    """(d) 1,296 inputs, three hidden layers."""
    hidden = [layers.Dense(width, "relu") for width in (512, 256, 128)]
    return keras.Sequential(
        [keras.Input((CANVAS_PX, CANVAS_PX, 1)), layers.Flatten(), *hidden, layers.Dense(2)],
        name="deep",
    )


def pipeline(side_px: int = CANVAS_PX) -> keras.Model:
    """(e) The five steps, for a canvas of 36 px or, with the same weights, a larger one.

    1. Cut the canvas into overlapping tiles. 2. Put each tile through the same small network.
    3. Keep the results as a grid. 4. Of each 2 x 2 of them keep the largest. 5. Give what is left
    to a fully-connected network for the verdict.

    One and two are a convolution with a kernel as large as a tile. The verdict is written as
    convolutions too, which on 36 px is the same as fully connected.
    """
    return keras.Sequential(
        [
            keras.Input((side_px, side_px, 1)),
            layers.Conv2D(48, TILE_PX, TILE_STEP_PX, activation="relu", name="tiles"),
            layers.Conv2D(48, 1, activation="relu", name="small_network"),
            layers.MaxPooling2D(2, name="largest_of_four"),
            layers.Conv2D(64, 3, activation="relu", name="verdict"),
            layers.Conv2D(2, 1, name="logits"),
        ],
        name="pipeline",
    )


def fit(
    model: keras.Model,
    batches: Callable[[int], tuple[np.ndarray, np.ndarray]],
    steps: int,
    progress: tqdm,
    *,
    batch: int = 128,
    rate: float = 2e-3,
) -> None:
    """Train on freshly drawn batches, with the learning rate falling to zero."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(pictures: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = tf.reshape(model(pictures, training=True), (-1, 2))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    for _ in range(steps):
        pictures, labels = batches(batch)
        step(tf.constant(pictures), tf.constant(labels))
        progress.update()


def scaled_steps(full: int, effort: float) -> int:
    """The length of a training in batches, one at least."""
    return max(1, round(effort * full))


def log_odds(model: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) of an 8 for each picture, (N,)."""
    parts = [pictures[i : i + 1000] for i in range(0, len(pictures), 1000)]
    logits = np.concatenate([model.predict_on_batch(part) for part in parts]).reshape(-1, 2)
    return logits[:, 1] - logits[:, 0]


def slide(model: keras.Model, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(c) The 18 px network on every window of each canvas, two pixels apart.

    Returns:
        The best window's log-odds (N,), and its left upper corner (N, 2), x and y.
    """
    starts = range(0, CANVAS_PX - DIGIT_PX + 1, _SLIDE_STEP_PX)
    corners = np.array([(x, y) for y in starts for x in starts])
    odds = np.stack(
        [log_odds(model, canvases[:, y : y + DIGIT_PX, x : x + DIGIT_PX]) for x, y in corners], 1
    )
    return odds.max(axis=1), corners[odds.argmax(axis=1)]


def accuracy(odds: np.ndarray, labels: np.ndarray, limit: float = 0.0) -> float:
    """Share of right answers if log-odds above ``limit`` say 8."""
    return float(((odds > limit) == (labels == 1)).mean())


def best_limit(odds: np.ndarray, labels: np.ndarray) -> float:
    """The limit with the most right answers."""
    candidates = np.quantile(odds, np.linspace(0, 1, 201))
    return float(max(candidates, key=lambda limit: accuracy(odds, labels, limit)))


# --- the ladder


def climb(digits: Digits, folder: Path, *, effort: float = 1.0, seed: int = 8) -> list[Rung]:
    """Train and measure every rung.

    Args:
        digits: to learn and to test with.
        folder: for a picture of each rung, and one of all, ``ladder.png``.
        effort: scales the trainings, and below 1 the tests; 1 takes some minutes on two cores.
        seed: of everything drawn by lot.

    Returns:
        The lines of the table, (a) to (f).
    """
    from model_build.digits_detect import finds_several

    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    learn = Canvases(digits.train, digits.train_labels, seed)
    exam = Canvases(digits.test, digits.test_labels, seed + 1)
    count = max(500, round(3000 * min(1.0, effort)))
    centred, centred_labels = exam.one_each(count, anywhere=False)
    off, off_labels = exam.one_each(count, anywhere=True)
    rungs = []
    steps = {n: scaled_steps(full, effort) for n, full in (("a", 2000), ("d", 3000), ("e", 4500))}
    with tqdm(total=sum(steps.values()), desc="digits", unit="step") as progress:
        # (a) and (b): one digit in the middle, then anywhere.
        small = connected_network()

        def centred_digits(batch: int) -> tuple[np.ndarray, np.ndarray]:
            pictures, labels = learn.one_each(batch, anywhere=False)
            return middle(pictures), labels

        fit(small, centred_digits, steps["a"], progress)
        on_middle = [log_odds(small, middle(c)) for c in (centred, off)]
        a = Rung(
            "a  connected, centred digits",
            accuracy(on_middle[0], centred_labels),
            None,
            small.count_params(),
            multiply_accumulates(small),
            _time_of(small, middle(centred[:1])),
        )
        rungs.append(a)
        b_accuracy = accuracy(on_middle[1], off_labels)
        name = "b  the same, digits anywhere"
        rungs.append(Rung(name, a.centred, b_accuracy, a.parameters, a.multiply_accumulates, a.ms))
        _draw(folder / "a.png", centred, on_middle[0], window=_middle_corner(centred))
        _draw(folder / "b.png", off, on_middle[1], window=_middle_corner(off))

        # (c): the same network, slid over the canvas. The best of many windows is sure more often
        # by chance, so the limit is chosen anew, on training digits.
        limit = best_limit(*_slid(small, learn.one_each(count // 3, anywhere=True)))
        found = [slide(small, c) for c in (centred, off)]
        windows = len(range(0, CANVAS_PX - DIGIT_PX + 1, _SLIDE_STEP_PX)) ** 2
        rungs.append(
            Rung(
                f"c  (a) on {windows} windows",
                accuracy(found[0][0], centred_labels, limit),
                accuracy(found[1][0], off_labels, limit),
                a.parameters,
                windows * a.multiply_accumulates,
                _time_of(small, np.repeat(middle(off[:1]), windows, axis=0)),
            )
        )
        _draw(folder / "c.png", off, found[1][0] - limit, window=found[1][1])

        # (d) and (e): digits at all positions and sizes, to a deeper network and to the pipeline.
        def digits_anywhere(batch: int) -> tuple[np.ndarray, np.ndarray]:
            return learn.one_each(batch, anywhere=True, sizes=(0.8, 1.25))

        for letter, model, title in (
            ("d", deep_network(), "d  deep, trained on digits anywhere"),
            ("e", pipeline(), "e  tiles, grid, pooling, verdict"),
        ):
            fit(model, digits_anywhere, steps[letter], progress)
            odds = [log_odds(model, c) for c in (centred, off)]
            rungs.append(
                Rung(
                    title,
                    accuracy(odds[0], centred_labels),
                    accuracy(odds[1], off_labels),
                    model.count_params(),
                    multiply_accumulates(model),
                    _time_of(model, off[:1]),
                )
            )
            _draw(folder / f"{letter}.png", off, odds[1])

    rungs += finds_several(learn, exam, folder, effort=effort)
    _draw_overview(folder)
    return rungs


def _slid(
    model: keras.Model, pictures: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    return slide(model, pictures[0])[0], pictures[1]


def _time_of(model: keras.Model, picture: np.ndarray) -> float:
    run = tf.function(lambda p: model(p, training=False))
    constant = tf.constant(picture)
    return milliseconds(lambda: run(constant).numpy())


def _middle_corner(canvases: np.ndarray) -> np.ndarray:
    return np.full((len(canvases), 2), (CANVAS_PX - DIGIT_PX) // 2)


def _draw(
    path: Path, canvases: np.ndarray, odds: np.ndarray, window: np.ndarray | None = None
) -> None:
    """The first 32 canvases: framed in green where the answer is 8, else in grey; where it was
    looked, in yellow.
    """
    zoom, cells = 3, []
    for i, canvas in enumerate(canvases[:32]):
        picture = cv2.cvtColor((canvas[..., 0] * 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        side = CANVAS_PX * zoom
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_NEAREST)
        if window is not None:
            x, y = (int(n) * zoom for n in window[i])
            far = (x + DIGIT_PX * zoom - 1, y + DIGIT_PX * zoom - 1)
            cv2.rectangle(picture, (x, y), far, (0, 200, 255), 1)
        colour = (60, 220, 60) if odds[i] > 0 else (110, 110, 110)
        cells.append(cv2.copyMakeBorder(picture, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=colour))
    rows = [np.hstack(cells[i : i + 8]) for i in range(0, len(cells), 8)]
    cv2.imwrite(str(path), np.vstack(rows))


def _draw_overview(folder: Path) -> None:
    """All rungs in one picture, ``ladder.png``: the first row of each."""
    strips = []
    for name in ("a", "b", "c", "d", "e", "f_window", "f_conv"):
        picture = cv2.imread(str(folder / f"{name}.png"))
        rows = 2 if name.startswith("f") else 4
        strip = picture[: picture.shape[0] // rows]
        width = 912
        strip = cv2.resize(strip, (width, round(width * strip.shape[0] / strip.shape[1])))
        label = np.zeros((strip.shape[0], 60, 3), np.uint8)
        cv2.putText(label, name[0], (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 2)
        strips.append(np.hstack([label, strip]))
    cv2.imwrite(str(folder / "ladder.png"), np.vstack(strips))


def table(rungs: Sequence[Rung]) -> str:
    """The ladder for a person."""
    lines = [
        f"{'rung':<38} {'centred':>8} {'off-centre':>10} {'weights':>9} "
        f"{'multiplications':>15} {'ms':>7}"
    ]
    for r in rungs:
        shares = ["-" if s is None else f"{100 * s:.1f} %" for s in (r.centred, r.off_centre)]
        lines.append(
            f"{r.name:<38} {shares[0]:>8} {shares[1]:>10} {r.parameters:>9,} "
            f"{r.multiply_accumulates:>15,} {r.ms:>7.2f}"
        )
    return "\n".join(lines)
