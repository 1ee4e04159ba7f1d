"""The official archives of CIFAR-10, CUB-200-2011 and MNIST, downloaded and unpacked.

A download that broke off goes on where it was, on the next attempt or the next day. Only what has
the published checksum is unpacked.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from tqdm import tqdm

from edgebird.errors import EdgebirdError

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60.0
# Waits before the second and further attempts; they count anew whenever something arrived.
_WAITS_S = (1.0, 3.0, 10.0, 30.0)
# What a server may say today and not tomorrow.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(EdgebirdError):
    """An archive cannot be had, or is not what was published."""


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Args:
        name: of the file, on the server and here.
        md5: as published.
    """

    name: str
    md5: str


@dataclass(frozen=True)
class Dataset:
    """What ``fetch`` knows of a data set.

    Args:
        url: the folder on the server that its archives are in.
        archives: its files.
        folder: what it becomes in the data folder.
        unpack: makes that folder, which exists and is empty, from the archives.
        terms: of use.
    """

    url: str
    archives: tuple[Archive, ...]
    folder: str
    unpack: Callable[[list[Path], Path], None]
    terms: str


def fetch_dataset(
    dataset: Dataset,
    data: Path,
    *,
    url: str | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Download, check and unpack a data set; what is there already is not made again.

    Args:
        dataset: which one.
        data: folder to write to.
        url: another folder on a server that has the same files.
        wait: called with seconds before another attempt.

    Returns:
        The data set's folder.

    Raises:
        DownloadError: an archive cannot be had, is not what was published, or the disk is full.
    """
    folder = data / dataset.folder
    if folder.exists():
        return folder
    downloads, partial = data / "downloads", data / f"{dataset.folder}.partial"
    base = (url or dataset.url).rstrip("/")
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        paths = [
            download(f"{base}/{archive.name}", downloads / archive.name, archive.md5, wait=wait)
            for archive in dataset.archives
        ]
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        dataset.unpack(paths, partial)
        partial.rename(folder)
    except OSError as error:
        # a full disk needs the room
        shutil.rmtree(partial, ignore_errors=True)
        raise _disk_error(error, data) from error
    except tarfile.TarError as error:
        raise DownloadError(f"an archive in {downloads} cannot be unpacked: {error}") from error
    for path in paths:
        path.unlink()
    return folder


def download(url: str, path: Path, md5: str, *, wait: Callable[[float], None] = time.sleep) -> Path:
    """Download a file, or what is missing of it, and check it.

    Args:
        url: of the file.
        path: where to; until it is complete and right it is called ``.partial``. What is there
            already is only checked.
        md5: its published checksum.
        wait: called with seconds before another attempt.

    Returns:
        ``path``.

    Raises:
        DownloadError: the server does not have it, keeps breaking off, or has something else, or
            something else is there already.
        OSError: it cannot be written.
    """
    if path.exists():
        # perhaps put there by hand
        if (found := _md5(path)) != md5:
            raise DownloadError(
                f"{path} is not the published file, or not all of it: its md5 is {found}, it "
                f"should be {md5}; remove it and start again, then it is downloaded"
            )
        return path
    partial = path.with_name(f"{path.name}.partial")
    begun = partial.exists()
    waits = list(_WAITS_S)
    while True:
        before = _size(partial)
        try:
            _transfer(url, partial)
            break
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING:
                raise DownloadError(
                    f"{url}: the server says {error.code} {error.reason}; give another one that "
                    "has the same file with --from"
                ) from error
            reason: object = f"{error.code} {error.reason}"
        except ValueError as error:  # a URL that is none
            raise DownloadError(f"{url} is not a web address: {error}") from error
        except (urllib.error.URLError, http.client.HTTPException, _ConnectionLostError) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
        except (TimeoutError, ConnectionError, ssl.SSLError) as error:
            reason = error
        if _size(partial) > before:
            waits = list(_WAITS_S)
        if not waits:
            raise DownloadError(
                f"{url} does not arrive: {reason}; start again later, it goes on from "
                f"{_size(partial) / 1e6:.0f} MB"
            )
        wait(waits.pop(0))
    found = _md5(partial)
    if found != md5:
        partial.unlink()
        if begun:
            # What was there from before may have been of another file.
            return download(url, path, md5, wait=wait)
        raise DownloadError(
            f"{url} is not the published file: its md5 is {found}, it should be {md5}"
        )
    return partial.rename(path)


class _ConnectionLostError(Exception):
    """The server ended the transfer before its end."""


def _transfer(url: str, partial: Path) -> None:
    """Fetch what is missing after the bytes that ``partial`` has."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "edgebird"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the checksum tells whether it is right
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT and response.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        if not goes_on:
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if total is not None and total - have > (free := shutil.disk_usage(partial.parent).free):
            raise OSError(
                errno.ENOSPC, f"{(total - have) / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB free"
            )
        with (
            partial.open("ab" if goes_on else "wb") as file,
            tqdm(
                desc=url.rpartition("/")[2],
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
            ) as progress,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                progress.update(len(chunk))
        if total is not None and have < total:
            raise _ConnectionLostError(f"the connection broke after {have / 1e6:.1f} MB")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _disk_error(error: OSError, data: Path) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        detail = f" ({error.strerror})" if error.strerror != "No space left on device" else ""
        return DownloadError(f"the disk of {data} is full{detail}: make room and start again")
    return DownloadError(f"{error.filename or data} cannot be written: {error.strerror}")


# --- unpacking


def _unpack_cub(paths: list[Path], folder: Path) -> None:
    """The files of its folder, without that folder around them."""
    # not extractall(): bookworm's Python 3.11.2 has no filter for what should not be unpacked
    with tarfile.open(paths[0]) as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or parts[:1] != ("CUB_200_2011",):
                continue
            if ".." in parts:
                raise tarfile.TarError(f"{member.name} leads out of it")
            path = folder.joinpath(*parts[1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            with source, path.open("wb") as target:
                shutil.copyfileobj(source, target)


_CIFAR_SIDE_PX = 32
_CIFAR_RECORD_BYTES = 1 + 3 * _CIFAR_SIDE_PX**2


def _unpack_cifar10(paths: list[Path], folder: Path) -> None:
    """``train/<class>/`` and ``test/<class>/`` with a PNG for each picture.

    The binary version: a byte for the class, then 1,024 bytes each of red, green and blue. (The
    Python version is pickled, and whatever is unpickled may run code.)
    """
    with tarfile.open(paths[0]) as archive:
        files = {Path(m.name).name: archive.extractfile(m) for m in archive if m.isfile()}
        classes = files["batches.meta.txt"].read().decode().split()
        for name in sorted(name for name in files if name.endswith(".bin")):
            part = "test" if name.startswith("test") else "train"
            for kind in classes:
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
            records = np.frombuffer(files[name].read(), np.uint8).reshape(-1, _CIFAR_RECORD_BYTES)
            for number, record in enumerate(tqdm(records, name, leave=False)):
                planes = record[1:].reshape(3, _CIFAR_SIDE_PX, _CIFAR_SIDE_PX)
                bgr = np.ascontiguousarray(planes[::-1].transpose(1, 2, 0))
                path = folder / part / classes[record[0]] / f"{Path(name).stem}_{number:05d}.png"
                path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def _unpack_mnist(paths: list[Path], folder: Path) -> None:
    """The four IDX files as they are, compressed: that is how they are read."""
    for path in paths:
        shutil.copy(path, folder / path.name)


DATASETS = {
    "cifar10": Dataset(
        url="https://www.cs.toronto.edu/~kriz",
        archives=(Archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
        folder="cifar10",
        unpack=_unpack_cifar10,
        terms="none stated; collected from the web for research",
    ),
    "cub200": Dataset(
        url="https://data.caltech.edu/records/65de6-vp158/files",
        archives=(Archive("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),),
        folder="CUB_200_2011",
        unpack=_unpack_cub,
        terms="research, non-commercial",
    ),
    "mnist": Dataset(
        url="https://ossci-datasets.s3.amazonaws.com/mnist",
        archives=(
            Archive("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            Archive("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            Archive("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            Archive("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        folder="mnist",
        unpack=_unpack_mnist,
        terms="CC BY-SA 3.0",
    ),
}
