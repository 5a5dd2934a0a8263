"""Prometheus metrics, shown by BentoML at ``/metrics``."""

from __future__ import annotations

from typing import Final

import bentoml

SECONDS: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0)

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
waiting = bentoml.metrics.Gauge(
    "mixllm_unwritten_decisions",
    "Decisions not yet known to be in Postgres.",
    multiprocess_mode="livesum",
)
loads = bentoml.metrics.Counter("mixllm_release_loads_total", "Releases loaded since the start.")
