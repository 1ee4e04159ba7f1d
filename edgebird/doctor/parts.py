"""Checks of edgebird's own parts and of what they talk to."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from edgebird.annotate import write_jpeg
from edgebird.camera import Camera, is_live, is_stream, open_camera
from edgebird.camera.live import LiveCamera
from edgebird.camera.opencv import redact_url
from edgebird.camera.v4l2 import list_devices
from edgebird.configure.check import file_problems, reference_problems
from edgebird.configure.init import found_sources
from edgebird.detect import camera_settings
from edgebird.detector import open_detector
from edgebird.doctor import Check, Installation
from edgebird.doctor.machine import Machine
from edgebird.doctor.system import services
from edgebird.errors import CameraError, ConfigError, EdgebirdError, OutputError, UsageError
from edgebird.faults import COVERED_DEVIATION, DARK_LEVEL, mean_and_deviation
from edgebird.interpreter import interpreter_name
from edgebird.motion import small_luma
from edgebird.mqtt.address import broker_address
from edgebird.mqtt.check import check_broker, retained_messages
from edgebird.mqtt.topics import PREFIX, default_device, slug
from edgebird.structures import Frame

_AS_ROOT = "try `sudo edgebird doctor`"
_DEFAULTS_HOLD = "until then all is looked at with the defaults"
_SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
# The camera's own exposure has settled by then.
_SETTLED_S = 2.0
_BRIGHT_LEVEL = 235.0
_SLOW_MS = 1000.0
_ECHOES = 5
# A Pi has some twenty video devices, most of them parts of one chip.
_MOST_NAMES = 3


def python(installation: Installation) -> Check:
    """Python, and the libraries that edgebird runs on."""
    found = (
        f"Python {platform.python_version()} in {sys.prefix}, numpy {np.__version__}, "
        f"OpenCV {cv2.__version__}, {interpreter_name()}"
    )
    missing = [name for name in ("paho-mqtt", "msgspec", "click") if not _version(name)]
    if missing:
        return Check(
            "fail",
            f"{found}; not installed: {', '.join(missing)}",
            "install edgebird again into this environment",
        )
    return _beside_picamera2(installation, found) or Check("ok", found)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _beside_picamera2(installation: Installation, found: str) -> Check | None:
    """What keeps the system's picamera2 from working here, where it is installed or wanted."""
    machine = installation.machine
    site = machine.at(_SYSTEM_PACKAGES)
    wanted = str(installation.config.camera.source).startswith("picamera2")
    if not wanted and not (site / "picamera2").exists():
        return None
    answer = machine.run([sys.executable, "-c", "import picamera2"])
    if answer is not None and answer.code == 0:
        return None
    reason = (answer.errors.strip().splitlines() or ["no reason given"])[-1] if answer else "hangs"
    found += f"; picamera2 cannot be used here: {reason}"
    system = next(iter(metadata.distributions(name="numpy", path=[str(site)])), None)
    if system is not None and system.version != np.__version__:
        found += (
            f"; numpy {np.__version__} of this environment hides {system.version} of the system, "
            "which picamera2 was built with"
        )
        cure = f"{sys.executable} -m pip uninstall numpy; and OpenCV of a version that goes with it"
    else:
        cure = (
            "sudo apt install python3-picamera2; and make the environment with `python3 -m venv "
            "--system-site-packages`"
        )
    return Check("fail" if wanted else "warn", found, cure)


def settings(installation: Installation) -> Check:
    """Mistakes in the configuration and in what it refers to."""
    path = installation.config_path
    try:
        problems = [] if path is None else file_problems(path)
    except ConfigError as error:
        cure = _AS_ROOT if _is_forbidden(error) else f"put that right; {_DEFAULTS_HOLD}"
        return Check("fail", str(error), cure)
    if problems:
        return Check("fail", "\n".join(problems), f"put that right; {_DEFAULTS_HOLD}")
    if problems := reference_problems(installation.config):
        return Check("fail", "\n".join(problems), "put that right")
    return Check("ok", "the defaults, and the flags given" if path is None else str(path))


