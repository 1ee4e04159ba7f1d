"""Alerts, states, pictures and health over MQTT, and commands from there."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from contextlib import ExitStack
from datetime import date, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Annotated

import msgspec
from msgspec import Meta

import edgebird
from edgebird.claims import claim
from edgebird.controls import Controls
from edgebird.disk import DiskUse
from edgebird.errors import UsageError
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.connection import Message, Retry
from edgebird.mqtt.device import DeviceStatus, camera_at
from edgebird.mqtt.discovery import discovery_payload, with_removals
from edgebird.mqtt.former import FormerName
from edgebird.mqtt.outbox import Alert, Outbox, read_kept
from edgebird.mqtt.payloads import (
    HIGHEST_THRESHOLD,
    LOWEST_THRESHOLD,
    Number,
    SnapshotPayload,
    decode,
    detections_payload,
    encode,
    health_payload,
    parse_command,
    utc_iso,
    visit_payload,
)
from edgebird.mqtt.publisher import Publisher
from edgebird.mqtt.topics import Topics
from edgebird.structures import (
    Event,
    FrameProcessed,
    Health,
    SnapshotTaken,
    VisitChanged,
)
from edgebird.tracker import birds_at_once

# Faults with which frames, if any come, show nothing.
_BLINDING = frozenset({"lost", "frozen", "black", "covered"})
COMMANDS = ("enabled", "threshold", "snapshot")
_PART = "outbox"
# Without a frame for so long, the camera is offline.
_SILENT_S = 15.0
_SILENT_DARK_S = 60.0
# What is retained on a topic comes right after the subscription is granted.
_RETAINED_S = 1.0
_REPUBLISH_S = 10.0
_STATUS_EVERY_S = 30.0
# However often something is asked for, the disk is not worn by it.
_KEEP_EVERY_S = 10.0
# Where Home Assistant says that it has started, whatever its prefix, unless it is told otherwise.
_HUB_STATUS = "homeassistant/status"
_COMPLAIN_S = 60.0
# When a visit has ended and for so long no frame came, none will tell that the bird is gone.
_NO_FRAME_S = 1.0
# Longer than it takes to stop or to clear a former name: two that swap names may be started again
# at the same time.
_CLAIM_S = 9.0
# A clock that was put back for so long is believed; before, it may just have been started.
_BELIEVE_CLOCK_S = 3600.0

logger = logging.getLogger(__name__)


class MqttSink:
    """Publishes what happens at one camera, and lets others control it; the contract is in
    ``edgebird/mqtt/README.md``.

    Connects in the background and outlives any outage: alerts wait (see `Outbox`) and keep their
    capture times. What was asked for over MQTT outlives a restart, until the setting that it
    overruled is changed.

    Args:
        address: the broker.
        device: this machine's name in the topics, made safe if need be.
        camera: the camera's name in the topics, made safe if need be.
        model_sha256: of the network, for the alerts.
        controls: what commands change.
        disk: is told when one holds up the alerts.
        state: folder that is kept over restarts; None keeps alerts in memory only.
        source: of the frames; tells a camera that got another name.
        discovery: whether Home Assistant is told of this camera; False takes back what it was
            told, None leaves it.
        discovery_prefix: of its topics.
        detections_per_s: most messages about single frames.
        retry: when to try to connect again.

    Raises:
        UsageError: a certificate cannot be used, or another process serves this camera.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        device: str,
        camera: str,
        model_sha256: str,
        controls: Controls,
        disk: DiskUse | None = None,
        state: Path | None = None,
        source: str = "",
        discovery: bool | None = True,
        discovery_prefix: str = "homeassistant",
        detections_per_s: float = 2.0,
        retry: Retry = Retry(),  # noqa: B008  (immutable)
    ) -> None:
        topics = self._topics = Topics(device, camera)
        path = None
        if state is not None:
            path = state / "outbox" / f"{_file_stem(topics)}.sqlite"
        self._claims = _claim_all(address, topics, path)
        self._model_sha256 = model_sha256
        self._controls = controls
        self._disk = disk or DiskUse()
        self._discovery = discovery_payload(topics, version=edgebird.__version__)
        self._discovery_wanted = discovery
        self._discovery_topic = topics.discovery(discovery_prefix)
        self._hub_status = {_HUB_STATUS, f"{discovery_prefix}/status"}
        self._commands = {topics.command(name): name for name in COMMANDS}
        self.limit_detections(detections_per_s)
        self._birds = -1  # not yet told
        # What two threads change is published in the order of its changes.
        self._states_lock = Lock()
        self._online = self._faulty = self._closing = False
        self._status_s = time.monotonic()
        self._unkept: dict[str, str] = {}
        self._kept_s = -1e9
        self._last_frame_s = self._detections_s = self._complained_s = -1e9
        self._visit_over_s = math.inf
        self._silent_s = _SILENT_S
        self._found: bytes | None = None
        self._discover_s: float | None = None
        self._republish_s: float | None = None
        self._republished_s = -1e9

        if source:  # a stream's address may hold a password
            source = sha256(os.fsencode(source)).hexdigest()
        renamed = None if path is None else _adopt_renamed(path, source)
        outbox = Outbox(path)
        kept = outbox.kept()
        self._visits = _DayCount.read(kept.get("visits_today"))
        self._restore(kept)
        subscriptions = [topics.command("+"), self._discovery_topic, *self._hub_status]
        try:
            self._publisher = Publisher(
                address,
                client_id=topics.client_id,
                status=topics.status,
                outbox=outbox,
                subscriptions=subscriptions,
                on_message=self._handle_message,
                on_subscribed=self._handle_subscribed,
                prepare=_prepare,
                on_tick=self._tick,
                retry=retry,
            )
        except UsageError:
            outbox.close()
            self._claims.close()
            raise
        self._publisher.keep("source", source)
        former = _topics_of(kept.get("former", ""))
        if renamed is not None:
            logger.warning(
                "camera %s is now %s; its old topics are cleared", renamed.base, topics.base
            )
            self._publisher.keep("former", _file_stem(renamed))  # until that is done
            former = renamed
        self._publisher.set_state(topics.status, "offline")
        self._show_birds(0)
        self._publisher.set_state(topics.visits_today, str(self._visits.count))
        self._publish_controls()
        self._device_status = DeviceStatus(address, topics.device)
        self._former: FormerName | None = None
        if former is not None:
            self._former = FormerName(
                address,
                former,
                discovery_prefix=discovery_prefix,
                on_done=lambda: self._publisher.keep("former", ""),
            )
        self._publisher.start()

    def emit(self, event: Event) -> None:
        """Publish what the event changes; returns at once, with or without a broker."""
        if isinstance(event, FrameProcessed):
            self._note_frame(0.0)
            self._visit_over_s = math.inf
            # tracks outlast for a while what a camera shows that is frozen, black or covered
            self._show_birds(0 if self._faulty else birds_at_once(event.tracks))
            if len(event.detections):
                self._publish_detections(event)
        elif isinstance(event, VisitChanged):
            self._publish_visit(event)
        elif isinstance(event, Health):
            self._publish_health(event)
        elif isinstance(event, SnapshotTaken):
            self._publish_snapshot(event)

    def close(self) -> None:
        """Deliver what waits, then say that no bird is in view and that we are offline.

        Takes at most about three seconds; logs how many alerts could not be delivered, if any.
        """
        self._show_birds(0)
        self._keep_commands()
        with self._states_lock:
            self._closing = True
        self._publisher.close()
        if self._former is not None:
            self._former.close()
        self._device_status.close()
        self._claims.close()

    # --- what may change between two frames

    def limit_detections(self, per_s: float) -> None:
        """Publish at most so many messages about single frames; none for 0."""
        self._detections_pause_s = 1 / per_s if per_s else None

    def configure_threshold(self, threshold: float) -> None:
        """Another threshold was set in the configuration: it goes before what MQTT asked for."""
        self._configured_threshold = self._controls.threshold = threshold
        self._keep_soon("threshold", "{}")
        self._publish_controls()

    # --- what the loop tells

    def _show_birds(self, birds: int) -> None:
        with self._states_lock:  # both values have to tell the same
            if birds != self._birds:
                self._birds = birds
                self._publisher.set_state(self._topics.bird, "ON" if birds else "OFF")
                self._publisher.set_state(self._topics.count, str(birds))

    def _publish_detections(self, event: FrameProcessed) -> None:
        now_s = time.monotonic()
        pause_s = self._detections_pause_s
        if pause_s is None or now_s - self._detections_s < pause_s:
            return
        self._detections_s = now_s
        names = self._topics
        payload = detections_payload(event, device=names.device, camera=names.camera)
        self._publisher.send_now(names.detections, encode(payload))

    def _publish_visit(self, event: VisitChanged) -> None:
        names, visit = self._topics, event.visit
        if event.kind == "start":
            self._visits.add()
            self._publish_visits_today()
        else:
            self._visit_over_s = time.monotonic()
        if event.best_image is not None:
            from edgebird.annotate import jpeg_for_mqtt

            picture = partial(jpeg_for_mqtt, event.best_image, event.best_birds)
            # Before the alert, so that whoever is alerted finds it.
            self._publisher.set_state(names.best, picture)
        payload = visit_payload(
            event, device=names.device, camera=names.camera, model_sha256=self._model_sha256
        )
        self._publisher.send_alert(Alert(visit.id, names.visit, encode(payload), time.time()))

    def _publish_health(self, health: Health) -> None:
        if self._publisher.hangs:
            self._disk.fail(_PART, "a disk hangs; until it goes on, nothing goes out over MQTT")
        self._silent_s = _SILENT_DARK_S if health.dark else _SILENT_S
        self._faulty = not _BLINDING.isdisjoint(health.faults)
        if health.frame_age_s is not None:
            self._note_frame(health.frame_age_s)
        payload = health_payload(
            health,
            version=edgebird.__version__,
            outbox=self._publisher.outbox_state,
            connects=self._publisher.connects,
        )
        self._publisher.set_state(self._topics.health, encode(payload), qos=0)

    def _publish_snapshot(self, event: SnapshotTaken) -> None:
        from edgebird.annotate import jpeg_for_mqtt

        frame = event.frame
        picture = partial(jpeg_for_mqtt, frame.image)
        self._publisher.set_state(self._topics.snapshot_picture, picture)
        answer = SnapshotPayload(utc_iso(frame.utc_s), frame.size)
        self._publisher.set_state(self._topics.value("snapshot"), encode(answer))

    def _note_frame(self, age_s: float) -> None:
        self._last_frame_s = max(self._last_frame_s, time.monotonic() - age_s)
        if not self._online and not self._faulty and age_s < _SILENT_S:
            self._show_status(online=True)

    def _show_status(self, *, online: bool | None = None) -> None:
        """Publish the status, None for the same again."""
        with self._states_lock:
            if self._closing:  # the last word is the publisher's
                return
            self._status_s = time.monotonic()
            self._online = self._online if online is None else online
            status = "online" if self._online else "offline"
            self._publisher.set_state(self._topics.status, status)

    # --- on the publisher's thread

    def _tick(self) -> None:
        self._disk.recover(_PART, "the disk goes on, and so does MQTT")
        now_s = time.monotonic()
        silent = now_s - self._last_frame_s > self._silent_s
        lost = self._online and (silent or self._faulty)
        if lost:
            self._show_status(online=False)
        elif now_s - self._status_s >= _STATUS_EVERY_S:
            # others may have written there, such as a bridge with a late will of ours
            self._show_status()
        if lost or now_s - self._visit_over_s > _NO_FRAME_S:
            self._show_birds(0)
        if self._visits.turn():
            self._publish_visits_today()
        if now_s - self._kept_s >= _KEEP_EVERY_S:
            self._keep_commands()
        if self._discover_s is not None and now_s >= self._discover_s:
            self._discover_s = None
            self._discover()
        if self._republish_s is not None and now_s >= self._republish_s:
            self._republish_s, self._republished_s = None, now_s
            self._publisher.publish_all()

    def _publish_visits_today(self) -> None:
        self._publisher.keep("visits_today", self._visits.write())
        self._publisher.set_state(self._topics.visits_today, str(self._visits.count))

    def _discover(self) -> None:
        """Tell Home Assistant what has changed since somebody told it last."""
        if not self._discovery_wanted:
            if self._found and self._discovery_wanted is not None:
                self._publisher.set_state(self._discovery_topic, b"", once=True)
            return
        payload = with_removals(self._discovery, self._found)
        message = msgspec.json.encode(payload)
        if message == self._found:
            return
        # Once: after a reconnect it is compared again.
        self._publisher.set_state(self._discovery_topic, message, once=True)
        self._found = message
        if payload is not self._discovery:  # once more, without what has now been removed
            self._discover_s = time.monotonic() + _RETAINED_S

    # --- on the connection's thread

    def _handle_subscribed(self) -> None:
        self._found = None
        self._discover_s = time.monotonic() + _RETAINED_S
        self._republished_s = time.monotonic()
        if self._former is not None:
            self._former.try_now()

    def _handle_message(self, message: Message) -> None:
        if message.topic == self._discovery_topic:
            if message.retain:
                self._found = message.payload
        elif message.topic in self._hub_status:
            # A hub that starts has forgotten our states. It is not let down when it starts often.
            if message.payload == b"online" and not message.retain and self._republish_s is None:
                self._republish_s = max(time.monotonic(), self._republished_s + _REPUBLISH_S)
        else:
            self._obey(message)

    def _obey(self, message: Message) -> None:
        name = self._commands.get(message.topic)
        if name is None:
            return
        try:
            # A retained command would be obeyed again at each reconnect.
            value = None if message.retain else parse_command(name, message.payload)
        except ValueError:
            self._complain(f"a command that is none was ignored on {message.topic}")
            return
        if message.retain:
            self._complain(f"a retained command was ignored on {message.topic}")
        elif name == "snapshot":
            self._controls.ask_for_snapshot()
        elif name == "enabled":
            self._set_enabled(value is True)
        elif value is not None:
            self._set_threshold(float(value))

    def _complain(self, problem: str) -> None:
        """Log a problem of somebody else's making, at most once a minute."""
        now_s = time.monotonic()
        if now_s - self._complained_s >= _COMPLAIN_S:
            self._complained_s = now_s
            logger.warning("%s", problem)

    # --- controls

    def _set_enabled(self, enabled: bool) -> None:
        if enabled != self._controls.enabled:
            self._controls.enabled = enabled
            self._keep_soon("enabled", json.dumps(enabled))
        self._publish_controls()

    def _set_threshold(self, threshold: float) -> None:
        if threshold != self._controls.threshold:
            self._controls.threshold = threshold
            overrule = json.dumps({"threshold": threshold, "over": self._configured_threshold})
            self._keep_soon("threshold", overrule)
        self._publish_controls()

    def _keep_soon(self, name: str, value: str) -> None:
        with self._states_lock:
            self._unkept[name] = value

    def _keep_commands(self) -> None:
        with self._states_lock:
            if self._unkept:
                self._kept_s = time.monotonic()
            while self._unkept:
                self._publisher.keep(*self._unkept.popitem())

    def _publish_controls(self) -> None:
        enabled = "ON" if self._controls.enabled else "OFF"
        self._publisher.set_state(self._topics.value("enabled"), enabled)
        threshold = f"{self._controls.threshold:.3g}"
        self._publisher.set_state(self._topics.value("threshold"), threshold)

    def _restore(self, kept: dict[str, str]) -> None:
        self._configured_threshold = self._controls.threshold
        self._controls.enabled = kept.get("enabled") != "false"
        overrule = read_kept(kept.get("threshold"), _Overrule)
        if overrule is not None and overrule.over == self._configured_threshold:
            self._controls.threshold = overrule.threshold
            logger.info("the threshold is %g, as asked over MQTT", self._controls.threshold)
        if not self._controls.enabled:
            logger.warning("detection is off, as asked over MQTT")


