"""From a clean Debian to the first alert, to updates that fail, and back; needs root.

``python tests/drill_install.py --help``. A Debian root is made with debootstrap and started with
systemd-nspawn. Its systemd runs the service for real; a mosquitto outside receives the alerts. Each
step is checked, and at the end nothing of edgebird may be left.

The root borrows this machine's network, certificates and settings of pip. It is made in a folder of
its own and deleted at the end, but for the pristine one in ``--base``, which the next run reuses.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client
from conftest import Mosquitto

from edgebird.mqtt.address import BrokerAddress

PROJECT = Path(__file__).parents[1]
# What a system changes by itself, what apt keeps for itself, and what the drill brought along.
NOT_COMPARED = [
    *("dev", "proc", "sys", "run", "tmp", "root", "srv", "var/tmp"),
    *("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/ld.so.cache"),
    *("var/log/journal", "var/log/apt", "var/log/dpkg.log", "var/log/alternatives.log"),
    *("var/log/wtmp", "var/log/btmp", "var/log/lastlog", "var/log/faillog"),
    *("var/cache/apt", "var/cache/debconf", "var/cache/ldconfig"),
    *("var/lib/apt", "var/lib/dpkg", "var/lib/systemd"),
    # made by the distribution's netbase, which Python depends on, and left behind by it
    "etc/hosts",
    *("etc/ssl", "etc/pip.conf", "etc/resolv.conf"),
]


class FailureError(Exception):
    """A step did not do what it should."""


def check(condition: object, complaint: str) -> None:
    if not condition:
        raise FailureError(complaint)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 90) -> float:
    """Wait until the condition holds; how long that took, in seconds."""
    started_s = time.monotonic()
    while not condition():
        check(time.monotonic() - started_s < timeout_s, f"after {timeout_s:.0f} s not yet: {what}")
        time.sleep(0.1)
    return time.monotonic() - started_s


class Machine:
    """A Debian that was started in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"]
        command += ["--directory", str(root), "--console=pipe", "--resolv-conf=off"]
        self._log = root.with_suffix(".console").open("wb")
        self._nspawn = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log
        )
        self._leader = 0
        eventually(self._find_leader, "systemd started")
        eventually(lambda: self.says("systemctl", "is-system-running") == "running", "it runs")

    def _find_leader(self) -> bool:
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        check(self._nspawn.poll() is None, "systemd-nspawn ended, see its .console file")
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                self._leader = int(child)
        return bool(self._leader)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self._leader}", "--all", "env", "-i", "-C", "/srv"]
        enter += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/srv"]
        enter += ["LANG=C.UTF-8"]
        return subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def says(self, *command: str) -> str:
        return self.run(*command).stdout.strip()

    def service(self, key: str, unit: str = "edgebird.service") -> str:
        return self.says("systemctl", "show", "--value", f"--property={key}", unit)

    def install(self, *options: str, code: int = 0) -> tuple[str, float]:
        """Run install.sh; what it said and how long it took."""
        started_s = time.monotonic()
        done = self.run("/srv/edgebird/deploy/install.sh", *options)
        check(done.returncode == code, f"install.sh: exit code {done.returncode}\n{done.stdout}")
        return done.stdout, time.monotonic() - started_s

    def current(self) -> str:
        return os.readlink(self.root / "opt/edgebird/current")

    def files(self) -> set[str]:
        found = set()
        for folder, folders, files in os.walk(self.root):
            here = Path(folder).relative_to(self.root)
            folders[:] = [name for name in folders if str(here / name) not in NOT_COMPARED]
            names = [str(here / name) for name in (*folders, *files)]
            found |= {name for name in names if name not in NOT_COMPARED}
        return found

    def accounts(self) -> list[str]:
        return sorted(
            line
            for name in ("passwd", "group", "shadow")
            for line in (self.root / "etc" / name).read_text().splitlines()
        )

    def packages(self) -> set[str]:
        return set(self.says("dpkg-query", "-W", "-f", "${Package}\n").split())

    def stop(self) -> None:
        # SIGRTMIN+4 is systemd's order to power off, see systemd(1)
        if self._leader:
            os.kill(self._leader, signal.SIGRTMIN + 4)
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._log.close()


