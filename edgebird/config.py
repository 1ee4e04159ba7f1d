"""Settings: a TOML file, overruled by the command line.

Each section holds the settings of one part. ``edgebird/example.toml`` has all of them with what
they mean; `edgebird config init` writes such a file.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from edgebird.errors import ConfigError

# More than any board has; far more would be no error but take all memory.
MOST_THREADS = 256

Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
# Upper limits are beyond all use: they keep infinity out.
Seconds = Annotated[float, Meta(ge=0, le=1e6)]

# Where services have their settings, and the folders that they run in (see ``systemd/``).
SERVICE_SETTINGS, SERVICE_FOLDER = Path("/etc/edgebird"), Path("/var/lib/edgebird")
# As in LoadCredential=mqtt-password:/etc/edgebird/mqtt-password.
CREDENTIAL = "mqtt-password"
# What udev calls a camera below /dev/v4l/by-id. It is known also while the camera is away.
STABLE_NAME = re.compile(r"usb-[^/]+-video-index\d+")
# Sources that are no path: see `open_camera`.
_NO_PATH = re.compile(
    rf"|\d+|picamera2(:.*)?|demo:.*|[\w+.-]+://.*|(rtsp|http)s?:/.*|{STABLE_NAME.pattern}",
    re.DOTALL,
)

EXAMPLE = Path(__file__).parent / "example.toml"
"""All settings with their meaning, none of them set."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CameraSection(_Section, frozen=True):
    """Where frames come from; see `CameraSettings`."""

    source: str | None = None
    name: str | None = None
    fps: Annotated[float, Meta(ge=0.001, le=240)] | None = None
    size: tuple[Count, Count] | None = None
    pixel_format: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9 ]{3,4}\Z")] | None = None
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
    threads: Annotated[int, Meta(ge=1, le=MOST_THREADS)] | None = None
    name: Literal["conv", "window"] = "conv"
    smallest_bird_px: Annotated[int, Meta(ge=4)] | None = None
    verify: bool | None = None
    compare: bool = True


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
    still_after_s: Annotated[float, Meta(gt=0, le=1e6)] = 60.0


class ScheduleSection(_Section, frozen=True):
    """How thoroughly a live camera's frames are looked at; see `ScheduleSettings`."""

    budget_ms_per_s: Annotated[float, Meta(gt=0, le=1e6)] = 500.0
    patrol_s: Annotated[float, Meta(ge=0.1, le=1e6)] = 10.0


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
    keep_mb: Annotated[float, Meta(gt=0, le=1e9)] = 500.0
    write_mb_per_day: Annotated[float, Meta(gt=0, le=1e9)] = 200.0
    reserve_mb: Annotated[float, Meta(ge=0, le=1e9)] = 300.0
    history_mb: Annotated[float, Meta(ge=1, le=1e6)] = 20.0


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


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a configuration file; the defaults without one.

    A service gets its password from systemd. Whoever else reads its settings has the file that
    this password is in as ``password_file``, if there is one and no other is set.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a wrong value, with
            the key's path.
    """
    if path is None:
        return Config()
    values = read_config(path)
    try:
        config = msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {in_words(error, values)}") from error
    password = str(service_password())
    if (
        config.mqtt.password_file is None
        and _is_a_services(path)
        and not environment.get("CREDENTIALS_DIRECTORY")
        and os.path.exists(password)
    ):
        config = overruled(config, mqtt={"password_file": password})
    return config


def service_password() -> Path:
    """The file from which systemd hands the broker's password to services."""
    return SERVICE_SETTINGS / CREDENTIAL


def _is_a_services(path: Path) -> bool:
    """Whether a service has its settings from there."""
    return path.absolute().parent == SERVICE_SETTINGS


def read_config(path: Path) -> dict[str, Any]:
    """What a configuration file says, whether or not its keys and values are known.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has what no setting can be.
    """
    text = ""
    try:
        # some editors begin a file with a byte order mark
        text = path.read_text("utf-8-sig")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}{_hint(str(error), text)}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: a number in it has too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: brackets in it are nested too deeply") from error
    for section, part in values.items():
        for key, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, str) and "\0" in value:
                raise ConfigError(
                    f"{path}: `{section}.{key}` holds the character U+0000, which no name can have"
                )
    return values


def _hint(problem: str, text: str) -> str:
    """What to do about a value that is none in TOML, where the place tells it."""
    found = re.match(r"Invalid value \(at line (\d+), column (\d+)\)", problem)
    if not found:
        return ""
    line, column = int(found[1]), int(found[2])
    value = text.splitlines()[line - 1][column - 1 :].split("#")[0].strip()
    if value.lower() in ("true", "false"):
        return "; write true or false in small letters"
    return "; text needs quotes" if value[:1].isalpha() else ""


