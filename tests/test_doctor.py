"""The doctor, on machines that are made of files, and on this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Mosquitto
from stand_ins import scripted_camera
from test_cameras import unprivileged
from test_cli import edgebird, free_port

from edgebird.cli import cli
from edgebird.config import Config, load_config, overruled
from edgebird.doctor import Check, Examination, Installation, checks, examine, parts, system
from edgebird.doctor.machine import Answer, Machine, User, clock_is_synchronised, run_program
from edgebird.errors import BrokerError, CameraError, ModelError
from edgebird.firmware import throttled_bits
from edgebird.structures import Frame

CPU = "processor\t: {0}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd {1}crc32\n\n"
PI5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": "".join(CPU.format(core, "asimddp ") for core in range(4)),
    "proc/meminfo": "MemTotal: 8255456 kB\nMemFree: 10 kB\nMemAvailable: 6000000 kB\n",
    "proc/uptime": "2592000.00 9000000.00\n",
    "proc/net/wireless": "Inter-| sta-\n face | tus\n wlan0: 0000   54.  -56.  -256   0 0\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
    "sys/class/thermal/thermal_zone0/temp": "51800\n",
    "sys/fs/ext4/mmcblk0p2/lifetime_write_kbytes": "412000000\n",
    "sys/fs/ext4/mmcblk0p2/session_write_kbytes": "12000000\n",
    "sys/fs/ext4/mmcblk0p2/errors_count": "0\n",
    "etc/group": "root:x:0:\nvideo:x:4444:pi,edgebird\n",
    "dev/video0": "",
    "dev/media0": "",
    "var/log/journal/0123/system.journal": "",
}
RUNNING = (
    "Id=edgebird.service\nLoadState=loaded\nActiveState=active\nNRestarts=0\n\n"
    "Id=edgebird@balcony.service\nLoadState=loaded\nActiveState=active\nNRestarts=0\n"
)
GB = 10**9


@dataclass
class Programs:
    """Answers for the programs that are there."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Sequence[str]] = field(default_factory=list)

    def __call__(self, command: Sequence[str]) -> Answer | None:
        self.asked.append(command)
        return self.answers.get(Path(command[0]).name)


def disk_of(free: float, *, flags: int = 0, files: int = 1000) -> Callable[[Path], Any]:
    told = SimpleNamespace(
        f_bavail=free // 4096, f_frsize=4096, f_files=10**6, f_favail=files, f_flag=flags
    )
    return lambda path: told


def machine(root: Path, files: Mapping[str, str | None] | None = None, **changes: Any) -> Machine:
    """A Pi 5 on which all is well, but for the changes; a file of None is not there."""
    for name, text in {**PI5, **(files or {})}.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    healthy = {
        "run": Programs({"systemctl": Answer(0, RUNNING, ""), "journalctl": Answer(0, "", "")}),
        "statvfs": disk_of(20 * GB),
        "clock_is_synchronised": lambda: True,
        "user": User("pi", frozenset({4444})),
        "may_use": lambda path: True,
    }
    return Machine(root=root, **(healthy | changes))


def installed(at: Machine, **sections: Any) -> Installation:
    return Installation(machine=at, config=overruled(Config(), **sections))


def states(installation: Installation, *names: str) -> dict[str, str]:
    chosen = [e for e in checks.EXAMINATIONS if e.name in names]
    return {e.name: check.state for e, check in examine(installation, chosen)}


OF_THE_SYSTEM = (
    *("board", "permissions", "clock", "wi-fi", "disk", "card", "power", "temperature"),
    *("service", "recent errors"),
)


def test_a_healthy_pi_is_all_green(tmp_path: Path) -> None:
    healthy = installed(machine(tmp_path))
    assert states(healthy, *OF_THE_SYSTEM) == dict.fromkeys(OF_THE_SYSTEM, "ok")
    found = system.board(healthy).found
    assert "Raspberry Pi 5 Model B Rev 1.0, 4 cores, 8454 MB" in found
    assert "NEON with dot product" in found
    assert "412 GB written in all, 0.4 GB a day" in system.card(healthy).found
    assert system.temperature(healthy).found == "52 °C"


