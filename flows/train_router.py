"""The flow that trains, evaluates and registers a release."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.promotion import settle
from flows.steps import (
    assemble,
    embed,
    evaluate_release,
    fit,
    make_encoder,
    register,
    tag,
    validate_data,
)
from infra.settings import Settings, read_settings
from models.encoder.onnx import encoder_digest
from models.evaluation.preconditions import training_split
from models.training_options import TrainingOptions, read_options
from monitoring.release_gate.judge import Trial
from monitoring.store.locks import exclusive
from monitoring.store.schema import open_store


@flow(name="train-router", validate_parameters=False)
def train_router(  # noqa: PLR0913 - what a deployment may set
    data: str,
    promote_release: bool = False,  # noqa: FBT001 - a deployment's parameter
    quarantine: str | None = None,
    encoder: str | None = None,
    tagger: str | None = None,
    domains: int | str | None = None,
    tuning: dict[str, Any] | None = None,
    families: list[str] | None = None,
) -> dict[str, Any]:
    """Train on an evaluation set's training queries, evaluate on its test queries, register.

    data: an evaluation set's folder.
    promote_release: make the release champion; else challenger.
    quarantine: a file for bad rows.
    encoder, tagger, domains, tuning, families: see ``TrainingOptions``.

    Returns {"version", "results", "state", "reason"}.
    state: champion, challenger, or refused by the gate.
    reason: the gate's.
    """
    options = read_options(
        encoder=encoder, tagger=tagger, domains=domains, tuning=tuning, families=families
    )
    settings = read_settings()
    with exclusive(open_store(settings), "training"):
        quarantine_file = Path(quarantine) if quarantine else None
        return train(Path(data), quarantine_file, options, settings, promote=promote_release)


def train(
    data: Path,
    quarantine: Path | None,
    options: TrainingOptions,
    settings: Settings,
    *,
    promote: bool,
) -> dict[str, Any]:
    """What the flow does while no other trains."""
    whole = validate_data(data, quarantine)
    training, test, notes = training_split(whole)
    for note in notes:
        get_run_logger().warning("%s", note)
    tagged = tag(training, options, settings)
    encoder_folder = make_encoder(training, tagged, options, settings)
    train_inputs = embed(training, encoder_folder, settings)
    test_inputs = embed(test, encoder_folder, settings)
    router = fit(training, train_inputs, encoder_digest(encoder_folder), options.families)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "release"
        evaluation = evaluate_release(router, test, test_inputs)
        assemble(folder, encoder_folder, router, tagged, evaluation)
        version = register(folder, evaluation, router, options, settings)
    state, reason = settle(Trial(version, data=data), settings, promote=promote)
    get_run_logger().info("registered release %s: %s (%s)", version, state, reason)
    return {"version": version, "results": evaluation.results, "state": state, "reason": reason}
