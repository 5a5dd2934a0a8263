"""The votes' scale: satisfied users are not a benchmark's quality; how one goes with the other.

A vote is expected to be a + b·q where quality q is predicted, by least squares over the votes, the
old ones fading, and ``PRIOR_VOTES`` of a = 0, b = 1. What a vote says of its candidate is how far it
lies from that, over b: without this, users harder to please than the benchmark would push the router
towards whoever nobody has voted on, and noise towards whoever is predicted to be worst.
"""

from __future__ import annotations

from typing import Final

import numpy as np

PRIOR_VOTES: Final = 200.0
PRIOR_AT: Final = (0.3, 0.9)
# Votes after which a vote's part is down to 1 / e.
MEMORY: Final = 2000.0
LEAST_SLOPE: Final = 0.25
# votes, Σx, Σy, Σx², Σxy
SUMS: Final = 5
PRIOR: Final = np.mean([(1.0, at, at, at * at, at * at) for at in PRIOR_AT], axis=0) * PRIOR_VOTES


def line(sums: np.ndarray) -> tuple[float, float]:
    """(a, b) of votes summed by ``add``."""
    n, x, y, xx, xy = (sums + PRIOR).tolist()
    b = min(max((xy - x * y / n) / (xx - x * x / n), LEAST_SLOPE), 1.0 / LEAST_SLOPE)
    return (y - b * x) / n, b


def add(sums: np.ndarray, predicted: float, reward: float) -> None:
    """Count a vote of a reward where a quality was predicted."""
    sums *= np.exp(-1.0 / MEMORY)
    sums += (1.0, predicted, reward, predicted * predicted, predicted * reward)
