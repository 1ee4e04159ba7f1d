"""The program as a user runs it: real files, the shipped model, exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import paho.mqtt.client
import pytest
from conftest import Mosquitto, eventually, fill, tmpfs
from test_demo_scene import visible_birds
from test_mqtt import visit_changed
from test_mqtt_delivery import publishing_process, retained

from edgebird.bench import BenchResult
from edgebird.camera.demo import DemoFeeder
from edgebird.cli import cli
from edgebird.detector.merge import pairwise_overlap
from edgebird.mqtt.address import BrokerAddress
from edgebird.mqtt.payloads import encode, visit_payload
from edgebird.structures import VisitChanged

FEEDER = DemoFeeder(seed=0, seconds=9, fps=5, pace=False)
EMPTY_S, BIRD_S = 0.4, 4.0
QUICK_DEMO = "demo:?seconds=9&fps=5&pace=0"


def edgebird(*arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgebird.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def lines_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def write_picture(path: Path, t_s: float) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(FEEDER.render(t_s), cv2.COLOR_RGB2BGR))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_picture(folder / "1-empty.png", EMPTY_S)
    write_picture(folder / "2-bird.jpg", BIRD_S)
    whole = (folder / "2-bird.jpg").read_bytes()
    (folder / "3-cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "4-text.jpg").write_text("this is no picture")
    write_picture(folder / "10-bird.png", BIRD_S)
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "feeder.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (640, 480))
    for i in range(45):
        writer.write(cv2.cvtColor(FEEDER.render(i / 5), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def assert_one_clear_line(result: subprocess.CompletedProcess[str], code: int, word: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    complaints = [line for line in result.stderr.splitlines() if not line.startswith("done:")]
    assert len(complaints) == 1, result.stderr
    assert word in complaints[0]


# --- pictures


def test_pictures_are_scanned_one_by_one_and_bad_ones_do_not_stop_it(
    pictures: Path, tmp_path: Path
) -> None:
    result = edgebird("detect", "--source", pictures, "--json", "--save", tmp_path / "out")
    records = lines_of(result)
    assert [r["image"] for r in records] == ["1-empty.png", "2-bird.jpg", "10-bird.png"]
    assert all(r["size"] == [640, 480] for r in records)
    assert all(r["inference_ms"] > 0 for r in records)
    assert [len(r["detections"]) for r in records] == [0, 1, 1]
    [truth] = visible_birds(FEEDER, BIRD_S)
    for record in records[1:]:
        [bird] = record["detections"]
        iou, _ = pairwise_overlap(
            np.array([bird["box"]], np.float32), np.array([truth], np.float32)
        )
        assert iou[0, 0] > 0.5
        assert 0 < bird["score"] <= 1
    assert result.returncode == 3
    complaints = result.stderr.splitlines()
    assert [name for name in ("3-cut.jpg", "4-text.jpg") if name in result.stderr] == [
        "3-cut.jpg",
        "4-text.jpg",
    ]
    # one for each, one for both, one for the file that is no picture, and what was done
    assert len(complaints) == 5
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "10-bird.jpg",
        "2-bird.jpg",
    ]


def test_without_json_there_is_a_line_for_people(pictures: Path) -> None:
    result = edgebird("detect", "--source", f"{pictures}/[12]-*.*")
    assert result.returncode == 0
    empty, bird = result.stdout.splitlines()
    assert empty == "1-empty.png: no bird"
    assert bird.startswith("2-bird.jpg: 1 bird (0.")
    assert result.stderr.strip() == "done: 2 pictures, 1 bird"


def test_a_lower_threshold_finds_no_less(pictures: Path) -> None:
    low, high = (
        lines_of(
            edgebird("detect", "--source", pictures / "2-bird.jpg", "--json", "--threshold", t)
        )
        for t in ("0.05", "0.99")
    )
    assert len(low[0]["detections"]) >= 1 > len(high[0]["detections"])


# --- videos and cameras


def test_a_video_gives_frames_and_visits(video: Path, tmp_path: Path) -> None:
    result = edgebird("detect", "--source", video, "--json", "--save", tmp_path)
    assert result.returncode == 0, result.stderr
    records = lines_of(result)
    frames = [r for r in records if "frame" in r]
    assert [r["frame"] for r in frames] == list(range(45))
    assert frames[10]["time"] == pytest.approx(2.0)
    start, end = [r for r in records if "event" in r]
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["visit"] == end["visit"]
    assert 3 < end["duration_s"] < 7
    tracks = {d["track"] for r in frames for d in r["detections"]}
    assert tracks >= {1}
    assert Path(end["snapshot"]).is_file()
    assert "done: 45 frames, 1 visit" in result.stderr


def test_a_replay_gives_the_same_again(video: Path) -> None:
    def without_times(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "inference_ms"} for r in lines_of(result)]

    one, two = (edgebird("detect", "--source", video, "--json", "--max-frames", "20") for _ in "12")
    assert without_times(one) == without_times(two)


def test_a_video_that_breaks_off_is_processed_as_far_as_it_goes(
    video: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.avi"
    content = video.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    result = edgebird("detect", "--source", cut, "--json")
    assert_one_clear_line(result, 3, "cut short")
    records = lines_of(result)
    assert 20 < len([r for r in records if "frame" in r]) < 40
    # The visit that was going on is not left open.
    assert [r["event"] for r in records if "event" in r] == ["start", "end"]


def test_a_folder_can_be_the_frames_of_one_camera(tmp_path: Path) -> None:
    for i in range(12):
        write_picture(tmp_path / f"frame{i}.jpg", BIRD_S + i / 4)
    result = edgebird("detect", "--source", tmp_path, "--sequence", "--fps", "4", "--json")
    records = lines_of(result)
    frames = [r for r in records if "frame" in r]
    assert [r["time"] for r in frames] == [i / 4 for i in range(12)]
    assert [r["event"] for r in records if "event" in r] == ["start", "end"]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program in the background; killed if it is still there at the end."""
    command = [sys.executable, "-m", "edgebird.cli", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_sigterm_ends_a_visit_and_the_program_in_order() -> None:
    with running("detect", "--source", "demo:", "--json") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"start"' in line)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    assert json.loads(rest.splitlines()[-1])["event"] == "end"
    assert errors.startswith("done: ")
    assert len(errors.splitlines()) == 1


def test_visits_are_remembered_and_full_disks_do_not_stop_detection(tmp_path: Path) -> None:
    """On a disk of 700 kB: first empty, then full."""
    with tmpfs(tmp_path / "disk", "700k") as disk:
        config = tmp_path / "edgebird.toml"
        config.write_text(
            f'[mqtt]\nstate = "{disk}"\n[output]\nsave = "{disk}/pictures"\nreserve_mb = 0\n'
        )
        detect = ["detect", "--config", config, "--source", QUICK_DEMO, "--json"]
        first = edgebird(*detect)
        assert first.returncode == 0
        [line] = lines_of(edgebird("visits", "--config", config, "--json"))
        ends = [record for record in lines_of(first) if record.get("event") == "end"]
        assert [line["visit"]] == [end["visit"] for end in ends]
        assert (line["state"], line["ended"]) == ("over", ends[0]["ended"])
        assert Path(line["snapshot"]).is_file()
        kept = edgebird("visits", "--state", disk, "keep", line["visit"])
        assert (kept.returncode, kept.stderr) == (0, "")
        assert (disk / "pictures" / "kept" / f"{line['visit']}.jpg").is_file()

        fill(disk)
        full = edgebird(*detect)
        assert full.returncode == 0
        events = [record["event"] for record in lines_of(full) if "event" in record]
        assert events == ["start", "end"]
        complaints = full.stderr.splitlines()
        # about pictures, about visits, what is lost at the end, and what was done
        assert len(complaints) == 4, full.stderr
        assert "Traceback" not in full.stderr
        assert "alerts go out without a picture" in full.stderr
        assert "visits cannot be stored" in full.stderr
        assert lines_of(edgebird("visits", "--state", disk, "--json")) == [
            line | {"kept": True, "snapshot": f"{disk}/pictures/kept/{line['visit']}.jpg"}
        ]


def test_a_closed_pipe_ends_it_quietly() -> None:
    command = f"{sys.executable} -m edgebird.cli detect --source '{QUICK_DEMO}' --json | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert len(result.stdout.splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_streams_that_are_closed_are_left_to_nothing_else(tmp_path: Path) -> None:
    streams = tmp_path / "streams"
    code = """
import subprocess, sys
from edgebird import cli
look = "import os, sys; links = [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]"
look += "; open(sys.argv[1], 'w').write(' '.join(links))"
child = [sys.executable, "-c", look, sys.argv[1]]
cli.cli.main = lambda **_: subprocess.run(child, check=True)
cli.main()
"""
    command = f"{shlex.join([sys.executable, '-c', code, str(streams)])} <&- >&- 2>&-"
    subprocess.run(command, shell=True, cwd=Path(__file__).parents[1], check=True)
    assert streams.read_text().split() == [os.devnull] * 3


@pytest.mark.parametrize(
    "arguments", [["--help"], ["visits", "--help"], ["detect", "--json", "--source"]]
)
def test_a_reader_that_is_gone_is_no_error(tmp_path: Path, arguments: list[str]) -> None:
    if arguments[-1] == "--source":
        arguments = [*arguments, f"{QUICK_DEMO}"]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edgebird.cli", *arguments]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)


def test_it_runs_without_standard_error_and_on_a_plain_terminal(tmp_path: Path) -> None:
    picture = tmp_path / "grün.png"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "a.png").rename(picture)
    command = f"{sys.executable} -m edgebird.cli classify '{picture}' 2>&-"
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    result = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert result.stdout.startswith("grün.png: no bird")  # click does that
    detect = ["detect", "--source", QUICK_DEMO, "--save", str(tmp_path / "grün")]
    command = [sys.executable, "-m", "edgebird.cli", *detect]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "/gr\\xfcn/" in result.stdout
    (tmp_path / "grün.png").rename(tmp_path / "grün🐦.png")
    command = [sys.executable, "-m", "edgebird.cli", "detect", "--source", str(tmp_path), "--json"]
    environment["PYTHONIOENCODING"] = "latin-1:strict"
    lines = subprocess.run(command, env=environment, capture_output=True, check=False).stdout
    assert json.loads(lines.decode("utf-8"))["image"] == "grün🐦.png"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("detect", "--camera", "0", "--fps", "nan"), 2, "not a number"),
        (("detect", "--camera", "0", "--threads", "5000000000"), 2, "256"),
        (("classify", ""), 3, "no picture is named"),
    ],
)
def test_numbers_beyond_reason_and_empty_names_are_refused(
    arguments: tuple[str, ...], code: int, word: str
) -> None:
    result = edgebird(*arguments)
    assert (result.returncode, word in result.stderr) == (code, True)
    assert "Traceback" not in result.stderr


