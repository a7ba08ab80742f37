import time
from collections.abc import Iterator

import pytest
from starlette.types import Message

from examples.running import free_port
from service import tracing
from service.context import Lap
from service.exchange import Exchange
from service.tracing import Tracing, is_wanted
from tests.contract.collector import Collector, collecting


async def receive() -> Message:
    raise NotImplementedError


async def send(message: Message) -> None:
    raise NotImplementedError


def exchange(path: str = "/detect", **headers: str) -> Exchange:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw}
    return Exchange(scope, receive, send, on_end=lambda ended: None)


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*tracing.ENDPOINTS, "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{opened.address}/v1/traces")
        yield opened


def test_it_is_on_only_where_an_endpoint_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert is_wanted()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not is_wanted()


def test_when_it_is_off_requests_go_their_way() -> None:
    off = Tracing()
    off.start()
    one = exchange()
    with off.traced(one):
        assert one.journey.trace == {}
    off.close()


def test_what_is_left_is_sent_at_the_end(collector: Collector) -> None:
    traces = Tracing()
    traces.start()
    one = exchange()
    with traces.traced(one):
        now = time.perf_counter()
        one.journey.notes[0].laps.append(Lap("infer", now - 2.0, now - 1.0))
        one.journey.notes[0].facts["tiles"] = 9
    assert collector.spans == []
    traces.close()
    request, stage = sorted(collector.of(one.journey.trace["trace_id"]), key=lambda span: span["name"])
    assert (stage["name"], stage["parent"]) == ("infer", request["span_id"])
    assert stage["end"] - stage["start"] == pytest.approx(1e9, abs=1e3)
    assert request["start"] - stage["end"] == pytest.approx(1e9, abs=1e8)  # work that was begun for another request
    assert request["attributes"]["lynceus.tiles"] == 9


def test_a_name_of_the_environment_comes_before_ours(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "dome-2")
    traces = Tracing()
    traces.start()
    with traces.traced(exchange()):
        pass
    traces.close()
    assert [span["sender"]["service.name"] for span in collector.spans] == ["dome-2"]


def test_probes_and_scrapes_are_not_traced(collector: Collector) -> None:
    traces = Tracing()
    traces.start()
    for path in ("/metrics", "/livez", "/readyz"):
        with traces.traced(exchange(path)):
            pass
    traces.close()
    assert collector.spans == []


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "g" * 53])
def test_a_header_that_makes_no_sense_begins_a_new_trace(collector: Collector, header: str) -> None:
    traces = Tracing()
    traces.start()
    one = exchange(traceparent=header)
    with traces.traced(one):
        pass
    traces.close()
    assert [span["parent"] for span in collector.of(one.journey.trace["trace_id"])] == [""]


def test_that_nobody_takes_them_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    monkeypatch.setattr(tracing, "FLUSH_LIMIT", 0.2)
    traces = Tracing()
    traces.start()
    for _ in range(2000):  # more than may wait: the oldest are dropped, and nobody waits for that
        with traces.traced(exchange()):
            pass
    traces.close()
    with traces.traced(exchange()):
        pass


def test_what_cannot_be_set_up_is_no_reason_not_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("a compression that is none")

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr(tracing, "OTLPSpanExporter", fail)
    traces = Tracing()
    traces.start()
    with traces.traced(exchange()):
        pass
    traces.close()
