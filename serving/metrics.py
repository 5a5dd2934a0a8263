"""Prometheus metrics, shown at ``/metrics``. Labels have few values, none made up by a client."""

from __future__ import annotations

from typing import Final

import bentoml

SECONDS: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0)
SLOW_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)

requests = bentoml.metrics.Counter(
    "mixllm_requests_total", "Requests by route and status.", ["route", "method", "status"]
)
request_seconds = bentoml.metrics.Histogram(
    "mixllm_request_seconds",
    "From a request to its response's end.",
    ["route"],
    buckets=(0.005, *SLOW_SECONDS),
)
requests_in_progress = bentoml.metrics.Gauge(
    "mixllm_requests_in_progress", "Requests under way.", multiprocess_mode="livesum"
)
decisions = bentoml.metrics.Counter(
    "mixllm_decisions_total", "Decisions by chosen candidate.", ["llm", "release"]
)
fallbacks = bentoml.metrics.Counter(
    "mixllm_fallbacks_total", "Decisions that the router could not make itself.", ["reason"]
)
cost = bentoml.metrics.Counter(
    "mixllm_predicted_cost_usd_total", "Predicted cost of the chosen candidates' answers.", ["llm"]
)
seconds = bentoml.metrics.Histogram(
    "mixllm_route_seconds", "What routing took, by part.", ["part"], buckets=SECONDS
)
unwritten = bentoml.metrics.Gauge(
    "mixllm_unwritten_rows",
    "Rows not yet known to be in Postgres.",
    ["journal"],
    multiprocess_mode="livesum",
)
dead_letters = bentoml.metrics.Gauge(
    "mixllm_dead_letters",
    "Rows of this machine that Postgres refused: mixllm dead-letters list.",
    ["journal"],
    multiprocess_mode="livemax",
)
rows_refused = bentoml.metrics.Counter(
    "mixllm_rows_refused_total", "Rows that have become dead letters.", ["journal"]
)
rows_lost = bentoml.metrics.Counter(
    "mixllm_rows_lost_total", "Rows that could not be written to the disk.", ["journal"]
)
loads = bentoml.metrics.Counter("mixllm_release_loads_total", "Releases loaded since the start.")
releases_refused = bentoml.metrics.Counter(
    "mixllm_releases_refused_total", "Champions that were not loaded.", ["release"]
)
registry_asked = bentoml.metrics.Gauge(
    "mixllm_registry_asked_timestamp_seconds",
    "When MLflow answered last.",
    multiprocess_mode="livemax",
)
answers = bentoml.metrics.Counter(
    "mixllm_answers_total", "Chat completions by who answered and how it ended.", ["llm", "status"]
)
answer_cost = bentoml.metrics.Counter(
    "mixllm_answer_cost_usd_total", "Cost of the answers, from the tokens they took.", ["llm"]
)
lost_cost = bentoml.metrics.Counter(
    "mixllm_lost_cost_usd_total",
    "What may be charged for calls that brought no answer, at most.",
    ["llm"],
)
answer_seconds = bentoml.metrics.Histogram(
    "mixllm_answer_seconds",
    "From a chat request to its answer's end.",
    ["llm"],
    buckets=SLOW_SECONDS,
)
first_token = bentoml.metrics.Histogram(
    "mixllm_first_token_seconds",
    "From sending to an LLM to its first token.",
    ["llm"],
    buckets=SLOW_SECONDS,
)
overhead = bentoml.metrics.Histogram(
    "mixllm_gateway_seconds", "A chat request's time before it is sent on.", buckets=SECONDS
)
predicted_tokens = bentoml.metrics.Counter(
    "mixllm_predicted_response_tokens_total", "Predicted for whole answers.", ["llm"]
)
observed_tokens = bentoml.metrics.Counter(
    "mixllm_observed_response_tokens_total", "Counted of the same whole answers.", ["llm"]
)
upstream_failures = bentoml.metrics.Counter(
    "mixllm_upstream_failures_total", "Candidates' failures by kind.", ["llm", "kind"]
)
replaced = bentoml.metrics.Counter(
    "mixllm_replaced_total", "Answers by another LLM than the chosen.", ["chosen", "llm"]
)
in_flight = bentoml.metrics.Gauge(
    "mixllm_in_flight", "Requests at a candidate.", ["llm"], multiprocess_mode="livesum"
)
waiting_seconds = bentoml.metrics.Gauge(
    "mixllm_waiting_seconds",
    "What a request sent now would wait.",
    ["llm"],
    multiprocess_mode="livemax",
)
breaker = bentoml.metrics.Gauge(
    "mixllm_breaker_open",
    "1 while a candidate is left alone, 0.5 while it is tried again.",
    ["llm"],
    multiprocess_mode="livemax",
)
refused = bentoml.metrics.Counter(
    "mixllm_refused_total", "Requests refused before they were routed.", ["reason"]
)
feedback = bentoml.metrics.Counter(
    "mixllm_feedback_total", "Votes kept, by who answered and kind.", ["llm", "kind"]
)
satisfaction = bentoml.metrics.Counter(
    "mixllm_reward_total", "Sum of the votes kept, each in [0, 1].", ["llm"]
)
explored = bentoml.metrics.Counter(
    "mixllm_explored_total", "Decisions whose choice was drawn, not the best.", ["llm"]
)
policy_version = bentoml.metrics.Gauge(
    "mixllm_policy_version",
    "The policy state that has a say; 0 while none has.",
    multiprocess_mode="livemax",
)
policy_votes = bentoml.metrics.Gauge(
    "mixllm_policy_votes", "Votes that the policy state has learned.", multiprocess_mode="livemax"
)
policy_refused = bentoml.metrics.Counter(
    "mixllm_policy_refused_total", "Policy states that could not be served."
)

shadows = bentoml.metrics.Counter(
    "mixllm_shadow_decisions_total", "Decisions of the challenger in shadow.", ["release"]
)
shadows_dropped = bentoml.metrics.Counter(
    "mixllm_shadow_dropped_total", "Queries that the challenger had no time for."
)