def test_pictures_of_several_folders_are_told_apart(tmp_path: Path) -> None:
    for day in ("day1", "day2"):
        (tmp_path / day).mkdir()
        cv2.imwrite(str(tmp_path / day / "1.png"), np.zeros((64, 64, 3), np.uint8))
    names = [str(tmp_path / day / "1.png") for day in ("day1", "day2")]
    found = lines_of(edgebird("detect", "--source", tmp_path / "day*/*.png", "--json"))
    assert [record["image"] for record in found] == names
    found = lines_of(edgebird("detect", "--source", tmp_path / "day1/*.png", "--json"))
    assert [record["image"] for record in found] == ["1.png"]


def test_output_that_cannot_be_written_is_one_line_and_the_visit_is_remembered(
    tmp_path: Path,
) -> None:
    """As with ``> file`` on a card that is full."""
    config = tmp_path / "edgebird.toml"
    config.write_text(f'[mqtt]\nstate = "{tmp_path}"\n')
    detect = ["detect", "--config", str(config), "--source", QUICK_DEMO]
    for more in (["--json"], []):
        command = [sys.executable, "-m", "edgebird.cli", *detect, *more]
        with Path("/dev/full").open("w") as full:
            result = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert result.returncode == 6
        assert "standard output cannot be written: No space left" in result.stderr
        assert "Traceback" not in result.stderr
    # JSON ends with the first frame, before the bird comes
    [line] = lines_of(edgebird("visits", "--config", config, "--json"))
    assert line["state"] == "over"


