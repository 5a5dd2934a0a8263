"""Measures of a router: AIQ, cost at a quality, quality at a cost, gap closed; with intervals.

AIQ is RouterBench's (Hu et al. 2024): the non-decreasing convex hull of (mean cost, mean quality),
integrated between the cheapest and the dearest single candidate's mean cost, over that range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

QUALITY_SHARE: Final = 0.9725
COST_SHARE: Final = 0.2418
LEVEL: Final = 0.95
# With 20 test queries the standard error of a mean quality is up to 0.11; with fewer, two routers
# cannot be told apart, whatever they do.
LEAST_TEST_QUERIES: Final = 20
# What files and tables call each measure, in the order of ``Measures``.
MEASURES: Final = ("aiq", "cost_at_97.25%_quality", "quality_at_24.18%_cost", "gap_closed")
AIQ_OVER: Final = "aiq_over"


@dataclass(frozen=True)
class Routed:
    """What k settings of a router (willingness to pay) did on n queries.

    cost, quality: (k, n), the chosen candidates' true outcomes.
    """

    cost: np.ndarray
    quality: np.ndarray

    def where(self, rows: np.ndarray) -> Routed:
        """On some of the queries. rows: (n,) bool."""
        return Routed(self.cost[:, rows], self.quality[:, rows])


def hull(cost: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-decreasing upper convex hull of points and the origin, as (costs, qualities).

    The origin stands for not answering: any router can be mixed with that, so a curve is defined
    below its cheapest point.
    """
    order = np.lexsort((-quality, cost))
    xs, ys = [0.0], [0.0]
    for x, y in zip(cost[order].tolist(), quality[order].tolist(), strict=True):
        if y <= ys[-1]:
            continue
        if x == xs[-1]:  # a free candidate stands where the origin stood
            ys[-1] = y
            continue
        while len(xs) >= 2 and (ys[-1] - ys[-2]) * (x - xs[-2]) <= (y - ys[-2]) * (xs[-1] - xs[-2]):
            xs.pop()
            ys.pop()
        xs.append(x)
        ys.append(y)
    return np.array(xs), np.array(ys)


def aiq(cost: np.ndarray, quality: np.ndarray, low: float, high: float) -> float:
    """Average quality of the hull between two mean costs (USD)."""
    xs, ys = hull(cost, quality)
    if high <= low:
        return float(np.interp(high, xs, ys))
    grid = np.unique(np.concatenate([[low, high], xs[(xs > low) & (xs < high)]]))
    return float(np.trapezoid(np.interp(grid, xs, ys), grid) / (high - low))


def cost_at(cost: np.ndarray, quality: np.ndarray, wanted: float) -> float:
    """The least cost at which the hull has a quality; NaN where it never does."""
    xs, ys = hull(cost, quality)
    if ys[-1] < wanted:
        return float("nan")
    return float(np.interp(wanted, ys, xs))


@dataclass(frozen=True)
class Frame:
    """The single candidates on the same rows: what every measure is relative to."""

    low: float
    high: float
    best_cost: float
    best_quality: float
    zero: float
    oracle: float


@dataclass(frozen=True)
class Measures:
    """The measures of design.md.

    aiq: average quality, in [0, 1].
    cost_at_quality: the cost of 97.25 % of the best single LLM's quality, a share of its cost; NaN where
        that is never reached.
    quality_at_cost: the quality at 24.18 % of the best single LLM's cost, a share of its quality.
    gap_closed: the share of the way from no router (0) to the oracle (1).
    """

    aiq: float
    cost_at_quality: float
    quality_at_cost: float
    gap_closed: float


def measure(cost: np.ndarray, quality: np.ndarray, frame: Frame) -> Measures:
    """Of (k,) mean costs (USD) and qualities."""
    area = aiq(cost, quality, frame.low, frame.high)
    xs, ys = hull(cost, quality)
    span = frame.oracle - frame.zero
    dear = cost_at(cost, quality, QUALITY_SHARE * frame.best_quality)
    cheap = float(np.interp(COST_SHARE * frame.best_cost, xs, ys))
    return Measures(
        aiq=area,
        cost_at_quality=dear / frame.best_cost if frame.best_cost > 0 else float("nan"),
        quality_at_cost=cheap / max(frame.best_quality, 1e-12),
        gap_closed=(area - frame.zero) / span if span > 0 else float("nan"),
    )


