"""Checks of the machine that edgebird runs on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from edgebird.config import state_folder
from edgebird.configure.check import nearest
from edgebird.doctor import Check, Installation, State
from edgebird.doctor.machine import Machine
from edgebird.firmware import NOW, throttled_bits, throttled_words
from edgebird.health import temperature_c

UNITS = ("edgebird.service", "edgebird@*.service")

_GB, _MB = 1e9, 1e6
# A Pi Zero 2 W has 425 MB left for programs, edgebird takes about 100.
_LITTLE_MEMORY_MB = 60
_HOT_C, _TOO_HOT_C = 75.0, 84.0
_WEAK_SIGNAL_DBM = -75
_FULL_MB = 50
# Cards of 32 GB last for some 10 TB.
_MUCH_WRITTEN_GB_PER_DAY = 10.0
_WORN = 9  # in tenths of an eMMC's expected life


def board(installation: Installation) -> Check:
    """Processor, memory, and what the network can make use of."""
    machine = installation.machine
    cpuinfo = machine.text("/proc/cpuinfo") or ""
    cores = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    name = machine.text("/proc/device-tree/model") or _field(cpuinfo, "model name") or "processor"
    features = set(_field(cpuinfo, "Features", "flags").split())
    memory = machine.text("/proc/meminfo") or ""
    total_mb, free_mb = (_memory_mb(memory, key) for key in ("MemTotal", "MemAvailable"))
    found = f"{name}, {cores} cores, {total_mb:.0f} MB of memory, {free_mb:.0f} MB free"
    if {"asimd", "neon"} & features:
        dot = "with" if "asimddp" in features else "without"
        found += f"; NEON {dot} dot product"
    elif "avx2" in features:
        found += "; AVX2"
    elif features:
        return Check(
            "warn",
            f"{found}; neither NEON nor AVX2",
            "the network runs slowly on this processor: `edgebird bench` tells how slowly",
        )
    if free_mb < _LITTLE_MEMORY_MB:
        return Check("warn", found, "memory is short: stop other programs, or the desktop")
    return Check("ok", found)


def clock(installation: Installation) -> Check:
    """Whether the times of alerts can be trusted."""
    if installation.machine.clock_is_synchronised():
        return Check("ok", "follows a time server")
    return Check(
        "warn",
        "follows no time server, so alerts may carry wrong times",
        "sudo timedatectl set-ntp true; and check that this machine reaches the internet or a "
        "time server of your router",
    )


def wifi(installation: Installation) -> Check:
    """How well the wireless network is received."""
    lines = (installation.machine.text("/proc/net/wireless") or "").splitlines()[2:]
    levels = {}
    for line in lines:
        name, _, rest = line.partition(":")
        numbers = rest.split()
        if len(numbers) > 2:
            levels[name.strip()] = round(float(numbers[2].rstrip(".")))
    if not levels:
        return Check("skip", "no wireless network is used")
    found = ", ".join(f"{name} {level} dBm" for name, level in levels.items())
    if max(levels.values()) < _WEAK_SIGNAL_DBM:
        return Check("warn", f"{found}: weak", "move the board or the access point, or use a cable")
    return Check("ok", found)


def disk(installation: Installation) -> Check:
    """Room for pictures and for alerts that wait."""
    config = installation.config
    folders = [state_folder(config.mqtt.state)]
    if config.output.save is not None:
        folders.insert(0, Path(config.output.save))
    checks, seen = [], set()
    for folder in folders:
        place = nearest(folder)
        if (device := os.stat(place).st_dev) not in seen:
            seen.add(device)
            checks.append(_room(installation, folder, place))
    worst = max(checks, key=lambda check: ("ok", "warn", "fail").index(check.state))
    return Check(worst.state, "; ".join(check.found for check in checks), worst.cure)


def _room(installation: Installation, folder: Path, place: Path) -> Check:
    system = installation.machine.statvfs(place)
    free_mb = system.f_bavail * system.f_frsize / _MB
    found = f"{folder}: {free_mb / 1000:.1f} GB free"
    if system.f_flag & os.ST_RDONLY:
        return Check(
            "fail",
            f"{found}, but it can only be read",
            "a card that fails becomes read-only: look at `dmesg`, and replace the card",
        )
    if system.f_files and not system.f_favail:
        return Check("fail", f"{found}, but no room for another file", "delete files you can spare")
    output = installation.config.output
    wanted_mb = 0.0
    if output.save is not None and Path(output.save) == folder:
        wanted_mb = max(0.0, output.keep_mb - _used_mb(folder))
    if free_mb < _FULL_MB:
        return Check("fail", f"{found}: full", "delete what you can spare; `sudo apt clean` helps")
    if free_mb < wanted_mb + output.reserve_mb:
        return Check(
            "warn",
            f"{found}, pictures may still take {wanted_mb / 1000:.1f} GB",
            "delete what you can spare, or lower keep_mb under [output]",
        )
    return Check("ok", found)


def _used_mb(folder: Path) -> float:
    """How much the pictures in a folder take."""
    used = 0
    for picture in folder.glob("*.jpg"):
        # the service may have deleted it meanwhile
        with suppress(OSError):
            used += picture.stat().st_size
    return used / _MB


def card(installation: Installation) -> Check:
    """How much was written to the card, as far as card and file system tell."""
    machine = installation.machine
    found: list[str] = []
    state, cure = "ok", ""
    for path in machine.found("/sys/class/mmc_host/mmc*/mmc*:*/life_time"):
        tenths = [int(text, 16) for text in (machine.text(path) or "").split()]
        if used := max(tenths, default=0):
            found.append(f"eMMC has used up to {10 * used} % of its life")
            if used >= _WORN:
                state, cure = "warn", "plan to replace it, and keep a copy of what matters"
    up_s = float((machine.text("/proc/uptime") or "0").split()[0])
    for path in machine.found("/sys/fs/ext4/*/lifetime_write_kbytes"):
        name = path.parent.name
        total_kb = machine.number(path) or 0
        session_kb = machine.number(path.with_name("session_write_kbytes")) or 0
        # the first hours are not like the rest
        per_day_gb = session_kb / 1e6 / max(up_s / 86400, 1.0)
        found.append(f"{name}: {total_kb / 1e6:.0f} GB written in all, {per_day_gb:.1f} GB a day")
        if per_day_gb > _MUCH_WRITTEN_GB_PER_DAY:
            state, cure = "warn", f"much is written to {name}: `sudo iotop -ao` tells by whom"
        if errors := machine.number(path.with_name("errors_count")):
            found.append(f"{errors} errors of its file system")
            state = "fail"
            cure = f"copy what matters from {name} now, check it with fsck, or replace the card"
    if not found:
        return Check("skip", "the card does not report it")
    return Check(cast(State, state), "; ".join(found), cure)


def power(installation: Installation) -> Check:
    """Whether a Raspberry Pi gets the voltage that it needs, and runs at full speed."""
    machine = installation.machine
    bits = throttled_bits(machine)
    words = throttled_words(bits)
    low = _voltage_alarm(machine)
    if bits is None and low is None:
        return Check("skip", "this machine does not report it")
    if low and not any("voltage" in word for word in words):
        words.insert(0, "under-voltage")
    if not words:
        return Check("ok", "enough voltage, full speed")
    cures = []
    if any("voltage" in word for word in words):
        cures.append("use the power supply made for this board, and a short, thick cable")
    if any("voltage" not in word for word in words):
        cures.append("give it air or a heat sink")
    now = bool((bits or 0) & NOW) or bool(low)
    return Check("fail" if now else "warn", ", ".join(words), "; ".join(cures))


def _voltage_alarm(machine: Machine) -> bool | None:
    """The kernel's own watch over the voltage; None where there is none."""
    for name in machine.found("/sys/class/hwmon/hwmon*/name"):
        if machine.text(name) == "rpi_volt":
            return machine.number(name.with_name("in0_lcrit_alarm")) == 1
    return None


