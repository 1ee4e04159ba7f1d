from __future__ import annotations

import re
import tempfile
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_cameras import unprivileged

from edgebird.config import (
    EXAMPLE,
    Config,
    as_its_service,
    load_config,
    overruled,
    read_config,
    settings_of,
    state_folder,
)
from edgebird.errors import ConfigError, UsageError
from edgebird.evidence import EvidenceSettings
from edgebird.model import DEFAULT_DETECTOR, load_model
from edgebird.mqtt.address import broker_address
from edgebird.schedule import ScheduleSettings
from edgebird.sinks.mqtt import MqttSink
from edgebird.tracker import TrackerSettings
from edgebird.visits import VisitSettings
from edgebird.zones import ZoneSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "edgebird.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold() -> None:
    assert load_config(None) == Config()


def uncommented() -> str:
    """The example with all its settings set."""
    return re.sub(r"^#(\w+ = )", r"\1", EXAMPLE.read_text("utf-8"), flags=re.MULTILINE)


def test_the_example_sets_nothing() -> None:
    assert load_config(EXAMPLE) == Config()


def test_the_example_has_every_setting_and_no_other(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, uncommented()))
    assert config.camera.size == (1280, 720)
    assert config.mqtt.device == "garden"
    assert config.detector.threshold == load_model(DEFAULT_DETECTOR, "detector").card.threshold
    in_file = read_config(written(tmp_path, uncommented()))
    named = [f"{section}.{key}" for section, keys in in_file.items() for key in keys]
    assert sorted(named) == sorted(settings_of(Config()))


def test_what_the_example_shows_is_the_default_where_there_is_one(tmp_path: Path) -> None:
    shown = settings_of(load_config(written(tmp_path, uncommented())))
    for name, default in settings_of(Config()).items():
        if default not in (None, ()):
            assert shown[name] == default, name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[camera]\nsorce = '0'", "[camera] sorce: no such setting; did you mean source?"),
        ("[mqqt]\nurl = 'host'", "no section [mqqt]; did you mean [mqtt]?"),
        ("[nothing]", "no section [nothing]"),
        ("source = '0'", "source stands before any section; put it under [camera]"),
        ("camera = '0'", "camera: a section, written as a line [camera]"),
        ("[camera]\nfps = '10'", "[camera] fps: a number without quotes"),
        ("[camera]\nsize = [640, '480']", "[camera] size[1]: a number without quotes"),
        ("[camera]\nsource = 0", '[camera] source: write it in quotes, "0"'),
        ("[camera]\nflip_vertical = 'no'", "flip_vertical: true or false, without quotes"),
        ("[camera]\nrotate = 45", "[camera] rotate: 45; allowed are 0, 90, 180, 270"),
        ("[mqtt]\nversion = '4'", '[mqtt] version: "4"; allowed are "3.1.1", "5"'),
        ("[detector]\nthreshold = 1.5", "[detector] threshold: must be below 1"),
        ("[detector]\nthreshold = 1", "[detector] threshold: must be below 1"),
        ("[detector]\nthreshold = 0", "[detector] threshold: must be above 0"),
        ("[detector]\nthreads = 257", "[detector] threads: must be at most 256"),
        ("[visits]\nquiet_s = -1", "[visits] quiet_s: must be at least 0"),
        ("[schedule]\npatrol_s = 1e-310", "[schedule] patrol_s: must be at least 0.1"),
        # as the library says it, for what is rare
        ("[camera]\nsize = [640]", "[camera] size: Expected `array`"),
        ("[camera\n", "edgebird.toml"),
        ("[camera]\nsource = picamera2", "text needs quotes"),
        ("[camera]\nflip_vertical = True", "write true or false in small letters"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        load_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[camera]\nfps = .5 # slow", "[camera]\nsource =\n"])
def test_a_value_that_is_no_text_is_not_to_be_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"Invalid value \(at .*\)$"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize("code", ["MJPG", "Y16"])
def test_a_format_may_be_written_as_it_is_listed(tmp_path: Path, code: str) -> None:
    path = written(tmp_path, f'[camera]\npixel_format = "{code}"\n')
    assert load_config(path).camera.pixel_format == code


def test_no_number_may_be_infinite(tmp_path: Path) -> None:
    numbers = [
        name
        for name, value in settings_of(load_config(written(tmp_path, uncommented()))).items()
        if isinstance(value, float)
    ]
    assert len(numbers) > 15
    for name in numbers:
        section, _, key = name.partition(".")
        for value in ("inf", "-inf", "nan"):
            with pytest.raises(ConfigError, match=rf"\[{section}\] {key}"):
                load_config(written(tmp_path, f"[{section}]\n{key} = {value}\n"))


def test_folders_of_a_service_are_where_it_runs(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, '[output]\nsave = "pictures"\n'))
    assert as_its_service(config, tmp_path / "edgebird.toml") == config
    assert as_its_service(config, None) == config
    for name, folder in (("edgebird", "edgebird"), ("front", "edgebird/front")):
        served = as_its_service(config, Path(f"/etc/edgebird/{name}.toml"))
        assert served.output.save == f"/var/lib/{folder}/pictures"
        assert served.mqtt.state == f"/var/lib/{folder}"
    elsewhere = written(tmp_path, '[output]\nsave = "/srv/birds"\n[mqtt]\nstate = "/srv/state"\n')
    served = as_its_service(load_config(elsewhere), Path("/etc/edgebird/edgebird.toml"))
    assert (served.output.save, served.mqtt.state) == ("/srv/birds", "/srv/state")


