"""Settings: a TOML file, overruled by the command line.

Each section holds the settings of one part::

    [camera]
    source = "0"                    # device, address, file; see 'edgebird detect --help'
    name = "feeder"                 # in topics and alerts
    fps = 10
    size = [1280, 720]

    [detector]
    model = "/path/to/model.tflite" # default: the one that edgebird ships
    threshold = 0.5                 # default: the model's own
    threads = 4                     # default: all cores, up to four
    name = "conv"                   # or "window": slow, every window through the classifier
    smallest_bird_px = 60           # of the window detector; default: from the frame's size
    verify = false                  # a second look at doubtful birds by the classifier

    [tracker]
    confirm_hits = 2                # detections before a bird counts
    sure_score = 0.85               # one detection this sure is enough
    max_gap_s = 2.0                 # hidden this long, still the same bird

    [visits]
    quiet_s = 2.5                   # without a bird for so long: the visit is over

    [mqtt]
    url = "mqtt://user:password@host:1883"
    device = "garden"               # default: made from this machine's id

    [output]
    save = "snapshots"              # folder for pictures of the visits
"""

from __future__ import annotations

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
    """Where frames come from."""

    source: str | None = None
    name: str | None = None
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    size: tuple[Count, Count] | None = None


class DetectorSection(_Section, frozen=True):
    """Which network, and how."""

    model: str | None = None
    threshold: Share | None = None
    threads: Count | None = None
    name: Literal["conv", "window"] = "conv"
    smallest_bird_px: Annotated[int, Meta(ge=4)] | None = None
    verify: bool = False


class TrackerSection(_Section, frozen=True):
    """How detections become birds; see `TrackerSettings`."""

    confirm_hits: Count = 2
    sure_score: Share = 0.85
    max_gap_s: Seconds = 2.0


class VisitsSection(_Section, frozen=True):
    """When a visit is over; see `VisitSettings`."""

    quiet_s: Seconds = 2.5


class MqttSection(_Section, frozen=True):
    """The broker; no alerts over MQTT without ``url``."""

    url: str | None = None
    device: str | None = None


class OutputSection(_Section, frozen=True):
    """What is kept on disk; nothing by default."""

    save: str | None = None


class Config(_Section, frozen=True):
    """All settings."""

    camera: CameraSection = CameraSection()
    detector: DetectorSection = DetectorSection()
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
