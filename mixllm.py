"""The command line; the only file that knows every room."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table
from rich.text import Text

from infra.addresses import LOOPBACK, bypass_proxy, http_url, request_directly, without_login
from infra.console import open_console, print_plain, tolerate_odd_text
from infra.home import ready_home
from infra.permissions import private_umask
from infra.settings import Settings, read_settings
from infra.stack import Stack, join_running_stack, local_parts, prefect_home
from models.errors import (
    EvaluationSetError,
    MixLLMError,
    NoRelease,
    ReleaseError,
    UnknownCandidate,
    nearest,
)

app = typer.Typer(
    help="MixLLM: a learned LLM router.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# Where nobody looks at a terminal, tables are not folded to its default width.
console = open_console(width=None if sys.stdout.isatty() else 120)

Data = Annotated[Path, typer.Option(help="An evaluation set's folder.")]
Quarantine = Annotated[
    Path | None, typer.Option(help="Set bad rows aside in this file (JSON Lines) and go on.")
]
Encoder = Annotated[
    str | None, typer.Option(help="fine-tune, frozen, or reuse (the champion's).", metavar="MODE")
]
Tagger = Annotated[
    str | None, typer.Option(help="keyphrase (no LLM), instag, or llm.", metavar="KIND")
]
Domains = Annotated[str | None, typer.Option(help="Clusters of tags: a number, or auto.")]
Families = Annotated[
    str | None,
    typer.Option(
        help="Whose mean predicts, comma-separated: ridge, landmarks, forest, boosting, neighbours, mlp."
    ),
]
Tuning = Annotated[
    Path | None, typer.Option(help="YAML with settings of the tuning; mixllm schema lists them.")
]


GateData = Annotated[
    Path | None,
    typer.Option("--data", help="Whose test queries judge it; MIXLLM_DATA's by default."),
]


def main() -> None:
    """Run a command; what a user can mend is one line on standard error and exit code 2."""
    tolerate_odd_text()
    private_umask()  # what commands keep in home is this user's alone
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    bypass_proxy()
    try:
        app()
    except MixLLMError as error:
        print_plain(f"mixllm: {error}", sys.stderr)
        sys.exit(2)


def settings_with_stack() -> Settings:
    """The settings, pointed at the local stack where one runs; home is there and can be written to."""
    ready_home(read_settings().home)
    return client_settings()


def client_settings() -> Settings:
    """The settings of a command that only asks the service and keeps nothing in home."""
    join_running_stack(read_settings())
    return read_settings()


def registry(settings: Settings) -> Any:
    from infra.registry import Registry

    return Registry(settings.registry_uri, settings.home / "registry")


@app.command()
def demo(
    queries: Annotated[int, typer.Option(min=200, help="Size of the simulated set.")] = 1500,
    show: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 12,
) -> None:
    """Train, register, promote, serve and route on a simulated evaluation set, then stop."""
    from infra.demo import run_demo

    settings = read_settings()
    ready_home(settings.home)
    run_demo(settings, queries, show, console, train_with)


@app.command()
def up() -> None:
    """Run the local stack: Postgres, MLflow, Prefect with the flows, the service. Ctrl-C stops it."""
    from models.alerts import read_rules
    from serving.binding import check_host

    settings = read_settings()
    check_host(settings.host, settings)
    read_rules(settings.alerts)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup wants no end with the terminal; a shell's background jobs ignore Ctrl-C of themselves.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    stack = Stack(settings, say)
    try:
        stack.start(local_parts, stop)
        if not stop.is_set():
            say("login     the pages ask for one; mixllm login shows it")
            say(f"logs      {settings.home / 'logs'}\nready; Ctrl-C stops everything")
        stack.watch(stop)
    finally:
        stack.stop()
        say("stopped")


@app.command()
def login() -> None:
    """Show the login of the stack's pages: Prefect's, MLflow's and Evidently's."""
    from infra.credentials import read_credentials
    from infra.guard import login_link

    settings = settings_with_stack()
    credentials = read_credentials(settings.home)
    mlflow = http_url(LOOPBACK, settings.mlflow_port)
    prefect = http_url(LOOPBACK, settings.prefect_port)
    say(f"user      {credentials.user}\npassword  {credentials.password}")
    # A server that runs elsewhere has a login of its own.
    if settings.mlflow_uri in (None, mlflow):
        say(f"mlflow    {login_link(credentials, settings.mlflow_port)}")
    else:
        say(f"mlflow    {without_login(settings.mlflow_uri)}, with its own login")
    say(f"evidently {login_link(credentials, settings.evidently_port)}")
    if settings.prefect_api_url in (None, f"{prefect}/api"):
        say(f"prefect   {prefect}, which asks for {credentials.pair}")
    else:
        say(f"prefect   {without_login(settings.prefect_api_url)}, with its own login")


@app.command()
def ingest(
    source: Annotated[
        Path, typer.Argument(help="An evaluation set's folder, or a RouterBench table.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the checked set to, as Parquet.")],
    catalog: Annotated[Path | None, typer.Option(help="Catalog for a RouterBench table.")] = None,
    quarantine: Quarantine = None,
) -> None:
    """Check an evaluation set, or convert RouterBench's wide table, and write it as Parquet."""
    from models.catalog import read_catalog
    from models.evaluation_set import read_evaluation_set, rows_text, write_evaluation_set
    from models.preconditions import training_split
    from models.routerbench import read_routerbench

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
    data: Path, promote: bool, quarantine: Path | None = None, **options: Any
) -> dict[str, Any]:
    """Run the training flow in this process; on the stack's Prefect server where it runs."""
    from models.evaluation_set import read_evaluation_set
    from models.preconditions import training_split

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


