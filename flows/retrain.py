"""The flow that retrains on a schedule: on the configured evaluation set, to a challenger."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from flows.train_router import train_router
from infra.settings import read_settings


@flow(name="retrain", validate_parameters=False)
def retrain_configured(encoder: str | None = None) -> dict[str, Any] | None:
    """Train on ``MIXLLM_DATA``, if it is set.

    encoder: see ``TrainingOptions``.
    """
    settings = read_settings()
    if settings.data is None:
        get_run_logger().info("no evaluation set is configured: set MIXLLM_DATA")
        return None
    made: dict[str, Any] = train_router(str(settings.data), encoder=encoder)
    return {name: made[name] for name in ("version", "state")}
