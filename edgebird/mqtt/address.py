"""Where a broker is and who we are to it: from a URL, settings, files and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from edgebird.config import CREDENTIAL, service_password
from edgebird.errors import UsageError

if TYPE_CHECKING:
    import ssl

    from edgebird.config import MqttSection

Scheme = Literal["mqtt", "mqtts", "ws", "wss"]
Version = Literal["3.1.1", "5"]

DEFAULT_PORT = 1883
_PORTS: dict[str, int] = {"mqtt": DEFAULT_PORT, "mqtts": 8883, "ws": 80, "wss": 443}
_WEBSOCKET_PATH = "/mqtt"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and who we are to it. Neither ``repr`` nor ``str`` shows the password.

    Args:
        host: name or address, an IPv6 address without brackets.
        port: TCP port.
        user: None connects anonymously.
        password: of the user.
        scheme: plain TCP, TLS, WebSocket or WebSocket over TLS.
        path: of a WebSocket.
        version: of the MQTT protocol.
        ca_file: certificates to trust in place of the system's.
        cert_file: our own certificate, for brokers that ask for one.
        key_file: its key, if it is not in ``cert_file``.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    scheme: Scheme = "mqtt"
    path: str = _WEBSOCKET_PATH
    version: Version = "3.1.1"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS; the broker's certificate is then always checked."""
        return self.scheme in ("mqtts", "wss")

    def tls_context(self) -> ssl.SSLContext:
        """What TLS is spoken with.

        Raises:
            UsageError: a certificate or key cannot be read, or they do not belong together.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise _file_error("ca_file", self.ca_file, error) from error
        if self.ca_file is not None:
            # Certificates made at home often lack the extensions that Python 3.13 asks for; who
            # signed them, for which host and until when is checked all the same.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.cert_file is not None:
            try:
                # a key with a passphrase would ask on the terminal
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
            except OSError as error:
                raise _file_error("cert_file or key_file", self.cert_file, error) from error
        return context


def parse_broker_url(url: str) -> BrokerAddress:
    """Read ``mqtt://[user:password@]host[:port]``; ``mqtt://`` may be left out.

    ``mqtts://`` is TLS, ``ws://`` and ``wss://`` are WebSockets, which may have a path. Special
    characters in user and password are written as %XX, an IPv6 address in brackets.

    Raises:
        UsageError: it is something else. The message repeats nothing that may be a password.
    """
    text, separator, rest = url.partition("://")
    scheme = _scheme(text.lower() if separator else "mqtt")
    try:
        parts = urlsplit(f"{scheme}://" + (rest if separator else url))
        host = parts.hostname or ""
        host.encode("idna")
        port = _PORTS[scheme] if parts.port is None else parts.port
        user = unquote(parts.username or "", errors="strict") or None
        password = unquote(parts.password or "", errors="strict") or None
        f"{user}{password}{parts.path}".encode()
    except ValueError:  # its text and its traceback may hold the password
        raise _usage_error("it has a part that cannot be read") from None
    if not host or not host.isprintable() or " " in host:
        raise _usage_error("it names no host")
    if port == 0:
        raise _usage_error("its port is 0")
    path = parts.path if scheme in ("ws", "wss") and parts.path != "/" else ""
    if parts.path not in ("", "/", path) or parts.query or parts.fragment:
        raise _usage_error("something follows the host and port")
    if password and not user:
        raise _usage_error("it has a password but no user")
    return BrokerAddress(host, port, user, password, scheme, path or _WEBSOCKET_PATH)


def broker_address(
    settings: MqttSection, environment: Mapping[str, str] = os.environ
) -> BrokerAddress:
    """The address with all that the settings and the surroundings add to the URL.

    The user is that of the settings, else the URL's, else ``EDGEBIRD_MQTT_USER``. The password is
    that of ``password_file``, else the URL's, else ``EDGEBIRD_MQTT_PASSWORD``, else the systemd
    credential ``mqtt-password``; of a file only the first line counts. The file that systemd makes
    this credential from is taken like it, so that another ``url`` on the command line may have a
    password of its own, or no user.

    Raises:
        UsageError: the URL is wrong, a file cannot be read, or something does not fit together.
    """
    address = parse_broker_url(settings.url or "mqtt://localhost")
    user = settings.user or address.user or environment.get("EDGEBIRD_MQTT_USER") or None
    password = address.password
    if (file := own_password_file(settings)) is not None:
        if user is None:
            raise UsageError("[mqtt] password_file is set but no user: add user")
        password = _first_line(Path(file))
    password = password or environment.get("EDGEBIRD_MQTT_PASSWORD") or None
    if user and password is None and (path := credential(settings, environment)):
        password = _first_line(path)
    try:
        f"{user}{password}".encode()
    except UnicodeEncodeError:  # its text and its traceback hold a part of the password
        problem = "EDGEBIRD_MQTT_USER or EDGEBIRD_MQTT_PASSWORD is not UTF-8 text"
        raise UsageError(problem) from None
    if (settings.ca_file or settings.cert_file) and not address.encrypted:
        raise UsageError(
            "[mqtt] certificates are set but the URL is not encrypted: write mqtts:// or wss://"
        )
    if settings.key_file and not settings.cert_file:
        raise UsageError("[mqtt] key_file is set but no cert_file")
    address = replace(
        address,
        user=user,
        password=password if user else None,
        version=settings.version,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
    )
    if address.encrypted:
        address.tls_context()  # finds out now whether the files are good
    return address


def own_password_file(settings: MqttSection) -> str | None:
    """The ``password_file``, unless it is the one that services have their credential from."""
    file = settings.password_file
    return None if file == str(service_password()) else file


def credential(settings: MqttSection, environment: Mapping[str, str]) -> Path | None:
    """The systemd credential with the password, or what it is made from; None without a password
    in it.
    """
    places = []
    if folder := environment.get("CREDENTIALS_DIRECTORY"):
        places.append(Path(folder) / CREDENTIAL)
    if settings.password_file == str(service_password()):
        places.append(service_password())
    # the unit's default, for brokers without passwords, is an empty line
    return next((path for path in places if path.exists() and path.stat().st_size > 1), None)


def _scheme(text: str) -> Scheme:
    match text:
        case "mqtt" | "mqtts" | "ws" | "wss":
            return text
    raise _usage_error("it does not begin with mqtt://, mqtts://, ws:// or wss://")


def _usage_error(problem: str) -> UsageError:
    return UsageError(
        f"the MQTT broker's address is wrong: {problem}; write mqtt://[user:password@]host[:port], "
        "special characters in the password as %XX"
    )


def _file_error(setting: str, path: str | None, error: OSError) -> UsageError:
    reason = error.strerror or str(error)
    return UsageError(f"cannot use [mqtt] {setting} {path}: {reason}")


def _first_line(path: Path) -> str | None:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, PermissionError) and path == service_password():
            reason = f"{reason}; try with sudo"
        raise UsageError(f"cannot read the MQTT password from {path}: {reason}") from None
    if not lines or not lines[0]:
        raise UsageError(f"the MQTT password file {path} is empty")
    return lines[0]