def show_notes(notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


def options_of(
    tuning: Path | None,
    encoder: str | None = None,
    tagger: str | None = None,
    domains: str | None = None,
    families: str | None = None,
) -> dict[str, Any]:
    """Plain training options, checked. Raises SettingsError."""
    from infra.taggers import check_tagger
    from models.training_options import read_options, read_tuning

    given = {
        "encoder": encoder,
        "tagger": tagger,
        "domains": int(domains) if domains and domains.isdigit() else domains,
        "tuning": read_tuning(tuning),
        "families": families.replace(" ", "").split(",") if families else None,
    }
    check_tagger(read_options(**given).tagger, read_settings())
    return {key: value for key, value in given.items() if value is not None}


def point_prefect(settings: Settings) -> None:
    """Flows of this process report to the configured server, or to a temporary one of their own."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "mixllm")
    # On a small or busy machine the temporary server takes longer than Prefect's 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
    if "PREFECT_HOME" not in os.environ:
        os.environ.update(prefect_home(settings.home))
    if settings.prefect_api_url is not None:
        os.environ.setdefault("PREFECT_API_URL", settings.prefect_api_url)


@app.command()
def train(
    data: Data,
    promote: Annotated[bool, typer.Option("--promote", help="Make the release champion.")] = False,
    quarantine: Quarantine = None,
    encoder: Encoder = None,
    tagger: Tagger = None,
    domains: Domains = None,
    tuning: Tuning = None,
    families: Families = None,
) -> None:
    """Train a router, evaluate it on unseen queries and register it as a release."""
    options = options_of(tuning, encoder, tagger, domains, families)
    result = train_with(data, promote, quarantine, **options)
    show_measures(result["results"])
    say(f"release {result['version']} registered, {outcome(result)}")


def say(line: str) -> None:
    """One line, however long it is: the last of a command."""
    console.print(line, soft_wrap=True, highlight=False)


def outcome(made: dict[str, Any]) -> str:
    """What became of a release that a flow made, and why."""
    state = {
        "champion": "champion",
        "challenger": f"challenger; promote it: mixllm promote {made['version']}",
        "refused": "refused by its gate",
    }[made["state"]]
    return f"{state}; gate: {made['reason']}"


@app.command()
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
) -> None:
    """Measure the router on unseen queries, beside every baseline; registers nothing."""
    from models.evaluation import evaluate as measure
    from models.plots import plot_curves
    from models.predictor_report import plot_reports

    options = options_of(tuning, encoder, tagger, domains, families)
    training, test, inputs, fits = fitted(data, test_data, quarantine, options)
    evaluation = measure(training, inputs[0], test, inputs[1], fits, beta, paper=paper)
    for path in filter(None, (out, choices, plot, plot_predictors)):
        path.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(evaluation.results, indent=2) + "\n")
    evaluation.choices.to_parquet(choices, index=False)
    if plot is not None:
        plot_curves(evaluation.curves, evaluation.results, plot)
    if plot_predictors is not None:
        plot_reports(evaluation.reports, plot_predictors)
    show_measures(evaluation.results)


@app.command()
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
) -> None:
    """Find the willingness to pay for a target, and what to expect of it on unseen queries."""
    from models import calibration
    from models.compiled import CompiledPredictors
    from models.evaluation_set import comparable
    from models.fitting import shrinkage_of

    options = options_of(tuning, encoder, families=families)
    training, test, inputs, fits = fitted(data, None, quarantine, options)
    names, kept, notes = comparable(training, test)
    fits = [found for found in fits if found.predictor.llm in names]
    shrinkage = shrinkage_of(fits, training, inputs[0])
    rows = calibration.training_rows(fits, training, inputs[0], training.catalog, shrinkage)
    defaults = calibration.calibrate(rows, quality_share, cost_share)
    seen = test.queries["query_id"].isin(kept.queries["query_id"]).to_numpy()
    compiled = CompiledPredictors([found.predictor for found in fits], training.catalog, shrinkage)
    unseen = calibration.Rows(
        compiled.estimate(inputs[1][seen]),
        kept.matrix("quality", compiled.candidates),
        kept.matrix("cost_usd", compiled.candidates),
    )
    console.print(f"willingness to pay: {defaults.willingness_to_pay:.6g} USD per unit of quality")
    for name, (value, low, high) in calibration.expected(unseen, defaults).items():
        console.print(
            f"expect on unseen queries: {name.replace('_', ' ')} {value:.1%} "
            f"[{low:.1%}, {high:.1%}] of the best single LLM's"
        )
    for note in notes:
        console.print(f"note: {note}")


def fitted(
    data: Path, test_data: Path | None, quarantine: Path | None, given: dict[str, Any]
) -> Any:
    """(training set, test set, inputs of both, what was fitted on the first)."""
    from infra import training_steps
    from models.encoder import encoder_digest
    from models.evaluation_set import read_evaluation_set
    from models.fitting import fit_predictors, steps
    from models.preconditions import check_training, training_split
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
        fits = fit_predictors(
            training, inputs[0], digest, families=options.families, progress=advance
        )
    return training, test, inputs, fits


def beside(quarantine: Path | None) -> Path | None:
    """The file for a second set's bad rows, which would replace the first's."""
    return quarantine and quarantine.with_name(f"test-{quarantine.name}")


def progress_bar(label: str, total: int, unit: str = "query") -> Any:
    """A context whose value advances a progress bar on standard error."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def bar() -> Any:
        with tqdm(total=total, desc=label, unit=unit, file=sys.stderr) as shown:
            yield shown.update

    return bar()


def show_measures(results: dict[str, Any]) -> None:
    """The table of measures, with what was left out."""
    from models.evaluation import measures_table

    heads = ["router", "AIQ", "gap closed", "cost at 97.25 % quality", "quality at 24.18 % cost"]
    table = Table(
        *heads,
        "AIQ of mixllm over it",
        title=f"{results['test_set']}, {results['test_queries']} queries",
    )
    for row in measures_table(results):
        table.add_row(*row.values())
    console.print(table)
    for row in results["predictors"]:
        if row["flags"]:
            console.print(f"predictor of {row['llm']}: {row['flags']}. {row['advice']}")
    for note in results["notes"]:
        console.print(f"note: {note}")


@app.command("audit-tags")
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
) -> None:
    """Say which queries have tags, how large and how pure the domains are."""
    from rich.markdown import Markdown

    from models.evaluation_set import read_evaluation_set
    from models.preconditions import check_tags, training_split

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
    console.print(Markdown((out / "audit.md").read_text()))
    console.print(f"written to {out}; MLflow run {result['run']}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the training options, the tuning's settings included."""
    from models.training_options import TrainingOptions

    print(json.dumps(TrainingOptions.model_json_schema(), indent=2))


Changed = Annotated[
    str, typer.Option(help="What has changed since it was refused on the same data.")
]


@app.command()
def judge(
    version: Annotated[str, typer.Argument(help="A release's version.")],
    data: GateData = None,
    changed: Changed = "",
) -> None:
    """The gate: is a release no worse than the champion? Adds a verdict to the release's history."""
    settings = settings_with_stack()
    opened = registry(settings)
    champion = opened.alias("champion")
    opened.tags(version)  # a release that is not there is named before anything starts
    if champion == version:
        raise ReleaseError(
            f"release {version} is the champion: there is nothing to judge it against"
        )
    verdict = judged(settings, version, champion, data, changed)
    say(verdict_line(version, verdict.number, verdict.reason))
    if not verdict.passes:
        raise typer.Exit(1)


def verdict_line(version: str, number: int, reason: str) -> str:
    return f"release {version}, verdict {number}: {reason}"


def judged(
    settings: Settings, version: str, champion: str | None, data: Path | None, changed: str = ""
) -> Any:
    """A new verdict of the gate, shown."""
    from rich.markdown import Markdown

    from models.evaluation_set import read_evaluation_set
    from models.release_gate import gate_table
    from monitoring.gate import judge_release

    if data is not None:
        read_evaluation_set(data)  # what is wrong with it is named before anything starts
    verdict = judge_release(
        registry(settings), store(), settings, version, champion, data, changed=changed
    )
    console.print(Markdown(gate_table(verdict)))
    return verdict


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="A release's version.")],
    force: Annotated[bool, typer.Option("--force", help="Whatever its gate says.")] = False,
    data: GateData = None,
) -> None:
    """Make a release champion, if it passes its gate; running services pick it up.

    The verdict that a release has against the champion of now counts; one without is judged first.
    """
    from monitoring.gate import callable_now, standing_verdict

    settings = settings_with_stack()
    opened = registry(settings)
    opened.tags(version)
    champion = opened.alias("champion")
    reason = "it was champion already"
    if force:
        opened.force(version)
        standing = standing_verdict(opened, version)
        reason = (
            f"forced, whatever its gate says ({standing['reason'] if standing else 'no verdict'})"
        )
    elif champion != version:
        standing = standing_verdict(opened, version)
        if standing is not None and (data is None or judged_by(standing, data)):
            number, word, reason = (standing[key] for key in ("number", "verdict", "reason"))
        else:
            verdict = judged(settings, version, champion, data)
            number, word, reason = verdict.number, verdict.word, verdict.reason
        if word != "passes":
            raise ReleaseError(
                f"{verdict_line(version, number, reason)}; judge it again once something has "
                f"changed: mixllm judge {version}, or promote it all the same: --force"
            )
        now = callable_now(opened, settings, version, champion)
        if not now.holds:  # the catalog, or who is disabled, may have changed since the verdict
            raise ReleaseError(f"release {version} is not promoted: {now.reason}; or use --force")
        reason = f"verdict {number}: {reason}"
    opened.promote(version)
    say(f"release {version} is champion; {reason}")