class _Overrule(msgspec.Struct, frozen=True):
    """A threshold that was asked for, and the configured one that it stands for."""

    threshold: Annotated[float, Meta(ge=LOWEST_THRESHOLD, le=HIGHEST_THRESHOLD)]
    over: float


class _KeptCount(msgspec.Struct, frozen=True):
    """A `_DayCount` as it is kept."""

    day: date
    count: Number


class _DayCount:
    """Counts what happens on a day of this machine's clock and zone.

    A clock that is set back (a Pi has none that runs while it is off) does not begin a new day,
    unless it stays behind: then it was ahead before.
    """

    def __init__(self, day: date, count: int) -> None:
        self._day = day
        self.count = count
        # since when the clock is behind, and what was counted since
        self._behind_s: float | None = None
        self._count_behind = 0

    @staticmethod
    def read(text: str | None) -> _DayCount:
        today = datetime.now().astimezone().date()
        kept = read_kept(text, _KeptCount)
        if kept is None:
            return _DayCount(today, 0)
        day_count = _DayCount(kept.day, kept.count)
        day_count.turn()
        return day_count

    def write(self) -> str:
        return json.dumps({"day": self._day.isoformat(), "count": self.count})

    def turn(self) -> bool:
        """Begin a new day if there is one."""
        time.tzset()  # another zone may have been set
        today = datetime.now().astimezone().date()
        if today < self._day:
            return self._turn_back(today)
        self._behind_s = None
        if today == self._day:
            return False
        self._day, self.count = today, 0
        return True

    def add(self) -> None:
        self.turn()
        self.count += 1
        self._count_behind += 1

    def _turn_back(self, today: date) -> bool:
        now_s = time.monotonic()
        if self._behind_s is None:
            self._behind_s, self._count_behind = now_s, 0
        if now_s - self._behind_s < _BELIEVE_CLOCK_S:
            return False
        self._day, self.count = today, self._count_behind
        return True


