"""Pictures looked at one by one, and their annotated copies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import tmpfs

from edgebird.annotate import make_folder, write_jpeg
from edgebird.camera.files import PictureSequence, list_pictures
from edgebird.errors import CameraError, OutputError, UsageError
from edgebird.pictures import PictureResult, check_save_folder, copy_names, scan_pictures
from edgebird.places import Places
from edgebird.structures import Detections, Image
from edgebird.tiles import Region


class BirdEverywhere:
    """Finds one bird in any picture."""

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        return Detections(np.array([[0, 0, 4, 4]], np.float32), np.array([0.9], np.float32))


def write(path: Path, shade: int = 0, size: tuple[int, int] = (32, 24)) -> Path:
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), shade, np.uint8))
    return path


def scan(folder: Path, save: Path) -> list[PictureResult]:
    results: list[PictureResult] = []
    look_at(PictureSequence(list_pictures(str(folder))), results, save)
    return results


def look_at(
    pictures: PictureSequence, results: list[PictureResult], save: Path | None = None
) -> None:
    alone = Places([])
    scan_pictures(
        pictures,
        BirdEverywhere(),
        0.5,
        results.append,
        places=alone,
        default_threshold=0.5,
        save=save,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def test_each_picture_has_a_copy_of_its_own(folder: Path, tmp_path: Path) -> None:
    shades = {"bird-2.jpg": 40, "bird.jpg": 80, "bird.png": 120, "bird-2.bmp": 160, "Bird.tif": 200}
    for name, shade in shades.items():
        write(folder / name, shade, (64, 48))
    save = tmp_path / "copies"
    save.mkdir()
    assert len(scan(folder, save)) == 5
    corners = {path.name: int(cv2.imread(str(path))[-1, -1, 0]) for path in save.iterdir()}
    assert sorted(corners.values()) == pytest.approx(sorted(shades.values()), abs=3)
    assert corners["bird-2.jpg"] == pytest.approx(40, abs=3)
    assert corners["bird.jpg"] == pytest.approx(80, abs=3)
    # as on a memory card
    assert len({name.lower() for name in corners}) == 5


def test_a_long_name_is_cut(folder: Path, tmp_path: Path) -> None:
    for letter in "ab":
        write(folder / f"{'ä' * 122}{letter}.jpg")
    scan(folder, tmp_path)
    copies = list(tmp_path.glob("*.jpg"))
    assert len(copies) == 2
    assert all(path.name.startswith("ä" * 90) for path in copies)


def test_names_that_are_not_utf_8_have_copies() -> None:
    path = Path(os.fsdecode(b"v\xf6gel.png"))
    assert copy_names([path]) == {path: path.with_suffix(".jpg").name}


def test_originals_are_never_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = write(folder / "bird.jpg")
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(folder)
    (other / "linked.jpg").symlink_to(picture)
    for save in (folder, folder / ".." / "pictures", tmp_path / "link"):
        with pytest.raises(UsageError, match="give another folder"):
            check_save_folder(save, [picture])
    with pytest.raises(UsageError, match="pictures themselves are in"):
        check_save_folder(folder, [other / "linked.jpg"])
    check_save_folder(other, [picture])
    check_save_folder(folder / "copies", [picture])
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError):
        check_save_folder(Path("."), [Path("bird.jpg")])


def test_a_picture_too_wide_for_a_jpeg_has_a_smaller_copy(folder: Path, tmp_path: Path) -> None:
    write(folder / "a.png", 50, (66_000, 3))
    write(folder / "b.png", 50)
    results = scan(folder, tmp_path)
    assert [result.size for result in results] == [(66_000, 3), (32, 24)]
    assert cv2.imread(str(tmp_path / "a.jpg")).shape[:2] == (2, 65_500)


def test_what_cannot_be_written_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(OutputError, match="File name too long"):
        write_jpeg(picture, tmp_path / f"{'n' * 250}.jpg")
    with pytest.raises(OutputError, match="No such file"):
        write_jpeg(picture, tmp_path / "gone" / "a.jpg")
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(OutputError, match="cannot hold"):
        write_jpeg(picture, tmp_path / "a.jpg")


def test_a_folder_whose_name_no_alert_can_tell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not UTF-8"):
        make_folder(tmp_path / "v\udcf6gel")


def test_a_disk_that_became_read_only_is_an_output_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with tmpfs(disk, "1m"):
        (disk / ".a.jpg.partial").write_bytes(b"half")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OutputError, match="Read-only file system"):
            write_jpeg(np.zeros((8, 8, 3), np.uint8), disk / "a.jpg")


def test_pictures_that_are_gone_do_not_stop_the_others(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [write(folder / f"{number}.jpg") for number in range(3)]
    pictures = PictureSequence(paths)
    paths[0].unlink()
    results: list[PictureResult] = []
    with pytest.raises(CameraError, match="1 of 3"):
        look_at(pictures, results)
    assert [result.path for result in results] == paths[1:]
