import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import httpx
import numpy as np
import pytest

from lynceus.bundle import load_bundle
from lynceus.detections import Detections
from lynceus.detector import Found
from lynceus.errors import BundleError, DetectionError
from lynceus.frame import Frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import Tile, TileSpec, cut_tiles
from model_store import default_bundle
from service.app import create_app
from service.arena import Arena
from service.finder import Finder
from service.metrics import Metrics
from service.network_host import MOST_VERSIONS, Host, serve
from service.networks import NetworkProcess, Networks
from service.served import trial_frame
from service.settings import Settings
from service.wire import lay_out, pack_found, tiles_in, unpack_found
from tests.fakes import fits_bytes, fixed_bundle, star_field

pytestmark = pytest.mark.xdist_group("network processes")


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    begun = Networks(1)
    begun.start()
    yield begun
    begun.close()


def tiles() -> list[Tile]:
    """Of a frame with masked pixels, and a sky that leans, cut with some outside of it."""
    pixels = np.random.default_rng(0).normal(100, 3, (150, 150)).astype(np.float32)
    pixels += np.linspace(0, 50, 150, dtype=np.float32)
    pixels[20:30, 40] = np.nan
    frame = Frame(pixels)
    return cut_tiles(frame, estimate_sky(frame, SkySpec()), TileSpec(size=128, overlap=32))


def is_running(pid: int) -> bool:
    """A zombie is not."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def test_tiles_are_the_same_on_the_other_side():
    arena, sent = Arena(), [replace(tile, least_side=7.5) for tile in tiles()]
    there = Arena(os.dup(arena.descriptor))
    for before, after in zip(sent, tiles_in(there, lay_out(sent, arena)), strict=True):
        np.testing.assert_array_equal(before.pixels, after.pixels)
        np.testing.assert_array_equal(before.window, after.window)
        np.testing.assert_array_equal(before.phase, after.phase)
        assert (before.mesh, before.least_side) == (after.mesh, after.least_side)


@pytest.mark.parametrize("counts", [(3, 0, 2), (0,), (0, 0, 1)])
def test_lists_are_the_same_on_the_other_side(counts):
    rng = np.random.default_rng(1)
    sent = [
        Found(
            Detections(
                (rng.random((count, 4)) + np.array([0, 0, 5, 5])).astype(np.float32),
                rng.random(count, dtype=np.float32),
                rng.integers(0, 3, count),
            ),
            capped=bool(number % 2),
        )
        for number, count in enumerate(counts)
    ]
    for before, after in zip(sent, unpack_found(pack_found(sent)), strict=True):
        assert before.capped == after.capped
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(before.detections, name), getattr(after.detections, name))
            assert getattr(before.detections, name).dtype == getattr(after.detections, name).dtype


def test_a_frame_is_seen_as_it_is_in_this_process(networks):
    frame, stars = trial_frame()
    here = load_bundle(default_bundle()).detector.detect(frame)
    there = networks.load(default_bundle(), "float32").detector.detect(frame)
    assert len(here) >= len(stars)
    np.testing.assert_allclose(there.boxes, here.boxes, atol=1e-3)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-4)


def test_after_a_kill_another_process_answers(networks, caplog):
    detector, (frame, _) = networks.load(default_bundle(), "float32").detector, trial_frame()
    before, [pid] = detector.detect(frame), networks.pids
    os.kill(pid, signal.SIGKILL)
    np.testing.assert_array_equal(detector.detect(frame).boxes, before.boxes)
    assert networks.pids != [pid]
    assert "a network process died (status -9)" in caplog.text


def test_a_batch_that_kills_every_process_is_given_up(monkeypatch):
    process = NetworkProcess()

    def dies(*parts: bytes) -> None:
        raise EOFError

    monkeypatch.setattr(process, "_once", dies)
    with pytest.raises(DetectionError, match="died"):
        process.ask(default_bundle(), "float32", tiles()[:1])
    process.close()


def test_a_version_that_is_none_is_refused_here_and_there(networks, tmp_path):
    with pytest.raises(BundleError):
        networks.load(tmp_path, "float32")
    with pytest.raises(BundleError):
        networks.infer(tmp_path, "float32", tiles()[:1])
    assert networks.load(default_bundle(), "float32").manifest.name == "compact"


def test_closed_processes_end():
    networks = Networks(2)
    networks.start()
    pids = networks.pids
    networks.close()
    assert not any(map(is_running, pids))


def test_without_their_server_processes_end():
    code = "import os; from service.networks import NetworkProcess as N; print(N().pid, flush=True); os._exit(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid, end = int(done.stdout), time.monotonic() + 60
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.2)
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (MemoryError("too much"), "memory"),
        (RuntimeError("can't allocate memory: you tried"), "network"),
        (BundleError("no such version"), "bundle"),
        (ZeroDivisionError(), "network"),
    ],
)
def test_what_fails_there_fails_here_in_the_same_words(fault, kind, monkeypatch):
    def fails(host: Host, question: object) -> bytes:
        raise fault

    monkeypatch.setattr(Host, "answer", fails)
    ours, theirs = Pipe()
    thread = threading.Thread(target=serve, args=(theirs, Host(Arena())))
    thread.start()
    for _ in range(2):  # it goes on after a fault
        ours.send_bytes(b"{}")
        assert ours.recv_bytes().decode() == f'["{kind}", "{str(fault) or type(fault).__name__}"]'
        assert ours.recv_bytes() == b""
    ours.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("kind", "error"), [("memory", MemoryError), ("network", RuntimeError), ("bundle", BundleError)]
)
def test_a_problem_is_raised_as_what_it_was(kind, error, networks, monkeypatch):
    [process] = networks._processes
    monkeypatch.setattr(process, "_once", lambda *parts: ([kind, "no room"], b""))
    with pytest.raises(error, match="no room"):
        networks.infer(default_bundle(), "float32", tiles()[:1])


def test_old_versions_are_forgotten(monkeypatch):
    loaded: list[str] = []

    def load(folder: Path, precision: str) -> object:
        loaded.append(folder.name)
        return fixed_bundle()

    monkeypatch.setattr("service.network_host.load_bundle", load)
    host = Host(Arena())
    names = [str(number) for number in range(MOST_VERSIONS + 1)]
    for name in [*names, names[-1], names[0]]:
        host.answer({"folder": name, "precision": "float32", "layout": None})
    assert loaded == [*names, names[0]]


def test_the_service_uses_processes_on_a_cpu_and_ends_them():
    app = create_app(Settings(bundle=default_bundle(), device="cpu", workers=1, precision="float32"))

    async def scenario() -> tuple[int, list[int]]:
        async with app.router.lifespan_context(app):
            pids = app.state.finder.networks.pids
            assert all(map(is_running, pids))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                frame = fits_bytes(star_field((110, 110), [(40, 50)]))
                return (await client.post("/detect", content=frame)).json()["count"], pids

    count, pids = asyncio.run(scenario())
    assert (count, len(pids)) == (1, 1)
    assert not any(map(is_running, pids))


def test_no_process_is_left_where_no_version_can_be_loaded(tmp_path):
    finder = Finder(Settings(bundle=tmp_path, device="cpu", workers=1), Metrics((1,)))
    with pytest.raises(BundleError):
        asyncio.run(finder.start())
    assert not any(map(is_running, finder.networks.pids))


def test_threads_can_be_asked_for():
    assert Finder(Settings(network="threads", device="cpu"), Metrics((1,))).networks is None
