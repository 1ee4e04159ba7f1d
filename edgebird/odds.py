"""Scores as log-odds, in which what is known independently adds up."""

from __future__ import annotations

import math


def log_odds(probability: float) -> float:
    """ln(p / (1 - p)), with p kept a millionth away from 0 and 1."""
    probability = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(probability / (1 - probability))


def probability(log_odds: float) -> float:
    """The probability, 0 to 1, with these log-odds."""
    return 1 / (1 + math.exp(-log_odds))
