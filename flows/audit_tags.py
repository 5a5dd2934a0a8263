"""The flow that audits tags and domains, and measures routing without them."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.steps import RETRIES, embed, evaluate_release, fit, make_encoder, tag, validate_data
from infra.registry.registry import Registry
from infra.settings import Settings, read_settings
from models import escape
from models.data.evaluation_set import EvaluationSet
from models.domains.audit import TagAudit, audit_tags, audit_text, plot_audit
from models.domains.tagged_queries import TaggedQueries
from models.encoder.onnx import encoder_digest
from models.evaluation.preconditions import check_tags, training_split
from models.markdown_table import markdown_table
from models.training_options import TrainingOptions, read_options

# Shares of the training queries whose tags are taken away.
REMOVED: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


@task(name="audit", cache_policy=NO_CACHE)
def audit(data: EvaluationSet, tagged: TaggedQueries, seed: int) -> TagAudit:
    """What the tags of these queries are worth."""
    queries, sources = data.queries["query"].tolist(), data.queries["source"].tolist()
    return audit_tags(queries, sources, tagged, seed)


def without_tags(tagged: TaggedQueries, share: float, seed: int) -> TaggedQueries:
    """A share of the queries loses its domain, by seed."""
    order = np.random.default_rng(seed).permutation(len(tagged.domains))
    domains = tagged.domains.copy()
    domains[order[: round(share * len(order))]] = -1
    return dataclasses.replace(tagged, domains=domains)


@dataclass(frozen=True)
class StressRow:
    """The measures on unseen queries when a share of the training queries has no tags, as text."""

    removed: float
    aiq: str
    gap_closed: str


@dataclass(frozen=True)
class StressTest:
    """Tunes the encoder with fewer tags and measures the router that comes of it."""

    train: EvaluationSet
    test: EvaluationSet
    tagged: TaggedQueries
    options: TrainingOptions
    settings: Settings

    def without(self, share: float) -> StressRow:
        """Measure with the tags of a share of the queries removed."""
        tuned = self.options.model_copy(update={"encoder": "fine-tune"})
        fewer = without_tags(self.tagged, share, self.options.tuning.seed)
        folder = make_encoder(self.train, fewer, tuned, self.settings)
        inputs = embed(self.train, folder, self.settings)
        test_inputs = embed(self.test, folder, self.settings)
        router = fit(self.train, inputs, encoder_digest(folder), self.options.families)
        measured = evaluate_release(router, self.test, test_inputs).measures["mixllm"]
        gap_closed = measured.gap_closed.text(share=True)
        return StressRow(share, measured.aiq.text(share=False), gap_closed)


@task(name="report", cache_policy=NO_CACHE, retries=len(RETRIES), retry_delay_seconds=RETRIES)
def report(
    audited: TagAudit,
    stress: Sequence[StressRow],
    name: str,
    out: Path | None,
    settings: Settings,
) -> str:
    """Write table and plot, as a Prefect artifact, an MLflow run and files; returns the run's id."""
    text = f"# Tags of {escape.markdown(name)}\n\n{audit_text(audited)}{stress_text(stress)}"
    create_markdown_artifact(key="tag-audit", markdown=text, description=escape.markdown(name))
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "audit.md").write_text(text)
        record = {**dataclasses.asdict(audited), "table": audited.table.tolist()}
        record["stress"] = [dataclasses.asdict(row) for row in stress]
        (folder / "audit.json").write_text(json.dumps(record, indent=1) + "\n")
        plot_audit(audited, folder / "domains.png")
        files = [folder / n for n in ("audit.md", "audit.json", "domains.png")]
        return Registry.of(settings).log_report(
            f"tag audit of {name}", files, audited.metrics, str(runtime.flow_run.get_id() or "none")
        )


def stress_text(stress: Sequence[StressRow]) -> str:
    if not stress:
        return ""
    lines = [
        "",
        "Routing on unseen queries when a share of the training queries loses its tags:",
        "",
        markdown_table(
            ("tags removed", "AIQ", "gap closed"),
            [(f"{row.removed:.0%}", row.aiq, row.gap_closed) for row in stress],
        ),
    ]
    return "\n".join(lines) + "\n"


@flow(name="audit-tags", validate_parameters=False)
def audit_flow(  # noqa: PLR0913 - what a deployment may set
    data: str,
    stress: bool = False,  # noqa: FBT001 - a deployment's parameter
    out: str | None = None,
    quarantine: str | None = None,
    tagger: str | None = None,
    domains: int | str | None = None,
    tuning: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Tag and cluster an evaluation set's training queries and measure what that is worth.

    stress: tune the encoder with the tags of 0, 25, 50, 75 and 100 % of the queries removed, and
        measure each on the test queries.
    out: a folder for the table and the plot.
    tagger, domains, tuning: see ``TrainingOptions``.

    Returns {"audit", "stress", "run"}.
    """
    options = read_options(tagger=tagger, domains=domains, tuning=tuning)
    settings = read_settings()
    whole = validate_data(Path(data), Path(quarantine) if quarantine else None)
    if stress:
        training_split(whole)
    train, test = whole.split()
    check_tags(train)
    tagged = tag(train, options, settings)
    audited = audit(train, tagged, options.tuning.seed)
    stress_test = StressTest(train, test, tagged, options, settings)
    rows = [stress_test.without(share) for share in REMOVED if stress]
    run = report(audited, rows, whole.name, Path(out) if out else None, settings)
    get_run_logger().info("audit of %s: MLflow run %s", whole.name, run)
    return {"audit": audited, "stress": rows, "run": run}
