"""Bird or not: the classifier on a network whose answers are known, and the command."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_cli import assert_one_clear_line, edgebird, lines_of

from edgebird.classify import Classifier, Verdict, classify_pictures, fit_to_input
from edgebird.errors import CameraError
from edgebird.model import DEFAULT_CLASSIFIER, InputScaling, ModelCard, load_model
from edgebird.testing import FakeBatchInterpreter


def card(threshold: float = 0.5) -> ModelCard:
    return ModelCard(
        name="fake",
        task="classifier",
        input_size_px=(32, 32),
        input_scaling=InputScaling(127, 128),
        outputs=["log_odds"],
        stride_px=32,
        labels=["bird"],
        threshold=threshold,
        threshold_chosen_at=None,
        metrics={},
        training_data=[],
        licence="none",
        commit="none",
        sha256="0" * 64,
    )


def classifier(threshold: float = 0.5) -> Classifier:
    return Classifier(FakeBatchInterpreter(), card(threshold))


def plain(value: int, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.full((size[1], size[0], 3), value, np.uint8)


# --- the classifier


def test_a_probability_is_that_of_the_log_odds() -> None:
    bright, middle, dark = classifier().probabilities([plain(255), plain(128), plain(0)])
    assert middle == pytest.approx(0.5)
    assert bright == pytest.approx(1 / (1 + np.exp(-127 / 16)))
    assert dark == pytest.approx(1 / (1 + np.exp(8)))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_any_number_of_pictures_is_answered_in_order(count: int) -> None:
    values = [(7 * i) % 256 for i in range(count)]
    odds = classifier().log_odds([plain(v) for v in values])
    assert odds.dtype == np.float32
    np.testing.assert_allclose(odds, [(v - 128) / 16 for v in values], atol=1e-5)


def test_many_pictures_go_through_the_network_in_batches_of_one_size() -> None:
    interpreter = FakeBatchInterpreter()
    Classifier(interpreter, card()).log_odds([plain(1)] * 40)
    assert interpreter.batches == [16, 16, 16]


class LeftSide(FakeBatchInterpreter):
    """Only looks at the left half of its pictures."""

    def run_batch(self, images: np.ndarray) -> list[np.ndarray]:
        return super().run_batch(images[:, :, : images.shape[2] // 2])


@pytest.mark.parametrize("count", [0, 1, 8, 9, 20])
def test_a_thorough_look_says_the_mean_of_a_picture_and_its_mirror_image(count: int) -> None:
    pictures = []
    for i in range(count):
        picture = plain(10 * i)
        picture[:, 20:] = 200
        pictures.append(picture)
    interpreter = LeftSide()
    odds = Classifier(interpreter, card(), thorough=True).log_odds(pictures)
    assert odds.dtype == np.float32
    wanted = [((10 * i - 128) + (200 - 128)) / 32 for i in range(count)]
    np.testing.assert_allclose(odds, wanted, atol=0.15)
    assert max(interpreter.batches, default=0) <= 16


def test_a_thorough_look_sees_the_middle_from_closer() -> None:
    """Bright at its border only: seen whole and once more without most of the border."""
    picture = plain(0)
    picture[:2], picture[-2:] = 255, 255
    looked_once = classifier().log_odds([picture])
    interpreter = FakeBatchInterpreter()
    [thorough] = Classifier(interpreter, card(), thorough=True).log_odds([picture])
    assert interpreter.batches == [4]
    assert -8 < thorough < looked_once[0] - 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (32, 32), (3000, 20)])
def test_a_picture_of_any_shape_fits(size: tuple[int, int]) -> None:
    fitted = fit_to_input(plain(77, size), (32, 24))
    assert fitted.shape == (24, 32, 3)
    assert fitted.dtype == np.uint8
    assert (fitted == 77).all()


def verdicts(*sources: str | Path, threshold: float | None = None) -> list[Verdict]:
    found: list[Verdict] = []
    names = [str(source) for source in sources]
    classify_pictures(names, classifier(0.9), found.append, threshold=threshold)
    return found


def test_pictures_folders_and_globs_are_classified_in_order(tmp_path: Path) -> None:
    for name, value in (("b.png", 250), ("a.png", 5), ("c.jpg", 150)):
        cv2.imwrite(str(tmp_path / name), plain(value))
    found = verdicts(tmp_path, tmp_path / "b.png", f"{tmp_path}/[ac].*")
    assert [v.path.name for v in found] == ["a.png", "b.png", "c.jpg", "b.png", "a.png", "c.jpg"]
    assert [v.bird for v in found[:3]] == [False, True, False]
    # The model's own threshold is 0.9 here; a lower one lets the middling one pass.
    assert [v.bird for v in verdicts(tmp_path, threshold=0.5)] == [False, True, True]


def test_a_bad_picture_is_told_and_the_rest_is_classified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), plain(250))
    (tmp_path / "bad.png").write_text("no picture")
    found: list[Verdict] = []
    sources = [str(tmp_path), "nowhere.jpg", str(tmp_path / "good.png")]
    with pytest.raises(CameraError, match="2 of 3"):
        classify_pictures(sources, classifier(), found.append)
    assert [v.path.name for v in found] == ["good.png", "good.png"]
    assert "bad.png" in caplog.text
    assert "nowhere.jpg" in caplog.text


# --- odd pictures


def test_a_picture_in_printing_colours_is_classified(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow writes CMYK, OpenCV does not")
    pillow.new("CMYK", (40, 30), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    [verdict] = verdicts(tmp_path / "print.jpg")
    assert verdict.probability > 0.99


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("one.png", np.full((1, 1, 3), 200, np.uint8)),
        ("grey.png", np.full((40, 40), 200, np.uint8)),
        ("deep.png", np.full((40, 40, 3), 200 * 257, np.uint16)),
        ("transparent.png", np.full((40, 40, 4), 200, np.uint8)),
        ("large.jpg", np.full((7100, 7100), 200, np.uint8)),
    ],
)
def test_odd_pictures_are_classified(name: str, pixels: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / name), pixels)
    [verdict] = verdicts(tmp_path / name)
    assert verdict.probability == pytest.approx(1 / (1 + np.exp(-72 / 16)), abs=0.01)


def test_an_animation_is_refused_or_its_first_picture_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Two pictures of 2 x 2: white, then black. Whether OpenCV reads GIF depends on its version.
    colours = b"\xff\xff\xff\0\0\0"
    image = b"!\xf9\x04\0\x0a\0\0\0,\0\0\0\0\x02\0\x02\0\0\x02\x03"
    frames = image + b"\x04\x80\x02\0" + image + b"\x4c\x92\x02\0"
    path = tmp_path / "moving.gif"
    path.write_bytes(b"GIF89a\x02\0\x02\0\x80\0\0" + colours + frames + b";")
    try:
        [verdict] = verdicts(path)
        assert verdict.probability > 0.99
    except CameraError:
        assert "moving.gif" in caplog.text


# --- the shipped classifier and the command


def test_the_shipped_classifier_is_as_good_as_its_readers_are_told() -> None:
    model = load_model(DEFAULT_CLASSIFIER, "classifier")
    assert len(model.content) < 6e6
    assert re.fullmatch(r"[0-9a-f]{40}", model.card.commit)
    for name, pictures in (("hold-out", 15_000), ("cifar-10", 10_000)):
        kinds = model.card.classifier_metrics[name]
        assert set(kinds) == {"float", "int8"}
        assert kinds["int8"].pictures == pictures
        assert kinds["int8"].accuracy >= 0.975
        assert kinds["int8"].calibration_error <= 0.02


def test_the_command_answers_in_lines_or_json(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), plain(127, (96, 96)))
    lines = edgebird("classify", tmp_path)
    assert lines.returncode == 0, lines.stderr
    assert re.fullmatch(r"grey\.png: no bird \(0\.\d\d\)\n", lines.stdout)
    [record] = lines_of(edgebird("classify", "--json", tmp_path / "grey.png"))
    assert list(record) == ["image", "bird", "probability"]
    assert record["image"] == "grey.png"
    assert record["bird"] is False
    assert 0 <= record["probability"] < 0.5


def test_pictures_of_several_folders_are_told_apart(tmp_path: Path) -> None:
    names = []
    for day in ("day1", "day2"):
        (tmp_path / day).mkdir()
        names.append(str(tmp_path / day / "bird.png"))
        cv2.imwrite(names[-1], plain(127))
    found = lines_of(edgebird("classify", "--json", *names))
    assert [record["image"] for record in found] == names
    assert [verdict.name for verdict in verdicts(*names)] == names
    assert [verdict.name for verdict in verdicts(tmp_path / "day1", names[0])] == ["bird.png"] * 2


def test_the_command_goes_on_after_bad_input_and_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), plain(127))
    (tmp_path / "empty.jpg").write_bytes(b"")
    result = edgebird("classify", "--json", "missing.jpg", tmp_path)
    assert result.returncode == 3
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == ["good.png"]
    assert "missing.jpg" in result.stderr
    assert "empty.jpg" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_that_is_not_utf_8_is_printed_with_replacements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    cv2.imwrite(str(tmp_path / "a.png"), plain(127))
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"v\xf6gel.png"))
    shown = "v\N{REPLACEMENT CHARACTER}gel.png"
    for command in (("classify",), ("detect", "--source")):
        lines, record = edgebird(*command, tmp_path), edgebird(*command, tmp_path, "--json")
        assert lines.stdout.startswith(f"{shown}: no bird"), lines.stderr
        assert [line["image"] for line in lines_of(record)] == [shown]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("classify", "--model", "{folder}/none.tflite", "x.jpg"), 4, "none.tflite"),
        (("detect", "--detector", "window", "--verify", "--source", "demo:"), 2, "--verify"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    arguments: tuple[str, ...], code: int, word: str, tmp_path: Path
) -> None:
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    assert_one_clear_line(edgebird(*filled), code, word)


@pytest.mark.parametrize("options", [("--detector", "window"), ("--verify",)])
def test_the_classifier_finds_or_verifies_birds_in_pictures(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), plain(127, (96, 72)))
    [record] = lines_of(edgebird("detect", "--source", tmp_path, "--json", *options))
    assert record["detections"] == []
