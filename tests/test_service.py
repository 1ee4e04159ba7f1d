"""What systemd is told, by a socket of our own in its place."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually
from test_mqtt import visit_changed

from edgebird.service import Service
from edgebird.structures import Frame, Health, Silence

FRAME = Frame(np.zeros((4, 4, 3), np.uint8), 0, 0.0, 0.0, "cam")
SLOW = Silence(1.0, 1.0)
LOST = Silence(1.0, 1.0, lost=True, error="camera 0:\nthere is no /dev/video0")


@dataclass
class Manager:
    """The end of the notify socket that is systemd's."""

    socket: socket.socket
    setting: str
    heard: list[str] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)

    def lines(self) -> list[str]:
        try:
            while True:
                self.heard += self.socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self.heard

    def service(
        self,
        environment: dict[str, str] | None = None,
        *,
        watchdog_s: float = 4.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> Service:
        settings = {**self.environment(watchdog_s), **(environment or {})}
        self.services.append(Service(settings, clock))
        return self.services[-1]

    def environment(self, watchdog_s: float = 1.0) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.setting, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@edgebird-test-{os.getpid()}" if request.param == "abstract" else f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name.replace("@", "\0"))
        end.setblocking(False)
        manager = Manager(end, name)
        yield manager
        for service in manager.services:
            service.close()


def test_ready_comes_with_the_first_frame(manager: Manager) -> None:
    service = manager.service(clock=lambda: 0.0)
    service.alive(SLOW)
    assert manager.lines() == ["WATCHDOG=1"]
    service.alive(FRAME)
    service.alive(FRAME)
    assert manager.lines() == ["WATCHDOG=1", "READY=1", "STATUS=watching"]


def test_ready_comes_without_a_camera_and_says_what_is_waited_for(manager: Manager) -> None:
    service = manager.service(clock=lambda: 0.0)
    service.alive(LOST)
    service.alive(LOST)
    assert manager.lines() == [
        "READY=1",
        "STATUS=waiting for the camera: camera 0: there is no /dev/video0",
        "WATCHDOG=1",
    ]


def test_signs_of_life_come_as_long_as_the_loop_goes_round_but_not_for_each_frame(
    manager: Manager,
) -> None:
    now_s = 0.0
    service = manager.service(watchdog_s=60, clock=lambda: now_s)
    for now_s in np.arange(0, 61, 0.1):
        service.alive(SLOW if now_s > 30 else FRAME)
    pings = manager.lines().count("WATCHDOG=1")
    assert pings == 5  # at 0, 15, 30, 45 and 60 s


@pytest.mark.parametrize(
    "environment", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}]
)
def test_no_sign_of_life_where_none_is_waited_for(
    manager: Manager, environment: dict[str, str]
) -> None:
    service = manager.service(environment)
    service.alive(FRAME)
    assert manager.lines() == ["READY=1", "STATUS=watching"]


def test_the_status_is_a_sentence_and_sent_when_it_changes(manager: Manager) -> None:
    service = manager.service()
    service.emit(Health(camera="cam", utc_s=0.0))  # nothing to say before it is ready
    service.alive(FRAME)
    service.emit(visit_changed(1))
    service.emit(visit_changed(1, "end"))
    for _ in "12":
        service.emit(Health(camera="cam", utc_s=0.0, fps=9.84))
    service.emit(Health(camera="cam", utc_s=0.0, fps=9.84, dark=True))
    service.emit(Health(camera="cam", utc_s=0.0, fps=9.84, faults=("blurred",)))
    service.emit(Health(camera="cam", utc_s=0.0, fps=0.0, faults=("lost",), last_error="unplugged"))
    service.close()
    service.close()
    assert [line for line in manager.lines() if line != "WATCHDOG=1"] == [
        "READY=1",
        "STATUS=watching",
        "STATUS=watching, 9.8 frames a second, 1 visit since the start",
        "STATUS=too dark to see birds, waiting for light, 9.8 frames a second, "
        "1 visit since the start",
        "STATUS=trouble with the camera: blurred, 9.8 frames a second, 1 visit since the start",
        "STATUS=waiting for the camera: unplugged",
        "STOPPING=1",
        "STATUS=stopping",
    ]


def test_a_long_status_is_cut_between_characters(manager: Manager) -> None:
    service = manager.service()
    service.alive(Silence(0.0, 0.0, lost=True, error="é" * 500))
    [status] = [line for line in manager.lines() if line.startswith("STATUS=")]
    assert 190 < len(status.encode()) <= 207


@pytest.mark.parametrize("setting", ["", "nonsense", "/nobody/listens", "@nobody-listens"])
def test_nobody_who_listens_is_no_trouble(setting: str) -> None:
    service = Service({"NOTIFY_SOCKET": setting, "WATCHDOG_USEC": "1000000"})
    service.alive(FRAME)
    service.close()


def test_a_manager_that_does_not_read_does_not_stop_the_loop(manager: Manager) -> None:
    service = manager.service(watchdog_s=1e-6)
    started_s = time.monotonic()
    for _ in range(2000):
        service.alive(FRAME)
    assert time.monotonic() - started_s < 5


# the whole program


def start(manager: Manager, *arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "edgebird.cli", "detect", *arguments],
        env={**os.environ, **manager.environment()},
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_the_program_says_ready_alive_and_stopping_and_nothing_while_it_hangs(
    manager: Manager,
) -> None:
    with start(manager, "--source", "demo:") as process:
        try:
            eventually(lambda: manager.lines().count("WATCHDOG=1") >= 2)
            assert manager.lines()[:2] == ["READY=1", "STATUS=watching"]
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            before = len(manager.lines())
            time.sleep(0.7)
            assert len(manager.lines()) == before
            process.send_signal(signal.SIGCONT)
            eventually(lambda: manager.lines().count("WATCHDOG=1") >= 4)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0
            assert manager.lines()[-2:] == ["STOPPING=1", "STATUS=stopping"]
        finally:
            process.kill()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_the_program_waits_for_a_camera_that_is_not_there(manager: Manager) -> None:
    with start(manager, "--camera", "/dev/video97", "--wait-for-camera") as process:
        try:
            eventually(lambda: manager.lines().count("WATCHDOG=1") >= 2)
            ready, status = [line for line in manager.lines() if line != "WATCHDOG=1"][:2]
            assert ready == "READY=1"
            assert "waiting for the camera" in status
            assert "there is no /dev/video97" in status
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 0
            assert errors.count("/dev/video97 is lost") == 1
        finally:
            process.kill()
