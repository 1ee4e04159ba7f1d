"""Names that only one process of this machine may use at a time."""

from __future__ import annotations

import errno
import socket
import time
from hashlib import sha256

_AGAIN_S = 0.1


def claim(name: str, wait_s: float = 0.0) -> socket.socket | None:
    """Take a name that no other process of this machine may have at the same time.

    It is the address of a socket that nobody connects to, which needs no file, works for any user
    and between services that share no folder, and is free again when the process is gone, however
    it ended.

    Args:
        name: of any length.
        wait_s: how long to wait for a process that is about to end.

    Returns:
        What to close to give the name back, or None when it is taken.
    """
    give_up_s = time.monotonic() + wait_s
    while (holder := _bind(name)) is None and time.monotonic() < give_up_s:
        time.sleep(_AGAIN_S)
    return holder


def _bind(name: str) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # A hash, because such an address has 107 bytes at most.
        holder.bind(f"\0edgebird-{sha256(name.encode()).hexdigest()[:32]}")
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return holder
