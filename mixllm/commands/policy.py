"""Commands for policy states."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from infra.progress import progress_bar
from mixllm.app import app
from mixllm.console import console
from mixllm.context import champion_candidates, point_prefect, settings_with_stack, store
from models.errors import (
    MixLLMError,
)

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
    from monitoring.learning.policy_states import list_states

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
    from monitoring.learning.policy_states import list_states

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
        console.print(f"{learned.votes} votes: another state, {learned.version}, which serves now")
