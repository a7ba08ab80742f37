import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.gpu import GpuSampler
from service.metrics import Metrics
from tests.fakes import two_gpus

DOCUMENT = Path(__file__).parents[3] / "docs" / "observability.md"


def value(text: str, sample: str) -> float | None:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def test_one_process_shows_what_it_counts_and_observes() -> None:
    metrics = Metrics([1, 10])
    gpus = GpuSampler(metrics.gpu_failures, 60, two_gpus())
    metrics.add_observer(gpus)
    metrics.count_batch(4)
    assert "lynceus_gpu_power" not in metrics.exposition(0, {}).decode()
    gpus.sample()
    text = metrics.exposition(5, {"live": 2.5}).decode()
    assert value(text, "lynceus_tiles_total") == 4
    assert value(text, "lynceus_queue_tiles") == 5
    assert value(text, 'lynceus_queue_oldest_seconds{priority="live"}') == 2.5
    assert value(text, f'lynceus_gpu_power_watts{{gpu="{two_gpus().gpus[0].uuid}"}}') == 150.5


def test_the_documents_name_every_metric_and_its_labels() -> None:
    metrics = Metrics([1])
    gpus = GpuSampler(metrics.gpu_failures, 60, two_gpus())
    gpus.sample()
    there = {family.name: {"gpu"} for family in gpus.collect()}
    for name, collector in metrics.registry._names_to_collectors.items():
        family = next(iter(collector.collect()))
        shown = f"{family.name}_total" if family.type == "counter" else family.name
        if name == shown:
            there[name] = set(collector._labelnames)
    rows = re.findall(r"^\| `(lynceus_\w+)` \| \w+ \| ([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: set(re.findall(r"\w+", labels)) for name, labels in rows} == there


SCRIPT = """
import os, signal, sys
from pathlib import Path
from service.metrics import SIGNED_IN, Metrics

def worker(tiles):
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        metrics = Metrics([1, 10])
        metrics.count_batch(tiles)
        metrics.in_progress.inc(tiles)
        metrics.model.labels("fixed", "1", "stable", "0").set(1)
        metrics.note_state(tiles, {"live": float(tiles)})
        os.write(told, b".")
        signal.pause()
    os.read(ready, 1)
    return pid

def show(title):
    print("=== " + title)
    print(asked.exposition(0, {"live": 0.0}).decode())

first, second = worker(3), worker(5)
asked = Metrics([1, 10])
show("both")
os.kill(first, signal.SIGKILL)
os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
show("one dead, not waited for")
os.waitpid(first, 0)
show("one dead")
Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], SIGNED_IN.format(pid=second)).write_text("1")
show("another process has its number")
os.kill(second, signal.SIGKILL)
"""


pytestmark = pytest.mark.xdist_group("metrics")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process answers of two others, at several moments of their lives."""
    folder = tmp_path_factory.mktemp("metrics")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    parts = re.split(r"^=== (.*)$", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_several_processes_are_one_server(shown: dict[str, str]) -> None:
    text = shown["both"]
    assert value(text, "lynceus_tiles_total") == 8
    assert value(text, "lynceus_batch_tiles_count") == 2
    assert value(text, "lynceus_queue_tiles") == 8
    assert value(text, 'lynceus_queue_oldest_seconds{priority="live"}') == 5
    assert value(text, "lynceus_http_requests_in_progress") == 8
    assert value(text, 'lynceus_model_info{name="fixed",sha256="0",track="stable",version="1"}') == 1


@pytest.mark.parametrize("moment", ["one dead, not waited for", "one dead"])
def test_of_a_dead_process_the_counts_stay_and_the_gauges_go(shown: dict[str, str], moment: str) -> None:
    text = shown[moment]
    assert value(text, "lynceus_tiles_total") == 8
    assert value(text, "lynceus_batch_tiles_count") == 2
    assert value(text, "lynceus_queue_tiles") == 5
    assert value(text, "lynceus_http_requests_in_progress") == 5


def test_a_number_that_is_used_again_is_not_the_dead_process(shown: dict[str, str]) -> None:
    text = shown["another process has its number"]
    assert value(text, "lynceus_tiles_total") == 8
    assert value(text, "lynceus_http_requests_in_progress") == 0
    assert value(text, 'lynceus_model_info{name="fixed",sha256="0",track="stable",version="1"}') is None
