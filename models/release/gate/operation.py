"""Figures of a release in operation: who can be called, latency, memory, logged votes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.catalog import Catalog, upstreams_of
from models.release.gate.checks import (
    CALLABLE,
    FAILS,
    LATENCY,
    OFFPOLICY,
    OWN_PROBES,
    PASSES,
    Check,
    not_measured,
)
from models.release.gate.outcomes import DRAWS

LATENCY_TOLERANCE: Final = 1.25
MEMORY_TOLERANCE: Final = 1.25


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
