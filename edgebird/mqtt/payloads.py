"""The alert that goes out over MQTT.

The start of a visit, as published on ``edgebird/<device>/<camera>/visit``::

    {"event_type": "start", "visit": "camera0-20250314T093005", "device": "3f9a1c0b",
     "camera": "camera0", "started": "2025-03-14T09:30:05.120Z", "ended": null,
     "duration_s": 0.4, "peak_count": 1, "score": 0.912,
     "box": {"px": [412.0, 180.5, 598.2, 366.0], "fraction": [0.3219, 0.2507, 0.4673, 0.5083]},
     "frame_size": [1280, 720], "snapshot": null, "model": "9b0e…"}

At its end ``event_type`` is ``end`` and ``ended`` is set. ``peak_count`` is the largest number of
birds seen at once so far; ``score``, ``box`` and ``snapshot`` are those of the best shot so far.
Times are capture times, ISO-8601 in UTC with milliseconds. Boxes are left, top, right, bottom:
``px`` in pixels of the full frame, ``fraction`` as fractions of its width and height.
``frame_size`` is width, height in pixels. ``snapshot`` is the path of a picture or null. ``model``
is the sha256 of the network. Readers ignore keys they do not know.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgebird.structures import Box, VisitChanged

Name = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]+\Z")]
Size = Annotated[int, Meta(gt=0)]


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
    duration_s: Annotated[float, Meta(ge=0)]
    peak_count: Annotated[int, Meta(ge=0)]
    score: Annotated[float, Meta(ge=0, le=1)]
    box: BoxPayload
    frame_size: tuple[Size, Size]
    snapshot: str | None
    model: str

    def __post_init__(self) -> None:
        for time in (self.started, self.ended):
            if time is None:
                continue
            moment = datetime.fromisoformat(time)
            # The years at the edges cannot be shown in every time zone.
            if moment.tzinfo is None or not 1970 <= moment.year < 9999:
                raise ValueError(f"the time {time!r} has no time zone or is out of range")


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
    width, height = visit.frame_size
    left, top, right, bottom = visit.best_xyxy
    fraction = (left / width, top / height, right / width, bottom / height)
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
        box=BoxPayload(rounded(visit.best_xyxy, 1), rounded(fraction, 4)),
        frame_size=visit.frame_size,
        snapshot=visit.snapshot,
        model=model_sha256,
    )


def encode(payload: VisitPayload) -> bytes:
    """The alert as JSON, its fields always in the same order."""
    return msgspec.json.encode(payload)


def decode(data: bytes | bytearray) -> VisitPayload:
    """Read an alert.

    Raises:
        ValueError: ``data`` is not JSON, or not an alert; the message says where.
    """
    try:
        return msgspec.json.decode(data, type=VisitPayload)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
