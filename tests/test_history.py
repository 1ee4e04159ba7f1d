"""The visits of the past, listed, exported and drawn."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path

import click
import cv2
import pytest

from edgebird.cli import visits as visits_command
from edgebird.errors import EdgebirdError, OutputError, UsageError
from edgebird.history.charts import chart_lines, counts_by_day, counts_by_hour, write_plot
from edgebird.history.listing import (
    CSV_COLUMNS,
    parse_since,
    select_starts,
    select_visits,
    stores,
)
from edgebird.history.store import Choice, VisitStore, read_starts, read_visits
from edgebird.structures import Visit


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def visit(text: str, camera: str = "feeder", **changes: object) -> Visit:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    made = Visit(
        id=f"{camera}-{moment:%Y%m%dT%H%M%S}",
        camera=camera,
        started_utc_s=moment.timestamp(),
        duration_s=12.34,
        ended_utc_s=moment.timestamp() + 12.34,
        peak_count=2,
        best_score=0.912,
        best_xyxy=(1.0, 2.0, 3.5, 4.0),
        frame_size=(640, 480),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two cameras: in March, over the change to summer time."""
    folder = tmp_path / "state"
    with closing(VisitStore(folder / "visits" / "feeder.sqlite")) as store:
        store.put(
            [
                visit("2026-03-27T23:30:00"),  # the 28th in Berlin
                visit("2026-03-28T07:00:00"),
                visit("2026-03-29T07:00:00"),
                visit("2026-03-30T07:10:00", duration_s=150.0, peak_count=1),
            ],
            {},
        )
    with closing(VisitStore(folder / "visits" / "nestbox.sqlite")) as store:
        store.put([visit("2026-03-29T12:00:00", "nestbox", ended_utc_s=None)], {})
    return folder


@dataclass
class Printed:
    stdout: str
    stderr: str


Visits = Callable[..., Printed]


@pytest.fixture
def visits(capsys: pytest.CaptureFixture[str]) -> Visits:
    """Runs the command on what is stored in a folder."""

    def run(state: Path, *arguments: str) -> Printed:
        visits_command.main(["--state", str(state), *arguments], standalone_mode=False)
        return Printed(*capsys.readouterr())

    return run


def test_the_list_is_in_local_time_and_the_newest_comes_last(state: Path, visits: Visits) -> None:
    lines = visits(state).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "Sat 2026-03-28 00:30:00",
        "Sat 2026-03-28 08:00:00",
        "Sun 2026-03-29 09:00:00",
        "Sun 2026-03-29 14:00:00",
        "Mon 2026-03-30 09:10:00",
    ]
    assert lines[0].endswith("    12 s  2 birds  0.91  feeder-20260327T233000")
    assert "going on" in lines[3]
    assert lines[4].split("  ", 1)[1].split()[:4] == ["2", "min", "1", "bird"]


def test_some_are_chosen(state: Path, visits: Visits) -> None:
    assert visits(state, "--camera", "nestbox").stdout.count("\n") == 1
    assert visits(state, "--since", "2026-03-29").stdout.count("\n") == 3
    newest = visits(state, "--last", "2")
    assert "2026-03-29 14:00" in newest.stdout.splitlines()[0]
    assert newest.stderr == "there are earlier ones; --last 100 or --since 7d shows more\n"
    assert visits(state, "--last", "5").stderr == ""
    nothing = visits(state, "--since", "2027-01-01")
    assert (nothing.stdout, nothing.stderr) == ("", "no such visit is stored\n")
    assert visits(state, "--kept").stdout == ""


def test_the_list_is_short_and_exports_are_whole(tmp_path: Path, visits: Visits) -> None:
    with closing(VisitStore(tmp_path / "visits" / "feeder.sqlite")) as store:
        store.put([visit(f"2026-03-28T07:{minute}:00") for minute in range(10, 40)], {})
    assert visits(tmp_path).stdout.count("\n") == 20
    assert visits(tmp_path, "--csv").stdout.count("\n") == 31
    assert visits(tmp_path, "--json").stdout.count("\n") == 30


def test_a_camera_is_found_by_its_configured_name(tmp_path: Path, visits: Visits) -> None:
    with closing(VisitStore(tmp_path / "visits" / "front-garden-1.sqlite")) as store:
        store.put([visit("2026-03-28T07:00:00", "front-garden-1")], {})
    for name in ("Front Gärden 1", "front-garden-1"):
        assert visits(tmp_path, "--camera", name).stdout.count("\n") == 1
    assert visits(tmp_path, "--camera", "garden").stdout == ""


