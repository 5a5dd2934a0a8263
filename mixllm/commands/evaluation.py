"""Commands that measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.progress import progress_bar
from mixllm.app import TRAIN, app
from mixllm.console import console, print_json, show_measures, show_notes
from mixllm.context import settings_with_stack
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

if TYPE_CHECKING:
    from models.data.evaluation_set import EvaluationSet
    from models.encoder.inputs import QueryInputs
    from models.evaluation.fitted_router import FittedRouter


@app.command(
    rich_help_panel=TRAIN, epilog="Example: mixllm evaluate --data evaluation-set --plot curve.png"
)
def evaluate(
    data: Data,
    test_data: Annotated[
        Path | None, typer.Option(help="Train on all of --data, test on all of this set.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Every measure with its interval.")] = Path(
        "results.json"
    ),
    choices: Annotated[Path, typer.Option(help="Every choice at every setting.")] = Path(
        "choices.parquet"
    ),
    plot: Annotated[Path | None, typer.Option(help="The cost–quality plot (.png or .svg).")] = None,
    plot_predictors: Annotated[
        Path | None, typer.Option(help="Predicted against true quality, per LLM (.png or .svg).")
    ] = None,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the latency penalty.")] = 0.0,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's recipe as a baseline too; takes minutes.")
    ] = False,
    quarantine: Quarantine = None,
    encoder: Encoder = None,
    tagger: Tagger = None,
    domains: Domains = None,
    tuning: Tuning = None,
    families: Families = None,
    as_json: AsJson = False,
) -> None:
    """Measure the router on unseen queries, beside every baseline; registers nothing."""
    from models.evaluation.evaluate import EvaluationOptions
    from models.evaluation.evaluate import evaluate as measure
    from models.evaluation.plots import plot_curves
    from models.evaluation.predictor_report import plot_reports

    options = options_of(tuning, encoder, tagger, domains, families)
    router, test, test_inputs = fitted(data, test_data, quarantine, options)
    evaluation = measure(router, test, test_inputs, EvaluationOptions(beta, paper=paper))
    for path in filter(None, (out, choices, plot, plot_predictors)):
        path.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(evaluation.results, indent=2) + "\n")
    evaluation.choices.to_parquet(choices, index=False)
    if plot is not None:
        plot_curves(evaluation.curves, evaluation.results, plot)
    if plot_predictors is not None:
        plot_reports(evaluation.reports, plot_predictors)
    if as_json:
        print_json(evaluation.results)
    else:
        show_measures(evaluation.results)


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: mixllm calibrate --data evaluation-set --quality-share 0.97",
)
def calibrate(
    data: Data,
    cost_share: Annotated[
        float | None, typer.Option(min=0, help="Stay within this share of the best LLM's cost.")
    ] = None,
    quality_share: Annotated[
        float | None, typer.Option(min=0, help="Keep this share of the best LLM's quality.")
    ] = None,
    quarantine: Quarantine = None,
    encoder: Encoder = None,
    tuning: Tuning = None,
    families: Families = None,
    as_json: AsJson = False,
) -> None:
    """Find the willingness to pay for a target, and what to expect of it on unseen queries."""
    from models.data.evaluation_set import comparable
    from models.evaluation import calibration

    options = options_of(tuning, encoder, families=families)
    router, test, test_inputs = fitted(data, None, quarantine, options)
    defaults = calibration.calibrate(router.training_rows(), quality_share, cost_share)
    names, kept, notes = comparable(router.data, test)
    compared = test.queries["query_id"].isin(kept.queries["query_id"]).to_numpy()
    unseen = calibration.Rows(
        router.compiled(names).estimate(test_inputs[compared]),
        kept.matrix("quality", names),
        kept.matrix("cost_usd", names),
    )
    expected = calibration.expected(unseen, defaults)
    show_notes(notes)
    if as_json:
        print_json({"willingness_to_pay": defaults.willingness_to_pay, "expected": expected})
        return
    console.print(f"willingness to pay: {defaults.willingness_to_pay:.6g} USD per unit of quality")
    for name, (value, low, high) in expected.items():
        console.print(
            f"expect on unseen queries: {name.replace('_', ' ')} {value:.1%} "
            f"[{low:.1%}, {high:.1%}] of the best single LLM's"
        )


def fitted(
    data: Path, test_data: Path | None, quarantine: Path | None, given: dict[str, Any]
) -> tuple[FittedRouter, EvaluationSet, QueryInputs]:
    """(the router, the test set, the test queries as the router reads them)."""
    from infra.training import steps as training_steps
    from models.data.files import read_evaluation_set
    from models.encoder.onnx import encoder_digest
    from models.evaluation.fitted_router import FittedRouter
    from models.evaluation.preconditions import check_training, training_split
    from models.predictors.fitting import NewMaps, steps
    from models.training_options import read_options

    first = read_evaluation_set(data, quarantine)
    if test_data is None:
        training, test, notes = training_split(first)
    else:
        training, test = first, read_evaluation_set(test_data, beside(quarantine))
        notes = check_training(training, test, f"{training.name} with {test.name}")
    show_notes(notes)
    settings, options = settings_with_stack(), read_options(**given)
    queries = training.queries["query"].tolist()
    tagged = None
    if options.needs_domains:
        with progress_bar("tagging", len(queries)) as advance:
            tagged = training_steps.tag(queries, options, settings, advance)
    with progress_bar(f"{options.encoder} encoder", 100, "%") as advance:
        folder = training_steps.encoder_folder(training, tagged, options, settings, advance)
    inputs = []
    for name, part in (("training", training), ("test", test)):
        queries = part.queries["query"].tolist()
        with progress_bar(f"embedding {name} queries", len(queries)) as advance:
            inputs.append(training_steps.embed(queries, folder, settings, advance))
    digest = encoder_digest(folder)
    with progress_bar("fitting predictors", steps(options.families), "fit") as advance:
        router = FittedRouter.fit(
            training, inputs[0], digest, maps=NewMaps(options.families, advance)
        )
    return router, test, inputs[1]


def beside(quarantine: Path | None) -> Path | None:
    """The file for a second set's bad rows, which would replace the first's."""
    return quarantine and quarantine.with_name(f"test-{quarantine.name}")
