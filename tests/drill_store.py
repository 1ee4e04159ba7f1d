"""Visits and pictures under kill -9 and power cuts; ``python tests/drill_store.py --help``.

A process stores visits with pictures as fast as it can and tells which are stored. It is killed at
any moment. Then the store must open, no visit that was told may be missing, and after the next
start every picture must be whole and have its visit, every visit its picture, and nothing else may
be left.

For a power cut the process writes to a file system in an image file. The image is copied while it
runs, which gives what is on the disk itself at that moment: what was only in memory is not in it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from mounts import mounted

from edgebird.disk import DiskUse, written_bytes
from edgebird.history.store import VisitStore
from edgebird.sinks.store import StoreSink
from edgebird.snapshots import Snapshots
from edgebird.structures import Visit, VisitChanged
from edgebird.visit_ids import visit_id

CAMERA = "drill"
SIZE = (320, 240)
# Pictures of many runs fit, and old ones are deleted to make room all the time.
KEEP_MB = 0.6
_DISK_MB = 24


def changes(number: int, image: np.ndarray | None) -> tuple[VisitChanged, VisitChanged]:
    """The start and the end of a visit, a minute after the one before."""
    started_s = 1.7e9 + 60 * number + 0.25
    box = (10.0, 20.0, 110.0, 140.0)
    visit = Visit(visit_id(CAMERA, started_s), CAMERA, started_s, 0.4, None, 1, 0.9, box, SIZE)
    ended = Visit(
        visit.id, CAMERA, started_s, 5.0, started_s + 5, 2, 0.95, (12.0, 18.0, 110.0, 140.0), SIZE
    )
    return VisitChanged("start", visit, image), VisitChanged("end", ended, image)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def write_on(folder: Path, first: int, told: int) -> None:
    """Store visits until killed; tells the number of each that is stored, its start and its end."""
    image = noise()
    disk = DiskUse()
    snapshots = Snapshots(folder / "pictures", keep_mb=KEEP_MB, disk=disk)
    sink = StoreSink(folder / f"{CAMERA}.sqlite", disk=disk, pictures=folder / "pictures")
    number = first
    while True:
        for change in changes(number, image):
            sink.emit(snapshots.save(change))
            while sink.waiting:
                time.sleep(0)
            os.write(told, f"{number} {change.kind}\n".encode())
        number += 1


@dataclass
class Report:
    """What a drill counted."""

    kills: int = 0
    stored: int = 0
    lost: int = 0
    not_opened: int = 0
    orphans: int = 0
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)

    def complain(self, problem: str) -> None:
        if len(self.complaints) < 10:
            self.complaints.append(problem)

    def line(self) -> str:
        return (
            f"{self.kills} cut off in {self.seconds:.0f} s: {self.stored} visits stored, "
            f"{self.lost} lost; stores that did not open: {self.not_opened}; pictures or visits "
            f"without the other, or broken: {self.orphans}"
        )


def examine(folder: Path, told: dict[int, str], report: Report) -> None:
    """Look at what a cut has left: first as it is, then after the next start."""
    path, pictures = folder / f"{CAMERA}.sqlite", folder / "pictures"
    numbers = {changes(number, None)[0].visit.id: number for number in told}
    for started_again in (False, True):
        try:
            if started_again:
                Snapshots(pictures, keep_mb=KEEP_MB)
            with closing(VisitStore(path)) as store:
                if started_again:
                    store.begin(pictures)
                visits = {visit.id: visit for visit in store.visits()}
        except Exception as error:  # noqa: BLE001  (whatever it is, it is counted)
            report.not_opened += 1
            report.complain(f"it does not open: {error!r}")
            return
        for id_, number in numbers.items():
            ended = told[number] == "end"
            if id_ not in visits or (ended and visits[id_].state != "over"):
                report.lost += 1
                report.complain(f"visit {number} was told to be stored, {told[number]}")
    if path.with_suffix(".damaged").exists():
        report.not_opened += 1
        report.complain("the store was damaged")
    files = {file.name for file in pictures.iterdir()}
    with_picture = {f"{id_}.jpg" for id_, visit in visits.items() if visit.snapshot is not None}
    odd = (files ^ with_picture) | {file for file in files if not is_whole(pictures / file)}
    odd |= {id_ for id_, visit in visits.items() if visit.state == "open"}
    odd |= {file.name for file in folder.iterdir()} - {
        "pictures",
        "lost+found",
        *(f"{CAMERA}.sqlite{ending}" for ending in ("", "-wal", "-shm", "-journal")),
    }
    report.orphans += len(odd)
    if odd:
        report.complain(f"left behind: {sorted(odd)[:3]}")


def is_whole(path: Path) -> bool:
    content = path.read_bytes()
    return content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")


def start(folder: Path, first: int) -> tuple[int, int]:
    """A process that stores visits; its number and where it tells of them."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        try:
            write_on(folder, first, writing)
        finally:
            os._exit(1)
    os.close(writing)
    return process, reading


def read_told(reading: int, until: bytes = b"") -> str:
    """All that was told up to some text, or to the end."""
    text = b""
    while not (until and until in text) and (part := os.read(reading, 65536)):
        text += part
    return text.decode()


def note(told: dict[int, str], text: str) -> int:
    """Take in what was told; the first number that was not."""
    for line in text.splitlines():
        number, kind = line.split()
        told[int(number)] = kind
    return max(told, default=-1) + 2  # one more may be under way, whose number is taken