def test_since_lists_all_and_what_is_advised_shows_more(tmp_path: Path, visits: Visits) -> None:
    start = datetime(2026, 3, 28, tzinfo=UTC)
    with closing(VisitStore(tmp_path / "visits" / "feeder.sqlite")) as store:
        store.put(
            [visit(f"{start + timedelta(minutes=n):%Y-%m-%dT%H:%M:%S}") for n in range(130)], {}
        )
    since = ("--since", "2026-03-01")
    everything = visits(tmp_path, *since)
    assert (everything.stdout.count("\n"), everything.stderr) == (130, "")
    for asked, number, advised in [
        ((), 20, "--last 100 or --since 7d shows more"),
        (("--last", "120"), 120, "--last 600 or --since 7d shows more"),
        ((*since, "--last", "30"), 30, "; --last 150 shows more"),
    ]:
        some = visits(tmp_path, *asked)
        assert some.stdout.count("\n") == number
        assert some.stderr.endswith(f"{advised}\n")


def test_more_than_anybody_can_have_is_refused(state: Path, visits: Visits) -> None:
    with pytest.raises(click.BadParameter, match="not in the range"):
        visits(state, "--last", str(2**63 - 1))
    assert visits(state, "--last", "1000000").stdout.count("\n") == 5


def test_a_damaged_store_hides_no_other(
    state: Path, visits: Visits, capsys: pytest.CaptureFixture[str]
) -> None:
    (state / "visits" / "feeder.sqlite").write_bytes(b"no database" * 100)
    plot = state / "plot.png"
    for flags, word in [
        ((), "nestbox-20260329T120000"),
        (("--json",), "nestbox-20260329T120000"),
        (("--chart",), "Sun 2026-03-29"),
        (("--plot", str(plot)), "drawn"),
    ]:
        with pytest.raises(EdgebirdError, match=r"feeder\.sqlite") as caught:
            visits(state, *flags)
        assert caught.value.exit_code == 1
        assert word in "".join(capsys.readouterr())
    with pytest.raises(EdgebirdError, match="still goes on"):  # found behind the damaged one
        visits(state, "keep", "nestbox-20260329T120000")

    # nothing is drawn, nor said to be missing, where nothing could be read
    (state / "visits" / "nestbox.sqlite").write_bytes(b"no database" * 100)
    plot.write_bytes(b"of before")
    with pytest.raises(EdgebirdError, match=r"nestbox\.sqlite"):
        visits(state, "--plot", str(plot))
    assert plot.read_bytes() == b"of before"
    assert "no such visit" not in capsys.readouterr().err


def test_json_has_the_names_of_the_alerts_and_utc(state: Path, visits: Visits) -> None:
    records = [json.loads(line) for line in visits(state, "--json").stdout.splitlines()]
    assert records[0] == {
        "visit": "feeder-20260327T233000",
        "camera": "feeder",
        "state": "over",
        "started": "2026-03-27T23:30:00.000Z",
        "ended": "2026-03-27T23:30:12.340Z",
        "duration_s": 12.34,
        "peak_count": 2,
        "score": 0.912,
        "box": [1.0, 2.0, 3.5, 4.0],
        "frame_size": [640, 480],
        "snapshot": None,
        "kept": False,
    }
    assert (records[3]["state"], records[3]["ended"]) == ("open", None)


def test_csv_is_a_table(state: Path, visits: Visits) -> None:
    rows = list(csv.DictReader(visits(state, "--csv").stdout.splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == 5
    assert rows[0]["started"] == "2026-03-27T23:30:00.000Z"
    assert (rows[0]["right_px"], rows[0]["frame_height_px"]) == ("3.5", "480")
    assert (rows[3]["ended"], rows[0]["kept"]) == ("", "0")


def test_a_picture_without_its_visit_has_empty_cells(tmp_path: Path, visits: Visits) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "feeder-20260328T070000.jpg").write_bytes(b"\xff\xd8 a picture \xff\xd9")
    with closing(VisitStore(tmp_path / "visits" / "feeder.sqlite")) as store:
        store.begin(pictures)
    (row,) = csv.DictReader(visits(tmp_path, "--csv").stdout.splitlines())
    assert (row["score"], row["left_px"], row["state"]) == ("", "", "cut")
    line = visits(tmp_path).stdout
    assert "cut off" in line
    assert line.endswith(f"{pictures / 'feeder-20260328T070000.jpg'}\n")


def test_favourites_are_kept_by_command(state: Path, visits: Visits) -> None:
    name = "feeder-20260328T070000"
    visits(state, "keep", name)
    assert visits(state, "--kept").stdout.split()[-2:] == [name, "kept"]
    visits(state, "keep", "--undo", name)
    assert visits(state, "--kept").stdout == ""
    for other in ("feeder-1", "f\udcff"):
        with pytest.raises(EdgebirdError, match=f"there is no visit {other}"):
            visits(state, "keep", other)


def test_a_folder_that_cannot_be_is_not_there(visits: Visits) -> None:
    with pytest.raises(UsageError, match="there is no folder aaa"):
        visits(Path("a" * 300))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("today", "2026-03-29T00:00:00+01:00"),
        ("90m", "2026-03-29T08:30:00+02:00"),
        ("24h", "2026-03-28T10:00:00+02:00"),
        ("2w", "2026-03-15T10:00:00+02:00"),
        ("2026-03-28", "2026-03-28T00:00:00+01:00"),
        ("2026-03-28T08:30", "2026-03-28T08:30:00+01:00"),
        ("2026-03-28T08:30Z", "2026-03-28T08:30:00+00:00"),
    ],
)
def test_a_time_is_local_where_no_zone_is_given(text: str, moment: str) -> None:
    now = datetime.fromisoformat("2026-03-29T10:00:00").astimezone()
    assert parse_since(text, now) == datetime.fromisoformat(moment)