class Alerts:
    """Receives alerts, with the time of each."""

    def __init__(self, address: BrokerAddress) -> None:
        self.times_s: list[float] = []
        version = paho.mqtt.client.CallbackAPIVersion.VERSION2
        self._client = paho.mqtt.client.Client(version)
        self._client.on_message = lambda c, u, message: self.times_s.append(time.monotonic())
        self._client.connect(address.host, address.port)
        self._client.subscribe("edgebird/+/+/visit", qos=1)
        self._client.loop_start()

    def next_s(self) -> float:
        """Wait for another one; when it came."""
        count = len(self.times_s)
        eventually(lambda: len(self.times_s) > count, "an alert arrived")
        return self.times_s[count]

    def stop(self) -> None:
        self._client.loop_stop()
        self._client.disconnect()


def make_base(base: Path, distribution: str, mirror: str) -> None:
    if (base / "etc/debian_version").exists():
        return
    say(f"making a {distribution} in {base}")
    packages = "systemd,systemd-sysv,dbus,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", distribution]
    subprocess.run([*command, str(base), *([mirror] if mirror else [])], check=True, stdout=2)


def lend(root: Path) -> None:
    """What this machine needs to reach the registries of packages."""
    for name in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
        if Path(name).exists():
            target = root / name[1:]
            target.unlink(missing_ok=True)
            shutil.copyfile(name, target)


def copy_project(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "edgebird", "deploy", "systemd", "*.toml", "*.md", "LICENSE"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    ).stdout
    for name in listed.decode().split("\0")[:-1]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target / name)


def size_mb(folder: Path) -> float:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files) / 1e6


