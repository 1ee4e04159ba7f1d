"""Receives alerts: a subscriber of its own, as any other MQTT client would be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import Empty, Queue
from threading import Event

from edgebird.errors import BrokerError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Connection, Message
from edgebird.mqtt.payloads import VisitPayload, decode
from edgebird.mqtt.topics import slug, visit_filter
from edgebird.sinks.console import visit_line

FIRST_ANSWER_S = 10.0
POLL_S = 0.2
STOP_S = 1.0
# An alert that took longer is called late.
LATE_S = 60.0
_REMEMBERED = 1000

logger = logging.getLogger(__name__)


def watch(
    address: BrokerAddress,
    *,
    on_alert: Callable[[VisitPayload], None],
    stop: Event,
    device: str = "+",
    share: str | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Receive alerts until ``stop`` is set, each once. Once connected, outages are waited out.

    Args:
        address: the broker.
        on_alert: called for each alert, on the caller's thread. A message that is no alert
            is logged in one line and skipped.
        stop: ends the call within a fraction of a second.
        device: whose alerts; ``+`` stands for every device.
        share: name of a group of watchers among whom the broker divides the alerts.
        on_ready: called once, on the client's thread, when no later alert can be missed.

    Raises:
        BrokerError: the broker cannot be reached, refuses us or does not answer at the start.
    """
    topic = visit_filter(device)
    if share is not None:
        topic = f"$share/{slug(share)}/{topic}"
    # a SimpleQueue's get() may wait for ever if a signal comes at the end of its timeout
    inbox: Queue[BrokerError | Message] = Queue()
    ready = Event()

    def handle_problem(problem: str) -> None:
        if ready.is_set():
            logger.warning("%s; waiting for it", problem)
        else:
            inbox.put(BrokerError(problem))

    def handle_subscribed(answers: Sequence[str | None]) -> None:
        if any(answers):
            inbox.put(BrokerError(f"the MQTT broker at {address} does not let us read the alerts"))
        elif not ready.is_set():
            ready.set()
            on_ready()

    connection = Connection(
        address,
        client_id="",
        on_connected=lambda: connection.subscribe(topic),
        on_message=inbox.put,
        on_subscribed=handle_subscribed,
        on_problem=handle_problem,
    )
    connection.start()
    seen: dict[tuple[str, ...], None] = {}
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
            alert = _alert_of(item)
            if alert is None:
                continue
            key = (alert.device, alert.camera, alert.visit, alert.event_type)
            if key not in seen:
                seen[key] = None
                if len(seen) > _REMEMBERED:
                    del seen[next(iter(seen))]
                on_alert(alert)
    finally:
        connection.stop(STOP_S)


def _alert_of(message: Message) -> VisitPayload | None:
    try:
        return decode(message.payload)
    except ValueError as error:
        logger.warning(
            "skipped a message on %s that is no alert: %s",
            _printable(message.topic),
            _printable(str(error)),
        )
        return None


def format_alert(alert: VisitPayload) -> str:
    """One line for a person, in local time."""
    snapshot = alert.snapshot
    late = f"  ({_duration(alert.age_s)} late)" if alert.age_s > LATE_S else ""
    line = visit_line(
        alert.event_type,
        datetime.fromisoformat(alert.ended or alert.started),
        f"{alert.device}/{alert.camera}",
        duration_s=alert.duration_s,
        peak_count=alert.peak_count,
        score=alert.score,
        snapshot=None if snapshot is None else _printable(snapshot),
    )
    return line + late


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"


def _printable(text: str) -> str:
    """Text from the network without what would steer the terminal it is shown on."""
    return "".join(char if char.isprintable() else "?" for char in text)