def test_a_machine_that_tells_nothing_is_not_called_ill(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    bare = installed(
        Machine(
            root=tmp_path,
            run=Programs(),
            statvfs=disk_of(GB),
            clock_is_synchronised=lambda: True,
            user=User("pi", frozenset()),
        )
    )
    silent = ("permissions", "wi-fi", "card", "power", "temperature", "service", "recent errors")
    assert states(bare, *silent) == dict.fromkeys(silent, "skip")


# --- power and heat


@pytest.mark.parametrize(
    ("bits", "state", "words", "cure"),
    [
        ("50005", "fail", ["under-voltage now", "slowed down since start"], "power supply"),
        ("50000", "warn", ["under-voltage since start"], "power supply"),
        ("80008", "fail", ["hot now", "hot since start"], "heat sink"),
    ],
)
@pytest.mark.parametrize("soc", ["soc", "soc@107c000000"])
def test_a_pi_with_a_weak_supply(
    tmp_path: Path, soc: str, bits: str, state: str, words: list[str], cure: str
) -> None:
    untold = {name: None for name in PI5 if name.endswith("/get_throttled")}
    firmware = {f"sys/devices/platform/{soc}/{soc}:firmware/get_throttled": f"{bits}\n"}
    from_file = system.power(installed(machine(tmp_path / "a", {**untold, **firmware})))
    # without the file the program is asked
    programs = Programs({"vcgencmd": Answer(0, f"throttled=0x{bits}\n", "")})
    without_file = machine(tmp_path / "b", untold, run=programs)
    from_program = system.power(installed(without_file))
    assert throttled_bits(without_file) == int(bits, 16)
    assert from_file == from_program
    assert from_file.state == state
    assert all(word in from_file.found for word in words)
    assert cure in from_file.cure


def test_the_kernels_alarm_is_enough(tmp_path: Path) -> None:
    files = {
        "sys/devices/platform/soc/soc:firmware/get_throttled": None,
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
    }
    check = system.power(installed(machine(tmp_path, files)))
    assert (check.state, check.found) == ("fail", "under-voltage")


@pytest.mark.parametrize(("celsius", "state"), [(60, "ok"), (78, "warn"), (85, "fail")])
def test_heat(tmp_path: Path, celsius: int, state: str) -> None:
    files = {"sys/class/thermal/thermal_zone0/temp": f"{celsius}000\n"}
    assert system.temperature(installed(machine(tmp_path, files))).state == state


def test_a_board_short_of_memory_and_a_slow_processor(tmp_path: Path) -> None:
    little = {"proc/meminfo": "MemTotal: 430000 kB\nMemAvailable: 30000 kB\n"}
    assert system.board(installed(machine(tmp_path / "a", little))).state == "warn"
    old = {"proc/cpuinfo": "processor: 0\nmodel name: Atom\nflags: sse2\n"}
    old["proc/device-tree/model"] = None
    check = system.board(installed(machine(tmp_path / "b", old)))
    assert (check.state, check.found.split(",")[0]) == ("warn", "Atom")
    plain = {"proc/cpuinfo": CPU.format(0, "")}
    assert "without dot product" in system.board(installed(machine(tmp_path / "c", plain))).found


# --- disk and card


@pytest.mark.parametrize(
    ("statvfs", "state", "word"),
    [
        (disk_of(20e6), "fail", "full"),
        (disk_of(400e6), "warn", "keep_mb"),
        (disk_of(900e6), "ok", "0.9 GB"),
        (disk_of(20e9, files=0), "fail", "another file"),
        (disk_of(20e9, flags=os.ST_RDONLY), "fail", "replace the card"),
    ],
)
def test_a_disk_that_fills(
    tmp_path: Path, statvfs: Callable[[Path], Any], state: str, word: str
) -> None:
    pi = machine(tmp_path / "pi", statvfs=statvfs)
    save = tmp_path / "snapshots"
    check = system.disk(installed(pi, output={"save": str(save)}))
    assert check.state == state
    assert word in check.found + check.cure
    assert not save.exists()


def test_pictures_that_are_there_need_no_more_room(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(2_000_000))
    pi = machine(tmp_path / "pi", statvfs=disk_of(400e6))
    for keep_mb, state in ((101.0, "ok"), (103.0, "warn")):
        output = {"save": str(tmp_path), "keep_mb": keep_mb}
        assert system.disk(installed(pi, output=output)).state == state


def test_a_worn_card(tmp_path: Path) -> None:
    emmc = {"sys/class/mmc_host/mmc0/mmc0:0001/life_time": "0x0a 0x02\n"}
    check = system.card(installed(machine(tmp_path / "a", emmc)))
    assert check.state == "warn"
    assert "100 % of its life" in check.found
    bad = {"sys/fs/ext4/mmcblk0p2/errors_count": "3\n"}
    check = system.card(installed(machine(tmp_path / "b", bad)))
    assert check.state == "fail"
    assert "fsck" in check.cure
    busy = {"sys/fs/ext4/mmcblk0p2/session_write_kbytes": "900000000\n"}
    check = system.card(installed(machine(tmp_path / "c", busy)))
    assert check.state == "warn"
    assert "30.0 GB a day" in check.found


# --- permissions


def nothing(path: Path) -> bool:
    return False


def test_a_user_who_is_not_in_the_group_video(tmp_path: Path) -> None:
    anna = User("anna", frozenset({100}))
    check = parts.permissions(installed(machine(tmp_path, user=anna, may_use=nothing)))
    assert check.state == "fail"
    assert check.found == "user anna may not use /dev/video0"
    assert check.cure == "sudo usermod -aG video anna, then log in again"


def test_a_user_who_has_to_log_in_again(tmp_path: Path) -> None:
    pi = User("pi", frozenset({100}))
    check = parts.permissions(installed(machine(tmp_path, user=pi, may_use=nothing)))
    assert check.state == "fail"
    assert "log out" in check.cure


def test_devices_that_the_group_does_not_get(tmp_path: Path) -> None:
    check = parts.permissions(installed(machine(tmp_path, may_use=nothing)))
    assert check.state == "fail"
    assert "though in the group video" in check.found


def test_a_ribbon_camera_needs_more_devices(tmp_path: Path) -> None:
    more = {f"dev/video{number}": "" for number in range(10, 19)}
    pi = machine(tmp_path, more, may_use=lambda path: "media" not in path.name)
    check = parts.permissions(installed(pi))
    assert check.found == "user pi may use /dev/video0, /dev/video10, /dev/video11 and 7 more"
    check = parts.permissions(installed(pi, camera={"source": "picamera2"}))
    assert (check.state, check.found) == (
        "fail",
        "user pi may not use /dev/media0, though in the group video",
    )


def test_who_we_are() -> None:
    assert os.getegid() in User.current().gids
    assert User.current().name


# --- clock, wireless, service


def test_a_clock_that_follows_nothing(tmp_path: Path) -> None:
    pi = machine(tmp_path, clock_is_synchronised=lambda: False)
    check = system.clock(installed(pi))
    assert check.state == "warn"
    assert "timedatectl" in check.cure


def test_this_machines_clock_can_be_asked() -> None:
    assert clock_is_synchronised() in (True, False)


def test_a_weak_signal(tmp_path: Path) -> None:
    files = {"proc/net/wireless": "a\nb\n wlan0: 0000   20.  -81.  -256   0 0\n"}
    check = system.wifi(installed(machine(tmp_path, files)))
    assert (check.state, check.found) == ("warn", "wlan0 -81 dBm: weak")


@pytest.mark.parametrize(
    ("output", "state", "word"),
    [
        (RUNNING, "ok", "edgebird@balcony.service active"),
        (RUNNING.replace("=active", "=failed", 1), "fail", "journalctl -u edgebird.service"),
        (RUNNING.replace("=active", "=inactive", 1), "warn", "enable --now edgebird.service"),
        (RUNNING.replace("NRestarts=0", "NRestarts=7", 1), "warn", "after 7 restarts"),
        (RUNNING.split("\n\n", maxsplit=1)[0].replace("loaded", "not-found"), "skip", "installed"),
    ],
)
def test_the_services_state(tmp_path: Path, output: str, state: str, word: str) -> None:
    programs = Programs({"systemctl": Answer(0, output, "")})
    check = system.service(installed(machine(tmp_path, run=programs)))
    assert check.state == state
    assert word in check.found + check.cure


def unit(name: str, state: str, file_state: str) -> str:
    return (
        f"Id={name}\nLoadState=loaded\nActiveState={state}\nUnitFileState={file_state}\n"
        "NRestarts=0\n"
    )


@pytest.mark.parametrize(
    ("units", "state", "found", "cure"),
    [
        (
            [
                ("edgebird.service", "inactive", "disabled"),
                ("edgebird@front.service", "active", "enabled"),
            ],
            *("ok", "edgebird@front.service active", ""),
        ),
        (
            [
                ("edgebird.service", "inactive", "disabled"),
                ("edgebird@front.service", "inactive", "enabled"),
            ],
            *("warn", "edgebird@front.service inactive", "enable --now edgebird@front.service"),
        ),
        # it is to start at boot, so it should run
        (
            [
                ("edgebird.service", "inactive", "enabled"),
                ("edgebird@front.service", "active", "enabled"),
            ],
            "warn",
            "edgebird.service inactive, edgebird@front.service active",
            "enable --now edgebird.service",
        ),
        (
            [("edgebird.service", "inactive", "disabled")],
            *("warn", "edgebird.service inactive", "enable --now edgebird.service"),
        ),
        (
            [("edgebird.service", "activating", "enabled")],
            *("warn", "edgebird.service starting", "look again"),
        ),
        (
            [("edgebird.service", "deactivating", "enabled")],
            *("warn", "edgebird.service deactivating", "enable --now"),
        ),
        ([("edgebird.service", "reloading", "enabled")], "ok", "edgebird.service reloading", ""),
    ],
)
def test_units_that_are_off_on_purpose_or_just_starting(
    tmp_path: Path, units: list[tuple[str, str, str]], state: str, found: str, cure: str
) -> None:
    output = "\n".join(unit(*told) for told in units)
    programs = Programs({"systemctl": Answer(0, output, "")})
    check = system.service(installed(machine(tmp_path, run=programs)))
    assert (check.state, check.found) == (state, found)
    assert cure in check.cure
    assert bool(cure) == bool(check.cure)
    [command] = programs.asked
    assert "UnitFileState" in " ".join(command)


def test_errors_in_the_journal(tmp_path: Path) -> None:
    lines = "Jan 01 10:00:00 pi edgebird[1]: one\nJan 01 10:00:01 pi edgebird[1]: two\n"
    programs = Programs({"journalctl": Answer(0, lines, "")})
    installation = installed(machine(tmp_path, run=programs))
    check = system.recent_errors(installation)
    assert check.state == "warn"
    assert check.found.splitlines() == lines.splitlines()
    [command] = programs.asked
    assert {"edgebird.service", "edgebird@*.service", "--no-pager"} <= set(command)


def test_a_journal_in_memory_does_not_vouch_for_the_time_before_the_start(tmp_path: Path) -> None:
    on_disk = system.recent_errors(installed(machine(tmp_path / "a")))
    assert (on_disk.state, on_disk.found) == ("ok", "none in the journal in 7 days")
    files = {
        "var/log/journal/0123/system.journal": None,
        "run/log/journal/0123/system.journal": "",
    }
    in_memory = system.recent_errors(installed(machine(tmp_path / "b", files)))
    assert in_memory.state == "ok"
    assert in_memory.found.endswith("since this machine was started (not kept over restarts)")


# --- Python


def test_a_numpy_that_hides_the_one_picamera2_needs(tmp_path: Path) -> None:
    site = "usr/lib/python3/dist-packages"
    files = {
        f"{site}/picamera2/__init__.py": "",
        f"{site}/numpy-1.0.0.dist-info/METADATA": "Name: numpy\nVersion: 1.0.0\n",
    }
    error = "Traceback\nValueError: numpy.dtype size changed\n"
    programs = Programs({Path(sys.executable).name: Answer(1, "", error)})
    pi = machine(tmp_path, files, run=programs)
    check = parts.python(installed(pi))
    assert check.state == "warn"
    assert f"numpy {np.__version__} of this environment hides 1.0.0" in check.found
    assert "dtype size changed" in check.found
    assert "pip uninstall numpy" in check.cure
    assert parts.python(installed(pi, camera={"source": "picamera2"})).state == "fail"
    programs.answers[Path(sys.executable).name] = Answer(0, "", "")
    assert parts.python(installed(pi)).state == "ok"


def test_an_environment_that_does_not_see_picamera2(tmp_path: Path) -> None:
    error = "ModuleNotFoundError: No module named 'picamera2'\n"
    programs = Programs({Path(sys.executable).name: Answer(1, "", error)})
    check = parts.python(
        installed(machine(tmp_path, run=programs), camera={"source": "picamera2:1"})
    )
    assert check.state == "fail"
    assert "--system-site-packages" in check.cure


# --- settings, model, camera, light


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    path.write_text("[camera]\nsorce = '0'\nrotate = 45\n")
    installation = Installation(machine=machine(tmp_path / "pi"), config=Config(), config_path=path)
    check = parts.settings(installation)
    assert check.state == "fail"
    assert len(check.found.splitlines()) == 2
    assert "with the defaults" in check.cure
    path.write_text("")
    assert parts.settings(installation).state == "ok"
    path.unlink()
    assert "cannot read" in parts.settings(installation).found


def test_a_folder_for_visits_that_cannot_be_made(tmp_path: Path) -> None:
    check = parts.settings(installed(machine(tmp_path), mqtt={"state": "/proc/nowhere"}))
    assert check.state == "fail"
    assert check.found.startswith("[mqtt] state: /proc/nowhere cannot be made")
    assert check.cure == "put that right"


def test_what_only_root_may_read_wants_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own folders are closed to the user that this is tried as
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setattr("edgebird.config.SERVICE_SETTINGS", folder)
        path, password = folder / "edgebird.toml", folder / "mqtt-password"
        path.write_text('[mqtt]\nurl = "mqtt://feeder@host"\n')
        password.write_text("secret\n")
        password.chmod(0)
        pi, config = machine(folder / "pi"), load_config(path)
        path.chmod(0)
        with unprivileged():
            for look in (parts.settings, parts.broker):
                check = look(Installation(machine=pi, config=config, config_path=path))
                assert "Permission denied" in check.found
                assert (check.state, check.cure) == ("fail", "try `sudo edgebird doctor`")


def test_the_shipped_model_runs_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    pi = machine(tmp_path)
    check = parts.model(installed(pi))
    assert check.state == "ok"
    assert "ms a tile" in check.found
    (tmp_path / "m.tflite").write_bytes(b"")
    with pytest.raises(ModelError, match="card"):
        parts.model(installed(pi, detector={"model": str(tmp_path / "m.tflite")}))


def test_a_picture_of_the_camera_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    installation = installed(machine(tmp_path / "pi"), camera={"source": "demo:"})
    check = parts.camera(installation)
    assert check.state == "ok"
    assert "640 x 480" in check.found
    path = Path(check.found.rpartition(": ")[2])
    assert cv2.imread(str(path)).shape == (480, 640, 3)
    assert path.stat().st_mode & 0o777 & ~0o644 == 0
    assert parts.light(installation).state == "ok"


def test_a_live_camera_is_given_time_to_settle(tmp_path: Path) -> None:
    with closing(scripted_camera({"play": 999, "then": "hang"}, state=tmp_path / "n")) as live:
        frame, fps = parts.settled_frame(live, settled_s=0.2)
    assert frame is not None
    assert fps is not None
    assert frame.index >= 2
    assert frame.index / fps == pytest.approx(0.2, abs=0.15)


def test_a_full_disk_is_not_the_cameras_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    installation = installed(machine(tmp_path / "pi"), camera={"source": str(picture)})
    assert parts.camera(installation).state == "warn"
    assert installation.frame is not None


def test_no_camera_is_no_failure_and_a_missing_one_is(tmp_path: Path) -> None:
    pi = machine(tmp_path, run=Programs())
    assert parts.camera(installed(pi)).state == "warn"
    gone = installed(pi, camera={"source": "/dev/video97"})
    with pytest.raises(CameraError, match="video97"):
        parts.camera(gone)
    assert states(gone, "camera", "light") == {"camera": "fail", "light": "skip"}


@pytest.mark.parametrize("source", ["rtsp://127.0.0.1:9/live", "http://cam/live.m3u8"])
def test_a_stream_is_not_looked_for_among_the_cameras_here(tmp_path: Path, source: str) -> None:
    pi = machine(tmp_path, run=Programs())
    check = parts.camera(installed(pi, camera={"source": source}))
    assert check.state == "fail"
    assert check.found.startswith(f"camera {source} ")
    assert check.cure == ""


def test_a_camera_that_the_service_has_is_not_called_broken(tmp_path: Path) -> None:
    check = parts.camera(installed(machine(tmp_path), camera={"source": "/dev/video97"}))
    assert check.state == "warn"
    assert "while edgebird.service runs" in check.found
    assert "systemctl stop edgebird.service" in check.cure


@pytest.mark.parametrize(
    ("level", "spread", "state", "word"),
    [
        (5, 2, "warn", "dark"),
        (120, 0, "warn", "even"),
        (245, 10, "warn", "bright"),
        (120, 60, "ok", "120"),
    ],
)
def test_the_light_of_a_picture(
    tmp_path: Path, level: int, spread: int, state: str, word: str
) -> None:
    installation = installed(machine(tmp_path))
    image = np.full((48, 64, 3), level, np.uint8)
    image[:, ::2] -= np.uint8(min(spread, level))
    image[:, ::2] += np.uint8(0)
    image[:, 1::2] += np.uint8(min(spread, 255 - level))
    installation.frame = Frame(image, 0, 0.0, 0.0, "cam")
    check = parts.light(installation)
    assert check.state == state, check
    assert word in check.found


# --- broker and Home Assistant


def test_home_assistant_at_a_real_broker(mosquitto: Mosquitto, tmp_path: Path) -> None:
    url = f"mqtt://{mosquitto.address}"
    installation = installed(machine(tmp_path), mqtt={"url": url, "device": "ill"})
    installation.broker_answers = True
    keep(mosquitto, "homeassistant/device/edgebird-ill/c/config", "{}")
    for status, state in (("online", "ok"), ("offline", "warn")):
        keep(mosquitto, "homeassistant/status", status)
        check = parts.home_assistant(installation)
        assert check.state == state
        assert check.found == f"{status}; cameras of this device announced to it: 1"
    off = installed(machine(tmp_path), mqtt={"url": url, "discovery": False})
    off.broker_answers = True
    assert parts.home_assistant(off).state == "skip"


def keep(mosquitto: Mosquitto, topic: str, payload: str) -> None:
    port = str(mosquitto.address.port)
    where = ("-h", "127.0.0.1", "-p", port, "-t", topic, "-q", "1", "-r", "-m", payload)
    subprocess.run(["mosquitto_pub", *where], check=True)


def test_a_broker_that_refuses_us(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = new_mosquitto("allow_anonymous false")
    broker.start()
    for url in (f"mqtt://anna:word@{broker.address}", f"mqtt://127.0.0.1:{free_port()}"):
        installation = installed(machine(tmp_path), mqtt={"url": url})
        with pytest.raises(BrokerError):
            parts.broker(installation)
        names = ("broker", "home assistant")
        assert states(installation, *names) == {"broker": "fail", "home assistant": "skip"}


def test_a_broker_that_wants_the_services_password(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebird.config.SERVICE_SETTINGS", tmp_path)
    passwords, path = tmp_path / "passwords", tmp_path / "edgebird.toml"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "feeder", "right"], check=True)
    broker = new_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    path.write_text(f'[mqtt]\nurl = "mqtt://{broker.address}"\nuser = "feeder"\n')
    (tmp_path / "mqtt-password").write_text("right\n")
    pi = machine(tmp_path / "pi")
    installation = Installation(machine=pi, config=load_config(path), config_path=path)
    assert states(installation, "broker") == {"broker": "ok"}


def test_without_a_broker_there_is_nothing_to_ask(tmp_path: Path) -> None:
    names = ("broker", "home assistant")
    assert states(installed(machine(tmp_path)), *names) == dict.fromkeys(names, "skip")


# --- the whole


def test_no_check_stops_the_others(tmp_path: Path) -> None:
    def breaks(installation: Installation) -> Check:
        raise ZeroDivisionError("by nothing")

    def hangs(installation: Installation) -> Check:
        time.sleep(2)
        return Check("ok", "at last")

    def works(installation: Installation) -> Check:
        return Check("ok", "well")

    examinations = [
        Examination("breaks", breaks),
        Examination("hangs", hangs, 0.05, exit_code=6),
        Examination("works", works),
    ]
    findings = list(examine(installed(machine(tmp_path)), examinations))
    assert [check.state for _, check in findings] == ["fail", "fail", "ok"]
    assert "ZeroDivisionError: by nothing" in findings[0][1].found
    assert "no answer" in findings[1][1].found
    assert checks.exit_code(findings) == 1
    assert checks.exit_code(findings[1:]) == 6
    assert checks.exit_code(findings[2:]) == 0


def test_ctrl_c_does_not_wait_for_a_check_nor_end_python_around_it() -> None:
    code = """
import atexit, signal, time
from edgebird.config import Config
from edgebird.doctor import Examination, Installation, examine
from edgebird.doctor.machine import Machine

# jobs in the background of a shell inherit that it is ignored
signal.signal(signal.SIGINT, signal.default_int_handler)

def hang(installation):
    print("looking", flush=True)
    time.sleep(60)

atexit.register(print, "where native code would abort")
print("said before", end=" ")
list(examine(Installation(machine=Machine(), config=Config()), [Examination("hangs", hang, 60)]))
"""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "said before looking\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, "", "\n")


def test_a_finding_is_a_line_and_its_cure_another() -> None:
    lines = checks.check_lines("disk", Check("fail", "full\nwholly", "delete"))
    assert [line.strip() for line in lines[1:]] == ["wholly", "-> delete"]
    assert lines[0].endswith(" disk           full")


def test_programs_that_are_not_there_or_hang_give_nothing() -> None:
    assert run_program(["no-such-program-here"]) is None
    assert run_program(["sleep", "5"], timeout_s=0.05) is None
    answer = run_program(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert answer == Answer(3, "out\n", "err\n")


def test_this_machine_as_json(mosquitto: Mosquitto, tmp_path: Path) -> None:
    url = f"mqtt://anna:s3cret@{mosquitto.address}"
    config = tmp_path / "edgebird.toml"
    # a prefix on which nothing is retained
    config.write_text('[mqtt]\ndiscovery_prefix = "nobody"\n')
    result = edgebird("doctor", "--source", "demo:", "--mqtt", url, "--config", config, "--json")
    found = json.loads(result.stdout)
    assert found.keys() == {"edgebird", "checks"}
    by_name = {check["name"]: check for check in found["checks"]}
    assert list(by_name) == [examination.name for examination in checks.EXAMINATIONS]
    assert all(check.keys() == {"name", "state", "found", "cure"} for check in found["checks"])
    for name in ("python", "settings", "model", "camera", "light", "broker"):
        assert by_name[name]["state"] == "ok", by_name[name]
    assert "there and back in" in by_name["broker"]["found"]
    assert by_name["home assistant"]["state"] == "skip"
    assert "s3cret" not in result.stdout + result.stderr
    assert result.stderr == ""
    failed = [check for check in found["checks"] if check["state"] == "fail"]
    assert (result.returncode == 0) == (not failed)


def test_the_exit_code_tells_what_failed_first(tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    path.write_text("[camera]\nsorce = '0'\n")
    url = f"mqtt://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(cli, ["doctor", "--config", str(path), "--mqtt", url])
    assert result.exit_code == 2, result.output
    assert "sorce" in result.output
    assert "cannot be reached" in result.output
