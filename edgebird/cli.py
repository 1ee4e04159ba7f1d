"""The command line: ``edgebird detect`` and the other commands."""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

import edgebird
from edgebird import logs
from edgebird.config import (
    MOST_THREADS,
    SERVICE_SETTINGS,
    Config,
    MqttSection,
    load_as_its_service,
    load_config,
    overruled,
)
from edgebird.errors import BrokerError, ConfigError, EdgebirdError, OutputError, UsageError

if TYPE_CHECKING:
    from edgebird.mqtt.payloads import VisitPayload
    from edgebird.pictures import PictureResult

log = logging.getLogger("edgebird")

SERVICE_CONFIG = SERVICE_SETTINGS / "edgebird.toml"

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

EXIT_CODES = """\b
Exit codes:
  0  fine
  1  any other error
  2  a flag or a setting does not fit
  3  a camera, video or picture cannot be read, or is cut short
  4  the model does not fit its card, or cannot be loaded
  5  the MQTT broker refuses us or cannot be reached (watch, broker-check,
     forget, doctor, demo)
  6  a result cannot be written
"""


def main() -> NoReturn:
    """Entry point: errors become one line and an exit code."""
    _open_closed_streams()
    try:
        cli.main(prog_name="edgebird", standalone_mode=False)
    except click.ClickException as error:
        if logs.is_json():
            log.error("%s", error.format_message())
        else:
            error.show()
        sys.exit(error.exit_code)
    except EdgebirdError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except OSError as error:
        # without a file's name it is a stream's; whatever else is written handles its own
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _discard_output()
        log.error("standard output cannot be written: %s", error.strerror)
        sys.exit(OutputError.exit_code)
    sys.exit(0)


def _open_closed_streams() -> None:
    """Those closed by whoever started us (`2>&-`), or what is opened next would pass for them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest that is free, so that it gets this number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _discard_output() -> None:
    """Python would complain once more about what it cannot write when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Commands(click.Group):
    """Ends quietly when the reader of its output is gone (`| head`), which click calls an error."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """As click does, which prints ``--help`` here."""
        with _quietly():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, which runs the command here."""
        with _quietly():
            return super().invoke(ctx)


@contextmanager
def _quietly() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _discard_output()
        sys.exit(0)


