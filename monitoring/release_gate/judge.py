"""The gate at work: a release is judged, and the verdict noted on its version."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from infra.registry.publish import code_revision
from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings
from models.catalog_file import read_catalog
from models.errors import EvaluationSetError
from models.release.gate.checks import (
    AGREEMENT,
    EVALUATION,
    ROBUSTNESS,
    WORTH,
    Check,
    first_release,
    not_measured,
)
from models.release.gate.operation import callable_check
from models.release.gate.table import gate_table
from models.release.gate.verdict import JudgedData, Verdict, settled
from models.release.manifest import read_manifest
from monitoring.release_gate.data import data_for, test_queries
from monitoring.release_gate.figures import (
    champion_probes_check,
    own_probes_check,
    slice_checks,
    speed_checks,
    votes_check,
)
from monitoring.release_gate.side import Side
from monitoring.store.audit import Step, note
from monitoring.store.locks import exclusive
from monitoring.store.tables import feedback


@dataclass(frozen=True)
class Trial:
    """What is to be judged.

    version: the release's.
    against: the champion's; None for a first release.
    data: the evaluation set whose test queries are used; see ``data_for`` for the default.
    moved: candidate → by how much its quality has been seen to change since those were answered.
    after_vote: only votes after this one are evaluated off-policy.
    alert_id: the alert that led to it.
    changed: what somebody says has changed since the verdict before.
    """

    version: str
    against: str | None = None
    data: Path | None = None
    moved: Mapping[str, float] = field(default_factory=dict)
    after_vote: int = 0
    alert_id: int | None = None
    changed: str = ""


def judge_release(registry: Registry, engine: Engine, settings: Settings, trial: Trial) -> Verdict:
    """Measure, judge, and add the verdict to the release's history in MLflow and to the audit.

    Raises NoRelease, RegistryError, ReleaseError, EvaluationSetError.
    """
    version, against = trial.version, trial.against
    with exclusive(engine, f"judge release {version}"):
        history = registry.verdicts(version)
        release = Side.of(registry, version)
        champion = Side.of(registry, against) if against is not None else None
        local = read_catalog(settings.catalog) if settings.catalog is not None else None
        disabled = registry.disabled()
        callable_llms = callable_check(
            release.catalog, champion.catalog if champion else None, local, disabled
        )
        checks = [callable_llms, own_probes_check(release)]
        if champion is not None:
            checks += comparisons(registry, engine, release, champion, trial)
        on_data, judged = checks_on_data(registry, settings, release, champion, trial)
        checks += on_data
        if champion is None:
            checks += first_release(checks)
        inputs = {
            "champion": champion.release.digest if champion else None,
            "data": judged.digest if judged else None,
            "moved": dict(trial.moved),
            "disabled": sorted(disabled),
            "LLMs that can be called": [callable_llms.reason],
            "votes": last_vote(engine),
            "code": code_revision(),
        }
        verdict = Verdict(version, against, checks, judged, inputs)
        verdict = settled(verdict, history, trial.changed)
        keep(registry, verdict)
    why = f"release {version} would replace {against}"
    if against is None:
        why = f"release {version} would be the first champion"
    step = Step("judge release", why, verdict.reason, trial.alert_id, verdict.record())
    note(engine, step)
    return verdict


def comparisons(
    registry: Registry, engine: Engine, release: Side, champion: Side, trial: Trial
) -> list[Check]:
    """The figures that need a champion and no evaluation set."""
    gone = {*champion.release.candidates} - {*release.release.candidates}
    return [
        champion_probes_check(release, champion, gone | set(trial.moved)),
        *speed_checks(release, champion),
        votes_check(registry, engine, trial.version, champion.version, trial.after_vote),
    ]


def checks_on_data(
    registry: Registry, settings: Settings, release: Side, champion: Side | None, trial: Trial
) -> tuple[list[Check], JudgedData | None]:
    """The figures that need an evaluation set, and what they rest on; why they are not measured where
    there is none. Raises EvaluationSetError."""
    whole, missing = data_for(registry, settings, trial.version, trial.against, trial.data)
    if whole is not None:
        try:
            test, judged = test_queries(whole)
        except EvaluationSetError as error:
            missing = str(error)
        else:
            return slice_checks(release, champion, test, settings, trial.moved), judged
    names = [EVALUATION] if champion is None else [EVALUATION, WORTH, AGREEMENT, ROBUSTNESS]
    return [not_measured(name, missing) for name in names], None


def callable_now(
    registry: Registry, settings: Settings, version: str, against: str | None
) -> Check:
    """Whether an LLM of the release can be called as things are; a verdict may be older.

    Raises NoRelease, RegistryError, ReleaseError, CatalogError.
    """
    local = read_catalog(settings.catalog) if settings.catalog is not None else None
    catalogs = [
        read_manifest(registry.fetch(name)).catalog if name is not None else None
        for name in (version, against)
    ]
    assert catalogs[0] is not None
    return callable_check(catalogs[0], catalogs[1], local, registry.disabled())


def standing_verdict(registry: Registry, version: str) -> dict[str, Any] | None:
    """The verdict that counts for a release: the last one against the champion of now.

    Raises NoRelease.
    """
    history = registry.verdicts(version)
    if not history or history[-1]["against"] != registry.alias(CHAMPION):
        return None
    return history[-1]


def keep(registry: Registry, verdict: Verdict) -> None:
    """Add a verdict to the release's history."""
    record = {
        "number": verdict.number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": verdict.word,
        "measured": verdict.measured,
        "failed": verdict.failed,
        "against": verdict.against,
        "reason": verdict.reason,
        "changed": verdict.changed,
        "data": asdict(verdict.data) if verdict.data else None,
        "inputs": dict(verdict.inputs),
    }
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "gate.json", Path(name) / "gate.md"]
        files[0].write_text(json.dumps(verdict.record(), indent=1) + "\n")
        files[1].write_text(gate_table(verdict) + "\n")
        registry.add_verdict(verdict.version, record, files, verdict.figures)


def last_vote(engine: Engine) -> int:
    """The position of the newest vote, 0 without one."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.max(feedback.c.position))).scalar() or 0)
