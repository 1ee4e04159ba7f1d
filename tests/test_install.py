"""The units and the installer, as far as they go without installing; drill_install.py does that."""

from __future__ import annotations

import os
import re
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
