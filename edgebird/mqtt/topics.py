"""MQTT topics: one per camera and value, all under ``edgebird/<device>``. Pure functions."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import unicodedata
from dataclasses import dataclass
from pathlib import Path

PREFIX = "edgebird"
MACHINE_ID = Path("/etc/machine-id")


def slug(name: str) -> str:
    """Turn any name into one topic level: lower-case letters a-z, digits, ``_`` and ``-``.

    Accents are dropped and every run of other characters becomes one ``-``. A name in which
    nothing is left (an empty one, or one in another script) becomes eight hexadecimal digits
    that depend on it only, so the result is never empty. ``slug(slug(x)) == slug(x)``.
    """
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode().lower()
    level = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")
    return level or hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def default_device(machine_id: Path = MACHINE_ID) -> str:
    """Name this machine by eight hexadecimal digits that stay the same across boots.

    They are a keyed hash of the machine id, which itself must not be shown to others
    (see machine-id(5)). Without a usable machine id the host name stands in.
    """
    try:
        key = machine_id.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        key = ""
    if not re.fullmatch(r"[0-9a-f]{32}", key):  # missing, empty or "uninitialized"
        return slug(socket.gethostname())
    return hmac.new(key.encode(), PREFIX.encode(), "sha256").hexdigest()[:8]


def device_status(device: str) -> str:
    """``online`` while any camera of the device is served, else ``offline``; retained."""
    return f"{PREFIX}/{slug(device)}/status"


def camera_statuses(device: str) -> str:
    """The subscription to the statuses of all cameras of a device."""
    return f"{PREFIX}/{slug(device)}/+/status"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one camera of one device. Both names are made safe with ``slug``.

    What each carries stands in the contract, the README beside this file.
    """

    device: str
    camera: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", slug(self.device))
        object.__setattr__(self, "camera", slug(self.camera))

    @property
    def base(self) -> str:
        """What all topics of the camera begin with; names it uniquely."""
        return f"{PREFIX}/{self.device}/{self.camera}"

    @property
    def client_id(self) -> str:
        """Our name at the broker; a slug has no dot, so no other camera has the same."""
        return f"{PREFIX}.{self.device}.{self.camera}"

    @property
    def status(self) -> str:
        """``online`` while frames arrive, else ``offline``; also the last will."""
        return f"{self.base}/status"

    @property
    def bird(self) -> str:
        """``ON`` while a bird is in view, else ``OFF``."""
        return f"{self.base}/bird"

    @property
    def count(self) -> str:
        """The number of birds in view."""
        return f"{self.base}/count"

    @property
    def visits_today(self) -> str:
        """The number of visits that started today, by this machine's clock and zone."""
        return f"{self.base}/visits_today"

    @property
    def visit(self) -> str:
        """The alert: JSON when a visit starts and when it ends; not retained."""
        return f"{self.base}/visit"

    @property
    def detections(self) -> str:
        """JSON of frames with birds, at a limited rate; not retained."""
        return f"{self.base}/detections"

    @property
    def best(self) -> str:
        """JPEG of the latest visit's best shot."""
        return f"{self.base}/best.jpg"

    @property
    def snapshot_picture(self) -> str:
        """JPEG of the frame that was asked for last."""
        return f"{self.base}/snapshot.jpg"

    @property
    def health(self) -> str:
        """JSON about the camera, this machine and the way to the broker."""
        return f"{self.base}/health"

    def value(self, name: str) -> str:
        """The answer to a command: the value that holds now."""
        return f"{self.base}/{name}"

    def command(self, name: str) -> str:
        """Where a value is asked for; ``+`` for all."""
        return f"{self.base}/set/{name}"

    def discovery(self, prefix: str) -> str:
        """Where Home Assistant learns of this camera."""
        return f"{prefix}/device/{PREFIX}-{self.device}/{self.camera}/config"


def visit_filter(device: str = "+") -> str:
    """The subscription to the alerts of every camera of one device, or of all (``+``)."""
    return f"{PREFIX}/{device if device == '+' else slug(device)}/+/visit"
