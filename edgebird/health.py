"""How a camera, its loop and the machine are doing, gathered for a report now and then."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Protocol

from edgebird.disk import DiskUse
from edgebird.structures import Frame, Health, Silence

REPORT_EVERY_S = 30.0
_MIB = 1 << 20


class Live(Protocol):
    """What a live camera knows about itself."""

    dropped: int

    @property
    def process_id(self) -> int:
        """Of the process that reads it."""


class HealthReporter:
    """Gathers what happens, and says how things are every 30 s of frame time, and at once when a
    fault begins or ends.

    Args:
        camera: its name.
        live: knows of frames that were dropped and of the process that reads the camera; None for
            a source without, whose frames also have no age.
        disk: knows what is kept and written there, and what is wrong; None if nothing is.
    """

    def __init__(
        self, camera: str, *, live: Live | None = None, disk: DiskUse | None = None
    ) -> None:
        self._camera = camera
        self._live = live
        self._disk = disk
        self._disk_problem: str | None = None
        self._faults: tuple[str, ...] = ()
        self._error: str | None = None
        self._next_s: float | None = None
        self._last_report_s = 0.0
        self._last_frame_s: float | None = None
        self._frames = 0
        self._inference_ms: deque[float] = deque(maxlen=300)
        self._detect_ms = 0.0

    def frame(self, frame: Frame, inference_ms: float | None, processor_ms: float) -> None:
        """Take note of a frame that went through the loop.

        Args:
            frame: it.
            inference_ms: how long the detector took; None if it was not asked.
            processor_ms: processor time that the detector took.
        """
        self._frames += 1
        self._last_frame_s = frame.monotonic_s
        self._detect_ms += processor_ms
        if inference_ms is not None:
            self._inference_ms.append(inference_ms)

    def report(
        self,
        moment: Frame | Silence,
        *,
        faults: tuple[str, ...],
        dark: bool = False,
        degraded: str | None = None,
    ) -> Health | None:
        """How things are, if it is time to say so.

        Args:
            moment: the frame, or the moment without one, at hand.
            faults: what is wrong with the camera.
            dark: detection pauses for lack of light.
            degraded: what is done without for lack of processor time.
        """
        now_s = moment.monotonic_s
        if isinstance(moment, Silence) and moment.error:
            self._error = moment.error
        problem = self._disk.problem if self._disk else None
        self._error = problem or self._error
        if self._next_s is None:
            self._last_report_s = now_s
        elif (faults, problem) == (self._faults, self._disk_problem) and now_s < self._next_s:
            return None
        over_s = now_s - self._last_report_s
        health = Health(
            camera=self._camera,
            utc_s=moment.utc_s,
            fps=self._frames / over_s if over_s > 0 else None,
            inference_ms=median(self._inference_ms) if self._inference_ms else None,
            frame_age_s=self._age_s(),
            dropped_frames=self._live.dropped if self._live else 0,
            faults=faults,
            temperature_c=temperature_c(),
            load_1min=os.getloadavg()[0],
            memory_mib=memory_mib() + (private_mib(self._live.process_id) if self._live else 0.0),
            disk_used_mb=self._disk.used_mb if self._disk else None,
            written_mb_per_day=self._disk.written_mb_per_day if self._disk else None,
            disk_problem=problem,
            last_error=self._error,
            dark=dark,
            degraded=degraded,
            detect_ms_per_s=self._detect_ms / over_s if over_s > 0 else None,
        )
        self._next_s = now_s + REPORT_EVERY_S
        self._last_report_s, self._faults, self._disk_problem = now_s, faults, problem
        self._frames, self._detect_ms = 0, 0.0
        self._inference_ms.clear()
        return health

    def _age_s(self) -> float | None:
        if self._live is None or self._last_frame_s is None:
            return None
        return time.monotonic() - self._last_frame_s


def temperature_c(zone: Path = Path("/sys/class/thermal/thermal_zone0/temp")) -> float | None:
    """The processor's temperature; None where the system does not tell."""
    try:
        return int(zone.read_text()) / 1000
    except (OSError, ValueError):
        return None


def memory_mib() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def private_mib(process_id: int) -> float:
    """Memory that only this process has, in MiB; 0 if it has ended.

    Code of libraries and the like is shared with us, and would count twice.
    """
    try:
        lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    private = (line.split()[1] for line in lines if line.startswith("Private_"))
    return sum(map(int, private)) / 1024
