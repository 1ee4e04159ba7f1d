"""New settings for a program that runs: the configuration is read again when SIGHUP asks for it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec

from edgebird.config import Config, settings_of
from edgebird.configure.show import toml_value, without_secrets
from edgebird.errors import EdgebirdError

log = logging.getLogger(__name__)

# The parts look at these anew for each frame or visit; all else is built in when the program
# starts.
_LIVE = frozenset(
    ["detector.threshold", "mqtt.detections_per_s"]
    + [f"output.{name}" for name in ("keep_mb", "reserve_mb", "write_mb_per_day")]
    + [
        name
        for name in settings_of(Config())
        if name.startswith(("motion.", "schedule.", "tracker.", "visits."))
    ]
)


class Reload:
    """Called between two frames; reads the settings again if that was asked for.

    What can change in a running program is handed on, the rest is left as it is and told of in the
    log. Settings that are wrong change nothing.

    Args:
        config: what holds now.
        load: reads the configuration, with what the command line says put over it; None where
            there is nothing to read again.
        change: called with the settings that hold from now on, and the names, ``section.key``, of
            those that are new.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config] | None,
        change: Callable[[Config, frozenset[str]], None],
    ) -> None:
        self._config = config
        self._load = load
        self._change = change
        self._asked = False

    def __call__(self) -> None:
        """Read the settings again if that was asked for since the last time."""
        if not self._asked or self._load is None:
            return
        self._asked = False
        try:
            wanted = self._load()
        except EdgebirdError as error:
            log.error("%s; the settings stay as they are", error)
            return
        before, after = settings_of(self._config), settings_of(wanted)
        changed = [name for name in after if after[name] != before[name]]
        live = frozenset(changed) & _LIVE
        if live:
            self._config = _with_values(self._config, {name: after[name] for name in live})
            self._change(self._config, live)
        log.info("settings read again: %s", _told(changed, before, after))

    @contextmanager
    def on_signal(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have SIGHUP ask for it.

        Args:
            stop: called in its place when SIGHUP says that the terminal we were started on is gone,
                or when there is nothing to read again; there SIGHUP may be ignored, as by nohup.
        """
        had_terminal = os.isatty(0)

        def handle(number: int, frame: FrameType | None) -> None:
            if self._load is None or (had_terminal and not os.isatty(0)):
                stop()
            else:
                self._asked = True

        previous = signal.getsignal(signal.SIGHUP)
        if self._load is not None or previous != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, previous)


def _with_values(config: Config, values: dict[str, Any]) -> Config:
    for name, value in values.items():
        section, _, key = name.partition(".")
        part = msgspec.structs.replace(getattr(config, section), **{key: value})
        config = msgspec.structs.replace(config, **{section: part})
    return config


def _told(changed: list[str], before: dict[str, Any], after: dict[str, Any]) -> str:
    """What changed, in one line."""
    done = [_step(name, before[name], after[name]) for name in changed if name in _LIVE]
    waiting = [_step(name, before[name], after[name]) for name in changed if name not in _LIVE]
    parts = [", ".join(done) or ("none of them can change now" if waiting else "nothing is new")]
    if waiting:
        parts.append(f"only after a restart: {', '.join(waiting)}")
    return "; ".join(parts)


def _step(name: str, before: Any, after: Any) -> str:
    if isinstance(before, tuple) or isinstance(after, tuple):
        return f"{name} (changed)"
    values = [
        "default" if value is None else toml_value(without_secrets(name, value))
        for value in (before, after)
    ]
    return f"{name} {values[0]} -> {values[1]}"
