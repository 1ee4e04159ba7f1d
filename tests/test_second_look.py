"""What the second look is measured by: scores of both looks, and false alarms at equal recall."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")

from test_classify import card
from test_model_build import detections
from test_model_build_report import LARGE, SIZE, SMALL, truth

from edgebird.classify import Classifier
from edgebird.structures import Detections, Image
from edgebird.testing import FakeBatchInterpreter
from model_build.second_look import LookedTwice, effect_table, effects, look_twice
from model_build.validation import ValidationSet

# A bird that is doubted, one that is not, and a shadow that is believed more than the first.
LOOKED = LookedTwice(
    [detections((*SMALL, 0.5)), detections((*LARGE, 0.97)), detections((*SMALL, 0.6))],
    [np.array([5], np.float32), np.array([np.nan], np.float32), np.array([-5], np.float32)],
    [truth(SMALL), truth(LARGE), truth()],
)


def test_a_second_look_finds_more_birds_with_as_many_false_alarms_and_the_reverse() -> None:
    none, both = effects({"set": LOOKED}, [(0.4, 1.0)], flagged_share=0.0)
    assert (none.threshold, none.recall["set"]) == (0.61, 0.5)
    # Log-odds of 0.41 - 1.
    assert (both.threshold, both.recall["set"]) == (0.36, 1.0)
    assert none.ap50["set"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert both.ap50["set"] == pytest.approx(1.0)
    # At a threshold that flags every empty picture both birds are found with one false alarm.
    none, both = effects({"set": LOOKED}, [(0.4, 1.0)], flagged_share=1.0)
    assert (none.flagged, both.flagged) == (1, 0)


def test_the_effects_are_a_table_with_a_row_for_each_setting() -> None:
    lines = effect_table(effects({"a": LOOKED}, [(0.2, 1.0), (0.4, 1.5)], 0.0)).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| none | 0.61 | 0.500 | ")


def test_only_what_is_doubtful_is_looked_at_again() -> None:
    class Sees:
        def detect(self, image: Image, regions: object = None, *, threshold: float) -> Detections:
            return detections((*LARGE, 0.97), (*SMALL, 0.6), (0, 0, 9, 9, 0.04))

    picture = np.full((SIZE[1], SIZE[0], 3), 160, np.uint8)
    dataset = ValidationSet("set", [lambda: (picture, truth(SMALL))] * 3)
    looked = look_twice(Sees(), Classifier(FakeBatchInterpreter(), card()), dataset, every=2)
    assert len(looked.truths) == 2
    np.testing.assert_allclose(looked.seen[0], [np.nan, 2.0, np.nan])