def judged_by(verdict: dict[str, Any], data: Path) -> bool:
    """Whether a verdict rests on this evaluation set. Raises EvaluationSetError."""
    from models.evaluation_set import read_evaluation_set

    digest: str = read_evaluation_set(data).digest
    return verdict["data"] is not None and verdict["data"]["digest"] == digest


@app.command()
def rollback() -> None:
    """Make the previous champion champion again."""
    opened = registry(settings_with_stack())
    version = opened.rollback()
    history = opened.verdicts(version)
    last = f"; its last verdict: {history[-1]['reason']}" if history else ""
    say(f"release {version} is champion again{last}")


@app.command()
def releases(
    version: Annotated[
        str | None, typer.Argument(help="A release's version: every verdict on it.")
    ] = None,
) -> None:
    """List the registered releases, or every verdict of the gate on one of them."""
    from datetime import datetime

    from infra.registry import gate_state

    opened = registry(settings_with_stack())
    if version is not None:
        show_verdicts(version, opened.verdicts(version))
        return
    rows = opened.releases()
    if not rows:
        raise NoRelease("no release is registered yet: mixllm train --data DIR --promote")
    table = Table("version", "aliases", "registered", "AIQ", "gap closed", "data", "code", "gate")
    for row in rows:
        table.add_row(
            row.version,
            ", ".join(row.aliases),
            datetime.fromtimestamp(row.created).strftime("%Y-%m-%d %H:%M"),
            row.tags.get("metric.aiq", ""),
            row.tags.get("metric.gap_closed", ""),
            row.tags.get("data_digest", "")[:8],
            row.tags.get("code_revision", ""),
            gate_state(row.tags),
        )
    console.print(table)
    for row in rows:
        if (why := row.tags.get("serving.refused")) is not None:
            say(f"the service does not load release {row.version}: {why}")


