"""The command line: ``edgebird detect``, ``classify``, ``watch`` and ``demo``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import msgspec

import edgebird
from edgebird.config import Config, load_config, overruled
from edgebird.errors import EdgebirdError, UsageError

if TYPE_CHECKING:
    from edgebird.mqtt.payloads import VisitPayload
    from edgebird.pictures import PictureResult

log = logging.getLogger("edgebird")

EXIT_CODES = """\b
Exit codes:
  0  fine
  1  an error of edgebird's own
  2  a flag or a setting does not fit
  3  a camera, video or picture cannot be read, in whole or in part
  4  the model does not fit its card, or cannot be loaded
  5  the MQTT broker cannot be reached (watch, demo) or refuses us
  6  a result cannot be written
"""


def main() -> NoReturn:
    """Entry point: errors become one line and an exit code."""
    try:
        cli.main(prog_name="edgebird", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EdgebirdError as error:
        click.echo(f"edgebird: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader is gone (`| head`). Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(edgebird.__version__, prog_name="edgebird")
def cli() -> None:
    """Watches a bird feeder: camera in, birds found on this machine, alerts out over MQTT.

    \b
    Try it without a camera:   edgebird demo
    On a picture of yours:     edgebird detect --source feeder.jpg
    On a camera:               edgebird detect --camera 0 --mqtt mqtt://broker.local
    Read the alerts:           edgebird watch --mqtt mqtt://broker.local
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)


MQTT = click.option(
    "--mqtt",
    metavar="URL",
    help="The broker: mqtt://[user:password@]host[:port].",
)


@cli.command(epilog=EXIT_CODES)
@click.option(
    "--camera",
    metavar="CAMERA",
    help="A camera: its number (0), its path (/dev/video0) or picamera2.",
)
@click.option(
    "--source",
    metavar="SOURCE",
    help="A stream's address (rtsp://, http://), a video, a picture, a folder or glob of "
    "pictures, or demo: (a drawn feeder).",
)
@MQTT
@click.option("--model", metavar="FILE", help="Another .tflite, with its card (.json) beside it.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="How sure a detection must be, 0 to 1: higher for fewer false alarms, lower for fewer "
    "missed birds. Default: the model's own.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads for the network. Default: all, up to 4."
)
@click.option(
    "--detector",
    type=click.Choice(["conv", "window"]),
    help="conv (default), or window: the classifier on every window, some hundred times slower.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Have the classifier take a second look at doubtful birds. Default: no.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output.")
