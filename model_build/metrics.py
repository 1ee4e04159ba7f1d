"""How good detections are: average precision, precision, recall, false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgebird.detector.merge import pairwise_overlap
from edgebird.model import DatasetMetrics
from edgebird.structures import Detections

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """All detections of a set, judged: best score first.

    Args:
        score: float32 (N,).
        correct: bool (N,), whether each found a bird that no better one had found.
        birds: how many there were to find.
        best_empty_scores: float32 (M,), for each picture without a bird its highest score, 0
            without a detection.
        pictures: how many, with and without birds.
    """

    score: np.ndarray
    correct: np.ndarray
    birds: int
    best_empty_scores: np.ndarray
    pictures: int


def judge(found: Sequence[Detections], wanted: Sequence[np.ndarray]) -> Judged:
    """Compare detections with the true boxes, picture by picture.

    A detection is correct if its IoU with a bird is at least `MATCH_IOU` and no detection with a
    higher score has taken that bird.
    """
    scores, correct, empty = [], [], []
    for detections, boxes in zip(found, wanted, strict=True):
        if not len(boxes):
            empty.append(detections.score.max(initial=0.0))
        free = np.ones(len(boxes), bool)
        iou, _ = pairwise_overlap(detections.xyxy, boxes.astype(np.float32))
        for i in np.argsort(-detections.score, kind="stable"):
            overlap = np.where(free, iou[i], 0.0)
            best = int(overlap.argmax()) if len(boxes) else -1
            hit = best >= 0 and overlap[best] >= MATCH_IOU
            if hit:
                free[best] = False
            scores.append(detections.score[i])
            correct.append(hit)
    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    return Judged(
        np.array(scores, np.float32)[order],
        np.array(correct, bool)[order],
        sum(len(boxes) for boxes in wanted),
        np.array(empty, np.float32),
        len(wanted),
    )


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
    average = average_precision(judged)
    return DatasetMetrics(
        pictures=judged.pictures,
        birds=judged.birds,
        ap50=None if average is None else round(average, 4),
        precision=round(float(kept.mean()), 4) if len(kept) else None,
        recall=round(float(kept.sum() / judged.birds), 4) if judged.birds else None,
        empty_pictures=len(judged.best_empty_scores),
        empty_flagged=int((judged.best_empty_scores >= threshold).sum()),
    )


def quietest_threshold(judged: Sequence[Judged], flagged_share: float) -> float:
    """The lowest threshold at which at most this share of the empty pictures is flagged, in steps
    of 0.01 and not below 0.2.
    """
    scores = np.concatenate([j.best_empty_scores for j in judged])
    for threshold in np.arange(0.2, 0.95, 0.01):
        if (scores >= threshold).mean() <= flagged_share:
            return round(float(threshold), 2)
    return 0.95
