"""How good detections are: average precision, precision, recall, false alarms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgebird.detector.merge import pairwise_overlap
from edgebird.model import DatasetMetrics
from edgebird.structures import Detections

MATCH_IOU = 0.5


# A bird's longest side as a share of the picture's, from which on it has this size.
SIZES = {"tiny": 0.0, "small": 0.06, "medium": 0.12, "large": 0.25}


@dataclass(frozen=True)
class Judged:
    """All detections of a set, judged: best score first.

    Args:
        score: float32 (N,).
        correct: bool (N,), whether each found a bird that no better one had found.
        found_at: float32 (B,), for each bird the score of the detection that found it, 0 without.
        size_share: float32 (B,), each bird's longest side as a share of the picture's.
        kind: what makes each bird's picture difficult, B words.
        best_empty_scores: float32 (M,), for each picture without a bird its highest score, 0
            without a detection.
        pictures: how many, with and without birds.
    """

    score: np.ndarray
    correct: np.ndarray
    found_at: np.ndarray
    size_share: np.ndarray
    kind: Sequence[str]
    best_empty_scores: np.ndarray
    pictures: int

    @property
    def birds(self) -> int:
        """How many there were to find."""
        return len(self.found_at)


@dataclass(frozen=True)
class Truth:
    """What is in a picture.

    Args:
        boxes: float32 (N, 4), xyxy in pixels, all its birds.
        size: the picture's width and height in pixels.
        kind: what makes it difficult, in a word.
    """

    boxes: np.ndarray
    size: tuple[int, int]
    kind: str = "plain"


def judge(found: Sequence[Detections], truths: Sequence[Truth]) -> Judged:
    """Compare detections with the true boxes, picture by picture.

    A detection is correct if its IoU with a bird is at least `MATCH_IOU` and no detection with a
    higher score has taken that bird.
    """
    scores, correct, empty = [], [], []
    found_at, size_share, kinds = [], [], []
    for detections, truth in zip(found, truths, strict=True):
        boxes = truth.boxes.astype(np.float32)
        if not len(boxes):
            empty.append(detections.score.max(initial=0.0))
        taken_at = np.zeros(len(boxes), np.float32)
        iou, _ = pairwise_overlap(detections.xyxy, boxes)
        for i in np.argsort(-detections.score, kind="stable"):
            overlap = np.where(taken_at == 0, iou[i], 0.0)
            best = int(overlap.argmax()) if len(boxes) else -1
            hit = best >= 0 and overlap[best] >= MATCH_IOU
            if hit:
                taken_at[best] = detections.score[i]
            scores.append(detections.score[i])
            correct.append(hit)
        found_at.extend(taken_at)
        size_share.extend((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) / max(truth.size))
        kinds.extend([truth.kind] * len(boxes))
    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    return Judged(
        np.array(scores, np.float32)[order],
        np.array(correct, bool)[order],
        np.array(found_at, np.float32),
        np.array(size_share, np.float32),
        kinds,
        np.array(empty, np.float32),
        len(truths),
    )


def size_names(size_share: np.ndarray) -> np.ndarray:
    """The name in `SIZES` of each size."""
    return np.array(list(SIZES))[np.digitize(size_share, list(SIZES.values())) - 1]


def average_precision(judged: Judged) -> float | None:
    """Area under the precision-recall curve, precision made non-increasing (Everingham et al.,
    2010, The PASCAL VOC Challenge, as computed since 2010); None without birds.
    """
    if not judged.birds:
        return None
    hits = np.cumsum(judged.correct)
    recall = hits / judged.birds
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def at_threshold(judged: Judged, threshold: float) -> DatasetMetrics:
    """The figures of a set at a score threshold."""
    kept = judged.correct[judged.score >= threshold]
    found = judged.found_at >= threshold

    def recall_by(groups: Sequence[str]) -> dict[str, float]:
        groups = np.array(groups)
        names = dict.fromkeys(groups.tolist())
        return {name: round(float(found[groups == name].mean()), 3) for name in names}

    by_size = recall_by(size_names(judged.size_share)) if judged.birds else {}
    average = average_precision(judged)
    return DatasetMetrics(
        pictures=judged.pictures,
        birds=judged.birds,
        ap50=None if average is None else round(average, 4),
        precision=round(float(kept.mean()), 4) if len(kept) else None,
        recall=round(float(found.mean()), 4) if judged.birds else None,
        recall_by_size={name: by_size[name] for name in SIZES if name in by_size},
        recall_by_kind=dict(sorted(recall_by(judged.kind).items())) if judged.birds else {},
        empty_pictures=len(judged.best_empty_scores),
        empty_flagged=int((judged.best_empty_scores >= threshold).sum()),
    )


def quietest_threshold(judged: Sequence[Judged], flagged_share: float) -> float:
    """The lowest threshold at which at most this share of the empty pictures is flagged, in steps
    of 0.01 and not below 0.2, which it is where there are no empty pictures.
    """
    scores = np.concatenate([j.best_empty_scores for j in judged])
    for threshold in np.arange(0.2, 0.95, 0.01):
        if (scores >= threshold).sum() <= flagged_share * len(scores):
            return round(float(threshold), 2)
    return 0.95


def best_threshold(judged: Judged) -> float:
    """The score at which precision and recall together (their harmonic mean, F1) are best, rounded
    down to 0.01; 1 where nothing was found.
    """
    hits = np.cumsum(judged.correct)
    if not hits.any():
        return 1.0
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + judged.birds)
    return math.floor(100 * float(judged.score[f1.argmax()])) / 100
