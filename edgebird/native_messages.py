"""What native libraries write straight to standard error, where Python's logging has no say."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()


@contextmanager
def collected(pattern: re.Pattern[bytes]) -> Iterator[list[str]]:
    """Collect the lines on file descriptor 2 that match; all others go on when the block ends.

    Yields:
        A list that is filled at the end of the block.
    """
    messages: list[str] = []
    # in memory: on an SD card a temporary file for each picture would be wear
    with _lock, os.fdopen(os.memfd_create("stderr"), "rb") as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if pattern.match(line):
                    messages.append(line.decode(errors="replace").strip())
                else:
                    os.write(2, line)
