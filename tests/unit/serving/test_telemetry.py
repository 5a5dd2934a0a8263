"""Traces say what kind of error ended a span, not its message, which may repeat a prompt."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving import telemetry


def test_an_error_leaves_its_kind_in_the_trace() -> None:
    exporter = InMemorySpanExporter()
    telemetry.start_tracing(exporter)
    try:
        with pytest.raises(ValueError, match="secret"), telemetry.span("upstream", llm="a"):
            raise ValueError("the prompt was: secret words")
    finally:
        telemetry.stop_tracing()
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "ValueError"
    assert not span.status.is_ok
    assert "secret" not in span.to_json()
