"""Signals of the release's age and of the policy state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.drift.signals import Signal


def stale(days: float, threshold: float) -> Signal:
    """The release is so many days old."""
    what = "days since the release was trained"
    return Signal(
        "stale-release", None, what, None, days, days, threshold, None, 0, days >= threshold
    )


# A state's weights stay far below this while votes agree with each other at all.
LARGEST_NORM: Final = 3.0
SWING: Final = 0.05
STATES: Final = 8


def unstable(states: Sequence[Mapping[str, Any]], threshold: float) -> Iterator[Signal]:
    """Online learning leaves its bounds. states: the newest first, as the store lists them, each with
    ``statistics``, ``refused`` and ``version``; those that were made since the last window first.

    Effect: the worst of refused states, of norms over ``LARGEST_NORM``, and of how often a candidate's
    feedback score swung to and fro, as a share of what would be always.
    """
    for row in states[:STATES]:
        if row["refused"] is not None:
            what = f"policy state {row['version']} is refused: {row['refused']}"
            yield Signal("learning-unstable", None, what, None, 1.0, 1.0, threshold, None, 1, True)
            return
    good = [row["statistics"]["candidates"] for row in states]
    worst: tuple[float, str, str] = (0.0, "", "")
    for name, newest in (good[0] if good else {}).items():
        worst = max(worst, (newest["norm"] / LARGEST_NORM, name, "norm of its feedback weights"))
        line = np.array([s[name]["score"] for s in good[:STATES] if "score" in s.get(name, {})])
        steps = np.diff(line)
        if len(line) == STATES and np.abs(steps).min() >= SWING:
            turns = float((np.sign(steps[1:]) != np.sign(steps[:-1])).mean())
            worst = max(worst, (turns, name, "turns of its feedback score, from state to state"))
    effect, name, what = worst
    if name:
        yield Signal(
            "learning-unstable", name, what, None, effect, effect, threshold, None, len(good),
            effect >= threshold,
        )  # fmt: skip


def poisoned(held: Sequence[str], known: Sequence[str], threshold: float) -> Iterator[Signal]:
    """Voters that are held and were not before, by the sequential test of ``models.learning.voters``."""
    for voter in sorted(set(held) - set(known)):
        what = "votes against what all others say: held"
        yield Signal("feedback-poisoned", voter, what, 0.0, 1.0, 1.0, threshold, None, 1, True)
