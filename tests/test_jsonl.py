"""The lines of --json."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebird.sinks.jsonl import JsonLinesSink, picture_record
from edgebird.structures import (
    Detections,
    Event,
    Frame,
    FrameProcessed,
    Track,
    TrackState,
    Visit,
    VisitChanged,
)

BOXES = [[10.0, 20.0, 30.04, 40.06], [1.0, 2.0, 3.0, 4.0]]
DETECTIONS = Detections(np.array(BOXES, np.float32), np.array([0.912345, 0.5], np.float32))


def lines_of(*events: Event) -> list[dict[str, object]]:
    stream = io.BytesIO()
    sink = JsonLinesSink(stream)
    for event in events:
        sink.emit(event)
    sink.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def frame_processed(detections: Detections, *tracks: Track) -> FrameProcessed:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 7, 0.70004, 1.7e9, "camera")
    return FrameProcessed("camera", frame, detections, tracks, 6.04)


def track(number: int, box: list[float], last_seen_s: float) -> Track:
    left, top, right, bottom = np.array(box, np.float32).tolist()
    corners = (left, top, right, bottom)
    return Track(number, corners, 0.9, 3, 0.1, last_seen_s, 0.9, TrackState.CONFIRMED)


def test_a_frame_says_which_detection_belongs_to_which_track() -> None:
    event = frame_processed(DETECTIONS, track(3, BOXES[0], 0.70004), track(4, BOXES[1], 0.6))
    (line,) = lines_of(event)
    assert list(line.items()) == [
        ("frame", 7),
        ("time", 0.7),
        ("size", [64, 48]),
        (
            "detections",
            [
                {"box": [10.0, 20.0, 30.0, 40.1], "score": 0.9123, "track": 3},
                {"box": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "track": None},  # seen earlier only
            ],
        ),
        ("inference_ms", 6.0),
    ]


def test_a_frame_without_birds_has_a_line_too() -> None:
    (line,) = lines_of(frame_processed(Detections.none()))
    assert line["detections"] == []


def test_a_visit_has_a_line_for_its_start_and_its_end() -> None:
    box = (64.04, 48.0, 128.0, 96.0)
    start = Visit("v1", "Feeder 0", 1_741_944_605.12, 0.0, None, 1, 0.5, box, (640, 480))
    ended_utc_s = 1_741_944_647.62
    end = Visit(
        "v1", "Feeder 0", 1_741_944_605.12, 42.5, ended_utc_s, 2, 0.91239, box, (640, 480), "a.jpg"
    )
    first, second = lines_of(VisitChanged("start", start), VisitChanged("end", end))
    assert (first["event"], first["ended"], first["snapshot"]) == ("start", None, None)
    assert list(second.items()) == [
        ("event", "end"),
        ("visit", "v1"),
        ("camera", "Feeder 0"),
        ("started", "2025-03-14T09:30:05.120Z"),
        ("ended", "2025-03-14T09:30:47.620Z"),
        ("duration_s", 42.5),
        ("peak_count", 2),
        ("score", 0.912),
        ("box", [64.0, 48.0, 128.0, 96.0]),
        ("snapshot", "a.jpg"),
    ]


def test_a_picture_has_a_record_of_its_own() -> None:
    assert list(picture_record("robin.jpg", (640, 480), DETECTIONS, 6.04).items()) == [
        ("image", "robin.jpg"),
        ("size", [640, 480]),
        (
            "detections",
            [
                {"box": (10.0, 20.0, 30.0, 40.1), "score": 0.9123},
                {"box": (1.0, 2.0, 3.0, 4.0), "score": 0.5},
            ],
        ),
        ("inference_ms", 6.0),
    ]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_stays_on_one_line(name: str) -> None:
    stream = io.BytesIO()
    JsonLinesSink(stream).write(picture_record(name, (64, 48), Detections.none(), 1.0))
    text = stream.getvalue()
    assert text.count(b"\n") == 1
    assert json.loads(text)["image"] == name


def test_what_is_not_utf_8_in_a_name_is_replaced() -> None:
    name = os.fsdecode(b"v\xf6gel \xc3\xa4.jpg")
    stream = io.BytesIO()
    sink = JsonLinesSink(stream)
    sink.write(picture_record(name, (64, 48), Detections.none(), 1.0))
    box = (0.0, 0.0, 1.0, 1.0)
    sink.emit(VisitChanged("start", Visit("v", "c", 0.0, 0.0, None, 1, 0.5, box, (6, 4), name)))
    picture, visit = (json.loads(line) for line in stream.getvalue().splitlines())
    assert picture["image"] == visit["snapshot"] == "v\N{REPLACEMENT CHARACTER}gel ä.jpg"


def test_each_line_is_flushed() -> None:
    reading, writing = os.pipe()
    with open(reading) as reader, open(writing, "wb") as writer:
        JsonLinesSink(writer).emit(frame_processed(DETECTIONS))
        assert json.loads(reader.readline())["frame"] == 7


def test_a_reader_that_left_is_reported() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError), open(writing, "wb") as writer:
        JsonLinesSink(writer).emit(frame_processed(DETECTIONS))
