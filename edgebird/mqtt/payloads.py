"""What goes out over MQTT as JSON, and what may come in.

The alert at the start of a visit, as published on ``edgebird/<device>/<camera>/visit``::

    {"event_type": "start", "visit": "camera0-20250314T093005120", "device": "3f9a1c0b",
     "camera": "camera0", "started": "2025-03-14T09:30:05.120Z", "ended": null,
     "duration_s": 0.4, "peak_count": 1, "score": 0.912,
     "box": {"px": [412.0, 180.5, 598.2, 366.0], "fraction": [0.3219, 0.2507, 0.4673, 0.5083]},
     "frame_size": [1280, 720], "snapshot": null, "model": "9b0e…", "age_s": 0.1}

At its end ``event_type`` is ``end`` and ``ended`` is set. ``peak_count`` is the largest number of
birds seen at once so far; ``score``, ``box`` and ``snapshot`` are those of the best shot so far.
Times are capture times, ISO-8601 in UTC with milliseconds. Boxes are left, top, right, bottom:
``px`` in pixels of the full frame, ``fraction`` as fractions of its width and height.
``frame_size`` is width, height in pixels. ``snapshot`` is the path of a picture or null. ``model``
is the sha256 of the network. ``age_s`` is the time from the event to its publication, which is long
after an outage. Readers ignore keys they do not know, and drop an alert whose ``visit`` and
``event_type`` they have had: after an outage the latest may come twice.

The schemas of all payloads are the files in ``schemas/``; ``python -m edgebird.mqtt.payloads``
writes them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgebird.structures import Box, FrameProcessed, Health, VisitChanged

SCHEMAS = Path(__file__).parent / "schemas"
# Nearer to 0 or 1 all or nothing would be a bird.
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.01, 0.99
# A float may be written with 17 digits and more: 0.7000000000000001.
_LONGEST_COMMAND = 32

Name = Annotated[str, Meta(pattern=r"^[a-z0-9_-]+$(?!\n)")]
Size = Annotated[int, Meta(gt=0)]
Score = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]


class BoxPayload(msgspec.Struct, frozen=True):
    """One box, in pixels of the full frame and as fractions of its width and height."""

    px: Box
    fraction: Box


class VisitPayload(msgspec.Struct, frozen=True):
    """The alert; see the module's docstring for an example and the meaning of each field."""

    event_type: Literal["start", "end"]
    visit: str
    device: Name
    camera: Name
    started: str
    ended: str | None
    duration_s: Amount
    peak_count: Number
    score: Score
    box: BoxPayload
    frame_size: tuple[Size, Size]
    snapshot: str | None
    model: str
    age_s: Amount = 0.0

    def __post_init__(self) -> None:
        for time in (self.started, self.ended):
            if time is None:
                continue
            moment = datetime.fromisoformat(time)
            # The years at the edges cannot be shown in every time zone.
            if moment.tzinfo is None or not 1970 <= moment.year < 9999:
                raise ValueError(f"the time {time!r} has no time zone or is out of range")


class BirdPayload(msgspec.Struct, frozen=True):
    """One detection; ``track`` is the same number for the same bird, null while it has none."""

    box: BoxPayload
    score: Score
    track: int | None


class DetectionsPayload(msgspec.Struct, frozen=True):
    """The birds of one frame, best first."""

    device: Name
    camera: Name
    time: str
    frame: Number
    frame_size: tuple[Size, Size]
    inference_ms: Amount
    birds: list[BirdPayload]


class SnapshotPayload(msgspec.Struct, frozen=True):
    """The answer to the command ``snapshot``: when the picture was taken."""

    time: str
    frame_size: tuple[Size, Size]


class OutboxPayload(msgspec.Struct, frozen=True):
    """Alerts that wait for the broker, those given up, and whether a restart is survived (disk)."""

    waiting: Number
    bytes: Number
    oldest_s: Amount
    dropped: Number
    storage: Literal["disk", "memory"]


class HealthPayload(msgspec.Struct, frozen=True, kw_only=True):
    """See `edgebird.structures.Health`; ``connects`` counts connections to the broker."""

    time: str
    version: str
    fps: Amount | None = None
    inference_ms: Amount | None = None
    frame_age_s: Amount | None = None
    dropped_frames: Number = 0
    faults: list[str] = []
    temperature_c: float | None = None
    load_1min: Amount | None = None
    memory_mib: Amount | None = None
    disk_used_mb: Amount | None = None
    written_mb_per_day: Amount | None = None
    disk_problem: str | None = None
    last_error: str | None = None
    dark: bool = False
    degraded: str | None = None
    detect_ms_per_s: Amount | None = None
    outbox: OutboxPayload
    connects: Number = 0


