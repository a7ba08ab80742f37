"""The canary overlay's route, carried out by nginx between two real servers."""

import copy
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.running import free_port, running
from tests.contract.conftest import command
from tests.e2e.gateway import Gateway, Route, gateway
from tests.fakes import fits_bytes, star_field
from tests.unit.deploy.rendering import of_kind, rendered

pytestmark = pytest.mark.xdist_group("canary routing")

TRACKS = ("stable", "canary")
REQUESTS = 300
FRAME = fits_bytes(star_field((200, 200), [(50, 60), (120, 140)]))
HALF = 200_000  # bytes of an upload after which a server dies
LARGE = fits_bytes(star_field((600, 600), [(50, 60)]))


@pytest.fixture(scope="module")
def route() -> Route:
    (one,) = of_kind(rendered("canary"), "HTTPRoute")
    return one


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of the server of each track."""
    folder = tmp_path_factory.mktemp("servers")

    def start(track: str) -> str:
        port = free_port()
        settings = {"LYNCEUS_TRACK": track, "LYNCEUS_WORKERS": "1"}
        return stack.enter_context(running(command(port), port, folder / track, settings=settings))

    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        yield dict(zip(TRACKS, pool.map(start, TRACKS), strict=True))


@pytest.fixture(scope="module")
def way_in(route: Route, servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    endpoints = {f"lynceus-{track}": [address.removeprefix("http://")] for track, address in servers.items()}
    with gateway(tmp_path_factory.mktemp("nginx"), route, endpoints) as one:
        yield one


def with_weights(route: Route, stable: int, canary: int) -> Route:
    """What `kubectl patch` of docs/canary.md makes of the route."""
    changed: Any = copy.deepcopy(route)
    first, second = changed["spec"]["rules"][2]["backendRefs"]
    first["weight"], second["weight"] = stable, canary
    return changed


def detect(address: str, track: str | None = None, name: str = "one") -> httpx.Response:
    headers = {"X-Request-ID": name} | ({"X-Lynceus-Track": track} if track else {})
    return httpx.put(f"{address}/detect", content=FRAME, headers=headers, timeout=60)


def answered(way_in: Gateway, **headers: str) -> Counter[str]:
    """How many requests each track answered."""
    with httpx.Client(base_url=way_in.address, timeout=60) as client:
        replies = [client.get("/models", headers=headers | {"X-Request-ID": f"id-{n}"}) for n in range(REQUESTS)]
    return Counter(reply.json()["models"][0]["tracks"][0] for reply in replies)


def posted(address: str) -> float:
    """Requests to /detect that a server has answered."""
    text = httpx.get(f"{address}/metrics").text
    return sum(map(float, re.findall(r'^lynceus_http_requests_total\{.*route="/detect".*\} (.*)$', text, re.MULTILINE)))


@pytest.mark.parametrize("track", TRACKS)
def test_who_names_a_track_gets_it_whatever_the_weights(way_in: Gateway, route: Route, track: str) -> None:
    for weights in ((100, 0), (0, 100)):
        way_in.follow(with_weights(route, *weights))
        reply = detect(way_in.address, track)
        assert reply.headers["X-Lynceus-Track"] == track
        assert reply.json()["model"]["track"] == track
        assert reply.json()["count"] == 2
    assert answered(way_in, **{"X-Lynceus-Track": track}) == {track: REQUESTS}


@pytest.mark.parametrize(("stable", "canary"), [(95, 5), (50, 50), (0, 100), (100, 0)])
def test_the_others_are_shared_by_weight(way_in: Gateway, route: Route, stable: int, canary: int) -> None:
    way_in.follow(with_weights(route, stable, canary))
    counts = answered(way_in)
    share = canary / (stable + canary)
    spread = 4 * (REQUESTS * share * (1 - share)) ** 0.5
    assert counts["canary"] == pytest.approx(REQUESTS * share, abs=spread)
    assert counts["stable"] + counts["canary"] == REQUESTS


def test_the_weights_of_the_overlay_are_a_small_share_for_the_canary(way_in: Gateway, route: Route) -> None:
    way_in.follow(route)
    assert 0 < answered(way_in)["canary"] < REQUESTS / 10


def test_a_change_of_weights_loses_no_frame(way_in: Gateway, route: Route) -> None:
    stop, replies = threading.Event(), list[int]()

    def ask() -> None:
        while not stop.is_set():
            replies.append(detect(way_in.address, name=f"frame-{len(replies)}").status_code)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        for canary in (5, 50, 100, 0):
            way_in.follow(with_weights(route, 100 - canary, canary))
        stop.set()
        asking.result()
    assert set(replies) == {200}


@contextmanager
def dying_server() -> Iterator[tuple[str, list[int]]]:
    """A server that hangs up in the middle of every upload, and what it had read by then."""
    read: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                size = 0
                while size < HALF and (data := connection.recv(65536)):
                    size += len(data)
                read.append(size)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", read
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("attempts", [0, 1], ids=["as the overlay has it", "if the gateway retried"])
def test_half_an_upload_is_not_sent_to_the_next_server(
    route: Route, servers: dict[str, str], tmp_path: Path, attempts: int
) -> None:
    """With a retry the same frame reaches a second server: what the overlay switches off can be seen."""
    changed: Any = copy.deepcopy(route)
    if attempts:
        for rule in changed["spec"]["rules"]:
            rule["retry"]["attempts"] = attempts
    real = {track: address.removeprefix("http://") for track, address in servers.items()}
    with dying_server() as (dying, read):
        endpoints = {"lynceus-stable": [dying, real["stable"]], "lynceus-canary": [real["canary"]]}
        with gateway(tmp_path, changed, endpoints) as way_in:
            before = {track: posted(address) for track, address in servers.items()}
            headers = {"X-Lynceus-Track": "stable"}
            reply = httpx.put(f"{way_in.address}/detect", content=LARGE, headers=headers, timeout=60)
            more = {track: posted(address) - before[track] for track, address in servers.items()}
    assert len(read) == 1
    assert HALF <= read[0] < len(LARGE)
    assert more == {"stable": float(attempts), "canary": 0.0}
    assert reply.status_code == (200 if attempts else 502)


def test_a_canary_that_is_gone_costs_its_own_share_alone_and_none_after_the_way_back(
    route: Route, servers: dict[str, str], tmp_path: Path
) -> None:
    endpoints = {
        "lynceus-stable": [servers["stable"].removeprefix("http://")],
        "lynceus-canary": [f"127.0.0.1:{free_port()}"],
    }
    with gateway(tmp_path, route, endpoints) as way_in:
        assert detect(way_in.address, "canary").status_code == 502
        assert detect(way_in.address, "stable").status_code == 200
        codes = statuses(way_in)
        assert 0 < codes[502] < REQUESTS / 10
        assert codes[200] + codes[502] == REQUESTS
        way_in.follow(with_weights(route, 100, 0))
        assert statuses(way_in) == {200: REQUESTS}


def statuses(way_in: Gateway) -> Counter[int]:
    with httpx.Client(base_url=way_in.address, timeout=60) as client:
        replies = [client.get("/readyz", headers={"X-Request-ID": f"id-{n}"}) for n in range(REQUESTS)]
    return Counter(reply.status_code for reply in replies)
