"""Training on several machines: two processes of this one that talk over its loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")

import tensorflow as tf
from test_model_build import drawn_bird, jpeg

from model_build.train import choose_device, is_machine_gone, reason_of

ROOT = Path(__file__).parents[1]
STEPS, BATCH = 3, 4


@pytest.fixture
def feeder(tmp_path: Path) -> Path:
    """A folder of pictures with YOLO labels."""
    folder = tmp_path / "feeder"
    folder.mkdir()
    for number in range(24):
        picture, box = drawn_bird(number)
        (folder / f"{number}.jpg").write_bytes(jpeg(picture))
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        label = "0 " + " ".join(f"{v:.5f}" for v in (*centre, *size)) if number % 3 else ""
        (folder / f"{number}.txt").write_text(label)
    return folder


def start(feeder: Path, run: Path, cluster: list[str], index: int) -> subprocess.Popen[str]:
    command = [sys.executable, "tests/shallow.py", "train", "--data", str(feeder), "--from-scratch"]
    command += ["--run", str(run), "--size", "64", "--steps", str(STEPS), "--batch", str(BATCH)]
    # far too much, so that what a step changes shows in the loss of the next
    command += ["--learning-rate", "1"]
    # whatever was gathered in this checkout is not learnt with
    command += ["--packs", str(feeder.parent)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    if cluster:
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": cluster}, "task": task})
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    return addresses


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


def test_two_workers_learn_as_one_does_with_the_same_batch(feeder: Path, tmp_path: Path) -> None:
    addresses = free_addresses(2)
    one, two, idle = tmp_path / "one", tmp_path / "two", tmp_path / "idle"
    processes = [
        start(feeder, one, [], 0),
        start(feeder, two, addresses, 0),
        # a machine with a disk of its own
        start(feeder, idle, addresses, 1),
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-3)
    assert np.ptp(losses(one)) > 0.01
    # the first machine writes, the others do not
    written = {path.name for path in one.iterdir()}
    assert {path.name for path in two.iterdir()} == written
    assert {path.name for path in idle.iterdir()} == {"cutouts.zip"}
    assert list((one / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "told",
    [
        "{}",
        "[]",
        "not json",
        '{"task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["pc1:2222", "pc2:2222"]}}',
        '{"cluster": {"worker": ["pc1:2222"]}, "task": {"type": "worker"}}',
        '{"cluster": {"ps": ["pc1:2222"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_machines_that_are_not_told_are_asked_for(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", told)
    with pytest.raises(ValueError, match="TF_CONFIG cannot be understood: ") as caught:
        choose_device()
    assert "\n" not in str(caught.value)
    if told.startswith("{"):
        assert 'expected {"cluster": {"worker": [' in str(caught.value)


def test_a_machine_that_is_gone_is_told_from_other_errors() -> None:
    gone = (
        tf.errors.UnavailableError(None, None, "Socket closed"),
        tf.errors.AbortedError(None, None, "Connection reset by peer"),
        tf.errors.CancelledError(None, None, "cancelled"),
        tf.errors.DeadlineExceededError(None, None, "too late"),
        tf.errors.InternalError(None, None, "Collective ops is aborted by: Socket closed"),
    )
    ours = (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        tf.errors.InvalidArgumentError(None, None, "ValueError: no picture"),
        tf.errors.InternalError(None, None, "failed to launch a kernel"),
    )
    assert [is_machine_gone(error) for error in gone + ours] == [True] * 5 + [False] * 3


def test_the_line_of_an_error_that_says_what_is_wrong_is_found() -> None:
    @tf.function
    def step(number: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_less(number, 3, message="too much")]):
            return number + 1

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        step(tf.constant(5))
    assert "\n" not in reason_of(caught.value)
    assert "too much" in reason_of(caught.value)
    of_pictures = "{{function_node __wrapped__IteratorGetNext}} ValueError: a is not a picture\n"
    frames = "Traceback (most recent call last):\n\n  File x\n\nValueError: a is not a picture\n"
    node = "\n\n\t [[{{node PyFunc}}]] [Op:IteratorGetNext] name: "
    for message in (f"{of_pictures}{frames}{node}", of_pictures.strip()):
        error = tf.errors.InvalidArgumentError(None, None, message)
        assert reason_of(error) == "ValueError: a is not a picture"


BROKEN = """
import sys
from model_build import composing
from model_build.__main__ import main

def broken(composer, number):
    raise ValueError(f"picture {number} is damaged")

composing.Composer.__call__ = broken
main(sys.argv[1:])
"""


def train_with(code: str, feeder: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, "train", "--measure-input", "--data", str(feeder)]
    command += ["--run", str(tmp_path / "run"), "--size", "64", "--packs", str(tmp_path)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_training_ends_when_a_picture_cannot_be_composed(feeder: Path, tmp_path: Path) -> None:
    result = train_with(BROKEN, feeder, tmp_path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last == "Error: ValueError: picture 0 is damaged (InvalidArgumentError)"
    assert "Traceback" not in result.stderr


INTERRUPTED = """
import os, signal, sys
from model_build import composing
from model_build.__main__ import main

# a shell that starts the tests in the background has it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
compose = composing.Composer.__call__

def interrupt(composer, number):
    # again and again: Python drops one that comes while it frees something
    os.kill(os.getpid(), signal.SIGINT)
    return compose(composer, number)

composing.Composer.__call__ = interrupt
main(sys.argv[1:])
"""


def test_ctrl_c_ends_a_training_in_a_line(feeder: Path, tmp_path: Path) -> None:
    result = train_with(INTERRUPTED, feeder, tmp_path)
    assert result.returncode == 130
    assert result.stderr.endswith("\nstopped\n")
    assert "Traceback" not in result.stderr


TO_BE_KILLED = """
import multiprocessing, os, signal, time
from contextlib import suppress
from model_build.augment import Material
from model_build.composing import Composer, Workers

workers = Workers(Composer(Material([], [], [], [], []), 1, 64, 0.25), 1)
for number in range(2):
    with suppress(ValueError):  # there is nothing to compose of
        workers.compose(number)
    [process] = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGINT)
print("composes", flush=True)
time.sleep(60)
"""


def test_processes_that_compose_end_with_the_training_and_not_before() -> None:
    command = [sys.executable, "-c", TO_BE_KILLED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "composes\n"
        training.kill()
        # the pipe is closed when all who have it are gone
        assert training.communicate(timeout=20)[0] == ""
