"""Visits on a real disk, and on one that fails."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually, fill, tmpfs
from drill_store import CAMERA, changes, may_mount, new_image, noise, run_cost
from mounts import mounted

from edgebird.annotate import write_jpeg
from edgebird.config import Config, overruled
from edgebird.detect import _store_sinks
from edgebird.disk import DiskUse, folders_mb, free_mb, sync, written_bytes
from edgebird.errors import EdgebirdError
from edgebird.history import store as history
from edgebird.history.store import StoredVisit, VisitStore, find_stores, keep_visit
from edgebird.sinks.store import StoreSink
from edgebird.snapshots import Snapshots
from edgebird.structures import Image, Visit, VisitChanged

ROOT = Path(__file__).parents[1]
GREY = np.full((24, 32, 3), 128, np.uint8)


def ended(number: int) -> Visit:
    return changes(number, None)[1].visit


def started(number: int) -> Visit:
    return changes(number, None)[0].visit


def read_visits(path: Path) -> list[StoredVisit]:
    return list(history.read_visits(path))


def states(path: Path) -> list[str]:
    return [visit.state for visit in read_visits(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits" / f"{CAMERA}.sqlite"


# --- the store


def test_a_visit_is_stored_at_its_start_and_completed_at_its_end(path: Path) -> None:
    with closing(VisitStore(path)) as store:
        store.put([started(0)], {})
        (visit,) = read_visits(path)  # by another reader, while it is open
        assert (visit.state, visit.ended_utc_s, visit.peak_count) == ("open", None, 1)
        store.put([ended(0), started(1)], {})
    first, second = read_visits(path)
    assert (first.id, first.camera, first.state) == (ended(0).id, CAMERA, "over")
    assert (first.started_utc_s, first.ended_utc_s) == (1.7e9 + 0.25, 1.7e9 + 5.25)
    assert (first.duration_s, first.peak_count, first.score) == (5.0, 2, 0.95)
    assert (first.box, first.frame_size) == ((12.0, 18.0, 110.0, 140.0), (320, 240))
    assert (first.snapshot, first.kept, second.state) == (None, False, "open")
    assert find_stores(path.parents[1]) == [path]


def test_a_visit_that_was_cut_off_is_closed_at_the_next_start(path: Path) -> None:
    with closing(VisitStore(path)) as store:
        store.put([ended(0), started(1)], {})
    with closing(VisitStore(path)) as store:
        store.begin(None)
    assert states(path) == ["over", "cut"]


def test_bytes_written_are_remembered_by_the_hour_for_a_month(path: Path) -> None:
    with closing(VisitStore(path)) as store:
        store.put([], {1000: 5, 2000: 6})
        store.put([], {2000: 7, 2001: 1})
    with closing(VisitStore(path)) as store:
        assert store.hours() == {2000: 7, 2001: 1}


def test_hours_of_a_clock_that_was_ahead_are_forgotten(path: Path) -> None:
    now_s = 2000 * 3600.0
    total = 0
    disk = DiskUse(written=lambda: total, now_s=lambda: now_s)
    with closing(VisitStore(path)) as store:
        total += 1_000_000
        store.put([], disk.hours())
        now_s += 40 * 86400
        total += 500_000
        disk.hours()  # of which nothing is stored
        now_s -= 40 * 86400
        total += 250_000
        assert disk.hours().keys() == {2000}
        assert 0.25 <= disk.written_mb_per_day < 2
    # it was stored by an earlier run
    with closing(VisitStore(path)) as store:
        store.put([], {1900: 3, 2000: 5})
        store.put([], {2000 + 24 * 8: 7})
        store.put([], {2000: 6})
        assert store.hours() == {1900: 3, 2000: 6}


def test_a_clock_that_starts_a_little_in_the_past_forgets_nothing() -> None:
    disk = DiskUse(written=lambda: 0, now_s=lambda: 2000 * 3600.0)
    disk.restore({2003: 7, 2024: 1, 2025: 9})
    assert disk.hours() == {2000: 0, 2003: 7, 2024: 1}


def test_the_oldest_visits_make_room_and_kept_ones_stay(path: Path) -> None:
    with closing(VisitStore(path, max_bytes=100_000)) as store:
        store.put([ended(0)], {})
        keep_visit(path, ended(0).id, True)
        for block in range(20):
            store.put([ended(1 + block * 100 + n) for n in range(100)], {})
    visits = read_visits(path)
    assert visits[0].kept
    assert visits[0].id == ended(0).id
    assert [visit.id for visit in visits[1:]] == [ended(n).id for n in range(1, 2001)][
        1 - len(visits) :
    ]
    assert 200 < len(visits) < 1500
    assert path.stat().st_size < 150_000


def test_visits_of_a_clock_that_was_ahead_make_room_first(path: Path) -> None:
    ahead = [replace(ended(n), id=f"{CAMERA}-2999{n:04}", started_utc_s=3e10) for n in range(300)]
    with closing(VisitStore(path, max_bytes=100_000)) as store:
        store.put(ahead, {})
        for number in range(1500):
            store.put([ended(number)], {})
        left = [visit.id for visit in store.visits()]
    assert 200 < len(left) < 1500
    assert left == [ended(n).id for n in range(1500)][-len(left) :]


def test_pictures_and_visits_agree_after_a_start(path: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    snapshots = Snapshots(pictures)
    whole = snapshots.save(changes(0, GREY)[1]).visit  # its visit was not yet stored
    known = snapshots.save(changes(1, GREY)[1]).visit
    gone = snapshots.save(changes(2, GREY)[1]).visit
    broken = Path(str(snapshots.save(changes(3, GREY)[1]).visit.snapshot))
    broken.write_bytes(broken.read_bytes()[:-100])
    empty = Path(str(snapshots.save(changes(4, GREY)[1]).visit.snapshot))
    empty.write_bytes(b"")
    kept = snapshots.save(changes(5, GREY)[1]).visit
    half = pictures / f".{ended(6).id}.jpg.partial"
    half.write_bytes(b"\xff\xd8")
    others = [pictures / "other-20260314T080000.jpg", pictures / "holiday.jpg"]
    for other in others:
        other.write_bytes(b"not ours")
    with closing(VisitStore(path)) as store:
        store.put([known, gone, replace(kept, snapshot=None)], {})
        Path(str(gone.snapshot)).unlink()
        (pictures / "kept").mkdir()
        Path(str(kept.snapshot)).rename(pictures / "kept" / f"{kept.id}.jpg")
        Snapshots(pictures)
        store.begin(pictures)
        found = {visit.id: visit for visit in store.visits()}
    assert [found[visit.id].snapshot is not None for visit in (whole, known, gone, kept)] == [
        True,
        True,
        False,
        True,
    ]
    assert (found[whole.id].state, found[whole.id].score) == ("cut", None)
    assert found[whole.id].started_utc_s == whole.started_utc_s
    assert [visit.kept for visit in found.values()] == [False, False, False, True]
    assert not any(file.exists() for file in (broken, empty, half))
    assert all(other.exists() for other in others)


def test_a_kept_picture_survives_the_limit_and_can_be_given_back(
    path: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    snapshots = Snapshots(pictures, keep_mb=0.004)
    with closing(VisitStore(path)) as store:
        store.put([snapshots.save(changes(0, GREY)[1]).visit, started(99)], {})
        assert keep_visit(path, ended(0).id, True)
        for number in range(1, 20):
            store.put([snapshots.save(changes(number, GREY)[1]).visit], {})
    first, second, *_, last, going_on = read_visits(path)
    assert first.snapshot == pictures.resolve() / "kept" / f"{first.id}.jpg"
    assert (first.kept, second.snapshot, last.snapshot is None) == (True, None, False)
    assert keep_visit(path, first.id, False)
    assert read_visits(path)[0].snapshot == pictures.resolve() / f"{first.id}.jpg"
    assert not keep_visit(path, "nobody", True)
    with pytest.raises(EdgebirdError, match="still goes on"):
        keep_visit(path, going_on.id, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_a_folder_for_kept_pictures_belongs_to_whom_the_others_belong(
    path: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    snapshots = Snapshots(pictures)
    os.chown(pictures, 65534, 65534)
    with closing(VisitStore(path)) as store:
        store.put([snapshots.save(changes(0, GREY)[1]).visit], {})
        assert keep_visit(path, ended(0).id, True)
    folder = (pictures / "kept").stat()
    assert (folder.st_uid, folder.st_gid) == (65534, 65534)


def test_a_broken_picture_that_cannot_be_deleted_does_not_stop_the_store(
    path: Path, tmp_path: Path
) -> None:
    stays = tmp_path / "pictures" / "kept" / f"{ended(0).id}.jpg"
    stays.mkdir(parents=True)  # neither a picture nor a file that could be deleted
    disk = DiskUse()
    with closing(StoreSink(path, disk=disk, pictures=tmp_path / "pictures")) as sink:
        sink.emit(VisitChanged("end", ended(1)))
        eventually(lambda: sink.waiting == 0)
    assert [visit.id for visit in read_visits(path)] == [ended(1).id]
    assert disk.problem is None
    assert stays.exists()


def test_a_damaged_file_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database " * 500)
    with pytest.raises(EdgebirdError, match="cannot read the visits"):
        read_visits(path)
    with closing(VisitStore(path)) as store:
        store.put([ended(0)], {})
    assert path.with_suffix(".damaged").read_bytes().startswith(b"this is no")
    assert len(caplog.records) == 1
    assert states(path) == ["over"]


@pytest.mark.parametrize(("what", "letter"), [(b"NULL", b"\xcc"), (b"peak_count", b"q")])
def test_a_file_with_one_wrong_letter_in_its_schema_is_set_aside(
    path: Path, what: bytes, letter: bytes
) -> None:
    with closing(VisitStore(path)) as store:
        store.put([ended(0)], {})
    path.write_bytes(path.read_bytes().replace(what, letter + what[1:]))
    with pytest.raises(EdgebirdError, match="cannot read the visits"):
        read_visits(path)
    disk = DiskUse()
    with closing(StoreSink(path, disk=disk)) as sink:
        sink.emit(VisitChanged("end", ended(1)))
        eventually(lambda: sink.waiting == 0)
    assert disk.problem is None
    assert [visit.id for visit in read_visits(path)] == [ended(1).id]
    assert path.with_suffix(".damaged").is_file()


def test_damaged_rows_do_not_keep_the_store_from_beginning(path: Path, tmp_path: Path) -> None:
    with closing(VisitStore(path)) as store:
        store.put([ended(0), ended(1)], {1000: 5, 1001: 6})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE visits SET picture = x'2f' WHERE id = ?", (ended(0).id,))
        db.execute("UPDATE visits SET picture = CAST(x'2fcc' AS TEXT) WHERE picture IS NULL")
        db.execute("UPDATE written SET bytes = 'much' WHERE hour = 1000")
    with closing(VisitStore(path)) as store:
        store.begin(tmp_path)
        assert store.hours() == {1001: 6}


def test_visits_of_a_later_edgebird_are_not_misread(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(EdgebirdError, match="version 99"):
        read_visits(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("running", [True, False])
def test_another_user_may_read_but_not_change(running: bool) -> None:
    code = """
