"""Settings: a TOML file, overruled by the command line.

Each section holds the settings of one part::

    [camera]
    source = "0"                    # device, address, file; see 'edgebird detect --help'
    name = "feeder"                 # in topics and alerts
    fps = 10                        # at most
    size = [1280, 720]
    pixel_format = "MJPG"           # of a USB camera; default: by size
    rotate = 180                    # degrees clockwise, after flip_horizontal and flip_vertical
    autofocus = "fixed"             # of a ribbon camera; default: "continuous"
    focus_dioptres = 2.0            # 1 / distance in metres
    exposure_us = 8000              # of a ribbon camera; default: automatic, as is gain
    gain = 2.0
    exposure_value = -0.5           # automatic exposure, darker (< 0) or brighter

    [detector]
    model = "/path/to/model.tflite" # default: the one that edgebird ships
    threshold = 0.5                 # default: the model's own
    threads = 4                     # default: all cores, up to four
    name = "conv"                   # or "window": slow, every window through the classifier
    smallest_bird_px = 60           # of the window detector; default: from the frame's size
    verify = false                  # a second look at doubtful birds by the classifier

    [motion]
    # corners x, y as fractions of the frame; birds count in zones (default: everywhere), and
    # nothing counts in masks
    zones = [[[0.1, 0.2], [0.9, 0.2], [0.9, 1.0], [0.1, 1.0]]]
    masks = [[[0.0, 0.0], [0.3, 0.0], [0.3, 0.2], [0.0, 0.2]]]
    min_bird = 0.01                 # longer side of a bird, as a share of the frame's
    max_bird = 1.0
    motion_bonus = 0.7              # log-odds for what moves, see evidence.py
    still_penalty = 6.0             # log-odds off for what never moves ...
    still_after_s = 60.0            # ... for so long

    [schedule]
    budget_ms_per_s = 500           # for the network; 1000 is one core
    patrol_s = 3.0                  # all of the frame is looked at so often though nothing moves

    [tracker]
    confirm_hits = 2                # detections before a bird counts
    sure_score = 0.85               # one detection this sure is enough
    max_gap_s = 2.0                 # hidden this long, still the same bird

    [visits]
    quiet_s = 2.5                   # without a bird for so long: the visit is over
    cooldown_s = 0.0                # then no other visit is reported for so long

    [mqtt]
    url = "mqtts://host"            # mqtt, mqtts, ws or wss
    user = "feeder"                 # default: $EDGEBIRD_MQTT_USER
    password_file = "/etc/edgebird/password"  # or $EDGEBIRD_MQTT_PASSWORD, or the systemd
                                    # credential mqtt-password
    ca_file = "/etc/edgebird/ca.crt"  # default: the authorities that the system trusts
    cert_file = "/etc/edgebird/feeder.crt"  # our own, if the broker asks for one
    key_file = "/etc/edgebird/feeder.key"
    version = "5"                   # of MQTT; default: "3.1.1"
    device = "garden"               # default: made from this machine's id
    state = "/var/lib/edgebird"     # where alerts wait and visits are remembered; default:
                                    # $STATE_DIRECTORY of systemd, else ~/.local/state/edgebird
    discovery = true                # tell Home Assistant of this camera
    discovery_prefix = "homeassistant"
    detections_per_s = 2.0          # messages about single frames; 0 for none

    [output]
    save = "snapshots"              # folder for pictures of the visits
    keep_mb = 500                   # the oldest are deleted when there are more; those that
                                    # 'edgebird visits keep' has put aside stay
    write_mb_per_day = 200          # no pictures of a live camera beyond this within 24 hours
    reserve_mb = 300                # nor when less than this is free on the disk
    history_mb = 20                 # for the visits of each live camera, some 80,000, without
                                    # pictures; the oldest are dropped (see 'edgebird visits')
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgebird.errors import ConfigError

Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CameraSection(_Section, frozen=True):
    """Where frames come from; see `CameraSettings`."""

    source: str | None = None
    name: str | None = None
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    size: tuple[Count, Count] | None = None
    pixel_format: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9 ]{4}\Z")] | None = None
    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotate: Literal[0, 90, 180, 270] = 0
    autofocus: Literal["continuous", "fixed"] = "continuous"
    focus_dioptres: Annotated[float, Meta(ge=0, le=32)] = 0.0
    exposure_us: Count | None = None
    gain: Annotated[float, Meta(ge=1, le=64)] | None = None
    exposure_value: Annotated[float, Meta(ge=-8, le=8)] = 0.0


class DetectorSection(_Section, frozen=True):
    """Which network, and how."""

    model: str | None = None
    threshold: Share | None = None
    threads: Count | None = None
    name: Literal["conv", "window"] = "conv"
    smallest_bird_px: Annotated[int, Meta(ge=4)] | None = None
    verify: bool = False


Fraction = Annotated[float, Meta(ge=0, le=1)]
Corners = Annotated[tuple[tuple[Fraction, Fraction], ...], Meta(min_length=3)]


class MotionSection(_Section, frozen=True):
    """Where and of which size birds count, and what motion says; see `ZoneSettings` and
    `EvidenceSettings`.
    """

    zones: tuple[Corners, ...] = ()
    masks: tuple[Corners, ...] = ()
    min_bird: Fraction = 0.01
    max_bird: Fraction = 1.0
    motion_bonus: Annotated[float, Meta(ge=0, le=5)] = 0.7
    still_penalty: Annotated[float, Meta(ge=0, le=10)] = 6.0
    still_after_s: Annotated[float, Meta(gt=0)] = 60.0


class ScheduleSection(_Section, frozen=True):
    """How thoroughly a live camera's frames are looked at; see `ScheduleSettings`."""

    budget_ms_per_s: Annotated[float, Meta(gt=0)] = 500.0
    patrol_s: Annotated[float, Meta(gt=0)] = 3.0


