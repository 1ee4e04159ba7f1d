"""Puts the parts together: from settings to a running detection."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from edgebird.annotate import make_folder
from edgebird.camera import Camera, open_camera
from edgebird.camera.files import PictureSequence, list_pictures
from edgebird.config import Config
from edgebird.detector import open_detector
from edgebird.errors import UsageError
from edgebird.model import Model
from edgebird.mqtt.connection import BrokerAddress, parse_broker_url
from edgebird.mqtt.topics import default_device, slug
from edgebird.pictures import PictureResult, scan_pictures
from edgebird.pipeline import Summary, run
from edgebird.schedule import Patrol, scan_everything
from edgebird.sinks import Sink
from edgebird.sinks.mqtt import MqttSink
from edgebird.snapshots import Snapshots
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings

Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""From a number of frames (0: unknown) to a context that gives what to call after each."""


def detect_on_camera(
    config: Config,
    sinks: Sequence[Sink],
    progress: Progress,
    summary: Summary,
    *,
    max_frames: int | None = None,
) -> None:
    """Find, follow and report birds until the source ends or SIGINT or SIGTERM comes.

    Args:
        config: all settings; ``camera.source`` is set.
        sinks: for the events, besides the broker of ``config.mqtt``.
        progress: shows how far a source with an end is.
        summary: filled in as frames are processed.
        max_frames: stop after so many.

    Raises:
        EdgebirdError: see `edgebird.errors`.
    """
    source = str(config.camera.source)
    name = slug(config.camera.name or camera_name(source))
    # What can be wrong without a camera is found out before one is opened.
    broker = None if config.mqtt.url is None else parse_broker_url(config.mqtt.url)
    model, detector = open_detector(config.detector)
    snapshots = None if config.output.save is None else Snapshots(Path(config.output.save))
    camera = open_camera(source, fps=config.camera.fps, size=config.camera.size)
    with ExitStack() as cleanup:
        cleanup.enter_context(closing(camera))
        cleanup.enter_context(_closed_by_signals(camera))
        if broker is not None:
            mqtt_sink = _mqtt_sink(config, broker, name, model)
            sinks = [*sinks, cleanup.enter_context(closing(mqtt_sink))]
        total = camera.frame_count
        if total and max_frames:
            total = min(total, max_frames)
        run(
            camera=camera,
            camera_name=name,
            plan=Patrol() if total is None else scan_everything,
            detector=detector,
            threshold=config.detector.threshold or model.card.threshold,
            tracker=Tracker(TrackerSettings(**msgspec.structs.asdict(config.tracker))),
            visits=Visits(name, VisitSettings(**msgspec.structs.asdict(config.visits))),
            snapshots=snapshots,
            sinks=sinks,
            summary=summary,
            max_frames=max_frames,
            on_frame=cleanup.enter_context(progress(total or 0)),
        )


def detect_in_pictures(
    config: Config,
    on_result: Callable[[PictureResult], None],
    progress: Progress,
    *,
    max_pictures: int | None = None,
) -> None:
    """Look through pictures one by one; see `scan_pictures`.

    Raises:
        EdgebirdError: see `edgebird.errors`.
    """
    if config.mqtt.url is not None:
        raise UsageError(
            "alerts are about visits, and pictures on their own have none: leave --mqtt out, or "
            "add --sequence if they are the frames of one camera"
        )
    paths = list_pictures(str(config.camera.source))
    model, detector = open_detector(config.detector)
    save = None if config.output.save is None else Path(config.output.save)
    if save is not None:
        make_folder(save)
    pictures = PictureSequence(paths)
    total = min(len(paths), max_pictures or len(paths))
    with _closed_by_signals(pictures), progress(total) as advance:

        def handle(result: PictureResult) -> None:
            on_result(result)
            advance()

        threshold = config.detector.threshold or model.card.threshold
        scan_pictures(pictures, detector, threshold, handle, save=save, max_pictures=max_pictures)


def camera_name(source: str) -> str:
    """A camera's name where none is given: it stands in topics, so never a password in it."""
    if source.isdecimal():
        return f"camera{source}"
    scheme, separator, rest = source.partition("://")
    if separator:
        host = rest.partition("/")[0].rpartition("@")[2]
        return host.partition(":")[0] or scheme
    if source.startswith("demo:"):
        return "demo"
    return Path(source).stem


def _mqtt_sink(config: Config, broker: BrokerAddress, camera: str, model: Model) -> MqttSink:
    device = config.mqtt.device or default_device()
    return MqttSink(broker, device=device, camera=camera, model_sha256=model.card.sha256)


@contextmanager
def _closed_by_signals(camera: Camera) -> Iterator[None]:
    """SIGINT and SIGTERM close the camera, which ends the loop after the frame at hand; a second
    signal ends the program at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        # In a thread: closing may wait for the camera, which a signal handler must not.
        threading.Thread(target=camera.close, name="stop").start()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