@pytest.mark.parametrize("text", ["yesterday", "7", "999999w", "2026-13-01", ""])
def test_a_time_that_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="24h"):
        parse_since(text, datetime.now().astimezone())


def test_what_the_user_and_the_service_have_stored_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    service = tmp_path / "service"
    with pytest.raises(EdgebirdError, match="no visits are stored in"):
        stores(None, service=service)
    paths = [
        tmp_path / "edgebird" / "visits" / "mine.sqlite",
        service / "visits" / "feeder.sqlite",
        service / "garden" / "visits" / "garden.sqlite",
    ]
    for path in paths:
        VisitStore(path).close()
    assert set(stores(None, service=service)) == set(paths)
    assert stores(str(service), service=service) == sorted(paths[1:])
    with pytest.raises(UsageError, match="there is no folder"):
        stores(str(tmp_path / "none"))


def test_hours_and_days_are_local(state: Path) -> None:
    chosen = select_starts(stores(str(state)), Choice(camera="feeder"))
    hours = counts_by_hour(chosen)
    assert {hour: count for hour, count in enumerate(hours) if count} == {0: 1, 8: 1, 9: 2}
    days = counts_by_day(chosen, 31)
    assert days == [(date(2026, 3, 28), 2), (date(2026, 3, 29), 1), (date(2026, 3, 30), 1)]
    assert counts_by_day(chosen, 2) == days[1:]


def test_bars_are_as_long_as_their_counts(state: Path, visits: Visits) -> None:
    chosen = select_starts(stores(str(state)), Choice(camera="feeder"))
    lines = chart_lines(chosen, 40)
    assert max(map(len, lines)) <= 40
    assert len(lines) == 2 + 24 + 3 + 3
    full, half = (next(line for line in lines if line.startswith(f"  {h}")) for h in ("09", "08"))
    assert full.endswith(" 2")
    assert full.count("█") == 2 * half.count("█") + half.count("▌")
    assert lines[-1] == f"  Mon 2026-03-30  {lines[-2].split('  ')[2]}"
    assert "█" not in "".join(chart_lines(chosen, 40, blocks=False))
    printed = visits(state, "--chart", "--camera", "feeder").stdout
    assert printed.startswith("visits by hour of the day\n")


def test_a_chart_says_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "visits" / "feeder.sqlite"
    with closing(VisitStore(path)) as store:
        store.put([visit("2026-01-01T07:00:00"), visit("2026-01-31T07:00:00")], {})
        assert "visits by day" in chart_lines(select_starts([path]), 40)
        store.put([visit("2026-02-09T07:00:00")], {})
    assert "visits by day, the last 31 of 40" in chart_lines(select_starts([path]), 40)


@pytest.mark.parametrize("flags", [(), ("--json",), ("--chart",)])
def test_without_visits_an_older_plot_is_replaced_by_an_empty_one(
    state: Path, flags: tuple[str, ...], visits: Visits
) -> None:
    path = state / "plot.png"
    path.write_bytes(b"of yesterday")
    printed = visits(state, *flags, "--since", "2100-01-01", "--plot", str(path))
    assert printed.stdout == ""
    assert f"drawn: {path}\n" in printed.stderr
    picture = cv2.imread(str(path))
    assert picture.shape == (840, 1200, 3)
    assert not (picture == (60, 130, 70)).all(axis=2).any()


