"""The units and the installer, as far as they go without installing; drill_install.py does that."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgebird.config import load_config

ROOT = Path(__file__).parents[1]
INSTALL = ROOT / "deploy/install.sh"
BUNDLE = ROOT / "deploy/bundle.sh"
UNITS = ("edgebird.service", "edgebird@.service")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this is not a Debian")


def run(*command: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_LOG_LEVEL": "warning"}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


# the units


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_fault_in_the_unit(name: str, tmp_path: Path) -> None:
    for unit in UNITS:
        text = (ROOT / "systemd" / unit).read_text()
        program = "/opt/edgebird/current/bin/edgebird"
        assert f"ExecStart={program} " in text
        (tmp_path / unit).write_text(text.replace(program, shutil.which("true") or ""))
    done = run("systemd-analyze", "verify", tmp_path / name)
    version = int(re.findall(r"\d+", run("systemd-analyze", "--version").stdout)[0])
    newer = {"RestartSteps", "RestartMaxDelaySec"} if version < 254 else set()
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    unknown = [re.search(r"Unknown key(?: name)? '(\w+)'", line) for line in complaints]
    assert all(unknown), done.stderr
    assert {match[1] for match in unknown if match} == newer
    assert "edgebird" not in "".join(
        line for line in done.stderr.splitlines() if line not in complaints
    )


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardened(name: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", ROOT / "systemd" / name)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= 2.0


def test_the_unit_for_several_cameras_differs_in_names_only() -> None:
    one, several = (
        [
            line
            for line in (ROOT / "systemd" / name).read_text().splitlines()
            if not line.startswith(("#", "Description="))
        ]
        for name in UNITS
    )
    names = {"%i.toml": "edgebird.toml", "edgebird/%i": "edgebird", "edgebird-%i": "edgebird"}
    for name, plain in names.items():
        several = [line.replace(name, plain) for line in several]
    assert several == one


# the installer


@pytest.mark.parametrize("script", [INSTALL, BUNDLE])
def test_the_scripts_are_clean(script: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=path)
    if shellcheck is None:
        pytest.skip("shellcheck is not here")
    done = run(shellcheck, script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [INSTALL, BUNDLE])
def test_the_scripts_explain_themselves(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("script", "arguments", "word"),
    [
        (INSTALL, ("--bird",), "--bird"),
        (INSTALL, ("--camera",), "needs a value"),
        (INSTALL, ("--purge",), "--uninstall"),
        (INSTALL, ("--wheels", "/nowhere"), "/nowhere"),
        (INSTALL, ("--wheels", "/usr"), "bundle.sh"),
        (BUNDLE, (), "bookworm or trixie"),
        (BUNDLE, ("woody",), "woody"),
        (BUNDLE, ("bookworm", "armhf"), "armhf"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    script: Path, arguments: tuple[str, ...], word: str
) -> None:
    done = run(script, *arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr


def changed_places() -> list[float | None]:
    places = ("/opt", "/opt/edgebird", "/etc/edgebird", "/etc/systemd/system", "/usr/local/bin")
    return [Path(place).stat().st_mtime if Path(place).exists() else None for place in places]


@needs_apt
def test_a_dry_run_tells_what_it_would_do_and_does_nothing() -> None:
    before = changed_places()
    urls = ("rtsp://me:secret@camera/1", "mqtt://me:secret@broker")
    done = run(INSTALL, "--dry-run", "--camera", urls[0], "--mqtt", urls[1])
    assert done.returncode == 0, done.stderr
    assert changed_places() == before
    for word in ("/etc/edgebird/edgebird.toml", "-m venv", "edgebird@.service"):
        assert word in done.stdout
    assert "secret" not in done.stdout
    assert run(INSTALL, "--dry-run", "--uninstall", "--purge").returncode == 0
    assert changed_places() == before


def fake_python(folder: Path, bits: int, version: str) -> None:
    """A python3 that says this of itself."""
    program = folder / "python3"
    program.write_text(
        f'#!/bin/sh\ncase "$2" in *calcsize*) echo {bits};; *) echo {version};; esac'
    )
    program.chmod(0o755)


@needs_apt
@pytest.mark.parametrize(
    ("bits", "version", "word"),
    [(32, "3.13", "64-bit Raspberry Pi OS"), (64, "3.14", "3.11 to 3.13"), (64, "3.9", "3.9")],
)
def test_a_system_that_does_not_fit_is_refused_with_the_reason(
    bits: int, version: str, word: str, tmp_path: Path
) -> None:
    fake_python(tmp_path, bits, version)
    done = run(INSTALL, "--dry-run", path=tmp_path)
    assert done.returncode == 1
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("mqtt", ["", 'mqtt://me:a"b\\c#é@broker'])
def test_the_settings_that_it_writes_can_be_read(mqtt: str, tmp_path: Path) -> None:
    settings = tmp_path / "edgebird.toml"
    script = f"source {INSTALL}; run() {{ :; }}; put() {{ cat >{settings}; }}; step() {{ :; }}; "
    script += "SETTINGS=/nowhere camera=demo: mqtt=$1; write_settings"
    done = run("bash", "-c", script, "bash", mqtt)
    assert done.returncode == 0, done.stderr
    config = load_config(settings)
    assert config.camera.source == "demo:"
    assert config.mqtt.url == (mqtt or None)
    assert config.output.save == "pictures"


def in_the_script(
    script: str, *, path: Path | None = None, **variables: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run some of the installer's functions, with variables of its own overruled."""
    settings = "".join(f"{name}={value}; " for name, value in variables.items())
    return run("bash", "-c", f"source {INSTALL}; {settings} {script}", path=path)