def show_verdicts(version: str, history: list[dict[str, Any]]) -> None:
    """Every verdict on a release, the oldest first; the last one counts."""
    if not history:
        say(f"release {version} has not been judged: mixllm judge {version}")
        return
    table = Table("verdict", "at", "against", "data", "", "why", "changed since")
    for row in history:
        data = row["data"]
        name = (
            f"{data['name']} {data['digest'][:12]}, {data['queries']} queries" if data else "none"
        )
        table.add_row(
            *(str(row["number"]), row["at"], row["against"] or "nobody", name, row["verdict"]),
            *(row["reason"], row["changed"]),
        )
    console.print(table)
    last = history[-1]
    say(f"{verdict_line(version, last['number'], last['reason'])}; this one counts")


@app.command()
def ope(
    release: Annotated[str, typer.Option(help="The release in question.")],
    against: Annotated[str | None, typer.Option(help="Another; the champion by default.")] = None,
) -> None:
    """Off-policy evaluation: what a release would have earned, from logged decisions and votes."""
    from rich.markdown import Markdown

    from models.ope import ope_table
    from monitoring.offpolicy import compare_releases

    opened = registry(settings_with_stack())
    other = against or opened.champion()
    found = compare_releases(opened, store(), release, other)
    if found is None:
        raise MixLLMError("there is no vote yet on a decision that these releases can be judged by")
    console.print(Markdown(ope_table(found)))
    for reason, count in found["left_out"].items():
        console.print(f"left out: {count} votes, {reason}")


policy = typer.Typer(help="What feedback has taught: policy states and the learner.")
app.add_typer(policy, name="policy", no_args_is_help=True)


@policy.command("learn")
def policy_learn() -> None:
    """Learn every vote that waits now, as the flow does."""
    settings = settings_with_stack()
    champion_candidates(settings)  # without a champion there is nothing to teach
    point_prefect(settings)
    from flows.learn import learn_from_feedback

    found = learn_from_feedback()
    console.print(f"{found['votes']} votes read; policy state {found['version'] or 'none yet'}")
    show_policy(found["statistics"])


@policy.command("list")
def policy_list() -> None:
    """Every policy state that is kept, the newest first."""
    from monitoring.policy_states import list_states

    table = Table("version", "release", "learned", "votes", "held", "cursor", "why", "refused")
    for row in list_states(store()):
        table.add_row(
            str(row["version"]),
            row["release_digest"][:12],
            row["created_at"].strftime("%Y-%m-%d %H:%M:%S"),
            str(row["statistics"]["applied"]),
            str(row["statistics"]["held"]),
            str(row["cursor"]),
            row["reason"],
            row["refused"] or "",
        )
    console.print(table)


@policy.command("show")
def policy_show(
    version: Annotated[int | None, typer.Argument(help="A state's version; the newest.")] = None,
) -> None:
    """What a policy state has learned of each candidate, and who is held."""
    from monitoring.policy_states import list_states

    rows = [row for row in list_states(store()) if version in (None, row["version"])]
    if not rows:
        raise MixLLMError(f"no policy state {version or 'yet'}; see: mixllm policy list")
    console.print(f"policy state {rows[0]['version']} of release {rows[0]['release_digest'][:12]}")
    show_policy(rows[0]["statistics"])


def show_policy(statistics: dict[str, Any]) -> None:
    """A state's statistics."""
    table = Table("candidate", "votes", "mean vote", "foreseen")
    for name, row in statistics["candidates"].items():
        if row["votes"]:
            table.add_row(
                name, str(row["votes"]), f"{row['mean_reward']:.3f}", f"{row['mean_predicted']:.3f}"
            )
    console.print(table)
    counts = ("applied", "binary", "graded", "corrections", "held")
    console.print(", ".join(f"{statistics[name]} {name}" for name in counts))
    for reason, count in statistics["passed_over"].items():
        console.print(f"passed over: {count} votes, {reason}")
    if statistics["held_voters"]:
        console.print(f"held voters: {', '.join(statistics['held_voters'])}")


@policy.command("rollback")
def policy_rollback(
    version: Annotated[int, typer.Argument(help="The state to go back to.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the votes left out.")] = "by hand",
) -> None:
    """Go back to an older state for good: votes since then teach its release nothing."""
    from monitoring.learner import roll_back

    made = roll_back(store(), version, reason)
    console.print(f"policy state {made} is state {version} again; services take it within a minute")


@policy.command("rebuild")
def policy_rebuild(
    without: Annotated[
        list[str] | None, typer.Option(help="Leave a voter's votes so far out for good.")
    ] = None,
) -> None:
    """Learn the champion's whole log anew, and say whether the served state is the same."""
    from flows.learn import subject_of
    from monitoring.feedback import last_position
    from monitoring.learner import leave_out, rebuild

    settings, engine = settings_with_stack(), store()
    for voter in without or []:
        leave_out(engine, voter, "by hand")
    subject = subject_of(settings)
    with progress_bar("replaying votes", last_position(engine), "vote") as advance:
        learned, same = rebuild(engine, subject, advance)
    if same:
        console.print(f"{learned.votes} votes: the same, byte for byte, as state {learned.version}")
    else:
        console.print(f"{learned.votes} votes: another state, {learned.version}, which serves now")


@app.command("update-predictors")
def update_predictors_command(data: Data) -> None:
    """Refit predictors for which enough graded feedback has come; makes a challenger."""
    from models.evaluation_set import read_evaluation_set

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


