"""Traces by OpenTelemetry, where an OTLP endpoint is set: a span a request, and within it one a stage.

Everything else is set by the standard `OTEL_*` variables, which the SDK reads itself. Stages become spans when the
request is over, with the times at which they began and ended, so that tracing costs the work itself nothing.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_span_id, format_trace_id
from opentelemetry.trace import set_span_in_context as in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

import lynceus
from service.exchange import UNKNOWN_ROUTE, Exchange

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_LIMIT = 5.0  # seconds that the last spans have to leave when the server stops

logger = logging.getLogger(__name__)


class Tracing:
    """Where the traces of all requests go; nowhere until it is started, and without an endpoint."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None
        self._provider: TracerProvider | None = None
        self._exporter: OTLPSpanExporter | None = None

    def start(self) -> None:
        """Begin to send, if the environment says where to; what cannot be set up is logged, and not traced."""
        if not is_wanted():
            return
        try:
            self._exporter = OTLPSpanExporter()
            self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
            self._tracer = self._provider.get_tracer("lynceus", lynceus.__version__)
        except Exception:
            logger.exception("there will be no traces")

    def close(self) -> None:
        """Send what is left, if somebody takes it in time."""
        self._tracer = None
        if self._provider is None or self._exporter is None:
            return
        last = Thread(target=_shut, args=(self._provider,), name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_LIMIT)
        if last.is_alive():
            logger.warning("the last spans were not taken in time")
            _shut(self._exporter)

    @contextmanager
    def traced(self, exchange: Exchange) -> Iterator[None]:
        """Trace a request while a block runs, as part of the trace that its `traceparent` header names."""
        if self._tracer is None or exchange.is_quiet:
            yield
            return
        span = self._begin(self._tracer, exchange)
        try:
            yield
        finally:
            self._end(self._tracer, span, exchange)

    def _begin(self, tracer: Tracer, exchange: Exchange) -> Span:
        """Open the request's span.

        Its parent is read from the header, and not taken from where the code is: BentoML's own tracing puts a span
        there that nobody ever sees.
        """
        parent = TraceContextTextMapPropagator().extract(dict(Headers(scope=exchange.scope)))
        span = tracer.start_span(exchange.method, parent, SpanKind.SERVER, start_time=exchange.started_ns)
        ids = span.get_span_context()
        exchange.journey.trace = {"trace_id": format_trace_id(ids.trace_id), "span_id": format_span_id(ids.span_id)}
        return span

    def _end(self, tracer: Tracer, span: Span, exchange: Exchange) -> None:
        if span.is_recording():
            if exchange.route != UNKNOWN_ROUTE:
                span.update_name(f"{exchange.method} {exchange.route}")
            span.set_attributes(attributes(exchange))
            if exchange.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            self._add_stages(tracer, span, exchange)
        span.end()

    def _add_stages(self, tracer: Tracer, span: Span, exchange: Exchange) -> None:
        for lap in exchange.journey.laps:
            stage = tracer.start_span(lap.stage, in_context(span), start_time=exchange.wall_ns(lap.start))
            stage.end(exchange.wall_ns(lap.end))


def is_wanted() -> bool:
    """Whether the environment names an endpoint, and nothing else switches traces off."""
    is_off = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return any(os.environ.get(name, "").strip() for name in ENDPOINTS) and not is_off


def attributes(exchange: Exchange) -> dict[str, Any]:
    """What a request's span says: HTTP by OpenTelemetry's names, the rest by ours."""
    facts = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "http.request.body.size": exchange.received_bytes,
        "http.response.body.size": exchange.sent_bytes,
        "lynceus.request_id": exchange.journey.request_id,
    }
    if exchange.error_code is not None:
        facts["error.type"] = exchange.error_code
    return facts | {f"lynceus.{name}": value for name, value in exchange.journey.facts.items()}


def _shut(what: Any) -> None:
    """End a part of the SDK, which has no types there."""
    what.shutdown()


def _resource() -> Resource:
    """Who sends; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come first."""
    ours = Resource({SERVICE_NAME: "lynceus", SERVICE_VERSION: lynceus.__version__})
    given = Resource.create()
    if str(given.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return given.merge(ours)
    return ours.merge(given)
