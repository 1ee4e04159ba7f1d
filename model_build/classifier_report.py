"""How good a classifier is, as the article teaches it: not one figure, but the four kinds of
answers, what they look like, and how far a probability can be believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from tqdm import trange

from edgebird.classify import BatchInterpreter, Classifier
from edgebird.model import ClassifierMetrics, Model, ModelCard, OperatingPoint, write_model
from edgebird.odds import probability
from model_build.classifier_data import CIFAR_CLASSES, Labelled

_BINS = 15
# Pictures in memory at a time; a multiple of what goes through the network at once.
_PART = 480
_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_CELL_PX = 16, 10, 48


@dataclass(frozen=True)
class Answers:
    """What a model said of each picture.

    Args:
        log_odds: float32 (N,), of a bird.
        birds: bool (N,), the truth.
        kinds: what each picture is: a class of CIFAR-10, or the pack it is from.
    """

    log_odds: np.ndarray
    birds: np.ndarray
    kinds: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Of a bird, float64 (N,)."""
        return probability(self.log_odds.astype(np.float64))

    def of(self, chosen: np.ndarray) -> Answers:
        """The answers for some of the pictures; bool (N,)."""
        return Answers(self.log_odds[chosen], self.birds[chosen], self.kinds[chosen])


def answers_for(pictures: Sequence[Labelled], log_odds: np.ndarray) -> Answers:
    """Answers with the truth beside them."""
    birds = np.array([p.bird for p in pictures])
    return Answers(log_odds, birds, np.array([p.kind for p in pictures]))


def figures(answers: Answers, threshold: float) -> ClassifierMetrics:
    """The figures at a threshold of the probability."""
    called = answers.probabilities >= threshold
    birds = answers.birds
    true_positives, false_positives = int((called & birds).sum()), int((called & ~birds).sum())
    false_negatives, true_negatives = int((~called & birds).sum()), int((~called & ~birds).sum())
    all_called, all_birds = true_positives + false_positives, true_positives + false_negatives
    average = average_precision(answers)
    return ClassifierMetrics(
        pictures=len(birds),
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        true_negatives=true_negatives,
        accuracy=round((true_positives + true_negatives) / len(birds), 4),
        precision=round(true_positives / all_called, 4) if all_called else None,
        recall=round(true_positives / all_birds, 4) if all_birds else None,
        average_precision=None if average is None else round(average, 4),
        calibration_error=round(calibration_error(answers), 4),
    )


def threshold_for(answers: Answers, precision: float) -> float:
    """The lowest threshold, from 0.5 on in steps of 0.01, at which of what is called a bird at
    least a share of ``precision`` are birds, by more than two standard errors: the first that
    looks good enough on some pictures is mostly not on others, which have an error of their own.

    Raises:
        ValueError: there is none up to 0.99.
    """
    for hundredths in range(50, 100):
        called = answers.probabilities >= hundredths / 100
        error = np.sqrt(precision * (1 - precision) / max(1, called.sum()))
        share = answers.birds[called].mean() if called.any() else 0.0
        if share >= precision + 2 * error:
            return hundredths / 100
    raise ValueError(f"no threshold up to 0.99 gives a precision of {precision}")