def _prepare(alert: Alert) -> bytes:
    """The alert as it leaves: with its age, and without a picture that is gone by now."""
    try:
        payload = decode(alert.payload)
    except ValueError:  # of another version of edgebird
        return alert.payload
    snapshot = payload.snapshot
    if snapshot is not None and not os.path.isfile(snapshot):
        snapshot = None
    age_s = round(max(0.0, time.time() - alert.created_s), 1)
    return encode(msgspec.structs.replace(payload, age_s=age_s, snapshot=snapshot))


def _claim_all(address: BrokerAddress, topics: Topics, path: Path | None) -> ExitStack:
    """Take what only one process may use: the camera's name at the broker, and its outbox.

    Raises:
        UsageError: another process has one of them.
    """
    names = [camera_at(address, topics)]
    if path is not None:
        names.append(str(path.absolute()))
    with ExitStack() as claims:
        for name in names:
            if (holder := claim(name, _CLAIM_S)) is None:
                raise UsageError(
                    f"another edgebird on this machine already serves camera {topics.camera!r} of "
                    f"device {topics.device!r}: set another name under [camera]"
                )
            claims.enter_context(holder)
        return claims.pop_all()


def _adopt_renamed(path: Path, source: str) -> Topics | None:
    """Take over the outbox that this camera had under another name; its former topics, if so."""
    if not source or path.exists():
        return None
    for other in sorted(path.parent.glob("*.sqlite")):
        topics = _topics_of(other.stem)
        holder = None if topics is None else claim(str(other.absolute()))
        if topics is None or holder is None:
            continue
        with holder:
            outbox = Outbox(other)
            same = outbox.kept().get("source") == source
            outbox.close()  # which also empties its -wal into the file
            if same:
                other.rename(path)
                return topics
    return None


def _file_stem(topics: Topics) -> str:
    return f"{topics.device}.{topics.camera}"


def _topics_of(stem: str) -> Topics | None:
    return Topics(*stem.split(".", 1)) if "." in stem else None
