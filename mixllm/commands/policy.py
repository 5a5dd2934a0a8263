"""Commands for policy states, and for what the log of votes says of releases."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infra.progress import progress_bar
from mixllm.app import WATCH, app
from mixllm.console import Columns, console, print_json, show_rows, to_second
from mixllm.context import (
    champion_candidates,
    point_prefect,
    registry,
    settings_with_stack,
    store,
)
from mixllm.options import AsJson
from models.errors import MixLLMError

policy = typer.Typer(help="What feedback has taught: policy states and the learner.")
app.add_typer(policy, name="policy", no_args_is_help=True, rich_help_panel=WATCH)


@policy.command("learn")
def policy_learn(as_json: AsJson = False) -> None:
    """Learn every vote that waits now, as the flow does."""
    settings = settings_with_stack()
    champion_candidates(settings)  # without a champion there is nothing to teach
    point_prefect(settings)
    from flows.learn import learn_from_feedback

    learned = learn_from_feedback()
    if as_json:
        print_json(learned)
        return
    console.print(f"{learned['votes']} votes read; policy state {learned['version'] or 'none yet'}")
    show_policy(learned["statistics"])


@policy.command("list")
def policy_list(as_json: AsJson = False) -> None:
    """Every policy state that is kept, the newest first."""
    from monitoring.learning.policy_states import list_states

    columns: Columns = {
        "version": lambda row: str(row["version"]),
        "release": lambda row: row["release_digest"][:12],
        "learned": lambda row: to_second(row["created_at"]),
        "votes": lambda row: str(row["statistics"]["applied"]),
        "held": lambda row: str(row["statistics"]["held"]),
        "cursor": lambda row: str(row["cursor"]),
        "why": lambda row: row["reason"],
        "refused": lambda row: row["refused"] or "",
    }
    show_rows(list_states(store()), columns, as_json=as_json)


@policy.command("show")
def policy_show(
    version: Annotated[int | None, typer.Argument(help="A state's version; the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a policy state has learned of each candidate, and who is held."""
    from monitoring.learning.policy_states import list_states

    rows = [row for row in list_states(store()) if version in (None, row["version"])]
    if not rows:
        raise MixLLMError(f"no policy state {version or 'yet'}; see: mixllm policy list")
    if as_json:
        print_json(rows[0])
        return
    console.print(f"policy state {rows[0]['version']} of release {rows[0]['release_digest'][:12]}")
    show_policy(rows[0]["statistics"])


def show_policy(statistics: dict[str, Any]) -> None:
    """A state's statistics."""
    candidates = statistics["candidates"]
    columns: Columns = {
        "candidate": str,
        "votes": lambda name: str(candidates[name]["votes"]),
        "mean vote": lambda name: f"{candidates[name]['mean_reward']:.3f}",
        "predicted": lambda name: f"{candidates[name]['mean_predicted']:.3f}",
    }
    show_rows([name for name, row in candidates.items() if row["votes"]], columns)
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
    from monitoring.learning.learner import roll_back

    made = roll_back(store(), version, reason)
    console.print(f"policy state {made} is state {version} again; services take it within a minute")


@policy.command("rebuild")
def policy_rebuild(
    without: Annotated[
        list[str] | None, typer.Option(help="Leave a voter's votes so far out for good.")
    ] = None,
) -> None:
    """Learn the champion's whole log anew, and say whether the served state is the same."""
    from flows.context import subject_of
    from monitoring.learning.learner import leave_out, rebuild
    from monitoring.store.feedback import last_position

    settings, engine = settings_with_stack(), store()
    for voter in without or []:
        leave_out(engine, voter, "by hand")
    subject = subject_of(settings)
    with progress_bar("replaying votes", last_position(engine), "vote") as advance:
        learned, same = rebuild(engine, subject, advance)
    if same:
        console.print(f"{learned.votes} votes: the same, byte for byte, as state {learned.version}")
    else:
        console.print(f"{learned.votes} votes: rebuilt as state {learned.version}, now serving")


@app.command(rich_help_panel=WATCH, epilog="Example: mixllm ope --release 7")
def ope(
    release: Annotated[str, typer.Option(help="The release in question.")],
    against: Annotated[str | None, typer.Option(help="Another; the champion by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Off-policy evaluation: what a release would have earned, from logged decisions and votes."""
    from rich.markdown import Markdown

    from models.learning.off_policy import ope_table
    from monitoring.learning.off_policy import compare_releases

    opened = registry(settings_with_stack())
    other = against or opened.champion()
    comparison = compare_releases(opened, store(), release, other)
    if comparison is None:
        raise MixLLMError("there is no vote yet on a decision that these releases can be judged by")
    if as_json:
        print_json(comparison)
        return
    console.print(Markdown(ope_table(comparison)))
    for reason, count in comparison["left_out"].items():
        console.print(f"left out: {count} votes, {reason}")
