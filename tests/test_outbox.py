"""The outbox on a real disk, and on one that fails."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import fill, tmpfs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgebird.mqtt import outbox as outbox_module
from edgebird.mqtt.outbox import Alert, Outbox


def alert(name: str, size: int = 10, created_s: float = 1000.0) -> Alert:
    return Alert(name, "t", name.encode().ljust(size), created_s)


def names(outbox: Outbox) -> list[str]:
    return [row.visit for row in outbox.page(0, None, 10_000)]


def new_outbox(path: Path | None, **bounds: float) -> Outbox:
    return Outbox(path, now_s=lambda: 1000.0, **bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("on_disk", [True, False])
def test_alerts_stay_in_order_until_they_are_removed(tmp_path: Path, on_disk: bool) -> None:
    with closing(new_outbox(tmp_path / "o.sqlite" if on_disk else None)) as outbox:
        outbox.add([alert("a"), alert("b")], durable=True)
        outbox.add([alert("c")], durable=False)
        first, second, third = outbox.page(0, None, 10)
        assert [first.visit, second.visit, third.visit] == ["a", "b", "c"]
        assert outbox.page(first.number, second.number, 10) == [second]
        outbox.remove([second.number])
        outbox.remove([second.number])  # acknowledged twice
        assert names(outbox) == ["a", "c"]
        assert outbox.has("a", first.number)
        assert not outbox.has("c", first.number)
        assert (outbox.state().waiting, outbox.state().bytes) == (2, 20)


def test_a_new_outbox_finds_what_the_old_one_had(tmp_path: Path) -> None:
    path = tmp_path / "new" / "o.sqlite"
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("a"), alert("b")], durable=False)
        outbox.keep({"enabled": "false"})
        last = outbox.last_number
        outbox.remove([last])
    with closing(new_outbox(path)) as outbox:
        assert names(outbox) == ["a"]
        assert outbox.kept() == {"enabled": "false"}
        outbox.add([alert("c")], durable=False)
        assert outbox.last_number > last  # a number is never used again


def test_the_oldest_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o.sqlite"
    with closing(new_outbox(path, max_rows=3)) as outbox:
        for name in "abcde":
            outbox.add([alert(name)], durable=False)
        assert names(outbox) == ["c", "d", "e"]
        assert outbox.state().dropped == 2
    with closing(new_outbox(path, max_bytes=25)) as outbox:
        outbox.add([alert("f")], durable=False)
        assert names(outbox) == ["e", "f"]
        assert outbox.state().dropped == 4
    with closing(Outbox(path, max_age_s=60, now_s=lambda: 1050.0)) as outbox:
        outbox.tidy()
        assert names(outbox) == ["e", "f"]
        assert outbox.state().oldest_s == 50
    with closing(Outbox(path, max_age_s=60, now_s=lambda: 1061.0)) as outbox:
        outbox.tidy()
        assert names(outbox) == []
    assert [record.getMessage() for record in caplog.records] == [
        "too many or too old alerts wait in the outbox: the oldest are dropped"
    ] * 3  # once for each of the outboxes


def test_refused_alerts_count_as_dropped(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("a"), alert("b"), alert("c")], durable=False)
        first, second, _ = outbox.page(0, None, 10)
        outbox.remove([first.number])
        outbox.remove([first.number, second.number], refused=True)  # one that is no longer there
        assert names(outbox) == ["c"]
        assert outbox.state().dropped == 1
    with closing(new_outbox(path)) as outbox:
        assert outbox.state().dropped == 1


def test_a_look_at_a_full_outbox_costs_as_little_as_at_a_short_one(tmp_path: Path) -> None:
    def steps_of_a_tick(name: str, alerts: int) -> int:
        with closing(new_outbox(tmp_path / name)) as outbox:
            outbox.add([alert("a", size=700)] * alerts, durable=False)
            steps = 0

            def count() -> None:
                nonlocal steps
                steps += 1

            outbox._db.set_progress_handler(count, 1)
            outbox.tidy()
            assert outbox.state().waiting == alerts
            return steps

    assert 0 < steps_of_a_tick("full", 10_000) <= 2 * steps_of_a_tick("short", 10)


def test_a_killed_process_leaves_a_whole_outbox(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    code = f"""
from pathlib import Path
from edgebird.mqtt.outbox import Alert, Outbox
import time
outbox = Outbox(Path({str(path)!r}))
n = 0
while True:
    outbox.add([Alert(str(n), "t", bytes(100), time.time())], durable=False)
    print(n, flush=True)
    n += 1
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert process.stdout is not None
    with process.stdout:
        lines = iter(process.stdout.readline, b"")
        seen = [int(next(lines)) for _ in range(300)]
        process.kill()
        seen += [int(line) for line in lines]
    process.wait()
    with closing(Outbox(path)) as outbox:
        assert names(outbox)[: len(seen)] == [str(number) for number in seen]


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])  # FULL and NORMAL
def test_only_what_has_to_outlive_a_power_cut_waits_for_the_disk(
    tmp_path: Path, durable: bool, synchronous: int
) -> None:
    with closing(new_outbox(tmp_path / "o.sqlite")) as outbox:
        for earlier in (not durable, durable):
            outbox.add([alert("a")], durable=earlier)
        assert outbox._one("PRAGMA synchronous") == (synchronous,)


