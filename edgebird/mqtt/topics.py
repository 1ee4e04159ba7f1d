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


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one camera of one device. Both names are made safe with ``slug``."""

    device: str
    camera: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", slug(self.device))
        object.__setattr__(self, "camera", slug(self.camera))

    @property
    def status(self) -> str:
        """``online`` or ``offline`` for the whole device; retained, also the last will."""
        return f"{PREFIX}/{self.device}/status"

    @property
    def bird(self) -> str:
        """``ON`` while a bird is in view, else ``OFF``; retained."""
        return f"{PREFIX}/{self.device}/{self.camera}/bird"

    @property
    def count(self) -> str:
        """The number of birds in view; retained."""
        return f"{PREFIX}/{self.device}/{self.camera}/count"

    @property
    def visit(self) -> str:
        """The alert: JSON when a visit starts and when it ends; not retained."""
        return f"{PREFIX}/{self.device}/{self.camera}/visit"


def visit_filter(device: str = "+") -> str:
    """The subscription to the alerts of every camera of one device, or of all (``+``)."""
    return f"{PREFIX}/{device if device == '+' else slug(device)}/+/visit"
