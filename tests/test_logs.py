"""Messages: what they look like, where, and how many."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from test_mqtt import visit_changed

from edgebird import logs
from edgebird.sinks.console import ConsoleSink


def journal_of(stream: TextIO) -> dict[str, str]:
    status = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        yield reader, writer


def all_levels() -> None:
    log = logging.getLogger("edgebird.part")
    log.debug("details")
    log.info("two\nlines")
    log.warning("camera %s is lost", 0)
    log.error("no disk")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("oddity")


def test_a_person_reads_the_message_alone() -> None:
    stream = io.StringIO()
    logs.set_up(stream)
    all_levels()
    assert stream.getvalue().splitlines() == [
        "two",
        "lines",
        "camera 0 is lost",
        "edgebird: no disk",
        "oddity",
    ]


def test_a_file_tells_when(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        logs.set_up(stream)
        logging.getLogger("edgebird").warning("camera 0 is lost")
    [line] = (tmp_path / "log").read_text().splitlines()
    moment, level, message = line.split(maxsplit=2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", moment)
    assert (level, message) == ("WARNING", "camera 0 is lost")


def test_the_journal_gets_priorities_and_no_times(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    logs.set_up(writer, environment=journal_of(writer))
    all_levels()
    logging.getLogger("edgebird").critical("broken")
    writer.close()
    assert reader.read().splitlines() == [
        "<6>two",
        "<6>lines",
        "<4>camera 0 is lost",
        "<3>no disk",
        "<4>oddity",
        "<2>broken",
    ]


def test_output_that_was_sent_elsewhere_is_not_the_journal(pipe: tuple[TextIO, TextIO]) -> None:
    _, writer = pipe
    assert logs.is_journal(writer, journal_of(writer))
    assert not logs.is_journal(writer, {"JOURNAL_STREAM": "8:12345"})
    assert not logs.is_journal(writer, {})
    assert not logs.is_journal(io.StringIO(), journal_of(writer))


def test_json_is_one_object_a_line_with_a_traceback_where_there_is_one() -> None:
    stream = io.StringIO()
    logs.set_up(stream, as_json=True)
    all_levels()
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger("edgebird").exception("trouble")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(r["level"], r["logger"], r["message"]) for r in records] == [
        ("info", "edgebird.part", "two\nlines"),
        ("warning", "edgebird.part", "camera 0 is lost"),
        ("error", "edgebird.part", "no disk"),
        ("warning", "library", "oddity"),
        ("error", "edgebird", "trouble"),
    ]
    assert all(record["time"].endswith("+00:00") for record in records)
    assert "KeyError: 'missing'" in records[-1]["traceback"]


def test_a_flood_is_cut_and_counted() -> None:
    now_s = 0.0
    stream = io.StringIO()
    logs.set_up(stream)
    [handler] = logging.getLogger().handlers
    handler.filters[:] = [logs.Repeats(clock=lambda: now_s)]
    log = logging.getLogger("library")
    for _ in range(600):  # a minute at 10 a second
        now_s += 0.1
        log.warning("bad picture %d", 7)
        log.warning("something else")
    assert stream.getvalue().count("bad picture 7") == 5
    now_s += 60
    log.warning("bad picture 7")
    assert stream.getvalue().splitlines()[-1] == "bad picture 7 (and 595 times before)"


def test_a_flood_whose_numbers_vary_is_cut_and_others_are_not() -> None:
    stream = io.StringIO()
    logs.set_up(stream)
    log = logging.getLogger("library")
    for number in range(20):
        log.warning("%d bytes before 0x%x", number, number, extra=logs.NUMBERS_VARY)
        log.warning("picture %d", number)
    lines = stream.getvalue().splitlines()
    assert sum("bytes" in line for line in lines) == 5
    assert sum("picture" in line for line in lines) == 20
    assert lines[2] == "1 bytes before 0x1"


def test_the_memory_for_repeats_is_bounded_and_the_flood_still_cut() -> None:
    repeats = logs.Repeats(clock=lambda: 0.0)

    def passes(text: str) -> bool:
        return repeats.filter(logging.LogRecord("x", 30, "", 0, text, (), None))

    for number in range(1000):
        assert passes(f"message {number}")
    assert len(repeats._seen) <= 100
    assert [passes("again") for _ in range(7)] == [True] * 5 + [False] * 2


# the whole program


def edgebird(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program with the journal (a pipe that says so) as its output."""
    read, write = os.pipe()
    status = os.fstat(write)
    stream = f"{status.st_dev}:{status.st_ino}"
    with os.fdopen(read) as reader:
        done = subprocess.run(
            [sys.executable, "-m", "edgebird.cli", *arguments],
            stdout=write,
            stderr=write,
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=False,
        )
        os.close(write)
        return subprocess.CompletedProcess(arguments, done.returncode, reader.read())


def test_under_systemd_what_was_done_has_its_priority() -> None:
    done = edgebird("detect", "--source", "demo:?seconds=9&fps=5&pace=0", "--max-frames", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("<6>done: 1 frame, 0 visits")


@pytest.mark.parametrize(("times", "start"), [(False, "Feeder 0  bird"), (True, r"..:..:..  F")])
def test_visits_need_no_time_where_the_journal_has_it(times: bool, start: str) -> None:
    stream = io.StringIO()
    ConsoleSink(stream, times=times).emit(visit_changed(1))
    assert re.match(start, stream.getvalue())


def test_an_error_has_its_priority_and_its_exit_code() -> None:
    done = edgebird("detect", "--source", "missing.avi")
    assert done.returncode == 3
    [line] = done.stdout.splitlines()
    assert line.startswith("<3>there is no file or folder 'missing.avi'")


@pytest.mark.parametrize("arguments", [("detect", "--source", "missing"), ("detect", "-x")])
def test_an_error_is_a_json_object_if_so_asked(arguments: tuple[str, ...]) -> None:
    done = edgebird("--log-json", *arguments)
    [line] = done.stdout.splitlines()
    assert json.loads(line)["level"] == "error"


def test_an_error_nobody_expected_is_logged_line_by_line() -> None:
    stream = "import sys, os; from edgebird import logs; s = os.fstat(2); "
    setup = "os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; logs.set_up(); "
    code = stream + setup + "import threading; t = threading.Thread(target=lambda: 1 / 0); "
    code += "t.start(); t.join(); raise ValueError('why')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(line.startswith("<2>") for line in lines)
    assert "<2>ZeroDivisionError: division by zero" in lines
    assert "<2>ValueError: why" in lines