feedback_app = typer.Typer(help="Say how good answers were.")
app.add_typer(feedback_app, name="feedback", no_args_is_help=True)


@feedback_app.command("import")
def feedback_import(
    file: Annotated[Path, typer.Argument(help="Output items of an OpenAI evaluation, JSON Lines.")],
) -> None:
    """Send the scores of an OpenAI evaluation run to the running service."""
    settings = client_settings()
    try:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise MixLLMError(f"{file}: {error.strerror}") from error
    kept = 0
    for start in range(0, len(lines), IMPORT_LINES):
        body = b"\n".join(lines[start : start + IMPORT_LINES])
        answer = ask_service(settings, "POST", "/v1/feedback/import", content=body)
        kept += answer["kept"]
        for refused in answer["refused"]:
            console.print(f"{file}, line {start + refused['index'] + 1}: {refused['message']}")
    console.print(f"{kept} of {len(lines)} votes kept")


IMPORT_LINES = 1000


def ask_service(settings: Settings, method: str, path: str, **request: Any) -> dict[str, Any]:
    """The running service's answer. Raises MixLLMError."""
    try:
        response = request_directly(
            method,
            f"{settings.service_url}{path}",
            headers=settings.key_header,
            timeout=60,
            **request,
        )
    except httpx.HTTPError as error:
        raise MixLLMError(
            f"no service answers at {settings.service_url} ({error}); start it: mixllm up"
        ) from error
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise MixLLMError(answer["error"]["message"])
    return answer