def temperature(installation: Installation) -> Check:
    """Whether the processor has to slow down for heat, or soon will."""
    zone = installation.machine.at("/sys/class/thermal/thermal_zone0/temp")
    celsius = temperature_c(zone)
    if celsius is None:
        return Check("skip", "this machine does not report it")
    if celsius < _HOT_C:
        return Check("ok", f"{celsius:.0f} °C")
    state: State = "fail" if celsius >= _TOO_HOT_C else "warn"
    return Check(state, f"{celsius:.0f} °C", "give it air, shade or a heat sink")


def service(installation: Installation) -> Check:
    """What systemd says of edgebird."""
    units = services(installation.machine)
    if units is None:
        return Check("skip", "systemd does not run here")
    there = {name: unit for name, unit in units.items() if unit["LoadState"] == "loaded"}
    if not there:
        return Check("skip", "edgebird is not installed as a service")
    # with several cameras, each with a unit of its own, this one is off on purpose
    if len(there) > 1 and _is_off(there.get("edgebird.service", {})):
        del there["edgebird.service"]
    restarts = {name: int(unit.get("NRestarts") or 0) for name, unit in there.items()}
    words = {"activating": "starting"}
    states = {n: words.get(unit["ActiveState"], unit["ActiveState"]) for n, unit in there.items()}
    found = ", ".join(
        f"{name} {state}" + (f" after {restarts[name]} restarts" if restarts[name] else "")
        for name, state in states.items()
    )
    if failed := [name for name, state in states.items() if state == "failed"]:
        return Check("fail", found, f"journalctl -u {failed[0]} -n 20 says why")
    running = ("active", "reloading", "starting")
    if idle := [name for name, state in states.items() if state not in running]:
        return Check("warn", found, f"sudo systemctl enable --now {idle[0]}")
    if any(restarts.values()):
        return Check("warn", found, f"journalctl -u {max(restarts, key=lambda n: restarts[n])}")
    if "starting" in states.values():
        return Check("warn", found, "look again in three minutes")
    return Check("ok", found)