def _is_forbidden(error: EdgebirdError) -> bool:
    """Whether this user may not read the file that it is about."""
    return isinstance(error.__context__, PermissionError)


def model(installation: Installation) -> Check:
    """The network: checksum, card, and whether it runs."""
    loaded, detector = open_detector(installation.config.detector)
    side_px, _ = loaded.card.input_size_px
    tile = np.zeros((side_px, side_px, 3), np.uint8)
    times = []
    for _ in range(3):
        start_s = time.perf_counter()
        detector.detect(tile, [(0, 0, side_px, side_px)], threshold=0.5)
        times.append(1000 * (time.perf_counter() - start_s))
    return Check(
        "ok",
        f"{loaded.card.name}, sha256 {loaded.card.sha256[:12]}… as its card says, "
        f"{min(times):.0f} ms a tile",
    )


def permissions(installation: Installation) -> Check:
    """Whether this user may use the cameras."""
    machine = installation.machine
    user = machine.user
    nodes = machine.found("/dev/video*")
    if not nodes:
        return Check("skip", "there is no video device here")
    if str(installation.config.camera.source).startswith("picamera2"):
        nodes += [*machine.found("/dev/media*"), *machine.found("/dev/dma_heap/*")]
    refused = [node for node in nodes if not machine.may_use(node)]
    if not refused:
        return Check("ok", f"user {user.name} may use {_listed(nodes, machine)}")
    found = f"user {user.name} may not use {_listed(refused, machine)}"
    gid, members = _group(machine, "video")
    if gid in user.gids:
        return Check(
            "fail",
            f"{found}, though in the group video",
            "sudo udevadm trigger, or start this machine again",
        )
    if user.name in members:
        return Check(
            "fail",
            found,
            "you are in the group video from the next log-in on: log out and in again",
        )
    return Check("fail", found, f"sudo usermod -aG video {user.name}, then log in again")


def _listed(nodes: list[Path], machine: Machine) -> str:
    names = [f"/{node.relative_to(machine.root)}" for node in nodes]
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _group(machine: Machine, name: str) -> tuple[int | None, list[str]]:
    """A group's id and members; None and none if there is no such group."""
    for line in (machine.text("/etc/group") or "").splitlines():
        fields = line.split(":")
        if len(fields) == 4 and fields[0] == name and fields[2].isdecimal():
            return int(fields[2]), fields[3].split(",")
    return None, []


def camera(installation: Installation) -> Check:
    """Opens the camera and keeps a picture."""
    machine, section = installation.machine, installation.config.camera
    source, note = section.source, ""
    if source is None:
        devices = list_devices(dev=machine.at("/dev"), sysfs=machine.at("/sys/class/video4linux"))
        if not (sources := found_sources(devices)):
            return Check("warn", "none given, none found", "give --camera or --source")
        source, note = sources[0][0], " (none was given, this is the first one here)"
    name = redact_url(source)
    try:
        opened = open_camera(source, fps=section.fps, settings=camera_settings(section))
        with closing(opened):
            frame, fps = settled_frame(opened)
    except EdgebirdError as error:
        busy = [
            n for n, unit in (services(machine) or {}).items() if unit["ActiveState"] == "active"
        ]
        if isinstance(error, CameraError) and busy and is_live(source):
            return Check(
                "warn",
                f"{name} cannot be tried while {busy[0]} runs: {error}",
                f"sudo systemctl stop {busy[0]}, then `edgebird doctor` again, then start it again",
            )
        # a stream is none of this machine's cameras, which another cure would point to
        if is_stream(source):
            return Check("fail", str(error))
        raise
    if frame is None:
        return Check(
            "fail", f"{name}{note} gives no picture", "check the cable; `edgebird cameras`"
        )
    installation.frame = frame
    width, height = frame.size
    found = f"{name}{note}, {width} x {height}"
    if fps is not None:
        found += f", {fps:.1f} frames a second"
    try:
        # a new one each time: nobody can have put something else at a name that is not known
        path = Path(tempfile.mkdtemp(prefix="edgebird-doctor-")) / "frame.jpg"
        write_jpeg(frame.image, path)
    except (OSError, OutputError) as error:
        return Check("warn", f"{found}; a frame of it cannot be kept: {error}")
    return Check("ok", f"{found}; a frame of it: {path}")


