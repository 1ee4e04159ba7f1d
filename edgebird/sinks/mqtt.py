"""Alerts and states over MQTT."""

from __future__ import annotations

from edgebird.mqtt.connection import BrokerAddress
from edgebird.mqtt.payloads import encode, visit_payload
from edgebird.mqtt.publisher import Publisher
from edgebird.mqtt.topics import Topics
from edgebird.structures import Event, FrameProcessed, TrackState, VisitChanged


class MqttSink:
    """Publishes whether birds are in view, how many, and each visit's start and end.

    Connects in the background and outlives any outage: alerts wait (see ``Publisher``) and keep
    their capture times.

    Args:
        address: the broker.
        device: this machine's name in the topics, made safe if need be.
        camera: the camera's name in the topics, made safe if need be.
        model_sha256: of the network, for the alerts.
    """

    def __init__(
        self, address: BrokerAddress, *, device: str, camera: str, model_sha256: str
    ) -> None:
        self._topics = Topics(device, camera)
        self._model_sha256 = model_sha256
        self._publisher = Publisher(
            address,
            client_id=f"edgebird-{self._topics.device}-{self._topics.camera}",
            status_topic=self._topics.status,
        )
        self._birds = 0
        self._publish_birds()

    def emit(self, event: Event) -> None:
        """Publish what the event changes; returns at once, with or without a broker."""
        if isinstance(event, FrameProcessed):
            birds = sum(track.state is TrackState.CONFIRMED for track in event.tracks)
            if birds != self._birds:
                self._birds = birds
                self._publish_birds()
        elif isinstance(event, VisitChanged):
            payload = visit_payload(
                event,
                device=self._topics.device,
                camera=self._topics.camera,
                model_sha256=self._model_sha256,
            )
            self._publisher.send_alert(self._topics.visit, encode(payload))

    def close(self) -> None:
        """Deliver what waits, then say that no bird is in view and that we are offline.

        Takes at most about two seconds; logs how many alerts could not be delivered, if any.
        """
        self._birds = 0
        self._publish_birds()
        self._publisher.close()

    def _publish_birds(self) -> None:
        self._publisher.set_state(self._topics.bird, "ON" if self._birds else "OFF")
        self._publisher.set_state(self._topics.count, str(self._birds))
