"""Publishes states and alerts in order, through outages."""

from __future__ import annotations

import logging
from collections import deque
from threading import Condition
from typing import Any

from edgebird.mqtt.connection import BrokerAddress, Connection

MAX_WAITING_ALERTS = 1000
DRAIN_S = 1.5
OFFLINE_S = 0.5

logger = logging.getLogger(__name__)


class Publisher:
    """Publishes retained states and alerts at QoS 1; no method waits for the broker but ``close``.

    Of a state only the newest value counts; all of them are published again after each connect.
    Alerts wait in a bounded queue, from which the oldest falls out when it is full. One message
    is under way at a time and the next leaves when the broker has acknowledged it: so alerts
    keep their order, and after a reconnect no old state can arrive after a newer one.

    Args:
        address: the broker; it may be down.
        client_id: the same at every start, so that the broker ends a stale connection of ours.
        status_topic: a state that is ``online`` until ``close``, and ``offline`` by the last will.
        max_waiting_alerts: the queue's bound.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        status_topic: str,
        max_waiting_alerts: int = MAX_WAITING_ALERTS,
    ) -> None:
        self._address = address
        self._status_topic = status_topic
        self._max_waiting_alerts = max_waiting_alerts
        # Guards what follows. Never held while paho is called: paho calls back with its own
        # locks held.
        self._changed = Condition()
        self._states = {status_topic: "online"}
        self._unsent_states: dict[str, str] = {}
        self._alerts: deque[tuple[str, bytes]] = deque()
        self._under_way: str | None = None  # the topic of the message not yet acknowledged
        self._dropped_alerts = 0
        self._overflow_reported = False
        self._connection = Connection(
            address,
            client_id=client_id,
            on_connected=self._handle_connected,
            on_problem=lambda problem: logger.warning("%s; alerts wait until it is back", problem),
        )
        client = self._connection.client
        client.will_set(status_topic, "offline", qos=1, retain=True)
        client.on_publish = self._handle_acknowledged
        self._connection.start()

    def set_state(self, topic: str, value: str) -> None:
        """Publish the value and keep it, to publish it again after a reconnect."""
        with self._changed:
            self._states[topic] = self._unsent_states[topic] = value
        self._send_next()

    def send_alert(self, topic: str, payload: bytes) -> None:
        """Publish the alert after those that wait; when too many wait, the oldest is dropped."""
        with self._changed:
            self._alerts.append((topic, payload))
            overflow = len(self._alerts) > self._max_waiting_alerts
            if overflow:
                self._alerts.popleft()
                self._dropped_alerts += 1
            report = overflow and not self._overflow_reported
            self._overflow_reported |= overflow
        if report:
            logger.warning(
                "more than %d alerts wait for the MQTT broker at %s: the oldest are dropped",
                self._max_waiting_alerts,
                self._address,
            )
        self._send_next()

    def close(self) -> None:
        """Deliver what waits, say ``offline`` and disconnect, within about two seconds."""
        with self._changed:
            self._changed.wait_for(self._is_idle, DRAIN_S)
            lost = len(self._alerts) + self._dropped_alerts
            lost += self._under_way is not None and self._under_way not in self._states
            # From here on only "offline" counts, even when the broker has not yet answered.
            self._alerts.clear()
            self._under_way = None
            self._states[self._status_topic] = "offline"
            self._unsent_states = {self._status_topic: "offline"}
        self._send_next()
        with self._changed:
            self._changed.wait_for(self._is_idle, OFFLINE_S)
        self._connection.stop(OFFLINE_S)
        if lost:
            logger.warning(
                "alerts that could not be delivered to the MQTT broker at %s: %d",
                self._address,
                lost,
            )

    def _is_idle(self) -> bool:
        states_done = not (self._unsent_states and self._connection.connected)
        return states_done and not self._alerts and self._under_way is None

    def _handle_connected(self) -> None:
        with self._changed:
            self._unsent_states = dict(self._states)
            self._overflow_reported = False
        # A message that was under way is sent again by paho; its acknowledgement brings the rest.
        self._send_next()

    def _handle_acknowledged(self, *_: Any) -> None:
        with self._changed:
            self._under_way = None
            self._changed.notify_all()
        self._send_next()

    def _send_next(self) -> None:
        payload: str | bytes
        with self._changed:
            if self._under_way is not None or not self._connection.connected:
                return
            if self._unsent_states:
                topic = next(iter(self._unsent_states))
                payload, retain = self._unsent_states.pop(topic), True
            elif self._alerts:
                (topic, payload), retain = self._alerts.popleft(), False
            else:
                return
            self._under_way = topic
        self._connection.client.publish(topic, payload, qos=1, retain=retain)
