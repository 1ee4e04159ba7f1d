"""Receives alerts: a subscriber of its own, as any other MQTT client would be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from queue import Empty, SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any

from edgebird.errors import BrokerError
from edgebird.mqtt.connection import BrokerAddress, Connection
from edgebird.mqtt.payloads import VisitPayload, decode
from edgebird.mqtt.topics import visit_filter
from edgebird.sinks.console import visit_line

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

FIRST_ANSWER_S = 10.0
POLL_S = 0.2
STOP_S = 1.0

logger = logging.getLogger(__name__)


def watch(
    address: BrokerAddress,
    *,
    on_alert: Callable[[VisitPayload], None],
    stop: Event,
    device: str = "+",
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Receive alerts until ``stop`` is set. Once connected, outages are waited out.

    Args:
        address: the broker.
        on_alert: called for each alert, on the caller's thread. A message that is no alert
            is logged in one line and skipped.
        stop: ends the call within a fraction of a second.
        device: whose alerts; ``+`` stands for every device.
        on_ready: called once, on the client's thread, when no later alert can be missed.

    Raises:
        BrokerError: the broker cannot be reached, refuses us or does not answer at the start.
    """
    inbox: SimpleQueue[BrokerError | MQTTMessage] = SimpleQueue()
    ready = Event()

    def subscribe() -> None:
        client.subscribe(visit_filter(device), qos=1)

    def handle_problem(problem: str) -> None:
        if ready.is_set():
            logger.warning("%s; waiting for it", problem)
        else:
            inbox.put(BrokerError(problem))

    def handle_subscribed(
        client: Any, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        if reasons[0].is_failure:
            inbox.put(BrokerError(f"the MQTT broker at {address} does not let us read the alerts"))
        elif not ready.is_set():
            ready.set()
            on_ready()

    connection = Connection(
        address, client_id="", on_connected=subscribe, on_problem=handle_problem
    )
    client = connection.client
    client.on_subscribe = handle_subscribed
    client.on_message = lambda client, userdata, message: inbox.put(message)
    connection.start()
    give_up_s = time.monotonic() + FIRST_ANSWER_S
    try:
        while not stop.is_set():
            if not ready.is_set() and time.monotonic() > give_up_s:
                raise BrokerError(f"the MQTT broker at {address} does not answer: is it one?")
            try:
                item = inbox.get(timeout=POLL_S)
            except Empty:
                continue
            if isinstance(item, BrokerError):
                raise item
            try:
                alert = decode(item.payload)
            except ValueError as error:
                logger.warning(
                    "skipped a message on %s that is no alert: %s",
                    _printable(item.topic),
                    _printable(str(error)),
                )
            else:
                on_alert(alert)
    finally:
        connection.stop(STOP_S)


def format_alert(alert: VisitPayload) -> str:
    """One line for a person, in local time."""
    snapshot = alert.snapshot
    return visit_line(
        alert.event_type,
        datetime.fromisoformat(alert.ended or alert.started),
        f"{alert.device}/{alert.camera}",
        duration_s=alert.duration_s,
        peak_count=alert.peak_count,
        score=alert.score,
        snapshot=None if snapshot is None else _printable(snapshot),
    )


def _printable(text: str) -> str:
    """Text from the network without what would steer the terminal it is shown on."""
    return "".join(char if char.isprintable() else "?" for char in text)