def _is_off(unit: Mapping[str, str]) -> bool:
    return (unit.get("ActiveState"), unit.get("UnitFileState")) == ("inactive", "disabled")


def services(machine: Machine) -> dict[str, dict[str, str]] | None:
    """Properties of edgebird's units by name; None where systemd does not run."""
    properties = "Id,LoadState,ActiveState,UnitFileState,NRestarts"
    answer = machine.run(["systemctl", "show", f"--property={properties}", *UNITS])
    if answer is None or answer.code != 0:
        return None
    units = {}
    for block in answer.output.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if {"Id", "LoadState", "ActiveState"} <= unit.keys():
            units[unit["Id"]] = unit
    return units


def recent_errors(installation: Installation) -> Check:
    """What the journal has of errors in the last week."""
    machine = installation.machine
    units = [word for unit in UNITS for word in ("-u", unit)]
    command = ["journalctl", *units, "-p", "3", "-n", "5", "--since", "-7days", "-q", "-o", "short"]
    answer = machine.run([*command, "--no-pager"])
    on_disk, in_memory = (machine.found(f"/{top}/log/journal/*") for top in ("var", "run"))
    if answer is None or answer.code != 0 or not (on_disk or in_memory):
        return Check("skip", "there is no journal to read")
    lines = answer.output.strip().splitlines()
    if not lines:
        limit = "" if on_disk else " or since this machine was started (not kept over restarts)"
        return Check("ok", f"none in the journal in 7 days{limit}")
    return Check("warn", "\n".join(lines), "journalctl -u edgebird shows what went before them")


def _field(cpuinfo: str, *names: str) -> str:
    for name in names:
        if found := re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
            return found[1]
    return ""


def _memory_mb(meminfo: str, key: str) -> float:
    found = re.search(rf"^{key}:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 / _MB if found else 0.0
