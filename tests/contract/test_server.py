"""The server as its engineer sees it: many clients at once, overload, hang-ups, probes, metrics, the end."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openapi_spec_validator import validate

from examples.running import free_port, running
from tests.contract.conftest import command
from tests.fakes import POISON, SLOW, fits_bytes, star_field

LARGE = fits_bytes(star_field((704, 704), [(300, 300)]))  # 49 tiles
OTHER_LARGE = fits_bytes(star_field((704, 704), [(400, 400)], seed=1))


def small(seed: int, pixel: float | None = None) -> bytes:
    """A frame of one tile that is like no other; its star lies where the seed says."""
    pixels = star_field((110, 110), [star(seed)], seed)
    if pixel is not None:
        pixels[5, 5] = pixel
    return fits_bytes(pixels)


def star(seed: int) -> tuple[float, float]:
    return 20.0 + 7 * (seed % 10), 20.0 + 7 * (seed // 10)


def metric(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def ask(client: httpx.AsyncClient, name: str) -> float:
    return metric((await client.get("/metrics")).text, name)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def slow_request(client: httpx.AsyncClient, seed: int) -> asyncio.Task[httpx.Response]:
    """Keep the network busy for a second and a half, from now on."""
    before = await ask(client, "lynceus_tiles_total")
    task = asyncio.create_task(client.post("/detect", content=small(seed, SLOW)))

    async def has_begun() -> bool:
        return await ask(client, "lynceus_tiles_total") > before

    await until(has_begun)
    return task


def run(address: str, scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def with_client() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
            await scenario(client)

    asyncio.run(with_client())


def test_concurrent_clients_get_their_own_answers(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(client.post("/detect", content=small(seed)) for seed in range(32)))
        for seed, answer in enumerate(answers):
            [row] = answer.json()["detections"]
            assert (row["x"], row["y"]) == pytest.approx(star(seed), abs=0.5)

    run(address, scenario)


def test_a_poison_frame_fails_alone(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        frames = [small(seed, POISON if seed == 40 else None) for seed in range(36, 44)]
        answers = await asyncio.gather(*(client.post("/detect", content=frame) for frame in frames))
        assert [answer.status_code for answer in answers] == [200] * 4 + [500] + [200] * 3

    run(address, scenario)


def test_past_the_bound_it_says_when_to_come_back(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        first = await slow_request(client, 50)
        second = asyncio.create_task(client.post("/detect", content=LARGE))

        async def waits() -> bool:
            return await ask(client, "lynceus_queue_tiles") == 49

        await until(waits)
        refused = await client.post("/detect", content=OTHER_LARGE)
        assert refused.status_code == 503
        assert refused.json()["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await first).status_code == 200
        assert (await second).status_code == 200
        assert (await client.post("/detect", content=OTHER_LARGE)).status_code == 200

    run(address, scenario)


def test_a_client_that_hangs_up_frees_its_tiles(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def queued() -> float:
            return await ask(client, "lynceus_queue_tiles")

        async def waits() -> bool:
            return await queued() == 49

        async def is_empty() -> bool:
            return await queued() == 0

        first = await slow_request(client, 51)
        second = asyncio.create_task(client.post("/detect", content=LARGE))
        await until(waits)
        second.cancel()
        await until(is_empty)
        assert not first.done()
        assert (await first).status_code == 200

    run(address, scenario)


def test_a_deadline_frees_its_tiles(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        first = await slow_request(client, 52)
        late = await client.post("/detect?deadline=0.3", content=LARGE)
        assert late.status_code == 504
        assert await ask(client, "lynceus_queue_tiles") == 0
        assert not first.done()
        assert (await first).status_code == 200

    run(address, scenario)


def test_the_same_frame_at_once_is_computed_once(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        before = await ask(client, "lynceus_tiles_total")
        frame = small(53, SLOW)
        tasks = [asyncio.create_task(client.post("/detect", content=frame)) for _ in range(3)]
        tasks.append(asyncio.create_task(client.post("/detect?format=csv&unknown=1", files={"frame": frame})))
        await asyncio.sleep(0.7)
        tasks[0].cancel()  # the others must not suffer
        answers = await asyncio.gather(*tasks[1:])
        assert [answer.status_code for answer in answers] == [200] * 3
        assert answers[0].json()["detections"] == answers[1].json()["detections"]
        assert await ask(client, "lynceus_tiles_total") == before + 1

    run(address, scenario)


def test_live_frames_pass_backfill(address: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        first = await slow_request(client, 54)
        order: list[str] = []

        async def post(priority: str, frame: bytes) -> None:
            answer = await client.post(f"/detect?priority={priority}", content=frame)
            assert answer.status_code == 200
            order.append(priority)

        backfill = asyncio.create_task(post("backfill", LARGE))
        await asyncio.sleep(0.3)
        await asyncio.gather(post("live", small(55)), backfill)
        assert order == ["live", "backfill"]
        await first

    run(address, scenario)


def test_models(client: httpx.Client) -> None:
    body = client.get("/models").json()
    assert (body["tracks"], body["warnings"]) == ({}, [])
    [model] = body["models"]
    assert (model["name"], model["version"], model["tracks"]) == ("fixed", "1.2.3", ["stable"])
    assert (model["sha256"], model["classes"], model["scores"]) == ("0" * 64, ["source"], {"map_50": 0.5})


def test_openapi_is_valid_and_says_what_matters(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    post = document["paths"]["/detect"]["post"]
    names = {parameter["name"] for parameter in post["parameters"]}
    assert names >= {"format", "hdu", "min_score", "max_detections", "model", "measure", "deadline", "priority"}
    evaluation = document["paths"]["/evaluate"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "best_iou_per_gt" in evaluation["properties"]["evaluation"]["properties"]
    assert set(post["requestBody"]["content"]) >= {"multipart/form-data", "application/fits"}
    assert {"200", "400", "404", "406", "408", "413", "415", "422", "500", "503", "504"} <= set(post["responses"])
    assert "half a pixel" in document["info"]["description"]
    assert client.get("/docs").status_code == 200


def test_probes(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_metrics_are_ours_and_bounded(client: httpx.Client) -> None:
    for path in ("/a", "/b", "/c/d"):
        client.get(path)
    client.post("/detect", content=small(60))
    text = client.get("/metrics").text
    for name in (
        "lynceus_build_info",
        "lynceus_model_info",
        "lynceus_http_requests_total",
        "lynceus_frame_duration_seconds_bucket",
        "lynceus_stage_duration_seconds_bucket",
        "lynceus_batch_tiles_bucket",
        "lynceus_tiles_total",
        "lynceus_queue_tiles",
        "lynceus_queue_oldest_seconds",
        "lynceus_detections_per_frame_bucket",
        "lynceus_capped_tiles_total",
        "lynceus_rejected_total",
        "lynceus_model_load_failures_total",
        "lynceus_process_resident_bytes",
    ):
        assert re.search(rf"^{name}[ {{]", text, re.MULTILINE), name
    routes = set(re.findall(r'lynceus_http_requests_total{.*?route="(.*?)"', text))
    assert routes <= {"/detect", "/evaluate", "/models", "/metrics", "/docs", "/", "other"}
    assert metric(text, "lynceus_process_resident_bytes") > 1e7
    stages = set(re.findall(r'stage="(\w+)"', text))
    assert stages == {"decode", "tile", "queue", "infer", "merge", "measure", "encode"}


def test_a_request_keeps_its_id(client: httpx.Client) -> None:
    assert client.get("/models", headers={"X-Request-ID": "night-7"}).headers["x-request-id"] == "night-7"
    assert client.get("/models", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


def test_no_upload_is_left_behind(client: httpx.Client, address: str) -> None:
    for body in (small(61), b"SIMPLE  =                    T", b"x", np.zeros(10).tobytes()):
        client.post("/detect", content=body)
    port = httpx.URL(address).port
    assert [file for server in servers(port) for file in open_files(server) if "(deleted)" in file] == []


def servers(port: int | None) -> list[Path]:
    """The processes that were started for a port, and their children."""
    found: list[Path] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_text()
            if f'"http://127.0.0.1:{port}"' in environment.replace("\\", ""):
                found.append(process)
        except OSError:
            continue
    assert found
    return found


def open_files(process: Path) -> list[str]:
    links = []
    for descriptor in (process / "fd").glob("*"):
        try:
            links.append(str(descriptor.readlink()))
        except OSError:
            continue
    return [link for link in links if link.startswith("/tmp")]


def test_stopping_finishes_what_is_in_flight(tmp_path: Path) -> None:
    port = free_port()
    answers: list[httpx.Response] = []
    with running(command(port), port, tmp_path / "log") as address:

        def post() -> None:
            answers.append(httpx.post(f"{address}/detect", content=small(70, SLOW), timeout=30))

        thread = threading.Thread(target=post)
        thread.start()
        while not metric(httpx.get(f"{address}/metrics").text, "lynceus_tiles_total"):
            thread.join(0.05)
    thread.join()
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/livez")