# What msgspec says of a value, and what we say; the rest stays as it says it.
_PROBLEM = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_IN_WORDS = (
    (r"Expected `(int|float).*`, got `str`", "a number without quotes"),
    (r"Expected `bool.*`, got `str`", "true or false, without quotes"),
    (r"Expected `str.*`, got `(int|float)`", 'write it in quotes, "{value}"'),
    (r"Expected `(int|float)` < (.+?)(\.0)?", r"must be below \2"),
    (r"Expected `(int|float)` <= (.+?)(\.0)?", r"must be at most \2"),
    (r"Expected `(int|float)` > (.+?)(\.0)?", r"must be above \2"),
    (r"Expected `(int|float)` >= (.+?)(\.0)?", r"must be at least \2"),
    (r"Expected `object`, got `.*`", "a section, written as a line [{section}]"),
)


def in_words(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    """What is wrong with a setting, and where.

    Args:
        error: names the place as `$.section.key`.
        values: what was read, by section and key.
    """
    what, place = _PROBLEM.fullmatch(str(error)).groups()  # type: ignore[union-attr]
    if unknown := _UNKNOWN.fullmatch(what):
        return _unknown(unknown[1], place, values)
    section, _, key = (place or "").partition(".")
    part = values.get(section)
    value = part.get(key) if isinstance(part, dict) else None
    for pattern, words in _IN_WORDS:
        if found := re.fullmatch(pattern, what):
            what = found.expand(words).format(section=section, value=value)
            break
    if what.startswith("Invalid enum value"):
        few = get_args(get_type_hints(get_type_hints(Config)[section])[key])
        what = f"{json.dumps(value)}; allowed are {', '.join(map(json.dumps, few))}"
    return f"[{section}] {key}: {what}" if key else f"{section}: {what}" if section else what


def _unknown(name: str, section: str | None, values: Mapping[str, Any]) -> str:
    """What is wrong with a name that is none of a section's settings, or of the sections."""
    sections = {known: part.__struct_fields__ for known, part in get_type_hints(Config).items()}
    if section is not None:
        return f"[{section}] {name}: no such setting{_meant(name, sections[section])}"
    if isinstance(values.get(name), dict):
        near = _meant(name, sections, "[{}]")
        return f"no section [{name}]{near}"
    homes = " or ".join(f"[{known}]" for known, keys in sections.items() if name in keys)
    return f"{name} stands before any section; put it under {homes or 'the one it belongs to'}"


def _meant(name: str, known: Iterable[str], form: str = "{}") -> str:
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {form.format(near[0])}?" if near else ""


def overruled(config: Config, **sections: dict[str, object]) -> Config:
    """The configuration with other values put over its own.

    Args:
        config: the settings.
        sections: by name, the values by key; None leaves a value.

    Raises:
        ConfigError: a value does not fit.
    """
    values = msgspec.to_builtins(config)
    for section, changes in sections.items():
        values[section].update({k: v for k, v in changes.items() if v is not None})
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(in_words(error, values)) from error


def settings_of(config: Config) -> dict[str, Any]:
    """All settings by name, ``section.key``."""
    return {
        f"{section}.{key}": value
        for section, part in msgspec.structs.asdict(config).items()
        for key, value in msgspec.structs.asdict(part).items()
    }


def load_as_its_service(path: Path | None) -> Config:
    """Read a configuration file for `as_its_service`.

    Raises:
        ConfigError: see `load_config`.
    """
    return as_its_service(load_config(path), path)


def as_its_service(config: Config, path: Path | None) -> Config:
    """The settings of a service with their files and folders where it has them, whoever asks and
    from where; those of another file as they are.

    Args:
        config: the settings.
        path: the file that they are from.
    """
    if path is None or not _is_a_services(path):
        return config
    folder = SERVICE_FOLDER if path.stem == "edgebird" else SERVICE_FOLDER / path.stem

    def there(name: str | None) -> str | None:
        return None if name is None else str(folder / name)

    source, mqtt = config.camera.source, config.mqtt
    if source is not None and not _NO_PATH.fullmatch(source):
        source = there(source)
    return overruled(
        config,
        camera={"source": source},
        detector={"model": there(config.detector.model)},
        mqtt={
            "password_file": there(mqtt.password_file),
            "ca_file": there(mqtt.ca_file),
            "cert_file": there(mqtt.cert_file),
            "key_file": there(mqtt.key_file),
            "state": there(mqtt.state or "."),
        },
        output={"save": there(config.output.save)},
    )


def state_folder(setting: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for what has to outlive a restart: as set, or where such things belong."""
    if setting is not None:
        return Path(setting)
    if service := environment.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(service)
    home = environment.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home) / "edgebird"