def precision_recall(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each threshold that is a score, from the highest down.

    Pictures with the same score (an int8 model gives many) are called together.
    """
    order = np.argsort(-answers.log_odds, kind="stable")
    score, birds = answers.log_odds[order], answers.birds[order]
    last_of_its_score = np.flatnonzero(np.append(np.diff(score) != 0, True))
    hits = np.cumsum(birds)[last_of_its_score]
    return hits / (last_of_its_score + 1), hits / max(1, birds.sum())


def average_precision(answers: Answers) -> float | None:
    """Area under the steps of the precision-recall curve; None without birds."""
    if not answers.birds.any():
        return None
    precision, recall = precision_recall(answers)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def reliability(answers: Answers) -> list[tuple[int, float, float]]:
    """For each of 15 equal ranges of the probability that has pictures: how many, their mean
    probability, and the share of birds among them.
    """
    probability = answers.probabilities
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    return [
        (int(inside.sum()), float(probability[inside].mean()), float(answers.birds[inside].mean()))
        for inside in (bins == i for i in range(_BINS))
        if inside.any()
    ]


def calibration_error(answers: Answers) -> float:
    """Expected calibration error: the distance of probability and frequency of `reliability`,
    weighted by pictures (Naeini et al., 2015; Guo et al., 2017, arXiv:1706.04599).
    """
    bins = reliability(answers)
    total = sum(count for count, _, _ in bins)
    return sum(count * abs(mean - share) for count, mean, share in bins) / total


def taken_for_birds(answers: Answers, threshold: float) -> dict[str, tuple[int, int]]:
    """By kind of picture: how many were called a bird, of how many; most often called first."""
    called = answers.probabilities >= threshold
    table = {
        str(kind): (int(called[answers.kinds == kind].sum()), int((answers.kinds == kind).sum()))
        for kind in np.unique(answers.kinds)
    }
    return dict(sorted(table.items(), key=lambda row: -row[1][0] / row[1][1]))


def look_at(
    pictures: Sequence[Labelled], interpreter: BatchInterpreter, card: ModelCard, title: str
) -> Answers:
    """What a classifier says of pictures, looking at each as `edgebird classify` does.

    Args:
        pictures: to look at.
        interpreter: runs the network.
        card: of the model.
        title: for the progress bar.
    """
    classifier = Classifier(interpreter, card, thorough=True)
    parts = [
        classifier.log_odds([p.picture() for p in pictures[start : start + _PART]])
        for start in trange(0, len(pictures), _PART, desc=title, leave=False)
    ]
    return answers_for(pictures, np.concatenate(parts))


def choose_threshold(
    model: Model, interpreter: BatchInterpreter, pictures: Sequence[Labelled], precision: float
) -> float:
    """Write `threshold_for` a precision to the card of a model, as its default, and return it.

    Args:
        model: the int8 model.
        interpreter: runs it.
        pictures: set aside for the calibration.
        precision: wanted, 0 to 1.

    Raises:
        ValueError: no threshold gives that precision; the card is as it was.
    """
    answers = look_at(pictures, interpreter, model.card, "choosing the threshold")
    threshold = threshold_for(answers, precision)
    at = figures(answers, threshold)
    chosen_at = OperatingPoint("calibration", at.precision or 0.0, at.recall or 0.0)
    card = msgspec.structs.replace(
        model.card, threshold=threshold, threshold_chosen_at=chosen_at, classifier_metrics={}
    )
    write_model(model.content, card, model.path)
    return threshold


def measure(
    model: Model,
    interpreters: Mapping[str, BatchInterpreter],
    pictures: Sequence[Labelled],
    folder: Path,
) -> dict[str, dict[str, ClassifierMetrics]]:
    """Measure a classifier on the hold-out, as `edgebird classify` runs it.

    Args:
        model: the int8 model, whose card is written anew with the figures.
        interpreters: of the ``float`` and the ``int8`` model.
        pictures: the hold-out.
        folder: for the report.

    Returns:
        Figures for ``hold-out`` and ``cifar-10``, its test pictures alone.
    """
    answers = {
        kind: look_at(pictures, interpreter, model.card, kind)
        for kind, interpreter in interpreters.items()
    }
    threshold = model.card.threshold
    in_cifar = np.array([p.kind in CIFAR_CLASSES for p in pictures])
    metrics = {}
    for name, chosen in (("hold-out", np.ones_like(in_cifar)), ("cifar-10", in_cifar)):
        some = {kind: a.of(chosen) for kind, a in answers.items()}
        metrics[name] = {kind: figures(a, threshold) for kind, a in some.items()}
        shown = [p for p, wanted in zip(pictures, chosen, strict=True) if wanted]
        write_report(folder, name, shown, some, threshold)
    card = msgspec.structs.replace(model.card, classifier_metrics=metrics)
    write_model(model.content, card, model.path)
    return metrics


def write_report(
    folder: Path,
    name: str,
    pictures: Sequence[Labelled],
    answers: Mapping[str, Answers],
    threshold: float,
) -> None:
    """Write figures, curves and contact sheets.

    Args:
        folder: to write to.
        name: of the model and the set, begins the files' names.
        pictures: that were looked at.
        answers: by ``float`` and ``int8``; the sheets show those of the last one.
        threshold: of the probability.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        kind: {
            "reliability": reliability(a),
            "called a bird, of": taken_for_birds(a, threshold),
        }
        for kind, a in answers.items()
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    _draw_curves(folder / f"{name}_curves.png", answers, threshold)
    *_, shown = answers.values()
    called = shown.probabilities >= threshold
    for title, chosen, surest_first in (
        ("true_positives", called & shown.birds, -1),
        ("false_positives", called & ~shown.birds, -1),
        ("false_negatives", ~called & shown.birds, 1),
        ("true_negatives", ~called & ~shown.birds, 1),
    ):
        order = np.argsort(surest_first * shown.log_odds, kind="stable")
        sheet = contact_sheet([pictures[i] for i in order if chosen[i]])
        cv2.imwrite(str(folder / f"{name}_{title}.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def contact_sheet(pictures: Sequence[Labelled]) -> np.ndarray:
    """The first 160 pictures side by side, uint8 (H, W, 3), RGB."""
    cell = _SHEET_CELL_PX
    rows = min(_SHEET_ROWS, max(1, -(-len(pictures) // _SHEET_COLUMNS)))
    sheet = np.full((rows * cell, _SHEET_COLUMNS * cell, 3), 255, np.uint8)
    for place, labelled in enumerate(pictures[: rows * _SHEET_COLUMNS]):
        y, x = (n * cell for n in divmod(place, _SHEET_COLUMNS))
        small = cv2.resize(labelled.picture(), (cell - 2, cell - 2), interpolation=cv2.INTER_AREA)
        sheet[y : y + cell - 2, x : x + cell - 2] = small
    return sheet


def most_taken_for_birds(folder: Path, count: int = 4) -> str:
    """Which of CIFAR-10's classes the int8 model takes for birds, from a written report."""
    report = json.loads((folder / "cifar-10.json").read_text())
    called = {k: v for k, v in report["int8"]["called a bird, of"].items() if k != "bird"}
    shown = [f"{kind} {some} of {all_}" for kind, (some, all_) in list(called.items())[:count]]
    return ", ".join(shown)


def _draw_curves(path: Path, answers: Mapping[str, Answers], threshold: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    curve, diagram = figure.subplots(1, 2)
    for kind, a in answers.items():
        precision, recall = precision_recall(a)
        at = figures(a, threshold)
        [line] = curve.plot(recall, precision, label=kind)
        if at.precision is not None and at.recall is not None:
            curve.plot(at.recall, at.precision, "o", color=line.get_color())
        bins = reliability(a)
        label = f"{kind}, error {calibration_error(a):.3f}"
        diagram.plot([mean for _, mean, _ in bins], [s for _, _, s in bins], "o-", label=label)
    curve.set(xlabel="recall", ylabel="precision", xlim=(0.8, 1), ylim=(0.8, 1.002))
    diagram.plot([0, 1], [0, 1], ":", color="grey")
    diagram.set(xlabel="probability said", ylabel="share of birds")
    curve.legend()
    diagram.legend()
    figure.savefig(path, dpi=100)


def table(rows: Mapping[str, Mapping[str, Mapping[str, ClassifierMetrics]]]) -> str:
    """Figures for a person, by recipe, set and kind."""
    lines = [
        f"{'recipe':<9} {'set':<9} {'model':<6} {'accuracy':>8} {'precision':>9} {'recall':>7} "
        f"{'AP':>7} {'ECE':>6} {'TP':>5} {'FP':>5} {'FN':>5} {'TN':>6}"
    ]
    for recipe, sets in rows.items():
        for name, kinds in sets.items():
            for kind, m in kinds.items():
                shares = [
                    "-" if value is None else f"{value:.4f}"
                    for value in (m.accuracy, m.precision, m.recall, m.average_precision)
                ]
                lines.append(
                    f"{recipe:<9} {name:<9} {kind:<6} {shares[0]:>8} {shares[1]:>9} "
                    f"{shares[2]:>7} {shares[3]:>7} {m.calibration_error:>6.4f} "
                    f"{m.true_positives:>5} {m.false_positives:>5} {m.false_negatives:>5} "
                    f"{m.true_negatives:>6}"
                )
    return "\n".join(lines)