class TrackerSection(_Section, frozen=True):
    """How detections become birds; see `TrackerSettings`."""

    confirm_hits: Count = 2
    sure_score: Share = 0.85
    max_gap_s: Seconds = 2.0


class VisitsSection(_Section, frozen=True):
    """When a visit is over; see `VisitSettings`."""

    quiet_s: Seconds = 2.5
    cooldown_s: Seconds = 0.0


class MqttSection(_Section, frozen=True):
    """The broker; no alerts over MQTT without ``url``."""

    url: str | None = None
    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    version: Literal["3.1.1", "5"] = "3.1.1"
    device: str | None = None
    state: str | None = None
    discovery: bool = True
    discovery_prefix: Annotated[str, Meta(pattern=r"^[^+#\x00-\x20]+$")] = "homeassistant"
    detections_per_s: Annotated[float, Meta(ge=0, le=100)] = 2.0


class OutputSection(_Section, frozen=True):
    """What is kept on disk; by default only the visits of live cameras, without pictures."""

    save: str | None = None
    keep_mb: Annotated[float, Meta(gt=0)] = 500.0
    write_mb_per_day: Annotated[float, Meta(gt=0)] = 200.0
    reserve_mb: Annotated[float, Meta(ge=0)] = 300.0
    history_mb: Annotated[float, Meta(ge=1)] = 20.0


class Config(_Section, frozen=True):
    """All settings."""

    camera: CameraSection = CameraSection()
    detector: DetectorSection = DetectorSection()
    motion: MotionSection = MotionSection()
    schedule: ScheduleSection = ScheduleSection()
    tracker: TrackerSection = TrackerSection()
    visits: VisitsSection = VisitsSection()
    mqtt: MqttSection = MqttSection()
    output: OutputSection = OutputSection()


def load_config(path: Path | None) -> Config:
    """Read a configuration file; the defaults without one.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a wrong value, with
            the key's path.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error
    try:
        return msgspec.toml.decode(text, type=Config)
    except msgspec.DecodeError as error:
        # msgspec names the place as `$.section.key`.
        message = str(error).replace("`$.", "`").replace("`$`", "the file")
        raise ConfigError(f"{path}: {message}") from error


def overruled(config: Config, **sections: dict[str, object]) -> Config:
    """The configuration with values from the command line put over it; None leaves a value.

    Raises:
        ConfigError: a value does not fit.
    """
    values = msgspec.to_builtins(config)
    for section, changes in sections.items():
        values[section].update({k: v for k, v in changes.items() if v is not None})
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}".replace("`$.", "`")) from error


def state_folder(setting: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for what has to outlive a restart: as set, or where such things belong."""
    if setting is not None:
        return Path(setting)
    if service := environment.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(service)
    home = environment.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home) / "edgebird"
