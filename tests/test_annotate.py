"""Pictures for people: what is drawn into them, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from test_visits import bird, frame

from edgebird.annotate import draw_birds, jpeg_for_mqtt
from edgebird.snapshots import Snapshots
from edgebird.structures import Image, TrackState
from edgebird.visits import Visits, VisitSettings


def grey(width: int = 640, height: int = 480) -> Image:
    return np.full((height, width, 3), 128, np.uint8)


def is_grey(image: Image) -> bool:
    return bool((image == 128).all())


def greenness(image: Image) -> NDArray[np.int16]:
    """By how much a decoded picture's green is above the rest."""
    return image[..., 1].astype(np.int16) - image[..., 0]


def test_a_small_bird_at_the_upper_edge_is_seen() -> None:
    drawn = draw_birds(grey(), [((300.0, 0.0, 316.0, 16.0), 0.9)])
    assert is_grey(drawn[2:14, 302:314])
    assert not is_grey(drawn[18:32, 300:360])


def test_a_label_is_in_the_box_only_where_there_is_room_on_neither_side() -> None:
    drawn = draw_birds(grey(), [((100.0, 0.0, 200.0, 300.0), 0.9)])
    assert is_grey(drawn[3:297, 103:197])
    drawn = draw_birds(grey(), [((100.0, 200.0, 200.0, 480.0), 0.9)])
    assert is_grey(drawn[203:477, 103:197])
    assert not is_grey(drawn[186:198, 100:160])
    drawn = draw_birds(grey(), [((100.0, -3.0, 200.0, 480.0), 0.9)])
    assert (drawn[2:12, 100:160] == 0).all(axis=2).any()


def test_a_wide_pictures_birds_are_not_covered_by_labels() -> None:
    drawn = draw_birds(grey(5000, 200), [((2500.0, 120.0, 2540.0, 160.0), 0.9)])
    assert is_grey(drawn[:80])
    assert is_grey(drawn[125:155, 2505:2535])


def test_no_frame_strikes_through_a_label() -> None:
    labelled = ((100.0, 100.0, 200.0, 200.0), 0.7)
    alone = draw_birds(grey(), [labelled])
    for score in (0.6, 0.9):
        drawn = draw_birds(grey(), [labelled, ((130.0, 50.0, 300.0, 180.0), score)])
        np.testing.assert_array_equal(drawn[86:99, :160], alone[86:99, :160])


def test_the_surest_birds_label_is_on_top() -> None:
    sure = ((100.0, 100.0, 200.0, 200.0), 0.95)
    drawn = draw_birds(grey(), [sure, ((110.0, 104.0, 210.0, 210.0), 0.6)])
    np.testing.assert_array_equal(drawn[86:99, :160], draw_birds(grey(), [sure])[86:99, :160])


def test_a_panoramas_label_can_be_read_in_the_small_picture_for_mqtt() -> None:
    jpeg = jpeg_for_mqtt(grey(5000, 500), [((2500.0, 200.0, 2700.0, 400.0), 0.9)])
    small = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert small is not None
    assert small.shape == (102, 1024, 3)
    rows = np.flatnonzero(greenness(small)[:, 514:548].mean(axis=1) > 20)
    # letters of 8 pixels above a frame whose lower side is at a fifth of 400
    assert rows.min() <= 30
    assert 80 <= rows.max() <= 84


def test_a_visits_picture_frames_all_birds_in_it(tmp_path: Path) -> None:
    other = replace(bird(2, 0, 0, 0.6), xyxy=(400.0, 200.0, 600.0, 400.0))
    unsure = replace(bird(3, 0, 0, 0.5), state=TrackState.TENTATIVE)
    visits = Visits("feeder", VisitSettings())
    snapshots = Snapshots(tmp_path)
    seen = replace(frame(0.0), image=grey())
    [start] = visits.update(seen, [bird(1, 0, 0), other, unsure])
    # a worse shot, of one bird only
    visits.update(replace(seen, monotonic_s=1.0), [bird(1, 0, 1, 0.3), other])
    [end] = visits.finish()
    both = ((bird(1, 0, 0).xyxy, 0.7), (other.xyxy, 0.6))
    assert start.best_birds == end.best_birds == both
    for change in (start, end):
        path = snapshots.save(change).visit.snapshot
        assert path is not None
        picture = cv2.imread(path)
        assert picture is not None
        # the lower sides of both
        assert greenness(picture[39:42, 3:28]).mean() > 20
        assert greenness(picture[399:402, 420:580]).mean() > 20