# --- MQTT


def test_a_stock_client_reads_the_alerts(mosquitto: Mosquitto, tmp_path: Path) -> None:
    messages: list[tuple[str, bytes, bool]] = []
    client = paho.mqtt.client.Client(paho.mqtt.client.CallbackAPIVersion.VERSION2)
    client.on_message = lambda c, u, m: messages.append((m.topic, m.payload, m.retain))
    client.connect(mosquitto.address.host, mosquitto.address.port)
    client.loop_start()
    client.subscribe("edgebird/stock/#", qos=1)
    config = tmp_path / "edgebird.toml"
    config.write_text('[mqtt]\ndevice = "stock"\n[camera]\nname = "Garden feeder"\n')
    url = f"mqtt://{mosquitto.address}"
    options = ("--source", QUICK_DEMO, "--mqtt", url, "--config", config, "--save", tmp_path / "s")
    result = edgebird("detect", *options)
    assert result.returncode == 0, result.stderr
    eventually(lambda: ("edgebird/stock/status", b"offline") in [m[:2] for m in messages])
    client.loop_stop()
    client.disconnect()
    alerts = [json.loads(m[1]) for m in messages if m[0] == "edgebird/stock/garden-feeder/visit"]
    assert [a["event_type"] for a in alerts] == ["start", "end"]
    assert Path(alerts[1]["snapshot"]).is_file()
    birds = [m[1] for m in messages if m[0] == "edgebird/stock/garden-feeder/bird"]
    assert birds[:1] == [b"OFF"]
    assert b"ON" in birds
    assert birds[-1] == b"OFF"
    for topic in ("edgebird/stock/status", "edgebird/stock/garden-feeder/status"):
        statuses = [m[1] for m in messages if m[0] == topic]
        assert b"online" in statuses
        assert statuses[-1] == b"offline"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_a_broker_that_is_down_does_not_stop_detection() -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    result = edgebird("detect", "--source", QUICK_DEMO, "--mqtt", url, "--max-frames", "30")
    assert result.returncode == 0
    assert "bird arrived" in result.stdout
    assert "Traceback" not in result.stderr
    assert "wait until it takes them" in result.stderr
    assert "go out when edgebird starts again" in result.stderr


