"""Repair: recalibrate one predictor on its candidate's latest answers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.repairs.case import Case, Made, NotYet
from flows.steps import register_change
from flows.update_predictors import read_graded
from models.predictors.predictor import Predictor
from models.predictors.refit_gate import Errors, Refit, refit_table, shift_of
from models.predictors.refitting import recalibrated
from models.release.change import put_candidate
from models.release.manifest import Manifest, read_manifest
from monitoring.learning.logged_votes import last_vote_before
from monitoring.store.locks import exclusive

# Answers since the drift began that a predictor is moved by, and the share that judges it.
LEAST_ANSWERS: Final = 20
HELD_OUT: Final = 0.25


def refit(case: Case) -> Made:
    """Recalibrate the predictor on its candidate's answers since the drift began."""
    name = str(case.alert.subject)
    with exclusive(case.scene.engine, f"predictor {name}"):
        version, folder, manifest = case.base()
        if name not in manifest.predictors:
            return Made(f"{name} is no longer a candidate of release {version}")
        after = last_vote_before(case.scene.engine, case.alert.since_position)
        change = recalibrate(case, name, folder, manifest, after)
        if isinstance(change, NotYet):
            raise change
        if not change.passes:
            return Made(f"{name}: its predictor errs no less after the move; no release was made")
        new = register_refit(case, folder, version, change)
    shift = case.signal.now - (case.signal.reference or 0.0)
    moved = {name: shift} if "quality" in case.signal.what else {}
    state = case.settle(new, moved, after)
    return Made(f"release {new}, {state}: {name} refitted on {change.rows} answers", new, state)


@task(name="recalibrate", task_run_name="recalibrate {name}", cache_policy=NO_CACHE)
def recalibrate(
    case: Case, name: str, folder: Path, manifest: Manifest, after: int
) -> Refit | NotYet:
    """The predictor recalibrated on the graded answers after a vote.

    NotYet is returned, not raised: Prefect logs what a task raises as a failure, with its traceback.
    """
    logged = read_graded.fn(folder, case.scene.settings).of(name, after)
    since = logged.answers
    if len(since) < LEAST_ANSWERS:
        return NotYet(
            f"{name} has {len(since)} graded answers since the drift began, {LEAST_ANSWERS} are needed"
        )
    cut = round((1 - HELD_OUT) * len(since))
    early = np.arange(len(since)) < cut
    old = Predictor.load(folder / manifest.predictors[name].folder)
    new = recalibrated(old, since.where(early), float(logged.positions.max()))
    late = since.where(~early)
    errors = Errors.of(old, new, late.inputs, late.quality)
    return Refit(new, cut, errors, Errors(0.0, 0.0, 0.0), shift_of(old, late))


def register_refit(case: Case, folder: Path, base: str, refit: Refit) -> str:
    case.note("refit", f"{refit.rows} graded answers since the drift began", refit_table([refit]))
    name = refit.predictor.llm
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "release"
        entry = read_manifest(folder).catalog.get(name)
        put_candidate(folder, changed, refit.predictor, entry)
        change = f"alert {case.number}: recalibrate {name}"
        version: str = register_change(changed, base, change, refit.predictor, case.scene.settings)
    return version
