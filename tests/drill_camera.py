"""A camera that breaks in every way, again and again; ``python tests/drill_camera.py --help``.

The camera is read by the real process. A file tells the capture in there what to do: to be gone, to
hang, to freeze, to give garbage, another size, or pictures far too seldom. The loop must go on
within 10 s of the camera's return each time, and nothing may be left behind.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stand_ins  # noqa: F401  (tells the process that reads the camera where to find this file)

from edgebird.camera.live import LiveCamera, Patience
from edgebird.camera.slot import Picture
from edgebird.controls import Controls
from edgebird.detector.conv import ConvDetector
from edgebird.errors import CameraError
from edgebird.evidence import Evidence, EvidenceSettings
from edgebird.faults import FaultWatch
from edgebird.health import HealthReporter
from edgebird.motion import MotionGate
from edgebird.pipeline import Senses, Summary, run
from edgebird.schedule import Schedule, ScheduleSettings
from edgebird.structures import Event, FrameProcessed, Health
from edgebird.testing import FakeInterpreter
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings
from edgebird.zones import Zones, ZoneSettings

FAULTS = ("gone", "hung", "frozen", "garbage", "size", "slow")
WELL_WITHIN_S = 10.0


class ObedientCapture:
    """Gives 20 noisy pictures a second, or does what the file says."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self._rng = np.random.default_rng()
        self._last = self._noise(96, 128)
        if orders.read_text() == "gone":
            raise CameraError("the cable is pulled out")

    def read(self) -> Picture | None:
        order = self._orders.read_text()
        time.sleep(3.0 if order == "slow" else 0.05)
        if order == "hung":
            time.sleep(3600)
        if order == "gone":
            return None
        if order == "garbage":
            empty = np.zeros((0, 0, 3), np.uint8)
            broken = empty if self._rng.random() < 0.5 else self._last[..., 0]
            return Picture(broken, time.monotonic(), time.time())
        if order != "frozen":
            self._last = self._noise(*((48, 64) if order == "size" else (96, 128)))
        return Picture(self._last, time.monotonic(), time.time())

    def release(self) -> None:
        pass

    def _noise(self, height: int, width: int) -> np.ndarray:
        return self._rng.integers(60, 180, (height, width, 3), dtype=np.uint8)


def obedient_capture(orders: str) -> ObedientCapture:
    return ObedientCapture(Path(orders))


class Watcher:
    """A sink that knows when the loop last processed a good frame, and which faults it reported."""

    def __init__(self) -> None:
        self.good_s = 0.0
        self.reported: set[str] = set()
        self.sizes: set[tuple[int, int]] = set()
        self._frame: bytes = b""

    def emit(self, event: Event) -> None:
        if isinstance(event, FrameProcessed):
            pixels = event.frame.image[::8, ::8].tobytes()
            if event.frame.size == (128, 96) and pixels != self._frame:
                self.good_s = event.frame.monotonic_s
            self._frame = pixels
        elif isinstance(event, Health):
            self.reported |= set(event.faults)

    def close(self) -> None:
        pass


@dataclass
class Outcome:
    """What a drill came to: the longest way back, faults reported, and what was left behind."""

    faults: int
    worst_s: float
    reported: set[str]
    files_left: int
    threads_left: int
    processes_left: int

    def complaint(self) -> str | None:
        if self.worst_s > WELL_WITHIN_S:
            return f"it took {self.worst_s:.1f} s to go on"
        if self.files_left or self.threads_left or self.processes_left:
            return "something was left behind"
        return None


def drill(
    orders: Path,
    faults: list[str],
    *,
    hold_s: tuple[float, float],
    seed: int = 0,
    read_s: float = Patience().read_s,
) -> Outcome:
    """Let these faults happen one after another, each for a time out of a range."""
    rng = random.Random(seed)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    orders.write_text("well")
    camera = LiveCamera(
        "drill_camera:obedient_capture",
        {"orders": str(orders)},
        source="drill",
        patience=Patience(read_s=read_s),
    )
    watcher = Watcher()
    zones = Zones(ZoneSettings())
    from test_conv_detector import card

    loop = threading.Thread(
        target=run,
        kwargs={
            "camera": camera,
            "camera_name": "drill",
            "plan": Schedule(ScheduleSettings()),
            "detector": ConvDetector(FakeInterpreter(), card()),
            "controls": Controls(0.9),
            "tracker": Tracker(TrackerSettings()),
            "visits": Visits("drill", VisitSettings()),
            "snapshots": None,
            "sinks": [watcher],
            "summary": Summary(),
            "zones": zones,
            "senses": Senses(
                watch=FaultWatch("drill", restart=camera.restart),
                gate=MotionGate(zones),
                evidence=Evidence(EvidenceSettings()),
            ),
            "health": HealthReporter("drill", live=camera),
        },
    )
    loop.start()
    worst_s = 0.0
    for fault in faults:
        replace(orders, fault)
        time.sleep(rng.uniform(*hold_s))
        replace(orders, "well")
        back_s = time.monotonic()
        while watcher.good_s < back_s + 0.2:
            time.sleep(0.02)
            if time.monotonic() > back_s + 60:
                break
        worst_s = max(worst_s, watcher.good_s - back_s if watcher.good_s > back_s else 60.0)
    process = camera.process_id
    camera.close()
    loop.join(10)
    give_up_s = time.monotonic() + 5
    while Path(f"/proc/{process}").exists() and time.monotonic() < give_up_s:
        time.sleep(0.05)
    return Outcome(
        len(faults),
        worst_s,
        watcher.reported,
        len(os.listdir("/proc/self/fd")) - files,
        threading.active_count() - threads,
        int(Path(f"/proc/{process}").exists()),
    )


def replace(path: Path, text: str) -> None:
    """Write a file in such a way that a reader sees the old or the new text."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    faults = [rng.choice(FAULTS) for _ in range(options.faults)]
    with tempfile.TemporaryDirectory() as folder:
        outcome = drill(Path(folder) / "orders", faults, hold_s=(0.5, 12.0), seed=options.seed)
    counts = ", ".join(f"{fault} {faults.count(fault)}" for fault in FAULTS)
    sys.stdout.write(
        f"{outcome.faults} faults ({counts})\n"
        f"longest from a camera's return to its first good frame: {outcome.worst_s:.1f} s\n"
        f"reported in health: {', '.join(sorted(outcome.reported))}\n"
        f"left behind: {outcome.files_left} file descriptors, {outcome.threads_left} threads, "
        f"{outcome.processes_left} processes\n"
    )
    complaint = outcome.complaint()
    if complaint is not None:
        sys.stdout.write(f"FAILED: {complaint}\n")
    return int(complaint is not None)


if __name__ == "__main__":
    sys.exit(main())
