"""Scores as log-odds, in which what is known independently adds up."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Floating = TypeVar("Floating", bound=np.floating[Any])


@overload
def log_odds(probability: float) -> float: ...
@overload
def log_odds(probability: NDArray[Floating]) -> NDArray[Floating]: ...
def log_odds(probability: Any) -> Any:
    """ln(p / (1 - p)) of one or of an array, with p kept a millionth away from 0 and 1."""
    # for a single number np.clip takes many times as long
    bounded = np.minimum(np.maximum(probability, 1e-6), 1 - 1e-6)
    odds = np.log(bounded / (1 - bounded))
    return odds if isinstance(probability, np.ndarray) else float(odds)


@overload
def probability(log_odds: float) -> float: ...
@overload
def probability(log_odds: NDArray[Floating]) -> NDArray[Floating]: ...
def probability(log_odds: Any) -> Any:
    """The probability, 0 to 1, with these log-odds, of one or of an array."""
    share = 1 / (1 + np.exp(-log_odds))
    return share if isinstance(log_odds, np.ndarray) else float(share)