def utc_iso(utc_s: float) -> str:
    """Seconds since 1970-01-01 UTC as ISO-8601 with milliseconds and a Z."""
    moment = datetime.fromtimestamp(utc_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rounded(box: Box, digits: int) -> Box:
    """The box with each of its four numbers rounded."""
    left, top, right, bottom = (round(float(value), digits) for value in box)
    return left, top, right, bottom


def visit_payload(
    event: VisitChanged, *, device: str, camera: str, model_sha256: str
) -> VisitPayload:
    """The alert for the start or the end of a visit.

    Args:
        event: what happened.
        device: the device's name as it stands in the topic.
        camera: the camera's name as it stands in the topic.
        model_sha256: of the ``.tflite`` that found the bird.
    """
    visit = event.visit
    return VisitPayload(
        event_type=event.kind,
        visit=visit.id,
        device=device,
        camera=camera,
        started=utc_iso(visit.started_utc_s),
        ended=None if visit.ended_utc_s is None else utc_iso(visit.ended_utc_s),
        duration_s=round(float(visit.duration_s), 3),
        peak_count=visit.peak_count,
        score=round(float(visit.best_score), 3),
        box=_box_payload(visit.best_xyxy, visit.frame_size),
        frame_size=visit.frame_size,
        snapshot=visit.snapshot,
        model=model_sha256,
    )


def detections_payload(event: FrameProcessed, *, device: str, camera: str) -> DetectionsPayload:
    """What is told of one frame; names as they stand in the topic."""
    frame = event.frame
    return DetectionsPayload(
        device=device,
        camera=camera,
        time=utc_iso(frame.utc_s),
        frame=frame.index,
        frame_size=frame.size,
        inference_ms=round(event.inference_ms, 1),
        birds=[
            BirdPayload(_box_payload(box, frame.size), round(score, 3), track)
            for box, score, track in event.birds()
        ],
    )


def health_payload(
    health: Health, *, version: str, outbox: OutboxPayload, connects: int
) -> HealthPayload:
    """What is told of a camera's health, with what the publisher adds."""
    own = {"time", "version", "outbox", "connects"}
    values: dict[str, Any] = {
        name: _short(getattr(health, name))
        for name in HealthPayload.__struct_fields__
        if name not in own and hasattr(health, name)
    }
    return msgspec.convert(
        values
        | {"time": utc_iso(health.utc_s), "version": version, "outbox": outbox}
        | {"connects": connects},
        HealthPayload,
    )


def parse_command(name: str, payload: bytes) -> bool | float | None:
    """Read what somebody asks for: ``enabled``, ``threshold`` or ``snapshot`` (which has no value).

    A threshold is rounded to four places, and is one between 0.01 and 0.99 for any from 0 to 1.

    Raises:
        ValueError: there is no such command, or the value is not one it takes.
    """
    text = payload.decode("ascii") if len(payload) <= _LONGEST_COMMAND else ""
    if name == "enabled" and text in ("ON", "OFF"):
        return text == "ON"
    if name == "threshold" and re.fullmatch(r"[01]?\.?[0-9]+", text):
        threshold = round(float(text), 4)
        if threshold <= 1:
            return min(max(threshold, LOWEST_THRESHOLD), HIGHEST_THRESHOLD)
    if name == "snapshot" and text == "PRESS":
        return None
    raise ValueError(f"not a value for {name!r}")


def encode(payload: msgspec.Struct) -> bytes:
    """A payload as JSON, its fields always in the same order."""
    return msgspec.json.encode(payload)


def _box_payload(box: Box, size: tuple[int, int]) -> BoxPayload:
    width, height = size
    left, top, right, bottom = box
    fraction = (left / width, top / height, right / width, bottom / height)
    return BoxPayload(rounded(box, 1), rounded(fraction, 4))


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def decode(data: bytes | bytearray) -> VisitPayload:
    """Read an alert.

    Raises:
        ValueError: ``data`` is not JSON, or not an alert; the message says where.
    """
    try:
        return msgspec.json.decode(data, type=VisitPayload)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each payload, by the last level of its topic."""
    payloads = {
        "visit": VisitPayload,
        "detections": DetectionsPayload,
        "health": HealthPayload,
        "snapshot": SnapshotPayload,
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: dialect | msgspec.json.schema(kind) for name, kind in payloads.items()}


if __name__ == "__main__":
    SCHEMAS.mkdir(exist_ok=True)
    for schema_name, content in schemas().items():
        text = msgspec.json.format(msgspec.json.encode(content), indent=2)
        (SCHEMAS / f"{schema_name}.json").write_bytes(text + b"\n")
