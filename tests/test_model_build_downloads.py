"""Fetching public archives, from a web server on this machine with tiny ones of the same format."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("tqdm", reason="the build stage's libraries are in the newest run only")

from model_build.downloads import DATASETS, Archive, Dataset, DownloadError, download, fetch_dataset

ROOT = Path(__file__).parents[1]


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, in the way that the test asks for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.knows_ranges = True
        self.breaks_after: list[int] = []  # bytes, of one request after the other
        self.refuses_with: list[int] = []
        self.claimed_length: int | None = None
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.server.refuses_with:
            self.send_error(self.server.refuses_with.pop(0))
            return
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.knows_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        length = self.server.claimed_length or len(content) - start
        self.send_header("Content-Length", str(length))
        self.end_headers()
        end = len(content)
        if self.server.breaks_after:
            end = start + self.server.breaks_after.pop(0)
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CONTENT = np.random.default_rng(0).bytes(100_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def test_a_download_that_breaks_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.breaks_after = [30_000, 20_000]
    waits: list[float] = []
    path = download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, wait=waits.append)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=30000-", "bytes=50000-"]
    # each attempt brought something, so none had to wait longer than the first
    assert waits == [1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_goes_on_the_next_day(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.partial").write_bytes(CONTENT[:60_000])
    download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert server.ranges == ["bytes=60000-"]


@pytest.mark.parametrize("begun", [CONTENT[:60_000], b"of another file" * 10, CONTENT, CONTENT * 2])
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_whatever_was_there_before_the_file_is_right_in_the_end(
    server: Server, tmp_path: Path, begun: bytes, knows_ranges: bool
) -> None:
    server.files["a.bin"] = CONTENT
    server.knows_ranges = knows_ranges
    (tmp_path / "a.bin.partial").write_bytes(begun)
    path = download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert path.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_dead_one_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.files["a.bin"] = CONTENT
    server.refuses_with = [503, 500]
    waits: list[float] = []
    download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, wait=waits.append)
    assert waits == [1.0, 3.0]

    server.refuses_with = [503] * 99
    with pytest.raises(DownloadError, match=r"does not arrive: 503 .*start again later"):
        download(f"{server.url}/a.bin", tmp_path / "b.bin", MD5, wait=waits.append)
    assert len(waits) == 2 + 4


def test_nobody_there_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    server.server_close()
    with pytest.raises(DownloadError, match="Connection refused") as caught:
        download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, wait=lambda _: None)
    assert "\n" not in str(caught.value)


def test_what_the_server_does_not_have_is_not_asked_for_again(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=r"404 Not Found; .*--from"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert len(server.ranges) == 1


def test_another_file_than_the_published_one_is_refused_and_removed(
    server: Server, tmp_path: Path
) -> None:
    server.files["a.bin"] = b"something else"
    with pytest.raises(DownloadError, match=f"it should be {MD5}"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"of another file", CONTENT[:50_000]])
def test_an_archive_put_there_by_hand_is_checked(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "downloads" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=f"or not all of it: .* {MD5}; remove it") as caught:
        fetch_dataset(one_file(), tmp_path, url=server.url)
    assert str(path) in str(caught.value)
    # it is not ours to remove, and nothing was unpacked
    assert list(tmp_path.rglob("*.*")) == [path]
    assert server.ranges == []
    path.write_bytes(CONTENT)
    assert (fetch_dataset(one_file(), tmp_path) / "content").read_bytes() == CONTENT


def one_file(name: str = "a.bin", md5: str = MD5) -> Dataset:
    def unpack(paths: list[Path], folder: Path) -> None:
        (folder / "content").write_bytes(paths[0].read_bytes())

    return Dataset("http://127.0.0.1:1", (Archive(name, md5),), "a", unpack, "none")


def test_too_large_a_file_for_the_disk_is_not_begun(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.claimed_length = 10**15
    with pytest.raises(DownloadError, match=r"is full .*1000000000 MB are to come"):
        fetch_dataset(one_file(), tmp_path, url=server.url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_disk_that_fills_up_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.bin.partial").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="is full: make room and start again"):
        fetch_dataset(one_file(), tmp_path, url=server.url)


def test_a_disk_that_fills_up_while_unpacking_gets_its_room_back(
    server: Server, tmp_path: Path
) -> None:
    server.files["a.bin"] = CONTENT

    def unpack(paths: list[Path], folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DownloadError, match="make room"):
        fetch_dataset(replace(one_file(), unpack=unpack), tmp_path, url=server.url)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]
    # and the next time only the unpacking is left to do
    folder = fetch_dataset(one_file(), tmp_path, url="http://127.0.0.1:1")
    assert (folder / "content").read_bytes() == CONTENT
    assert fetch_dataset(one_file(), tmp_path, url="http://127.0.0.1:1") == folder


# --- the three archives


def tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def served(server: Server, name: str, files: dict[str, bytes]) -> Dataset:
    """The data set of this name with tiny archives in place of the official ones."""
    server.files.update(files)
    archives = tuple(Archive(n, hashlib.md5(content).hexdigest()) for n, content in files.items())
    dataset = DATASETS[name]
    assert [archive.name for archive in archives] == [archive.name for archive in dataset.archives]
    return replace(dataset, archives=archives)


def test_cifar10_becomes_pictures_in_a_folder_for_each_class(
    server: Server, tmp_path: Path
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    record = bytes([1]) + picture.transpose(2, 0, 1).tobytes()
    archive = tgz(
        {
            "cifar-10-batches-bin/batches.meta.txt": b"airplane\nbird\n\n",
            "cifar-10-batches-bin/data_batch_1.bin": record * 2,
            "cifar-10-batches-bin/test_batch.bin": bytes([0]) + record[1:],
        }
    )
    dataset = served(server, "cifar10", {"cifar-10-binary.tar.gz": archive})
    folder = fetch_dataset(dataset, tmp_path, url=server.url)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert found == [
        "test/airplane/test_batch_00000.png",
        "train/bird/data_batch_1_00000.png",
        "train/bird/data_batch_1_00001.png",
    ]
    bgr = cv2.imread(str(folder / found[-1]))
    np.testing.assert_array_equal(bgr[..., ::-1], picture)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_cub_is_unpacked_as_it_is(server: Server, tmp_path: Path) -> None:
    archive = tgz({"CUB_200_2011/images.txt": b"1 a/b.jpg\n", "attributes.txt": b""})
    dataset = served(server, "cub200", {"CUB_200_2011.tgz": archive})
    folder = fetch_dataset(dataset, tmp_path, url=server.url)
    assert folder.name == "CUB_200_2011"
    assert (folder / "images.txt").read_bytes() == b"1 a/b.jpg\n"


def test_an_archive_cannot_write_outside_of_its_folder(server: Server, tmp_path: Path) -> None:
    archive = tgz({"CUB_200_2011/../../../escaped.txt": b""})
    dataset = served(server, "cub200", {"CUB_200_2011.tgz": archive})
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch_dataset(dataset, tmp_path / "data", url=server.url)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_mnist_stays_in_its_four_files(server: Server, tmp_path: Path) -> None:
    files = {a.name: gzip.compress(a.name.encode()) for a in DATASETS["mnist"].archives}
    dataset = served(server, "mnist", files)
    folder = fetch_dataset(dataset, tmp_path, url=server.url)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_the_command_says_in_one_line_what_is_wrong(server: Server, tmp_path: Path) -> None:
    server.files["CUB_200_2011.tgz"] = b"not the official one"
    command = [sys.executable, "-m", "model_build", "fetch", "cub200", "--from", server.url]
    result = subprocess.run(
        [*command, "--data", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "is not the published file" in line
    assert "Traceback" not in result.stderr