candidate = typer.Typer(help="Change the candidates of a release, one at a time.")
app.add_typer(candidate, name="candidate", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A candidate's name.")]
Promote = Annotated[bool, typer.Option("--promote", help="Make the new release champion.")]


@candidate.command("add")
def candidate_add(
    name: Name, data: Data, promote: Promote = False, quarantine: Quarantine = None
) -> None:
    """Fit a new candidate's predictor and register a release with it."""
    change_candidate_with(name, data, promote, quarantine, known=False)


@candidate.command("refit")
def candidate_refit(
    name: Name, data: Data, promote: Promote = False, quarantine: Quarantine = None
) -> None:
    """Fit a candidate's predictor anew and register a release with it."""
    change_candidate_with(name, data, promote, quarantine, known=True)


@candidate.command("remove")
def candidate_remove(name: Name, promote: Promote = False) -> None:
    """Register a release without a candidate."""
    change_candidate_with(name, None, promote, None, known=True)


@candidate.command("disable")
def candidate_disable(names: Annotated[list[str], typer.Argument(help="Candidates.")]) -> None:
    """Nobody gets these candidates from now on, whatever the release."""
    set_disabled(lambda now: now | known_candidates(names))


@candidate.command("enable")
def candidate_enable(names: Annotated[list[str], typer.Argument(help="Candidates.")]) -> None:
    """Let disabled candidates be chosen again."""
    set_disabled(lambda now: now - frozenset(names))


def change_candidate_with(
    name: str, data: Path | None, promote: bool, quarantine: Path | None, known: bool
) -> None:
    """Run the flow, after checking that the change makes sense."""
    settings = settings_with_stack()
    names = champion_candidates(settings)
    if known and name not in names:
        raise UnknownCandidate(f"no candidate {name!r}; {nearest(name, names)}")
    if not known and name in names:
        raise ReleaseError(f"{name!r} is a candidate already; fit it anew: mixllm candidate refit")
    if data is not None:
        from models.evaluation_set import read_evaluation_set
        from models.preconditions import check_candidate

        # What is wrong with the data is said before anything starts.
        check_candidate(name, read_evaluation_set(data, quarantine))
    point_prefect(settings)
    from flows.change_candidate import change_candidate

    result = change_candidate(
        name,
        str(data.resolve()) if data else None,
        promote_release=promote,
        quarantine=str(quarantine) if quarantine else None,
    )
    say(f"release {result['version']} registered, from {result['base']}, {outcome(result)}")


def champion_candidates(settings: Settings) -> list[str]:
    """The champion's candidates. Raises NoRelease."""
    from models.manifest import read_manifest

    opened = registry(settings)
    names: list[str] = read_manifest(opened.fetch(opened.champion())).catalog.names
    return names


def known_candidates(names: list[str]) -> frozenset[str]:
    known = champion_candidates(settings_with_stack())
    for name in names:
        if name not in known:
            raise UnknownCandidate(f"no candidate {name!r}; {nearest(name, known)}")
    return frozenset(names)


def set_disabled(change: Callable[[frozenset[str]], frozenset[str]]) -> None:
    """Write the disabled candidates and tell the service of this machine, if one runs."""
    settings = settings_with_stack()
    opened = registry(settings)
    disabled = change(opened.disabled())
    opened.set_disabled(disabled)
    try:
        url = f"{settings.service_url}/v1/refresh"
        request_directly("POST", url, headers=settings.key_header, timeout=2)
    except httpx.HTTPError:
        console.print(f"services pick it up within {settings.poll_seconds:g} s")
    console.print(f"disabled: {', '.join(sorted(disabled)) or 'none'}")


@app.command()
def route(
    query: Annotated[str, typer.Argument(help="What the user asks.")],
    willingness_to_pay: Annotated[
        float | None, typer.Option(help="USD per unit of quality.")
    ] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Choose among these only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the service's answer.")] = False,
) -> None:
    """Ask the running service whom to send a query to, and why."""
    settings = client_settings()
    body = {"query": query, "explain": True, "candidates": candidate or None}
    body["willingness_to_pay"] = willingness_to_pay
    answer = ask_service(settings, "POST", "/v1/route", json=body)
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    console.print(Text.assemble((answer["llm"], "bold"), f"  {answer['explanation']['why']}"))
    table = Table("candidate", "score", "quality", "cost, USD", "time, s", "tokens")
    for row in answer["explanation"]["scores"][:10]:
        table.add_row(
            row["llm"],
            f"{row['score']:.4f}",
            f"{row['predicted_quality']:.3f}",
            f"{row['predicted_cost_usd']:.6f}",
            f"{row['predicted_seconds']:.1f}",
            f"{row['predicted_response_tokens']:.0f}",
        )
    console.print(table)


@app.command()
def fleet(
    catalog: Annotated[
        Path | None, typer.Option(help="Whose LLMs to simulate; --data's, or the demo's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The evaluation set whose outcomes are the answers.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8100,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers at once, per LLM.")] = 8,
    speed: Annotated[float, typer.Option(min=0.001, help="Times faster than the catalog.")] = 1.0,
    instant: Annotated[bool, typer.Option("--instant", help="Answer at once.")] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LLM:KIND=SHARE",
            help="429, 500, hang, broken, slow or garbage, of one LLM or of *; again for more.",
        ),
    ] = None,
    write_catalog: Annotated[
        Path | None, typer.Option(help="Write the catalog with this fleet as every upstream.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 0,
) -> None:
    """Simulate LLMs: a real server of OpenAI's protocol, with the catalog's speeds. Ctrl-C stops it."""
    import asyncio

    from infra import fleet as simulated
    from models.catalog import read_catalog
    from models.evaluation_set import read_evaluation_set
    from models.simulated import right_answers, simulated_evaluation_set

    known = simulated_evaluation_set() if data is None else read_evaluation_set(data)
    texts = right_answers() if data is None else None
    entries = read_catalog(catalog) if catalog else known.catalog
    made = simulated.Fleet(
        entries,
        simulated.RecordedAnswers(known, texts),
        concurrency,
        float("inf") if instant else speed,
        seed,
    )
    made.set_faults(simulated.parse_faults(fault or []))

    def announce() -> None:
        """What may be said only once the port is ours."""
        address = http_url(host, port)
        if write_catalog is not None:
            written = simulated.with_upstreams(entries, address, concurrency=concurrency)
            write_text(write_catalog, written.dump_yaml())
            say(f"catalog written to {write_catalog}; serve with MIXLLM_CATALOG={write_catalog}")
        say(f"SIMULATED: {len(entries.llms)} LLMs at {address}/v1; Ctrl-C stops")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await simulated.serve(made, host, port, stop, announce)

    asyncio.run(run())


def write_text(path: Path, text: str) -> None:
    """Write a file a user named. Raises MixLLMError."""
    try:
        path.write_text(text)
    except OSError as error:
        raise MixLLMError(f"{path} cannot be written: {error.strerror}") from error


experiment = typer.Typer(help="Experiments on an evaluation set, with a report each.")
app.add_typer(experiment, name="experiment", no_args_is_help=True)


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
    from infra import latency_experiment
    from models.evaluation_set import read_evaluation_set

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

    from infra import online_experiment
    from models.evaluation_set import read_evaluation_set
    from models.online_report import write_report
    from models.preconditions import training_split

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


drift = typer.Typer(help="Drift: windows of decisions against the release's first ones.")
app.add_typer(drift, name="drift", no_args_is_help=True)


@drift.command("check")
def drift_check(
    force: Annotated[
        bool, typer.Option("--force", help="However little has come since the last look.")
    ] = False,
) -> None:
    """Look for drift now, as the flow does; writes a report and raises alerts."""
    ready_to_watch()
    from flows.check_drift import check_drift_flow

    found = check_drift_flow(force)
    console.print(found["said"])
    if found["report"]:
        console.print(f"report: {found['report']}", soft_wrap=True)
    for number, name, subject in found["alerts"]:
        about = subject or ""
        console.print(f"alert {number}: {name} {about}; mixllm alerts show {number}")


def ready_to_watch() -> None:
    """What a user can mend is said before a flow starts. Raises NoRelease, SettingsError."""
    from models.alerts import read_rules

    settings = settings_with_stack()
    read_rules(settings.alerts)
    registry(settings).champion()
    point_prefect(settings)


@drift.command("list")
def drift_list(most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 20) -> None:
    """The windows looked at, with their reports."""
    from monitoring.drift import list_windows

    rows = list_windows(store(), most)
    table = Table("window", "release", "until", "decisions", "lit")
    for row in rows:
        lit = sorted({s["alert"] for s in row["signals"] if s["lit"]})
        table.add_row(
            str(row["id"]),
            row["release_version"],
            row["ended_at"].strftime("%Y-%m-%d %H:%M:%S"),
            str(row["decisions"]),
            ", ".join(lit),
        )
    console.print(table)
    for row in rows:  # addresses are for copying: never folded
        console.print(f"report {row['id']}: {row['report'] or 'not yet'}", soft_wrap=True)


alerts_app = typer.Typer(help="Alerts: what was raised, and what was done about it.")
app.add_typer(alerts_app, name="alerts", no_args_is_help=True)


@alerts_app.command("list")
def alerts_list(most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 50) -> None:
    """Every alert, the newest first."""
    from monitoring.alert_log import list_alerts

    table = Table("alert", "raised", "what", "of", "release", "mode", "state", "outcome")
    for row in list_alerts(store(), most=most):
        table.add_row(
            str(row["id"]),
            row["raised_at"].strftime("%Y-%m-%d %H:%M:%S"),
            row["name"],
            row["subject"] or "",
            row["release_version"],
            row["mode"],
            row["state"],
            row["outcome"] or "",
        )
    console.print(table)


@alerts_app.command("show")
def alerts_show(number: Annotated[int, typer.Argument(help="An alert.")]) -> None:
    """One alert's evidence, and every step that was taken."""
    from models.alerts import KINDS
    from monitoring.alert_log import read_alert, read_audit

    engine = store()
    row = read_alert(engine, number)
    signal, kind = row["signal"], KINDS[row["name"]]
    console.print(Text.assemble((kind.title, "bold"), f" {row['subject'] or ''}"))
    was = "" if signal["reference"] is None else f", was {signal['reference']:.4g}"
    p = "" if signal["p_value"] is None else f", p {signal['p_value']:.2g} (Holm)"
    console.print(
        f"{signal['what']}: {signal['now']:.4g}{was}; effect {signal['effect']:.3g}, "
        f"at least {signal['threshold']:g} matters{p}; {signal['samples']} rows"
    )
    console.print(f"runbook: {kind.page(row['name'])}; repair: {kind.repair}, mode {row['mode']}")
    show_audit(read_audit(engine, number)[::-1])


@alerts_app.command("audit")
def alerts_audit(most: Annotated[int, typer.Option(min=1, help="Newest first.")] = 50) -> None:
    """Every step that the platform took by itself, the newest first."""
    from monitoring.alert_log import read_audit

    show_audit(read_audit(store(), most=most))


def show_audit(rows: list[dict[str, Any]]) -> None:
    table = Table("at", "alert", "what", "why", "result")
    for row in rows:
        table.add_row(
            row["at"].strftime("%Y-%m-%d %H:%M:%S"),
            str(row["alert_id"] or ""),
            row["what"],
            row["why"],
            row["result"],
        )
    console.print(table)


@app.command()
def repair() -> None:
    """Mend what open alerts say now, each by its mode, as the flow does."""
    ready_to_watch()
    from flows.repair import repair as mend

    found = mend()
    for number, outcome in found["closed"]:
        console.print(f"alert {number}: {outcome}", soft_wrap=True)
    for number, _ in found["waiting"]:
        console.print(f"alert {number}: still open; mixllm alerts show {number}")
    if not found["closed"] and not found["waiting"]:
        console.print("no alert is open")


@app.command()
def canary(
    share: Annotated[
        float, typer.Argument(min=0, max=1, help="What the challenger answers; 0 ends it.")
    ],
    by: Annotated[str, typer.Option(help="keys or traffic.")] = "traffic",
) -> None:
    """Let the challenger answer a share of the keys or of the traffic; an alert ends it by itself."""
    from infra.registry import CHALLENGER, Canary
    from monitoring.gate import callable_now

    settings = settings_with_stack()
    opened = registry(settings)
    if by not in ("keys", "traffic"):
        raise MixLLMError(f"--by {by}: keys or traffic")
    version = opened.alias(CHALLENGER)
    if share == 0:
        opened.set_canary(None)
        console.print("no canary: the champion answers everybody")
        return
    if version is None:
        raise NoRelease("there is no challenger; see: mixllm releases")
    if (why := opened.refused(version)) is not None:
        raise ReleaseError(f"release {version} is refused by its gate: {why}")
    now = callable_now(opened, settings, version, opened.champion())
    if not now.holds:
        raise ReleaseError(f"release {version} cannot answer anybody: {now.reason}")
    opened.set_canary(Canary(version, share, by))
    console.print(f"release {version} answers {share:.1%} of the {by}; mixllm canary 0 ends it")


@app.command()
def shadow() -> None:
    """What the challenger would have chosen on live queries."""
    from infra.registry import CHALLENGER
    from models.manifest import read_manifest
    from monitoring.shadows import shadow_summary

    opened = registry(settings_with_stack())
    version = opened.alias(CHALLENGER)
    if version is None:
        raise NoRelease("there is no challenger; see: mixllm releases")
    said = shadow_summary(store(), read_manifest(opened.fetch(version)).digest)
    console.print(f"release {version}: {said or 'has decided nothing in shadow yet'}")


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Delete decisions, states and reports that are old and needed by nobody."""
    from monitoring.retention import prune as remove

    settings = settings_with_stack()
    gone = remove(store(), registry(settings), settings, dry_run)
    for what, count in gone.items():
        console.print(f"{count} {what} {'would go' if dry_run else 'gone'}")


dead_letters = typer.Typer(help="Rows that Postgres refused: look, try again, or drop them.")
app.add_typer(dead_letters, name="dead-letters", no_args_is_help=True)
LetterIds = Annotated[
    list[str] | None, typer.Argument(help="Ids or their beginnings, as list shows them.")
]
AllLetters = Annotated[bool, typer.Option("--all", help="Every dead letter of this machine.")]


@dead_letters.command("list")
def dead_letters_list() -> None:
    """The dead letters of this machine's journals, the oldest first."""
    from monitoring.journals import dead_letters_of

    table = Table("journal", "id", "at", "reason")
    for journal, letters in dead_letters_of(read_settings().home).items():
        for letter in letters.read():
            table.add_row(journal, letter.id, letter.at, letter.reason)
    console.print(table if table.row_count else "no dead letters")


@dead_letters.command("show")
def dead_letters_show(ids: LetterIds = None) -> None:
    """Whole rows, with why they were refused, as JSON; all of them where no id is given."""
    for journal, (_, chosen) in chosen_letters(ids, everything=not ids).items():
        for letter in chosen:
            try:
                row: Any = letter.row
            except ValueError:
                row = letter.line
            shown = {"journal": journal, "id": letter.id, "at": letter.at, "reason": letter.reason}
            print(json.dumps({**shown, "row": row}, indent=2))


@dead_letters.command("retry")
def dead_letters_retry(ids: LetterIds = None, everything: AllLetters = False) -> None:
    """Insert rows again, once what refused them is mended; those that succeed go."""
    from monitoring.journals import JOURNALS

    engine, failed = None, 0
    for journal, (letters, chosen) in chosen_letters(ids, everything).items():
        engine = engine or store()
        insert = partial(JOURNALS[journal].insert, engine)
        refused = letters.retry(chosen, insert)
        failed += len(refused)
        for letter, reason in refused.items():
            console.print(f"{letter} of {journal}: refused again: {reason}")
        console.print(f"{journal}: {len(chosen) - len(refused)} inserted, {len(refused)} refused")
    if failed:
        raise typer.Exit(1)


@dead_letters.command("drop")
def dead_letters_drop(ids: LetterIds = None, everything: AllLetters = False) -> None:
    """Delete rows for good."""
    for journal, (letters, chosen) in chosen_letters(ids, everything).items():
        letters.remove([letter.id for letter in chosen])
        console.print(f"{journal}: {len(chosen)} dropped")


def chosen_letters(ids: list[str] | None, everything: bool) -> dict[str, Any]:
    """Journal → (its dead letters, the chosen ones), where there are any. Raises StoreError."""
    from models.errors import StoreError
    from monitoring.journals import dead_letters_of

    if bool(ids) == everything:
        raise StoreError("give the ids of dead letters, or --all; see: mixllm dead-letters list")
    out: dict[str, Any] = {}
    missing = set(ids or ())
    for journal, letters in dead_letters_of(read_settings().home).items():
        chosen = [
            letter
            for letter in letters.read()
            if everything or any(letter.id.startswith(wanted) for wanted in ids or ())
        ]
        missing -= {wanted for wanted in missing if any(c.id.startswith(wanted) for c in chosen)}
        if chosen:
            out[journal] = letters, chosen
    if missing:
        raise StoreError(f"no dead letter {min(missing)!r}; see: mixllm dead-letters list")
    return out


keys = typer.Typer(help="API keys of the service: who may ask, how often, for how much.")
app.add_typer(keys, name="keys", no_args_is_help=True)


def store() -> Any:
    """The database's engine, migrated."""
    from monitoring.schema import open_store

    return open_store(settings_with_stack())


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="route (the default), feedback or admin; again for more."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    monthly_budget: Annotated[float | None, typer.Option(min=0, help="USD a month.")] = None,
    explore: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How often another LLM than the best is drawn."),
    ] = None,
) -> None:
    """Make a key and show it, this once; from then on the service asks for keys."""
    from models.exploration import Exploration
    from monitoring.keys import create_key

    exploration = None
    if explore is not None:
        exploration = Exploration(kind="epsilon", epsilon=explore)
    _, secret = create_key(
        store(), name, scope or ["route"], requests_per_minute, monthly_budget, exploration
    )
    print(secret)
    console.print(
        "shown this once; within a few seconds the service asks everybody for a key.\n"
        "Commands of mixllm pass the one in MIXLLM_API_KEY; "
        "clients send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
        style="dim",
    )


