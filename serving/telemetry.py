"""Traces and structured logs. Traces go where the OpenTelemetry variables say
(``OTEL_EXPORTER_OTLP_ENDPOINT``); where they say nothing, none are made."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import context, propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from pythonjsonlogger.json import JsonFormatter

from serving.proxies import is_loopback

VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_provider: TracerProvider | None = None


def start_tracing(exporter: SpanExporter | None = None) -> None:
    """Make spans from now on. exporter: OTLP over HTTP unless given, if a variable names where."""
    global _provider
    if exporter is None:
        if not any(os.environ.get(name) for name in VARIABLES):
            return
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        address = next(filter(None, (os.environ.get(name) for name in reversed(VARIABLES))))
        direct = requests.Session()
        direct.trust_env = False
        # A collector on loopback is not behind the proxy that upstreams need.
        near = is_loopback(urlsplit(address).hostname or "")
        exporter = OTLPSpanExporter(session=direct if near else None)
    _provider = TracerProvider(resource=Resource.create({"service.name": "mixllm"}))
    _provider.add_span_processor(BatchSpanProcessor(exporter))


def stop_tracing() -> None:
    """Send what is left."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


@contextmanager
def span(
    name: str, headers: Mapping[str, str] | None = None, **attributes: Any
) -> Iterator[dict[str, str]]:
    """A span around a block; headers: an incoming request's, whose trace it continues. Gives the
    headers that let a request made in the block continue the trace."""
    if _provider is None:
        yield {}
        return
    parent = propagate.extract(headers) if headers is not None else None
    tracer = _provider.get_tracer("mixllm")
    token = context.attach(parent) if parent is not None else None
    try:
        # An error's kind, not its message: that may repeat the prompt.
        with tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as current:
            annotate(**attributes)
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            try:
                yield carrier
            except Exception as error:
                current.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise
    finally:
        if token is not None:
            context.detach(token)


def annotate(**attributes: Any) -> None:
    """Add attributes to the span this runs in."""
    if _provider is not None:
        current = trace.get_current_span()
        for key, value in attributes.items():
            if value is not None:
                current.set_attribute(f"mixllm.{key}", value)


def start_logging(form: str) -> None:
    """Our loggers' lines as JSON, their extra fields included, or as text."""
    logger = logging.getLogger("mixllm")
    logger.setLevel(logging.INFO)
    if form == "json":
        handler = logging.StreamHandler()
        fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
        renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter(fields, rename_fields=renamed))
        logger.handlers = [handler]
        logger.propagate = False
