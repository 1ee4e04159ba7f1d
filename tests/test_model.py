"""The shipped model, its card, and what happens when they do not fit."""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgebird.errors import ModelError, OutputError
from edgebird.interpreter import TfliteInterpreter, default_threads, interpreter_name
from edgebird.model import DEFAULT_DETECTOR, ModelCard, load_model, write_model


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for suffix in (".tflite", ".json"):
        shutil.copy(DEFAULT_DETECTOR.with_suffix(suffix), tmp_path / f"model{suffix}")
    return tmp_path / "model.tflite"


def change_card(path: Path, **changes: object) -> None:
    card = path.with_suffix(".json")
    values = msgspec.json.decode(card.read_bytes())
    card.write_bytes(msgspec.json.encode(values | changes))


def test_the_shipped_model_is_small_and_its_card_complete() -> None:
    model = load_model(DEFAULT_DETECTOR, "detector")
    assert len(model.content) < 5e6
    assert set(model.card.metrics) == {"val", "val-small", "nestbox", "empty-hard"}
    kinds = {"float", "int8", "frames", "stills"}
    assert all(set(figures) == kinds for figures in model.card.metrics.values())
    assert re.fullmatch(r"[0-9a-f]{40}", model.card.commit)
    assert len(model.card.training_data) > 3
    assert 0 < model.card.threshold < 1