# --- which units run, and from which version


def fake_systemctl(folder: Path, units: dict[str, str]) -> Path:
    """A systemctl that knows units and their states; where it writes down what it is asked."""
    asked, program = folder / "asked", folder / "systemctl"
    listed = "".join(
        f'case $3$4 in *{state}*) echo "{name} loaded {state}";; esac\n'
        for name, state in units.items()
    )
    program.write_text(
        f'#!/bin/sh\n[ "$1" = list-units ] || echo "$@" >>{asked}\n'
        f'[ "$1" = list-units ] || exit 0\n{listed}'
    )
    program.chmod(0o755)
    return asked


@pytest.mark.parametrize(
    ("enabled", "units", "started", "newly_enabled"),
    [
        ("", {}, ["edgebird.service"], ["edgebird.service"]),
        (
            "edgebird.service edgebird@front.service",
            {"edgebird.service": "active", "edgebird@front.service": "active"},
            ["edgebird.service", "edgebird@front.service"],
            [],
        ),
        # one that runs and does not start at boot, and one that starts at boot and has failed
        (
            "edgebird@front.service",
            {"edgebird@front.service": "failed", "edgebird@trial.service": "active"},
            ["edgebird@front.service", "edgebird@trial.service"],
            [],
        ),
        # switched off after it had failed
        (
            "edgebird@front.service",
            {"edgebird.service": "failed", "edgebird@front.service": "activating"},
            ["edgebird@front.service"],
            [],
        ),
    ],
)
def test_an_update_starts_again_what_runs_and_what_starts_at_boot(
    tmp_path: Path,
    enabled: str,
    units: dict[str, str],
    started: list[str],
    newly_enabled: list[str],
) -> None:
    wants = tmp_path / "multi-user.target.wants"
    wants.mkdir()
    for name in enabled.split():
        (wants / name).symlink_to("/nowhere")
    asked = fake_systemctl(tmp_path, units)
    script = "mapfile -t units < <(wanted_units); start_units restart ${units[@]}"
    done = in_the_script(script, path=tmp_path, UNIT_DIR=tmp_path)
    assert done.returncode == 0, done.stderr
    orders = [line.split() for line in asked.read_text().splitlines()]
    assert [order[-1] for order in orders if order[0] == "restart"] == started
    assert [order[-1] for order in orders if order[0] == "enable"] == newly_enabled


