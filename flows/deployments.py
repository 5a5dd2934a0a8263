"""Every deployment and its schedule. ``prefect.yaml`` has the same for work pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from prefect.events import DeploymentEventTrigger
from prefect.flows import Flow

from flows.audit_tags import audit_flow
from flows.change_candidate import change_candidate
from flows.check_drift import EVENT, check_drift_flow
from flows.clean_up import clean_up
from flows.learn import learn_from_feedback
from flows.probe import probe
from flows.repairs.flow import repair
from flows.retrain import retrain_configured
from flows.train_router import train_router
from flows.update_predictors import update_predictors


@dataclass(frozen=True)
class Deployment:
    """A flow and when it runs, one run at a time.

    cron: in UTC, if it runs on a schedule.
    on_alert: whether every alert starts it.
    """

    flow: Flow[Any, Any]
    name: str
    description: str
    cron: str | None = None
    on_alert: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.flow.name}/{self.name}"

    @property
    def triggers(self) -> list[DeploymentEventTrigger]:
        """On every alert; several within a few seconds start it once."""
        if not self.on_alert:
            return []
        return [
            DeploymentEventTrigger(
                name=f"{self.full_name} on an alert",
                expect={EVENT},
                match={"prefect.resource.id": "mixllm.alert.*"},
                within=timedelta(seconds=0),
                threshold=1,
            )
        ]


DEPLOYMENTS: Final[Sequence[Deployment]] = (
    Deployment(
        train_router,
        "train-router",
        "Train on an evaluation set, evaluate, register a release.",
    ),
    Deployment(
        retrain_configured,
        "weekly",
        "Train on the configured evaluation set; makes a challenger.",
        cron="0 3 * * 0",
    ),
    Deployment(
        change_candidate,
        "change-candidate",
        "Add, refit or remove one candidate; every other predictor stays.",
    ),
    Deployment(
        audit_flow,
        "audit-tags",
        "Tag and cluster an evaluation set's queries, and measure what that is worth.",
    ),
    Deployment(
        update_predictors,
        "update-predictors",
        "Refit single predictors from graded feedback; makes a challenger.",
    ),
    Deployment(
        learn_from_feedback,
        "learn",
        "Apply waiting votes to the policy state; also started by new feedback.",
        cron="*/15 * * * *",
    ),
    Deployment(
        check_drift_flow,
        "drift",
        "Check for drift, write the report, raise alerts; also started by a full window.",
        cron="*/30 * * * *",
    ),
    Deployment(
        repair,
        "repair",
        "Repair what open alerts report, each by its mode; started by every alert.",
        cron="5-59/15 * * * *",
        on_alert=True,
    ),
    Deployment(
        probe,
        "probe",
        "Route the champion's stored queries and check the running service.",
        cron="20 * * * *",
    ),
    Deployment(
        clean_up,
        "clean-up",
        "Delete what is old and no longer needed.",
        cron="40 2 * * *",
    ),
)
