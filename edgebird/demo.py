"""The demo: camera, detector, broker and subscriber in one program, none of them pretended."""

from __future__ import annotations

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from edgebird.config import Config, overruled
from edgebird.detect import detect_on_camera, silent_progress
from edgebird.mqtt.address import parse_broker_url
from edgebird.mqtt.broker import EmbeddedBroker
from edgebird.mqtt.payloads import VisitPayload
from edgebird.mqtt.watch import format_alert, watch
from edgebird.pipeline import Summary

_DEVICE = "demo-feeder"


def run_demo(seconds: float, seed: int, save: Path) -> None:
    """Run detection on the drawn feeder, and print the alerts that a subscriber receives.

    Args:
        seconds: how long.
        seed: of the scene.
        save: folder for the snapshots.

    Raises:
        BrokerError: the embedded broker is not installed or does not start.
        OutputError: the snapshots cannot be written.
    """
    alerts: list[VisitPayload] = []

    def show(alert: VisitPayload) -> None:
        alerts.append(alert)
        click.echo(f"  {format_alert(alert)}")

    summary = Summary()
    with EmbeddedBroker() as broker, TemporaryDirectory() as state:
        stop, ready = threading.Event(), threading.Event()
        subscriber = threading.Thread(
            target=watch,
            args=(parse_broker_url(broker.url),),
            kwargs={"on_alert": show, "stop": stop, "device": _DEVICE, "on_ready": ready.set},
            name="subscriber",
            daemon=True,
        )
        subscriber.start()
        try:
            # Alerts are not retained: one sent before the subscription would be missed.
            ready.wait(10)
            click.echo(
                f"a drawn feeder for {seconds:.0f} s, broker at {broker.url}; alerts received:"
            )
            config = overruled(
                Config(),
                camera={"source": f"demo:?seed={seed}&seconds={seconds}"},
                mqtt={"url": broker.url, "device": _DEVICE, "state": state},
                output={"save": str(save)},
            )
            detect_on_camera(config, [], silent_progress, summary)
        finally:
            stop.set()
            subscriber.join()
    visits = sum(alert.event_type == "end" for alert in alerts)
    click.echo(f"done: {summary}; alerts received: {len(alerts)}, for {visits} whole visits")
    if any(alert.snapshot for alert in alerts):
        click.echo(f"annotated snapshots: {save.resolve()}")