@keys.command("list")
def keys_list() -> None:
    """Every key ever made, and what it has spent this month."""
    from monitoring.answers import spent_this_month
    from monitoring.keys import dollars, list_keys, read_access

    engine = store()
    spent = spent_this_month(engine)
    heads = ("id", "name", "scopes", "a minute", "budget", "spent", "draws", "made", "revoked")
    table = Table(*heads)
    for row in list_keys(engine):
        revoked = row["revoked_at"]
        table.add_row(
            row["id"],
            row["name"],
            ", ".join(row["scopes"]),
            str(row["requests_per_minute"] or ""),
            "" if row["monthly_budget_usd"] is None else dollars(row["monthly_budget_usd"]),
            dollars(spent.get(row["id"], 0.0)),
            str(row["exploration"].get("kind", "")) if row["exploration"] else "",
            row["created_at"].strftime("%Y-%m-%d %H:%M"),
            revoked.strftime("%Y-%m-%d %H:%M") if revoked else "",
        )
    console.print(table)
    access = read_access(engine)
    for why in access.unusable.values():
        console.print(f"{why}; revoke it and create another", style="red", soft_wrap=True)
    console.print(REQUIREMENT[access.required], soft_wrap=True)


REQUIREMENT = {
    True: "Every request needs a key.",
    False: "No request needs a key: mixllm keys open.",
    None: "No request needs a key; from the first key on, every request will.",
}


