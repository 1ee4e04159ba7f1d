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

from test_model_build import drawn_bird, jpeg

ROOT = Path(__file__).parents[1]
STEPS, BATCH = 6, 4


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
    command = [sys.executable, "-m", "model_build", "train", "--data", str(feeder)]
    command += ["--run", str(run), "--size", "64", "--steps", str(STEPS), "--batch", str(BATCH)]
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
