"""What takes the traces in a test: an OTLP endpoint over HTTP that keeps every span."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(ThreadingHTTPServer):
    """An endpoint on a free port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[dict[str, Any]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        """Keep the spans of one export, as plain values."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            sender = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [plain(span, sender) for span in scope.spans]

    def of(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of one trace, so far."""
        return [span for span in list(self.spans) if span["trace_id"] == trace_id]


class Handler(BaseHTTPRequestHandler):
    """Takes exports."""

    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def plain(span: Any, sender: dict[str, str]) -> dict[str, Any]:
    """A span of the protocol as a test wants it."""
    return {
        "name": span.name,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "status": span.status.code,
        "kind": span.kind,
        "attributes": {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes},
        "sender": sender,
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """An endpoint while a block runs."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
