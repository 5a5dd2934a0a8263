"""The flow that refits single predictors from graded feedback: a challenger, never a champion."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.promotion import settle
from flows.steps import RETRIES, embed, fetch
from infra.registry.registry import Registry
from infra.settings import Settings, read_settings
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set
from models.encoder.inputs import QueryInputs
from models.errors import EvaluationSetError
from models.predictors.fitting import fit_predictors
from models.predictors.predictor import Predictor, shared_maps
from models.predictors.refit_gate import HELD_OUT, Errors, Refit, refit_table, shift_of
from models.predictors.refitting import SEEN, due, refitted, with_answers
from models.release.change import put_candidate
from models.release.manifest import read_manifest
from monitoring.learning.learner import newest_good
from monitoring.learning.logged_votes import LoggedAnswers, graded_answers, read_votes
from monitoring.release_gate.judge import Trial
from monitoring.store.locks import exclusive
from monitoring.store.schema import open_store


@dataclass(frozen=True)
class EmbeddedSplit:
    """The evaluation set that a release was trained on, as predictors read it."""

    train: EvaluationSet
    train_inputs: QueryInputs
    test: EvaluationSet
    test_inputs: QueryInputs


@task(name="read graded answers", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def read_graded(folder: Path, settings: Settings) -> LoggedAnswers:
    """Every graded answer that the release's predictors could learn from."""
    manifest, engine = read_manifest(folder), open_store(settings)
    stored = newest_good(engine, manifest.digest)
    held = stored.state.voters.held if stored else []
    votes = read_votes(engine, manifest, held, graded=True)
    for reason, count in votes.left_out.items():
        get_run_logger().info("%d graded votes left out: %s", count, reason)
    return graded_answers(votes, manifest.catalog.names)


@task(name="refit", task_run_name="refit {name}", cache_policy=NO_CACHE)
def refit_one(
    name: str, predictors: Mapping[str, Predictor], split: EmbeddedSplit, logged: LoggedAnswers
) -> Refit:
    """Fit on the training queries and all but the newest graded answers; judge by the rest.

    predictors: the release's, whose shared maps stay.
    """
    answers, old = logged.answers, predictors[name]
    cut = max(1, round((1 - HELD_OUT) * len(answers)))
    first = np.arange(len(answers)) < cut
    data, inputs = with_answers(split.train, split.train_inputs, answers.where(first))
    maps = shared_maps(predictors.values())
    (fitted,) = fit_predictors(data, inputs, old.encoder, [name], maps=maps)
    new = refitted(old, fitted.predictor, float(logged.positions.max()))
    late = answers.where(~first)
    quality = split.test.matrix("quality", [name])[:, 0]
    known = np.isfinite(quality)
    return Refit(
        new,
        cut,
        Errors.of(old, new, late.inputs, late.quality),
        Errors.of(old, new, split.test_inputs[known], quality[known]),
        shift_of(old, late),
    )


@flow(name="update-predictors", validate_parameters=False)
def update_predictors(
    data: str, base: str | None = None, enough: int | None = None
) -> dict[str, Any]:
    """Refit the predictors for which enough graded feedback has come.

    data: the evaluation set that the release was trained on.
    base: the release to change, the champion by default.
    enough: graded answers that make one due, see ``due``.

    Returns {"version" or None, "refitted", "refused", "state", "reason"}.
    state: challenger, or refused by the gate.
    reason: the gate's.

    Raises EvaluationSetError where it is another set.
    """
    settings, log = read_settings(), get_run_logger()
    version, folder = fetch(base, settings)
    manifest = read_manifest(folder)
    train, test = read_evaluation_set(Path(data)).split()
    if train.digest != manifest.data.digest:
        raise EvaluationSetError(
            f"release {version} was trained on {manifest.data.name!r} with digest "
            f"{manifest.data.digest[:12]}, not on this {train.name!r}, {train.digest[:12]}"
        )
    logged = read_graded(folder, settings)
    predictors = {
        name: Predictor.load(folder / pin.folder) for name, pin in manifest.predictors.items()
    }
    names = due_names(logged, predictors, enough)
    log.info("due: %s", ", ".join(names) or "no predictor")
    if not names:
        return unchanged([])
    inputs = [embed(part, folder / manifest.encoder.folder, settings) for part in (train, test)]
    split = EmbeddedSplit(train, inputs[0], test, inputs[1])
    refits = []
    for name in names:
        with exclusive(open_store(settings), f"predictor {name}"):
            refits.append(refit_one(name, predictors, split, logged.of(name)))
    report = refit_table(refits)
    create_markdown_artifact(key="refits", markdown=report)
    good = [refit for refit in refits if refit.passes]
    refused = [refit.predictor.llm for refit in refits if not refit.passes]
    if not good:
        log.warning("no refit passes its gate:\n%s", report)
        return unchanged(refused)
    with tempfile.TemporaryDirectory() as temporary:
        changed = put_refits(folder, Path(temporary), good)
        new = register_refits(changed, version, good, report, settings)
    # Where the answers prove a change, the outcomes of the set are out of date.
    moved = {r.predictor.llm: r.shift for r in good if r.on_feedback.better}
    state, reason = settle(Trial(new, data=Path(data), moved=moved), settings, promote=False)
    names = [refit.predictor.llm for refit in good]
    return {
        "version": new,
        "refitted": names,
        "refused": refused,
        "state": state,
        "reason": reason,
    }


def due_names(
    logged: LoggedAnswers, predictors: Mapping[str, Predictor], enough: int | None
) -> list[str]:
    """Whose predictor is to be refitted: enough graded answers came that it has not seen."""
    seen = [predictors[llm].metrics.get(SEEN, 0.0) for llm in logged.answers.llms]
    unseen = logged.where(logged.positions > np.array(seen))
    fitted = {name: predictor.metrics["rows"] for name, predictor in predictors.items()}
    return due(unseen.answers.counts(), fitted, enough)


def unchanged(refused: list[str]) -> dict[str, Any]:
    """What the flow returns where it made no release."""
    return {"version": None, "refitted": [], "refused": refused, "state": None, "reason": ""}


def put_refits(folder: Path, temporary: Path, refits: Sequence[Refit]) -> Path:
    """A release's folder with refitted predictors in place of the old ones."""
    catalog = read_manifest(folder).catalog
    for number, refit in enumerate(refits):
        changed = temporary / f"release-{number}"
        put_candidate(folder, changed, refit.predictor, catalog.get(refit.predictor.llm))
        folder = changed
    return folder


@task(name="register", cache_policy=NO_CACHE, retries=len(RETRIES), retry_delay_seconds=RETRIES)
def register_refits(
    folder: Path, base: str, refits: Sequence[Refit], report: str, settings: Settings
) -> str:
    """Register the changed release; returns its version."""
    registry = Registry.of(settings)
    names = ", ".join(refit.predictor.llm for refit in refits)
    with tempfile.TemporaryDirectory() as name:
        reports = Path(name)
        (reports / "refits.md").write_text(report + "\n")
        (reports / "change.json").write_text(json.dumps({"base": base, "refitted": names}))
        version = registry.register_release(
            folder,
            parameters={"base_release": base, "change": f"refit from feedback: {names}"[:500]},
            metrics={},
            reports=reports,
            flow_run=str(runtime.flow_run.get_id() or "none"),
        )
    get_run_logger().info("release %s: refitted %s", version, names)
    return version
