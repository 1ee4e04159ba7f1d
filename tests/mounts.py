"""Small disks for tests to fill or to cut the power of."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS = 0x00020000


@functools.cache
def _own_mounts() -> None:
    """Let what this process mounts be seen by it and its children only, and be gone with them:
    a test that is killed would leave a disk in a temporary folder, which then nobody can remove.

    Raises:
        OSError: it may not.
    """
    # os.unshare is there from Python 3.12 on
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)


@contextmanager
def mounted(what: Path | str, place: Path, *options: str) -> Iterator[Path]:
    """Mount something for a while.

    Args:
        what: a device or image, or ``tmpfs``.
        place: the folder, made if it is not there.
        options: for ``mount``.

    Raises:
        OSError: this machine does not let us, or has no ``mount``.
        subprocess.CalledProcessError: ``mount`` or, after 5 s, ``umount`` refused.
    """
    _own_mounts()
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(what), str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        # whoever used it may need a moment to end
        give_up_s = time.monotonic() + 5
        while subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode:
            if time.monotonic() > give_up_s:
                subprocess.run(["umount", str(place)], check=True)
            time.sleep(0.1)
