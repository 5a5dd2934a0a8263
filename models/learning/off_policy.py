"""Off-policy evaluation: what another policy would have earned, from what the logged one did.

IPS (Horvitz and Thompson, 1952), self-normalised IPS (Swaminathan and Joachims, 2015) and doubly robust
(Dudík, Langford and Li, 2011), with bootstrap intervals, and how far the log can tell at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from models.evaluation.measures import LEVEL
from models.markdown_table import markdown_table

DRAWS: Final = 1000
CERTAIN: Final = 1.0 - 1e-9
# An estimate is the log's word, not the predictions', with so many effective votes, so much of the
# policy's weight among them, and no more of its choices outside what was ever tried.
LEAST_EFFECTIVE: Final = 100.0
LEAST_WEIGHT: Final = 0.9
MOST_UNSUPPORTED: Final = 0.2
# Two policies are told apart by so many effective votes on what they do differently.
LEAST_DIFFERING: Final = 30.0
# A policy may be this much worse, in units of the vote, before it is refused.
TOLERANCE: Final = 0.01


@dataclass(frozen=True)
class LoggedVotes:
    """n decisions with a vote each. choice: (n,) candidate numbers. propensity: (n,) with which it was
    chosen. reward: (n,) in [0, 1]. model: (n, L) what is predicted of every candidate; L: of all
    policies compared."""

    choice: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    model: np.ndarray

    def __len__(self) -> int:
        return len(self.choice)


@dataclass(frozen=True)
class Value:
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, drawn: np.ndarray) -> Value:
        """The first value, with the percentile interval of the rest."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(drawn[1:], [tail, 1 - tail])
        return cls(float(drawn[0]), float(low), float(high))


@dataclass(frozen=True)
class OffPolicy:
    """What a policy would have earned. effective: Kish's effective number of votes. mean_weight: 1 where
    the log covers the policy. largest_weight. unsupported: share of the policy's choices where nothing
    else than the logged choice was possible, and that was another."""

    ips: Value
    snips: Value
    dr: Value
    effective: float
    mean_weight: float
    largest_weight: float
    unsupported: float

    @property
    def supported(self) -> bool:
        """Whether the log can tell; else the doubly robust estimate is the predictions' word."""
        return (
            self.effective >= LEAST_EFFECTIVE
            and self.mean_weight >= LEAST_WEIGHT
            and self.unsupported <= MOST_UNSUPPORTED
        )


def evaluate_policy(log: LoggedVotes, target: np.ndarray, draws: np.ndarray) -> OffPolicy:
    """target: (n, L) the policy's probabilities. draws: (d + 1, n) from ``resamples``."""
    weights, corrections = _parts(log, target)
    weighted = draws @ (weights * log.reward)
    total = np.maximum(draws @ weights, 1e-12)
    chosen = target[np.arange(len(log)), log.choice]
    return OffPolicy(
        ips=Value.of(weighted),
        snips=Value.of(weighted / total),
        dr=Value.of(draws @ corrections),
        effective=float(weights.sum() ** 2 / max(float((weights**2).sum()), 1e-12)),
        mean_weight=float(weights.mean()),
        largest_weight=float(weights.max()),
        unsupported=float(np.where(log.propensity >= CERTAIN, 1.0 - chosen, 0.0).mean()),
    )


@dataclass(frozen=True)
class Difference:
    """How much more one policy earns than another. gain: doubly robust, on the same resamples.
    share: of the decisions they would make differently. effective: Kish's number of votes that tell
    them apart."""

    gain: Value
    share: float
    effective: float

    @classmethod
    def of(
        cls, log: LoggedVotes, one: np.ndarray, other: np.ndarray, draws: np.ndarray
    ) -> Difference:
        (first, earned), (second, instead) = _parts(log, one), _parts(log, other)
        apart = np.abs(first - second)
        return cls(
            gain=Value.of(draws @ (earned - instead)),
            share=float(np.abs(one - other).sum(axis=1).mean() / 2),
            effective=float(apart.sum() ** 2 / max(float((apart**2).sum()), 1e-12)),
        )


