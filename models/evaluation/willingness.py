"""The willingness to pay that a sweep tries."""

from __future__ import annotations

import numpy as np

# How many settings of the willingness to pay a sweep tries.
SWEEP: int = 60


def willingness_grid(cost: np.ndarray) -> np.ndarray:
    """Settings of λ (USD per unit of quality) from "cost is all" to "quality is all".

    cost: (n, L) USD on training queries, NaN where unknown.
    """
    typical = float(np.nanmedian(cost[cost > 0])) if (cost > 0).any() else 1e-6
    dearest = float(np.nanmax(np.nanmean(cost, axis=0))) or typical
    inner = np.geomspace(typical / 20, max(dearest, typical) * 200, SWEEP)
    return np.concatenate([[typical / 1e9], inner, [dearest * 1e9]])
