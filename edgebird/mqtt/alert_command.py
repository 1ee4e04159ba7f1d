"""Runs a program of the user's for each alert."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import shutil
import subprocess
from queue import Empty, Full, Queue
from threading import Thread

from edgebird.errors import UsageError
from edgebird.mqtt.payloads import VisitPayload, encode

_MAX_WAITING = 100
_LIMIT_S = 60.0
_STANDARD_ERROR = 2

logger = logging.getLogger(__name__)


class AlertCommand:
    """Runs a program for one alert after the other, without a shell.

    It finds the alert as JSON on its standard input and its parts in the environment:
    ``EDGEBIRD_EVENT_TYPE``, ``EDGEBIRD_VISIT``, ``EDGEBIRD_DEVICE``, ``EDGEBIRD_CAMERA``,
    ``EDGEBIRD_SCORE`` and ``EDGEBIRD_SNAPSHOT``. Nothing of an alert becomes an argument, for
    anyone at the broker may send one. What it prints goes to standard error. A program that fails
    is logged, one that takes longer than a minute is ended.

    Args:
        command: the program and its arguments, quoted as in a shell.

    Raises:
        UsageError: the quotes do not match, or there is no such program.
    """

    def __init__(self, command: str) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--exec {command} cannot be read: {error}") from error
        if not self._arguments:
            raise UsageError("--exec needs a program")
        if shutil.which(self._arguments[0]) is None:
            raise UsageError(
                f"--exec: there is no program {self._arguments[0]}, or this user may not run it"
            )
        self._waiting: Queue[VisitPayload] = Queue(_MAX_WAITING)
        Thread(target=self._run, name="alert command", daemon=True).start()
        # however the program ends
        atexit.register(self.close)

    def __call__(self, alert: VisitPayload) -> None:
        """Run it soon; an alert is left out when too many wait."""
        try:
            self._waiting.put_nowait(alert)
        except Full:
            logger.warning("the program for alerts is too slow: one was left out")

    def close(self) -> None:
        """Run it for no more alerts, and say how many still waited."""
        left = 0
        try:
            while self._waiting.get_nowait():
                left += 1
        except Empty:
            pass
        if left:
            logger.warning("the program for alerts was not run for the last %d of them", left)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while True:
            alert = self._waiting.get()
            environment = {
                "EDGEBIRD_EVENT_TYPE": alert.event_type,
                "EDGEBIRD_VISIT": alert.visit,
                "EDGEBIRD_DEVICE": alert.device,
                "EDGEBIRD_CAMERA": alert.camera,
                "EDGEBIRD_SCORE": str(alert.score),
                "EDGEBIRD_SNAPSHOT": alert.snapshot or "",
            }
            safe = {name: value.replace("\0", "") for name, value in environment.items()}
            try:
                done = subprocess.run(
                    self._arguments,
                    input=encode(alert),
                    # our standard output may be a file of alerts
                    stdout=_STANDARD_ERROR,
                    env=os.environ | safe,
                    timeout=_LIMIT_S,
                    check=False,
                )
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                logger.warning("the program for an alert failed: %s", error)
            else:
                if done.returncode:
                    logger.warning(
                        "the program %s ends with %d", self._arguments[0], done.returncode
                    )
