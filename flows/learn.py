"""The flow that applies waiting votes to the champion's policy state."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.context import subject_of
from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings, read_settings
from models import escape
from models.markdown_table import markdown_table
from monitoring.learning.learner import Busy, Learned, learn
from monitoring.store.schema import open_store


@task(name="learn", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def learn_votes(settings: Settings) -> Learned:
    """Apply waiting votes, unless another learner is at work."""
    engine, subject = open_store(settings), subject_of(settings)
    try:
        return learn(engine, subject)
    except Busy:
        get_run_logger().info("another learner is at work")
        return Learned(None, subject.untaught, 0)


@flow(name="learn-from-feedback", validate_parameters=False)
def learn_from_feedback() -> dict[str, Any]:
    """Teach the champion's policy state. Returns {"version", "votes", "statistics"}."""
    settings = read_settings()
    if Registry.of(settings).alias(CHAMPION) is None:
        get_run_logger().info("no release is champion yet: there is nothing to teach")
        return {"version": None, "votes": 0, "statistics": {}}
    learned = learn_votes(settings)
    statistics = learned.state.statistics()
    if learned.votes:
        create_markdown_artifact(key="policy-state", markdown=report(learned))
    if statistics["held_voters"]:
        get_run_logger().warning("held voters: %s", ", ".join(statistics["held_voters"]))
    return {"version": learned.version, "votes": learned.votes, "statistics": statistics}


def report(learned: Learned) -> str:
    """The state as a page of the flow run."""
    statistics = learned.state.statistics()
    rows = [
        (
            escape.markdown(name),
            row["votes"],
            f"{row['mean_reward']:.3f}",
            f"{row['mean_predicted']:.3f}",
        )
        for name, row in statistics["candidates"].items()
        if row["votes"]
    ]
    lines = [
        f"**Policy state {learned.version}**: {learned.votes} votes read, "
        f"{statistics['applied']} applied in all, {statistics['held']} held, "
        f"{statistics['voters']} voters.",
        "",
        markdown_table(("candidate", "votes", "mean vote", "predicted"), rows),
    ]
    if statistics["held_voters"]:
        held = ", ".join(escape.markdown(name) for name in statistics["held_voters"])
        lines += ["", f"Held, their votes teach nothing: {held}"]
    return "\n".join(lines)