class _Number(click.FloatRange):
    """A number within a range, which "nan" is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(edgebird.__version__, prog_name="edgebird")
@click.option(
    "--log-json",
    is_flag=True,
    help="Messages on standard error as one JSON object a line. Stands before the command.",
)
def cli(log_json: bool) -> None:
    """Watches a bird feeder: camera in, birds found on this machine, alerts out over MQTT.

    \b
    Try it with no camera:  edgebird demo
    On a picture of yours:  edgebird detect --source feeder.jpg
    On a camera:            edgebird detect --camera 0 --mqtt mqtt://broker.local
    Read the alerts:        edgebird watch --mqtt mqtt://broker.local
    """
    # a name with letters that the terminal does not know is no reason to end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logs.set_up(as_json=log_json)


MQTT = click.option(
    "--mqtt",
    metavar="URL",
    help="The broker: mqtt://[user:password@]host[:port], or mqtts://, ws://, wss://. Others on "
    "this machine can see a password here; the configuration names better places.",
)
# whether it can be read is told in our words
CONFIG_FILE = click.Path(path_type=Path, readable=False)
CONFIG = click.option("--config", "config_path", type=CONFIG_FILE, help="A TOML file.")
CONFIG_OR_SERVICES = click.option(
    "--config",
    "config_path",
    type=CONFIG_FILE,
    callback=lambda _context, _option, path: path or _service_config(),
    help=f"A TOML file. Default: {SERVICE_CONFIG}, if it is there.",
)

CAMERA = click.option(
    "--camera",
    metavar="CAMERA",
    help="A camera: its number (0), its path (/dev/video0), picamera2, or a name from `edgebird "
    "cameras`.",
)
SOURCE = click.option(
    "--source",
    metavar="SOURCE",
    help="A stream's address (rtsp://, http://), a video, a picture, a folder or glob of "
    "pictures, or demo: (a drawn feeder).",
)
MODEL = click.option(
    "--model", metavar="FILE", help="Another .tflite, with its card (.json) beside it."
)

# The settings that flags overrule.
_FLAGS = {
    "camera": "camera.source",
    "source": "camera.source",
    "fps": "camera.fps",
    "model": "detector.model",
    "threshold": "detector.threshold",
    "threads": "detector.threads",
    "detector": "detector.name",
    "verify": "detector.verify",
    "compare": "detector.compare",
    "mqtt": "mqtt.url",
    "save": "output.save",
}


def _with_flags(config: Config, flags: Mapping[str, Any]) -> Config:
    """The configuration with what the command line says put over it."""
    if flags.get("camera") is not None and flags.get("source") is not None:
        raise UsageError("give --camera or --source, not both")
    changes: dict[str, dict[str, Any]] = {}
    for flag, value in flags.items():
        section, _, key = _FLAGS[flag].partition(".")
        if value is not None:
            changes.setdefault(section, {})[key] = value
    return overruled(config, **changes)


@cli.command(epilog=EXIT_CODES, short_help="Find birds on cameras, in videos or pictures.")
@CAMERA
@SOURCE
@MQTT
@MODEL
@click.option(
    "--threshold",
    type=_Number(0, 1, min_open=True, max_open=True),
    help="How sure a detection must be, 0 to 1: higher for fewer false alarms, lower for fewer "
    "missed birds. Default: the model's own.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    help="CPU threads for the network. Default: all, up to 4.",
)
@click.option(
    "--detector",
    type=click.Choice(["conv", "window"]),
    help="conv (default), or window: the classifier on every window, some hundred times slower.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Have the classifier take a second look at doubtful birds. Default: yes.",
)
@click.option(
    "--compare/--no-compare",
    default=None,
    help="Compare pictures of one place, so that what is new counts for more. Default: yes.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object a line: each frame or picture, each visit's start and end. A frame's "
    "`time` is in seconds since some start, not a date.",
)
@click.option(
    "--save", metavar="FOLDER", help="Keep annotated pictures: of each visit, or of each picture."
)
@click.option("--max-frames", type=click.IntRange(1), help="Stop after so many frames.")
@click.option(
    "--wait-for-camera",
    is_flag=True,
    help="Wait for a camera that is not there yet, in place of giving up: for a service.",
)
@click.option("--sequence", is_flag=True, help="A folder's pictures are the frames of one camera.")
@click.option(
    "--fps",
    type=_Number(0.001, 240),
    help="Frames per second: of a --sequence (default 5), or asked of a camera.",
)
@CONFIG
def detect(
    as_json: bool,
    max_frames: int | None,
    wait_for_camera: bool,
    sequence: bool,
    config_path: Path | None,
    **flags: Any,
) -> None:
    """Find birds on a camera, in a video or in pictures.

    Pictures are looked through one by one; where five and more show the same place, as those of
    one camera do, what is new in one counts for more, for more still where its birds all score
    low, and what is always there for less. On a video or a camera birds are followed, and each
    visit is reported when it starts and when it ends; with --mqtt also to a broker. SIGHUP has
    the --config read again.

    \b
    Examples:
      edgebird detect --camera 0 --mqtt mqtt://broker.local --save snapshots
      edgebird detect --source holiday-pictures/ --json > birds.jsonl
      edgebird detect --source rtsp://camera.local/stream --threshold 0.6
    """

    def load() -> Config:
        return _with_flags(load_config(config_path), flags)

    config = load()
    if config.camera.source is None:
        raise UsageError("what to look at? Give --camera 0, or --source FILE; see --help")

    from edgebird.camera import is_pictures

    if is_pictures(config.camera.source) and not sequence:
        _detect_in_pictures(config, as_json, max_frames)
        return

    from edgebird.detect import detect_on_camera
    from edgebird.pipeline import Summary
    from edgebird.sinks.console import ConsoleSink
    from edgebird.sinks.jsonl import JsonLinesSink

    sink = (
        JsonLinesSink(sys.stdout.buffer)
        if as_json
        else ConsoleSink(sys.stdout, times=not logs.is_journal(sys.stdout))
    )
    summary = Summary()
    again = None if config_path is None else load
    try:
        detect_on_camera(
            config,
            [sink],
            _progress_bar,
            summary,
            max_frames=max_frames,
            load=again,
            wait_for_camera=wait_for_camera,
        )
    finally:
        if summary.frames:
            log.info("done: %s", summary)


def _detect_in_pictures(config: Config, as_json: bool, max_frames: int | None) -> None:
    from edgebird.detect import detect_in_pictures
    from edgebird.sinks.jsonl import JsonLinesSink, picture_record

    lines = JsonLinesSink(sys.stdout.buffer)
    pictures = birds = 0

    def show(result: PictureResult) -> None:
        nonlocal pictures, birds
        pictures += 1
        birds += len(result.detections)
        if as_json:
            lines.write(
                picture_record(result.name, result.size, result.detections, result.inference_ms)
            )
        else:
            click.echo(_picture_line(result))

    try:
        detect_in_pictures(config, show, _progress_bar, max_pictures=max_frames)
    finally:
        if pictures:
            log.info("done: %s, %s", _count(pictures, "picture"), _count(birds, "bird"))


def _picture_line(result: PictureResult) -> str:
    from edgebird.sinks.jsonl import printable

    name = printable(result.name)
    if not len(result.detections):
        return f"{name}: no bird"
    scores = ", ".join(f"{score:.2f}" for score in result.detections.score)
    return f"{name}: {_count(len(result.detections), 'bird')} ({scores})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


@contextmanager
def _progress_bar(total: int, doing: str) -> Iterator[Callable[[], None]]:
    """A bar for sources with an end; on a terminal, and only if nothing else is written there."""
    if not total or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    with click.progressbar(length=total, label=doing, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


@cli.command(epilog=EXIT_CODES, short_help="Say of pictures whether they show a bird.")
@click.argument("pictures", nargs=-1, required=True)
@MODEL
@click.option(
    "--threshold",
    type=_Number(0, 1, min_open=True, max_open=True),
    help="How likely a bird must be to say so, 0 to 1. Default: the model's own.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def classify(
    pictures: tuple[str, ...], model: str | None, threshold: float | None, as_json: bool
) -> None:
    """Say of each of PICTURES, folders or globs whether it shows a bird.

    For pictures of one thing, from 32 pixels up: the picture is looked at as a whole. Where in a
    picture birds are, and whether there are small ones in a large picture, 'detect' says.

    \b
    Examples:
      edgebird classify bird.jpg plane.png
      edgebird classify crops/ --json > verdicts.jsonl
    """
    from edgebird.classify import Verdict, classify_pictures, open_classifier
    from edgebird.interpreter import default_threads
    from edgebird.model import DEFAULT_CLASSIFIER
    from edgebird.sinks.jsonl import printable

    def show(verdict: Verdict) -> None:
        name, probability = printable(verdict.name), verdict.probability
        if as_json:
            record = {"image": name, "bird": verdict.bird, "probability": round(probability, 4)}
            click.echo(msgspec.json.encode(record))
        else:
            click.echo(f"{name}: {'bird' if verdict.bird else 'no bird'} ({probability:.2f})")

    path = Path(model) if model else DEFAULT_CLASSIFIER
    classifier = open_classifier(default_threads(), path, thorough=True)
    classify_pictures(pictures, classifier, show, threshold=threshold)


@cli.command(epilog=EXIT_CODES, short_help="List the cameras of this machine.")
def cameras() -> None:
    """List the cameras of this machine: what to give to --camera, names that stay the same
    wherever a camera is plugged in, and the sizes and rates it offers.
    """
    from edgebird.camera.listing import camera_lines
    from edgebird.camera.picamera import list_picameras
    from edgebird.camera.v4l2 import list_devices
    from edgebird.errors import CameraError

    try:
        ribbon_cameras = list_picameras()
        hint = ""
    except CameraError as error:
        ribbon_cameras = []
        hint = f"; ribbon cameras cannot be asked: {error}"
    lines = camera_lines(list_devices(), ribbon_cameras)
    click.echo("\n".join(lines) if lines else f"no camera found{hint}", err=not lines)
    if lines and hint:
        log.info("%s", hint.lstrip("; "))


@cli.command(epilog=EXIT_CODES, short_help="Print alerts as they come from a broker.")
@MQTT
@CONFIG
@click.option("--device", default="+", help="Only the alerts of this device. Default: of all.")
@click.option("--share", metavar="GROUP", help="Divide the alerts among all watchers of a group.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--bell", is_flag=True, help="Ring the terminal's bell when a bird arrives.")
@click.option(
    "--exec",
    "command",
    metavar="COMMAND",
    help="Run a program for each alert, which it finds as JSON on its standard input and in "
    "EDGEBIRD_... variables. Quote arguments as in a shell; no shell is run.",
)
def watch(
    mqtt: str | None,
    config_path: Path | None,
    device: str,
    share: str | None,
    as_json: bool,
    bell: bool,
    command: str | None,
) -> None:
    """Print alerts as they come from a broker (default: one on this machine).

    Stop it with Ctrl-C.

    \b
    Examples:
      edgebird watch --mqtt mqtt://broker.local --bell
      edgebird watch --mqtt mqtt://broker.local --json >> visits.jsonl
      edgebird watch --mqtt mqtt://broker.local --exec "notify-send 'A bird'"
    """
    from edgebird.mqtt.address import broker_address
    from edgebird.mqtt.alert_command import AlertCommand
    from edgebird.mqtt.payloads import encode
    from edgebird.mqtt.watch import format_alert
    from edgebird.mqtt.watch import watch as receive

    address = broker_address(_mqtt_settings(mqtt, config_path))
    run_command = None if command is None else AlertCommand(command)

    def show(alert: VisitPayload) -> None:
        arrives = alert.event_type == "start"
        line = encode(alert) if as_json else format_alert(alert)
        # click drops the colour where no terminal reads
        click.echo(line if as_json else click.style(line, fg="green" if arrives else None))
        if bell and arrives:
            click.echo("\a", nl=False, err=True)
        if run_command is not None:
            run_command(alert)

    stop = threading.Event()
    previous: dict[int, Any] = {}

    def end(*_: object) -> None:
        # so that a second signal ends a watch whose output nobody reads
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, end)
    receive(
        address,
        on_alert=show,
        stop=stop,
        device=device,
        share=share,
        on_ready=lambda: log.info("waiting for alerts from %s; stop with Ctrl-C", address),
    )


@cli.group(
    invoke_without_command=True,
    epilog=EXIT_CODES,
    short_help="List, export or draw the visits seen.",
)
@CONFIG
@click.option(
    "--state",
    metavar="FOLDER",
    help="Where edgebird remembers visits. Default: as configured, else those of this user and "
    "those of the service.",
)
@click.option("--camera", metavar="NAME", help="Only those of one camera.")
@click.option(
    "--since", metavar="WHEN", help="Only later ones: 2026-03-14, 2026-03-14T08:00, today, 24h, 7d."
)
@click.option("--kept", is_flag=True, help="Only those that are kept for ever.")
@click.option(
    "--last",
    type=click.IntRange(1, 1_000_000),
    help="Only so many, the newest. Default of the list, without --since: 20.",
)
@click.option("--csv", "as_csv", is_flag=True, help="A table for other programs; times in UTC.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; times in UTC.")
@click.option("--chart", is_flag=True, help="Draw them by hour of the day and by day, right here.")
@click.option("--plot", metavar="FILE", help="Draw that as a picture, a .png.")
@click.pass_context
def visits(
    context: click.Context,
    config_path: Path | None,
    state: str | None,
    camera: str | None,
    since: str | None,
    kept: bool,
    last: int | None,
    as_csv: bool,
    as_json: bool,
    chart: bool,
    plot: str | None,
) -> None:
    """List the visits that were seen, newest last; export or draw them.

    The visits of cameras are remembered while 'edgebird detect' runs, also as a service.

    \b
    Examples:
      edgebird visits --since today
      edgebird visits --camera feeder --csv > visits.csv
      edgebird visits --since 4w --plot visits.png
      edgebird visits keep feeder-20260314T083005120
    """
    from dataclasses import replace
    from datetime import datetime

    from edgebird.history.listing import (
        csv_lines,
        parse_since,
        select_starts,
        select_visits,
        stores,
        visit_line,
        visit_record,
    )
    from edgebird.history.store import Choice

    setting = state or load_as_its_service(config_path).mqtt.state
    if context.invoked_subcommand is not None:
        context.obj = setting
        return
    if as_csv + as_json + chart > 1:
        raise UsageError("give one of --csv, --json and --chart")
    if plot is not None and not plot.endswith(".png"):
        raise UsageError(f"a plot is a PNG: end its name with .png, not as in {plot}")
    moment = None if since is None else parse_since(since, datetime.now().astimezone())
    listed = not (as_csv or as_json or chart or plot)
    if last is None and since is None and listed:
        last = 20
    choice = Choice(
        since_s=-math.inf if moment is None else moment.timestamp(),
        camera=camera,
        kept=kept,
        last=last,
    )
    # all for charts, else whether there are any, and more than are wanted
    most = None if last is None and (chart or plot is not None) else (last or 0) + 1
    paths = stores(setting)
    unreadable: dict[Path, EdgebirdError] = {}
    starts = select_starts(paths, replace(choice, last=most), unreadable)
    if unreadable and not starts:
        raise _all_but_last_told(unreadable)
    earlier = last is not None and len(starts) > last
    starts = starts[-last:] if last else starts
    if not starts and not (as_csv or as_json):
        click.echo("no such visit is stored", err=True)
    if as_csv or as_json or listed:
        chosen = select_visits(paths, choice, unreadable)
        if as_csv:
            _print(csv_lines(chosen))
        elif as_json:
            # JSON is UTF-8, whatever the terminal's letters
            sys.stdout.buffer.writelines(
                msgspec.json.encode(visit_record(visit)) + b"\n" for visit in chosen
            )
            sys.stdout.buffer.flush()
        else:
            _print(map(visit_line, chosen))
        if listed and last is not None and earlier:
            wider = f"--last {max(100, 5 * last)}{' or --since 7d' if since is None else ''}"
            click.echo(f"there are earlier ones; {wider} shows more", err=True)
    if chart or plot is not None:
        from edgebird.history.charts import chart_lines, write_plot

        if chart and starts:
            width = shutil.get_terminal_size().columns
            click.echo("\n".join(chart_lines(starts, width, blocks=_shows_blocks())))
        if plot is not None:
            # also without visits, or an older picture would pass for this one
            write_plot(starts, Path(plot))
            click.echo(f"drawn: {plot}", err=True)
    if unreadable:
        raise _all_but_last_told(unreadable)


def _print(lines: Iterable[str]) -> None:
    """Print lines as they come; many, so not each is flushed."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _all_but_last_told(unreadable: Mapping[Path, EdgebirdError]) -> EdgebirdError:
    *others, last = unreadable.values()
    for error in others:
        log.warning("%s", error)
    return last


