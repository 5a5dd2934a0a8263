"""The tasks that the flows which make releases share."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from prefect import get_run_logger, runtime, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from infra.registry.registry import Registry
from infra.settings import Settings
from infra.training import steps as training_steps
from models import escape
from models.catalog import Catalog
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set
from models.domains.domains import Domains
from models.domains.tagged_queries import TaggedQueries
from models.encoder.inputs import QueryInputs
from models.evaluation.evaluate import Evaluation, evaluate, headline, measures_table
from models.evaluation.fitted_router import FittedRouter
from models.evaluation.plots import plot_curves
from models.evaluation.predictor_report import (
    flags_of,
    plot_reports,
    report_text,
)
from models.predictors.fitting import Fitted, NewMaps, steps
from models.predictors.predictor import Predictor
from models.release.build import Remarks, build_release
from models.release.probes import PROBES
from models.training_options import TrainingOptions

RETRIES: Final = [2, 10, 30]


@task(name="fetch", cache_policy=NO_CACHE, retries=len(RETRIES), retry_delay_seconds=RETRIES)
def fetch(version: str | None, settings: Settings) -> tuple[str, Path]:
    """The release to change: (version, folder); the champion when not said."""
    registry = Registry.of(settings)
    version = version or registry.champion()
    return version, registry.fetch(version)


@task(name="register", cache_policy=NO_CACHE, retries=len(RETRIES), retry_delay_seconds=RETRIES)
def register_change(
    folder: Path, base: str, change: str, predictor: Predictor | None, settings: Settings
) -> str:
    """Register the changed release; parts that did not change keep their versions."""
    metrics = dict(predictor.metrics) if predictor is not None else {}
    with tempfile.TemporaryDirectory() as name:
        reports = Path(name)
        (reports / "change.json").write_text(
            json.dumps({"base": base, "change": change, **metrics})
        )
        return Registry.of(settings).register_release(
            folder,
            parameters={"base_release": base, "change": change},
            metrics=metrics,
            reports=reports,
            flow_run=str(runtime.flow_run.get_id() or "none"),
        )


@task(name="validate", cache_policy=NO_CACHE)
def validate_data(data: Path, quarantine: Path | None) -> EvaluationSet:
    """Read and check the evaluation set."""
    evaluation_set = read_evaluation_set(data, quarantine)
    log = get_run_logger()
    log.info(
        "%s: %d queries, %d outcomes, %d candidates",
        evaluation_set.name,
        len(evaluation_set.queries),
        len(evaluation_set.outcomes),
        len(evaluation_set.candidates),
    )
    for note in evaluation_set.notes:
        log.warning("%s", note)
    return evaluation_set


@task(name="tag", cache_policy=NO_CACHE)
def tag(data: EvaluationSet, options: TrainingOptions, settings: Settings) -> TaggedQueries:
    """Tags and domains of every query; only queries never seen are tagged."""
    queries = data.queries["query"].tolist()
    with progress_artifact("tagging", len(queries)) as advance:
        tagged = training_steps.tag(queries, options, settings, advance)
    get_run_logger().info(
        "%d tags, %d domains, %.1f %% of the queries without a domain",
        len(tagged.tags.names),
        len(tagged.clusters.names_),
        100 * float((tagged.domains < 0).mean()),
    )
    return tagged


@task(name="encoder", cache_policy=NO_CACHE)
def make_encoder(
    data: EvaluationSet, tagged: TaggedQueries, options: TrainingOptions, settings: Settings
) -> Path:
    """The encoder's folder: frozen, the champion's, or tuned on these queries."""
    with progress_artifact("encoder", 100, "per cent") as advance:
        folder = training_steps.encoder_folder(data, tagged, options, settings, advance)
    get_run_logger().info("%s encoder at %s", options.encoder, folder)
    return folder


@task(name="embed", cache_policy=NO_CACHE)
def embed(data: EvaluationSet, encoder_folder: Path, settings: Settings) -> QueryInputs:
    """Predictor inputs of every query; embeddings come from the cache where they can."""
    queries = data.queries["query"].tolist()
    with progress_artifact("embedding", len(queries)) as advance:
        return training_steps.embed(queries, encoder_folder, settings, advance)


@task(name="fit predictors", cache_policy=NO_CACHE)
def fit(
    data: EvaluationSet, inputs: QueryInputs, encoder: str, families: tuple[str, ...]
) -> FittedRouter:
    """A predictor per candidate, over maps that all share, and how far they hold true."""
    with progress_artifact("predictors", steps(families), "fits") as advance:
        return FittedRouter.fit(data, inputs, encoder, maps=NewMaps(families, advance))


@task(name="assemble", cache_policy=NO_CACHE)
def assemble(
    folder: Path,
    encoder_folder: Path,
    router: FittedRouter,
    tagged: TaggedQueries,
    evaluation: Evaluation,
) -> None:
    """Write the release folder."""
    shutil.copytree(encoder_folder, folder / "encoder")
    queries = router.data.queries["query"].tolist()
    build_release(
        folder,
        router,
        Domains().fit(router.inputs.embeddings, tagged.tags.tags, tagged.clusters),
        probes=queries[:: max(1, len(queries) // PROBES)][:PROBES],
        remarks=Remarks(
            notes=left_out(router.data.catalog, router.fitted), flagged=flags_of(evaluation.reports)
        ),
    )


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_release(
    router: FittedRouter, test: EvaluationSet, test_inputs: QueryInputs
) -> Evaluation:
    """The measures on unseen queries, beside every baseline."""
    evaluation = evaluate(router, test, test_inputs)
    create_markdown_artifact(key="predictors", markdown=report_text(evaluation.reports))
    create_table_artifact(
        key="evaluation",
        table=escape.markdown_rows(measures_table(evaluation.measures)),
        description=f"{escape.markdown(test.name)}: {evaluation.results['test_queries']} unseen queries",
    )
    return evaluation


@task(name="register", cache_policy=NO_CACHE, retries=len(RETRIES), retry_delay_seconds=RETRIES)
def register(
    folder: Path,
    evaluation: Evaluation,
    router: FittedRouter,
    options: TrainingOptions,
    settings: Settings,
) -> str:
    """Register the release and its parts in MLflow; returns the router's version."""
    results = evaluation.results
    with tempfile.TemporaryDirectory() as name:
        reports = Path(name)
        (reports / "results.json").write_text(json.dumps(results, indent=2))
        evaluation.choices.to_parquet(reports / "choices.parquet", index=False)
        plot_curves(evaluation.curves, results, reports / "curve.png")
        fits = [fit_row(fitted) for fitted in router.fitted]
        (reports / "fits.json").write_text(json.dumps(fits, indent=2))
        (reports / "predictors.md").write_text(report_text(evaluation.reports))
        plot_reports(evaluation.reports, reports / "predictors.png")
        return Registry.of(settings).register_release(
            folder,
            parameters={
                "data": results["training_set"],
                "data_digest": results["training_digest"],
                "training_queries": results["training_queries"],
                "test_queries": results["test_queries"],
                "candidates": len(router.fitted),
                "families": ", ".join(options.families),
                "encoder": options.encoder,
                "tagger": options.tagger,
            },
            metrics=headline(evaluation.measures["mixllm"]),
            reports=reports,
            flow_run=str(runtime.flow_run.get_id() or "none"),
        )


@contextmanager
def progress_artifact(name: str, total: int, unit: str = "queries") -> Any:
    """A function that moves a Prefect progress bar on by so many items."""
    artifact = create_progress_artifact(
        progress=0.0, key=name, description=f"{name}: {total} {unit}"
    )
    done = shown = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        per_cent = int(100 * done / max(total, 1))
        if per_cent >= shown + 5:
            shown = per_cent
            update_progress_artifact(artifact_id=artifact, progress=float(min(per_cent, 100)))

    callback: Callable[[int], None] = advance
    yield callback
    update_progress_artifact(artifact_id=artifact, progress=100.0)


def left_out(catalog: Catalog, fitted: Sequence[Fitted]) -> list[str]:
    known = {f.predictor.llm for f in fitted}
    return [f"{name}: no outcomes, left out" for name in catalog.names if name not in known]


def fit_row(fitted: Fitted) -> dict[str, Any]:
    """A predictor's line in the table of fits."""
    predictor = fitted.predictor
    recipe = {name: ", ".join(families) for name, families in predictor.recipe.items()}
    return {"llm": predictor.llm, **recipe, **predictor.metrics}
