"""One figure of the gate: what it came to, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PASSES, FAILS, NOT_MEASURED, REFUSED = "passes", "fails", "not measured", "refused"
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