FILES = """
[camera]
source = "clips/birds.mp4"
[detector]
model = "my.tflite"
[mqtt]
password_file = "password"
ca_file = "ca.crt"
cert_file = "feeder.crt"
key_file = "feeder.key"
"""


def test_files_of_a_service_are_where_it_runs(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, FILES))
    served = as_its_service(config, Path("/etc/edgebird/front.toml"))
    folder = "/var/lib/edgebird/front"
    assert served.camera.source == f"{folder}/clips/birds.mp4"
    assert served.detector.model == f"{folder}/my.tflite"
    assert served.mqtt.password_file == f"{folder}/password"
    assert served.mqtt.ca_file == f"{folder}/ca.crt"
    assert served.mqtt.cert_file == f"{folder}/feeder.crt"
    assert served.mqtt.key_file == f"{folder}/feeder.key"
    elsewhere = overruled(config, mqtt={"key_file": "/srv/feeder.key"})
    served = as_its_service(elsewhere, Path("/etc/edgebird/front.toml"))
    assert served.mqtt.key_file == "/srv/feeder.key"
    assert as_its_service(config, tmp_path / "edgebird.toml") == config
    assert as_its_service(Config(), Path("/etc/edgebird/front.toml")).camera == Config().camera


@pytest.mark.parametrize("source", ["birds-index1", "usb-A_B-index0"])
def test_what_no_camera_is_called_is_a_file(source: str) -> None:
    config = overruled(Config(), camera={"source": source})
    served = as_its_service(config, Path("/etc/edgebird/edgebird.toml"))
    assert served.camera.source == f"/var/lib/edgebird/{source}"


@pytest.mark.parametrize(
    "source",
    [
        *("0", "/dev/video0", "usb-046d_USB2.0_Cam-video-index0", "picamera2", "picamera2:1"),
        *("demo:", "demo:?seed=3", "rtsp://me:word@host/x", "rtsp:/me:word@host"),
        *("ftp://host", "/srv/birds.mp4", ""),
    ],
)
def test_a_source_that_is_no_file_of_the_services_folder_stays(source: str) -> None:
    config = overruled(Config(), camera={"source": source})
    served = as_its_service(config, Path("/etc/edgebird/edgebird.toml"))
    assert served.camera.source == source


def test_what_outlives_a_restart_is_in_the_first_folder_that_systemd_gives() -> None:
    environment = {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}
    assert state_folder(None, environment) == Path("/var/lib/one")
    assert state_folder("/srv/state", environment) == Path("/srv/state")