def _shows_blocks() -> bool:
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@visits.command(epilog=EXIT_CODES)
@click.argument("ids", metavar="VISIT...", nargs=-1, required=True)
@click.option("--undo", is_flag=True, help="Do not keep them any more.")
@click.pass_obj
def keep(setting: str | None, ids: tuple[str, ...], undo: bool) -> None:
    """Keep visits and their pictures for ever.

    The pictures move into the folder 'kept' beside the others, where nothing is deleted.
    """
    from edgebird.history.listing import set_kept, stores

    set_kept(stores(setting), ids, keep=not undo)


@cli.command(
    "broker-check", epilog=EXIT_CODES, short_help="Find out whether a broker suits edgebird."
)
@MQTT
@CONFIG
def broker_check(mqtt: str | None, config_path: Path | None) -> None:
    """Find out whether a broker does what edgebird needs, and how quickly.

    It publishes a few messages under edgebird/DEVICE/check-... and reads them back.
    """
    from edgebird.mqtt.address import broker_address
    from edgebird.mqtt.check import check_broker
    from edgebird.mqtt.topics import default_device

    settings = _mqtt_settings(mqtt, config_path)
    address = broker_address(settings)
    report = check_broker(address, device=settings.device or default_device())
    transport = {"mqtt": "TCP", "mqtts": "TLS", "ws": "WebSocket", "wss": "WebSocket over TLS"}
    yes = {True: "yes", False: "no"}
    picture = "not accepted" if report.picture_ms is None else f"{report.picture_ms:.0f} ms"
    lines = {
        "broker": f"{address}, MQTT {address.version} over {transport[address.scheme]}",
        "connect": f"{report.connect_ms:.0f} ms",
        "acknowledged": f"{report.acknowledged_ms:.1f} ms",
        "there and back": f"{report.arrived_ms:.1f} ms, at most {report.slowest_ms:.1f} ms",
        "picture (120 kB)": picture,
        "keeps retained": yes[report.retained],
        "shared subscriptions": yes[report.shared],
    }
    told = {
        "messages under way": report.limits.receive_maximum,
        "largest packet": report.limits.maximum_packet_size,
        "highest QoS": report.limits.maximum_qos,
        "keep-alive": report.limits.server_keepalive_s,
    }
    lines |= {name: str(value) for name, value in told.items() if value is not None}
    for name, value in lines.items():
        click.echo(f"{name:<22}{value}")
    if not report.retained:
        raise BrokerError(
            f"the MQTT broker at {address} keeps no retained messages, which edgebird needs"
        )


