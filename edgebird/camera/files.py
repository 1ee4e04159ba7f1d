"""Pictures and videos from disk."""

from __future__ import annotations

import glob
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from edgebird.camera.container import is_cut_short
from edgebird.camera.opencv import open_quietly, silence_opencv
from edgebird.errors import CameraError
from edgebird.native_messages import collected
from edgebird.structures import Frame, Image

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".h264", ".h265"}
    | {".mjpeg", ".mjpg", ".gif", ".flv", ".3gp", ".mts", ".m2ts", ".wmv", ".ogv"}
)

_JPEG_START = b"\xff\xd8"
# Any marker but those that have no length and may stand inside a scan: stuffing, restart, fill.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_END = 0xD9
_PNG_START = b"\x89PNG\r\n\x1a\n"

# A step this long is either a recording that was continued or a wrong time stamp.
_LONG_STEP_S = 60.0

# what libjpeg, libpng and OpenCV 4 begin their lines with
_DECODER_LINE = re.compile(rb"Corrupt JPEG|Premature|libpng|imdecode_|Unsupported|Invalid|\n")


def list_pictures(source: str) -> list[Path]:
    """The picture files that a name, a folder or a glob stands for, in natural name order.

    Raises:
        CameraError: there are none, or they may not be read.
    """
    if not source:
        raise CameraError("no picture is named")
    path = Path(source)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            candidates = list(path.iterdir())
            complaint = f"folder {source} has no pictures"
        else:
            candidates = [Path(name) for name in glob.glob(source, recursive=True)]
            if "**" in source:
                candidates = _one_path_of_each(candidates)
            complaint = f"there is no picture {source}"
    except OSError as error:
        raise CameraError(f"{source} cannot be read: {error.strerror}") from error
    # hidden ones are by-products of file managers, not pictures
    shown = [candidate for candidate in candidates if not candidate.name.startswith(".")]
    pictures = [
        candidate
        for candidate in shown
        if candidate.suffix.lower() in PICTURE_SUFFIXES and _may_be_file(candidate)
    ]
    if pictures and len(pictures) < len(shown) and path.is_dir():
        left_out = len(shown) - len(pictures)
        log.info("files and folders in %s that are no pictures, and left out: %d", source, left_out)
    if not pictures:
        raise CameraError(f"{complaint} (known endings: {endings(PICTURE_SUFFIXES)})")
    return sorted(pictures, key=_natural_key)


def endings(suffixes: Iterable[str]) -> str:
    """Suffixes for people: in order, and without their dots."""
    return " ".join(sorted(suffix[1:] for suffix in suffixes))


def names_for_people(paths: Iterable[Path]) -> Callable[[Path], str]:
    """What to call each of some pictures: by its name, with its path where there are several
    folders.
    """
    in_one_folder = len({path.parent for path in paths}) == 1
    return lambda path: path.name if in_one_folder else str(path)


