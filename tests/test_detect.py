"""What the settings make of the parts, before anything is looked at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_cli import assert_one_clear_line, edgebird

from edgebird.config import CameraSection, Config, VisitsSection
from edgebird.detect import _senses, _tracker_settings, _visit_settings
from edgebird.motion import small_luma
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
    ("source", "fps", "max_gap_s", "quiet_s"),
    [
        ("pictures/*.jpg", None, 2.0, 0.5),
        ("pictures/*.jpg", 10.0, 2.0, 0.5),
        ("pictures/*.jpg", 0.2, 7.5, 7.5),
        ("0", 0.5, 3.0, 3.0),
        ("video.mp4", 0.2, 2.0, 0.5),  # which keeps its own
    ],
)
def test_a_bird_is_not_gone_before_the_next_frame(
    source: str, fps: float | None, max_gap_s: float, quiet_s: float
) -> None:
    config = Config(camera=CameraSection(source=source, fps=fps), visits=VisitsSection(quiet_s=0.0))
    assert _tracker_settings(config).max_gap_s == max_gap_s
    assert _visit_settings(config).quiet_s == quiet_s


def test_annotated_copies_never_replace_the_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "bird.jpg"
    assert cv2.imwrite(str(picture), np.zeros((48, 64, 3), np.uint8))
    before = picture.read_bytes()
    for source, save in ((tmp_path, tmp_path), (picture, tmp_path / ".")):
        result = edgebird("detect", "--source", source, "--save", save)
        assert_one_clear_line(result, 2, "give another folder")
        assert result.stdout == ""
    assert picture.read_bytes() == before
