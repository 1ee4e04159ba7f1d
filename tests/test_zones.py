"""Only birds in the zones, outside the masks and of a bird's size count."""

from __future__ import annotations

import numpy as np
import pytest
from test_tracker import found, square

from edgebird.zones import Zones, ZoneSettings

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
TOP = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))


@pytest.mark.parametrize(
    ("settings", "corners"),
    [
        (ZoneSettings(), ["top left", "top right", "bottom left", "bottom right"]),
        (ZoneSettings(zones=[LEFT]), ["top left", "bottom left"]),
        (ZoneSettings(masks=[LEFT]), ["top right", "bottom right"]),
        (ZoneSettings(zones=[TOP], masks=[LEFT]), ["top right"]),
        (ZoneSettings(zones=[LEFT, TOP]), ["top left", "top right", "bottom left"]),
    ],
)
def test_a_bird_counts_where_its_middle_is(settings: ZoneSettings, corners: list[str]) -> None:
    places = {
        "top left": square(100, 100, 60),
        "top right": square(500, 100, 60),
        "bottom left": square(100, 350, 60),
        "bottom right": square(500, 350, 60),
    }
    birds = found(*((box, 0.9) for box in places.values()))
    kept = Zones(settings).inside(birds, 640, 480).xyxy.tolist()
    assert [name for name, box in places.items() if list(box) in kept] == corners


def test_a_bird_counts_if_it_has_a_birds_size() -> None:
    zones = Zones(ZoneSettings(min_bird=0.05, max_bird=0.5))
    sides = [10, 31, 33, 319, 321, 400]
    birds = found(*((square(0, 0, side), 0.9) for side in sides))
    kept = zones.inside(birds, 640, 480).xyxy
    assert kept[:, 2].tolist() == [33, 319]


def test_zones_are_drawn_for_any_size_of_frame() -> None:
    zones = Zones(ZoneSettings(masks=[LEFT]))
    for width, height in ((160, 120), (20, 60)):
        drawn = zones.drawn(width, height)
        assert drawn.shape == (height, width)
        assert np.mean(drawn > 0) == pytest.approx(0.5, abs=0.06)
