"""Commands that run experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.progress import progress_bar
from mixllm.app import STUDY, app
from mixllm.console import console, show_notes
from mixllm.context import registry, settings_with_stack
from mixllm.options import Data

experiment = typer.Typer(help="Experiments on an evaluation set, with a report each.")
app.add_typer(experiment, name="experiment", no_args_is_help=True, rich_help_panel=STUDY)


@experiment.command("latency")
def experiment_latency(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("latency"),
    rate: Annotated[float, typer.Option(min=0.01, help="Queries a second.")] = 10.0,
    queries: Annotated[int, typer.Option(min=50, help="How many arrive.")] = 2000,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers at once, per LLM.")] = 8,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds; later is worth 0.")] = 30.0,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also sweep γ and ξ.")] = False,
    live: Annotated[
        int, typer.Option(min=0, help="So many of them also live, over HTTP to a simulated fleet.")
    ] = 0,
    speed: Annotated[float, typer.Option(min=0.1, help="Live: times faster than real.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
) -> None:
    """What latency costs: the champion under traffic, for several weights of the latency penalty."""
    from experiments.latency import experiment as latency_experiment
    from models.data.files import read_evaluation_set

    settings = settings_with_stack()
    evaluations = read_evaluation_set(data)
    folder = latency_experiment.champion_of(registry(settings), evaluations)
    setting = latency_experiment.Setting(
        rate, queries, concurrency, time_limit, live, speed, seed, sweep
    )
    found = latency_experiment.run(
        settings, folder, evaluations, setting, progress_bar, console.print
    )
    latency_experiment.write_report(found, out)
    from rich.markdown import Markdown

    console.print(Markdown((out / "latency.md").read_text()))
    console.print(f"written to {out}")


@experiment.command("online")
def experiment_online(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the report; runs in it are kept.")] = Path(
        "online"
    ),
    share: Annotated[
        list[float] | None,
        typer.Option(min=0.05, max=0.95, help="Trained offline; 0.3, 0.5 and 0.7 by default."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many orders of the stream.")] = 5,
) -> None:
    """What feedback teaches: a stream of queries of which only the chosen LLM's outcome is seen."""
    from rich.markdown import Markdown

    from experiments.online import experiment as online_experiment
    from experiments.online.report import write_report
    from models.data.files import read_evaluation_set
    from models.evaluation.preconditions import training_split

    evaluations = read_evaluation_set(data)
    *_, notes = training_split(evaluations)
    show_notes(notes)
    shares = share or [0.3, 0.5, 0.7]
    runs = online_experiment.run(
        evaluations, settings_with_stack(), out, shares, range(seeds), progress_bar
    )
    write_report([row for row in runs if row["set"] == evaluations.name], out)
    console.print(Markdown((out / "online.md").read_text()))
    console.print(f"written to {out}")