@click.option(
    "--save", metavar="FOLDER", help="Keep annotated pictures: of each visit, or of each picture."
)
@click.option("--max-frames", type=click.IntRange(1), help="Stop after so many frames.")
@click.option("--sequence", is_flag=True, help="A folder's pictures are the frames of one camera.")
@click.option(
    "--fps",
    type=click.FloatRange(0, 240, min_open=True),
    help="Frames per second: of a --sequence (default 5), or asked of a camera.",
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A TOML file.")
def detect(
    camera: str | None,
    source: str | None,
    mqtt: str | None,
    model: str | None,
    threshold: float | None,
    threads: int | None,
    detector: str | None,
    verify: bool | None,
    as_json: bool,
    save: str | None,
    max_frames: int | None,
    sequence: bool,
    fps: float | None,
    config_path: Path | None,
) -> None:
    """Find birds on a camera, in a video or in pictures.

    Pictures are looked through one by one. On a video or a camera birds are followed, and each
    visit is reported when it starts and when it ends; with --mqtt also to a broker.

    \b
    Examples:
      edgebird detect --camera 0 --mqtt mqtt://user:password@broker.local --save snapshots
      edgebird detect --source holiday-pictures/ --json > birds.jsonl
      edgebird detect --source rtsp://camera.local/stream --threshold 0.6
    """
    if camera is not None and source is not None:
        raise UsageError("give --camera or --source, not both")
    config = overruled(
        load_config(config_path),
        camera={"source": camera if camera is not None else source, "fps": fps},
        detector={
            "model": model,
            "threshold": threshold,
            "threads": threads,
            "name": detector,
            "verify": verify,
        },
        mqtt={"url": mqtt},
        output={"save": save},
    )
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

    sink = JsonLinesSink(sys.stdout) if as_json else ConsoleSink(sys.stdout)
    summary = Summary()
    try:
        detect_on_camera(config, [sink], _progress_bar, summary, max_frames=max_frames)
    finally:
        if summary.frames:
            click.echo(f"done: {summary}", err=True)


def _detect_in_pictures(config: Config, as_json: bool, max_frames: int | None) -> None:
    from edgebird.detect import detect_in_pictures
    from edgebird.sinks.jsonl import JsonLinesSink, picture_record

    lines = JsonLinesSink(sys.stdout)
    pictures = birds = 0

    def show(result: PictureResult) -> None:
        nonlocal pictures, birds
        pictures += 1
        birds += len(result.detections)
        if as_json:
            lines.write(
                picture_record(
                    result.path.name, result.size, result.detections, result.inference_ms
                )
            )
        else:
            click.echo(_picture_line(result))

    try:
        detect_in_pictures(config, show, _progress_bar, max_pictures=max_frames)
    finally:
        if pictures:
            click.echo(f"done: {_count(pictures, 'picture')}, {_count(birds, 'bird')}", err=True)


def _picture_line(result: PictureResult) -> str:
    if not len(result.detections):
        return f"{result.path.name}: no bird"
    scores = ", ".join(f"{score:.2f}" for score in result.detections.score)
    return f"{result.path.name}: {_count(len(result.detections), 'bird')} ({scores})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar for sources with an end; on a terminal, and only if nothing else is written there."""
    if not total or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    with click.progressbar(length=total, label="looking", file=sys.stderr) as bar:
        yield lambda: bar.update(1)


@cli.command(epilog=EXIT_CODES)
@click.argument("pictures", nargs=-1, required=True)
@click.option("--model", metavar="FILE", help="Another .tflite, with its card (.json) beside it.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
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
    from edgebird.classify import Classifier, Verdict, classify_pictures
    from edgebird.interpreter import TfliteInterpreter, default_threads
    from edgebird.model import DEFAULT_CLASSIFIER, load_model

    def show(verdict: Verdict) -> None:
        name, probability = verdict.path.name, verdict.probability
        if as_json:
            record = {"image": name, "bird": verdict.bird, "probability": round(probability, 4)}
            click.echo(msgspec.json.encode(record))
        else:
            click.echo(f"{name}: {'bird' if verdict.bird else 'no bird'} ({probability:.2f})")

    loaded = load_model(Path(model) if model else DEFAULT_CLASSIFIER, "classifier")
    classifier = Classifier(TfliteInterpreter(loaded, default_threads()), loaded.card)
    classify_pictures(pictures, classifier, show, threshold=threshold)


@cli.command(epilog=EXIT_CODES)
@MQTT
@click.option("--device", default="+", help="Only the alerts of this device. Default: of all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def watch(mqtt: str | None, device: str, as_json: bool) -> None:
    """Print alerts as they come from a broker (default: one on this machine).

    Stop it with Ctrl-C.
    """
    from edgebird.mqtt.connection import parse_broker_url
    from edgebird.mqtt.payloads import encode
    from edgebird.mqtt.watch import format_alert
    from edgebird.mqtt.watch import watch as receive

    def show(alert: VisitPayload) -> None:
        click.echo(encode(alert).decode() if as_json else format_alert(alert))

    address = parse_broker_url(mqtt or "mqtt://localhost")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    receive(
        address,
        on_alert=show,
        stop=stop,
        device=device,
        on_ready=lambda: log.info("waiting for alerts from %s; stop with Ctrl-C", address),
    )


@cli.command(epilog=EXIT_CODES)
@click.option("--seconds", default=27.0, show_default=True, type=click.FloatRange(5, 3600))
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