def drawn_measures(
    routers: Mapping[str, Routed],
    oracle: Routed,
    singles: Routed,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Name → (draws + 1, ``MEASURES``): every router's, ``zero``'s and ``oracle``'s measures on the
    rows as they are, then on each bootstrap resample; resamples are shared, so differences pair.

    singles: the single candidates, each a setting of its own: (L, n).
    """
    n = singles.cost.shape[1]
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws) / n
    weights = np.vstack([np.full((1, n), 1 / n), weights])
    means = {
        name: (weights @ routed.cost.T, weights @ routed.quality.T)
        for name, routed in {**routers, "zero": singles, "oracle": oracle}.items()
    }
    single_cost, single_quality = means["zero"]
    table: dict[str, np.ndarray] = {name: np.empty((draws + 1, len(MEASURES))) for name in means}
    for b in range(draws + 1):
        best = int(np.argmax(single_quality[b]))
        low, high = float(single_cost[b].min()), float(single_cost[b].max())
        frame = Frame(
            low=low,
            high=high,
            best_cost=float(single_cost[b, best]),
            best_quality=float(single_quality[b, best]),
            zero=aiq(single_cost[b], single_quality[b], low, high),
            oracle=aiq(means["oracle"][0][b], means["oracle"][1][b], low, high),
        )
        for name, rows in table.items():
            rows[b] = astuple(measure(means[name][0][b], means[name][1][b], frame))
    return table


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; None where it cannot be reached, or too few draws reach it."""

    value: float | None
    low: float | None
    high: float | None

    def text(self, *, share: bool) -> str:
        """ "0.812 [0.801, 0.823]", or in per cent; a dash where the value is never reached."""

        def shown(value: float) -> str:
            return f"{100 * value:.1f} %" if share else f"{value:.4f}"

        if self.value is None:
            return "–"
        if self.low is None or self.high is None:
            return shown(self.value)
        return f"{shown(self.value)} [{shown(self.low)}, {shown(self.high)}]"


@dataclass(frozen=True)
class Measured:
    """``Measures`` with their intervals. aiq_over: the first router's AIQ less this one's, paired."""

    aiq: Interval
    cost_at_quality: Interval
    quality_at_cost: Interval
    gap_closed: Interval
    aiq_over: Interval

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """As files hold it."""
        return dict(zip((*MEASURES, AIQ_OVER), (vars(i) for i in vars(self).values()), strict=True))

    @classmethod
    def of_dict(cls, cells: Mapping[str, Mapping[str, float | None]]) -> Measured:
        """From what ``as_dict`` gave."""
        return cls(*(Interval(**cells[key]) for key in (*MEASURES, AIQ_OVER)))


def compare(
    routers: Mapping[str, Routed],
    oracle: Routed,
    singles: Routed,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Measured]:
    """Every measure of every router, with 95 % bootstrap intervals over queries.

    singles: the single candidates, each a setting of its own: (L, n).
    """
    table = drawn_measures(routers, oracle, singles, draws=draws, seed=seed)
    first = table[next(iter(routers))][:, 0]
    return {
        name: Measured(
            aiq=interval(rows[:, 0]),
            cost_at_quality=interval(rows[:, 1]),
            quality_at_cost=interval(rows[:, 2]),
            gap_closed=interval(rows[:, 3]),
            aiq_over=interval(first - rows[:, 0]),
        )
        for name, rows in table.items()
    }


def interval(values: np.ndarray) -> Interval:
    """The first value with the percentile interval of the rest; None where too few are defined."""
    drawn = values[1:][np.isfinite(values[1:])]
    value = float(values[0]) if np.isfinite(values[0]) else None
    if len(drawn) < LEVEL * (len(values) - 1):
        return Interval(value, None, None)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