@pytest.fixture
def service_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for that with the settings of services, with a password in it."""
    monkeypatch.setattr("edgebird.config.SERVICE_SETTINGS", tmp_path)
    (tmp_path / "mqtt-password").write_text("of the service\n")
    return tmp_path


def test_who_reads_a_services_settings_has_its_password(service_settings: Path) -> None:
    path = written(service_settings, '[mqtt]\nurl = "mqtt://feeder@host"\n')
    assert broker_address(load_config(path, {}).mqtt, {}).password == "of the service"
    # what is given in another way comes first, and another broker may want no user
    mqtt = load_config(path, {}).mqtt
    environment = {"EDGEBIRD_MQTT_PASSWORD": "of the environment"}
    assert broker_address(mqtt, environment).password == "of the environment"
    for url, password in (("mqtt://me:word@other", "word"), ("mqtt://other", None)):
        mqtt = overruled(load_config(path, {}), mqtt={"url": url}).mqtt
        assert broker_address(mqtt, {}).password == password
    # the file need not have a password, nor be there
    (service_settings / "mqtt-password").write_text("\n")
    assert broker_address(load_config(path, {}).mqtt, {}).password is None
    (service_settings / "mqtt-password").unlink()
    assert load_config(path, {}).mqtt.password_file is None


def test_the_service_itself_has_its_password_from_systemd(service_settings: Path) -> None:
    path = written(service_settings, '[mqtt]\nurl = "mqtt://feeder@host"\n')
    credentials = service_settings / "credentials"
    credentials.mkdir()
    (credentials / "mqtt-password").write_text("from systemd\n")
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    mqtt = load_config(path, environment).mqtt
    assert mqtt.password_file is None
    assert broker_address(mqtt, environment).password == "from systemd"
    # a unit of one's own may have other credentials
    (credentials / "mqtt-password").unlink()
    own = overruled(
        Config(), mqtt={"user": "me", "password_file": f"{service_settings}/mqtt-password"}
    )
    assert broker_address(own.mqtt, environment).password == "of the service"


def test_only_a_services_settings_have_its_password(service_settings: Path) -> None:
    elsewhere = service_settings / "elsewhere"
    elsewhere.mkdir()
    path = written(elsewhere, '[mqtt]\nurl = "mqtt://feeder@host"\n')
    assert load_config(path, {}).mqtt.password_file is None
    path = written(service_settings, '[mqtt]\nuser = "feeder"\npassword_file = "/srv/own"\n')
    assert load_config(path, {}).mqtt.password_file == "/srv/own"


def test_a_services_password_that_is_for_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own folders are closed to the user that this is tried as
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        monkeypatch.setattr("edgebird.config.SERVICE_SETTINGS", folder)
        folder.chmod(0o755)
        (folder / "mqtt-password").write_text("secret\n")
        (folder / "mqtt-password").chmod(0)
        path = written(folder, '[mqtt]\nurl = "mqtt://feeder@host"\n')
        path.chmod(0o644)
        with unprivileged(), pytest.raises(UsageError, match="denied; try with sudo"):
            broker_address(load_config(path, {}).mqtt, {})


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(binary)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"[camera]\nexposure_us = {'9' * 5000}\n", "too many digits"),
        (f"[motion]\nzones = {'[' * 3000}{']' * 3000}\n", "nested too deeply"),
        ('[mqtt]\npassword_file = "y\\u0000"\n', "`mqtt.password_file` holds the character"),
    ],
    ids=["digits", "brackets", "zero"],
)
def test_what_no_setting_can_be_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"edgebird\.toml: .*{problem}") as caught:
        load_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "edgebird.toml"
    path.write_text("[detector]\nthreads = 2\n", "utf-8-sig")
    assert load_config(path).detector.threads == 2


def test_the_command_line_overrules_and_none_does_not(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "[detector]\nthreshold = 0.3\nthreads = 2\n"))
    changed = overruled(config, detector={"threshold": 0.7, "threads": None})
    assert (changed.detector.threshold, changed.detector.threads) == (0.7, 2)


def test_a_wrong_value_from_the_command_line_is_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("[detector] threads")):
        overruled(Config(), detector={"threads": 0})


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (Config().tracker, [TrackerSettings()]),
        (Config().visits, [VisitSettings()]),
        (Config().schedule, [ScheduleSettings()]),
        (Config().motion, [ZoneSettings(), EvidenceSettings()]),
    ],
)
def test_defaults_of_the_file_are_those_of_the_parts(
    section: msgspec.Struct, settings: list[Any]
) -> None:
    parts = {name: value for part in settings for name, value in asdict(part).items()}
    assert msgspec.structs.asdict(section) == parts


@pytest.mark.parametrize("name", ["discovery", "discovery_prefix", "detections_per_s"])
def test_defaults_of_the_file_are_those_of_the_sink(name: str) -> None:
    assert getattr(Config().mqtt, name) == signature(MqttSink).parameters[name].default