@cli.command(epilog=EXIT_CODES, short_help="Take a camera that is gone off the broker.")
@MQTT
@CONFIG
@click.option("--device", help="Default: this one.")
@click.option("--camera", required=True, help="The camera's name, as in its topics.")
def forget(mqtt: str | None, config_path: Path | None, device: str | None, camera: str) -> None:
    """Take a camera that is gone for good off the broker, and out of Home Assistant."""
    from edgebird.mqtt.address import broker_address
    from edgebird.mqtt.forget import forget_camera
    from edgebird.mqtt.topics import Topics, default_device

    settings = _mqtt_settings(mqtt, config_path)
    topics = Topics(device or settings.device or default_device(), camera)
    cleared = forget_camera(broker_address(settings), topics, settings.discovery_prefix)
    for topic in cleared:
        click.echo(f"cleared {topic}")
    if not cleared:
        click.echo(f"the broker has nothing of {topics.base}")


def _mqtt_settings(url: str | None, config_path: Path | None) -> MqttSection:
    return overruled(load_as_its_service(config_path), mqtt={"url": url}).mqtt


@cli.group("config", short_help="Make, show and check a file of settings.")
def config_group() -> None:
    """Make, show and check the file of settings that --config takes."""


@config_group.command(
    "init", epilog=EXIT_CODES, short_help="Write a file with all settings explained."
)
@click.option(
    "--config",
    "config_path",
    type=CONFIG_FILE,
    default="edgebird.toml",
    show_default=True,
    help="The file to write.",
)
@CAMERA
@SOURCE
@MQTT
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def config_init(config_path: Path, yes: bool, force: bool, **flags: Any) -> None:
    """Write a file with all settings and what they mean.

    On a terminal you are asked for the camera and the broker, and can send a test alert. Without
    one, or with --yes, only what the flags say is set; all else stays at its default.

    \b
    Examples:
      edgebird config init
      sudo edgebird config init --config /etc/edgebird/edgebird.toml
    """
    from edgebird.configure.init import ask, found_sources, write_config

    _with_flags(Config(), flags)  # raises what is wrong with them
    answers = {_FLAGS[flag]: value for flag, value in flags.items() if value is not None}
    if os.path.lexists(config_path) and not force:
        raise UsageError(f"{config_path} is there already: give another --config, or --force")
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        from edgebird.camera.v4l2 import list_devices

        answers = ask(lambda: found_sources(list_devices()), answers)
    if write_config(config_path, answers):
        click.echo(f"{config_path} holds a password: not everybody can read it")
    click.echo(f"written: {config_path}; next: edgebird doctor --config {config_path}")


