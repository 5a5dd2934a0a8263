"""The flow that adds, refits or removes one candidate; every other predictor stays as it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.promotion import settle
from flows.steps import embed, fetch, register_change, validate_data
from infra.settings import Settings, read_settings
from models.data.evaluation_set import EvaluationSet, is_test_query
from models.encoder.inputs import QueryInputs
from models.evaluation.preconditions import check_candidate
from models.evaluation.predictor_report import (
    PredictorReport,
    flags_of,
    predictor_reports,
    report_text,
)
from models.predictors.fitting import Fitted, fit_predictors
from models.predictors.predictor import Predictor, shared_maps
from models.release.change import put_candidate, remove_candidate
from models.release.manifest import Manifest, read_manifest
from monitoring.release_gate.judge import Trial
from monitoring.store.locks import exclusive
from monitoring.store.schema import open_store


@task(name="fit predictor", task_run_name="fit {name}", cache_policy=NO_CACHE)
def fit_one(
    name: str, data: EvaluationSet, inputs: QueryInputs, release: Path, manifest: Manifest
) -> Fitted:
    """One candidate's predictor, over the maps that the release's predictors share."""
    shared = shared_maps(Predictor.load(release / p.folder) for p in manifest.predictors.values())
    (fitted,) = fit_predictors(data, inputs, manifest.encoder.encoder, [name], maps=shared)
    return fitted


def validate(
    fitted: Fitted, rows: EvaluationSet, whole: EvaluationSet, encoder: Path, settings: Settings
) -> list[PredictorReport]:
    """How far the predictor can be trusted, on test queries that its candidate answered, if any."""
    unseen = whole.where(whole.queries["query_id"].map(is_test_query).to_numpy())
    mine = unseen.outcomes.loc[unseen.outcomes["llm"] == fitted.predictor.llm, "query_id"]
    test = unseen.where(unseen.queries["query_id"].isin(mine).to_numpy())
    if not len(test.queries) or set(test.queries["query_id"]) & set(rows.queries["query_id"]):
        return []
    reports = predictor_reports([fitted], rows, test, embed(test, encoder, settings))
    create_markdown_artifact(key="predictors", markdown=report_text(reports))
    return reports


def rows_of(name: str, data: EvaluationSet) -> EvaluationSet:
    """The training queries that the candidate answered; all it answered where those are too few."""
    data.catalog.get(name)  # an unknown name is an error that suggests the nearest
    answered = data.queries["query_id"].isin(
        data.outcomes.loc[data.outcomes["llm"] == name, "query_id"]
    )
    training = answered & ~data.queries["query_id"].map(is_test_query)
    return data.where((training if training.any() else answered).to_numpy())


@flow(name="change-candidate", validate_parameters=False)
def change_candidate(
    name: str,
    data: str | None,
    promote_release: bool = False,  # noqa: FBT001 - a deployment's parameter
    base: str | None = None,
    quarantine: str | None = None,
) -> dict[str, Any]:
    """Fit one candidate's predictor on an evaluation set and put it into a release, or remove it.

    name: the candidate.
    data: an evaluation set with its outcomes and its catalog entry; None removes it.
    base: the release to change, the champion by default.

    Returns {"version", "base", "state", "reason"}.
    state, reason: the gate's.
    """
    settings = read_settings()
    version, source = fetch(base, settings)
    predictor, judged_by = None, None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "release"
        if data is None:
            change = f"remove {name}"
            remove_candidate(source, folder, name)
        else:
            whole = validate_data(Path(data), Path(quarantine) if quarantine else None)
            check_candidate(name, whole)
            rows = rows_of(name, whole)
            manifest = read_manifest(source)
            inputs = embed(rows, source / manifest.encoder.folder, settings)
            with exclusive(open_store(settings), f"predictor {name}"):
                fitted = fit_one(name, rows, inputs, source, manifest)
            predictor = fitted.predictor
            if {*manifest.predictors} <= {*whole.candidates}:
                judged_by = data  # it has outcomes of every candidate
            report = validate(fitted, rows, whole, source / manifest.encoder.folder, settings)
            change = f"{'refit' if name in manifest.predictors else 'add'} {name}"
            put_candidate(
                source, folder, predictor, whole.catalog.get(name), flags_of(report).get(name)
            )
        new = register_change(folder, version, change, predictor, settings)
    state, reason = settle(
        Trial(new, data=Path(judged_by) if judged_by else None), settings, promote=promote_release
    )
    get_run_logger().info("%s: release %s, from %s, %s (%s)", change, new, version, state, reason)
    return {"version": new, "base": version, "state": state, "reason": reason}
