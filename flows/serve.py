"""Serves the flows' deployments to the Prefect server: ``python -m flows.serve``."""

from __future__ import annotations

import threading

from prefect import serve

from flows.audit_tags import audit_flow
from flows.change_candidate import change_candidate
from flows.learn import learn_from_feedback, watch_feedback
from flows.train_router import train_router
from flows.update_predictors import update_predictors
from infra.settings import read_settings


def main() -> None:
    watcher = threading.Thread(
        target=watch_feedback,
        args=(read_settings(), threading.Event()),
        name="feedback",
        daemon=True,
    )
    watcher.start()
    serve(
        train_router.to_deployment(
            name="train-router",
            description="Train on an evaluation set, evaluate, register a release.",
            tags=["mixllm"],
            concurrency_limit=1,
        ),
        change_candidate.to_deployment(
            name="change-candidate",
            description="Add, refit or remove one candidate; every other predictor stays.",
            tags=["mixllm"],
            concurrency_limit=1,
        ),
        audit_flow.to_deployment(
            name="audit-tags",
            description="Tag and cluster an evaluation set's queries, and say what that is worth.",
            tags=["mixllm"],
            concurrency_limit=1,
        ),
        update_predictors.to_deployment(
            name="update-predictors",
            description="Refit single predictors from graded feedback; makes a challenger.",
            tags=["mixllm"],
            concurrency_limit=1,
        ),
        learn_from_feedback.to_deployment(
            name="learn",
            description="Teach the policy state every vote that waits; started by new feedback too.",
            tags=["mixllm"],
            cron="*/15 * * * *",
            concurrency_limit=1,
        ),
    )


if __name__ == "__main__":
    main()
