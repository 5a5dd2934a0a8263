"""The verdict of the gate, and its place in the history of a release.

A figure passes, fails or is not measured. ``RULE`` says what that comes to: a figure that is not
measured never counts as one that passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from models.release.gate.checks import FAILS, NOT_MEASURED, OFFPOLICY, PASSES, REFUSED, Check

RULE: Final = (
    "A release passes when no figure fails and every necessary figure was measured. Only these may "
    "be missing: comparisons with a champion before there is one, the off-policy gain while the "
    "log of votes cannot tell, and agreement where every choice is meant to change."
)


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
