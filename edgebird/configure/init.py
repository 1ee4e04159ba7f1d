"""Writes a first configuration, with the answers to a few questions."""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec

from edgebird.config import EXAMPLE, SERVICE_SETTINGS, Config, MqttSection
from edgebird.configure.show import toml_value, without_secrets
from edgebird.errors import BrokerError, CameraError, ConfigError, OutputError, UsageError
from edgebird.whole_files import write_files

if TYPE_CHECKING:
    from edgebird.camera.v4l2 import Device
    from edgebird.mqtt.address import BrokerAddress

_SECTION = re.compile(r"\[(\w+)\]")
_SETTING = re.compile(r"#(\w+) = (.*?)(\s+# .*)?")


def commented_config(answers: Mapping[str, Any]) -> str:
    """All settings with their meaning as TOML; only the given ones are set.

    Args:
        answers: values by name, ``section.key``.

    Raises:
        ConfigError: a value does not fit.
    """
    lines, section = [], ""
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if found := _SECTION.fullmatch(line):
            section = found[1]
        found = _SETTING.fullmatch(line)
        if found and (name := f"{section}.{found[1]}") in answers:
            setting = f"{found[1]} = {toml_value(answers[name])}"
            comment = (found[3] or "").lstrip()
            line = f"{setting:<32} {comment}".rstrip()
        lines.append(line)
    text = "\n".join(lines) + "\n"
    try:
        msgspec.convert(tomllib.loads(text), Config)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"an answer does not fit: {error}") from error
    return text


def write_config(path: Path, answers: Mapping[str, Any]) -> bool:
    """Write a commented configuration, in place of what is there, whose group and mode it takes.

    Returns:
        Whether it has a password in it; then it is not for everybody to read.

    Raises:
        ConfigError: a value does not fit.
        OutputError: it cannot be written.
    """
    try:
        content = commented_config(answers).encode()
    except UnicodeEncodeError as error:
        raise ConfigError("an answer does not fit: it is not UTF-8") from error
    path = Path(os.path.realpath(path))  # what a link leads to is replaced, not the link
    if os.path.lexists(path) and not os.path.isfile(path):
        raise OutputError(f"cannot write {path}: it is no ordinary file")
    secret = any(without_secrets(name, value) != value for name, value in answers.items())

    def give_to_readers(descriptor: int) -> None:
        mode = 0o600 if secret else 0o644
        with suppress(FileNotFoundError):
            old = path.stat()
            with suppress(PermissionError):
                os.chown(descriptor, -1, old.st_gid)
            mode = old.st_mode & (0o660 if secret else 0o666)
        if path.parent == SERVICE_SETTINGS:
            # the service reads it as one of the folder's group
            with suppress(PermissionError):
                os.chown(descriptor, -1, path.parent.stat().st_gid)
            mode |= 0o040
        os.chmod(descriptor, mode)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_files({path: content}, prepare=give_to_readers)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return secret


def found_sources(devices: Iterable[Device]) -> list[tuple[str, str]]:
    """The cameras of this machine: what to give as source, and a name for a person.

    Ribbon cameras come first, because each of them is among the V4L2 devices, too, where it gives
    no pictures.
    """
    from edgebird.camera.picamera import list_picameras

    # a name that stays the same wherever the camera is plugged in is better than a number
    sources = [
        (device.stable_names[0] if device.stable_names else str(device.path), device.name)
        for device in devices
        if device.problem is None
    ]
    try:
        ribbon = list_picameras()
    except CameraError:
        ribbon = []
    return [(f"picamera2:{camera['Num']}", camera["Model"]) for camera in ribbon] + sources


def ask(
    find_sources: Callable[[], Sequence[tuple[str, str]]], answers: Mapping[str, Any]
) -> dict[str, Any]:
    """Ask at the terminal for what most people set: the camera, the broker, a test alert.

    Args:
        find_sources: finds the cameras to choose from, see `found_sources`.
        answers: what is known already is not asked for.
    """
    known = dict(answers)
    if "camera.source" not in known:
        known["camera.source"] = _ask_for_source(find_sources())
    if "camera.name" not in known:
        known["camera.name"] = click.prompt("Its name in alerts", default="feeder")
    while "mqtt.url" not in known:
        url = _ask_for_broker()
        if url is None:
            break
        if _broker_answers(url, known["camera.name"]):
            known["mqtt.url"] = url
    return known


def _ask_for_source(sources: Sequence[tuple[str, str]]) -> str:
    click.echo("Cameras found here:" if sources else "No camera was found here.")
    for number, (source, name) in enumerate(sources, 1):
        click.echo(f"  {number}  {source}  ({name})")
    if not sources:
        answer = click.prompt("Camera: its number, path, or a stream's address", default="0")
        return str(answer)
    answer = click.prompt("Which one? A number of this list, or a path or an address", default="1")
    chosen = int(answer) - 1 if answer.isdecimal() else -1
    return sources[chosen][0] if 0 <= chosen < len(sources) else str(answer)


def _ask_for_broker() -> str | None:
    host = click.prompt(
        "MQTT broker, such as mqtt://broker.local (empty: none)", default="", show_default=False
    )
    if not host:
        return None
    scheme, separator, rest = host.partition("://")
    scheme, rest = (scheme, rest) if separator else ("mqtt", host)
    if "@" not in rest:
        user = click.prompt("User (empty: none)", default="", show_default=False)
        if user:
            password = click.prompt("Password", default="", show_default=False, hide_input=True)
            rest = f"{quote(user, safe='')}:{quote(password, safe='')}@{rest}"
    return f"{scheme}://{rest}"


def _broker_answers(url: str, camera: str) -> bool:
    """Try the broker out, then with an alert if wanted; whether to take it."""
    from edgebird.mqtt.address import broker_address
    from edgebird.mqtt.check import publish

    try:
        address = broker_address(MqttSection(url=url))
        publish(address, [])  # finds out whether it is there and lets us in
        if click.confirm(f"{address} answers. Send a test alert?", default=True):
            send_test_alert(address, camera)
            click.echo("sent: `edgebird watch --mqtt ...` shows it as one short visit")
    except BrokerError as error:
        click.echo(str(error), err=True)
        return click.confirm("Use this broker all the same?", default=False)
    except UsageError as error:
        click.echo(str(error), err=True)
        return False
    return True


def send_test_alert(address: BrokerAddress, camera: str) -> None:
    """Publish the begin and the end of a visit that nobody made; its id has ``test`` in it.

    Raises:
        BrokerError: the broker cannot be reached or does not take it.
    """
    from edgebird.model import DEFAULT_DETECTOR, load_model
    from edgebird.mqtt.check import publish
    from edgebird.mqtt.payloads import encode, visit_payload
    from edgebird.mqtt.topics import Topics, default_device
    from edgebird.structures import Visit, VisitChanged

    topics = Topics(default_device(), camera)
    now_s = time.time()
    start = Visit(
        id=f"{topics.camera}-test-{now_s:.0f}",
        camera=topics.camera,
        started_utc_s=now_s,
        duration_s=0.0,
        ended_utc_s=None,
        peak_count=1,
        best_score=1.0,
        best_xyxy=(0.0, 0.0, 1.0, 1.0),
        frame_size=(1, 1),
    )
    names = {
        "device": topics.device,
        "camera": topics.camera,
        "model_sha256": load_model(DEFAULT_DETECTOR, "detector").card.sha256,
    }
    changes = VisitChanged("start", start), VisitChanged("end", replace(start, ended_utc_s=now_s))
    publish(address, [(topics.visit, encode(visit_payload(c, **names))) for c in changes])