def settled_frame(
    camera: Camera, settled_s: float = _SETTLED_S
) -> tuple[Frame | None, float | None]:
    """A picture, of a live camera after its exposure has settled, and then its frame rate."""
    frame, first_s, count = None, 0.0, 0
    give_up_s = time.monotonic() + 5 * _SETTLED_S
    for moment in camera.frames():
        if isinstance(moment, Frame):
            frame, count = moment, count + 1
            if not isinstance(camera, LiveCamera):
                break
            first_s = first_s or moment.monotonic_s
            if (seen_s := moment.monotonic_s - first_s) >= settled_s:
                return frame, (count - 1) / seen_s
        if time.monotonic() > give_up_s:
            break
    return frame, None


def light(installation: Installation) -> Check:
    """Whether the picture shows anything."""
    if installation.frame is None:
        return Check("skip", "no picture to look at")
    mean, deviation = mean_and_deviation(small_luma(installation.frame))
    found = f"brightness {mean:.0f} of 255, contrast {deviation:.0f}"
    if mean + 2 * deviation < DARK_LEVEL:
        return Check(
            "warn", f"{found}: too dark", "right at night; by day, look for a cap on the lens"
        )
    if deviation < COVERED_DEVIATION:
        return Check("warn", f"{found}: an even surface", "is the lens covered, or fogged?")
    if mean > _BRIGHT_LEVEL:
        return Check("warn", f"{found}: too bright", "turn the camera away from the sun")
    return Check("ok", found)


def broker(installation: Installation) -> Check:
    """Sends to the broker and reads back."""
    section = installation.config.mqtt
    if section.url is None:
        return Check("skip", "none is set, so alerts stay on this machine: see --mqtt")
    try:
        address = broker_address(section)
    except UsageError as error:
        if not _is_forbidden(error):
            raise
        return Check("fail", str(error), _AS_ROOT)
    device = section.device or default_device()
    report = check_broker(address, device=device, rounds=_ECHOES)
    installation.broker_answers = True
    secure = "TLS" if address.encrypted else "not encrypted"
    found = f"{address} ({secure}): there and back in {report.arrived_ms:.0f} ms"
    if not report.retained:
        return Check("fail", f"{found}, keeps no retained messages", "use another broker")
    if report.picture_ms is None:
        return Check("warn", f"{found}, takes no pictures of 120 kB", "raise its packet size")
    if report.arrived_ms > _SLOW_MS:
        return Check("warn", f"{found}: slow", "look at the network between here and there")
    return Check("ok", found)


def home_assistant(installation: Installation) -> Check:
    """Whether Home Assistant is at the same broker."""
    section = installation.config.mqtt
    if not installation.broker_answers:
        return Check("skip", "no broker to ask")
    if not section.discovery:
        return Check("skip", "discovery is off")
    status = f"{section.discovery_prefix}/status"
    ours = f"{section.discovery_prefix}/device/{PREFIX}-{slug(section.device or default_device())}/"
    retained = retained_messages(broker_address(section), status, f"{ours}+/config")
    cameras = sum(topic.startswith(ours) for topic in retained)
    told = f"; cameras of this device announced to it: {cameras}"
    match retained.get(status):
        case b"online":
            return Check("ok", f"online{told}")
        case b"offline":
            return Check("warn", f"offline{told}", "start it, or look at its MQTT integration")
    return Check("skip", f"the broker keeps no word of it on {status}, which is usual{told}")
