"""Checkpoints: which training they belong to, and what happens to damaged ones; weights."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from edgebird.errors import OutputError
from model_build.checkpoint import (
    CHECKPOINT,
    checksum_of,
    restore_checkpoint,
    save_checkpoint,
    settings_of,
)
from model_build.whole_files import save_weights


@dataclass(frozen=True)
class Settings:
    """A recipe."""

    steps: int = 9


class Variable:
    """Holds an array as Keras's variables do."""

    def __init__(self, value: float) -> None:
        self.value = np.full(3, value, np.float32)

    def numpy(self) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = value


def state(*values: float) -> list[Variable]:
    return [Variable(value) for value in values]


def restored(path: Path, *, variables: int = 2, start: int = 0) -> list[float]:
    """The step, and the variables' values."""
    fresh = state(*[0.0] * variables)
    step = restore_checkpoint(path, fresh, Settings(), pictures=7, start=start)
    return [step, *(float(variable.value[0]) for variable in fresh)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, state(1.0, 2.0), 5, Settings(), pictures=7, start=11)
    return path


def test_a_training_goes_on_with_the_weights_it_began_with_only(path: Path) -> None:
    assert restored(path, start=11) == [5, 1.0, 2.0]
    for other in (0, 12):
        with pytest.raises(
            ValueError, match=r"began with other weights \(--start-from\); give the"
        ):
            restored(path, start=other)


def test_a_checkpoint_that_does_not_tell_its_weights_goes_on(path: Path) -> None:
    arrays = {f"{i:04d}": np.full(3, i, np.float32) for i in range(2)}
    np.savez(path, step=4, recipe=json.dumps(asdict(Settings())), pictures=7, **arrays)
    assert restored(path, start=12) == [4, 0.0, 1.0]


def test_weights_are_told_from_others_by_what_is_in_their_file(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"another")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (checksum_of(tmp_path / name) for name in "abc")
    assert a == b != c
    assert checksum_of(None) == 0


@pytest.mark.parametrize("variables", [1, 4])
def test_what_began_on_a_gpu_does_not_go_on_without(path: Path, variables: int) -> None:
    with pytest.raises(ValueError, match=f"has 2 arrays, and {variables} are needed: .* GPU"):
        restored(path, variables=variables, start=11)


@pytest.mark.parametrize("how", ["empty", "cut short", "of noise", "changed"])
def test_a_damaged_checkpoint_is_told_in_a_line(path: Path, how: str) -> None:
    content = path.read_bytes()
    where = content.index(np.full(3, 2.0, np.float32).tobytes())
    damaged = {
        "empty": b"",
        "cut short": content[:-100],
        "of noise": b"noise" * 99,
        "changed": content[:where] + b"\1" + content[where + 1 :],
    }
    path.write_bytes(damaged[how])
    with pytest.raises(ValueError, match=r"checkpoint\.npz is damaged: delete it"):
        restored(path, start=11)
    if how != "changed":
        with pytest.raises(ValueError, match="is damaged"):
            settings_of(path)


def test_a_full_disk_costs_the_new_checkpoint_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError) as caught:
        save_checkpoint(path, state(8.0, 9.0), 6, Settings(), pictures=7, start=11)
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert list(path.parent.iterdir()) == [path]
    assert restored(path, start=11) == [5, 1.0, 2.0]


class Network:
    """Its weights are written in part, and then an error ends it, if any."""

    def __init__(self, error: Exception | None) -> None:
        self.variables = state(1.0)
        self._error = error

    def save_weights(self, path: Path) -> None:
        path.write_bytes(b"half")
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "Can't write data (\n, errno = 28"), "No space left on device"),
        (RuntimeError("Can't decrement (time = now\n, errno = 28"), "Can't decrement (time = now"),
    ],
)
def test_weights_that_cannot_be_written_leave_those_before(
    tmp_path: Path, error: Exception, told: str
) -> None:
    path = tmp_path / "detector.weights.h5"
    path.write_bytes(b"before")
    with pytest.raises(OutputError) as caught:
        save_weights(Network(error), path)
    assert str(caught.value) == f"cannot write {path}: {told}"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"
    save_weights(Network(None), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"half"


def test_weights_are_not_begun_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What h5py prints on a full disk cannot be caught."""

    def full(descriptor: int, offset: int, length: int) -> None:
        assert length >= 12
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_weights(Network(AssertionError()), tmp_path / "detector.weights.h5")
    assert list(tmp_path.iterdir()) == []
