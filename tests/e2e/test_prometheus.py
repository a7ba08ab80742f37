"""A real Prometheus beside a real server: it loads the rules, and every panel of the dashboard has data."""

import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from examples.running import free_port, running, stop
from model_store import Ref
from model_store.local import LocalStore
from tests.fakes import fits_bytes, star_field
from tests.variants import deafen, jitter, save_variant

pytestmark = [
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no `prometheus` (Debian: prometheus)"),
]

OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"
VARIABLES = {"$namespace": ".*", "$instance": ".*", "$window": "30s"}
SIDE, STARS = 300, 12
PATIENCE = 10.0  # seconds in which the canary gets its turn
SETTINGS = {"LYNCEUS_TRACK_POLL": "0.2", "LYNCEUS_WORKERS": "1", "LYNCEUS_CANARY_BUDGET": "1"}


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    client: httpx.Client

    def get(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]

    def values(self, expr: str) -> list[float]:
        """The numbers that a query gives now; what is no number is no data."""
        found = (float(one["value"][1]) for one in self.get("query", query=expr)["result"])
        return [value for value in found if math.isfinite(value)]

    def firing(self) -> set[str]:
        return {one["labels"]["alertname"] for one in self.get("alerts")["alerts"] if one["state"] == "firing"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Stable, a canary that is much the same, and a version that does not work."""
    made = tmp_path_factory.mktemp("made")
    store = LocalStore(tmp_path_factory.mktemp("store"))
    for version, change in (("1", jitter(1)), ("2", jitter(2)), ("3", deafen)):
        save_variant(made, version, change)
        store.push(made / "variant" / version)
    store.promote("stable", Ref("variant", "1"), by="test", reason="the first")
    store.promote("canary", Ref("variant", "2"), by="test", reason="to be compared")
    return store


@pytest.fixture(scope="module")
def server(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server at work, on frames of all kinds."""
    port = free_port()
    service = "tests.e2e.observed_service:Lynceus"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port), "--host", "127.0.0.1"]
    settings = SETTINGS | {"LYNCEUS_STORE": str(store.root)}
    with (
        running(command, port, tmp_path_factory.mktemp("observed") / "log", settings=settings) as address,
        at_work(address),
    ):
        yield address


@pytest.fixture(scope="module")
def prometheus(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with the project's own configuration and rules, in a hurry."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = (OBSERVABILITY / "prometheus.yml").read_text().replace("lynceus:3000", server.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(hurried(config))
    (folder / "rules.yaml").write_text(hurried((OBSERVABILITY / "rules.yaml").read_text()))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                until(lambda: process.poll() is not None or is_ready(client))
                assert process.poll() is None, (folder / "log").read_text()
                yield Prometheus(client)
        finally:
            stop(process)


def hurried(text: str) -> str:
    """The same with a second between two scrapes or evaluations."""
    return re.sub(r"interval: \w+", "interval: 1s", text)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@contextmanager
def at_work(address: str) -> Iterator[None]:
    """Send frames for each track, backfill and nonsense, with pauses, while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=keep_sending, args=(address, done), name="telescope")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def keep_sending(address: str, done: threading.Event) -> None:
    rng = np.random.default_rng(0)
    with httpx.Client(base_url=address, timeout=60) as client:
        while not done.is_set():
            stars = rng.uniform(20, SIDE - 20, (STARS, 2)).tolist()
            frame = fits_bytes(star_field((SIDE, SIDE), stars, int(rng.integers(2**31))))
            for query in ("", "model=canary", "priority=backfill"):
                assert client.post(f"/detect?{query}", content=frame).status_code == 200
            assert client.post("/detect", content=b"no frame").status_code == 415
            wait_for_the_canary(client, done)


def wait_for_the_canary(client: httpx.Client, done: threading.Event) -> None:
    """Leave it alone until it has looked at a frame: only then its time is compared too."""
    before, end = looked_at(client), time.monotonic() + PATIENCE
    while not done.wait(0.1) and time.monotonic() < end and looked_at(client) == before:
        pass


def looked_at(client: httpx.Client) -> str:
    """How many frames the canary was tried out on, as text."""
    lines = client.get("/metrics").text.splitlines()
    return next((line for line in lines if line.startswith('lynceus_canary_frames_total{outcome="compared"}')), "")


def panels() -> list[Any]:
    dashboard = json.loads((OBSERVABILITY / "grafana" / "dashboards" / "lynceus.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def substituted(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def test_it_scrapes_the_server_and_takes_every_rule(prometheus: Prometheus) -> None:
    until(lambda: {one["health"] for one in prometheus.get("targets")["activeTargets"]} == {"up"})
    until(lambda: all(rule["health"] == "ok" for rule in rules_of(prometheus)))
    text = (OBSERVABILITY / "rules.yaml").read_text()
    assert len(rules_of(prometheus)) == len(re.findall(r"^ +- (?:alert|record):", text, re.MULTILINE))


def rules_of(prometheus: Prometheus) -> list[Any]:
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


def test_an_alert_fires_when_it_must_and_no_other_does(prometheus: Prometheus, store: LocalStore) -> None:
    until(lambda: prometheus.values("lynceus_model_load_failures_total"))
    assert prometheus.firing() == set()
    store.promote("canary", Ref("variant", "3"), by="test", reason="it finds nothing")
    until(prometheus.firing)
    assert prometheus.firing() == {"LynceusModelLoadFails"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_has_data(prometheus: Prometheus, panel: Any) -> None:
    for target in panel["targets"]:
        expr = substituted(target["expr"])
        until(partial(prometheus.values, expr))


def test_the_variables_of_the_dashboard_find_the_server(prometheus: Prometheus, server: str) -> None:
    assert prometheus.get("label/instance/values", **{"match[]": "lynceus_build_info"}) == [
        server.removeprefix("http://")
    ]


def test_both_gpus_and_both_tracks_are_told_apart(prometheus: Prometheus) -> None:
    assert len(prometheus.values("lynceus_gpu_utilization_ratio")) == 2
    assert set(prometheus.values("lynceus_gpu_memory_used_bytes / lynceus_gpu_memory_total_bytes")) == {6 / 16, 1 / 16}
    tracks = prometheus.get("label/track/values", **{"match[]": "lynceus_detections_per_frame_count"})
    assert tracks == ["canary", "stable"]


def test_what_prometheus_holds_is_what_was_sent(prometheus: Prometheus) -> None:
    """The counts of the two tracks and of backfill grow alike: each round of the telescope has one frame for each."""
    query = 'sum by (track, priority) (lynceus_frame_duration_seconds_count{outcome="ok"})'
    counts = prometheus.values(query)
    assert len(counts) == 3
    assert max(counts) - min(counts) <= 1
    missed = prometheus.values("lynceus:frames_missed:increase1h")
    assert missed == [0]
