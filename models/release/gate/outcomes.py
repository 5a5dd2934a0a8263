"""Figures of a release against known outcomes: worth, agreement, robustness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.decision.estimates import DecisionDefaults, score
from models.encoder.inputs import QueryInputs
from models.evaluation.measures import LEAST_TEST_QUERIES
from models.predictors.compiled import CompiledPredictors
from models.release.gate.checks import (
    EVALUATION,
    FAILS,
    PASSES,
    ROBUSTNESS,
    WORTH,
    Check,
    not_measured,
)

# What the release may be worse by: worth on the slice (units of quality), share of choices that stay
# when a query is written otherwise; and times the champion's latency and memory.
WORTH_TOLERANCE: Final = 0.01
ROBUSTNESS_TOLERANCE: Final = 0.03
# Agreement below this is another router, for people to look at.
LEAST_AGREEMENT: Final = 0.5
DRAWS: Final = 1000


@dataclass(frozen=True)
class Slice:
    """n queries whose outcomes are known. quality, cost: (n, L) in the order of ``names``, NaN where
    unknown."""

    names: list[str]
    quality: np.ndarray
    cost: np.ndarray

    def of(self, values: np.ndarray, chosen: Sequence[str]) -> np.ndarray:
        """(n,) values (n, L) of the LLM chosen for each query; NaN where unknown."""
        places = {name: i for i, name in enumerate(self.names)}
        columns = np.array([places.get(name, -1) for name in chosen])
        rows = np.arange(len(values))
        return np.where(columns >= 0, values[rows, columns], np.nan)


def choices(
    compiled: CompiledPredictors, defaults: DecisionDefaults, inputs: QueryInputs
) -> list[str]:
    """Whom a release chooses for each query."""
    best = np.argmax(score(compiled.estimate(inputs), defaults).total, axis=1)
    return [compiled.candidates[i] for i in best.tolist()]


def aged(data: Slice, moved: Mapping[str, float]) -> Slice:
    """The slice as it would be judged now. moved: candidate → by how much its quality was seen to
    change since."""
    shift = np.array([moved.get(name, 0.0) for name in data.names])
    return Slice(data.names, data.quality + shift, data.cost)


def evaluation_check(data: Slice, chosen: Sequence[str], aiq: float | None = None) -> Check:
    """Whether the test queries can tell anything of the release.

    chosen: the release's choices.
    aiq: as its training measured it, where it did.
    """
    allowed = f"{LEAST_TEST_QUERIES} test queries or more, outcomes that differ, AIQ above 0"
    known = int(np.isfinite(data.of(data.quality, chosen)).sum())
    values = data.quality[np.isfinite(data.quality)]
    faults = []
    if known < LEAST_TEST_QUERIES:
        faults.append(
            f"the chosen LLM's outcome is known for {known} test queries, {LEAST_TEST_QUERIES} are "
            "needed"
        )
    if len(values) and np.ptp(values) == 0:
        faults.append(f"every outcome has the quality {values[0]:g}")
    if aiq is not None and not aiq > 0:
        faults.append(f"its AIQ is {aiq:g}")
    reason = "; ".join(faults) or f"{known} test queries"
    state = FAILS if faults else PASSES
    return Check(EVALUATION, None, float(known), allowed, state, reason)


def worth_check(
    data: Slice, release: Sequence[str], champion: Sequence[str], willingness_to_pay: float
) -> Check:
    """Mean quality less cost over λ, on queries on which both choices' outcomes are known.

    release, champion: each one's choices. λ: the champion's.
    """
    allowed = f"at most {WORTH_TOLERANCE:g} less"
    worth = data.quality - data.cost / willingness_to_pay
    new, old = data.of(worth, release), data.of(worth, champion)
    known = np.isfinite(new) & np.isfinite(old)
    if known.sum() < LEAST_TEST_QUERIES:
        reason = (
            f"the outcomes of both choices are known for {int(known.sum())} test queries, "
            f"{LEAST_TEST_QUERIES} are needed"
        )
        return not_measured(WORTH, reason, allowed)
    new, old = new[known], old[known]
    gain = new - old
    drawn = np.random.default_rng(0).choice(gain, size=(DRAWS, len(gain))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Worse by more than is tolerated, and not by chance.
    bad = gain.mean() < -WORTH_TOLERANCE and high < 0
    return Check(
        WORTH,
        float(old.mean()),
        float(new.mean()),
        allowed,
        FAILS if bad else PASSES,
        f"difference {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}] on {int(known.sum())} queries",
    )


def agreement_check(
    name: str, release: Sequence[str], champion: Sequence[str], meant: Collection[str] = ()
) -> Check:
    """The share of queries for which both choose alike. meant: the champion's choices that are to
    change, which are not counted: candidates that have changed, or are gone."""
    allowed = f"at least {LEAST_AGREEMENT:.0%}"
    same = [a == b for a, b in zip(release, champion, strict=True) if b not in meant]
    if not same:
        why = "every choice is meant to change"
        return not_measured(name, why, allowed, excuse=why)
    alike = float(np.mean(same))
    left_out = f"without those of {', '.join(sorted(meant))}" if meant else ""
    state = PASSES if alike >= LEAST_AGREEMENT else FAILS
    return Check(name, 1.0, alike, allowed, state, left_out)


def robustness_check(release: float, champion: float, by_kind: Mapping[str, float]) -> Check:
    """The share of choices that stay when queries are written otherwise. by_kind: the release's."""
    return Check(
        ROBUSTNESS,
        champion,
        release,
        f"at most {ROBUSTNESS_TOLERANCE:.0%} fewer",
        PASSES if release >= champion - ROBUSTNESS_TOLERANCE else FAILS,
        ", ".join(f"{kind} {share:.0%}" for kind, share in by_kind.items()),
    )
