"""The gate: whether a release may take the champion's place, figure by figure.

A figure that cannot be had refuses nothing; the verdict says which were not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from models import escape
from models.compiled import CompiledPredictors
from models.decision import DecisionDefaults, score
from models.inputs import QueryInputs

# What the release may be worse by: worth on the slice (units of quality), share of choices that stay
# when a query is written otherwise; and times the champion's latency and memory.
WORTH_TOLERANCE: Final = 0.01
ROBUSTNESS_TOLERANCE: Final = 0.03
LATENCY_TOLERANCE: Final = 1.25
MEMORY_TOLERANCE: Final = 1.25
# Agreement below this is another router, for people to look at.
LEAST_AGREEMENT: Final = 0.5
DRAWS: Final = 1000
PASSES, REFUSED = "passes", "refused"


@dataclass(frozen=True)
class Check:
    """One figure. allowed: what it may come to. passes: None where it cannot be had; then says why."""

    name: str
    champion: float | None
    release: float | None
    allowed: str
    passes: bool | None
    says: str = ""


@dataclass(frozen=True)
class Verdict:
    """checks: every figure. passes: none is refused."""

    version: str
    against: str
    checks: Sequence[Check]

    @property
    def passes(self) -> bool:
        return all(check.passes is not False for check in self.checks)

    @property
    def word(self) -> str:
        return PASSES if self.passes else REFUSED

    @property
    def why(self) -> str:
        """What it was refused for, or what could not be had."""
        refused = [c.name for c in self.checks if c.passes is False]
        unknown = [c.name for c in self.checks if c.passes is None]
        told = f"refused for {', '.join(refused)}" if refused else "passes"
        return f"{told}; not to be had: {', '.join(unknown)}" if unknown else told

    @property
    def figures(self) -> str:
        """Every figure, a line each."""
        marks = {True: "passes", False: "refused", None: "not to be had"}

        def line(c: Check) -> str:
            numbers = [f"{v:.4g}" for v in (c.release, c.champion) if v is not None]
            told = f": {' against '.join(numbers)}" if numbers else ""
            return f"{c.name}{told}, {marks[c.passes]}{f' ({c.says})' if c.says else ''}"

        return "\n".join(line(check) for check in self.checks)

    def record(self) -> dict[str, Any]:
        return {"verdict": self.word, "why": self.why, **asdict(self)}


@dataclass(frozen=True)
class Slice:
    """n queries whose outcomes are known. quality, cost: (n, L) in the order of ``names``, NaN where
    unknown."""

    names: list[str]
    quality: np.ndarray
    cost: np.ndarray


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


def worth_check(
    data: Slice, release: Sequence[str], champion: Sequence[str], willingness_to_pay: float
) -> Check:
    """Mean quality less cost over λ, on queries on which both choices' outcomes are known.

    release, champion: each one's choices. λ: the champion's.
    """
    places = {name: i for i, name in enumerate(data.names)}
    worth = data.quality - data.cost / willingness_to_pay
    rows = np.arange(len(worth))
    got = []
    for chosen in (release, champion):
        columns = np.array([places.get(name, -1) for name in chosen])
        got.append(np.where(columns >= 0, worth[rows, columns], np.nan))
    known = np.isfinite(got[0]) & np.isfinite(got[1])
    if not known.any():
        return Check("worth on the frozen slice", None, None, "", None, "no outcomes in common")
    new, old = (part[known] for part in got)
    gain = new - old
    drawn = np.random.default_rng(0).choice(gain, size=(DRAWS, len(gain))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Worse by more than is tolerated, and not by chance.
    bad = gain.mean() < -WORTH_TOLERANCE and high < 0
    return Check(
        "worth on the frozen slice",
        float(old.mean()),
        float(new.mean()),
        f"at most {WORTH_TOLERANCE:g} less",
        not bad,
        f"difference {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}] on {int(known.sum())} queries",
    )


def agreement_check(
    release: Sequence[str], champion: Sequence[str], what: str, meant: Collection[str] = ()
) -> Check:
    """The share of queries for which both choose alike. meant: the champion's choices that are to
    change, which are not counted: candidates that have changed, or are gone."""
    name, allowed = f"agreement on {what}", f"at least {LEAST_AGREEMENT:.0%}"
    same = [a == b for a, b in zip(release, champion, strict=True) if b not in meant]
    if not same:
        return Check(name, None, None, allowed, None, "every choice is meant to change")
    alike = float(np.mean(same))
    left = f"without those of {', '.join(sorted(meant))}" if meant else ""
    return Check(name, 1.0, alike, allowed, alike >= LEAST_AGREEMENT, left)


def robustness_check(release: float, champion: float, by_kind: Mapping[str, float]) -> Check:
    """The share of choices that stay when queries are written otherwise. by_kind: the release's."""
    return Check(
        "choices that stay when written otherwise",
        champion,
        release,
        f"at most {ROBUSTNESS_TOLERANCE:.0%} fewer",
        release >= champion - ROBUSTNESS_TOLERANCE,
        ", ".join(f"{kind} {share:.0%}" for kind, share in by_kind.items()),
    )


def ratio_check(name: str, release: float, champion: float, most: float, unit: str) -> Check:
    """At most so many times the champion's."""
    return Check(
        f"{name}, {unit}",
        champion,
        release,
        f"at most {most:g} times",
        release <= most * champion,
        f"{release / champion:.2f} times" if champion > 0 else "",
    )


def latency_check(release: np.ndarray, champion: np.ndarray) -> Check:
    """Seconds (n,) of routing the same queries, the two in turns: the median of their ratios, refused
    where it is above what is allowed beyond the chance of a busy machine."""
    ratios = release / champion
    drawn = np.random.default_rng(0).choice(ratios, size=(DRAWS, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Check(
        "routing one query, ms",
        1000 * float(np.median(champion)),
        1000 * float(np.median(release)),
        f"at most {LATENCY_TOLERANCE:g} times",
        bool(low <= LATENCY_TOLERANCE),
        f"{np.median(ratios):.2f} times [{low:.2f}, {high:.2f}]",
    )


def gate_table(verdict: Verdict) -> str:
    """Markdown."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    marks = {True: "passes", False: "**refused**", None: "not to be had"}
    lines = [
        f"Release {verdict.version} against {verdict.against}: **{verdict.word}**.",
        "",
        "| figure | champion | release | allowed | | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for c in verdict.checks:
        lines.append(
            f"| {escape.markdown(c.name)} | {shown(c.champion)} | {shown(c.release)} | {c.allowed} | "
            f"{marks[c.passes]} | {escape.markdown(c.says)} |"
        )
    return "\n".join(lines)
