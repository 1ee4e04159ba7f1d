"""Making, showing and checking a configuration."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import Mosquitto, eventually

from edgebird.camera.v4l2 import Device
from edgebird.cli import cli
from edgebird.config import EXAMPLE, Config, load_config, overruled, settings_of
from edgebird.configure.check import file_problems, model_problems, reference_problems
from edgebird.configure.init import commented_config, found_sources, write_config
from edgebird.configure.show import effective_settings, setting_lines, without_secrets
from edgebird.errors import ConfigError, OutputError, UsageError

SQUARE = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))


def written(folder: Path, text: str) -> Path:
    path = folder / "edgebird.toml"
    path.write_text(text)
    return path


def invoked(*arguments: str | Path) -> Result:
    """What the command does, in this process and without a terminal."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# --- init


def test_answers_are_set_and_all_else_stays_a_comment(tmp_path: Path) -> None:
    answers = {
        "camera.source": 'a "quoted" \\ name',
        "camera.size": [640, 480],
        "mqtt.url": "mqtt://h",
    }
    path = written(tmp_path, commented_config(answers))
    assert load_config(path) == overruled(
        Config(),
        camera={"source": answers["camera.source"], "size": (640, 480)},
        mqtt={"url": "mqtt://h"},
    )
    lines, example = path.read_text().splitlines(), EXAMPLE.read_text().splitlines()
    assert sum(a != b for a, b in zip(lines, example, strict=True)) == 3
    # the meaning stays beside what was set
    assert 'url = "mqtt://h"' in path.read_text()
    assert "mqtts, ws or wss" in path.read_text()


def test_every_setting_can_be_an_answer() -> None:
    for name, value in settings_of(Config()).items():
        if value is not None:
            assert f"\n{name.partition('.')[2]} = " in commented_config({name: value}), name


def test_an_answer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="rotate"):
        commented_config({"camera.rotate": 45})


def test_a_file_with_a_password_is_for_this_user_only(tmp_path: Path) -> None:
    open_path, secret_path = tmp_path / "open.toml", tmp_path / "folder" / "secret.toml"
    assert write_config(open_path, {"mqtt.url": "mqtt://user@host"}) is False
    assert write_config(secret_path, {"mqtt.url": "mqtt://user:word@host"}) is True
    assert stat.S_IMODE(secret_path.stat().st_mode) == 0o600
    secret_path.chmod(0o644)
    assert write_config(secret_path, {"mqtt.url": "mqtt://user:word@host"}) is True
    assert stat.S_IMODE(secret_path.stat().st_mode) == 0o640
    # as the file of a service is, which its own user reads as one of the group
    assert write_config(secret_path, {}) is False
    assert stat.S_IMODE(secret_path.stat().st_mode) == 0o640
    assert load_config(secret_path) == Config()
    assert os.listdir(secret_path.parent) == ["secret.toml"]


def test_what_a_link_leads_to_is_written_and_no_device(tmp_path: Path) -> None:
    (tmp_path / "link.toml").symlink_to(tmp_path / "real.toml")
    write_config(tmp_path / "link.toml", {"camera.name": "front"})
    assert (tmp_path / "link.toml").is_symlink()
    assert load_config(tmp_path / "real.toml").camera.name == "front"
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(OutputError, match="no ordinary file"):
        write_config(tmp_path / "fifo.toml", {})
    with pytest.raises(ConfigError, match="not UTF-8"):
        write_config(tmp_path / "new.toml", {"camera.source": "p\udcff"})
    assert sorted(os.listdir(tmp_path)) == ["fifo.toml", "link.toml", "real.toml"]


