"""Versions on a real server: the swap under load, a version that does not work, the way back, the canary."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from examples.running import free_port, running
from model_store import Ref
from model_store.local import LocalStore
from tests.fakes import fits_bytes, star_field
from tests.variants import deafen, jitter, save_variant

pytestmark = pytest.mark.xdist_group("versions")

SIDE, STARS = 300, 12
CLIENTS = 6
SETTINGS = {
    "LYNCEUS_TRACK_POLL": "0.1",
    "LYNCEUS_WORKERS": "1",
    "LYNCEUS_CANARY_BUDGET": "1",
}


def field(seed: int) -> bytes:
    """Two frames of a mosaic, each with its own stars."""
    rng = np.random.default_rng(seed)
    planes = [star_field((SIDE, SIDE), rng.uniform(20, SIDE - 20, (STARS, 2)).tolist(), seed + part) for part in (0, 1)]
    return fits_bytes(*planes)


def ref(version: str) -> Ref:
    return Ref("variant", version)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    made, folder = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("store")
    store = LocalStore(folder)
    for version, change in (("1", jitter(1)), ("2", jitter(2)), ("3", deafen)):
        save_variant(made, version, change)
        store.push(made / "variant" / version)
    store.promote("stable", ref("1"), by="test", reason="the first")
    return store


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "canary.jsonl"


@pytest.fixture(scope="module")
def address(store: LocalStore, journal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    own = {"LYNCEUS_STORE": str(store.root), "LYNCEUS_CANARY_JOURNAL": str(journal)}
    command = [sys.executable, "-m", "service", "--port", str(port)]
    with running(command, port, tmp_path_factory.mktemp("versions") / "log", settings=SETTINGS | own) as at:
        yield at


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


def until(condition: Any, seconds: float = 20.0) -> float:
    """Wait, and say how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


def served(client: httpx.Client, track: str = "stable") -> str | None:
    models = client.get("/models").json()["models"]
    return next((model["version"] for model in models if track in model["tracks"]), None)


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(float(value) for found, value in lines if wanted <= set(found.split(",")))


def rows(answer: httpx.Response) -> list[Any]:
    """What was found, as exact numbers, frame by frame."""
    return [[(row["x"], row["score"]) for row in frame["detections"]] for frame in answer.json()["frames"]]


def versions_in(answer: httpx.Response) -> set[str]:
    named = {frame["model"]["version"] for frame in answer.json()["frames"]}
    return named | {answer.headers["x-lynceus-model"].removeprefix("variant/")}


def test_models_tells_what_is_served_and_who_said_so(client: httpx.Client) -> None:
    body = client.get("/models").json()
    assert body["schema_version"]
    assert [(model["name"], model["version"], model["tracks"]) for model in body["models"]] == [
        ("variant", "1", ["stable"])
    ]
    assert body["tracks"]["stable"]["by"] == "test"
    assert body["warnings"] == []


def test_a_swap_under_load_fails_no_request_and_mixes_no_versions(
    client: httpx.Client, store: LocalStore, address: str
) -> None:
    data = field(1)
    answers: list[httpx.Response] = []

    async def load(stop: asyncio.Event) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as asking:

            async def ask(number: int) -> None:
                while not stop.is_set():  # a name of its own keeps a request from being joined with another one
                    url = f"/detect?hdu=all&max_detections={1000 + number}"
                    answers.append(await asking.post(url, content=data))

            await asyncio.gather(*(ask(number) for number in range(CLIENTS)))

    async def answered() -> None:
        """Wait for two answers a client: those in flight before a swap, and as many after it."""
        wanted = len(answers) + 2 * CLIENTS
        async with asyncio.timeout(60):
            while len(answers) < wanted:
                await asyncio.sleep(0.05)

    async def scenario() -> None:
        stop = asyncio.Event()
        loading = asyncio.create_task(load(stop))
        for version in ("2", "1", "2", "1"):
            await answered()
            await asyncio.to_thread(store.promote, "stable", ref(version), by="test", reason="swap")
            await asyncio.to_thread(until, lambda version=version: served(client) == version)
        await answered()
        stop.set()
        await loading

    asyncio.run(scenario())
    assert {answer.status_code for answer in answers} == {200}
    assert all(len(versions_in(answer)) == 1 for answer in answers)
    by_version = {version: [one for one in answers if versions_in(one) == {version}] for version in ("1", "2")}
    assert all(len(some) >= CLIENTS for some in by_version.values())
    for some in by_version.values():
        assert all(rows(answer) == rows(some[0]) for answer in some)
    assert rows(by_version["1"][0]) != rows(by_version["2"][0])


