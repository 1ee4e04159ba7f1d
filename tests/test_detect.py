"""What the settings make of the parts, before anything is looked at."""

from __future__ import annotations

import io
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_cli import assert_one_clear_line, edgebird

from edgebird.cli import _progress_bar
from edgebird.config import CameraSection, Config, DetectorSection, MqttSection
from edgebird.controls import Controls
from edgebird.detect import _mqtt_sink, _senses, camera_name, detect_in_pictures
from edgebird.detector import open_detector
from edgebird.disk import DiskUse
from edgebird.motion import small_luma
from edgebird.mqtt.address import BrokerAddress
from edgebird.structures import Frame
from edgebird.zones import Zones, ZoneSettings


@pytest.mark.parametrize(
    ("source", "faults"), [("0", ("size",)), ("rtsp://camera.local/stream", ())]
)
def test_only_a_camera_that_is_asked_for_a_size_has_to_give_it(
    source: str, faults: tuple[str, ...]
) -> None:
    config = Config(camera=CameraSection(source=source, size=(1280, 720)))
    watch = _senses(config, "cam", Zones(ZoneSettings()), None).watch
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    frame = Frame(image, 0, 0.0, 1000.0, source)
    watch.check(frame, small_luma(frame))
    assert watch.faults == faults


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("0", True),
        ("rtsp://host/stream", True),
        ("demo:", True),
        ("v.mp4", None),
        ("p/*.jpg", None),
    ],
)
def test_home_assistant_is_told_of_what_goes_on(
    source: str, told: bool | None, tmp_path: Path
) -> None:
    model, _ = open_detector(DetectorSection(verify=False))
    config = Config(camera=CameraSection(source=source), mqtt=MqttSection(state=str(tmp_path)))
    nobody = BrokerAddress("127.0.0.1", 1)
    with closing(_mqtt_sink(config, nobody, "told", model, Controls(0.5), DiskUse())) as sink:
        assert sink._discovery_wanted is told


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://[2001:db8::5]:554/stream", "2001:db8::5"),
        ("rtsp://anna:w%23r[d@camera.local:554/stream", "camera.local"),
        ("http://camera.local:80?mail=a@b.example", "camera.local"),
        ("http://[2001:db8::5/stream", "http"),
        ("rtsp://anna@:554/stream", "rtsp"),
        ("2", "camera2"),
        ("demo:?seed=1", "demo"),
        ("clips/garden.mp4", "garden"),
    ],
)
def test_a_camera_without_a_name_is_called_after_its_source(source: str, name: str) -> None:
    assert camera_name(source) == name


def test_annotated_copies_never_replace_the_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "bird.jpg"
    assert cv2.imwrite(str(picture), np.zeros((48, 64, 3), np.uint8))
    before = picture.read_bytes()
    for source, save in ((tmp_path, tmp_path), (picture, tmp_path / ".")):
        result = edgebird("detect", "--source", source, "--save", save)
        assert_one_clear_line(result, 2, "give another folder")
        assert result.stdout == ""
    assert picture.read_bytes() == before


def test_the_two_ways_through_a_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((48, 64, 3), np.uint8))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    config = Config(
        camera=CameraSection(source=str(tmp_path)), detector=DetectorSection(verify=False)
    )
    detect_in_pictures(config, lambda result: None, _progress_bar)
    shown = terminal.getvalue()
    assert 0 <= shown.index("comparing") < shown.index("looking")