def test_a_services_password_is_for_its_group_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "front.toml"
    monkeypatch.setattr("edgebird.configure.init.SERVICE_SETTINGS", tmp_path)
    for mode in (None, 0o600, 0o644):
        if mode is not None:
            path.chmod(mode)
        assert write_config(path, {"mqtt.url": "mqtt://user:word@host"}) is True
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_config(tmp_path / "file" / "edgebird.toml", {})


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path: Path) -> None:
    path = written(tmp_path, "# old\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot write"):
            write_config(path, {"mqtt.url": "mqtt://user:word@host"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "# old\n"


def test_without_a_terminal_nothing_is_asked_and_nothing_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    made = invoked("config", "init", "--config", path, "--camera", "1", "--mqtt", "mqtt://h")
    assert made.exit_code == 0, made.output
    assert load_config(path) == overruled(
        Config(), camera={"source": "1"}, mqtt={"url": "mqtt://h"}
    )
    again = invoked("config", "init", "--config", path)
    assert isinstance(again.exception, UsageError)
    assert "--force" in str(again.exception)
    assert load_config(path).camera.source == "1"
    assert invoked("config", "init", "--config", path, "--force").exit_code == 0
    assert load_config(path) == Config()


def test_cameras_are_offered_by_the_name_that_stays_the_same() -> None:
    devices = [
        Device(Path("/dev/video0"), "Old", (), ()),
        Device(Path("/dev/video2"), "New", ("usb-New-index0",), ()),
        Device(Path("/dev/video4"), "Busy", (), (), "Device or resource busy"),
    ]
    # this machine may have ribbon cameras of its own
    assert found_sources(devices)[-2:] == [("/dev/video0", "Old"), ("usb-New-index0", "New")]


def test_on_a_terminal_it_asks_and_sends_a_test_alert(mosquitto: Mosquitto, tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    answers = {
        "Which one|its number": "demo:",
        "Its name": "balcony",
        "MQTT broker": f"mqtt://{mosquitto.address}",
        "User": "anna",
        "Password": "se cret",
        "test alert": "y",
    }
    shown, code = at_a_terminal(["config", "init", "--config", str(path)], answers)
    assert code == 0, shown
    assert "sent" in shown
    assert "se cret" not in shown
    config = load_config(path)
    assert (config.camera.source, config.camera.name) == ("demo:", "balcony")
    assert config.mqtt.url == f"mqtt://anna:se%20cret@{mosquitto.address}"
    eventually(lambda: len(re.findall(r"Received PUBLISH.*/balcony/visit", mosquitto.log())) == 2)


def test_a_broker_that_does_not_answer_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    answers = {
        "Which one|its number": "0",
        "Its name": "",
        "MQTT broker": "127.0.0.1:9",
        "User": "",
        "all the same": "n",
        "MQTT broker ": "",
    }
    shown, code = at_a_terminal(["config", "init", "--config", str(path)], answers)
    assert code == 0, shown
    assert "127.0.0.1:9" in shown
    assert load_config(path).mqtt.url is None
    assert load_config(path).camera.name == "feeder"


def test_a_broker_is_tried_also_without_a_test_alert(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "anna", "right"], check=True)
    broker = new_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    url = f"mqtt://{broker.address}"
    path = tmp_path / "edgebird.toml"
    arguments = ["config", "init", "--config", str(path), "--camera", "demo:"]
    answers = {"Its name": "", "MQTT broker": url, "User": "anna", "Password": "wrong"}
    # asked for again, and this time it is right
    again = {"all the same": "n", "MQTT broker ": url, "User ": "anna", "Password ": "right"}
    shown, code = at_a_terminal(arguments, answers | again | {"test alert": "n"})
    assert code == 0, shown
    assert "check user and password" in shown
    assert load_config(path).mqtt.url == f"mqtt://anna:right@{broker.address}"
    assert "PUBLISH" not in broker.log()


def at_a_terminal(arguments: list[str], answers: dict[str, str]) -> tuple[str, int]:
    """What the program shows on a terminal on which each question, in order, is answered."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgebird.cli", *arguments]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown, unread = "", ""
    for question, answer in [*answers.items(), ("nothing more", "")]:
        while not (found := re.search(f"{question.strip()}.*: \\Z", unread, re.DOTALL)):
            if not select.select([terminal], [], [], 20.0)[0]:
                process.kill()  # it waits for an answer to another question
            try:
                read = os.read(terminal, 4096).decode()
            except OSError:  # it has ended
                break
            shown, unread = shown + read, unread + read
        if found:
            os.write(terminal, f"{answer}\n".encode())
            unread = ""
    os.close(terminal)
    return shown, process.wait(30)


# --- show


def test_each_setting_says_where_it_comes_from(tmp_path: Path) -> None:
    path = written(tmp_path, "[detector]\nthreshold = 0.3\nthreads = 2\n[mqtt]\nurl = 'h'\n")
    config = overruled(load_config(path), detector={"threads": 1})
    environment = {"EDGEBIRD_MQTT_USER": "anna", "EDGEBIRD_MQTT_PASSWORD": "word"}
    found = {
        s.name: s
        for s in effective_settings(config, path, {"detector.threads": "--threads"}, environment)
    }
    assert found.keys() == settings_of(config).keys() | {"mqtt.password"}
    assert (found["detector.threshold"].value, found["detector.threshold"].origin) == (
        0.3,
        str(path),
    )
    assert (found["detector.threads"].value, found["detector.threads"].origin) == (1, "--threads")
    assert found["camera.rotate"].origin == "default"
    assert (found["mqtt.user"].value, found["mqtt.user"].origin) == ("anna", "$EDGEBIRD_MQTT_USER")
    assert (found["mqtt.password"].value, found["mqtt.password"].origin) == (
        "***",
        "$EDGEBIRD_MQTT_PASSWORD",
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("mqtt.url", "mqtt://anna:word@host:1883", "mqtt://anna:***@host:1883"),
        ("mqtt.url", "anna:wo:rd@x@host", "anna:***@host"),
        ("mqtt.url", "mqtt://an/na:word@host", "mqtt://an/na:***@host"),
        ("mqtt.url", "mqtt://anna:w://ord@host", "mqtt://anna:***@host"),
        ("mqtt.url", "mqtt://:word@host", "mqtt://:***@host"),
        ("mqtt.url", "anna://word@host", "anna:***@host"),
        ("mqtt.url", "mqtt://anna@host:1", "mqtt://anna@host:1"),
        ("mqtt.url", "mqtts://[::1]:8883", "mqtts://[::1]:8883"),
        ("camera.source", "rtsp://anna:word@host/x?key=word", "rtsp://***@host/x?***"),
        ("camera.source", "rtsp:/anna:word@host/x", "rtsp:/***@host/x"),
        ("camera.source", "rtsp://anna:wo\nrd@host/x", "rtsp://***@host/x"),
        ("camera.source", "demo:?seed=3", "demo:?seed=3"),
    ],
)
def test_passwords_are_not_shown(name: str, value: str, shown: str) -> None:
    assert without_secrets(name, value) == shown


def test_what_is_shown_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    config = overruled(
        Config(), motion={"zones": (SQUARE,)}, camera={"size": (64, 48), "name": "vögel"}
    )
    lines = setting_lines(effective_settings(config, None, {}, {}))
    assert load_config(written(tmp_path, "\n".join(lines))) == config


def test_what_is_not_set_says_what_holds() -> None:
    shown = invoked("config", "show", "--camera", "0").output
    assert re.search(r"^# threshold: the model's own +# default$", shown, re.MULTILINE)
    assert re.search(r"^# verify: true, with conv +# default$", shown, re.MULTILINE)
    assert re.search(r"^# exposure_us: not set +# default$", shown, re.MULTILINE)
    shown = invoked("config", "show", "--threshold", "0.4").output
    assert re.search(r"^threshold = 0.4 +# --threshold$", shown, re.MULTILINE)


def test_show_takes_the_flags_of_detect(tmp_path: Path) -> None:
    path = written(tmp_path, "[camera]\nsource = 'rtsp://anna:s3cret@host/x'\n")
    shown = invoked("config", "show", "--config", path, "--save", "there", "--no-verify").output
    assert re.search(r'^save = "there" +# --save$', shown, re.MULTILINE)
    assert re.search(r"^verify = false +# --verify$", shown, re.MULTILINE)
    assert re.search(rf'^source = "rtsp://\*\*\*@host/x" +# {path}$', shown, re.MULTILINE)
    assert "s3cret" not in shown


def test_commands_with_a_services_settings_have_its_password(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebird.config.SERVICE_SETTINGS", tmp_path)
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "feeder", "right"], check=True)
    broker = new_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    path = written(tmp_path, f'[mqtt]\nurl = "mqtt://feeder@{broker.address}"\n')
    secret = tmp_path / "mqtt-password"
    secret.write_text("right\n")
    for command in (["broker-check"], ["forget", "--camera", "gone"]):
        done = invoked(*command, "--config", path)
        assert done.exit_code == 0, (done.output, done.exception)
    shown = invoked("config", "show", "--config", path).output
    assert re.search(rf"^# password: \*\*\* +# {secret}$", shown, re.MULTILINE)
    assert "right" not in shown


# --- check


def test_all_mistakes_of_a_file_are_found_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "top = 1\n[camera]\nsorce = '0'\nrotate = 45\nname = 'x'\n[kamera]\n[detector]\n"
        "threshold = 7\n",
    )
    problems = file_problems(path)
    assert len(problems) == 5
    for word in ("top", "sorce", "[camera] rotate", "[kamera]", "[detector] threshold"):
        assert any(word in problem for problem in problems), (word, problems)
    assert file_problems(EXAMPLE) == []


def test_what_a_file_refers_to_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    crossing = ((0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.9))
    line = ((0.1, 0.1), (0.5, 0.1), (0.9, 0.1))
    config = overruled(
        Config(),
        camera={"source": str(tmp_path / "none.mp4")},
        motion={
            "zones": (SQUARE, crossing),
            "masks": (line, ((0, 0), (1, 0), (1, 1), (0, 1))),
            "min_bird": 0.5,
            "max_bird": 0.4,
        },
        mqtt={
            "url": "mqtts://host",
            "user": "anna",
            "password_file": str(tmp_path / "none"),
            "ca_file": str(tmp_path),
            "state": str(tmp_path / "file" / "state"),
        },
        output={"save": "/proc/nowhere"},
    )
    problems = reference_problems(config)
    for words in (
        "none.mp4",
        "password_file: cannot read",
        "ca_file: cannot read",
        "state: .*file is not a folder",
        "save: /proc/nowhere cannot be made in /proc",
        "zones: the sides of number 2 cross",
        "masks: number 1 has no area",
        "no part of the frame is left",
        "min_bird = 0.5 is above",
    ):
        assert any(re.search(words, problem) for problem in problems), (words, problems)
    assert len(problems) == 9


def test_visits_need_a_folder_with_a_broker_or_without(tmp_path: Path) -> None:
    config = overruled(Config(), mqtt={"state": "/proc/nowhere"})
    (problem,) = reference_problems(config)
    assert problem.startswith("[mqtt] state: /proc/nowhere cannot be made in /proc by this user")
    later = tmp_path / "made" / "later"
    assert reference_problems(overruled(Config(), mqtt={"state": str(later)})) == []
    assert not later.parent.exists()


def test_files_are_read_as_the_broker_would_have_them(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    config = overruled(
        Config(), mqtt={"url": "h", "user": "a", "password_file": str(tmp_path / "empty")}
    )
    assert ["is empty" in problem for problem in reference_problems(config)] == [True]


def test_a_live_camera_is_not_opened_and_a_good_file_has_no_problem(tmp_path: Path) -> None:
    config = overruled(
        Config(),
        camera={"source": "/dev/video97"},
        motion={"zones": (SQUARE,), "masks": (SQUARE[:3],)},
        mqtt={"url": "mqtt://anna:word@nowhere.invalid"},
        output={"save": str(tmp_path / "new" / "folder")},
    )
    assert reference_problems(config) == []
    assert not (tmp_path / "new").exists()
    assert model_problems(config) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("picamera2:front", "give a number after the colon"),
        ("picamera2:", "give a number after the colon"),
        ("rtsp://", "names no host"),
        ("rtsp://anna:geheim@:554/x", "names no host"),
        ("rtsp://anna:geheim#1@camera.local/x", "# % and spaces in a user or password as"),
        ("picamera2", None),
        ("picamera2:1", None),
        ("rtsp://anna:w@rd%231@camera.local/x", None),
        ("http://[2001:db8::5]:80/x", None),
    ],
)
def test_the_form_of_a_live_source_is_looked_at(
    source: str, problem: str | None, tmp_path: Path
) -> None:
    config = overruled(Config(), camera={"source": source}, mqtt={"state": str(tmp_path)})
    problems = reference_problems(config)
    assert len(problems) == (problem is not None)
    if problem is not None:
        assert problem in problems[0]
        assert "geheim" not in problems[0]


def test_a_model_without_its_card_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"")
    config = overruled(Config(), detector={"model": str(tmp_path / "m.tflite")})
    assert ["card" in problem for problem in model_problems(config)] == [True]


def test_show_and_check_take_the_services_settings_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edgebird.toml"
    monkeypatch.setattr("edgebird.cli.SERVICE_CONFIG", path)
    nothing = invoked("config", "check")
    assert isinstance(nothing.exception, UsageError)
    assert str(nothing.exception) == f"which file? Give --config FILE: there is no {path}"
    assert invoked("config", "show").exit_code == 0
    path.write_text("[detector]\nthreads = 2\n")
    assert invoked("config", "check").output == f"{path}: no mistake found\n"
    assert re.search(rf"^threads = 2 +# {path}$", invoked("config", "show").output, re.MULTILINE)


def test_check_prints_a_line_for_each_problem(tmp_path: Path) -> None:
    path = written(tmp_path, "[output]\nsave = '/proc/x'\n[camera]\nsource = 'ftp://host'\n")
    result = invoked("config", "check", "--config", path)
    assert result.exit_code == 2
    ftp, folder = result.output.splitlines()
    assert "ftp" in ftp
    assert "/proc/x" in folder
    path.write_text("")
    result = invoked("config", "check", "--config", path)
    assert (result.exit_code, result.output) == (0, f"{path}: no mistake found\n")
