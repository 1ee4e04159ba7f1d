"""What systemd is told: ready, alive, how it goes, stopping. Nothing where it did not start us.

The protocol is that of sd_notify(3) and sd_watchdog_enabled(3): a datagram of ``NAME=value`` lines
to the socket that ``NOTIFY_SOCKET`` names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from edgebird.structures import Event, Frame, Health, Silence, VisitChanged

_STATUS_BYTES = 200


class Service:
    """A sink that keeps systemd informed, and the loop's sign of life.

    Ready means: the network is loaded, and the first frame came or the camera was found to be
    missing. That one is waited for with everything else running, and is no reason to be started
    again; a loop that does not go round any more is.

    Args:
        environment: has ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` if systemd wants to be told.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # systemd that does not read must not stop us
            self._socket.setblocking(False)
        self._clock = clock
        self._ping_every_s = _watchdog_s(environment) / 4
        self._pinged_s = -1e9
        self._ready = False
        self._visits = 0
        self._status = ""

    def alive(self, moment: Frame | Silence) -> None:
        """To be called each time the loop goes round, with or without a frame."""
        if not self._ready and (isinstance(moment, Frame) or moment.lost):
            self._ready = True
            self._send("READY=1")
            self._say("watching" if isinstance(moment, Frame) else _lost_text(moment.error))
        now_s = self._clock()
        if self._ping_every_s and now_s - self._pinged_s >= self._ping_every_s:
            self._pinged_s = now_s
            self._send("WATCHDOG=1")

    def emit(self, event: Event) -> None:
        """Turn visits and health into the line that ``systemctl status`` shows."""
        if isinstance(event, VisitChanged):
            self._visits += event.kind == "start"
        elif isinstance(event, Health) and self._ready:
            self._say(self._health_text(event))

    def close(self) -> None:
        """Tell that the end has begun."""
        self._send("STOPPING=1\nSTATUS=stopping")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _health_text(self, health: Health) -> str:
        if "lost" in health.faults:
            return _lost_text(health.last_error)
        parts = ["watching"]
        if health.faults:
            parts = [f"trouble with the camera: {', '.join(health.faults)}"]
        elif health.dark:
            parts = ["too dark to see birds, waiting for light"]
        if health.fps is not None:
            parts.append(f"{health.fps:.1f} frames a second")
        parts.append(f"{self._visits} visit{'s' * (self._visits != 1)} since the start")
        return ", ".join(parts)

    def _say(self, status: str) -> None:
        if status != self._status:
            self._status = status
            line = " ".join(status.split()).encode()[:_STATUS_BYTES]
            self._send("STATUS=" + line.decode(errors="ignore"))

    def _send(self, message: str) -> None:
        if self._socket is None or self._address is None:
            return
        # It may be full or gone: whoever does not listen misses a message, and a missed sign of
        # life is followed by the next one.
        with suppress(OSError):
            self._socket.sendto(message.encode(), self._address)


def _lost_text(error: str | None) -> str:
    return f"waiting for the camera: {error or 'it does not answer'}"


def _socket_address(setting: str) -> str | None:
    # a name that begins with @ is of the abstract namespace, which Linux writes with a zero byte
    if setting.startswith("@"):
        return "\0" + setting[1:]
    return setting if setting.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """How long systemd waits for a sign of life; 0 if it does not wait for ours."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0.0, int(environment.get("WATCHDOG_USEC", "0")) / 1e6)
    except ValueError:
        return 0.0
