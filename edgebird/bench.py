"""How fast this board is, stage by stage, and what is left of it: ``edgebird bench``."""

from __future__ import annotations

import io
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebird.camera.demo import DemoFeeder
from edgebird.camera.files import VideoFile
from edgebird.camera.live import LiveCamera
from edgebird.camera.slot import Picture
from edgebird.classify import open_classifier
from edgebird.config import Config, overruled
from edgebird.controls import Controls
from edgebird.detect import detect_on_camera, silent_progress
from edgebird.detector.conv import ConvDetector
from edgebird.detector.verify import second_look
from edgebird.doctor.machine import Machine
from edgebird.evidence import Evidence, EvidenceSettings
from edgebird.faults import FaultWatch
from edgebird.firmware import throttled_bits, throttled_words
from edgebird.health import private_mib, temperature_c
from edgebird.interpreter import Interpreter, TfliteInterpreter, interpreter_name
from edgebird.model import Model
from edgebird.motion import Motion, MotionGate, small_luma
from edgebird.pipeline import Summary, run
from edgebird.schedule import ScanEverything, Schedule, ScheduleSettings
from edgebird.sinks.jsonl import JsonLinesSink
from edgebird.structures import Detections, Event, Frame, FrameProcessed, Image
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings
from edgebird.zones import Zones, ZoneSettings

_IDLE_FPS = 5.0
_WARM_UP_RUNS = 5
_ROUNDS = 5
# of the video; more would take memory that a small board does not have
_MOST_FRAMES = 60


@dataclass(kw_only=True)
class BenchResult:
    """What was measured.

    Args:
        model: name of the model.
        interpreter: library, its version, and what runs the network.
        machine: processor and number of cores.
        tile_ms: by number of threads: median and 95th percentile of one tile, in ms.
        threads: number of threads for what follows.
        stage_ms: cost of a frame's other stages, each in ms, at 640 x 480, and of a second look.
        bare_fps: frames a second that the network alone reaches on the tiles of a video.
        pipeline_fps: frames a second, end to end, on the same video without gate.
        network_share: pipeline_fps / bare_fps, each in the same run: 1 if all else costs nothing.
        idle_cpu_share: of one core, for a still scene at 640 x 480 and 5 fps, the process that
            reads the camera included; None if not measured, as what follows.
        peak_rss_mib: peak memory of `detect --camera` then, that process included.
        cold_start_s: from the start of the program to the first frame that was processed.
        temperature_c: of the processor after all of that.
        throttled: what the Pi's firmware says of its clock and voltage, in words.
    """

    model: str
    interpreter: str
    machine: str
    threads: int
    tile_ms: dict[int, dict[str, float]] = field(default_factory=dict)
    stage_ms: dict[str, float] = field(default_factory=dict)
    bare_fps: float = 0.0
    pipeline_fps: float = 0.0
    network_share: float = 0.0
    idle_cpu_share: float | None = None
    peak_rss_mib: float | None = None
    cold_start_s: float | None = None
    temperature_c: float | None = None
    throttled: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return {
            "model": self.model,
            "interpreter": self.interpreter,
            "machine": self.machine,
            "threads": self.threads,
            "tile_ms": {str(threads): ms for threads, ms in self.tile_ms.items()},
            "stage_ms": self.stage_ms,
            "bare_fps": round(self.bare_fps, 2),
            "pipeline_fps": round(self.pipeline_fps, 2),
            "network_share": round(self.network_share, 4),
            "idle_cpu_share": self.idle_cpu_share,
            "peak_rss_mib": self.peak_rss_mib,
            "cold_start_s": self.cold_start_s,
            "temperature_c": self.temperature_c,
            "throttled": self.throttled,
            "hints": self.hints(),
        }

    def lines(self) -> list[str]:
        """The same as a table."""
        rows = [
            ("model", self.model),
            ("interpreter", self.interpreter),
            ("machine", self.machine),
            *(
                (f"one tile, {threads} thread{'s' * (threads > 1)}", _ms(ms))
                for threads, ms in self.tile_ms.items()
            ),
            *((stage, f"{ms:.2f} ms") for stage, ms in self.stage_ms.items()),
            ("a video, the network alone", f"{self.bare_fps:.1f} fps"),
            ("a video, end to end", f"{self.pipeline_fps:.1f} fps"),
            ("the network's share", f"{min(1, self.network_share):.0%}"),
        ]
        if self.idle_cpu_share is not None:
            rows += [
                ("still scene, 5 fps", f"{self.idle_cpu_share:.1%} of a core"),
                ("peak memory", f"{self.peak_rss_mib:.0f} MiB"),
                ("start to first frame", f"{self.cold_start_s:.2f} s"),
            ]
        if self.temperature_c is not None:
            rows.append(("temperature", f"{self.temperature_c:.0f} °C"))
        rows += [("throttled", text) for text in self.throttled]
        return [f"{name:<30}{value}" for name, value in rows] + [f"- {h}" for h in self.hints()]

    def hints(self) -> list[str]:
        """Which settings suit this board."""
        fastest = min(self.tile_ms, key=lambda threads: self.tile_ms[threads]["median"])
        one_ms = self.tile_ms[1]["median"] if 1 in self.tile_ms else None
        hints = [f"fastest with [detector] threads = {fastest}"]
        if one_ms is not None:
            # whole frame, a close look and a stop of the patrol
            frames = 1000 / (3 * one_ms)
            # what half of a core allows
            fps = min(max(0.5 * frames, 0.5), 15)
            hints.append(
                f"half of a core looks at {fps:.0f} frames a second with a bird in view: "
                f"[camera] fps = {max(1, round(fps))} is enough"
                if fps >= 1.5
                else "a slow board: [camera] fps = 2 and [schedule] budget_ms_per_s = 1500 "
                "find more"
            )
        if self.temperature_c is not None and self.temperature_c > 75:
            hints.append(f"{self.temperature_c:.0f} °C is hot: it needs air or a heat sink")
        if self.throttled:
            hints.append("it runs slower than it could: check cooling and power supply")
        return hints