def test_the_shipped_model_is_int8_with_exact_pixels() -> None:
    model = load_model(DEFAULT_DETECTOR, "detector")
    interpreter = TfliteInterpreter(model, 1)
    width, height = interpreter.input_size
    grey = interpreter.run([np.full((height, width, 3), 127, np.uint8)] * 2)
    assert [output.dtype for output in grey] == [np.float32, np.float32]
    cells = (height // model.card.stride_px, width // model.card.stride_px)
    assert sorted(output.shape for output in grey) == [(2, *cells, 1), (2, *cells, 4)]
    # Plain grey is not a bird.
    objectness = grey[model.card.outputs.index("objectness")]
    assert 1 / (1 + np.exp(-objectness.max())) < model.card.threshold


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which two libraries to run models are looked for, first and second."""
    monkeypatch.syspath_prepend(tmp_path)
    names = [("click", f"{tmp_path.name}_first"), ("no-package", f"{tmp_path.name}_second")]
    monkeypatch.setattr("edgebird.interpreter._LIBRARIES", names)
    return tmp_path


def test_a_broken_library_is_told_of(libraries: Path) -> None:
    model = load_model(DEFAULT_DETECTOR, "detector")
    (libraries / f"{libraries.name}_second.py").write_text("")
    told = "No module named .*_first.*_second' has no attribute 'Interpreter'"
    with pytest.raises(ModelError, match=told) as caught:
        TfliteInterpreter(model, 1)
    assert "\n" not in str(caught.value)


def test_the_library_that_is_named_is_the_one_that_loads(libraries: Path) -> None:
    (libraries / f"{libraries.name}_second.py").write_text("Interpreter = None")
    assert interpreter_name() == "no-package"
    (libraries / f"{libraries.name}_first.py").write_text("Interpreter = None")
    importlib.invalidate_caches()
    assert interpreter_name() == f"click {version('click')}"


def test_a_library_for_another_numpy_is_told_of(libraries: Path) -> None:
    (libraries / f"{libraries.name}_first.py").write_text(
        "def Interpreter(**_):\n    raise SystemError('returned a result with an exception set')\n"
    )
    with pytest.raises(ModelError, match=r"cannot be loaded: returned a result with an exception"):
        TfliteInterpreter(load_model(DEFAULT_DETECTOR, "detector"), 1)


@pytest.mark.parametrize("how", ["raise ImportError from error", "raise AttributeError"])
def test_ctrl_c_while_a_library_loads_is_no_missing_library(libraries: Path, how: str) -> None:
    model = load_model(DEFAULT_DETECTOR, "detector")
    (libraries / f"{libraries.name}_first.py").write_text(
        f"try:\n    raise KeyboardInterrupt\nexcept BaseException as error:\n    {how}\n"
    )
    with pytest.raises(KeyboardInterrupt):
        TfliteInterpreter(model, 1)


def test_any_number_of_threads_gives_the_same(rng_image: np.ndarray) -> None:
    model = load_model(DEFAULT_DETECTOR, "detector")
    one, two = (TfliteInterpreter(model, threads).run([rng_image]) for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert default_threads() >= 1


@pytest.fixture
def rng_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)


def test_a_picture_of_another_size_is_refused(rng_image: np.ndarray) -> None:
    interpreter = TfliteInterpreter(load_model(DEFAULT_DETECTOR, "detector"), 1)
    with pytest.raises(ValueError, match=re.escape("(100, 256, 3)")):
        interpreter.run([rng_image, rng_image[:100]])


def refusal(path: Path, task: str = "detector") -> str:
    with pytest.raises(ModelError) as caught:
        TfliteInterpreter(load_model(path, task), 1)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_model_or_card_is_named(tmp_path: Path, copied: Path) -> None:
    assert "--model" in refusal(tmp_path / "none.tflite")
    copied.with_suffix(".json").unlink()
    assert "needs its card" in refusal(copied)


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_is_no_model(name: str) -> None:
    assert "Is a directory" in refusal(Path(name))


def test_a_damaged_model_does_not_match_its_card(copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    assert "does not belong to its card" in refusal(copied)


def test_a_card_that_is_no_card_is_refused(copied: Path) -> None:
    copied.with_suffix(".json").write_text("{}")
    assert "is not valid" in refusal(copied)
    copied.with_suffix(".json").write_text("not json")
    assert "is not valid" in refusal(copied)
    copied.with_suffix(".json").write_bytes('{"licence": "für alle"}'.encode("latin-1"))
    assert "is not valid" in refusal(copied)


def test_a_model_for_another_task_is_refused(copied: Path) -> None:
    change_card(copied, task="classifier")
    assert "is a classifier" in refusal(copied)


def test_what_is_no_tflite_file_is_refused(copied: Path) -> None:
    copied.write_bytes(b"no model at all")
    change_card(copied, sha256=hashlib.sha256(b"no model at all").hexdigest())
    assert "cannot be loaded" in refusal(copied)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"input_size_px": [320, 320]}, "its card says"),
        ({"stride_px": 16}, "its card says"),
        ({"outputs": ["objectness"]}, "its card names 1"),
        ({"outputs": ["colour", "colour"]}, "unknown output 'colour'"),
        ({"outputs": ["box", "box"]}, "its card"),
        ({"stride_px": 0}, "is not valid: Expected `int` >= 1"),
        ({"threshold": 7.0}, "is not valid: Expected `float` <= 1"),
        ({"threshold": -3.0}, "is not valid: Expected `float` >= 0"),
        ({"input_scaling": {"mean": 127, "scale": 0}}, "is not valid: Expected `float` > 0"),
    ],
)
def test_a_card_that_says_something_else_is_refused(
    copied: Path, change: dict[str, object], complaint: str
) -> None:
    change_card(copied, **change)
    assert complaint in refusal(copied)


def test_a_card_survives_writing_and_reading(tmp_path: Path) -> None:
    model = load_model(DEFAULT_DETECTOR, "detector")
    write_model(model.content, model.card, tmp_path / "new" / "m.tflite")
    again: ModelCard = load_model(tmp_path / "new" / "m.tflite", "detector").card
    assert again == model.card


def test_a_model_that_is_there_already_is_left_alone(copied: Path) -> None:
    model = load_model(copied, "detector")
    before = copied.stat()
    card = msgspec.structs.replace(model.card, threshold=0.123)
    write_model(model.content, card, copied)
    assert load_model(copied, "detector").card == card
    after = copied.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_model_that_cannot_be_written_leaves_the_one_before(copied: Path) -> None:
    model = load_model(copied, "detector")
    # in the way of what is written second
    (copied.parent / ".model.json.partial").mkdir()
    card = msgspec.structs.replace(model.card, threshold=0.123)
    with pytest.raises(OutputError, match=r"cannot write .*model\.tflite: Is a directory"):
        write_model(b"another", card, copied)
    assert load_model(copied, "detector") == model
    assert len(list(copied.parent.iterdir())) == 3