def test_a_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"this is no database " * 500)
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("a")], durable=False)
        assert outbox.state().storage == "disk"
    assert (tmp_path / "o.damaged").read_bytes().startswith(b"this is no")
    (record,) = caplog.records
    assert "is damaged" in record.getMessage()
    with closing(new_outbox(path)) as outbox:
        assert names(outbox) == ["a"]


@pytest.mark.parametrize("sequence", [1, 2.5, "abc", b"\xff\x01", 2**63 - 1])
def test_what_is_damaged_beside_the_alerts_costs_no_alert(tmp_path: Path, sequence: object) -> None:
    path = tmp_path / "o.sqlite"
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("a"), alert("b")], durable=False)
        outbox.keep({"dropped": "3x", "former": "damaged", "source": "whole"})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE sqlite_sequence SET seq = ?", (sequence,))
        db.execute("UPDATE kept SET value = x'78' WHERE name = 'former'")
        db.execute("INSERT INTO kept VALUES ('enabled', CAST(x'cc' AS TEXT))")
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("c")], durable=False)
        assert names(outbox) == ["a", "b", "c"]
        assert outbox.kept() == {"dropped": "3x", "enabled": "\ufffd", "source": "whole"}
        assert (outbox.state().dropped, outbox.state().storage) == (0, "disk")