def test_what_waited_is_delivered_by_the_next_run(mosquitto: Mosquitto, tmp_path: Path) -> None:
    config = tmp_path / "edgebird.toml"
    config.write_text(f'[mqtt]\ndevice = "later"\nstate = "{tmp_path}"\n')
    options = ("--source", QUICK_DEMO, "--config", config, "--max-frames")
    down = edgebird("detect", "--mqtt", f"mqtt://127.0.0.1:{free_port()}", *options, "30")
    assert re.search("alerts waiting for the MQTT broker at .*: 2; they go out", down.stderr)
    url = f"mqtt://{mosquitto.address}"
    with running("watch", "--mqtt", url, "--device", "later", "--json") as watcher:
        wait_until_ready(watcher)
        assert watcher.stdout is not None
        assert edgebird("detect", "--mqtt", url, *options, "1").returncode == 0
        alerts = [json.loads(watcher.stdout.readline()) for _ in range(2)]
        watcher.send_signal(signal.SIGINT)
        watcher.communicate(timeout=30)
    assert [alert["event_type"] for alert in alerts] == ["start", "end"]
    assert all(alert["age_s"] > 0 for alert in alerts)


def wait_until_ready(watcher: subprocess.Popen[str]) -> None:
    assert watcher.stderr is not None
    lines = iter(watcher.stderr.readline, "")
    next(line for line in lines if "waiting for alerts" in line)


