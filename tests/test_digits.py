"""The digits ladder, climbed in a hurry on the digits that scikit-learn carries."""

from __future__ import annotations

import gzip
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")
pytest.importorskip("sklearn", reason="scikit-learn is in the newest run only")
with pytest.MonkeyPatch.context() as patch:
    # TensorFlow writes to standard error while it is imported.
    patch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

from model_build.digits import (
    CANVAS_PX,
    DIGIT_PX,
    Canvases,
    climb,
    load_digits,
    pipeline,
    scaled_steps,
    table,
)
from model_build.work import multiply_accumulates

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def test_the_ladder_shows_what_each_idea_buys(tmp_path: Path) -> None:
    rungs = {rung.name[0] + rung.name[3:10]: rung for rung in climb(
        load_digits(None), tmp_path, effort=0.08
    )}  # fmt: skip
    a, b, c, _, e, window, conv = rungs.values()
    assert a.centred is not None
    assert a.centred > 0.9
    # The same network is lost where it was not trained to look; sliding it helps, at a price.
    assert b.off_centre is not None
    assert b.off_centre < 0.7
    assert c.off_centre is not None
    assert c.off_centre > b.off_centre + 0.1
    assert c.multiply_accumulates == 100 * a.multiply_accumulates
    # The pipeline does not care where the digit is.
    assert e.centred is not None
    assert e.off_centre is not None
    assert e.off_centre > max(0.8, e.centred - 0.08)
    # Its int8 form is as good; it cannot be if the output's range leaves out the 8s.
    assert window.centred is not None
    assert window.centred > 0.85
    # Convolution shares what the sliding window computes over and over.
    assert window.multiply_accumulates > 5 * conv.multiply_accumulates
    assert len(table(list(rungs.values())).splitlines()) == 8
    for name in ("a", "b", "c", "d", "e", "f_window", "f_conv", "ladder"):
        assert cv2.imread(str(tmp_path / f"{name}.png")) is not None


@pytest.mark.parametrize(("effort", "steps"), [(1.0, 2000), (0.08, 160), (1e-5, 1)])
def test_the_shortest_training_is_one_step(effort: float, steps: int) -> None:
    assert scaled_steps(2000, effort) == steps


def test_mnists_files_are_read_and_others_refused(tmp_path: Path) -> None:
    pictures = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    head = b"\0\0\x08\x03" + np.array([2, 28, 28], ">u4").tobytes()
    labels = b"\0\0\x08\x01" + np.array([2], ">u4").tobytes() + b"\x08\x03"
    for part in ("train", "t10k"):
        images = gzip.compress(head + pictures.tobytes())
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(images)
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    digits = load_digits(tmp_path)
    assert digits.source == "MNIST"
    np.testing.assert_array_equal(digits.test, pictures)
    assert digits.train_labels.tolist() == [8, 3]
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match="t10k-labels"):
        load_digits(tmp_path)


@pytest.fixture(scope="module")
def canvases() -> Canvases:
    digits = load_digits(None)
    return Canvases(digits.train, digits.train_labels, 1)


def test_digits_stand_in_the_middle_or_anywhere(canvases: Canvases) -> None:
    centred, labels = canvases.one_each(50, anywhere=False)
    margin = (CANVAS_PX - DIGIT_PX) // 2
    assert centred[:, :margin].max() == centred[:, :, :margin].max() == 0
    assert 0.3 < labels.mean() < 0.7
    anywhere, _ = canvases.one_each(200, anywhere=True, sizes=(0.8, 1.25))
    ink = anywhere.max(axis=(0, 3)) > 0.3
    assert all(side.any() for side in (ink[:6], ink[-6:], ink[:, :6], ink[:, -6:]))


def test_several_digits_do_not_overlap(canvases: Canvases) -> None:
    canvas, boxes, eights = canvases.several(144, 28, 9)
    assert canvas.shape == (144, 144)
    assert len(boxes) == len(eights) > 4
    apart = np.abs(boxes[:, None, :2] - boxes[None, :, :2]).max(axis=2)
    assert apart[~np.eye(len(boxes), dtype=bool)].min() >= 28


def test_the_pipelines_map_is_its_verdict_on_every_window() -> None:
    keras.utils.set_random_seed(3)
    one, many = pipeline(), pipeline(CANVAS_PX + 16)
    many.set_weights(one.get_weights())
    canvas = np.random.default_rng(0).random((1, CANVAS_PX + 16, CANVAS_PX + 16, 1), np.float32)
    grid = np.asarray(many(canvas))[0]
    assert grid.shape == (3, 3, 2)
    for row in range(3):
        for column in range(3):
            y, x = 8 * row, 8 * column
            window = canvas[:, y : y + CANVAS_PX, x : x + CANVAS_PX]
            np.testing.assert_allclose(grid[row, column], one(window)[0, 0, 0], atol=1e-5)
    assert multiply_accumulates(many) < 3 * 3 * multiply_accumulates(one)
