"""A connection to an MQTT broker that comes back by itself."""

from __future__ import annotations

import logging
import random
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal

from edgebird.mqtt.address import BrokerAddress

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

KEEPALIVE_S = 30
_ANSWER_S = 15.0
# A connection that lasts longer was a good one; so many shorter ones in a row are no accident.
_STABLE_S = 10.0
_SUSPICIOUS = 4
_TAKEN_OVER = (
    "ends each connection after a moment: does another edgebird use our device and camera name?"
)
# OpenSSL's numbers for a certificate that is not yet valid, and for one that has expired
_OF_ANOTHER_TIME = (9, 10)
_WHY_DROPPED = f"{_TAKEN_OVER} Or is a message of ours larger than it takes?"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long to wait before another attempt; each wait is varied by a fifth.

    Args:
        first_s: after the first failure.
        last_s: the waits double up to this.
        refused_s: when the broker is there and does not want us, which a person has to change.
    """

    first_s: float = 1.0
    last_s: float = 30.0
    refused_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """What came from the broker. ``topic`` is empty where it is not UTF-8."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a broker allows; None where it did not say, as with MQTT 3.1.1.

    Args:
        receive_maximum: messages under way to it at once.
        maximum_packet_size: in bytes.
        maximum_qos: of messages.
        topic_alias_maximum: how many topics can be shortened.
        server_keepalive_s: the keep-alive it asks for in place of ours.
    """

    receive_maximum: int | None = None
    maximum_packet_size: int | None = None
    maximum_qos: int | None = None
    topic_alias_maximum: int | None = None
    server_keepalive_s: int | None = None


class Connection:
    """Keeps connected to a broker in the background; one that is down is tried for ever.

    Each attempt begins a new session: nothing of the one before is sent again but by the caller,
    who knows what is still wanted. All callbacks come from the connection's own thread and must
    return soon.

    Args:
        address: the broker.
        client_id: unique among the broker's clients; empty lets the broker choose one.
        will: topic and payload that the broker publishes, retained, when we vanish.
        on_connected: called after each connect.
        on_message: called for each message of a subscription.
        on_acknowledged: called with the number that `publish` gave, and with None when the broker
            has the message, or with why it does not want it.
        on_subscribed: called with the broker's answers, None for each granted subscription.
        on_problem: called with one line for a person, once for each outage (and once more when an
            unreachable broker comes back but refuses us).
        retry: when to try again.
        quiet: does not log that it is connected.

    Attributes:
        connected: whether the broker has accepted us and is still there.
        limits: what the broker allows, known when connected.
        connects: how often it was connected.

    Raises:
        UsageError: a certificate cannot be used.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        will: tuple[str, str] | None = None,
        on_connected: Callable[[], None],
        on_message: Callable[[Message], None] = lambda message: None,
        on_acknowledged: Callable[[int, str | None], None] = lambda number, refusal: None,
        on_subscribed: Callable[[Sequence[str | None]], None] = lambda answers: None,
        on_problem: Callable[[str], None],
        retry: Retry = Retry(),
        quiet: bool = False,
    ) -> None:
        self.connected = False
        self.connects = 0
        self.limits = Limits()
        self._address = address
        self._client_id = client_id
        self._will = will
        self._on_connected = on_connected
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._on_subscribed = on_subscribed
        self._on_problem = on_problem
        self._retry = retry
        self._level = logging.DEBUG if quiet else logging.INFO
        self._tls = address.tls_context() if address.encrypted else None
        self._reported: set[str] = set()
        self._refused = False
        self._ended: str | None = None
        self._stopping = Event()
        self._client: Client | None = None
        self._waking, self._wake = socket.socketpair()
        self._waking.setblocking(False)
        self._wake.setblocking(False)
        self._thread = Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin to connect, and return at once."""
        self._thread.start()

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        *,
        qos: int,
        retain: bool,
        session: int | None = None,
    ) -> int | None:
        """Hand a message to the broker without waiting.

        Args:
            topic: where to.
            payload: what.
            qos: 0, or 1 for an acknowledgement.
            retain: whether the broker keeps it for those who come later.
            session: only if this is still the value of ``connects``.

        Returns:
            A number that ``on_acknowledged`` will be called with, or None when not connected.
        """
        client = self._client
        if client is None or not self.connected or session not in (None, self.connects):
            return None
        number = client.publish(topic, payload, qos=qos, retain=retain).mid
        self._wake_up()
        return number

    def subscribe(self, *filters: str) -> None:
        """Ask for messages at QoS 1; the answer comes by ``on_subscribed``."""
        if self._client is not None:
            self._client.subscribe([(name, 1) for name in filters])
            self._wake_up()

    def stop(self, timeout_s: float) -> None:
        """Disconnect, and wait at most ``timeout_s`` for that."""
        self._stopping.set()
        self._wake_up()
        # It may be in the middle of looking up a host name.
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _wake_up(self) -> None:
        try:
            self._wake.send(b"\0")
        except OSError:  # full: it wakes up anyway; or closed
            return

    def _run(self) -> None:
        delay_s = self._retry.first_s
        short = 0
        while not self._stopping.is_set():
            connected_s = self._attempt()
            short = short + 1 if 0 < connected_s < _STABLE_S else 0
            if short == _SUSPICIOUS:
                self._report("refusal", _WHY_DROPPED)
            if connected_s > _STABLE_S:
                delay_s = self._retry.first_s
            wait_s = max(delay_s, self._retry.refused_s) if self._refused else delay_s
            # varied, so that the devices of a house do not come back in step
            self._stopping.wait(wait_s * random.uniform(0.8, 1.2))
            delay_s = min(2 * delay_s, self._retry.last_s)
        self._waking.close()
        self._wake.close()

    def _attempt(self) -> float:
        """Connect and serve the connection until it ends; for how many seconds it was there."""
        self._refused, self._ended = False, None
        try:
            client = self._new_client()
            client.connect(self._address.host, self._address.port, KEEPALIVE_S)
        except Exception as error:  # noqa: BLE001  (also what paho makes of a strange answer)
            self._report("outage", _why_unreachable(error))
            return 0.0
        self._client = client
        started_s = time.monotonic()
        try:
            self._serve(client, started_s)
        except Exception as error:  # noqa: BLE001  (what paho makes of bytes that are no MQTT)
            logger.debug("the connection ends: %r", error)
        was_connected, self.connected = self.connected, False
        self._client = None
        if not self._stopping.is_set() and not self._refused:
            self._report("outage", self._ended or self._why_lost(was_connected))
        if (rest := client.socket()) is not None:
            rest.close()
        return time.monotonic() - started_s if was_connected else 0.0

    def _serve(self, client: Client, started_s: float) -> None:
        """Move what comes and goes, until the connection is closed."""
        leaving = False
        while (link := client.socket()) is not None:
            pending = getattr(link, "pending", int)()  # TLS and WebSockets read ahead
            writing = [link] if client.want_write() else []
            ready, writable, _ = select.select(
                [link, self._waking], writing, [], 0 if pending else 0.5
            )
            if self._waking in ready:
                _empty(self._waking)
            if link in ready or pending:
                client.loop_read()
            if writable:
                client.loop_write()
            client.loop_misc()
            if not self.connected and time.monotonic() - started_s > _ANSWER_S:
                return
            if self._stopping.is_set() and not leaving:
                leaving = True
                client.disconnect()

    def _new_client(self) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        modern = self._address.version == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if modern else True,
            protocol=MQTTProtocolVersion.MQTTv5 if modern else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if self._address.scheme in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
        )
        # The window and the queue are the caller's.
        client.max_inflight_messages_set(0)
        client.username_pw_set(self._address.user, self._address.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._address.scheme in ("ws", "wss"):
            client.ws_set_options(self._address.path)
        if self._will is not None:
            client.will_set(*self._will, qos=1, retain=True)
        # Tells paho that only our loop writes to the socket, whoever publishes.
        client.on_socket_register_write = lambda client, userdata, link: None
        client.on_connect = self._handle_connect
        client.on_disconnect = self._handle_disconnect
        client.on_message = self._handle_message
        client.on_publish = lambda client, data, mid, reason, *_: self._on_acknowledged(
            mid, str(reason) if reason.is_failure else None
        )
        client.on_subscribe = lambda client, data, mid, reasons, *_: self._on_subscribed(
            [str(reason) if reason.is_failure else None for reason in reasons]
        )
        return client

    def _handle_connect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._refused = True
            self._report("refusal", _why_refused(reason))
            return
        logger.log(
            self._level,
            "the MQTT broker at %s is back" if self._reported else "connected to MQTT at %s",
            self._address,
        )
        self._reported.clear()
        self.limits = _limits(properties)
        self.connects += 1
        self.connected = True
        self._on_connected()

    def _handle_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._ended = f"ends the connection ({reason})"
            if reason == "Session taken over":
                self._refused = True
                self._report("refusal", _TAKEN_OVER)

    def _handle_message(self, client: Any, userdata: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._on_message(Message(topic, bytes(message.payload), message.retain))

    def _why_lost(self, was_connected: bool) -> str:
        if was_connected:
            return "is gone"
        if self._address.version == "5":
            return 'does not answer as MQTT 5 (set version = "3.1.1" under [mqtt]?)'
        return "ends the connection without an answer"

    def _report(self, kind: Literal["outage", "refusal"], what: str) -> None:
        if not self._reported or (kind == "refusal" and kind not in self._reported):
            self._on_problem(f"the MQTT broker at {self._address} {what}")
        self._reported.add(kind)


def _why_unreachable(error: Exception) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OF_ANOTHER_TIME:
            return (
                f"has a certificate of another time than this machine's ({error.verify_message}): "
                "check its clock with 'date'; where that is right, renew the broker's certificate"
            )
        return (
            f"has a certificate that is not trusted ({error.verify_message}): "
            "set ca_file under [mqtt] to the file with its authority's"
        )
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as we do ({error.reason or error}): check scheme and port"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be reached ({reason}): check its address and that it runs"


def _why_refused(reason: ReasonCode) -> str:
    hint = {
        "Bad user name or password": ": check user and password",
        "Not authorized": ": check user and password",
        "Unsupported protocol version": ": set another version under [mqtt]",
        "Client identifier not valid": ": choose shorter names for device and camera",
    }
    return f"refuses the connection ({reason}){hint.get(str(reason), '')}"


def _limits(properties: Properties | None) -> Limits:
    def value(name: str) -> Any:
        return getattr(properties, name, None)

    return Limits(
        receive_maximum=value("ReceiveMaximum"),
        maximum_packet_size=value("MaximumPacketSize"),
        maximum_qos=value("MaximumQoS"),
        topic_alias_maximum=value("TopicAliasMaximum"),
        server_keepalive_s=value("ServerKeepAlive"),
    )


def _empty(pipe: socket.socket) -> None:
    try:
        while pipe.recv(4096):
            pass
    except BlockingIOError:
        return