import os, sys, urllib.parse
from pathlib import Path
from edgebird.errors import EdgebirdError
from edgebird.history.store import keep_visit, read_visits
path = Path(sys.argv[1])
os.setgid(65534)
os.setuid(65534)
print(*(visit.state for visit in read_visits(path)))
try:
    keep_visit(path, sys.argv[2], True)
except EdgebirdError as error:
    print(error)
"""
    folder = Path(f"/var/tmp/edgebird-test-{os.getpid()}")  # pytest's own is closed to others
    path = folder / f"{CAMERA}.sqlite"
    try:
        store = VisitStore(path)
        store.put([ended(0)], {})
        if not running:
            store.close()
        result = subprocess.run(
            [sys.executable, "-c", code, str(path), ended(0).id],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        store.close()
    finally:
        shutil.rmtree(folder)
    assert result.returncode == 0, result.stderr
    state, complaint = result.stdout.splitlines()
    assert state == "over"
    assert "belongs to another user: try with sudo" in complaint


# --- the disk


def test_bytes_are_counted_by_the_hour_over_restarts() -> None:
    total, now_s = 1000, 100 * 3600.0
    disk = DiskUse(written=lambda: total, now_s=lambda: now_s)
    disk.restore({100: 3_000_000, 77: 2_000_000, 76: 7})
    assert disk.hours() == {100: 3_000_000, 77: 2_000_000}
    total += 500_000
    disk.count(1)  # the system tells, so this does not count
    now_s += 3600
    total += 250_000
    assert disk.hours() == {100: 3_500_000, 101: 250_000}
    assert disk.written_mb_per_day == 3.75
    total -= 400_000  # deleted before it was written
    assert disk.hours() == {100: 3_500_000, 101: 0}


def test_where_the_system_does_not_count_the_writer_does() -> None:
    disk = DiskUse(written=lambda: None, now_s=lambda: 0.0)
    disk.count(2_000_000)
    disk.count(1_000_000)
    assert disk.written_mb_per_day == 3.0


def test_what_the_system_counts_is_what_was_written(tmp_path: Path) -> None:
    before = written_bytes()
    if before is None:
        pytest.skip("this system does not count what is written")
    file = tmp_path / "file"
    file.write_bytes(bytes(1_000_000))
    sync(file)
    grown = (written_bytes() or 0) - before
    if grown == 0:
        pytest.skip("temporary files are not on a disk here")
    assert 1_000_000 <= grown < 1_200_000
    assert written_bytes(tmp_path / "none") is None
    (tmp_path / "io").write_text("rchar: 1\n")
    assert written_bytes(tmp_path / "io") is None


def test_folders_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2_000_000))
    assert folders_mb([tmp_path, tmp_path / "gone"]) == pytest.approx(2.0, abs=0.1)
    assert free_mb(tmp_path) > 0


# --- snapshots within their limits


def test_no_picture_is_written_into_the_reserve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskUse()
    snapshots = Snapshots(tmp_path, reserve_mb=free_mb(tmp_path) * 2, disk=disk)
    for number in range(3):
        for change in changes(number, GREY):
            assert snapshots.save(change).visit.snapshot is None
    assert list(tmp_path.iterdir()) == []
    (record,) = caplog.records
    assert "reserve_mb" in record.getMessage()
    assert "alerts go out without a picture" in str(disk.problem)


@dataclass
class Disk:
    """So much room for a folder and for what else is on the same disk."""

    folder: Path
    room: int
    others: int = 0

    def free_mb(self, _: Path) -> float:
        return (self.room - self.others - self.used) / 1e6

    @property
    def used(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())


@pytest.fixture
def small_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk of 200 kB, with old pictures and one that somebody else has put there."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for day in range(1, 10):
        old = folder / f"{CAMERA}-2023010{day}T120000.jpg"
        old.write_bytes(b"x" * 10_000)
        os.utime(old, (day * 86400, day * 86400))
    disk = Disk(folder, 200_000)
    monkeypatch.setattr("edgebird.snapshots.free_mb", disk.free_mb)
    return disk


def test_the_oldest_pictures_go_before_the_reserve_is_touched(
    small_card: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskUse()
    snapshots = Snapshots(small_card.folder, keep_mb=0.15, reserve_mb=0.1, disk=disk)
    (small_card.folder / "kept").mkdir()
    least = 1.0
    for number in range(80):
        for change in changes(number, GREY):
            picture = snapshots.save(change).visit.snapshot
            assert picture is not None
            assert Path(picture).is_file()
        least = min(least, small_card.free_mb(small_card.folder))
    assert least > 0.1 - 0.002  # but for the picture that showed that there is too little
    assert small_card.used > 80_000  # no more went than had to
    assert (disk.problem, caplog.records) == (None, [])


def test_a_disk_that_others_fill_does_not_cost_all_pictures(small_card: Disk) -> None:
    snapshots = Snapshots(small_card.folder, keep_mb=0.4, reserve_mb=0.05)
    small_card.others = 110_000  # 50 kB lack, and a little more
    before = small_card.used
    assert snapshots.save(changes(0, GREY)[0]).visit.snapshot is not None
    assert before - small_card.used < 25_000  # not all at once
    small_card.others = 200_000  # more than all pictures take: it would be in vain
    left = len(list(small_card.folder.iterdir()))
    for number in range(1, 9):
        for change in changes(number, GREY):
            assert snapshots.save(change).visit.snapshot is not None
    assert len(list(small_card.folder.iterdir())) == left


def test_pictures_pause_when_the_writes_of_a_day_are_spent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written, now_s = 0, 1e9
    disk = DiskUse(written=lambda: written, now_s=lambda: now_s)
    snapshots = Snapshots(tmp_path, write_mb_per_day=10, disk=disk)
    start, end = changes(0, GREY)
    picture = snapshots.save(start).visit.snapshot
    assert picture is not None
    written = 10_100_000
    assert snapshots.save(end).visit.snapshot == picture  # that of the start is there
    assert snapshots.save(changes(1, GREY)[0]).visit.snapshot is None
    now_s += 23 * 3600
    assert snapshots.save(changes(2, GREY)[0]).visit.snapshot is None
    now_s += 3600
    assert snapshots.save(changes(3, GREY)[0]).visit.snapshot is not None
    first, second = (record.getMessage() for record in caplog.records)
    assert "write_mb_per_day" in first
    assert "can be written" in second
    assert disk.problem is None


def test_the_folder_is_read_seldom_and_never_over_the_limit(tmp_path: Path) -> None:
    size = 0
    snapshots = Snapshots(tmp_path, keep_mb=0.2)
    for number in range(400):
        picture = Path(str(snapshots.save(changes(number, GREY)[1]).visit.snapshot))
        assert picture.is_file()
        if number % 20 == 0:
            size = max(size, sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert 150_000 < size <= 200_000


def test_pictures_of_a_clock_that_was_ahead_make_room_first(tmp_path: Path) -> None:
    ahead_s = time.time() + 10 * 86400
    for number, written_s in enumerate([1.7e9] * 5 + [ahead_s] * 15):
        picture = tmp_path / f"{CAMERA}-20240101T0000{number:02}.jpg"
        picture.write_bytes(b"x" * 10_000)
        os.utime(picture, (written_s + number, written_s + number))
    snapshots = Snapshots(tmp_path, keep_mb=0.18)
    new = [Path(str(snapshots.save(changes(n, GREY)[1]).visit.snapshot)) for n in range(60)]
    assert all(picture.is_file() for picture in new)
    left = sorted(file.name for file in tmp_path.glob(f"{CAMERA}-20240101*"))
    assert left[:5] == [f"{CAMERA}-20240101T0000{number:02}.jpg" for number in range(5)]
    assert 5 < len(left) < 18


def test_a_clock_that_was_set_back_a_little_keeps_no_picture_beyond_the_limit(
    tmp_path: Path,
) -> None:
    snapshots = Snapshots(tmp_path, keep_mb=0.0001)
    before = tmp_path / f"{CAMERA}-20240101T000000.jpg"
    before.write_bytes(b"x" * 10_000)
    an_hour_on_s = time.time() + 3600
    os.utime(before, (an_hour_on_s, an_hour_on_s))
    picture = Path(str(snapshots.save(changes(0, GREY)[1]).visit.snapshot))
    assert list(tmp_path.iterdir()) == [picture]


def test_the_picture_that_an_alert_names_stays_though_it_is_over_the_limit(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, keep_mb=0.0001)
    for number in range(3):
        picture = Path(str(snapshots.save(changes(number, GREY)[1]).visit.snapshot))
        assert list(tmp_path.iterdir()) == [picture]


def test_a_card_that_becomes_read_only_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tmpfs(tmp_path / "card", "400k") as card:
        snapshots = Snapshots(card / "pictures")
        picture = snapshots.save(changes(0, GREY)[0]).visit.snapshot
        subprocess.run(["mount", "-o", "remount,ro", str(card)], check=True)
        assert snapshots.save(changes(0, GREY)[1]).visit.snapshot == picture
        again = Snapshots(card / "pictures", disk=(disk := DiskUse()))
        assert again.save(changes(1, GREY)[0]).visit.snapshot is None
        assert "alerts go out without a picture" in str(disk.problem)
        subprocess.run(["mount", "-o", "remount,rw", str(card)], check=True)
        assert again.save(changes(2, GREY)[0]).visit.snapshot is not None
        assert disk.problem is None


def test_a_disk_that_hangs_costs_pictures_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = threading.Event()

    def write(image: Image, path: Path) -> int:
        goes_on.wait(60)
        return write_jpeg(image, path)

    monkeypatch.setattr("edgebird.snapshots.write_jpeg", write)
    monkeypatch.setattr("edgebird.snapshots._HANGS_S", 0.1)
    disk = DiskUse()
    snapshots = Snapshots(tmp_path, disk=disk)
    began_s = time.monotonic()
    for number in range(3):
        for change in changes(number, GREY):
            assert snapshots.save(change).visit.snapshot is None
    assert time.monotonic() - began_s < 20
    assert "hangs; alerts go out without a picture" in str(disk.problem)
    (writer,) = (thread for thread in threading.enumerate() if thread.name == "pictures")
    assert writer.daemon  # which lets the program end
    goes_on.set()
    writer.join()
    assert disk.problem is None
    monkeypatch.setattr("edgebird.snapshots._HANGS_S", 60)
    start, end = changes(3, GREY)
    written = snapshots.save(start).visit.snapshot
    assert written is not None
    first, second = (record.getMessage() for record in caplog.records)
    assert "hangs" in first
    assert "can be written" in second
    monkeypatch.setattr("edgebird.snapshots._HANGS_S", 0.1)
    goes_on.clear()
    assert snapshots.save(end).visit.snapshot == written
    goes_on.set()


# --- the sink


@pytest.fixture(params=["ext4", "ext4 of small blocks", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB (tmpfs) or 2 MB that a test can fill."""
    place = tmp_path / "disk"
    if request.param != "tmpfs":
        if not may_mount():
            pytest.skip("this machine does not let us mount an image")
        new_image(tmp_path / "image", 2, 4096 if request.param == "ext4" else 1024)
        with mounted(tmp_path / "image", place):
            yield place
        return
    with tmpfs(place, "400k"):
        yield place


