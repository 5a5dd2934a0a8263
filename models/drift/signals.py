"""Signals: in what a window differs from the reference, each with its effect, threshold and p-value.

Every test of a window belongs to one family: p-values are corrected together by Holm's method (*A simple
sequentially rejective multiple test procedure*, 1979). A signal is *lit* when chance does not explain
it and the effect is large enough to matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import stats

from models.drift.statistics import Side, domain_classifier, proportion, welch
from models.drift.windows import Window, delay, residuals

# The chance that a window without drift lights anything at all, by the tests.
FAMILY_ERROR: Final = 0.01
# Lit by so little chance, a signal needs no second window.
CERTAIN: Final = 1e-6
# Rows that a mean is judged from at least, in the window and in the reference.
LEAST_ROWS: Final = 30
LEAST_WINDOW: Final = 50

# The least effect that matters, unless the rules say otherwise.
THRESHOLDS: Final = {
    "predictor-drift": 0.08,
    "slower-than-foreseen": 0.4,
    "latency-cascade": 0.15,
    "unseen-domains": 0.02,
    "query-drift": 0.1,
    "cost-above-forecast": 0.2,
    "feedback-drying-up": 0.5,
    "learning-unstable": 1.0,
    "feedback-poisoned": 1.0,
    "stale-release": 90.0,
    "rows-refused": 1.0,
}
# Tokens count as quality does, on another scale: a third more or fewer.
TOKENS_SCALE: Final = 0.25
# Predicted seconds that rise so much say that requests wait.
WAITING_RISE: Final = float(np.log(1.5))


@dataclass(frozen=True)
class Signal:
    """alert: its name. subject: the candidate or voter concerned. what: the figure, in words, which was
    ``reference`` and is ``now``. effect: how far it moved, in the units of ``threshold``. p_value: None
    where nothing is left to chance. samples: rows of the window it rests on. lit: see above."""

    alert: str
    subject: str | None
    what: str
    reference: float | None
    now: float
    effect: float
    threshold: float
    p_value: float | None
    samples: int
    lit: bool = False

    @property
    def key(self) -> tuple[str, str | None]:
        return self.alert, self.subject

    @property
    def certain(self) -> bool:
        """Lit beyond doubt."""
        return self.lit and (self.p_value is None or self.p_value <= CERTAIN)


def find_signals(
    reference: Window, window: Window, recent: Window, thresholds: Mapping[str, float] | None = None
) -> list[Signal]:
    """Every statistical signal of a window, lit or not, the surest first.

    recent: the window with those before it, for candidates that are seldom chosen. thresholds: alert →
    its least effect, where not ``THRESHOLDS``'s.
    """
    least = {**THRESHOLDS, **(thresholds or {})}
    found = [
        *predictor_drift(reference, window, recent, least["predictor-drift"]),
        *slower(reference, window, recent, least["slower-than-foreseen"]),
        *cascade(reference, window, least["latency-cascade"]),
        *unseen(reference, window, least["unseen-domains"]),
        *query_drift(reference, window, least["query-drift"]),
        *cost(reference, window, least["cost-above-forecast"]),
        *drying_up(reference, window, least["feedback-drying-up"]),
    ]
    return sorted(light(found), key=lambda s: (not s.lit, s.p_value))


def light(signals: Sequence[Signal]) -> list[Signal]:
    """The same signals with Holm's p-values, lit where they are small and the effect is large."""
    raw = np.array([s.p_value for s in signals], dtype=np.float64)
    order = np.argsort(raw)
    stepped = raw[order] * (len(raw) - np.arange(len(raw)))
    adjusted = np.minimum(np.maximum.accumulate(stepped), 1.0) if len(raw) else raw
    out = list(signals)
    for place, p in zip(order.tolist(), adjusted.tolist(), strict=True):
        signal = signals[place]
        lit = p <= FAMILY_ERROR and signal.effect >= signal.threshold
        out[place] = replace(signal, p_value=p, lit=lit)
    return out


def predictor_drift(
    reference: Window, window: Window, recent: Window, threshold: float
) -> Iterator[Signal]:
    """A candidate's observed quality or tokens leave its predictions: was it updated upstream?"""
    for residual in (QUALITY, TOKENS):
        yield from _by_candidate(residual, reference, window, recent, threshold)


def slower(reference: Window, window: Window, recent: Window, threshold: float) -> Iterator[Signal]:
    """A candidate takes longer than the same answers took it, beyond what all others do."""
    yield from _by_candidate(SECONDS, reference, window, recent, threshold)


@dataclass(frozen=True)
class Residual:
    """What is observed of a candidate against what was predicted.

    alert: raised when it moves.
    column: of ``residuals``.
    what: the figure, in words.
    scale: what the effect is multiplied by, to be in the threshold's units.
    """

    alert: str
    column: str
    what: str
    scale: float = 1.0
    side: Side = "two-sided"


QUALITY: Final = Residual("predictor-drift", "quality", "observed quality less predicted")
TOKENS: Final = Residual(
    "predictor-drift", "tokens", "log of observed tokens over predicted", TOKENS_SCALE
)
SECONDS: Final = Residual(
    "slower-than-foreseen",
    "seconds",
    "log of its seconds over the catalog's, beyond others'",
    side="greater",
)


