"""What edgebird raises on purpose; `edgebird.mqtt` has two finer kinds of its own.

EdgebirdError                exit code 1
├── UsageError               exit code 2   a flag or a setting that does not fit
│   └── ConfigError          exit code 2   an unreadable file, an unknown key, a wrong value
├── CameraError              exit code 3   a device, stream, video or picture that cannot be read
├── ModelError               exit code 4   a model or its card is missing, damaged or does not fit
├── BrokerError              exit code 5   the MQTT broker is unreachable or refuses us
└── OutputError              exit code 6   a folder or file that cannot be written

Every message is one line for a person: what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class EdgebirdError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""

    exit_code = 1


class UsageError(EdgebirdError):
    """The command line or a setting asks for something that does not fit."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration file cannot be read, or a key or value in it is wrong."""


class CameraError(EdgebirdError):
    """A camera, stream, video or picture cannot be opened or read (in whole or in part)."""

    exit_code = 3


class ModelError(EdgebirdError):
    """A model or its card is missing, damaged, or the two do not fit together."""

    exit_code = 4


class BrokerError(EdgebirdError):
    """The MQTT broker cannot be reached or refuses the connection."""

    exit_code = 5


class OutputError(EdgebirdError):
    """A result cannot be written where it was asked for."""

    exit_code = 6
