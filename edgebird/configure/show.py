"""Which settings hold, and where each comes from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebird.config import Config, read_config, settings_of

HIDDEN = "***"
# what holds where these are not set
_HOLDS = {
    "camera.name": "from the source",
    "detector.model": "the one that edgebird ships",
    "detector.threshold": "the model's own",
    "detector.threads": "all cores, up to four",
    "detector.verify": "true, with conv",
    "mqtt.device": "made from this machine's id",
    "mqtt.state": "$STATE_DIRECTORY, else ~/.local/state/edgebird",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that holds.

    Args:
        name: ``section.key``.
        value: without passwords; None if nothing is set.
        origin: ``default``, the file, the flag or the variable that it comes from.
    """

    name: str
    value: Any
    origin: str


def effective_settings(
    config: Config,
    path: Path | None,
    flags: Mapping[str, str],
    environment: Mapping[str, str] = os.environ,
) -> list[Setting]:
    """All settings in the order of their sections.

    Args:
        config: what holds, flags included.
        path: the file that was read.
        flags: names of the settings that were given on the command line, and their flags.
        environment: in which a broker's user and password and the state folder may be.

    Raises:
        ConfigError: the file cannot be read.
    """
    from edgebird.mqtt.address import own_password_file

    in_file = {} if path is None else read_config(path)
    found = []
    for name, value in settings_of(config).items():
        section, _, key = name.partition(".")
        origin = "default"
        if name in flags:
            origin = flags[name]
        elif key in in_file.get(section, {}):
            origin = str(path)
        elif name == "mqtt.password_file":
            value = own_password_file(config.mqtt)
        found.append(Setting(name, without_secrets(name, value), origin))
        if name == "mqtt.password_file":
            found.append(_password(config, environment))
    return [_from_environment(setting, config, environment) for setting in found]


def without_secrets(name: str, value: Any) -> Any:
    """A setting's value as it may be shown."""
    if name == "camera.source" and ":/" in str(value):
        from edgebird.camera.opencv import redact_url  # only then, for it loads OpenCV

        return redact_url(value)
    if name == "mqtt.url" and value is not None:
        user = r"\A((?>(?:(?:mqtt|ws)s?://)?)[^:@]*):.*@"
        return re.sub(user, rf"\1:{HIDDEN}@", value, flags=re.DOTALL | re.IGNORECASE)
    return value


def setting_lines(settings: list[Setting]) -> list[str]:
    """The settings as a TOML file that says where each comes from; what is not set is a comment."""
    lines: list[str] = []
    last = ""
    for setting in settings:
        section, _, key = setting.name.partition(".")
        if section != last:
            lines += [""] * bool(lines) + [f"[{section}]"]
            last = section
        if setting.value is None:
            line = f"# {key}: {_HOLDS.get(setting.name, 'not set')}"
        elif setting.value == HIDDEN:
            line = f"# {key}: {HIDDEN}"
        else:
            line = f"{key} = {toml_value(setting.value)}"
        lines.append(f"{line:<39} # {setting.origin}")
    return lines


def toml_value(value: Any) -> str:
    """A value as TOML; for text, numbers, truth values and lists that is JSON."""
    return json.dumps(value, ensure_ascii=False)


def _password(config: Config, environment: Mapping[str, str]) -> Setting:
    """Whether there is a password for the broker, and where; see `broker_address`."""
    from edgebird.mqtt.address import credential, own_password_file

    url = config.mqtt.url or ""
    user = url.rpartition("://")[2].rpartition("@")[0]
    origin = None
    if (file := own_password_file(config.mqtt)) is not None:
        origin = file
    elif ":" in user:
        origin = "mqtt.url"
    elif environment.get("EDGEBIRD_MQTT_PASSWORD"):
        origin = "$EDGEBIRD_MQTT_PASSWORD"
    elif path := credential(config.mqtt, environment):
        origin = str(path)
    return Setting("mqtt.password", HIDDEN if origin else None, origin or "default")


def _from_environment(setting: Setting, config: Config, environment: Mapping[str, str]) -> Setting:
    """The setting, with what the environment says where nothing else does."""
    if setting.value is not None:
        return setting
    if setting.name == "mqtt.user":
        if "@" in (config.mqtt.url or ""):
            return setting
        if user := environment.get("EDGEBIRD_MQTT_USER"):
            return Setting(setting.name, user, "$EDGEBIRD_MQTT_USER")
    if setting.name == "mqtt.state" and (folder := environment.get("STATE_DIRECTORY")):
        return Setting(setting.name, folder.partition(":")[0], "$STATE_DIRECTORY")
    return setting