@pytest.mark.parametrize("days", [1, 31, 800])
def test_a_plot_is_a_picture_with_a_bar_for_each_count(
    tmp_path: Path, days: int, visits: Visits
) -> None:
    first = datetime(2026, 3, 1, 7, tzinfo=UTC)
    with closing(VisitStore(tmp_path / "visits" / "feeder.sqlite")) as store:
        store.put(
            [visit(f"{first + timedelta(days=d):%Y-%m-%dT%H:%M:%S}") for d in range(days)], {}
        )
    path = tmp_path / "plot.png"
    assert str(path) in visits(tmp_path, "--plot", str(path)).stderr
    picture = cv2.imread(str(path))
    assert picture.shape == (840, 1200, 3)
    bars = (picture == (60, 130, 70)).all(axis=2)  # BGR
    assert bars[:420].any(axis=0).sum() > 30
    # without the last panel's gaps all days lie side by side
    assert bars[420:].any(axis=0).sum() > 800


def test_a_plot_that_cannot_be_written_or_is_no_png_says_so(
    state: Path, tmp_path: Path, visits: Visits
) -> None:
    chosen = select_starts(stores(str(state)))
    with pytest.raises(OutputError, match="cannot write"):
        write_plot(chosen, tmp_path / "none" / "plot.png")
    with pytest.raises(UsageError, match="PNG"):
        visits(state, "--plot", "plot.jpg")
    with pytest.raises(UsageError, match="one of"):
        visits(state, "--csv", "--json")


@pytest.fixture
def clock_was_ahead(tmp_path: Path) -> Path:
    """A camera with ten visits, and the three of a time when its clock was ahead."""
    with closing(VisitStore(tmp_path / "visits" / "feeder.sqlite")) as store:
        store.put([visit(f"2026-03-{day:02}T07:00:00") for day in range(1, 11)], {})
        store.put([visit(f"2999-01-0{day}T07:00:00") for day in range(1, 4)], {})
    with closing(VisitStore(tmp_path / "visits" / "nestbox.sqlite")) as store:
        store.put([visit("2026-03-09T12:00:00", "nestbox")], {})
    return tmp_path


def test_visits_of_a_clock_that_was_ahead_hide_no_later_ones(
    clock_was_ahead: Path, visits: Visits
) -> None:
    newest = visits(clock_was_ahead, "--last", "3")
    assert [line.split()[-1] for line in newest.stdout.splitlines()] == [
        "feeder-20260309T070000",
        "nestbox-20260309T120000",
        "feeder-20260310T070000",
    ]
    assert "there are earlier ones" in newest.stderr
    path = clock_was_ahead / "visits" / "feeder.sqlite"
    assert [v.id[-15:] for v in read_visits(path, Choice(last=1))] == ["20260310T070000"]
    # as the oldest
    lines = visits(clock_was_ahead, "--last", "12").stdout.splitlines()
    assert [line.split()[1][:4] for line in lines] == ["2026"] * 11 + ["2999"]
    first, second, *others = select_starts([path], Choice(last=12))
    assert others == sorted(others)
    assert others[-1] < first < second
    assert visits(clock_was_ahead).stdout.count("\n") == 14


def test_a_chart_leaves_out_what_lies_ahead(clock_was_ahead: Path, visits: Visits) -> None:
    path = clock_was_ahead / "visits" / "feeder.sqlite"
    lines = chart_lines(select_starts([path]), 80)
    assert "visits by day, without 3 ahead of the clock" in lines
    assert lines[-1].startswith("  Tue 2026-03-10")
    assert len(lines) == 2 + 24 + 3 + 10
    year_2998_s = datetime(2998, 1, 1, tzinfo=UTC).timestamp()
    only = select_starts([path], Choice(since_s=year_2998_s))
    assert counts_by_day(only, 31) == [(datetime.now().astimezone().date(), 0)]
    assert "drawn" in visits(clock_was_ahead, "--plot", str(path.with_suffix(".png"))).stderr


