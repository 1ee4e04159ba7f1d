"""Log-odds of single numbers and of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from edgebird.odds import log_odds, probability


def test_an_array_comes_to_the_same_as_its_numbers() -> None:
    scores = np.linspace(0, 1, 101)
    odds = log_odds(scores)
    assert odds.tolist() == pytest.approx([log_odds(score) for score in scores.tolist()])
    assert probability(odds).tolist() == pytest.approx([probability(o) for o in odds.tolist()])
    np.testing.assert_allclose(probability(odds), scores, atol=1.1e-6)


def test_a_number_stays_a_number_and_an_array_keeps_its_type() -> None:
    assert (type(log_odds(0.3)), type(probability(0.3))) == (float, float)
    few = np.array([0.0, 0.5, 1.0], np.float32)
    assert log_odds(few).dtype == probability(few).dtype == np.float32
    assert np.isfinite(log_odds(few)).all()
