from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from edgebird.config import (
    EXAMPLE,
    Config,
    as_its_service,
    load_config,
    overruled,
    read_config,
    settings_of,
)
from edgebird.errors import ConfigError
from edgebird.tracker import TrackerSettings
from edgebird.visits import VisitSettings


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
    in_file = read_config(written(tmp_path, uncommented()))
    named = [f"{section}.{key}" for section, keys in in_file.items() for key in keys]
    assert sorted(named) == sorted(settings_of(Config()))


def test_what_the_example_shows_is_the_default_where_there_is_one(tmp_path: Path) -> None:
    shown = settings_of(load_config(written(tmp_path, uncommented())))
    for name, default in settings_of(Config()).items():
        if default not in (None, ()):
            assert shown[name] == default, name


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[camera]\nsorce = '0'", "sorce"),
        ("[kamera]\nsource = '0'", "kamera"),
        ("[detector]\nthreshold = 1.5", "detector.threshold"),
        ("[detector]\nthreads = 'many'", "detector.threads"),
        ("[visits]\nquiet_s = -1", "visits.quiet_s"),
        ("[camera\n", "edgebird.toml"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(place)) as caught:
        load_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


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
            with pytest.raises(ConfigError, match=name):
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


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(binary)


def test_the_command_line_overrules_and_none_does_not(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "[detector]\nthreshold = 0.3\nthreads = 2\n"))
    changed = overruled(config, detector={"threshold": 0.7, "threads": None})
    assert (changed.detector.threshold, changed.detector.threads) == (0.7, 2)


def test_a_wrong_value_from_the_command_line_is_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("detector.threads")):
        overruled(Config(), detector={"threads": 0})


@pytest.mark.parametrize(
    ("section", "settings"),
    [(Config().tracker, TrackerSettings()), (Config().visits, VisitSettings())],
)
def test_defaults_of_the_file_are_those_of_the_parts(
    section: msgspec.Struct, settings: object
) -> None:
    assert type(settings)(**msgspec.structs.asdict(section)) == settings
