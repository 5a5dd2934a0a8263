"""The flow that learns from feedback: the champion's policy state, from every vote that waits."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from sqlalchemy import Engine

from infra.registry import CHAMPION, Registry
from infra.settings import Settings, read_settings
from models import escape
from models.manifest import read_manifest
from models.policy import PolicyState
from models.release import compiled_release
from monitoring.feedback import last_position
from monitoring.learner import Busy, Learned, Subject, learn
from monitoring.policy_states import last_cursor
from monitoring.releases import Parts
from monitoring.schema import open_store

DEPLOYMENT: Final = "learn-from-feedback/learn"
LOOK_SECONDS: Final = 10.0
LATE_SECONDS: Final = 60.0


def subject_of(settings: Settings, version: str | None = None) -> Subject:
    """The release to teach: the champion when not said. Raises NoRelease."""
    registry = Registry(settings.registry_uri, settings.home / "registry")
    folder = registry.fetch(version or registry.champion())
    manifest = read_manifest(folder)
    untaught = PolicyState.untaught(manifest.digest, compiled_release(folder))
    return Subject(untaught, Parts.of(manifest))


@task(name="learn", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def learn_votes(settings: Settings) -> Learned:
    """Apply what waits; nothing where another learner is at work."""
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
    if Registry(settings.registry_uri, settings.home / "registry").alias(CHAMPION) is None:
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
    found = learned.state.statistics()
    lines = [
        f"**Policy state {learned.version}**: {learned.votes} votes read, {found['applied']} applied in "
        f"all, {found['held']} held, {found['voters']} voters.",
        "",
        "| candidate | votes | mean vote | foreseen |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in found["candidates"].items():
        if row["votes"]:
            lines.append(
                f"| {escape.markdown(name)} | {row['votes']} | {row['mean_reward']:.3f} | "
                f"{row['mean_predicted']:.3f} |"
            )
    if found["held_voters"]:
        held = ", ".join(escape.markdown(name) for name in found["held_voters"])
        lines += ["", f"Held, their votes teach nothing: {held}"]
    return "\n".join(lines)


def watch_feedback(settings: Settings, stop: threading.Event) -> None:
    """Start the learning flow's deployment when feedback has come that no state has learned; again
    only once that is done, or late."""
    engine: Engine | None = None
    asked, since = 0, 0.0
    while not stop.wait(LOOK_SECONDS):
        try:
            engine = engine or open_store(settings)
            position = last_position(engine)
            done = last_cursor(engine) >= asked or time.monotonic() - since > LATE_SECONDS
            if position > max(asked, last_cursor(engine)) and done:
                run_deployment(DEPLOYMENT, timeout=0, as_subflow=False)
                asked, since = position, time.monotonic()
        except Exception as error:  # Postgres or Prefect is away: the next look tries again
            print(f"feedback: {error}", flush=True)
