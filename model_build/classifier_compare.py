"""What convolution buys: birds found by sliding windows, by one network over the whole frame, and
by the detector, all with the runtime's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from edgebird.classify import Classifier
from edgebird.detector import Detector
from edgebird.detector.conv import ConvDetector
from edgebird.detector.window import WindowDetector, boxes_from_windows, windows_over
from edgebird.interpreter import TfliteInterpreter, default_threads
from edgebird.model import Model
from edgebird.structures import Detections, Image
from edgebird.tiles import Region, scan_regions
from model_build.classifier import RECIPES
from model_build.classifier_export import dense_article, load_verdict
from model_build.metrics import average_precision, judge
from model_build.quantize import to_int8
from model_build.validation import LOWEST_SCORE, ValidationSet
from model_build.work import milliseconds, multiply_accumulates, multiply_accumulates_in


@dataclass(frozen=True)
class Cost:
    """What a detector costs for a frame, and how well it finds birds."""

    name: str
    windows: int
    multiply_accumulates: int
    ms: float
    ap50: float


class DenseArticleDetector:
    """The article's network over the frame at once, at every scale: what the sliding window
    computes, twice as close in each direction, without computing anything twice.

    Args:
        verdict: the network with one output.
        pictures: uint8, of the frames' size, for choosing the int8 scales.
        smallest_px: side of the smallest window in frame pixels.
    """

    def __init__(self, verdict: keras.Model, pictures: Sequence[Image], smallest_px: int) -> None:
        height, width = pictures[0].shape[:2]
        self._window_px = verdict.input_shape[1]
        self._levels: list[tuple[float, tuple[int, int], tf.lite.Interpreter]] = []
        self.windows = self.multiply_accumulates = 0
        # The same scales as the sliding window's.
        sides = {w[2] - w[0] for w in windows_over((0, 0, width, height), smallest_px)}
        for side in sorted(sides):
            scale = self._window_px / side
            size = (
                max(self._window_px, round(width * scale)),
                max(self._window_px, round(height * scale)),
            )
            model = dense_article(verdict, *size)
            shrunk = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures]
            content = to_int8(model, shrunk)
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=default_threads())
            interpreter.allocate_tensors()
            self._levels.append((scale, size, interpreter))
            self.windows += int(np.prod(model.output.shape[1:3]))
            self.multiply_accumulates += multiply_accumulates(model)

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        """Find birds in a frame as a whole."""
        windows, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        for scale, size, interpreter in self._levels:
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            level = cv2.resize(image, size, interpolation=method)
            [source], [result] = interpreter.get_input_details(), interpreter.get_output_details()
            # The input's scale is that of the pixels: 0 to 255 becomes -128 to 127.
            interpreter.set_tensor(source["index"], (level[None].astype("i2") - 128).astype("i1"))
            interpreter.invoke()
            step, zero = result["quantization"]
            raw = interpreter.get_tensor(result["index"])[0, ..., 0].astype(np.float32)
            score = 1 / (1 + np.exp(-(raw - zero) * step))
            rows, columns = np.nonzero(score >= threshold)
            corner = np.stack([columns, rows], axis=1) * (4 / scale)
            side = self._window_px / scale
            windows.append(np.concatenate([corner, corner + side], axis=1).astype(np.float32))
            scores.append(score[rows, columns].astype(np.float32))
        every, score = np.concatenate(windows), np.concatenate(scores)
        best = np.argsort(-score, kind="stable")[:500]
        return Detections(*boxes_from_windows(every[best], score[best]))


def compare(
    detector: Model,
    classifiers: dict[str, Model],
    article_verdict: Path,
    dataset: ValidationSet,
    pictures: int,
) -> list[Cost]:
    """Windows, multiplications, time and accuracy of each way to find birds, on the same pictures.

    Args:
        detector: the convolutional one.
        classifiers: ``edgebird`` and ``article``.
        article_verdict: weights of the article's float network with one output.
        dataset: whose pictures all have one size.
        pictures: how many of it.
    """
    items = [load() for load in dataset.items[:: max(1, len(dataset.items) // pictures)]]
    size = items[0][1].size
    items = [item for item in items if item[1].size == size]
    frame = items[0][0]
    rows = []

    def add(
        name: str, by: Detector, windows: int, work: int, regions: list[Region] | None = None
    ) -> None:
        found = [
            by.detect(picture, regions, threshold=LOWEST_SCORE)
            for picture, _ in tqdm(items, name, leave=False)
        ]
        ap50 = average_precision(judge(found, [truth for _, truth in items])) or 0.0
        ms = milliseconds(lambda: by.detect(frame, regions, threshold=LOWEST_SCORE), 3)
        rows.append(Cost(name, windows, work, ms, ap50))

    smallest_px = 0
    for name, model in classifiers.items():
        interpreter = TfliteInterpreter(model, default_threads())
        sliding = WindowDetector(Classifier(interpreter, model.card))
        windows = sliding.windows(*size, None)
        smallest_px = windows[0][2] - windows[0][0]
        work = multiply_accumulates_in(model.path)
        add(f"window, {name} classifier", sliding, len(windows), len(windows) * work)
    verdict = load_verdict(article_verdict, RECIPES["article"])
    dense = DenseArticleDetector(verdict, [p for p, _ in items[:20]], smallest_px)
    add("dense, article classifier", dense, dense.windows, dense.multiply_accumulates)
    side = detector.card.input_size_px[0]
    cells, work = (side // detector.card.stride_px) ** 2, multiply_accumulates_in(detector.path)
    conv = ConvDetector(TfliteInterpreter(detector, default_threads()), detector.card)
    add("conv, the frame at once", conv, cells, work, [(0, 0, *size)])
    tiles = len(scan_regions(*size))
    add("conv, and in tiles", conv, tiles * cells, tiles * work)
    return rows


def cost_table(rows: Sequence[Cost]) -> str:
    """The costs for a person, and in Markdown."""
    lines = [
        "| detector | windows a frame | multiplications a frame | ms a frame | AP50 |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.name} | {r.windows:,} | {r.multiply_accumulates / 1e6:,.0f} million | "
        f"{r.ms:,.0f} | {r.ap50:.3f} |"
        for r in rows
    ]
    return "\n".join(lines)