def read_picture(path: Path) -> Image:
    """Read a picture, upright as its EXIF orientation says (a WebP with newer OpenCV only).

    Returns:
        uint8, shape (height, width, 3), RGB; grey, 16-bit, transparent and CMYK ones converted.

    Raises:
        CameraError: the file is unreadable, empty, cut short, damaged, too large or no picture.
    """
    bgr = _decoded(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_small_grey(path: Path) -> Image:
    """Read a picture's brightness at half its size, which takes a fraction of the time for a JPEG.

    Returns:
        uint8, shape (height, width).

    Raises:
        CameraError: as `read_picture` does, and for pictures a pixel wide or high.
    """
    return _decoded(path, cv2.IMREAD_REDUCED_GRAYSCALE_2)


def _decoded(path: Path, how: int) -> Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CameraError(f"picture {path} cannot be read: {error.strerror}") from error
    if not data:
        raise CameraError(f"picture {path} is empty")
    if data.startswith(_JPEG_START) and not _ends_as_jpeg(data):
        raise CameraError(f"picture {path} is cut short or damaged: the end of the JPEG is missing")
    if data.startswith(_PNG_START) and not _has_chunks_whole(data):
        raise CameraError(f"picture {path} is cut short or damaged: a part of the PNG is missing")
    silence_opencv()
    with collected(_DECODER_LINE) as messages:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), how)
        except cv2.error as error:
            reason = f"cannot be decoded: {error.err}"
            if "MAX_IMAGE_" in error.err:
                reason = "is too large: pictures of up to 100 million pixels are read"
            raise CameraError(f"picture {path} {reason}") from error
    # libjpeg makes up what it cannot decode and only says so; stray bytes alone do no harm
    damage = [text for text in messages if "Corrupt JPEG" in text and "extraneous" not in text]
    if picture is None or damage:
        detail = f" ({(damage or messages)[0]})" if damage or messages else ""
        raise CameraError(f"picture {path} is damaged, cut short or not a picture{detail}")
    return np.asarray(picture, np.uint8)


class PictureSequence:
    """Pictures as the frames of one camera, in the order given.

    A picture's time is its place in the list over ``fps``, from the first one's file time on (or
    that of the first which is there). Unreadable ones are logged and skipped, and raise CameraError
    after the last picture.

    Attributes:
        paths: of all of them.

    Raises:
        ValueError: there are no pictures, or fps is not above 0.
    """

    def __init__(self, paths: list[Path], *, fps: float = 5.0) -> None:
        if not paths or not fps > 0:
            raise ValueError(f"expected pictures and fps above 0, got {len(paths)} and {fps}")
        self.paths = paths
        self._fps = fps
        self._closed = False
        # now, since some may be gone by the time they are looked at
        self._start_utc_s = self._first_utc_s()

    @property
    def frame_count(self) -> int:
        """How many pictures there are."""
        return len(self.paths)

    @property
    def closed(self) -> bool:
        """Whether it is to end."""
        return self._closed

    def frames(self) -> Iterator[Frame]:
        """Yield each readable picture, then raise CameraError if there were others."""
        index = 0
        for place, path in enumerate(self.paths):
            if self._closed:
                return
            try:
                image = read_picture(path)
            except CameraError as error:
                log.warning("%s", error)
                continue
            seconds = place / self._fps
            yield Frame(image, index, seconds, self._start_utc_s + seconds, str(path))
            index += 1
        if self._closed:
            return
        if skipped := len(self.paths) - index:
            good = f"the other {index} were processed" if index else "there was nothing to process"
            raise CameraError(
                f"{skipped} of {len(self.paths)} pictures could not be read (see above); {good}"
            )

    def close(self) -> None:
        """End the iteration before the next picture."""
        self._closed = True

    def _first_utc_s(self) -> float:
        for place, path in enumerate(self.paths):
            with suppress(CameraError):
                return _modified_s(path) - place / self._fps
        return 0.0


