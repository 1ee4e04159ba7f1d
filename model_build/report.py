"""Reports to look at: curves, recall by size and kind, and the worst mistakes as pictures."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from edgebird.structures import Detections, Image
from model_build.metrics import SIZES, Judged, Truth, at_threshold, judge
from model_build.trunk import Trunk
from model_build.validation import ValidationSet, look_through, measured_detectors

PAGE = "index.html"
_CELL_PX, _CELLS_A_ROW, _MOST_CELLS = 200, 6, 36
# How much of a mistake's surroundings is shown, as a multiple of its longest side, and at least.
_CONTEXT, _SMALLEST_CONTEXT_PX = 4.0, 96.0
_RED, _GREEN, _YELLOW = (230, 60, 50), (60, 200, 90), (250, 210, 40)


@dataclass(frozen=True)
class Mistake:
    """A missed bird or a false alarm.

    Args:
        picture: number in its set.
        box: xyxy in pixels.
        score: of the false alarm, or the best at the missed bird.
    """

    picture: int
    box: np.ndarray
    score: float


@dataclass(frozen=True)
class Looked:
    """What one model said to one set."""

    dataset: ValidationSet
    kind: str
    found: list[Detections]
    truths: list[Truth]
    judged: Judged


def write_report(
    weights: Path, tflite: Path, trunk: Trunk, sets: Sequence[ValidationSet], folder: Path
) -> Path:
    """Look through the sets with the float and the int8 model and write a page about it.

    Args:
        weights: of the float model.
        tflite: the int8 model, with its card; the card's threshold is that of the mistakes.
        trunk: of both.
        sets: to look at.
        folder: to write to.

    Returns:
        The page.

    Raises:
        ModelError: the int8 model does not fit its card.
    """
    model, detectors = measured_detectors(weights, tflite, trunk)
    looked = []
    for dataset in sets:
        for kind, detector in detectors.items():
            found, truths = look_through(detector, dataset)
            looked.append(Looked(dataset, kind, found, truths, judge(found, truths)))
    return write_page(looked, model.card.threshold, folder)


def write_page(looked: Sequence[Looked], threshold: float, folder: Path) -> Path:
    """Write the page, its charts and contact sheets.

    Args:
        looked: each set by each model.
        threshold: of the mistakes.
        folder: to write to.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    charts = {
        "precision-recall.png": _precision_recall(looked, threshold),
        "recall-by-size.png": _recall_bars(
            looked, threshold, "recall_by_size", "bird's longest side, share of the picture's"
        ),
        "recall-by-kind.png": _recall_bars(
            looked, threshold, "recall_by_kind", "what makes the picture difficult"
        ),
        "false-alarms.png": _flagged(looked, threshold),
    }
    images: list[tuple[str, str, str]] = []
    for name, figure in charts.items():
        if figure is not None:
            figure.savefig(folder / name, dpi=110)
            images.append((name, name.removesuffix(".png").replace("-", " "), ""))
    for one in looked:
        for name, title, mistakes in (
            ("misses", "birds missed, largest first", misses(one.found, one.truths, threshold)),
            (
                "false-alarms",
                "false alarms, surest first",
                false_alarms(one.found, one.truths, threshold),
            ),
        ):
            if mistakes:
                file = f"{name}-{one.dataset.name}-{one.kind}.jpg"
                sheet = contact_sheet(mistakes, one, threshold)
                cv2.imwrite(str(folder / file), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
                shown = mistakes[:_MOST_CELLS]
                title = f"{one.dataset.name}, {one.kind}: {title}; {len(shown)} of {len(mistakes)}"
                images.append((file, title, _files(shown, one.dataset)))
    page = folder / PAGE
    # a file's name may have bytes that are no text
    page.write_text(_html(looked, threshold, images), encoding="utf-8", errors="backslashreplace")
    return page


def _files(mistakes: Sequence[Mistake], dataset: ValidationSet) -> str:
    """Which files a contact sheet's numbers stand for, where the pictures are files."""
    numbers = sorted({mistake.picture for mistake in mistakes}) if dataset.files else []
    return ", ".join(f"#{number} = {dataset.files[number]}" for number in numbers)


# --- mistakes


def misses(found: Sequence[Detections], truths: Sequence[Truth], threshold: float) -> list[Mistake]:
    """Birds that no detection of at least ``threshold`` found, largest first: those are worst."""
    missed = []
    for number, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        boxes = truth.boxes.astype(np.float32)
        judged = judge([detections], [truth])
        for box, score in zip(boxes, judged.found_at, strict=True):
            if score < threshold:
                share = (box[2:] - box[:2]).max() / max(truth.size)
                missed.append((share, Mistake(number, box, float(score))))
    return [mistake for _, mistake in sorted(missed, key=lambda item: -item[0])]


def false_alarms(
    found: Sequence[Detections], truths: Sequence[Truth], threshold: float
) -> list[Mistake]:
    """Detections of at least ``threshold`` that found no bird, highest score first."""
    alarms = []
    for number, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        sure = detections.above(threshold)
        order = np.argsort(-sure.score, kind="stable")
        wrong = order[~judge([sure], [truth]).correct]
        alarms.extend(Mistake(number, sure.xyxy[i], float(sure.score[i])) for i in wrong)
    return sorted(alarms, key=lambda mistake: -mistake.score)


def contact_sheet(mistakes: Sequence[Mistake], looked: Looked, threshold: float) -> Image:
    """The first mistakes side by side with what is around them, uint8 (H, W, 3), RGB.

    The mistake is red, birds are green, other detections yellow; the score stands below.
    """
    shown = mistakes[:_MOST_CELLS]
    rows = -(-len(shown) // _CELLS_A_ROW)
    sheet = np.full((rows * (_CELL_PX + 20), _CELLS_A_ROW * _CELL_PX, 3), 255, np.uint8)
    for place, mistake in enumerate(shown):
        top, left = divmod(place, _CELLS_A_ROW)
        top, left = top * (_CELL_PX + 20), left * _CELL_PX
        picture, truth = looked.dataset.items[mistake.picture]()
        others = looked.found[mistake.picture].above(threshold).xyxy
        cell = _cell(picture, mistake.box, truth.boxes, others)
        sheet[top : top + _CELL_PX, left : left + _CELL_PX] = cell
        text = f"{mistake.score:.2f}  #{mistake.picture} {truth.kind}"
        where = (left + 4, top + _CELL_PX + 14)
        cv2.putText(sheet, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def _cell(picture: Image, box: np.ndarray, birds: np.ndarray, others: np.ndarray) -> Image:
    """A square around a box, with all boxes drawn."""
    height, width = picture.shape[:2]
    side = max(_CONTEXT * (box[2:] - box[:2]).max(), _SMALLEST_CONTEXT_PX)
    side = min(side, float(max(width, height)))
    scale = (_CELL_PX - 4) / side
    middle = (box[:2] + box[2:]) / 2
    offset = np.array([_CELL_PX, _CELL_PX]) / 2 - middle * scale
    move = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    cell = cv2.warpAffine(
        picture, move, (_CELL_PX, _CELL_PX), flags=cv2.INTER_AREA, borderValue=(235, 235, 235)
    )
    for boxes, colour in ((others, _YELLOW), (birds, _GREEN), (box[None], _RED)):
        for corners in (boxes * scale + np.tile(offset, 2)).round().astype(int).tolist():
            cv2.rectangle(cell, corners[:2], corners[2:], colour, 2 if colour == _RED else 1)
    return cell


# --- charts


def _panels(count: int) -> tuple[Figure, list]:
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for unused in axes.flat[count:]:
        unused.axis("off")
    return figure, list(axes.flat)


def _by_set(looked: Sequence[Looked], wanted: Callable[[Looked], bool]) -> dict[str, list[Looked]]:
    groups: dict[str, list[Looked]] = {}
    for one in looked:
        if wanted(one):
            groups.setdefault(one.dataset.name, []).append(one)
    return groups


def _precision_recall(looked: Sequence[Looked], threshold: float) -> Figure | None:
    groups = _by_set(looked, lambda one: one.judged.birds > 0)
    if not groups:
        return None
    figure, axes = _panels(len(groups))
    for axis, (name, kinds) in zip(axes, groups.items(), strict=False):
        for one in kinds:
            hits = np.cumsum(one.judged.correct)
            recall = hits / one.judged.birds
            precision = hits / np.arange(1, len(hits) + 1)
            figures = at_threshold(one.judged, threshold)
            [line] = axis.plot(recall, precision, label=f"{one.kind}, AP50 {figures.ap50:.3f}")
            if figures.precision is not None:
                axis.plot(figures.recall, figures.precision, "o", color=line.get_color())
        axis.set(title=name, xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
    return figure


def _recall_bars(
    looked: Sequence[Looked], threshold: float, field: str, label: str
) -> Figure | None:
    groups = _by_set(looked, lambda one: len(getattr(at_threshold(one.judged, 0.5), field)) > 1)
    if not groups:
        return None
    figure, axes = _panels(len(groups))
    for axis, (name, kinds) in zip(axes, groups.items(), strict=False):
        thickness = 0.8 / len(kinds)
        for place, one in enumerate(kinds):
            recalls: dict[str, float] = getattr(at_threshold(one.judged, threshold), field)
            y = np.arange(len(recalls)) + (place - (len(kinds) - 1) / 2) * thickness
            bars = axis.barh(y, list(recalls.values()), 0.95 * thickness, label=one.kind)
            axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
            names = [_size_range(n) if n in SIZES else n for n in recalls]
            axis.set_yticks(np.arange(len(names)), names, fontsize=8)
        axis.set(title=name, xlabel=f"recall at {threshold}", xlim=(0, 1.12), ylabel=label)
        axis.invert_yaxis()
    # beside the bars and not over their figures
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _size_range(name: str) -> str:
    starts = [*SIZES.values(), 1.0]
    place = list(SIZES).index(name)
    return f"{name}\n{100 * starts[place]:.0f}-{100 * starts[place + 1]:.0f} %"


def _flagged(looked: Sequence[Looked], threshold: float) -> Figure | None:
    groups = _by_set(looked, lambda one: len(one.judged.best_empty_scores) > 0)
    if not groups:
        return None
    figure, axes = _panels(len(groups))
    thresholds = np.linspace(0.1, 0.95, 86)
    for axis, (name, kinds) in zip(axes, groups.items(), strict=False):
        for one in kinds:
            scores = one.judged.best_empty_scores
            shares = [1000 * (scores >= t).mean() for t in thresholds]
            axis.plot(thresholds, shares, label=one.kind)
        axis.axvline(threshold, color="grey", linestyle=":", label="default threshold")
        axis.set(
            title=f"{name}: {len(scores)} empty pictures",
            xlabel="threshold",
            ylabel="flagged per 1,000",
        )
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


# --- the page

_STYLE = """body { font: 15px sans-serif; margin: 2em auto; max-width: 1240px; }
table { border-collapse: collapse; } td, th { padding: .2em .8em; text-align: right; }
tr:nth-child(even) { background: #eee; } td:first-child { text-align: left; }
img { max-width: 100%; } h2 { margin-top: 2em; font-size: 1.1em; }"""


def _html(
    looked: Sequence[Looked], threshold: float, images: Sequence[tuple[str, str, str]]
) -> str:
    head = ["set", "model", "AP50", "precision", "recall", "empty pictures flagged"]
    rows = []
    for one in looked:
        m = at_threshold(one.judged, threshold)
        values = ["-" if v is None else f"{v:.3f}" for v in (m.ap50, m.precision, m.recall)]
        flagged = f"{m.empty_flagged} of {m.empty_pictures}"
        rows.append([one.dataset.name, one.kind, *values, flagged])
    table = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    figures = "\n".join(
        f'<h2>{html.escape(title)}</h2>\n<img src="{html.escape(file)}" alt="">'
        + f"<p>{html.escape(note)}</p>" * bool(note)
        for file, title, note in images
    )
    return f"""<!doctype html>
<meta charset="utf-8">
<title>edgebird detector</title>
<style>{_STYLE}</style>
<h1>How the detector fares</h1>
<p>Precision, recall and mistakes at a score of {threshold}. On the contact sheets the mistake is
red, birds are green, other detections yellow; below stand the score and the picture's number.</p>
<table>
<tr>{"".join(f"<th>{name}</th>" for name in head)}</tr>
{table}
</table>
{figures}
"""
