"""Finds what is wrong with a configuration: in the file, and in what it refers to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from edgebird.config import Config, in_words, read_config, state_folder
from edgebird.errors import EdgebirdError
from edgebird.zones import Polygon, Zones, ZoneSettings

# A smaller share of the frame is no place for a bird, but a slip.
_LEAST_AREA = 1e-4


def file_problems(path: Path) -> list[str]:
    """One line for each unknown key and wrong value.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    problems = []
    for section, values in read_config(path).items():
        # one by one, so that all mistakes are found at once
        parts = values.items() if values and isinstance(values, dict) else [(None, values)]
        for key, value in parts:
            wanted = {section: values if key is None else {key: value}}
            try:
                msgspec.convert(wanted, Config)
            except msgspec.ValidationError as error:
                problems.append(in_words(error, wanted))
    return problems


def reference_problems(config: Config) -> list[str]:
    """One line for each file, folder, address or polygon that cannot be used."""
    return [
        *_source_problems(config.camera.source, config.camera.fps),
        *_broker_problems(config),
        *_folder_problems(config),
        *_zone_problems(config),
    ]


def model_problems(config: Config) -> list[str]:
    """One line if the model, its card and the other settings of the detector do not fit."""
    from edgebird.detector import open_detector

    return [*_raised_by(lambda: open_detector(config.detector))]


def _raised_by(action: Callable[[], object]) -> Iterator[str]:
    try:
        action()
    except EdgebirdError as error:
        yield str(error)


def _source_problems(source: str | None, fps: float | None) -> Iterator[str]:
    """Of a live camera only the form: whether it works is found out by opening it."""
    if source is None:
        return
    from edgebird.camera import check_live_form, check_live_rate, is_live, open_camera

    if not is_live(source):
        yield from _raised_by(lambda: open_camera(source).close())
        return
    yield from _raised_by(lambda: check_live_form(source))
    if fps is not None:
        yield from _raised_by(lambda: check_live_rate(fps))


def _broker_problems(config: Config) -> Iterator[str]:
    from edgebird.mqtt.address import broker_address, own_password_file

    mqtt = config.mqtt
    files = {
        "password_file": own_password_file(mqtt),
        "ca_file": mqtt.ca_file,
        "cert_file": mqtt.cert_file,
        "key_file": mqtt.key_file,
    }
    unreadable = []
    for key, name in files.items():
        if name is None:
            continue
        try:
            with open(name, "rb"):
                pass
        except OSError as error:
            unreadable.append(f"[mqtt] {key}: cannot read {name}: {error.strerror}")
    yield from unreadable
    if config.mqtt.url is not None and not unreadable:
        yield from _raised_by(lambda: broker_address(config.mqtt))


def _folder_problems(config: Config) -> Iterator[str]:
    if config.output.save is not None:
        yield from _unwritable("[output] save", Path(config.output.save))
    # visits are kept there, with a broker or without
    yield from _unwritable("[mqtt] state", state_folder(config.mqtt.state))


def _unwritable(setting: str, folder: Path) -> Iterator[str]:
    """What is wrong with a folder that is there, or would have to be made."""
    place = nearest(folder)
    if not os.path.isdir(place):
        yield f"{setting}: {place} is not a folder"
        return
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        need = "written to" if place == folder.absolute() else f"made in {place}"
        yield f"{setting}: {folder} cannot be {need} by this user: {error.strerror}"


def nearest(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    place = folder.absolute()
    while not (os.path.lexists(place) or place == place.parent):
        place = place.parent
    return place


def _zone_problems(config: Config) -> Iterator[str]:
    motion = config.motion
    for kind, polygons in (("zones", motion.zones), ("masks", motion.masks)):
        for number, polygon in enumerate(polygons, 1):
            if _crosses_itself(polygon):
                yield (
                    f"[motion] {kind}: the sides of number {number} cross; list its corners in "
                    "the order in which one walks around it"
                )
            elif _area(polygon) < _LEAST_AREA:
                yield f"[motion] {kind}: number {number} has no area"
    if not Zones(ZoneSettings(zones=motion.zones, masks=motion.masks)).drawn(160, 120).any():
        yield "[motion] zones and masks: no part of the frame is left in which birds count"
    if motion.min_bird > motion.max_bird:
        yield f"[motion] min_bird = {motion.min_bird:g} is above max_bird = {motion.max_bird:g}"


def _area(polygon: Polygon) -> float:
    """As a share of the frame, by the shoelace formula."""
    following = [*polygon[1:], polygon[0]]
    pairs = zip(polygon, following, strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def _crosses_itself(polygon: Polygon) -> bool:
    """Whether two of its sides that do not meet at a corner cross."""
    sides = list(zip(polygon, [*polygon[1:], polygon[0]], strict=True))
    return any(_cross(*a, *b) for a, b in combinations(sides, 2))


def _cross(a: Sequence[float], b: Sequence[float], c: Sequence[float], d: Sequence[float]) -> bool:
    """Whether a-b and c-d cross, each point of one strictly on another side of the other."""

    def side(p: Sequence[float], q: Sequence[float], r: Sequence[float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
