"""One JSON object a line: each frame, and each visit's start and end."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import msgspec

from edgebird.mqtt.payloads import rounded, utc_iso
from edgebird.structures import Box, Detections, Event, FrameProcessed, VisitChanged


def printable(name: str) -> str:
    """A file's name as text; what is not UTF-8 in it is replaced, since JSON cannot hold it."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


def picture_record(
    name: str, size: tuple[int, int], detections: Detections, inference_ms: float
) -> dict[str, Any]:
    """The record of one picture that stands on its own.

    Args:
        name: of the picture.
        size: its width and height in pixels.
        detections: the birds in it; boxes in pixels of the full picture.
        inference_ms: how long the network took.
    """
    return {
        "image": printable(name),
        "size": list(size),
        "detections": [_detection_record(box, score) for box, score in detections.rows()],
        "inference_ms": round(inference_ms, 1),
    }


class JsonLinesSink:
    """Writes each frame and each change of a visit as one line and flushes it, so that a reader
    sees it at once. In UTF-8, whatever the terminal's letters are.

    The stream belongs to the caller and is not closed. When its reader is gone (``| head``),
    BrokenPipeError leaves ``emit`` and ``write``: there is nobody left to work for.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def emit(self, event: Event) -> None:
        """Write the event's record.

        Raises:
            BrokenPipeError: nobody reads the stream any more.
        """
        if isinstance(event, FrameProcessed):
            self.write(frame_record(event))
        elif isinstance(event, VisitChanged):
            self.write(visit_record(event))

    def write(self, record: dict[str, Any]) -> None:
        """Write one record as a line of JSON.

        Raises:
            BrokenPipeError: nobody reads the stream any more.
        """
        self._stream.write(msgspec.json.encode(record) + b"\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is pending: every line was flushed."""


def frame_record(event: FrameProcessed) -> dict[str, Any]:
    """The record of one frame of a video or camera; ``time`` is its ``monotonic_s``."""
    frame = event.frame
    return {
        "frame": frame.index,
        "time": round(frame.monotonic_s, 3),
        "size": list(frame.size),
        "detections": [
            _detection_record(box, score) | {"track": track} for box, score, track in event.birds()
        ],
        "inference_ms": round(event.inference_ms, 1),
    }


def visit_record(event: VisitChanged) -> dict[str, Any]:
    """The record of a visit's start or end; ``box`` in pixels of the full frame."""
    visit = event.visit
    return {
        "event": event.kind,
        "visit": visit.id,
        "camera": visit.camera,
        "started": utc_iso(visit.started_utc_s),
        "ended": None if visit.ended_utc_s is None else utc_iso(visit.ended_utc_s),
        "duration_s": round(float(visit.duration_s), 3),
        "peak_count": visit.peak_count,
        "score": round(float(visit.best_score), 3),
        "box": rounded(visit.best_xyxy, 1),
        "snapshot": None if visit.snapshot is None else printable(visit.snapshot),
    }


def _detection_record(box: Box, score: float) -> dict[str, Any]:
    return {"box": rounded(box, 1), "score": round(score, 4)}
