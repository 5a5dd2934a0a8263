"""Commands that check data and train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mixllm.app import TRAIN, app
from mixllm.console import console, outcome, print_json, say, show_measures, show_notes
from mixllm.context import champion_candidates, point_prefect, settings_with_stack
from mixllm.options import (
    AsJson,
    Data,
    Domains,
    Encoder,
    Families,
    Quarantine,
    Tagger,
    Tuning,
    options_of,
)
from models.errors import EvaluationSetError


@app.command(
    rich_help_panel=TRAIN, epilog="Example: mixllm ingest routerbench.csv --out evaluation-set"
)
def ingest(
    source: Annotated[
        Path, typer.Argument(help="An evaluation set's folder, or a RouterBench table.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the checked set to, as Parquet.")],
    catalog: Annotated[Path | None, typer.Option(help="Catalog for a RouterBench table.")] = None,
    quarantine: Quarantine = None,
) -> None:
    """Check an evaluation set, or convert RouterBench's wide table, and write it as Parquet."""
    from models.catalog_file import read_catalog
    from models.data.files import read_evaluation_set, write_evaluation_set
    from models.data.problems import rows_text
    from models.data.routerbench import read_routerbench
    from models.evaluation.preconditions import training_split

    if source.is_dir():
        data = read_evaluation_set(source, quarantine)
    else:
        data = read_routerbench(source, read_catalog(catalog) if catalog else None, quarantine)
        if catalog is None:
            console.print(
                "prices are estimated from the costs, speeds are assumed: see catalog.yaml"
            )
    write_evaluation_set(data, out)
    console.print(
        f"{data.name}: {len(data.queries)} queries, {len(data.outcomes)} outcomes, "
        f"{len(data.candidates)} candidates, {rows_text(data.quarantined)} set aside → {out}"
    )
    show_notes(data.notes)
    try:
        *_, notes = training_split(data)
        show_notes(notes)
    except EvaluationSetError as error:  # it is converted all the same
        show_notes([str(error)])


def train_with(
    data: Path, quarantine: Path | None = None, *, promote: bool, **options: Any
) -> dict[str, Any]:
    """Run the training flow in this process; on the stack's Prefect server where it runs."""
    from models.data.files import read_evaluation_set
    from models.evaluation.preconditions import training_split

    # What is wrong with the data is said before anything starts.
    *_, notes = training_split(read_evaluation_set(data, quarantine))
    show_notes(notes)
    point_prefect(settings_with_stack())
    from flows.train_router import train_router

    result: dict[str, Any] = train_router(
        data=str(data.resolve()),
        promote_release=promote,
        quarantine=str(quarantine) if quarantine else None,
        **options,
    )
    return result


@app.command(rich_help_panel=TRAIN, epilog="Example: mixllm train --data evaluation-set --promote")
def train(
    data: Data,
    promote: Annotated[bool, typer.Option("--promote", help="Make the release champion.")] = False,
    quarantine: Quarantine = None,
    encoder: Encoder = None,
    tagger: Tagger = None,
    domains: Domains = None,
    tuning: Tuning = None,
    families: Families = None,
    as_json: AsJson = False,
) -> None:
    """Train a router, evaluate it on unseen queries and register it as a release."""
    options = options_of(tuning, encoder, tagger, domains, families)
    result = train_with(data, quarantine, promote=promote, **options)
    if as_json:
        print_json(result)
        return
    show_measures(result["results"])
    say(f"release {result['version']} registered, {outcome(result)}")


@app.command(
    "audit-tags",
    rich_help_panel=TRAIN,
    epilog="Example: mixllm audit-tags --data evaluation-set --out audit",
)
def audit_tags(
    data: Data,
    stress: Annotated[
        bool, typer.Option("--stress", help="Also tune and measure without tags; takes long.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the table and the plot.")] = Path("audit"),
    quarantine: Quarantine = None,
    tagger: Tagger = None,
    domains: Domains = None,
    tuning: Tuning = None,
    as_json: AsJson = False,
) -> None:
    """Say which queries have tags, how large and how pure the domains are."""
    from rich.markdown import Markdown

    from models.data.files import read_evaluation_set
    from models.evaluation.preconditions import check_tags, training_split

    options = options_of(tuning, None, tagger, domains)
    whole = read_evaluation_set(data, quarantine)
    if stress:
        training_split(whole)
    check_tags(whole.split()[0])
    point_prefect(settings_with_stack())
    from flows.audit_tags import audit_flow

    result = audit_flow(
        str(data.resolve()),
        stress,
        str(out.resolve()),
        str(quarantine) if quarantine else None,
        **options,
    )
    if as_json:
        print_json(result)
        return
    console.print(Markdown((out / "audit.md").read_text()))
    console.print(f"written to {out}; MLflow run {result['run']}")


@app.command(rich_help_panel=TRAIN)
def schema() -> None:
    """Print the JSON schema of the training options, the tuning's settings included."""
    from models.training_options import TrainingOptions

    print(json.dumps(TrainingOptions.model_json_schema(), indent=2))


@app.command("update-predictors", rich_help_panel=TRAIN)
def update_predictors_command(data: Data) -> None:
    """Refit predictors for which enough graded feedback has come; makes a challenger."""
    from models.data.files import read_evaluation_set

    read_evaluation_set(data)  # what is wrong with it is said before anything starts
    settings = settings_with_stack()
    champion_candidates(settings)
    point_prefect(settings)
    from flows.update_predictors import update_predictors

    found = update_predictors(str(data.resolve()))
    for name in found["refused"]:
        console.print(f"refused by its gate: {name}")
    if found["version"] is None:
        console.print("no predictor was refitted")
    else:
        names = ", ".join(found["refitted"])
        say(f"release {found['version']}: refitted {names}; {outcome(found)}")