def test_a_version_that_finds_nothing_is_not_served(client: httpx.Client, store: LocalStore) -> None:
    before = served(client)
    failures = metric(client, "lynceus_model_load_failures_total")
    store.promote("stable", ref("3"), by="test", reason="by mistake")
    until(lambda: client.get("/models").json()["warnings"])
    [warning] = client.get("/models").json()["warnings"]
    assert "variant/3 could not be loaded for stable, variant/1 stays" in warning
    assert "0 of the 16 stars" in warning
    assert metric(client, "lynceus_model_load_failures_total") == failures + 1
    assert served(client) == before
    store.roll_back("stable", by="test", reason="it was a mistake")
    until(lambda: not client.get("/models").json()["warnings"])
    assert served(client) == "1"


def test_a_flipped_byte_in_the_store_is_not_served(client: httpx.Client, store: LocalStore, tmp_path: Path) -> None:
    save_variant(tmp_path, "4", jitter(4))
    store.push(tmp_path / "variant" / "4")
    weights = store.root / "variant" / "4" / "weights.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    store.promote("stable", ref("4"), by="test", reason="then it is damaged")
    weights.write_bytes(data)
    until(lambda: client.get("/models").json()["warnings"] or served(client) == "4")
    assert served(client) == "1"
    store.roll_back("stable", by="test", reason="back")
    until(lambda: not client.get("/models").json()["warnings"])


def test_the_way_back_takes_less_than_a_second(client: httpx.Client, store: LocalStore) -> None:
    store.promote("stable", ref("2"), by="test", reason="try")
    until(lambda: served(client) == "2")
    store.roll_back("stable", by="test", reason="regret")
    assert until(lambda: served(client) == "1") < 1


def test_a_canary_is_asked_for_by_name_and_looks_at_stables_frames(
    client: httpx.Client, store: LocalStore, journal: Path
) -> None:
    assert client.post("/detect?model=canary", content=field(2)).status_code == 404
    store.promote("canary", ref("2"), by="test", reason="to be tried out")
    until(lambda: served(client, "canary") == "2")
    answer = client.post("/detect?model=canary", content=field(2))
    assert (answer.json()["model"]["version"], answer.json()["model"]["track"]) == ("2", "canary")
    assert answer.headers["x-lynceus-track"] == "canary"
    assert client.post("/detect", content=field(3)).json()["model"]["version"] == "1"
    until(lambda: metric(client, "lynceus_canary_frames_total", outcome="compared") >= 1)
    assert metric(client, "lynceus_canary_detections_total", outcome="matched") > STARS / 2
    assert metric(client, "lynceus_canary_score_shift_count") > STARS / 2
    until(journal.exists)
    line = json.loads(journal.read_text().splitlines()[-1])
    assert (line["stable"]["version"], line["canary"]["version"]) == ("1", "2")


def test_a_trial_ends_where_the_canary_is_what_stable_is(client: httpx.Client, store: LocalStore) -> None:
    store.promote("canary", ref("1"), by="test", reason="the trial is over")
    until(lambda: served(client, "canary") == "1")
    [model] = client.get("/models").json()["models"]
    assert model["tracks"] == ["stable", "canary"]
    looked_at = metric(client, "lynceus_canary_frames_total")
    assert client.post("/detect", content=field(4)).status_code == 200
    time.sleep(0.5)
    assert metric(client, "lynceus_canary_frames_total") == looked_at