def bench(
    model: Model,
    threads: int,
    *,
    runs: int = 30,
    idle_s: float = 10.0,
    on_step: Callable[[str], None] = lambda step: None,
) -> BenchResult:
    """Measure this board.

    Args:
        model: the detector.
        threads: the most threads to try, and those for everything else.
        runs: of the network for each number of threads, and of the video's frames up to 60.
        idle_s: how long to watch a still scene; 0 leaves that out.
        on_step: told what is being measured.
    """
    result = BenchResult(
        model=model.card.name,
        interpreter=f"{interpreter_name()}, XNNPACK on the CPU",
        machine=f"{_processor()}, {os.cpu_count()} cores",
        threads=threads,
    )
    frames = _demo_frames(min(runs, _MOST_FRAMES))
    tile = cv2.resize(frames[0].image, model.card.input_size_px).astype(np.uint8, copy=False)
    for count in range(1, threads + 1):
        on_step(f"one tile with {count} of {threads} threads")
        times = _times_ms(partial(TfliteInterpreter(model, count).run, [tile]), runs)
        result.tile_ms[count] = {
            "median": round(median(times), 3),
            "p95": round(times[int(0.95 * (len(times) - 1))], 3),
        }
    on_step("the other stages")
    result.stage_ms = _stages_ms(frames)
    on_step("a video")
    with tempfile.TemporaryDirectory() as folder:
        video = _write_video(Path(folder) / "bench.avi", frames)
        result.stage_ms["capture"] = round(_capture_ms(video), 3)
        result.stage_ms["second look at a bird"] = round(_second_look_ms(frames, threads), 3)
        _measure_video(result, model, video)
    if idle_s:
        on_step("a still scene")
        _measure_idle(result, model, idle_s)
    result.temperature_c = temperature_c()
    result.throttled = throttled_words(throttled_bits(Machine()))
    return result