def _by_candidate(
    residual: Residual, reference: Window, window: Window, recent: Window, threshold: float
) -> Iterator[Signal]:
    """Welch's test of one residual, a candidate at a time; from the recent rows where the window has
    too few."""
    for name in sorted({*window.llms, *recent.llms}):
        before = _values(reference, name, residual.column)
        now = _values(window, name, residual.column)
        if len(now) < LEAST_ROWS:
            now = _values(recent, name, residual.column)
        if len(now) < LEAST_ROWS or len(before) < LEAST_ROWS:
            continue
        moved = float(now.mean() - before.mean())
        yield Signal(
            alert=residual.alert,
            subject=name,
            what=residual.what,
            reference=float(before.mean()),
            now=float(now.mean()),
            effect=residual.scale * (abs(moved) if residual.side == "two-sided" else moved),
            threshold=threshold,
            p_value=welch(now, before, residual.side),
            samples=len(now),
        )


def _values(window: Window, name: str, column: str) -> np.ndarray:
    """A candidate's known values. Seconds: less the others' mean, where enough of them answered; what
    slows everybody, such as a busy gateway, is not this candidate's doing."""
    found = residuals(window.rows)[column]
    mine = window.rows["llm"] == name
    values = found[mine].dropna().to_numpy()
    if column == "seconds":
        others = found[~mine].dropna()
        values = values - (others.mean() if len(others) >= LEAST_ROWS else 0.0)
    return np.asarray(values)


def cascade(reference: Window, window: Window, threshold: float) -> Iterator[Signal]:
    """Choices collapse onto one candidate while requests wait for that one.

    Both must be beyond chance: the larger p-value counts (Berger's intersection–union test, 1982).
    """
    if len(window) < LEAST_WINDOW or len(reference) < LEAST_WINDOW:
        return
    (name, share), *_ = window.shares().items()
    before = reference.shares().get(name, 0.0)
    waits, waited = delay(window.of_llm(name)).dropna(), delay(reference.of_llm(name)).dropna()
    if len(waits) < LEAST_ROWS or len(waited) < LEAST_ROWS:
        return
    rise = float(waits.mean() - waited.mean())
    p = max(
        proportion(share, len(window), before, len(reference), "greater"),
        welch(waits.to_numpy(), waited.to_numpy(), "greater"),
    )
    effect = share - before if rise >= WAITING_RISE else 0.0
    what = f"share of the choices, while seconds to it rise by {np.exp(rise) - 1:+.0%}"
    yield Signal(
        "latency-cascade", name, what, before, share, effect, threshold, p, len(window)
    )  # fmt: skip


def unseen(reference: Window, window: Window, threshold: float) -> Iterator[Signal]:
    """More queries are of no known domain."""
    now = window.rows["unseen_score"].dropna() > 1
    before = reference.rows["unseen_score"].dropna() > 1
    if len(now) < LEAST_WINDOW or len(before) < LEAST_WINDOW:
        return
    a, b = float(now.mean()), float(before.mean())
    p = proportion(a, len(now), b, len(before), "greater")
    what = "share of queries of no known domain"
    yield Signal("unseen-domains", None, what, b, a, a - b, threshold, p, len(now))


def query_drift(reference: Window, window: Window, threshold: float) -> Iterator[Signal]:
    """A classifier tells the window's queries from the reference's (Lopez-Paz and Oquab, *Revisiting
    classifier two-sample tests*, 2017), by the area under its ROC curve on rows it has not seen."""
    a, b = window.embeddings, reference.embeddings
    if min(len(a), len(b)) < 2 * LEAST_ROWS or a.shape[1] != b.shape[1]:
        return
    scores = domain_classifier(b, a)
    old, new = scores[: len(b)], scores[len(b) :]
    found = stats.mannwhitneyu(new, old, alternative="greater")
    area = float(found.statistic) / (len(a) * len(b))
    what = "area under the ROC curve that tells these queries from the reference's"
    yield Signal(
        "query-drift", None, what, 0.5, area, area - 0.5, threshold, float(found.pvalue), len(a)
    )


def cost(reference: Window, window: Window, threshold: float) -> Iterator[Signal]:
    """Answers cost more than was predicted of them, beyond what they did in the reference."""
    parts = []
    for rows in (window.rows, reference.rows):
        paid = rows[["observed_cost_usd", "cost_usd"]].dropna()
        parts.append(paid[paid["cost_usd"] > 0].to_numpy())
    now, before = parts
    if min(len(now), len(before)) < LEAST_ROWS:
        return
    a, b = (float(part[:, 0].sum() / part[:, 1].sum()) for part in parts)
    if b <= 0:
        return
    # A ratio of sums is b when these have mean 0.
    p = welch(now[:, 0] - b * now[:, 1], before[:, 0] - b * before[:, 1], "greater")
    what = "observed cost over predicted"
    yield Signal("cost-above-forecast", None, what, b, a, a / b - 1.0, threshold, p, len(now))


def drying_up(reference: Window, window: Window, threshold: float) -> Iterator[Signal]:
    """Fewer votes come, for as many decisions."""
    if not reference.total or window.total < LEAST_WINDOW or reference.votes < LEAST_ROWS:
        return
    before, now = reference.votes / reference.total, window.votes / window.total
    # Given all votes, how many are the window's (Przyborowski and Wilenski, 1940).
    share = window.total / (window.total + reference.total)
    votes = window.votes + reference.votes
    p = float(stats.binom.cdf(window.votes, votes, share))
    what = "votes a decision"
    yield Signal(
        "feedback-drying-up",
        None,
        what,
        before,
        now,
        1.0 - now / before,
        threshold,
        p,
        window.total,
    )
