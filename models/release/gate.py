"""The gate: whether a release may take the champion's place, figure by figure.

A figure passes, fails or is not measured. ``RULE`` says what that comes to: a figure that is not
measured never counts as one that passes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from models import escape
from models.catalog import Catalog, upstreams_of
from models.decision.estimates import DecisionDefaults, score
from models.encoder.inputs import QueryInputs
from models.evaluation.measures import LEAST_TEST_QUERIES
from models.predictors.compiled import CompiledPredictors

# What the release may be worse by: worth on the slice (units of quality), share of choices that stay
# when a query is written otherwise; and times the champion's latency and memory.
WORTH_TOLERANCE: Final = 0.01
ROBUSTNESS_TOLERANCE: Final = 0.03
LATENCY_TOLERANCE: Final = 1.25
MEMORY_TOLERANCE: Final = 1.25
# Agreement below this is another router, for people to look at.
LEAST_AGREEMENT: Final = 0.5
DRAWS: Final = 1000
PASSES, FAILS, NOT_MEASURED, REFUSED = "passes", "fails", "not measured", "refused"
RULE: Final = (
    "A release passes when no figure fails and every necessary figure was measured. Only these may "
    "be missing: comparisons with a champion before there is one, the off-policy gain while the "
    "log of votes cannot tell, and agreement where every choice is meant to change."
)
CALLABLE: Final = "LLMs that can be called"
OWN_PROBES: Final = "its own probes"
EVALUATION: Final = "what its evaluation rests on"
CHAMPION_PROBES: Final = "agreement on the champion's probes"
LATENCY: Final = "routing one query, ms"
MEMORY: Final = "memory, MiB"
OFFPOLICY: Final = "off-policy gain"
WORTH: Final = "worth on the test queries"
AGREEMENT: Final = "agreement on the test queries"
ROBUSTNESS: Final = "choices that stay when written otherwise"
COMPARISONS: Final = (
    CHAMPION_PROBES, LATENCY, MEMORY, OFFPOLICY, WORTH, AGREEMENT, ROBUSTNESS,
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One figure.

    allowed: what it may come to.
    state: passes, fails or not measured.
    reason: what it came to, or why it was not measured.
    excuse: why it may be missing; empty for a necessary figure.
    """

    name: str
    champion: float | None
    release: float | None
    allowed: str
    state: str
    reason: str = ""
    excuse: str = ""

    @property
    def holds(self) -> bool:
        """Whether it stands in the way of nothing."""
        return self.state == PASSES or (self.state == NOT_MEASURED and bool(self.excuse))

    @property
    def named(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


@dataclass(frozen=True)
class JudgedData:
    """The data that a verdict rests on.

    digest: of the whole evaluation set.
    split: which of its queries were used.
    queries, test_queries: used, and of how many.
    outcomes: rows of the queries used.
    """

    name: str
    digest: str
    split: str
    queries: int
    test_queries: int
    outcomes: int

    def __str__(self) -> str:
        return (
            f"{self.name} (digest {self.digest[:12]}), {self.split}: {self.queries} of "
            f"{self.test_queries} queries, {self.outcomes} outcomes"
        )


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a release.

    against: the champion's version; None for a first release.
    checks: every figure.
    data: what it rests on; None without an evaluation set.
    inputs: all that a repetition would have to share to be one, name → value.
    number: its place in the release's history.
    changed: what differs from the verdict before.
    overruled: the refusal that still counts in its place, if one does.
    """

    version: str
    against: str | None
    checks: Sequence[Check]
    data: JudgedData | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    number: int = 1
    changed: str = ""
    overruled: str = ""

    @property
    def measured(self) -> str:
        """What its own figures come to: passes or refused."""
        return PASSES if all(check.holds for check in self.checks) else REFUSED

    @property
    def word(self) -> str:
        """What counts: passes or refused."""
        return REFUSED if self.overruled else self.measured

    @property
    def passes(self) -> bool:
        return self.word == PASSES

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if check.state == FAILS]

    @property
    def reason(self) -> str:
        """Why, in one line."""
        if self.overruled:
            return self.overruled
        by_state = {
            state: [check for check in self.checks if check.state == state]
            for state in (PASSES, FAILS, NOT_MEASURED)
        }
        necessary = [check for check in by_state[NOT_MEASURED] if not check.excuse]
        excused = [check for check in by_state[NOT_MEASURED] if check.excuse]
        if self.measured == REFUSED:
            parts = []
            if by_state[FAILS]:
                parts.append(f"fails: {'; '.join(c.named for c in by_state[FAILS])}")
            if necessary:
                named = "; ".join(c.named for c in necessary)
                parts.append(f"necessary but not measured: {named}")
            return "refused; " + "; ".join(parts)
        reason = f"passes {len(by_state[PASSES])} of {len(self.checks)} figures"
        if not excused:
            return reason
        excuses: dict[str, list[str]] = {}
        for check in excused:
            excuses.setdefault(check.excuse, []).append(check.name)
        missing = "; ".join(f"{', '.join(names)} ({why})" for why, names in excuses.items())
        return f"{reason}; not measured: {missing}"

    @property
    def figures(self) -> str:
        """Every figure, a line each."""

        def line(c: Check) -> str:
            numbers = [f"{v:.4g}" for v in (c.release, c.champion) if v is not None]
            values = f": {' against '.join(numbers)}" if numbers else ""
            return f"{c.name}{values}, {c.state}{f' ({c.reason})' if c.reason else ''}"

        return "\n".join(line(check) for check in self.checks)

    def record(self) -> dict[str, Any]:
        return {"verdict": self.word, "reason": self.reason, "rule": RULE, **asdict(self)}


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


def same_inputs(
    refusal: Mapping[str, Any], inputs: Mapping[str, Any], failed: Sequence[str]
) -> bool:
    """Whether a refusal was made of these inputs. failed: what it failed in; new votes are news only
    to a refusal that rests on votes."""
    left_out = set() if OFFPOLICY in failed else {"votes"}
    keys = (set(refusal) | set(inputs)) - left_out
    return all(refusal.get(key) == inputs.get(key) for key in keys)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed between the inputs of two verdicts, in words; empty where nothing did."""

    def shown(value: Any) -> str:
        return "none" if value in (None, "", [], {}) else str(value)[:80]

    keys = [key for key in now if before.get(key) != now[key]]
    return "; ".join(f"{key}: {shown(before.get(key))} → {shown(now[key])}" for key in keys)


def not_measured(name: str, reason: str, allowed: str = "", excuse: str = "") -> Check:
    return Check(name, None, None, allowed, NOT_MEASURED, reason, excuse)


def first_release(checks: Sequence[Check]) -> list[Check]:
    """The comparisons that a release without a champion before it goes without."""
    present = {check.name for check in checks}
    reason = "there is no champion to compare with"
    return [
        not_measured(name, reason, excuse="no champion yet")
        for name in COMPARISONS
        if name not in present
    ]


def callable_check(
    release: Catalog, champion: Catalog | None, local: Catalog | None, disabled: Collection[str]
) -> Check:
    """Whether chats would still reach an LLM.

    local: the catalog of this machine, whose upstreams come before a release's.
    Where neither the champion nor the machine's catalog has an upstream, only ``/v1/route`` is used.
    """
    allowed = "at least one, where chats are served"
    mine = upstreams_of(release, local)
    able = [name for name in release.names if name in mine and name not in disabled]
    theirs = None if champion is None else float(len(upstreams_of(champion, local)))
    serves_chats = bool(theirs) or bool(local is not None and upstreams_of(local, None))
    left = [name for name in release.names if name not in disabled]

    def check(state: str, reason: str) -> Check:
        return Check(CALLABLE, theirs, float(len(able)), allowed, state, reason)

    if not left:
        return check(FAILS, "every LLM of the release is disabled: mixllm candidate enable")
    if able:
        without = [name for name in left if name not in mine]
        note = f"; without an upstream: {few(without)}" if without else ""
        return check(PASSES, f"{len(able)} of {len(release.names)}{note}")
    if not serves_chats and not mine:
        return check(PASSES, "no upstreams anywhere: only /v1/route is used")
    why = (
        f"{few(sorted(mine))} disabled"
        if mine
        else f"{few(release.names)} have no upstream in the release or in MIXLLM_CATALOG"
    )
    return check(FAILS, f"no LLM of the release can be called, every chat would fail: {why}")


def few(names: Sequence[str]) -> str:
    """Names for a message, at most five."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def probes_check(error: str | None) -> Check:
    """error: what is wrong with the release's stored probes, if anything."""
    state = PASSES if error is None else FAILS
    return Check(OWN_PROBES, None, float(error is None), "as stored", state, error or "")


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


def ratio_check(name: str, release: float, champion: float, most: float) -> Check:
    """At most so many times the champion's."""
    return Check(
        name,
        champion,
        release,
        f"at most {most:g} times",
        PASSES if release <= most * champion else FAILS,
        f"{release / champion:.2f} times" if champion > 0 else "",
    )


def latency_check(release: np.ndarray, champion: np.ndarray) -> Check:
    """Seconds (n,) of routing the same queries, the two in turns: the median of their ratios, refused
    where it is above what is allowed beyond the chance of a busy machine."""
    ratios = release / champion
    drawn = np.random.default_rng(0).choice(ratios, size=(DRAWS, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Check(
        LATENCY,
        1000 * float(np.median(champion)),
        1000 * float(np.median(release)),
        f"at most {LATENCY_TOLERANCE:g} times",
        PASSES if low <= LATENCY_TOLERANCE else FAILS,
        f"{np.median(ratios):.2f} times [{low:.2f}, {high:.2f}] in {len(ratios)} pairs; timed, so "
        "it varies from run to run",
    )


def offpolicy_check(compared: Mapping[str, Any] | None, error: str = "") -> Check:
    """By the votes on logged decisions. compared: ``compare_policies``; error: why there is none."""
    allowed = "not worse"
    if compared is None or compared["verdict"] == "unknown":
        reason = error or "the log of votes cannot tell"
        return not_measured(OFFPOLICY, reason, allowed, excuse="too few votes to tell")
    gain = compared["gain"]
    interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
    reason = f"{compared['verdict']} {interval}, {compared['votes']} votes"
    state = FAILS if compared["verdict"] == "worse" else PASSES
    return Check(OFFPOLICY, 0.0, gain["value"], allowed, state, reason)


def settled(verdict: Verdict, history: Sequence[Mapping[str, Any]], changed: str = "") -> Verdict:
    """The verdict with its place in the release's history: its number, what changed, and whether it
    counts.

    history: the records of ``Registry.verdicts``, the oldest first.
    changed: what somebody says has changed since.

    A release that passes where it was refused on the same inputs (figures that are timed vary) stays
    refused until somebody says what changed.
    """
    number = 1 + max((int(row["number"]) for row in history), default=0)
    news = changed
    if history:
        difference = differences(history[-1]["inputs"], verdict.inputs)
        news = "; ".join(filter(None, (changed, difference)))
    verdict = replace(verdict, number=number, changed=news)
    if changed or verdict.measured == REFUSED:
        return verdict
    for row in reversed(history):
        same = same_inputs(row["inputs"], verdict.inputs, row["failed"])
        if same and row["measured"] == PASSES and row["verdict"] == PASSES:
            break  # somebody said what changed, and it passed
        if same and row["measured"] == REFUSED:
            overruled = (
                f"refused by verdict {row['number']} on the same inputs, although this time it "
                f"passes; say what changed: mixllm judge {verdict.version} --changed TEXT; "
                f"then it was {row['reason']}"
            )
            return replace(verdict, overruled=overruled)
    return verdict


def gate_table(verdict: Verdict) -> str:
    """Markdown."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    marks = {PASSES: PASSES, FAILS: f"**{FAILS}**", NOT_MEASURED: NOT_MEASURED}
    against = (
        f"against {escape.markdown(verdict.against)}" if verdict.against else "the first release"
    )
    lines = [
        f"Release {verdict.version}, {against}, verdict {verdict.number}: **{verdict.word}**.",
        "",
        f"Data: {escape.markdown(str(verdict.data or 'no evaluation set'))}.",
    ]
    if verdict.changed:
        lines += ["", f"Changed since the verdict before: {escape.markdown(verdict.changed)}."]
    lines += [
        "",
        "| figure | champion | release | allowed | | necessary | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in verdict.checks:
        necessary = f"no: {escape.markdown(c.excuse)}" if c.excuse else "yes"
        lines.append(
            f"| {escape.markdown(c.name)} | {shown(c.champion)} | {shown(c.release)} | "
            f"{escape.markdown(c.allowed)} | {marks[c.state]} | {necessary} | "
            f"{escape.markdown(c.reason)} |"
        )
    return "\n".join([*lines, "", RULE])