def test_a_damaged_row_hides_no_other(state: Path) -> None:
    path = state / "visits" / "feeder.sqlite"
    before = list(read_visits(path))
    with closing(sqlite3.connect(path)) as db, db:
        query = "UPDATE visits SET box = '[1, 2', frame_size = 'null' WHERE id = ?"
        db.execute(query, (before[0].id,))
    visits = list(read_visits(path))
    assert len(visits) == len(before)
    assert (visits[0].box, visits[0].frame_size) == (None, None)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("state = 'ovgr'", 4),
        ("state = CAST(x'6f76cc72' AS TEXT)", 4),
        ("id = x'66656564'", 3),
        ("started_s = 'early'", 3),
        ("started_s = 1e300", 3),
        ("ended_s = 1e300", 3),
        ("duration_s = 'long'", 3),
        ("peak_count = x'00'", 3),
        ("picture = x'2f'", 3),
    ],
)
def test_what_is_damaged_of_a_row_hides_no_other(
    state: Path, visits: Visits, change: str, left: int
) -> None:
    path = state / "visits" / "feeder.sqlite"
    second = list(read_visits(path))[1].id
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE visits SET {change} WHERE id = ?", (second,))
    assert len(list(read_visits(path))) == left
    for flags in ("--since=2026-01-01", "--csv", "--json", "--last=9"):
        assert visits(state, flags).stdout.count("feeder-") >= left
    assert "visits by day" in visits(state, "--chart").stdout
    with closing(VisitStore(path)) as store:
        assert len(store.visits()) == left
    if left == 4:
        assert second in visits(state, "--csv").stdout


def test_an_id_that_is_out_of_order_does_not_make_an_export_endless(tmp_path: Path) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    path = tmp_path / "visits" / "feeder.sqlite"
    with closing(VisitStore(path)) as store:
        store.put(
            [visit(f"{start + timedelta(minutes=9 * n):%Y-%m-%dT%H:%M:%S}") for n in range(1200)],
            {},
        )
        wrong = store.visits()[499].id.encode()
    path.write_bytes(path.read_bytes().replace(wrong, b"b" + wrong[1:]))
    # those beside it are not found in their order either
    assert 1150 < len(list(islice(read_visits(path), 3000))) < 1200


def test_a_year_is_stored_in_little_room_and_listed_soon(tmp_path: Path) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    path = tmp_path / "visits" / "feeder.sqlite"
    with closing(VisitStore(path)) as store:
        store.put(
            [visit(f"{start + timedelta(minutes=9 * n):%Y-%m-%dT%H:%M:%S}") for n in range(20_000)],
            {},
        )
    assert os.path.getsize(path) < 20_000 * 250  # 20 MB hold more than 80,000
    began_s = time.process_time()
    assert len(list(select_visits([path]))) == 20_000
    assert time.process_time() - began_s < 5


@pytest.fixture
def long_log(tmp_path: Path) -> Iterator[VisitStore]:
    """The store of a camera with 3000 visits that edgebird still writes to."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with closing(VisitStore(tmp_path / "visits" / "feeder.sqlite")) as store:
        store.put(
            [visit(f"{start + timedelta(minutes=9 * n):%Y-%m-%dT%H:%M:%S}") for n in range(3000)],
            {},
        )
        yield store


def test_many_visits_are_read_in_order_and_without_gaps(
    tmp_path: Path, long_log: VisitStore
) -> None:
    everything = long_log.visits()
    path = tmp_path / "visits" / "feeder.sqlite"
    assert list(read_visits(path)) == everything
    for last in (1, 1000, 2500, 3000, 4000):
        assert list(read_visits(path, Choice(last=last))) == everything[-last:]
        assert read_starts(path, Choice(last=last)) == [v.started_utc_s for v in everything[-last:]]
    since_s = everything[1234].started_utc_s
    assert list(read_visits(path, Choice(since_s=since_s))) == everything[1234:]
    assert list(read_visits(path, Choice(since_s=since_s, last=1000))) == everything[-1000:]
    assert list(read_visits(path, Choice(kept=True))) == []


@pytest.mark.parametrize("flags", ["--csv", "--json", "--since=2024-01-01", "--chart"])
def test_an_export_holds_only_a_few_visits_in_memory(
    tmp_path: Path, long_log: VisitStore, flags: str
) -> None:
    def export() -> None:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            visits_command.main(["--state", str(tmp_path), flags], standalone_mode=False)

    export()  # what it imports does not count
    tracemalloc.start()
    try:
        export()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1_000_000


def test_a_reader_that_waits_does_not_keep_the_log_from_being_emptied(
    tmp_path: Path, long_log: VisitStore
) -> None:
    path = tmp_path / "visits" / "feeder.sqlite"
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        pytest.skip("this disk has blocks too small for a log")
    waiting = select_visits([path])
    first = next(waiting)
    with closing(sqlite3.connect(path, timeout=0.1)) as db:
        (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, log.stat().st_size) == (0, 0)
    long_log.put([visit("2026-03-28T07:00:00")], {})
    # what came meanwhile is not among those asked for
    assert (first.id, list(waiting)[-1].id) == ("feeder-20240101T000000", "feeder-20240119T175100")