def test_watch_prints_alerts_and_stops_on_sigint(mosquitto: Mosquitto) -> None:
    url = f"mqtt://{mosquitto.address}"
    with running("watch", "--mqtt", url, "--json") as watcher:
        wait_until_ready(watcher)
        assert watcher.stdout is not None
        assert edgebird("detect", "--source", QUICK_DEMO, "--mqtt", url).returncode == 0
        alerts = [json.loads(watcher.stdout.readline()) for _ in range(2)]
        watcher.send_signal(signal.SIGINT)
        watcher.communicate(timeout=30)
        assert watcher.returncode == 0
    assert [alert["event_type"] for alert in alerts] == ["start", "end"]


def test_watch_runs_a_program_for_each_alert_and_rings_the_bell(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    url = f"mqtt://{mosquitto.address}"
    noted = tmp_path / "noted"
    code = (
        "import os, sys;"
        "open(sys.argv[1], 'a').write(os.environ['EDGEBIRD_VISIT'] + sys.stdin.read())"
    )
    program = shlex.join([sys.executable, "-c", code, str(noted)])
    with running(
        "watch", "--mqtt", url, "--device", "bell", "--bell", "--exec", program
    ) as watcher:
        wait_until_ready(watcher)
        for kind in ("start", "end"):
            publish_alert(mosquitto, kind, "visit; touch $HOME")
        eventually(lambda: noted.is_file() and noted.read_text().count("event_type") == 2)
        watcher.send_signal(signal.SIGTERM)
        output, errors = watcher.communicate(timeout=30)
    assert [line.split()[-1] for line in output.splitlines()] == ["0.91)", "0.91"]
    assert "\x1b" not in output  # no colours into a pipe
    assert errors == "\a"  # for the arrival only
    assert noted.read_text().startswith("visit; touch $HOME{")


def test_a_second_signal_is_not_held_up_by_a_watch_that_nobody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def receive(address: BrokerAddress, *, stop: threading.Event, **more: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        assert (stop.is_set(), ended) == (True, [])
        for number in numbers:
            signal.raise_signal(number)

    monkeypatch.setattr("edgebird.mqtt.watch.watch", receive)
    before = [signal.signal(number, lambda number, _: ended.append(number)) for number in numbers]
    try:
        cli.main(["watch"], standalone_mode=False)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert ended == list(numbers)


def publish_alert(mosquitto: Mosquitto, kind: str, visit: str) -> None:
    payload = visit_payload(
        VisitChanged(kind, replace(visit_changed(0, kind).visit, id=visit)),
        device="bell",
        camera="c",
        model_sha256="x",
    )
    where = ("-h", "127.0.0.1", "-p", str(mosquitto.address.port), "-t", "edgebird/bell/c/visit")
    subprocess.run(["mosquitto_pub", *where, "-q", "1", "-s"], input=encode(payload), check=True)


def test_watchers_of_a_group_share_the_alerts(mosquitto: Mosquitto) -> None:
    options = (
        "--mqtt",
        f"mqtt://{mosquitto.address}",
        "--device",
        "bell",
        "--share",
        "us",
        "--json",
    )
    with running("watch", *options) as one, running("watch", *options) as two:
        for watcher in (one, two):
            wait_until_ready(watcher)
        for number in range(10):
            publish_alert(mosquitto, "start", f"visit{number}")
        publish_alert(mosquitto, "start", "visit0")  # comes a second time
        time.sleep(1)
        outputs = []
        for watcher in (one, two):
            watcher.send_signal(signal.SIGINT)
            outputs.append(watcher.communicate(timeout=30)[0].splitlines())
    visits = [json.loads(line)["visit"] for output in outputs for line in output]
    assert set(visits) == {f"visit{number}" for number in range(10)}
    assert all(outputs)


def test_broker_check_tells_what_a_broker_does(mosquitto: Mosquitto, tmp_path: Path) -> None:
    config = tmp_path / "edgebird.toml"
    config.write_text(f'[mqtt]\nurl = "mqtt://{mosquitto.address}"\nversion = "5"\n')
    result = edgebird("broker-check", "--config", config)
    assert result.returncode == 0, result.stderr
    assert f"{mosquitto.address}, MQTT 5 over TCP" in result.stdout
    assert re.search(r"there and back +[\d.]+ ms", result.stdout)
    assert re.search(r"picture \(120 kB\) +\d+ ms", result.stdout)
    assert re.search(r"keeps retained +yes", result.stdout)
    assert re.search(r"shared subscriptions +yes", result.stdout)


def test_broker_check_finds_a_broker_that_drops_pictures(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = new_mosquitto("allow_anonymous true\nmax_packet_size 50000\nretain_available false")
    broker.start()
    result = edgebird("broker-check", "--mqtt", f"mqtt://{broker.address}")
    assert re.search(r"picture \(120 kB\) +not accepted", result.stdout), result.stderr
    assert result.returncode == 5
    assert "retained" in result.stderr


def test_forget_clears_a_camera_that_is_gone_but_none_that_is_there(mosquitto: Mosquitto) -> None:
    url = f"mqtt://{mosquitto.address}"
    served = publishing_process(mosquitto.address, "gone", "c")
    try:
        eventually(lambda: retained(mosquitto.address, "gone").get("c/status") == "online")
        told = r"Received PUBLISH from .*edgebird-gone/c/config"
        eventually(lambda: re.search(told, mosquitto.log()) is not None)
        in_use = edgebird("forget", "--mqtt", url, "--device", "gone", "--camera", "c")
        assert_one_clear_line(in_use, 2, "online")
    finally:
        served.kill()
        served.wait()
    eventually(lambda: retained(mosquitto.address, "gone")["c/status"] == "offline")
    result = edgebird("forget", "--mqtt", url, "--device", "gone", "--camera", "c")
    assert result.returncode == 0, result.stderr
    assert "cleared homeassistant/device/edgebird-gone/c/config" in result.stdout
    assert "cleared edgebird/gone/c/count" in result.stdout
    assert retained(mosquitto.address, "gone") == {}
    again = edgebird("forget", "--mqtt", url, "--device", "gone", "--camera", "c")
    assert "has nothing of edgebird/gone/c" in again.stdout


def test_a_camera_that_is_served_already_is_refused(mosquitto: Mosquitto) -> None:
    options = ("--source", QUICK_DEMO, "--mqtt", f"mqtt://{mosquitto.address}")
    with running("detect", *options[:1], "demo:", *options[2:]) as first:
        assert first.stderr is not None
        next(line for line in iter(first.stderr.readline, "") if "connected to MQTT" in line)
        assert_one_clear_line(edgebird("detect", *options), 2, "already serves camera 'demo'")


def test_the_demo_shows_alerts_that_went_through_a_broker(tmp_path: Path) -> None:
    pytest.importorskip("amqtt")
    result = edgebird("demo", "--seconds", "9", "--save", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "bird arrived" in result.stdout
    assert "visit over" in result.stdout
    assert "Traceback" not in result.stderr
    assert list(tmp_path.glob("*.jpg"))


# --- what there is, how fast it is, how good it is


def test_a_machine_without_cameras_says_so() -> None:
    if list(Path("/dev").glob("video*")):
        pytest.skip("there is a camera here")
    result = edgebird("cameras")
    assert result.returncode == 0
    assert result.stdout == ""
    assert_one_clear_line(result, 0, "no camera found")


def test_a_board_is_measured_as_one_json_object() -> None:
    result = edgebird("bench", "--json", "--runs", "5", "--threads", "1", "--idle-seconds", "0")
    assert result.returncode == 0, result.stderr
    [found] = lines_of(result)
    assert found.keys() >= {
        *("tile_ms", "bare_fps", "pipeline_fps", "network_share", "idle_cpu_share"),
        *("peak_rss_mib", "model", "interpreter", "hints", "stage_ms", "cold_start_s"),
    }
    assert found["tile_ms"]["1"]["p95"] >= found["tile_ms"]["1"]["median"] > 0
    assert found["stage_ms"].keys() >= {"capture", "faults and gate", "schedule", "publish"}
    assert found["stage_ms"]["second look at a bird"] > 0.1
    assert 0.3 < found["network_share"] < 1.5
    assert found["bare_fps"] > 0
    assert found["idle_cpu_share"] is None


def test_the_networks_share_is_at_most_all() -> None:
    # the two are measured in turn, so noise can make it more
    result = BenchResult(
        model="m",
        interpreter="i",
        machine="m",
        threads=1,
        tile_ms={1: {"median": 20.0, "p95": 21.0}},
        network_share=1.04,
    )
    assert "the network's share           100%" in result.lines()


def test_a_scenario_is_replayed_and_judged(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(
        "days = 0.0004\nfps = 5\n"
        '[[event]]\nkind = "light"\nat_s = 2.0\nfor_s = 3.0\nstrength = 0.6\n'
        '[[event]]\nkind = "lost"\nat_s = 8.0\nfor_s = 4.0\n'
        '[[event]]\nkind = "visit"\nat_s = 18.0\nfor_s = 6.0\n'
    )
    # of a real camera's settings it takes none that say where things are kept and told
    config = tmp_path / "edgebird.toml"
    config.write_text(
        f'[camera]\nsource = "0"\nname = "feeder"\nsize = [1280, 720]\n'
        f'[mqtt]\nurl = "mqtt://127.0.0.1:1"\nstate = "{tmp_path}/state"\n'
        f'[output]\nsave = "{tmp_path}/pictures"\n'
    )
    replay = ["replay", script, "--json", "--config", config]
    result = edgebird(*replay, "--save", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(tmp_path)) == ["edgebird.toml", "out", "script.toml"]
    [verdict] = lines_of(result)
    assert (verdict["visits"], verdict["found"], verdict["false_visits"]) == (1, 1, 0)
    assert verdict["alert_delay_s"] < 2
    assert verdict["miscounted"] == 0
    assert verdict["faults"] == {"lost": 1}
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_that_is_stopped_judges_what_came_until_then(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "script.toml"
    # the wind keeps it busy for much longer than the test waits
    script.write_text(
        '[[event]]\nkind = "visit"\nat_s = 2.0\nfor_s = 5.0\n'
        '[[event]]\nkind = "leaves"\nat_s = 10.0\nfor_s = 80000.0\n'
        '[[event]]\nkind = "visit"\nat_s = 85000.0\nfor_s = 5.0\n'
    )
    pictures = tmp_path / "out"
    command = [sys.executable, "-m", "edgebird.cli", "replay", script, "--json", "--save", pictures]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: pictures.is_dir() and any(pictures.iterdir()), timeout_s=60)
            process.send_signal(number)
            output, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (0, "")
    verdict = json.loads(output)
    assert verdict["stopped"] is True
    assert verdict["missed_s"] == []
    assert verdict["false_visits"] == 0
    assert verdict["hours"] < 23


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("detect",), 2, "--camera"),
        (("detect", "--camera", "0", "--source", "x"), 2, "not both"),
        (("detect", "--source", "ftp://host/stream"), 2, "ftp"),
        (("detect", "--camera", "0", "--fps", "0.2"), 2, "too few"),
        (("detect", "--source", "rtsp://", "--wait-for-camera"), 2, "names no host"),
        (("visits", "--state", "{folder}"), 1, "no visits are stored"),
        (("detect", "--source", "demo:?fps=1e300"), 2, "too large"),
        (("detect", "--source", "demo:?sped=2"), 2, "sped"),
        (("detect", "--source", QUICK_DEMO, "--mqtt", "http://host"), 2, "mqtt://"),
        (("detect", "--config", "{folder}/none.toml"), 2, "none.toml"),
        (("detect", "--camera", "/dev/video97"), 3, "/dev/video97"),
        (("detect", "--source", "{folder}"), 3, "no pictures"),
        (("detect", "--source", "{folder}/nothing.mp4"), 3, "nothing.mp4"),
        (("detect", "--source", "rtsp://127.0.0.1:{port}/stream"), 3, "rtsp://127.0.0.1"),
        (("detect", "--source", QUICK_DEMO, "--model", "{folder}/m.tflite"), 4, "m.tflite"),
        (("watch", "--mqtt", "mqtt://127.0.0.1:{port}"), 5, "127.0.0.1"),
        (("watch", "--exec", "'"), 2, "--exec"),
        (("broker-check", "--mqtt", "mqtt://127.0.0.1:{port}"), 5, "127.0.0.1"),
        (("forget", "--mqtt", "mqtt://127.0.0.1:{port}", "--camera", "c"), 5, "127.0.0.1"),
        (("detect", "--source", QUICK_DEMO, "--save", "/proc/nowhere"), 6, "/proc/nowhere"),
        (("replay", "{folder}/none.toml"), 2, "none.toml"),
        (("--log-json", "replay", "--days", "nan"), 2, "--days"),
        (("bench", "--model", "{folder}/m.tflite"), 4, "m.tflite"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_documented_exit_code(
    arguments: tuple[str, ...], code: int, word: str, tmp_path: Path
) -> None:
    filled = [argument.format(folder=tmp_path, port=free_port()) for argument in arguments]
    assert_one_clear_line(edgebird(*filled), code, word)


def test_alerts_about_single_pictures_are_refused_with_the_way_out(pictures: Path) -> None:
    result = edgebird("detect", "--source", pictures, "--mqtt", "mqtt://host")
    assert_one_clear_line(result, 2, "--sequence")


def test_a_wrong_flag_is_a_usage_error() -> None:
    result = edgebird("detect", "--threshold", "1.5")
    assert result.returncode == 2
    assert "--threshold" in result.stderr


def test_every_command_of_the_readme_exists() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for command in ("detect", "watch", "demo", "broker-check", "forget", "doctor"):
        assert f"edgebird {command}" in readme
        help_text = edgebird(command, "--help")
        assert help_text.returncode == 0
        assert "Exit codes" in help_text.stdout


def help_lines(command: click.Command, *names: str) -> Iterator[str]:
    """All that ``--help`` of a command and of those below it says on a terminal of 80 columns."""
    with click.Context(command, info_name=" ".join(names), terminal_width=80) as context:
        yield from command.get_help(context).splitlines()
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from help_lines(below, *names, name)


def test_help_fits_on_a_terminal() -> None:
    assert [line for line in help_lines(cli, "edgebird") if len(line) > 80] == []


def test_lists_of_commands_cut_no_sentence_short() -> None:
    for group in (cli, cli.commands["config"]):
        assert isinstance(group, click.Group)
        for name, command in group.commands.items():
            assert command.short_help, name
            assert len(command.short_help) <= 45, name


def test_the_password_of_a_stream_is_never_shown() -> None:
    url = f"rtsp://user:secret@127.0.0.1:{free_port()}/stream"
    result = edgebird("detect", "--source", url)
    assert result.returncode == 3
    assert "secret" not in result.stderr + result.stdout


def test_an_unwritable_disk_is_found_before_the_camera_opens(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = edgebird("detect", "--source", QUICK_DEMO, "--save", blocked / "folder")
    assert_one_clear_line(result, 6, os.fspath(blocked))