def test_visits_wait_while_the_disk_is_full(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskUse()
    snapshots = Snapshots(small_disk / "pictures", disk=disk)
    path = small_disk / f"{CAMERA}.sqlite"
    pictures = small_disk / "pictures"
    with closing(StoreSink(path, disk=disk, pictures=pictures, retry_s=0.05)) as sink:
        for change in changes(0, GREY):
            sink.emit(snapshots.save(change))
        eventually(lambda: sink.waiting == 0)
        filler = fill(small_disk)
        image = noise()
        for number in range(1, 40):
            for change in changes(number, image):
                sink.emit(snapshots.save(change))
            time.sleep(0.002)
        eventually(lambda: sink.waiting > 20)
        # not only waiting for their turn
        eventually(lambda: "visits cannot be stored" in caplog.text)
        assert disk.problem is not None
        filler.unlink()
        eventually(lambda: sink.waiting == 0)
        for change in changes(40, GREY):
            sink.emit(snapshots.save(change))
    assert [visit.id for visit in read_visits(path)] == [ended(n).id for n in range(41)]
    assert set(states(path)) == {"over"}
    assert read_visits(path)[-1].snapshot is not None
    assert disk.problem is None
    lines = [record.getMessage() for record in caplog.records]
    assert sum("visits cannot be stored" in line for line in lines) == 1
    assert sum("without a picture" in line for line in lines) == 1
    assert sum("again" in line for line in lines) == 2
    assert len(lines) == 4


def test_a_picture_is_brought_to_the_disk_itself_once_when_its_visit_ends(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("edgebird.sinks.store.sync", synced.append)
    snapshots = Snapshots(tmp_path / "pictures")
    start, end = (snapshots.save(change) for change in changes(0, GREY))
    with closing(StoreSink(path, disk=DiskUse(), pictures=tmp_path / "pictures")) as sink:
        sink.emit(start)
        eventually(lambda: sink.waiting == 0)
        assert synced == []
        sink.emit(end)
        eventually(lambda: sink.waiting == 0)
    assert synced == [Path(str(end.visit.snapshot))]


def test_a_disk_that_cannot_be_written_at_the_start_is_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = path.parent
    folder.write_text("no folder")
    disk = DiskUse()
    with closing(StoreSink(path, disk=disk, retry_s=0.02)) as sink:
        sink.emit(VisitChanged("start", started(0)))
        eventually(lambda: disk.problem)
        sink.emit(VisitChanged("end", ended(0)))
        assert sink.waiting == 1
        folder.unlink()
        eventually(lambda: sink.waiting == 0)
        eventually(lambda: disk.problem is None)
    assert states(path) == ["over"]
    assert len(caplog.records) == 2


def test_what_could_not_be_stored_is_said_at_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.write_text("no folder")
    with closing(StoreSink(path, disk=DiskUse())) as sink:
        sink.emit(VisitChanged("end", ended(0)))
    assert "could not be stored" in caplog.records[-1].getMessage()


def test_it_counts_on_from_what_earlier_runs_have_written(path: Path) -> None:
    total = [0]
    for run in (1, 2):
        disk = DiskUse(written=lambda: total[0], now_s=lambda: 36000.0)
        with closing(StoreSink(path, disk=disk)) as sink:
            sink.emit(VisitChanged("end", ended(run)))
            eventually(lambda: sink.waiting == 0)
            total[0] += 1_000_000
        assert disk.written_mb_per_day == run
    eventually(lambda: disk.used_mb)


def test_two_of_one_camera_do_not_both_store_its_visits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = overruled(Config(), mqtt={"state": str(tmp_path)})
    with ExitStack() as one, ExitStack() as other:
        assert len(_store_sinks(config, "feeder", None, DiskUse(), one)) == 1
        assert _store_sinks(config, "feeder", None, DiskUse(), other) == []
        assert len(_store_sinks(config, "nestbox", None, DiskUse(), other)) == 1
    (record,) = caplog.records
    assert "already stores the visits of camera feeder" in record.getMessage()
    assert find_stores(tmp_path) == [
        tmp_path / "visits" / f"{c}.sqlite" for c in ("feeder", "nestbox")
    ]


# --- the drill; the long one is a command


def test_nothing_is_lost_or_left_behind_by_kill_9_and_power_cuts() -> None:
    cuts = ["--power-cuts", "2"] if may_mount() else []
    result = subprocess.run(
        [sys.executable, "tests/drill_store.py", "--kills", "12", *cuts],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_loop_hardly_waits_for_the_store(tmp_path: Path) -> None:
    # How long is measured by the command; here it must only not be the time of a disk.
    assert run_cost(tmp_path, visits=20).median_ms < 2
