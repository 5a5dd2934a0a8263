"""Makes a new release champion or challenger, or neither, by its gate."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings
from models.release.gate.checks import REFUSED
from models.release.gate.table import gate_table
from monitoring.release_gate.judge import Trial, judge_release
from monitoring.store.audit import Step, note
from monitoring.store.schema import open_store


class Settled(NamedTuple):
    """The outcome of a release's gate.

    state: champion, challenger or refused.
    reason: the verdict's.
    """

    state: str
    reason: str


@task(name="settle", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def settle(trial: Trial, settings: Settings, *, promote: bool) -> Settled:
    """Judge a release against the champion, if there is one, and act on the verdict.

    promote: make it champion if it passes, not challenger.
    """
    version = trial.version
    registry = Registry.of(settings)
    champion = registry.alias(CHAMPION)
    if champion == version:
        return Settled("champion", "it is already champion")
    engine = open_store(settings)
    verdict = judge_release(registry, engine, settings, replace(trial, against=champion))
    create_markdown_artifact(key="gate", markdown=gate_table(verdict))
    if not verdict.passes:
        get_run_logger().warning("release %s: %s", version, verdict.reason)
        return Settled(REFUSED, verdict.reason)
    state = "champion" if promote else "challenger"
    why, result = f"its gate: {verdict.reason}", f"release {version}"
    note(engine, Step(f"make {state}", why, result, trial.alert_id))
    if promote:
        registry.promote(version)
    else:
        registry.challenge(version)
    return Settled(state, verdict.reason)