class _Timed:
    """An interpreter that keeps the tiles it was given."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self.tiles: list[Image] = []

    @property
    def input_size(self) -> tuple[int, int]:
        return self._interpreter.input_size

    def run(self, images: Sequence[Image]) -> Sequence[NDArray[np.float32]]:
        self.tiles += images
        return self._interpreter.run(images)


def _measure_video(result: BenchResult, model: Model, video: Path) -> None:
    """End to end against the network alone on the same tiles, in turn after each frame, so that a
    busy machine is fair to both.
    """
    bare = TfliteInterpreter(model, result.threads)
    timed = _Timed(bare)
    bare_s, aside_s = [], []

    def run_bare() -> None:
        turn_s = time.perf_counter()
        bare_s.append(bare.time_bare_s(timed.tiles))
        timed.tiles.clear()
        aside_s.append(time.perf_counter() - turn_s)

    start_s = time.perf_counter()
    for _ in range(_ROUNDS):
        run(
            camera=VideoFile(video),
            camera_name="bench",
            plan=ScanEverything(),
            detector=ConvDetector(timed, model.card),
            controls=Controls(model.card.threshold),
            tracker=Tracker(TrackerSettings()),
            visits=Visits("bench", VisitSettings()),
            snapshots=None,
            sinks=[JsonLinesSink(io.BytesIO())],
            summary=Summary(),
            on_frame=run_bare,
        )
    pipeline_s = time.perf_counter() - start_s - sum(aside_s)
    result.pipeline_fps = len(bare_s) / pipeline_s
    result.bare_fps = len(bare_s) / sum(bare_s)
    result.network_share = result.pipeline_fps / result.bare_fps


def _stages_ms(frames: list[Frame]) -> dict[str, float]:
    """What a frame costs besides capture and network: median, in ms."""
    zones = Zones(ZoneSettings())
    gate, watch = MotionGate(zones), FaultWatch("bench")
    evidence = Evidence(EvidenceSettings())
    plan = Schedule(ScheduleSettings())
    tracker, visits = Tracker(TrackerSettings()), Visits("bench", VisitSettings())
    sink = JsonLinesSink(io.BytesIO())
    birds = Detections(
        np.array([[200, 200, 300, 280], [400, 240, 470, 300]], np.float32),
        np.array([0.9, 0.8], np.float32),
    )
    stages = ("faults and gate", "schedule", "tracks", "publish")
    costs: dict[str, list[float]] = {stage: [] for stage in stages}
    for frame in frames:
        marks = [time.perf_counter()]
        luma = small_luma(frame)
        watch.check(frame, luma)
        motion = gate.update(frame, luma, ())
        marks.append(time.perf_counter())
        plan.regions(frame, motion, ())
        marks.append(time.perf_counter())
        weighed = evidence.weigh(birds, Motion.none(), frame.monotonic_s)
        tracks = tracker.update(weighed, frame.monotonic_s)
        changes = visits.update(frame, tracks)
        marks.append(time.perf_counter())
        sink.emit(FrameProcessed("bench", frame, birds, tracks, 1.0))
        for change in changes:
            sink.emit(change)
        marks.append(time.perf_counter())
        for name, start, end in zip(costs, marks, marks[1:], strict=False):
            costs[name].append((end - start) * 1000)
    return {name: round(median(values), 3) for name, values in costs.items()}


def _second_look_ms(frames: list[Frame], threads: int) -> float:
    """What a doubtful bird costs more: median, in ms."""
    classifier = open_classifier(threads)
    bird = Detections(np.array([[200, 200, 300, 280]], np.float32), np.array([0.6], np.float32))
    images = (frame.image for frame in itertools.cycle(frames))
    return median(_times_ms(lambda: second_look(classifier, next(images), bird), len(frames)))


def _capture_ms(video: Path) -> float:
    frames = VideoFile(video).frames()
    next(frames)
    start_s = time.perf_counter()
    count = sum(1 for _ in frames)
    return (time.perf_counter() - start_s) * 1000 / max(count, 1)


def _demo_frames(count: int) -> list[Frame]:
    feeder = DemoFeeder(seed=0, fps=10, seconds=60, pace=False)
    # from a bird's landing on
    images = [feeder.render(2.0 + index / 10) for index in range(count)]
    return [Frame(image, i, i / 10, i / 10, "bench") for i, image in enumerate(images)]


def _write_video(path: Path, frames: list[Frame]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, frames[0].size)
    for frame in frames:
        writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def _times_ms(act: Callable[[], object], runs: int) -> list[float]:
    """Times of so many runs after some to warm up, shortest first."""
    times = []
    for index in range(_WARM_UP_RUNS + runs):
        start_s = time.perf_counter()
        act()
        if index >= _WARM_UP_RUNS:
            times.append((time.perf_counter() - start_s) * 1000)
    return sorted(times)


def _ms(values: dict[str, float]) -> str:
    return f"{values['median']:.1f} ms (95 %: {values['p95']:.1f} ms)"


def _processor() -> str:
    try:
        text = Path("/proc/device-tree/model").read_text("utf-8", errors="replace")
        return text.strip("\0\n ")
    except OSError:
        pass
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# the still scene: a program of its own, so that nothing of the rest is in its memory


def _measure_idle(result: BenchResult, model: Model, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, _broker_url() as mqtt:
        feeder = DemoFeeder(seed=0)
        for index in range(5):
            # the twig at rest; each picture has other noise
            image = cv2.cvtColor(feeder.render(index * 1e-3), cv2.COLOR_RGB2BGR)
            cv2.imwrite(f"{folder}/{index}.jpg", image)
        command = [sys.executable, "-m", "edgebird.bench", str(model.path), str(seconds)]
        start_s = time.monotonic()
        done = subprocess.run([*command, folder, mqtt], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    result.idle_cpu_share = round(found["cpu_share"], 4)
    result.peak_rss_mib = round(found["peak_mib"], 1)
    result.cold_start_s = round(found["first_frame_s"] - start_s, 3)


@contextmanager
def _broker_url() -> Iterator[str]:
    """A broker to send to if one can be run here; else an address where there is none."""
    from edgebird.errors import BrokerError
    from edgebird.mqtt.broker import EmbeddedBroker

    try:
        with EmbeddedBroker() as broker:
            yield broker.url
    except BrokerError:
        yield "mqtt://127.0.0.1:9"


class StillCapture:
    """A camera that looks at an empty garden, with the noise and the decoding of a real one.

    Args:
        folder: of the JPEG pictures that it shows in turn.
        fps: how many a second.
    """

    def __init__(self, folder: str, fps: float) -> None:
        paths = sorted(Path(folder).iterdir())
        self._encoded = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]
        self._interval_s = 1 / fps
        self._next_s = time.monotonic()
        self._count = 0

    def read(self) -> Picture | None:
        """Wait for the moment of the next picture, and decode it."""
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        self._next_s = max(self._next_s + self._interval_s, time.monotonic())
        encoded = self._encoded[self._count % len(self._encoded)]
        self._count += 1
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        return Picture(np.asarray(bgr, np.uint8), time.monotonic(), time.time())

    def release(self) -> None:
        """There is nothing to let go of."""


class _Stopwatch:
    """A sink that notes the first frame, and closes the camera after a while."""

    def __init__(self, camera: LiveCamera, seconds: float) -> None:
        self._camera = camera
        self._seconds = seconds
        self.first_frame_s: float | None = None
        self.start: tuple[float, float] | None = None
        self.end: tuple[float, float] = (0.0, 0.0)

    def emit(self, event: Event) -> None:
        now_s = time.monotonic()
        if self.first_frame_s is None:
            self.first_frame_s = now_s
        # the first seconds are a beginning: the gate learns, and all is looked at once
        if self.start is None and now_s > self.first_frame_s + 5:
            self.start = now_s, self._cpu_s()
        if self.start is not None and now_s > self.start[0] + self._seconds:
            self.end = now_s, self._cpu_s()
            self.peak_mib = _peak_mib() + private_mib(self._camera.process_id)
            self._camera.close()

    def close(self) -> None:
        """Nothing is pending."""

    def _cpu_s(self) -> float:
        stat = Path(f"/proc/{self._camera.process_id}/stat").read_text()
        # user and system time, counted from the name in brackets on
        user, system = stat.rpartition(")")[2].split()[11:13]
        reader_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return time.process_time() + reader_s


def _peak_mib() -> float:
    # not getrusage, which begins with what our parent had
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def _watch_still_scene(model: str, seconds: float, folder: str, mqtt: str) -> dict[str, float]:
    config = overruled(
        Config(),
        camera={"name": "bench"},
        detector={"model": model},
        mqtt={"url": mqtt, "device": "bench", "state": folder},
    )
    arguments = {"folder": folder, "fps": _IDLE_FPS}
    camera = LiveCamera("edgebird.bench:StillCapture", arguments, source="still")
    stopwatch = _Stopwatch(camera, seconds)
    detect_on_camera(config, [stopwatch], silent_progress, Summary(), camera=camera)
    assert stopwatch.start is not None
    assert stopwatch.first_frame_s is not None
    (start_s, start_cpu_s), (end_s, end_cpu_s) = stopwatch.start, stopwatch.end
    return {
        "cpu_share": (end_cpu_s - start_cpu_s) / (end_s - start_s),
        "peak_mib": stopwatch.peak_mib,
        "first_frame_s": stopwatch.first_frame_s,
    }


if __name__ == "__main__":
    _, model_path, watch_s, pictures, broker = sys.argv
    sys.stdout.write(json.dumps(_watch_still_scene(model_path, float(watch_s), pictures, broker)))
