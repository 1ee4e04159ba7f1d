"""What a second look by the classifier does for a detector, measured with the runtime's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from edgebird.classify import Classifier
from edgebird.detector import Detector
from edgebird.detector.verify import both_looks, second_look
from edgebird.structures import Detections
from model_build.metrics import Judged, Truth, average_precision, judge, quietest_threshold
from model_build.validation import LOWEST_SCORE, ValidationSet


@dataclass(frozen=True)
class LookedTwice:
    """A set's detections, each with what the classifier says of it, and the truths."""

    found: list[Detections]
    seen: list[np.ndarray]
    truths: list[Truth]

    def judged(self, weight: float, reach: float) -> Judged:
        """With the second look weighed like this; a weight of 0 is without."""
        both = [
            both_looks(found, seen, weight, reach)
            for found, seen in zip(self.found, self.seen, strict=True)
        ]
        return judge(both, self.truths)


def look_twice(
    detector: Detector, classifier: Classifier, dataset: ValidationSet, every: int = 1
) -> LookedTwice:
    """Run the detector over a set, and the classifier over its doubtful detections."""
    looked = LookedTwice([], [], [])
    for load in tqdm(dataset.items[::every], dataset.name, leave=False):
        picture, truth = load()
        found = detector.detect(picture, threshold=LOWEST_SCORE)
        looked.found.append(found)
        looked.seen.append(second_look(classifier, picture, found))
        looked.truths.append(truth)
    return looked


@dataclass(frozen=True)
class Effect:
    """What a weight of the second look does.

    Args:
        name: of the setting.
        threshold: at which the allowed share of all empty pictures is flagged.
        recall: of the birds of each set, there.
        ap50: of each set with birds.
        flagged: empty pictures, of all sets, where as many birds are found as the detector alone
            finds at its own threshold.
    """

    name: str
    threshold: float
    recall: dict[str, float]
    ap50: dict[str, float]
    flagged: int


def effects(
    looked: Mapping[str, LookedTwice],
    settings: Sequence[tuple[float, float]],
    flagged_share: float,
) -> list[Effect]:
    """The detector alone, then each pair of weight and reach.

    Args:
        looked: by set.
        settings: pairs of weight and reach.
        flagged_share: how many of the empty pictures of all sets may be flagged.
    """
    rows: list[Effect] = []
    wanted = 0
    for weight, reach in ((0.0, 0.0), *settings):
        judged = {name: one.judged(weight, reach) for name, one in looked.items()}
        threshold = quietest_threshold(list(judged.values()), flagged_share)
        found_at = np.sort(np.concatenate([j.found_at for j in judged.values()]))[::-1]
        if not rows:
            wanted = int((found_at >= threshold).sum())
        empties = np.concatenate([j.best_empty_scores for j in judged.values()])
        flagged = int((empties >= found_at[wanted - 1]).sum()) if wanted else 0
        with_birds = {name: j for name, j in judged.items() if j.birds}
        rows.append(
            Effect(
                f"weight {weight}, reach {reach}" if rows else "none",
                threshold,
                {name: float((j.found_at >= threshold).mean()) for name, j in with_birds.items()},
                {name: average_precision(j) or 0.0 for name, j in with_birds.items()},
                flagged,
            )
        )
    return rows


def effect_table(rows: Sequence[Effect]) -> str:
    """The effects for a person, and in Markdown."""
    names = list(rows[0].ap50)
    columns = [
        "second look",
        "threshold",
        *(f"recall {name}" for name in names),
        "flagged at equal recall",
        *(f"AP50 {name}" for name in names),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 1)]
    for row in rows:
        cells = [
            row.name,
            f"{row.threshold:.2f}",
            *(f"{row.recall[name]:.3f}" for name in names),
            str(row.flagged),
            *(f"{row.ap50[name]:.3f}" for name in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