class VideoFile:
    """The frames of a video file, each with its position as time.

    A replay is deterministic: UTC time counts from the file's modification time.

    Raises:
        CameraError: the file may not be read, is empty, damaged or not a video.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._start_utc_s = _modified_s(path)
        # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path
        self._capture = open_quietly(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraError(f"video {path} {_why_not_opened(path)}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        # raw streams know no rate, and OpenCV then gives a number of millions
        self._fps = fps if 0 < fps <= 1000 else 25.0
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # Raw streams say something negative, and what began at a time of day counts from there:
        # no frame takes less than a byte.
        self._promised = int(promised) if 0 < promised <= path.stat().st_size else 0

    @property
    def frame_count(self) -> int:
        """How many frames the container promises; 0 where it says nothing that can be."""
        return self._promised

    def frames(self) -> Iterator[Frame]:
        """Yield all frames, then raise CameraError if the video breaks off before its end.

        The next one is decoded while the one before is looked at.
        """
        index = 0
        seconds = stamped_s = 0.0
        with ThreadPoolExecutor(1, "video") as decoder:
            ahead = decoder.submit(self._read)
            while (read := ahead.result()) is not None and not self._closed:
                ahead = decoder.submit(self._read)
                image, position_s = read
                if (
                    position_s > seconds + _LONG_STEP_S
                    and (following := ahead.result()) is not None
                    and following[1] < position_s
                ):
                    position_s = 0.0  # as if this frame had no stamp
                if position_s > seconds:
                    seconds = position_s
                elif index:
                    # The stamps begin anew, or there are none, as in raw streams: what OpenCV then
                    # says makes no sense.
                    step_s = position_s - stamped_s
                    seconds += step_s if step_s > 0 else 1 / self._fps
                if position_s > 0:
                    stamped_s = position_s
                yield Frame(image, index, seconds, self._start_utc_s + seconds, str(self._path))
                index += 1
        if self._closed:
            return
        lacking = self._lacks_frames(index, seconds)
        promised = f" of about {self._promised}" if self._promised else ""
        result = f"{index}{promised} frames could be read and were processed"
        if (lacking or not promised) and is_cut_short(self._path):
            raise CameraError(f"video {self._path} is cut short: {result}")
        if index == 0:
            raise CameraError(
                f"no frame of video {self._path} can be decoded: it is damaged, or in a format "
                "such as AV1 that this OpenCV cannot read; H.264 is safe"
            )
        if lacking:
            log.warning(
                "video %s: %s; it is trimmed, a part of a longer recording, or damaged",
                self._path,
                result,
            )

    def close(self) -> None:
        """End the iteration and let go of the file."""
        with self._lock:
            self._closed = True
            self._capture.release()

    def _read(self) -> tuple[Image, float] | None:
        """The next picture and its position in seconds; None at the end or when closed."""
        with self._lock:
            if self._closed:
                return None
            ok, bgr = self._capture.read()
            position_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not ok:
            return None
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), position_s

    def _lacks_frames(self, frames: int, last_s: float) -> bool:
        """Whether 5 % (and two frames) are missing, in number and in time.

        Many containers only estimate the number, as length times rate. With a varying rate that
        is wrong, but then the last frame still lies near the end. Of a part of a recording the
        length may count from the recording's start.
        """
        wanted = 0.95 * self._promised - 2
        return frames < wanted and last_s * self._fps < wanted


def _ends_as_jpeg(data: bytes) -> bool:
    """Whether a JPEG has its end: OpenCV up to 4 fills the missing rest with grey and reports
    success. Segments are stepped over by their length: an EXIF thumbnail has an end of its own.
    """
    at = len(_JPEG_START)
    while (match := _JPEG_MARKER.search(data, at)) is not None:
        if match[0][1] == _JPEG_END:
            return True
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return False


def _has_chunks_whole(data: bytes) -> bool:
    """Whether no chunk of a PNG is longer than the rest: OpenCV from 5 on takes as much memory as
    a chunk says that it is long.
    """
    at = len(_PNG_START)
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at <= len(data)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # reading it will fail, and say why
        return True


def _one_path_of_each(paths: list[Path]) -> list[Path]:
    """The shortest path of each file: ``**`` follows links, around in circles as well."""
    shortest: dict[object, Path] = {}
    for path in sorted(paths, key=lambda path: (len(path.parts), str(path))):
        try:
            status = path.stat()
        except OSError:
            # reading it will fail, and say why
            shortest[path] = path
        else:
            shortest.setdefault((status.st_dev, status.st_ino), path)
    return list(shortest.values())


def _why_not_opened(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return "is damaged or not a video" if file.read(1) else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError as error:
        raise CameraError(f"{path} cannot be read: {error.strerror}") from error


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts "bird2" before "bird10", and folders among themselves in the same way."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts], str(path)
