"""What the container of a video says of its own length in bytes: MP4, AVI, Matroska."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_HEADER_BYTES = 16


def is_cut_short(path: Path) -> bool:
    """Whether a video's file ends before the container that is in it does.

    False where that cannot be known: other formats, live recordings, a file that is gone.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length_of = _kind(file.read(_HEADER_BYTES))
            at = 0
            while at < size:
                file.seek(at)
                # filled up, for the end may be anywhere in it
                length = length_of(file.read(_HEADER_BYTES).ljust(_HEADER_BYTES, b"\0"))
                if length is None:
                    return False
                at += length
    except OSError:
        return False
    return at > size


def _kind(start: bytes) -> Callable[[bytes], int | None]:
    """Tells the length of each part on the top level by its first bytes, None if it is unknown."""
    if start.startswith(b"RIFF"):
        return _chunk
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return _element
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _box
    return lambda _: None


def _chunk(header: bytes) -> int | None:
    """RIFF: a name, a length in little-endian order, and the content, filled up to an even one."""
    length = int.from_bytes(header[4:8], "little")
    # 0 was never filled in
    return 8 + length + length % 2 if length else None


def _box(header: bytes) -> int | None:
    """MP4 and QuickTime: the whole length, a name, and where the length is 1, a longer one."""
    length = int.from_bytes(header[:4])
    if length == 1:
        length = int.from_bytes(header[8:16])
    # 0 is up to the end of the file, whatever that is
    return length if length >= 8 else None


def _element(header: bytes) -> int | None:
    """Matroska: a name, a length, both as long as the zeros say that they begin with."""
    name_bytes = 9 - header[0].bit_length()
    length_bytes = 9 - header[name_bytes].bit_length()
    if name_bytes > 4 or length_bytes > 8:
        return None
    length = int.from_bytes(header[name_bytes : name_bytes + length_bytes])
    length &= (unknown := (1 << 7 * length_bytes) - 1)
    return None if length == unknown else name_bytes + length_bytes + length