def received_mb() -> float:
    """What this machine, whose network the root shares, has received from elsewhere."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    counts = (line.partition(":") for line in lines)
    return sum(int(rest.split()[0]) for name, _, rest in counts if name.strip() != "lo") / 1e6


def ribbon_camera(machine: Machine) -> None:
    """As on a Raspberry Pi: its package python3-picamera2, here an empty one, brings numpy."""
    package = machine.root / "srv/package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: python3-picamera2\nVersion: 0\nArchitecture: all\nMaintainer: a drill\n"
        "Depends: python3-numpy\nDescription: stands in for the camera's library\n"
    )
    machine.run("dpkg-deb", "--build", "package")
    machine.run("apt-get", "update")
    done = machine.run("apt-get", "install", "-y", "--no-install-recommends", "./package.deb")
    check(done.returncode == 0, done.stdout)


def numpy_is_the_systems(machine: Machine) -> None:
    code = "import numpy, cv2; print(numpy.__file__, numpy.__version__, cv2.__version__)"
    where, *versions = machine.says("/opt/edgebird/current/bin/python", "-c", code).split()
    check(where.startswith("/usr/lib/python3/"), f"numpy is the system's and not {where}")
    say(f"numpy is the system's: {versions[0]}, with OpenCV {versions[1]}")


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    check(old in text, f"{file} has no {old!r} any more; correct the drill")
    file.write_text(text.replace(old, new, 1))


def drop_in(machine: Machine, text: str) -> None:
    folder = machine.root / "etc/systemd/system/edgebird.service.d"
    folder.mkdir(exist_ok=True)
    (folder / "drill.conf").write_text(text)
    machine.run("systemctl", "daemon-reload")
    check(machine.run("systemctl", "restart", "edgebird").returncode == 0, "it starts again")


def first_install(machine: Machine, alerts: Alerts, url: str) -> None:
    before_mb = received_mb()
    started_s = time.monotonic()
    machine.install("--camera", "demo:", "--mqtt", url)
    installed_s = time.monotonic() - started_s
    # the demo starts without a bird, so that none was missed
    first_s = (alerts.times_s[0] if alerts.times_s else alerts.next_s()) - started_s
    say(
        f"clean root to the first alert: {first_s:.0f} s (installed after {installed_s:.0f} s); "
        f"received over the network: {received_mb() - before_mb:.0f} MB; "
        f"on disk: {size_mb(machine.root / 'opt/edgebird'):.0f} MB"
    )
    check(machine.service("ActiveState") == "active", "the service runs")
    check(machine.service("StatusText").startswith("watching"), machine.service("StatusText"))
    check(machine.says("edgebird", "--version").startswith("edgebird"), "the command works")
    journal = machine.says("journalctl", "-u", "edgebird", "-o", "cat", "--no-pager")
    check("bird arrived" in journal, journal)
    check("<6>" not in journal, f"priorities are read by the journal:\n{journal}")


def updates(machine: Machine, alerts: Alerts) -> None:
    settings = (machine.root / "etc/edgebird/edgebird.toml").read_text()
    before = machine.current()
    _, again_s = machine.install()
    check(machine.current() == before, "nothing new, so the same environment")
    check((machine.root / "etc/edgebird/edgebird.toml").read_text() == settings, "settings stay")
    say(f"run again: {again_s:.1f} s")
    check(again_s < 20, "running it again takes less than 20 s")

    project = machine.root / "srv/edgebird"
    change(project / "edgebird/__init__.py", '"""\n', '"""\n\n# a new version\n')
    _, update_s = machine.install()
    check(machine.current() != before, "a new version, so a new environment")
    check(machine.service("ActiveState") == "active", "the new version runs")
    say(f"update: {update_s:.1f} s")
    good = machine.current()

    change(project / "edgebird/pipeline.py", "    tracks: tuple", "    1 / 0\n    tracks: tuple")
    text, _ = machine.install(code=1)
    check("self-test" in text, text)
    check(machine.current() == good, "a version that fails its self-test is not switched to")
    check(machine.service("ActiveState") == "active", "the good version runs on")
    change(project / "edgebird/pipeline.py", "    1 / 0\n", "")
    say("a version that fails its self-test: refused, the one before runs on")

    unit = project / "systemd/edgebird.service"
    change(unit, "--wait-for-camera", "--wait-for-bears")
    text, _ = machine.install(code=1)
    check("back to the one before" in text, text)
    check(machine.current() == good, "a version that does not start is taken back")
    check(machine.service("ActiveState") == "active", "the good version runs again")
    alerts.next_s()
    change(unit, "--wait-for-bears", "--wait-for-camera")
    left = sorted(path.name for path in (machine.root / "opt/edgebird/releases").iterdir())
    check(len(left) <= 2, f"failed versions are deleted: {left}")
    say("a version that does not start: taken back")


def faults(machine: Machine, alerts: Alerts) -> None:
    drop_in(machine, "[Service]\nWatchdogSec=5\n")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "edgebird")
    took_s = eventually(
        lambda: machine.service("NRestarts") != "0" and machine.service("ActiveState") == "active",
        "a loop that hangs was started again",
    )
    alerts.next_s()
    say(f"a loop that hangs: started again {took_s:.0f} s later (with WatchdogSec=5)")

    settings = machine.root / "etc/edgebird/edgebird.toml"
    change(settings, '"demo:"', '"/dev/video97"')
    machine.run("systemctl", "restart", "edgebird")
    eventually(lambda: "waiting for the camera" in machine.service("StatusText"), "it waits")
    restarts, process = machine.service("NRestarts"), int(machine.service("MainPID"))
    time.sleep(12)
    check(machine.service("ActiveState") == "active", "it waits for the camera")
    after = machine.service("NRestarts"), int(machine.service("MainPID"))
    check((restarts, process) == after, "a camera that is missing is no reason to start again")
    say(f"without a camera: {machine.service('StatusText')!r}, not restarted")

    change(settings, '"/dev/video97"', "17")
    machine.run("systemctl", "restart", "edgebird")
    eventually(lambda: machine.service("ActiveState") == "failed", "a wrong setting ends it")
    check(machine.service("ExecMainStatus") == "2", "with exit code 2")
    change(settings, "17", '"demo:"')
    errors = machine.says("journalctl", "-u", "edgebird", "-p", "3", "-o", "cat", "--no-pager")
    check("edgebird.toml" in errors, errors)
    say("with a wrong setting: failed, not restarted")

    password = machine.root / "etc/edgebird/mqtt-password"
    password.write_text("secret\n")
    password.chmod(0o600)
    check(machine.run("systemctl", "restart", "edgebird").returncode == 0, "with a password file")
    process = int(machine.service("MainPID"))
    shown = machine.says(
        "sh", "-c", f"tr '\\0' '\\n' </proc/{process}/environ | grep CREDENTIALS_D"
    )
    secret = machine.says("cat", f"{shown.partition('=')[2]}/mqtt-password")
    check(secret == "secret", f"the password reaches the service: {shown} {secret}")
    status = machine.says("cat", f"/proc/{process}/status")
    check("Seccomp:\t2" in status, status)
    check("NoNewPrivs:\t1" in status, status)
    check("CapEff:\t0000000000000000" in status, status)
    alerts.next_s()
    say("with a password file: handed over; no rights, system calls filtered")

    machine.run("cp", "/etc/edgebird/edgebird.toml", "/etc/edgebird/front.toml")
    change(settings.with_name("front.toml"), "[camera]", '[camera]\nname = "front"')
    check(machine.run("systemctl", "start", "edgebird@front").returncode == 0, "a second camera")
    folder = machine.root / "var/lib/edgebird/front"
    eventually(lambda: any(folder.rglob("*.sqlite")), f"its alerts wait in {folder}")
    say("a second camera: runs as edgebird@front")


def drill(root: Path, bundle: str, ribbon: bool) -> None:
    lend(root)
    project = root / "srv/edgebird"
    if bundle:
        shutil.copytree(bundle, project)
    else:
        copy_project(project)
    machine = Machine(root)
    broker = Mosquitto(root.with_suffix(".mosquitto"), "allow_anonymous true")
    try:
        broker.start()
        alerts = Alerts(broker.address)
        if ribbon:
            ribbon_camera(machine)
        before = machine.files(), machine.accounts(), machine.packages()
        first_install(machine, alerts, f"mqtt://{broker.address}")
        if ribbon:
            numpy_is_the_systems(machine)
        if not bundle:
            updates(machine, alerts)
        faults(machine, alerts)
        text, _ = machine.install("--uninstall")
        check((root / "etc/edgebird/edgebird.toml").exists(), "settings stay")
        check(machine.service("LoadState") == "not-found", "the unit is gone")
        machine.install("--uninstall", "--purge")
        _, _, packages_added = text.partition("sudo apt-get purge ")
        removed = machine.run("apt-get", "-y", "purge", *packages_added.split())
        check(removed.returncode == 0, removed.stdout)
        alerts.stop()
        files, accounts, packages = machine.files(), machine.accounts(), machine.packages()
        check(packages == before[2], f"packages: {sorted(packages ^ before[2])}")
        check(accounts == before[1], f"accounts: {sorted(set(accounts) ^ set(before[1]))}")
        check(files == before[0], "files: " + json.dumps(sorted(files ^ before[0]), indent=1))
        say("taken off: files, accounts and packages are as before")
    finally:
        machine.stop()
        broker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--distribution", default="bookworm", choices=("bookworm", "trixie"))
    parser.add_argument("--base", type=Path, help="folder of a pristine root, made if missing")
    parser.add_argument("--mirror", default="", help="of Debian, for debootstrap")
    parser.add_argument("--bundle", default="", help="install from this bundle, see bundle.sh")
    parser.add_argument("--ribbon", action="store_true", help="with the system's numpy, as on a Pi")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgebird-drill-") as folder:
        base = options.base or Path(folder, "base")
        make_base(base, options.distribution, options.mirror)
        root = Path(folder, "root")
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        try:
            drill(root, options.bundle, options.ribbon)
        except FailureError as failure:
            say(f"FAILED: {failure}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
