"""Fixtures that more than one test file uses."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from mounts import mounted

from edgebird.mqtt.address import BrokerAddress

# how long an example takes says more about the machine than about the code
settings.register_profile("edgebird", deadline=None)
settings.load_profile("edgebird")


def pytest_configure() -> None:
    """Where tests run in several processes each keeps to a core: networks whose threads wait for
    each other on one core burn the processor time that they are allowed.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


# of files whose tests take half a minute and more, those that take longest first
LONG = (
    "test_model_build_network.py",
    "test_cli.py",
    "test_model_build_workers.py",
    "test_homeassistant.py",
    "test_model_build_classifier.py",
    "test_digits.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: one that came last would keep one process while the other is done."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that runs within the tests sets logging up for a program of its own."""
    root, package = logging.getLogger(), logging.getLogger("edgebird")
    handlers, level, package_level = root.handlers[:], root.level, package.level
    hooks = sys.excepthook, threading.excepthook
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    package.setLevel(package_level)
    sys.excepthook, threading.excepthook = hooks


@contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """A disk in memory that a test can fill; the test is skipped where none can be mounted."""
    with ExitStack() as stack:
        try:
            stack.enter_context(mounted("tmpfs", place, "-t", "tmpfs", "-o", f"size={size}"))
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine does not let us make a disk that is full")
        yield place


def fill(disk: Path) -> Path:
    """Write a file until no byte fits any more."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            for size in (65536, 4096, 512, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        finally:
            os.fsync(file.fileno())
    return filler


def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until the condition holds; a slow machine is no reason to fail."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(autouse=True, scope="session")
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What programs under test keep over a restart stays among the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


class Mosquitto:
    """A real MQTT broker on a free port of this machine; remembers sessions over a restart."""

    def __init__(self, folder: Path, settings: str) -> None:
        # Debian keeps it where an ordinary user's PATH does not reach.
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.fail("these tests need the broker mosquitto: apt-get install mosquitto")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = BrokerAddress("127.0.0.1", free.getsockname()[1])
        folder.mkdir(exist_ok=True)
        self._log = folder / "mosquitto.log"
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.address.port} 127.0.0.1\n{settings}\n"
            f"user {getpass.getuser()}\npersistence true\npersistence_location {folder}/\n"
        )
        self._command = [program, "-c", str(config), "-v"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        give_up_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.address.host, self.address.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > give_up_s:
                    pytest.fail(f"mosquitto does not start: {self.log()}")
                time.sleep(0.02)

    def log(self) -> str:
        return self._log.read_text()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait(20)
            self._process = None


@pytest.fixture
def new_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes a broker that the test starts and stops itself; further lines of its configuration."""
    made: list[Mosquitto] = []

    def make(settings: str = "allow_anonymous true") -> Mosquitto:
        made.append(Mosquitto(tmp_path / f"mosquitto{len(made)}", settings))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A running broker that the tests of one file share; each uses a device name of its own."""
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), "allow_anonymous true")
    broker.start()
    yield broker
    broker.stop()