def _detect_flags() -> list[click.Parameter]:
    """The flags of `detect` that overrule settings."""
    return [parameter for parameter in detect.params if parameter.name in _FLAGS]


@config_group.command(
    "show",
    epilog=EXIT_CODES,
    params=_detect_flags(),
    short_help="Show which settings hold, and why.",
)
@CONFIG_OR_SERVICES
def config_show(config_path: Path | None, **flags: Any) -> None:
    """Show the settings that hold, and where each comes from: the default, the file, a flag or
    the environment.

    Takes the same flags as 'detect'. Passwords are not shown.
    """
    from edgebird.configure.show import effective_settings, setting_lines

    settings = _with_flags(load_config(config_path), flags)
    given = {_FLAGS[flag]: f"--{flag}" for flag, value in flags.items() if value is not None}
    click.echo("\n".join(setting_lines(effective_settings(settings, config_path, given))))


@config_group.command("check", epilog=EXIT_CODES, short_help="Find mistakes in a file of settings.")
@CONFIG_OR_SERVICES
def config_check(config_path: Path | None) -> None:
    """Find mistakes in a file of settings, and in what it refers to.

    That is the model, files with passwords and certificates, folders to write to, and zones; all
    as this user sees them. Whether camera and broker are there, 'edgebird doctor' finds out.
    Prints one line for each problem.
    """
    from edgebird.configure.check import file_problems, model_problems, reference_problems

    if config_path is None:
        raise UsageError(f"which file? Give --config FILE: there is no {SERVICE_CONFIG}")
    problems = file_problems(config_path)
    if not problems:
        settings = load_as_its_service(config_path)
        problems = [*reference_problems(settings), *model_problems(settings)]
    for problem in problems:
        click.echo(f"{config_path}: {problem}", err=True)
    if problems:
        sys.exit(UsageError.exit_code)
    click.echo(f"{config_path}: no mistake found")


