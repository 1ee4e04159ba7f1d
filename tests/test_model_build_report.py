"""Reports and the card's page: what a person gets to see."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")

from test_model_build import detections, drawn_bird

from edgebird.model import (
    DEFAULT_DETECTOR,
    DatasetMetrics,
    InputScaling,
    ModelCard,
    OperatingPoint,
    TrainingData,
    load_model,
)
from edgebird.structures import Detections
from model_build.card_page import card_page
from model_build.datasets import Example
from model_build.metrics import SIZES, Truth, judge
from model_build.report import (
    Looked,
    _recall_bars,
    contact_sheet,
    false_alarms,
    misses,
    write_page,
)
from model_build.validation import ValidationSet, own_set

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SIZE = (160, 120)
NONE = np.zeros((0, 4), np.float32)
SMALL, LARGE = (10, 10, 20, 20), (50, 30, 130, 110)


def truth(*boxes: tuple[float, ...], kind: str = "plain") -> Truth:
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), SIZE, kind)


TRUTHS = [truth(SMALL, LARGE), truth(LARGE, kind="backlit"), truth()]
FOUND = [
    detections((*SMALL, 0.3), (100, 5, 120, 25, 0.7)),  # a doubtful bird, and a false alarm
    detections((*LARGE, 0.9)),
    detections((5, 5, 40, 40, 0.8), (60, 60, 90, 90, 0.2)),
]


def looked(
    name: str, kind: str, found: list[Detections], truths: list[Truth], files: Sequence[str] = ()
) -> Looked:
    items = [lambda t=t: (drawn_bird(1, SIZE)[0], t) for t in truths]
    dataset = ValidationSet(name, items, files)
    return Looked(dataset, kind, found, truths, judge(found, truths))


def test_misses_are_told_largest_first_with_the_score_that_was_not_enough() -> None:
    found = [(m.picture, tuple(m.box), round(m.score, 2)) for m in misses(FOUND, TRUTHS, 0.5)]
    assert found == [(0, LARGE, 0.0), (0, SMALL, 0.3)]
    assert len(misses(FOUND, TRUTHS, 0.25)) == 1


def test_false_alarms_are_told_surest_first() -> None:
    found = [(m.picture, round(m.score, 2)) for m in false_alarms(FOUND, TRUTHS, 0.5)]
    assert found == [(2, 0.8), (0, 0.7)]
    assert len(false_alarms(FOUND, TRUTHS, 0.1)) == 3


def test_a_contact_sheet_shows_each_mistake_in_red() -> None:
    one = looked("val", "int8", FOUND, TRUTHS)
    sheet = contact_sheet(misses(FOUND, TRUTHS, 0.5), one, 0.5)
    assert sheet.dtype == np.uint8
    red = (sheet == (230, 60, 50)).all(axis=2)
    for cell in range(2):
        assert red[:200, 200 * cell : 200 * cell + 200].any()
    assert not red[:, 400:].any()


def test_the_page_shows_every_picture_that_was_written(tmp_path: Path) -> None:
    everything = [looked("val", kind, FOUND, TRUTHS) for kind in ("float", "int8")]
    everything.append(looked("empty-hard", "int8", FOUND[2:], TRUTHS[2:]))
    page = write_page(everything, 0.5, tmp_path / "report")
    text = page.read_text()
    shown = re.findall(r'<img src="([^"]+)"', text)
    assert sorted([*shown, page.name]) == sorted(p.name for p in page.parent.iterdir())
    assert {"precision-recall.png", "recall-by-size.png", "false-alarms.png"} <= set(shown)
    assert {"misses-val-float.jpg", "false-alarms-empty-hard-int8.jpg"} <= set(shown)
    for name in shown:
        assert cv2.imread(str(page.parent / name)) is not None, name
    # AP50, precision and recall of the first row
    assert "<td>val</td><td>float</td><td>0.500</td><td>0.333</td><td>0.333</td>" in text
    assert "<td>1 of 1</td>" in text


def test_the_page_says_which_files_the_numbers_are(tmp_path: Path) -> None:
    # the second name is not UTF-8
    files = ["garden/monday/1.jpg", "garden/b\udcff.jpg", "garden/<3>.jpg"]
    assert own_set([Example(file, b"", NONE) for file in files]).files == files
    found = [FOUND[0], Detections.none(), FOUND[2]]
    own, composed = looked("own", "int8", found, TRUTHS, files), looked("c", "int8", found, TRUTHS)
    text = write_page([own, composed], 0.5, tmp_path).read_text(encoding="utf-8")
    assert text.count("#0 = garden/monday/1.jpg, #1 = garden/b\\udcff.jpg") == 1
    assert text.count("#0 = garden/monday/1.jpg, #2 = garden/&lt;3&gt;.jpg") == 1
    assert text.count("#0 = ") == 2


@pytest.mark.parametrize("count", [1, 4])
def test_no_legend_covers_a_bars_figure(count: int) -> None:
    kinds = ("float", "int8", "frames", "stills")
    everything = [looked(f"s{i}", kind, FOUND, TRUTHS) for i in range(count) for kind in kinds]
    figure = _recall_bars(everything, 0.5, "recall_by_size", "size")
    assert figure is not None
    figure.savefig(io.BytesIO())
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(kinds)
    for axis in figure.axes:
        assert axis.get_legend() is None
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())


def test_a_perfect_model_has_a_page_without_mistakes(tmp_path: Path) -> None:
    truths = [truth(LARGE), truth()]
    found = [detections((*LARGE, 0.9)), Detections.none()]
    page = write_page([looked("val", "int8", found, truths)], 0.5, tmp_path)
    assert not list(page.parent.glob("*.jpg"))


def card(**metrics: dict[str, DatasetMetrics]) -> ModelCard:
    return ModelCard(
        name="edgebird detector",
        task="detector",
        input_size_px=(256, 256),
        input_scaling=InputScaling(127.0, 128.0),
        outputs=["objectness", "box"],
        stride_px=8,
        labels=["bird"],
        threshold=0.45,
        threshold_chosen_at=OperatingPoint("val", 0.97, 0.93),
        metrics=metrics,
        training_data=[TrainingData("some photos", "research only")],
        licence="Apache-2.0",
        commit="c" * 40,
        sha256="5" * 64,
    )


def test_the_cards_page_has_data_terms_limits_and_the_int8_models_figures() -> None:
    stills = DatasetMetrics(1700, 1500, 0.971, 0.95, 0.934, 300, 2, {"tiny": 0.5, "large": 0.99})
    frames = DatasetMetrics(1700, 1500, 0.968, 0.94, 0.924, 300, 3)
    int8 = DatasetMetrics(1700, 1500, 0.961, 0.94, 0.924, 300, 3)
    full = DatasetMetrics(1700, 1500, 0.965, 0.96, 0.93, 300, 1)
    kinds = {"float": full, "int8": int8, "frames": frames, "stills": stills}
    page = card_page(card(val=kinds))
    figures = "0.971 | 0.968 | 0.961 | 0.965 | 0.950 | 0.934 | 2 of 300"
    assert f"| `val` | 1,700 | 1,500 | {figures} |" in page
    assert "| some photos | research only |" in page
    assert "| tiny | 0.500 |" in page
    assert "threshold of 0.45" in page
    assert "## Limits" in page
    assert "`cccccccccccc`" in page
    assert "Not measured yet" in card_page(card())


def test_the_cards_page_has_sizes_in_order_and_no_precision_without_birds() -> None:
    one = DatasetMetrics(9, 9, 0.9, 0.9, 0.9, 0, 0, {"small": 0.1, "large": 0.2})
    other = DatasetMetrics(9, 9, 0.9, 0.9, 0.9, 0, 0, {"tiny": 0.3, "medium": 0.4})
    empty = DatasetMetrics(400, 0, None, 0.0, None, 400, 3)
    page = card_page(
        card(**{name: {"stills": s} for name, s in zip("abc", (one, other, empty), strict=True)})
    )
    assert re.findall(r"^\| (tiny|small|medium|large) ", page, re.MULTILINE) == list(SIZES)
    assert "| `c` | 400 | 0 | - | - | - | - | - | - | 3 of 400 |" in page


def test_the_shipped_models_page_is_that_of_its_card() -> None:
    page = DEFAULT_DETECTOR.with_suffix(".md")
    assert page.read_text(encoding="utf-8") == card_page(
        load_model(DEFAULT_DETECTOR, "detector").card
    )
