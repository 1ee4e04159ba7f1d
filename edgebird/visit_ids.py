"""The ids of visits: the camera's name and when the visit began, ``feeder-20260314T083005120``.

A picture of a visit is named after it, so that one tells of the other.
"""

from __future__ import annotations

from datetime import UTC, datetime

# How an id ends, as a regular expression; in older ones without milliseconds.
MOMENT = r"-\d{8}T\d{6}(?:\d{3})?"
_SECONDS = "%Y%m%dT%H%M%S"


def visit_id(camera: str, started_utc_s: float) -> str:
    """The id of the visit of a camera that began then.

    To the millisecond: a clock that went back, as that of a board without power, comes to the same
    seconds again.
    """
    started = datetime.fromtimestamp(started_utc_s, UTC)
    return f"{camera}-{started:{_SECONDS}}{started.microsecond // 1000:03d}"


def started_utc_s_of(id_: str) -> float:
    """When the visit with this id began, in seconds since 1970-01-01 UTC.

    Raises:
        ValueError: it is no id of a visit.
    """
    moment = id_.rpartition("-")[2]
    seconds = datetime.strptime(moment[:15], _SECONDS).replace(tzinfo=UTC).timestamp()
    return seconds + int(moment[15:] or 0) / 1000