@keys.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="A key's name or id.")]) -> None:
    """No service takes the key any more, within a few seconds. Keys stay required."""
    from monitoring.keys import read_access, revoke_key

    engine = store()
    revoke_key(engine, name)
    console.print(f"{name} revoked")
    if not read_access(engine).keys:
        console.print(
            "no key is in use now, and every request still needs one; to let everybody in: "
            "mixllm keys open",
            soft_wrap=True,
        )


@keys.command("require")
def keys_require() -> None:
    """From now on every request needs a key, even before the first one is made."""
    from monitoring.keys import require_keys

    require_keys(store())
    console.print(REQUIREMENT[True])


@keys.command("open")
def keys_open() -> None:
    """From now on no request needs a key; refused while keys are in use."""
    from monitoring.keys import open_access

    open_access(store())
    console.print(REQUIREMENT[False])


@app.command()
def doctor() -> None:
    """Check this machine: versions, ports, disk, database, registry, encoder."""
    from infra.doctor import checks

    bad = 0
    for check in checks(client_settings()):
        mark = ("ok ", "green") if check.well else ("bad", "red")
        bad += not check.well
        line = Text.assemble(mark, f" {check.name:<16} {check.found}")
        console.print(line, soft_wrap=True)
        if not check.well and check.remedy:
            console.print(f"    {'':<16} → {check.remedy}", soft_wrap=True)
    if bad:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
