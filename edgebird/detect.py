"""Puts the parts together: from settings to a running detection."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import msgspec

from edgebird.annotate import make_folder
from edgebird.camera import Camera, is_live, is_stream, open_camera
from edgebird.camera.files import PictureSequence, list_pictures
from edgebird.camera.live import LiveCamera
from edgebird.camera.opencv import host_of
from edgebird.camera.settings import CameraSettings
from edgebird.claims import claim
from edgebird.config import CameraSection, Config, state_folder
from edgebird.controls import Controls
from edgebird.detector import open_detector
from edgebird.disk import DiskUse
from edgebird.errors import UsageError
from edgebird.evidence import Evidence, EvidenceSettings
from edgebird.faults import FaultWatch
from edgebird.health import HealthReporter
from edgebird.model import Model
from edgebird.motion import MotionGate
from edgebird.mqtt.address import BrokerAddress, broker_address
from edgebird.mqtt.topics import default_device, slug
from edgebird.pictures import PictureResult, check_save_folder, scan_pictures
from edgebird.pipeline import Senses, Summary, run
from edgebird.places import Places
from edgebird.reload import Reload
from edgebird.schedule import ScanEverything, Schedule, ScheduleSettings
from edgebird.service import Service
from edgebird.sinks import Sink
from edgebird.sinks.mqtt import MqttSink
from edgebird.sinks.store import StoreSink
from edgebird.snapshots import Snapshots
from edgebird.tracker import Tracker, TrackerSettings
from edgebird.visits import Visits, VisitSettings
from edgebird.zones import Zones, ZoneSettings

T = TypeVar("T")

log = logging.getLogger(__name__)

Progress = Callable[[int, str], AbstractContextManager[Callable[[], None]]]
"""From a number of frames (0: unknown) and what is done to them, in a word, to a context that gives
what to call after each.
"""


def silent_progress(total: int, doing: str) -> AbstractContextManager[Callable[[], None]]:
    """Shows nothing."""
    return nullcontext(lambda: None)


def detect_on_camera(
    config: Config,
    sinks: Sequence[Sink],
    progress: Progress,
    summary: Summary,
    *,
    max_frames: int | None = None,
    camera: Camera | None = None,
    load: Callable[[], Config] | None = None,
    wait_for_camera: bool = False,
) -> None:
    """Find, follow and report birds until the source ends or SIGINT or SIGTERM comes, or SIGHUP
    where it does not have settings read again.

    Args:
        config: all settings; ``camera.source`` is set.
        sinks: for the events, besides the broker of ``config.mqtt``.
        progress: shows how far a source with an end is.
        summary: filled in as frames are processed.
        max_frames: stop after so many.
        camera: in place of the one that the settings describe; its visits are not remembered.
        load: reads the settings again, for changes while it runs; see `Reload`.
        wait_for_camera: a live camera that is not there yet is waited for.

    Raises:
        EdgebirdError: see `edgebird.errors`.
    """
    source = str(config.camera.source)
    name = slug(config.camera.name or camera_name(source))
    # What can be wrong without a camera is found out before one is opened.
    broker = None if config.mqtt.url is None else broker_address(config.mqtt)
    model, detector = open_detector(config.detector)
    controls = Controls(config.detector.threshold or model.card.threshold)
    disk = DiskUse()
    save = None if config.output.save is None else Path(config.output.save)
    snapshots = None if save is None else _snapshots(config, save, disk)
    remember = camera is None
    if camera is None:
        settings = camera_settings(config.camera)
        camera = open_camera(
            source, fps=config.camera.fps, settings=settings, required=not wait_for_camera
        )
    with ExitStack() as cleanup:
        cleanup.enter_context(closing(camera))
        live = camera if isinstance(camera, LiveCamera) else None
        total = camera.frame_count
        if total and max_frames:
            total = min(total, max_frames)
        zones = Zones(_settings(ZoneSettings, config.motion))
        # sources that wait for us are looked through; only others stay where they are
        senses = _senses(config, name, zones, live) if total is None else None
        schedule = Schedule(_settings(ScheduleSettings, config.schedule))
        tracker = Tracker(_settings(TrackerSettings, config.tracker))
        visits = Visits(name, _settings(VisitSettings, config.visits))
        mqtt_sink: MqttSink | None = None

        def change(new: Config, changed: frozenset[str]) -> None:
            zones.change(_settings(ZoneSettings, new.motion))
            schedule.settings = _settings(ScheduleSettings, new.schedule)
            tracker.settings = _settings(TrackerSettings, new.tracker)
            visits.settings = _settings(VisitSettings, new.visits)
            if senses is not None:
                senses.evidence.settings = _settings(EvidenceSettings, new.motion)
            if snapshots is not None:
                snapshots.limit(
                    keep_mb=new.output.keep_mb,
                    reserve_mb=new.output.reserve_mb,
                    write_mb_per_day=new.output.write_mb_per_day,
                )
            if mqtt_sink is not None:
                mqtt_sink.limit_detections(new.mqtt.detections_per_s)
            if "detector.threshold" in changed:
                controls.threshold = new.detector.threshold or model.card.threshold
                if mqtt_sink is not None:
                    mqtt_sink.configure_threshold(controls.threshold)

        reload = Reload(config, load, change)
        if broker is not None:
            # It may wait for another edgebird to end. Signals end that as they would any program.
            mqtt_sink = _mqtt_sink(config, broker, name, model, controls, disk)
        # these hold until the sinks are closed
        cleanup.enter_context(_closed_by_signals(camera))
        cleanup.enter_context(reload.on_signal(stop=partial(_close_soon, camera)))
        # before the given ones, which end the run where their stream is full or its reader gone
        own: list[Sink] = []
        if mqtt_sink is not None:
            own.append(cleanup.enter_context(closing(mqtt_sink)))
        # closed before the broker's: systemd hears of the end before that takes time
        service = cleanup.enter_context(closing(Service()))
        if remember and total is None:
            own += _store_sinks(config, name, save, disk, cleanup)
        run(
            camera=camera,
            camera_name=name,
            zones=zones,
            senses=senses,
            plan=schedule if total is None else ScanEverything(),
            health=HealthReporter(name, live=live, disk=disk) if total is None else None,
            detector=detector,
            controls=controls,
            tracker=tracker,
            visits=visits,
            snapshots=snapshots,
            sinks=[*own, service, *sinks],
            service=service,
            summary=summary,
            max_frames=max_frames,
            reload=reload,
            on_frame=cleanup.enter_context(progress(total or 0, "looking")),
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
    save = None if config.output.save is None else Path(config.output.save)
    if save is not None:
        check_save_folder(save, paths)
    model, detector = open_detector(config.detector, for_stills=True)
    if save is not None:
        make_folder(save)
    pictures = PictureSequence(paths)
    total = min(len(paths), max_pictures or len(paths))
    with _closed_by_signals(pictures):
        compared = paths[:total] if config.detector.compare else []
        places = _places_among(compared, pictures, progress)
        with progress(total, "looking") as advance:
            scan_pictures(
                pictures,
                detector,
                config.detector.threshold or model.card.threshold,
                on_result,
                places=places,
                default_threshold=model.card.threshold,
                on_look=advance,
                save=save,
                max_pictures=max_pictures,
            )


def _places_among(paths: Sequence[Path], pictures: PictureSequence, progress: Progress) -> Places:
    with progress(len(paths), "comparing") as advance:

        def go_on() -> bool:
            advance()
            return not pictures.closed

        places = Places.of(paths, go_on)
    if places:
        log.info(
            "%d of %d pictures show a place seen in others; new things there count for more, the "
            "rest for less",
            len(places),
            len(paths),
        )
    return places


def camera_settings(section: CameraSection) -> CameraSettings:
    """What a section of the configuration asks of a live camera."""
    wanted = {key: value for key, value in msgspec.structs.asdict(section).items() if value}
    return _settings(CameraSettings, wanted)


def _settings(kind: type[T], section: msgspec.Struct | dict[str, Any]) -> T:
    """The settings that a part takes, out of a section of the configuration."""
    values = msgspec.structs.asdict(section) if isinstance(section, msgspec.Struct) else section
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in names})


def _frame_size(camera: CameraSection) -> tuple[int, int] | None:
    """Width and height that were asked for, as they are after turning; a stream is not asked."""
    if is_stream(str(camera.source)):
        return None
    if camera.size is None or camera.rotate not in (90, 270):
        return camera.size
    return camera.size[1], camera.size[0]


def _senses(config: Config, name: str, zones: Zones, live: LiveCamera | None) -> Senses:
    return Senses(
        watch=FaultWatch(
            name, size=_frame_size(config.camera), restart=live.restart if live else lambda: None
        ),
        gate=MotionGate(zones),
        evidence=Evidence(_settings(EvidenceSettings, config.motion)),
    )


def camera_name(source: str) -> str:
    """A camera's name where none is given: it stands in topics, so never a password in it."""
    if source.isdecimal():
        return f"camera{source}"
    scheme, separator, _ = source.partition("://")
    if separator:
        return host_of(source) or scheme
    if source.startswith("demo:"):
        return "demo"
    return Path(source).stem


