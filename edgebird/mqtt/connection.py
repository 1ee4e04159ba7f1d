"""The connection to an MQTT broker: its address, and a client that connects in the background."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from edgebird.errors import UsageError

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

DEFAULT_PORT = 1883
KEEPALIVE_S = 30
RECONNECT_MIN_S = 1
RECONNECT_MAX_S = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and who we are to it. Neither ``repr`` nor ``str`` shows the password."""

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_broker_url(url: str) -> BrokerAddress:
    """Read ``mqtt://[user:password@]host[:port]``; ``mqtt://`` may be left out.

    Special characters in user and password are written as %XX, an IPv6 address in brackets.

    Raises:
        UsageError: it is something else. The message repeats nothing that may be a password.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme.lower() != "mqtt":
        raise _usage_error("it does not begin with mqtt://")
    try:
        parts = urlsplit("mqtt://" + (rest if separator else url))
        host = parts.hostname or ""
        host.encode("idna")
        port = DEFAULT_PORT if parts.port is None else parts.port
        user = unquote(parts.username or "", errors="strict") or None
        password = unquote(parts.password or "", errors="strict") or None
        f"{user}{password}".encode()
    except ValueError:  # its text and its traceback may hold the password
        raise _usage_error("it has a part that cannot be read") from None
    if not host or not host.isprintable() or " " in host:
        raise _usage_error("it names no host")
    if port == 0:
        raise _usage_error("its port is 0")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _usage_error("something follows the host and port")
    if password and not user:
        raise _usage_error("it has a password but no user")
    return BrokerAddress(host, port, user, password)


def _usage_error(problem: str) -> UsageError:
    return UsageError(
        f"the MQTT broker's address is wrong: {problem}; write mqtt://[user:password@]host[:port], "
        "special characters in the password as %XX"
    )


class Connection:
    """Keeps a paho client connected in the background; a broker that is down is tried for ever.

    Args:
        address: the broker.
        client_id: unique among the broker's clients; empty lets the broker choose one.
        on_connected: called after each connect, on the client's own thread.
        on_problem: called on that thread with one line for a person, once for each outage
            (and once more when an unreachable broker comes back but refuses us).

    Attributes:
        client: the paho client, for a last will, subscriptions and messages.
        connected: whether the broker has accepted us and is still there.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        on_connected: Callable[[], None],
        on_problem: Callable[[str], None],
    ) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.connected = False
        self._address = address
        self._on_connected = on_connected
        self._on_problem = on_problem
        self._reported: set[str] = set()
        self._stopping = False
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        self.client.username_pw_set(address.user, address.password)
        self.client.reconnect_delay_set(RECONNECT_MIN_S, RECONNECT_MAX_S)
        self.client.on_connect = self._handle_connect
        self.client.on_connect_fail = self._handle_connect_fail
        self.client.on_disconnect = self._handle_disconnect

    def start(self) -> None:
        """Begin to connect, and return at once."""
        self.client.connect_async(self._address.host, self._address.port, KEEPALIVE_S)
        self.client.loop_start()

    def stop(self, timeout_s: float) -> None:
        """Disconnect, and wait at most ``timeout_s`` for the client's thread to end."""
        self._stopping = True
        self.client.disconnect()
        # loop_stop() waits without limit, even while a host name is being looked up.
        stopper = Thread(target=self.client.loop_stop, daemon=True)
        stopper.start()
        stopper.join(timeout_s)

    def _handle_connect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._report("refusal", f"refuses the connection ({reason}): check user and password")
        elif self._stopping:  # the attempt was under way when stop() was called
            self.client.disconnect()
        else:
            logger.info(
                "the MQTT broker at %s is back" if self._reported else "connected to MQTT at %s",
                self._address,
            )
            self._reported.clear()
            self.connected = True
            self._on_connected()

    def _handle_connect_fail(self, client: Any, userdata: Any) -> None:
        # paho calls this while it handles the error, and does not hand it over.
        error = sys.exception()
        reason = getattr(error, "strerror", None) or error
        self._report("outage", f"cannot be reached ({reason}): check its address and that it runs")

    def _handle_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        was_connected, self.connected = self.connected, False
        if not self._stopping:
            self._report(
                "outage", "is gone" if was_connected else "ends the connection without an answer"
            )

    def _report(self, kind: Literal["outage", "refusal"], what: str) -> None:
        if not self._reported or (kind == "refusal" and kind not in self._reported):
            self._on_problem(f"the MQTT broker at {self._address} {what}")
        self._reported.add(kind)