def test_a_version_that_still_runs_is_not_deleted(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    for name in ("1-unused", "2-runs", "3-before", "4-current"):
        (releases / name / "bin").mkdir(parents=True)
    (tmp_path / "current").symlink_to(releases / "4-current")
    # as a program of this version shows in the list of processes
    command = [f"{releases}/2-runs/bin/python", "-c", "read line"]
    variables = {"HOME_DIR": tmp_path, "RELEASES": releases}
    script = f"remove_old_releases {releases}/3-before"
    bash = shutil.which("bash")
    with subprocess.Popen(command, executable=bash, stdin=subprocess.PIPE) as process:
        done = in_the_script(script, **variables)
        assert process.poll() is None
        process.communicate()
    assert done.returncode == 0, done.stderr
    left = ["2-runs", "3-before", "4-current"]
    assert sorted(path.name for path in releases.iterdir()) == left
    assert in_the_script(script, **variables).returncode == 0
    assert sorted(path.name for path in releases.iterdir()) == left[1:]


def test_packages_are_unpacked_on_the_disk(tmp_path: Path) -> None:
    # /tmp may be in memory
    pip, python3 = tmp_path / "pip", tmp_path / "python3"
    pip.write_text(f'#!/bin/sh\necho "$2 $3 in $TMPDIR" >{tmp_path}/asked\n')
    python3.write_text(
        f'#!/bin/sh\n[ "$2" != venv ] || {{ mkdir -p "$3/bin"; cp {pip} "$3/bin/python"; }}\n'
    )
    for program in (pip, python3):
        program.chmod(0o755)
    done = in_the_script(
        "package_installed() { false; }; self_test() { true; }; step() { :; }; make_release",
        path=tmp_path,
        HOME_DIR=tmp_path,
        RELEASES=tmp_path / "releases",
    )
    assert done.returncode == 0, done.stderr
    [release] = (tmp_path / "releases").iterdir()
    assert (tmp_path / "asked").read_text() == f"pip install in {release}\n"


# --- the ribbon camera's library


@needs_apt
@pytest.mark.parametrize(
    ("camera", "usb", "settings", "goes_on"),
    [
        ("0", False, {}, True),
        ("rtsp://camera/1", False, {}, True),
        ("picamera2:1", False, {}, False),
        ("", False, {}, False),
        ("", True, {}, True),
        ("", False, {"edgebird": "0"}, True),
        ("0", False, {"edgebird": "picamera2"}, False),
        # one of several cameras
        ("", False, {"front": "usb-cam-video-index0"}, True),
        ("", False, {"front": "0", "back": "picamera2"}, False),
        ("picamera2", False, {"front": "0"}, False),
    ],
)
def test_only_a_ribbon_camera_needs_its_library(
    tmp_path: Path, camera: str, usb: bool, settings: dict[str, str], goes_on: bool
) -> None:
    for name, source in settings.items():
        (tmp_path / f"{name}.toml").write_text(f'[camera]\nsource = "{source}"\n')
    done = in_the_script(
        "apt_get() { echo 'E: no such package' >&2; return 1; }; package_installed() { false; }; "
        f"on_a_pi() {{ true; }}; usb_camera() {{ {str(usb).lower()}; }}; "
        "step() { :; }; choose_camera; install_ribbon_library",
        camera=camera,
        SETTINGS_DIR=tmp_path,
        SETTINGS=tmp_path / "edgebird.toml",
        HOME_DIR=tmp_path / "opt",
    )
    assert (done.returncode == 0) == goes_on
    assert ("python3-picamera2 cannot be had" in done.stdout) == goes_on
    assert ("cannot install python3-picamera2" in done.stderr) != goes_on
    assert bool(done.stderr) != goes_on


def test_the_camera_is_chosen_once(tmp_path: Path) -> None:
    settings = tmp_path / "edgebird.toml"
    done = in_the_script(
        "on_a_pi() { true; }; usb_camera() { false; }; choose_camera; usb_camera() { true; }; "
        f"run() {{ :; }}; put() {{ cat >{settings}; }}; step() {{ :; }}; write_settings",
        SETTINGS="/nowhere",
    )
    assert done.returncode == 0, done.stderr
    assert load_config(settings).camera.source == "picamera2"


def test_settings_of_other_cameras_are_enough(tmp_path: Path) -> None:
    (tmp_path / "front.toml").touch()
    script = 'run() { :; }; put() { cat >/dev/null; }; step() { echo "$@"; }; write_settings'
    folder = {"SETTINGS_DIR": tmp_path, "SETTINGS": tmp_path / "edgebird.toml"}
    assert "stay as they are" in in_the_script(script, **folder).stdout
    assert "camera 0" in in_the_script(script, camera="0", **folder).stdout


# --- the user


SERVICE_USER = "edgebird:x:998:998::/var/lib/edgebird:/usr/sbin/nologin"
PERSONS = (
    "edgebird:x:1000:1000::/home/edgebird:/bin/bash",
    "edgebird:x:998:998::/home/edgebird:/bin/bash",
    "edgebird:x:1000:1000::/home/edgebird:/usr/sbin/nologin",
)


def accounts(folder: Path, *, user: str = "", group: str = "") -> Path:
    """A folder with a getent that knows the user and the group edgebird, or does not."""
    program = folder / "getent"
    found = {"passwd": user, "group": group}
    cases = "".join(f"{key}) found={shlex.quote(line)};; " for key, line in found.items())
    program.write_text(f'#!/bin/sh\ncase $1 in {cases}esac\n[ "$found" ] && echo "$found"\n')
    program.chmod(0o755)
    return folder


ORDERS = 'run() { echo "$@"; }; step() { :; }; '


def test_a_group_that_is_left_from_before_is_taken(tmp_path: Path) -> None:
    fresh = in_the_script(f"{ORDERS} make_user", path=accounts(tmp_path))
    assert "useradd --system --user-group " in fresh.stdout
    path = accounts(tmp_path, group="edgebird:x:998:pi")
    again = in_the_script(f"{ORDERS} make_user", path=path)
    assert "useradd --system --gid=edgebird " in again.stdout
    path = accounts(tmp_path, user=SERVICE_USER, group="edgebird:x:998:")
    there = in_the_script(f"{ORDERS} check_user; make_user", path=path)
    assert (there.returncode, there.stdout) == (0, "")


def test_the_user_goes_and_the_group_too(tmp_path: Path) -> None:
    path = accounts(tmp_path, user=SERVICE_USER, group="edgebird:x:998:pi")
    done = in_the_script(f"{ORDERS} remove_user", path=path)
    assert done.stdout.splitlines() == [
        "userdel edgebird",
        "groupdel edgebird",
        "nothing of edgebird is left",
    ]


@pytest.mark.parametrize(
    ("in_use", "told"),
    [
        ("groupdel", "the group edgebird: in use, not removed"),
        ("userdel|groupdel", "the user and group edgebird: in use, not removed"),
    ],
)
def test_a_group_that_somebody_needs_does_not_end_the_purge(
    tmp_path: Path, in_use: str, told: str
) -> None:
    (tmp_path / "added").write_text("python3-picamera2\n")
    done = in_the_script(
        f"run() {{ case $1 in {in_use}) return 8;; esac; }}; step() {{ :; }}; "
        "systemd_runs() { false; }; remove_all",
        path=accounts(tmp_path, user=SERVICE_USER, group="edgebird:x:998:"),
        purge="yes",
        PACKAGES_ADDED=tmp_path / "added",
    )
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    assert "nothing of edgebird is left" not in done.stdout
    assert "sudo apt-get purge python3-picamera2" in done.stdout


@pytest.mark.parametrize("person", PERSONS)
def test_a_persons_account_is_neither_taken_nor_removed(tmp_path: Path, person: str) -> None:
    path = accounts(tmp_path, user=person, group="edgebird:x:1000:")
    done = in_the_script(f"{ORDERS} check_user; make_user", path=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a person's account" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = in_the_script(f"{ORDERS} remove_user", path=path)
    assert done.returncode == 0, done.stderr
    assert "del" not in done.stdout
    assert "stays" in done.stdout
    assert "nothing" not in done.stdout


def test_a_purge_takes_what_was_changed_of_the_units(tmp_path: Path) -> None:
    for name in ("edgebird.service.d", "edgebird@.service.d", "edgebird@front.service.d"):
        (tmp_path / name).mkdir()
    done = in_the_script(
        f"{ORDERS} systemd_runs() {{ false; }}; remove_all",
        path=accounts(tmp_path),
        purge="yes",
        UNIT_DIR=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for folder in tmp_path.glob("*.service.d"):
        assert f" {folder}" in done.stdout