def test_an_outbox_of_a_later_edgebird_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with closing(new_outbox(path)) as outbox:
        assert names(outbox) == []
    assert (tmp_path / "o.damaged").is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB that a test can fill."""
    with tmpfs(tmp_path / "disk", "400k") as disk:
        yield disk


def test_on_a_full_disk_it_goes_on_in_memory_and_returns(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_DISK_S", 0.0)
    with closing(new_outbox(small_disk / "o.sqlite")) as outbox:
        outbox.add([alert("before")], durable=False)
        filler = fill(small_disk)
        expected = ["before"]
        for number in range(60):
            expected.append(f"a{number}")
            outbox.add([alert(expected[-1], size=3000)], durable=True)
        assert names(outbox) == expected
        assert outbox.state().storage == "memory"
        outbox.tidy()
        assert outbox.state().storage == "memory"  # still full
        first = outbox.page(0, None, 1)[0]
        outbox.remove([first.number])
        filler.unlink()
        outbox.tidy()
        assert outbox.state().storage == "disk"
        outbox.add([alert("after")], durable=False)
    with closing(new_outbox(small_disk / "o.sqlite")) as outbox:
        assert names(outbox) == [*expected[1:], "after"]
    first_line, second_line = (record.getMessage() for record in caplog.records)
    assert "cannot be written" in first_line
    assert "kept in memory only" in first_line
    assert "can be written again" in second_line


def test_what_a_lost_disk_still_holds_comes_back_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_DISK_S", 0.0)
    folder = tmp_path / "card"
    with closing(new_outbox(folder / "o.sqlite")) as outbox:
        outbox.add([alert("old")], durable=False)
    folder.rename(tmp_path / "pulled out")
    folder.write_text("no folder")
    with closing(new_outbox(folder / "o.sqlite")) as outbox:
        assert outbox.state().storage == "memory"
        outbox.add([alert("new")], durable=False)
        folder.unlink()
        (tmp_path / "pulled out").rename(folder)
        outbox.tidy()
        assert outbox.state().storage == "disk"
        assert names(outbox) == ["old", "new"]


def test_numbers_only_grow_also_off_the_disk_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_DISK_S", 0.0)
    path = tmp_path / "o.sqlite"
    given: list[int] = []

    def deliver(outbox: Outbox, name: str) -> str:
        outbox.add([alert(name)], durable=False)
        given.append(outbox.last_number)
        outbox.remove(given[-1:])
        return outbox.state().storage

    with closing(new_outbox(path)) as outbox:
        assert deliver(outbox, "a") == "disk"
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert deliver(outbox, "b") == "memory"
            other.rollback()
        assert outbox.tidy() == 0
        assert deliver(outbox, "c") == "disk"
    assert given == [1, 2, 3]

    path.rename(tmp_path / "away")
    path.mkdir()  # as a disk that cannot even be read at the start
    with closing(new_outbox(path)) as outbox:
        assert deliver(outbox, "d") == "memory"
        path.rmdir()
        (tmp_path / "away").rename(path)
        assert outbox.tidy() == 0
        assert deliver(outbox, "e") == "disk"
    assert given == sorted(set(given))


def test_it_tells_which_older_alerts_came_back_with_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_DISK_S", 0.0)
    path = tmp_path / "o.sqlite"
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("old"), alert("older than the next")], durable=False)
    path.rename(tmp_path / "away")
    path.mkdir()
    with closing(new_outbox(path)) as outbox:
        outbox.add([alert("new")], durable=False)
        path.rmdir()
        (tmp_path / "away").rename(path)
        assert outbox.tidy() == 2
        assert names(outbox) == ["old", "older than the next", "new"]


WEEK_S = 7 * 86400.0


@pytest.mark.parametrize("step_s", [8 * 86400.0, -8 * 86400.0])
def test_a_clock_that_is_set_makes_no_alert_older(tmp_path: Path, step_s: float) -> None:
    now_s, passed_s = 1e9, 0.0

    def outbox_now() -> Outbox:
        return Outbox(
            tmp_path / "o.sqlite",
            now_s=lambda: now_s + passed_s,
            monotonic_s=lambda: 50.0 + passed_s,
        )

    with closing(outbox_now()) as outbox:
        outbox.add([alert("before", created_s=now_s)], durable=False)
        passed_s += 20
        made_s = now_s + passed_s  # an alert that is only stored when the clock is set
        now_s += step_s
        outbox.add([alert("meanwhile", created_s=made_s)], durable=False)
        outbox.tidy()
        assert names(outbox) == ["before", "meanwhile"]
        assert outbox.state().oldest_s == 20
        (first, _) = outbox.page(0, None, 10)
        assert first.created_s == now_s
    with closing(outbox_now()) as outbox:  # also over a restart
        outbox.tidy()
        assert names(outbox) == ["before", "meanwhile"]
        outbox.add([alert("after", created_s=now_s + passed_s)], durable=False)
        passed_s += WEEK_S + 1
        outbox.tidy()
        assert names(outbox) == []


def test_alerts_of_an_earlier_run_keep_their_times_when_the_clock_is_set(tmp_path: Path) -> None:
    now_s = 1e9

    def outbox_now() -> Outbox:
        return Outbox(tmp_path / "o.sqlite", now_s=lambda: now_s, monotonic_s=lambda: 5.0)

    with closing(outbox_now()) as outbox:
        outbox.add([alert("a", created_s=now_s)], durable=False)
    now_s -= 500  # a machine without a clock of its own has started again
    with closing(outbox_now()) as outbox:
        now_s = 1e9 + 3600
        outbox.tidy()
        assert outbox.state().oldest_s == 3600


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, it is a bounded queue."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = new_outbox(None, max_rows=5, max_bytes=60)
        self.model: list[tuple[str, int]] = []
        self.dropped = 0
        self.count = 0

    @rule(sizes=st.lists(st.integers(10, 40), max_size=4))
    def add(self, sizes: list[int]) -> None:
        fresh = []
        for size in sizes:
            self.count += 1
            fresh.append(alert(str(self.count), size))
        self.outbox.add(fresh, durable=False)
        self.model += [(one.visit, len(one.payload)) for one in fresh]
        while len(self.model) > 5 or sum(size for _, size in self.model) > 60:
            del self.model[0]
            self.dropped += 1

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        self.outbox.remove([self.outbox.page(0, None, 100)[index].number])
        del self.model[index]

    @invariant()
    def agrees(self) -> None:
        state = self.outbox.state()
        assert names(self.outbox) == [name for name, _ in self.model]
        assert state.bytes == sum(size for _, size in self.model)
        assert (state.waiting, state.dropped) == (len(self.model), self.dropped)

    def teardown(self) -> None:
        self.outbox.close()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=30, deadline=None)