def _snapshots(config: Config, folder: Path, disk: DiskUse) -> Snapshots:
    limits = config.output
    return Snapshots(
        folder,
        keep_mb=limits.keep_mb,
        reserve_mb=limits.reserve_mb,
        write_mb_per_day=limits.write_mb_per_day,
        disk=disk,
    )


def _store_sinks(
    config: Config, camera: str, pictures: Path | None, disk: DiskUse, cleanup: ExitStack
) -> list[StoreSink]:
    """What remembers the visits of a live camera; nothing if another process does."""
    state = state_folder(config.mqtt.state)
    path = state / "visits" / f"{camera}.sqlite"
    holder = claim(str(path.absolute()))
    if holder is None:
        log.warning(
            "another edgebird on this machine already stores the visits of camera %s in %s; those "
            "found here are not stored",
            camera,
            path,
        )
        return []
    cleanup.enter_context(holder)
    sink = StoreSink(
        path,
        disk=disk,
        pictures=pictures,
        folders=[state / "outbox"],
        max_bytes=round(config.output.history_mb * 1e6),
    )
    return [cleanup.enter_context(closing(sink))]


def _mqtt_sink(
    config: Config,
    broker: BrokerAddress,
    camera: str,
    model: Model,
    controls: Controls,
    disk: DiskUse,
) -> MqttSink:
    settings, source = config.mqtt, str(config.camera.source)
    return MqttSink(
        broker,
        device=settings.device or default_device(),
        camera=camera,
        model_sha256=model.card.sha256,
        controls=controls,
        disk=disk,
        state=state_folder(settings.state),
        source=source,
        # what comes to an end would stay in Home Assistant as a camera with a fault
        discovery=settings.discovery if is_live(source) or source.startswith("demo:") else None,
        discovery_prefix=settings.discovery_prefix,
        detections_per_s=settings.detections_per_s,
    )


def _close_soon(camera: Camera) -> None:
    # In a thread: closing may wait for the camera, which a signal handler must not.
    threading.Thread(target=camera.close, name="stop").start()


@contextmanager
def _closed_by_signals(camera: Camera) -> Iterator[None]:
    """SIGINT and SIGTERM close the camera, which ends the loop after the frame at hand; a second
    signal ends the program at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        _close_soon(camera)

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