def _service_config() -> Path | None:
    """The service's settings if there are any, or a folder that this user may not look into."""
    try:
        SERVICE_CONFIG.stat()
    except PermissionError:
        pass
    except OSError:
        return None
    return SERVICE_CONFIG


@cli.command(epilog=EXIT_CODES, short_help="Find what keeps edgebird from working well.")
@CAMERA
@SOURCE
@MQTT
@MODEL
@CONFIG_OR_SERVICES
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(config_path: Path | None, as_json: bool, **flags: Any) -> None:
    """Look through this machine and its settings for what keeps edgebird from working well.

    It takes a picture with the camera and sends a few messages to the broker; nothing leaves the
    local network. Each line is ok, warn (it works, but look at it), fail, or skip (not used, or
    cannot be known), with the cure below. The exit code is 0 if nothing failed, else that of
    the first thing that did.

    \b
    Examples:
      edgebird doctor
      edgebird doctor --camera 0 --mqtt mqtt://broker.local
    """
    from edgebird.doctor import Installation, checks, examine
    from edgebird.doctor.machine import Machine

    machine = Machine()
    try:
        settings = load_as_its_service(config_path)
    except ConfigError:  # which the doctor will find, too
        settings = Config()
    installation = Installation(
        machine=machine, config=_with_flags(settings, flags), config_path=config_path
    )
    findings = []
    for examination, check in examine(installation, checks.EXAMINATIONS):
        findings.append((examination, check))
        if not as_json:
            click.echo("\n".join(checks.check_lines(examination.name, check)))
    if as_json:
        click.echo(json.dumps(checks.as_json(findings)))
    sys.exit(checks.exit_code(findings))


