"""What the server says of itself, with two processes: metrics to the last request, log lines, traces, a death."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from examples.running import descendants, free_port, running
from tests.contract.collector import Collector, collecting
from tests.fakes import POISON, SLOW, fits_bytes, star_field, two_gpus

pytestmark = pytest.mark.xdist_group("telemetry")

DESIGN = {
    *("build_info", "model_info", "http_requests_total", "http_requests_in_progress", "rejected_total"),
    *("frame_duration_seconds", "stage_duration_seconds", "detections_per_frame", "capped_tiles_total"),
    *("batch_tiles", "tiles_total", "queue_tiles", "queue_oldest_seconds", "model_load_failures_total"),
    *("process_resident_bytes", "gpu_utilization_ratio", "gpu_memory_used_bytes", "gpu_memory_total_bytes"),
    *("gpu_temperature_celsius", "gpu_power_watts", "gpu_sample_failures_total", "canary_detections_total"),
    *("canary_score_shift", "canary_flux_shift_ratio", "canary_centroid_shift_pixels", "canary_latency_ratio"),
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "observability.md"
STAGES = ["decode", "tile", "queue", "infer", "merge", "measure", "encode"]
SECRETS = ("Zm9vYmFyc2VjcmV0", "topsecretquery", "alsosecret")
PARENT = "b7ad6b7169203331"
T = TypeVar("T")


def small(seed: int, pixel: float | None = None) -> bytes:
    """A frame of one tile and one star that is like no other."""
    pixels = star_field((110, 110), [(50, 60)], seed)
    if pixel is not None:
        pixels[5, 5] = pixel
    return fits_bytes(pixels)


@dataclass(frozen=True)
class Asked:
    """A request, and the status it shall get."""

    status: int
    body: bytes
    query: str = ""


@dataclass
class Server:
    """A server with two worker processes, its log, and what takes its traces."""

    address: str
    pid: int
    log: Path
    collector: Collector

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.address + path, headers=headers, timeout=60)

    def post(self, frame: bytes, query: str = "", **headers: str) -> httpx.Response:
        return httpx.post(f"{self.address}/detect{query}", content=frame, headers=headers, timeout=60)

    def metrics(self) -> "Samples":
        return Samples(self.get("/metrics").text)

    @property
    def workers(self) -> list[int]:
        return [pid for pid in descendants(self.pid) if b"--worker-id" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        """The log lines about a request, once its access line is there."""

        def found() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if request_id in line]
            return lines if any(line.get("event") == "request" for line in lines) else []

        return until(found)


class Samples(dict[str, float]):
    """An answer of `/metrics`: value by name and labels."""

    def __init__(self, text: str) -> None:
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        super().__init__({name: float(value) for name, value in pairs})

    def since(self, before: "Samples", name: str) -> dict[str, float]:
        """By their labels, what the samples of one name rose by, where they did."""
        rises = {key: value - before.get(key, 0.0) for key, value in self.items() if key.split("{")[0] == name}
        return {re.sub(r"^[^{]*", "", key): rise for key, rise in rises.items() if rise}

    def labels(self, label: str) -> set[str]:
        return {found for key in self for found in re.findall(rf'[{{,]{label}="([^"]*)"', key)}


def until(condition: Callable[[], T], seconds: float = 200.0) -> T:
    """Wait for something, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("telemetry"), free_port()
    (folder / "bentoml.yaml").write_text("services:\n  lynceus:\n    workers: 2\n")
    service = "tests.contract.telemetry_service:Lynceus"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port), "--host", "127.0.0.1"]
    with collecting() as collector:
        settings = {
            "BENTOML_CONFIG": str(folder / "bentoml.yaml"),
            "LYNCEUS_WORKERS": "1",
            "LYNCEUS_MAX_UPLOADS": "200",
            "LYNCEUS_LOG_FORMAT": "json",
            "LYNCEUS_GPU_POLL": "0.2",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with running(command, port, folder / "log", settings=settings) as address:
            yield until(lambda: ready(Server(address, child_with(str(port)), folder / "log", collector)))


def child_with(word: str) -> int:
    """The server among the processes that this test started."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in descendants(os.getpid())}
    return next(pid for pid, command in commands.items() if b"serve" in command and word.encode() in command)


def ready(server: Server) -> Server | None:
    """The server, once both of its processes have said that they are there."""
    return server if server.log.read_text().count("Service lynceus initialized") == 2 else None


def test_every_metric_of_the_design_is_there(server: Server) -> None:
    assert server.post(small(1)).status_code == 200
    assert server.post(b"no FITS").status_code == 415

    def missing() -> set[str]:
        names = {re.sub(r"_(bucket|sum|count)$", "", re.sub(r"{.*", "", key)) for key in server.metrics()}
        return {f"lynceus_{name}" for name in DESIGN} - names

    until(lambda: not missing())
    assert server.metrics().labels("gpu") == {gpu.uuid for gpu in two_gpus().gpus}
    assert [value for key, value in server.metrics().items() if key.startswith("lynceus_build_info")] == [1]


def test_after_a_hundred_requests_at_once_every_number_is_exact(server: Server) -> None:
    cube = fits_bytes(np.zeros((2, 50, 50), np.int16))
    asked: list[Asked] = [
        *(Asked(200, small(seed)) for seed in range(100, 160)),
        *([Asked(415, b"this is no FITS file")] * 12),
        *([Asked(422, cube)] * 8),
        *([Asked(400, small(1), "?deadline=soon")] * 6),
        *([Asked(404, small(1), "?model=nobody")] * 6),
        *([Asked(406, small(1), "?format=tape")] * 4),
        *(Asked(500, small(seed, POISON)) for seed in range(160, 164)),
    ]
    before = server.metrics()
    for number, worker in enumerate(server.workers):
        with frozen(worker):  # so that the other one takes these
            asyncio.run(ask_all(server.address, asked[number::2]))
    after = server.metrics()
    expected = Counter({200: 60, 415: 12, 422: 8, 400: 6, 404: 6, 406: 4, 500: 4})
    assert after.since(before, "lynceus_http_requests_total") == {
        f'{{code="{code}",route="/detect"}}': count for code, count in expected.items()
    } | {'{code="200",route="/metrics"}': 1}
    outcomes = {re.sub(r'.*outcome="(\w+)".*', r"\1", key): count for key, count in frames(before, after).items()}
    assert outcomes == {
        "ok": 60,
        "not_fits": 12,
        "unusable_frame": 8,
        "bad_parameter": 6,
        "unknown_model": 6,
        "no_such_format": 4,
        "detection_failed": 4,
    }
    stages = after.since(before, "lynceus_stage_duration_seconds_count")
    assert stages == {f'{{stage="{stage}",track="stable"}}': 60 for stage in STAGES}
    assert after.since(before, "lynceus_detections_per_frame_count") == {'{track="stable"}': 60}
    assert after.since(before, "lynceus_detections_per_frame_sum") == {'{track="stable"}': 60}
    assert after.since(before, "lynceus_tiles_total") == {"": 64}
    rejected = after.since(before, "lynceus_rejected_total")
    assert rejected == {f'{{code="{name}"}}': count for name, count in outcomes.items() if name != "ok"}
    assert after["lynceus_http_requests_in_progress"] == 0
    assert len({line["pid"] for line in access_lines(server)}) == 2  # so both have counted


def test_the_labels_of_what_clients_make_up_are_bounded(server: Server) -> None:
    for method, path in (("GET", "/nowhere"), ("PROPFIND", "/detect"), ("DELETE", "/models"), ("GET", "/a" * 500)):
        httpx.request(method, server.address + path)
    found = server.metrics()
    assert found.labels("route") <= {"/", "/detect", "/evaluate", "/models", "/metrics", "/docs", "other"}
    assert all(re.fullmatch(r"[1-5]\d\d|\w+", code) for code in found.labels("code"))
    line = access_lines(server)[-1]
    assert (line["route"], line["status"], len(line["path"])) == ("other", 404, 100)


def test_a_request_is_one_line_that_says_what_it_cost(server: Server) -> None:
    answer = server.post(small(2), "?format=csv", **{"X-Request-ID": "night-7:frame.2"})
    assert answer.headers["x-request-id"] == "night-7:frame.2"
    [line] = server.lines("night-7:frame.2")
    assert (line["level"], line["logger"], line["message"]) == ("info", "service.access", "POST /detect 200")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/detect", 200)
    assert (line["track"], line["model"], line["tiles"], line["count"]) == ("stable", "fixed/1.2.3", 1, 1)
    assert (line["received_bytes"], line["sent_bytes"]) == (len(small(2)), len(answer.content))
    assert list(line["stages_ms"]) == ["upload", *STAGES]
    assert 0 < sum(line["stages_ms"].values()) <= line["duration_ms"]


def test_a_line_is_there_for_every_end_a_request_can_have(server: Server) -> None:
    wrong = server.post(b"no FITS", **{"X-Request-ID": "wrong"})
    assert wrong.status_code == 415
    [line] = server.lines("wrong")
    assert (line["status"], line["code"], list(line["stages_ms"])) == (415, "not_fits", ["upload"])
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/detect", content=small(3, SLOW), headers={"X-Request-ID": "gone"}, timeout=0.5)
    [line] = server.lines("gone")
    assert (line["status"], line["code"]) == (499, "client_gone")
    broken = server.post(small(4, POISON), **{"X-Request-ID": "broken"})
    assert broken.status_code == 500
    cause, line = server.lines("broken")
    assert (cause["logger"], cause["request_ids"], cause["exception"]) == (
        "service.batcher",
        ["broken"],
        "RuntimeError",
    )
    assert cause["traceback"].startswith("Traceback")
    assert (line["status"], line["code"]) == (500, "detection_failed")


def test_the_log_is_json_without_doubled_lines_or_secrets(server: Server) -> None:
    headers = {"Authorization": f"Bearer {SECRETS[0]}", "X-API-Key": SECRETS[2], "X-Request-ID": "with-secrets"}
    assert server.post(small(5), f"?key={SECRETS[1]}", **headers).status_code == 200
    assert len(server.lines("with-secrets")) == 1
    text = server.log.read_text()
    assert not [secret for secret in SECRETS if secret in text]
    ours = [line for line in text.splitlines() if "user config override" not in line]  # said before there is a service
    lines = [json.loads(line) for line in ours]
    assert all({"time", "level", "logger", "message", "pid"} <= line.keys() for line in lines)
    documented = set(
        re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE)))
    )
    assert {name for line in lines for name in line} <= documented
    assert {line["logger"] for line in lines} <= {"bentoml.serve", "service.access", "service.batcher"}
    requests = Counter(line["request_id"] for line in lines if line["logger"] == "service.access")
    assert set(requests.values()) == {1}


def test_a_trace_goes_on_and_shows_every_stage(server: Server) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "X-Request-ID": "traced"}
    began = time.time_ns()
    assert server.post(small(6), **headers).status_code == 200
    spans = until(lambda: server.collector.of(trace) if len(server.collector.of(trace)) >= 9 else [])
    [request] = [span for span in spans if span["parent"] == PARENT]
    assert (request["name"], request["kind"], request["status"]) == ("POST /detect", 2, 0)
    assert request["sender"]["service.name"] == "lynceus"
    assert (
        request["attributes"]
        | {
            "http.route": "/detect",
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "lynceus.track": "stable",
            "lynceus.model": "fixed/1.2.3",
            "lynceus.tiles": 1,
            "lynceus.count": 1,
            "lynceus.request_id": "traced",
        }
        == request["attributes"]
    )
    stages = [span for span in spans if span is not request]
    assert {span["parent"] for span in stages} == {request["span_id"]}
    assert [span["name"] for span in sorted(stages, key=lambda span: span["end"])] == ["upload", *STAGES]
    for span in stages:
        assert began < request["start"] <= span["start"] <= span["end"] <= request["end"] < time.time_ns()
    [line] = server.lines("traced")
    assert (line["trace_id"], line["span_id"]) == (trace, request["span_id"])


def test_a_trace_that_nobody_wants_is_not_sent_and_an_error_is_marked(server: Server) -> None:
    unsampled, failed = "1" * 32, "2" * 32
    server.post(small(7), traceparent=f"00-{unsampled}-{PARENT}-00")
    server.post(small(8, POISON), traceparent=f"00-{failed}-{PARENT}-01")
    [error] = until(lambda: [span for span in server.collector.of(failed) if span["parent"] == PARENT])
    assert (error["status"], error["attributes"]["error.type"]) == (2, "detection_failed")
    assert server.collector.of(unsampled) == []
    paths = {span["attributes"].get("http.route") for span in server.collector.spans if span["kind"] == 2}
    assert "/metrics" not in paths


def test_when_a_process_is_killed_counts_stay_gauges_go_and_it_comes_back(server: Server) -> None:
    before = server.metrics()
    victims = server.workers
    assert len(victims) == 2
    asyncio.run(slow_requests_and_a_death(server, victims[0]))
    after = until(lambda: settled(server))
    fallen = {
        key: (value, after.get(key))
        for key, value in before.items()
        if re.search(r"_(total|count|sum|bucket)({|$)", key) and after.get(key, -1.0) < value
    }
    assert fallen == {}
    until(lambda: len(server.workers) == 2 and victims[0] not in server.workers)
    until(lambda: server.log.read_text().count("Service lynceus initialized") == 3)
    assert server.post(small(9)).status_code == 200
    again = server.metrics()
    assert [value for key, value in again.items() if key.startswith("lynceus_model_info")] == [1]
    assert again["lynceus_http_requests_in_progress"] == 0


async def slow_requests_and_a_death(server: Server, victim: int) -> None:
    """Keep both processes busy, and kill one in the middle of it; only its own clients notice."""
    tasks: list[asyncio.Task[httpx.Response]] = []
    for number, worker in enumerate(server.workers):
        with frozen(worker):
            tasks += [asyncio.create_task(post_alone(server, small(170 + 3 * number + one, SLOW))) for one in range(3)]
            while server.metrics()["lynceus_http_requests_in_progress"] < len(tasks):
                await asyncio.sleep(0.05)
    theirs = tasks[3:] if server.workers[0] == victim else tasks[:3]  # the one that was not frozen took them
    os.kill(victim, signal.SIGKILL)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for task, answer in zip(tasks, answers, strict=True):
        if task in theirs:
            assert isinstance(answer, httpx.TransportError)
        else:
            assert isinstance(answer, httpx.Response)
            assert answer.status_code == 200


async def post_alone(server: Server, frame: bytes) -> httpx.Response:
    """Ask over a connection of its own."""
    async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:
        return await client.post("/detect", content=frame)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing while a block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def settled(server: Server) -> Samples | None:
    """The metrics, once nothing is in progress."""
    found = server.metrics()
    return found if found["lynceus_http_requests_in_progress"] == 0 else None


async def ask_all(address: str, asked: Sequence[Asked]) -> None:
    """Ask everything at once, and check each status."""
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        answers = await asyncio.gather(*(client.post(f"/detect{one.query}", content=one.body) for one in asked))
    assert [answer.status_code for answer in answers] == [one.status for one in asked]


def frames(before: Samples, after: Samples) -> dict[str, float]:
    return after.since(before, "lynceus_frame_duration_seconds_count")


def access_lines(server: Server) -> list[dict[str, Any]]:
    lines = [line for line in server.log.read_text().splitlines() if '"service.access"' in line]
    return [json.loads(line) for line in lines]