def run_kills(folder: Path, kills: int, seed: int = 0) -> Report:
    """Kill the writing process again and again, each time after up to 40 ms of writing."""
    rng, report, began_s = random.Random(seed), Report(), time.monotonic()
    told: dict[int, str] = {}
    first = 0
    for _ in range(kills):
        process, reading = start(folder, first)
        begun = read_told(reading, until=b"\n") if rng.random() < 0.9 else ""
        time.sleep(rng.uniform(0, 0.04))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        first = note(told, begun + read_told(reading))
        os.close(reading)
        report.kills += 1
        examine(folder, told, report)
    report.stored = len(told)
    report.seconds = time.monotonic() - began_s
    return report


def new_image(path: Path, size_mb: float, block: int = 4096) -> None:
    """A file with an empty ext4 file system, of blocks of so many bytes."""
    with path.open("wb") as file:
        file.truncate(int(size_mb * 1e6))
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-b", str(block), str(path)], check=True, capture_output=True
    )


def may_mount() -> bool:
    """Whether images can be mounted here."""
    if os.geteuid() or not (shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/sbin")):
        return False
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image")
        new_image(image, 2)
        try:
            with mounted(image, Path(folder, "mounted")):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def run_power_cuts(folder: Path, cuts: int, seed: int = 0, block: int = 4096) -> Report:
    """Take the power away again and again, each time after up to 0.4 s of writing."""
    rng, report, began_s = random.Random(seed), Report(), time.monotonic()
    told: dict[int, str] = {}
    first = 0
    image, after = folder / "image", folder / "after"
    new_image(image, _DISK_MB, block)
    for _ in range(cuts):
        with mounted(image, folder / "mounted") as disk:
            process, reading = start(disk, first)
            begun = read_told(reading, until=b"\n")
            time.sleep(rng.uniform(0, 0.4))
            # What is told now is on the disk; what comes after may be.
            os.kill(process, signal.SIGSTOP)
            os.set_blocking(reading, False)
            with suppress(BlockingIOError):
                begun += os.read(reading, 1 << 20).decode()
            shutil.copyfile(image, after)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(reading)
        first = note(told, begun)
        after.replace(image)
        report.kills += 1
        with mounted(image, folder / "mounted") as disk:
            examine(disk, told, report)
    report.stored = len(told)
    report.seconds = time.monotonic() - began_s
    return report


@dataclass
class Cost:
    """What storing costs: bytes a visit, with its two pictures and without; times of `emit`,
    without those in which other programs had the processor.
    """

    bytes_per_visit: float
    bytes_per_picture_visit: float
    picture_bytes: float
    median_ms: float
    p99_ms: float
    worst_ms: float


def queued() -> float:
    """How long this thread has waited so far for a processor that others had, in ms."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e6


def run_cost(folder: Path, visits: int) -> Cost:
    """Store visits one by one, and measure."""
    per_visit = []
    times_ms = []
    for with_picture in (False, True):
        disk = DiskUse()
        place = folder / str(with_picture)
        pictures = place / "pictures" if with_picture else None
        snapshots = Snapshots(pictures) if pictures else None
        image = noise() if with_picture else None
        before = written_bytes() or 0
        with closing(StoreSink(place / f"{CAMERA}.sqlite", disk=disk, pictures=pictures)) as sink:
            for number in range(visits):
                for change in changes(number, image):
                    ready = snapshots.save(change) if snapshots else change
                    queued_ms, began_s = queued(), time.perf_counter()
                    sink.emit(ready)
                    taken_ms = (time.perf_counter() - began_s) * 1000
                    times_ms.append(max(0.0, taken_ms - (queued() - queued_ms)))
                    while sink.waiting:
                        time.sleep(0.001)
                    time.sleep(0.005)
        per_visit.append(((written_bytes() or 0) - before) / visits)
    sizes = [file.stat().st_size for file in (folder / "True" / "pictures").iterdir()]
    times = np.array(times_ms)
    median, p99 = np.percentile(times, [50, 99])
    return Cost(*per_visit, float(np.mean(sizes)), float(median), float(p99), float(times.max()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="kill -9 so often")
    parser.add_argument("--power-cuts", type=int, default=0, help="needs root, to mount an image")
    parser.add_argument("--cost", type=int, default=0, help="measure over so many visits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=4096, help="of the image, in bytes")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        power_cuts = partial(run_power_cuts, block=options.block)
        for kind, drill in (("kills", run_kills), ("power_cuts", power_cuts)):
            count = getattr(options, kind)
            if count:
                (folder / kind).mkdir()
                report = drill(folder / kind, count, options.seed)
                sys.stdout.write(f"{kind.replace('_', ' ')}: {report.line()}\n")
                for problem in report.complaints:
                    sys.stdout.write(f"FAILED: {problem}\n")
                failed |= bool(report.complaints) or not report.stored
        if options.cost:
            cost = run_cost(folder / "cost", options.cost)
            sys.stdout.write(
                f"written for a visit: {cost.bytes_per_visit:.0f} bytes; with its two pictures of "
                f"{cost.picture_bytes:.0f} bytes {cost.bytes_per_picture_visit:.0f}\n"
                f"emit: median {cost.median_ms:.3f} ms, p99 {cost.p99_ms:.3f} ms, "
                f"worst {cost.worst_ms:.3f} ms\n"
            )
            failed |= cost.p99_ms > 2
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
