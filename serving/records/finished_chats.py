"""What is kept and counted of a chat completion that has ended."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from serving import metrics
from serving.gateway.completion import Job
from serving.gateway.echo import Echoes
from serving.records.decision_log import DecisionLog

log = logging.getLogger("mixllm.answers")

NOT_LOGGED = frozenset({"attempts", "finished_at"})


class FinishedChats:
    """whole_errors: keep the LLMs' error messages as they came; else what they repeat of the query is
    masked."""

    def __init__(self, decision_log: DecisionLog, *, whole_errors: bool) -> None:
        self._decision_log, self._whole_errors = decision_log, whole_errors

    def record(self, job: Job, status: str, error: str | None) -> None:
        """Keep the answer's row, log it and count it."""
        seconds = time.monotonic() - job.started
        row = self._row(job, status, error, seconds)
        self._decision_log.keep_answer(row)
        log.info("answer", extra={k: v for k, v in row.items() if k not in NOT_LOGGED})
        count(job, status, seconds)

    def _row(self, job: Job, status: str, error: str | None, seconds: float) -> dict[str, Any]:
        echoes = Echoes(job.body)
        usage = job.billed.usage if job.billed else None
        return {
            "decision_id": job.decision_id,
            "finished_at": datetime.now(UTC).isoformat(),
            "llm": job.llm,
            "status": status,
            "error": self._masked(error, echoes),
            "attempts": [
                {**attempt, "error": self._masked(attempt["error"], echoes)}
                for attempt in job.attempts
            ],
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "response_tokens": usage.response_tokens if usage else None,
            "cost_usd": job.cost,
            "lost_usd": job.lost or None,
            "first_token_seconds": job.first_token,
            "seconds": seconds,
            "streamed": job.stream,
            "key_id": job.key_id,
        }

    def _masked(self, message: str | None, echoes: Echoes) -> str | None:
        return message if self._whole_errors else echoes.mask(message)


def count(job: Job, status: str, seconds: float) -> None:
    """Add to the metrics. seconds: what the completion took."""
    chosen = job.ranking[0]
    metrics.answers.labels(job.llm or chosen, status).inc()
    for attempt in job.attempts:
        if "lost_usd" in attempt:
            metrics.lost_cost.labels(attempt["llm"]).inc(attempt["lost_usd"])
    if job.llm is None:
        return
    metrics.answer_cost.labels(job.llm).inc(job.billed.cost if job.billed else 0.0)
    metrics.answer_seconds.labels(job.llm).observe(seconds)
    if job.llm != chosen:
        metrics.replaced.labels(chosen, job.llm).inc()
    if status == "answered" and job.llm in job.response_tokens:
        observed = job.billed.usage.response_tokens if job.billed else 0
        metrics.predicted_tokens.labels(job.llm).inc(job.response_tokens[job.llm])
        metrics.observed_tokens.labels(job.llm).inc(observed or 0)