def resamples(n: int, seed: int = 0) -> np.ndarray:
    """(DRAWS + 1, n) weights that sum to 1: the rows as they are, then bootstrap resamples."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    return np.vstack([np.full((1, n), 1 / n), drawn])


def _parts(log: LoggedVotes, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(importance weights, doubly robust terms), each (n,)."""
    rows = np.arange(len(log))
    weights = target[rows, log.choice] / log.propensity
    direct = (target * log.model).sum(axis=1)
    return weights, direct + weights * (log.reward - log.model[rows, log.choice])


def compare_policies(
    log: LoggedVotes, policies: Mapping[str, np.ndarray], first: str, against: str, seed: int = 0
) -> dict[str, Any]:
    """Every policy's estimates, and whether the first may replace the other.

    policies: name → (n, L) probabilities. Beside them: what was logged, the best single candidate (by
    its doubly robust value, which flatters it) and a uniformly random choice.
    """
    n, count = log.model.shape
    draws = resamples(n, seed)
    singles = [np.tile(np.eye(count)[i], (n, 1)) for i in range(count)]
    best = int(np.argmax([_parts(log, single)[1].mean() for single in singles]))
    known = {
        **policies,
        "best single": singles[best],
        "random": np.full((n, count), 1.0 / count),
    }
    found = {name: evaluate_policy(log, target, draws) for name, target in known.items()}
    apart = Difference.of(log, policies[first], policies[against], draws)
    return {
        "votes": n,
        "logged": asdict(Value.of(draws @ log.reward)),
        "policies": {n: {**asdict(f), "supported": f.supported} for n, f in found.items()},
        "best_single": best,
        "first": first,
        "against": against,
        "gain": asdict(apart.gain),
        "differing": {"share": apart.share, "effective": apart.effective},
        "verdict": verdict(found[first], apart),
    }


def verdict(first: OffPolicy, apart: Difference) -> str:
    """better, no worse, worse, or unknown where the log cannot tell."""
    if apart.share <= TOLERANCE:
        return "no worse"
    if apart.effective < LEAST_DIFFERING or first.unsupported > MOST_UNSUPPORTED:
        return "unknown"
    gain = apart.gain
    if gain.high < -TOLERANCE or gain.value < -TOLERANCE:
        return "worse"
    return "better" if gain.low > 0 else "no worse"


def ope_table(comparison: Mapping[str, Any]) -> str:
    """Markdown."""

    def cell(value: Mapping[str, float]) -> str:
        return f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"

    heads = (
        "policy", "IPS", "self-normalised", "doubly robust", "effective votes", "mean weight",
        "largest", "never tried",
    )  # fmt: skip
    rows = [
        (
            name,
            cell(row["ips"]),
            cell(row["snips"]),
            cell(row["dr"]),
            f"{row['effective']:.0f}",
            f"{row['mean_weight']:.2f}",
            f"{row['largest_weight']:.1f}",
            f"{row['unsupported']:.1%}",
        )
        for name, row in comparison["policies"].items()
    ]
    lines = [
        f"{comparison['votes']} decisions with a vote; the logged policy earned "
        f"{cell(comparison['logged'])}.",
        "",
        markdown_table(heads, rows),
        "",
        f"{comparison['first']} over {comparison['against']}: {cell(comparison['gain'])}: "
        f"**{comparison['verdict']}**. They differ in "
        f"{comparison['differing']['share']:.1%} of the decisions, told apart by "
        f"{comparison['differing']['effective']:.0f} effective votes.",
    ]
    if comparison["verdict"] == "unknown":
        lines.append(
            "The log cannot tell: too few votes on what it would choose. Explore (docs/feedback.md)."
        )
    return "\n".join(lines)