@cli.command(epilog=EXIT_CODES, short_help="Measure how fast this board is.")
@MODEL
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    help="Most threads to try. Default: all, to 4.",
)
@click.option("--runs", default=30, show_default=True, type=click.IntRange(5, 10000))
@click.option(
    "--idle-seconds",
    default=10.0,
    show_default=True,
    type=_Number(0, 3600),
    help="How long to watch a still scene; 0 leaves that out.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def bench(
    model: str | None, threads: int | None, runs: int, idle_seconds: float, as_json: bool
) -> None:
    """Measure this board: the network, all that is around it, and what a still scene costs.

    Takes about a minute. Stop edgebird before, or it measures what that leaves.
    """
    from edgebird.bench import bench as measure
    from edgebird.interpreter import default_threads
    from edgebird.model import DEFAULT_DETECTOR, load_model

    result = measure(
        load_model(Path(model) if model else DEFAULT_DETECTOR, "detector"),
        threads or default_threads(),
        runs=runs,
        idle_s=idle_seconds,
        on_step=lambda step: log.info("measuring %s", step),
    )
    click.echo(json.dumps(result.as_json()) if as_json else "\n".join(result.lines()))


@cli.command(epilog=EXIT_CODES, short_help="Play a scripted day through the program.")
@click.argument("scenario", default="day")
@click.option("--days", type=_Number(0, 60, min_open=True), help="Only so many days.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--save", metavar="FOLDER", help="Keep annotated pictures of the visits.")
@MODEL
@CONFIG
def replay(
    scenario: str,
    days: float | None,
    as_json: bool,
    save: str | None,
    model: str | None,
    config_path: Path | None,
) -> None:
    """Replay a scenario through the whole program, faster than real time, and judge the result.

    SCENARIO is a TOML file (edgebird/camera/scenario.py describes it), or one of these: day, week
    (drawn visits, clouds, wind, nights, and a camera with a loose cable). Ctrl-C stops it, and what
    came until then is judged.
    """
    from msgspec.structs import replace

    from edgebird.camera.scenario import ScenarioCamera, load_scenario, week
    from edgebird.config import CameraSection, OutputSection
    from edgebird.detect import detect_on_camera
    from edgebird.pipeline import Summary
    from edgebird.replay import Judge

    script = (
        week(days or {"day": 1.0, "week": 7.0}[scenario])
        if scenario in ("day", "week")
        else load_scenario(Path(scenario))
    )
    if days is not None:
        script = replace(script, days=days)
    # Of the settings only what decides what is found: camera, broker and pictures are a real one's.
    config = overruled(
        replace(
            load_as_its_service(config_path),
            camera=CameraSection(name="replay"),
            mqtt=MqttSection(),
            output=OutputSection(save=save),
        ),
        detector={"model": model},
    )
    # What the script does to the camera need not be told.
    log.setLevel(logging.ERROR)
    camera = ScenarioCamera(script)
    judge = Judge(camera.stays)
    detect_on_camera(config, [judge], _progress_bar, Summary(), camera=camera)
    verdict = judge.verdict(stopped=camera.stopped)
    if as_json:
        click.echo(json.dumps(verdict.as_json()))
    else:
        click.echo("\n".join(verdict.lines()))


@cli.command(epilog=EXIT_CODES, short_help="Show it at work, without camera or broker.")
@click.option("--seconds", default=27.0, show_default=True, type=_Number(5, 3600))
@click.option("--seed", default=0, show_default=True, help="Another seed draws other visits.")
@click.option("--save", default="snapshots", show_default=True, help="Folder for snapshots.")
def demo(seconds: float, seed: int, save: str) -> None:
    """Show the whole way from camera to alert, without a camera or a broker.

    A drawn feeder with birds that come and go is what the camera sees; the network that edgebird
    ships has to find them. A small MQTT broker runs inside, and the alerts printed are those that
    a subscriber received from it.
    """
    from edgebird.demo import run_demo

    run_demo(seconds, seed, Path(save))


if __name__ == "__main__":
    main()
