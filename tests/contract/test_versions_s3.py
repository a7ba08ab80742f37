"""A real server whose versions lie in S3, which goes away."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from examples.running import free_port, running
from model_store import Ref, Store
from tests.fakes import fits_bytes, star_field
from tests.store_kit import S3Server, new_location, s3_server, s3_store
from tests.variants import jitter, save_variant

FRAME = fits_bytes(star_field((120, 120), [(40, 50), (80, 90)]))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture(scope="module")
def location(server: S3Server) -> str:
    return new_location(server)


@pytest.fixture(scope="module")
def store(server: S3Server, location: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = tmp_path_factory.mktemp("made")
    store = s3_store(server, location, made / "cache")
    for version in ("1", "2"):
        save_variant(made, version, jitter(int(version)))
        store.push(made / "variant" / version)
    store.promote("stable", Ref("variant", "1"), by="test", reason="")
    return store


@pytest.fixture
def serve(
    server: S3Server, location: str, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], str]]:
    with ExitStack() as stack:

        def start(cache: Path) -> str:
            port = free_port()
            settings = {
                "LYNCEUS_STORE": location,
                "LYNCEUS_S3_ENDPOINT": server.endpoint,
                "LYNCEUS_S3_REGION": "us-east-1",
                "LYNCEUS_CACHE": str(cache),
                "LYNCEUS_TRACK_POLL": "0.2",
                "LYNCEUS_WORKERS": "1",
            }
            command = [sys.executable, "-m", "service", "--port", str(port)]
            log = tmp_path_factory.mktemp("s3") / "log"
            return str(stack.enter_context(running(command, port, log, settings=settings)))

        yield start


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def version(address: str) -> str:
    answer = httpx.post(f"{address}/detect", content=FRAME, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["count"] == 2
    return str(answer.json()["model"]["version"])


def warnings(address: str) -> list[str]:
    return list(httpx.get(f"{address}/models").json()["warnings"])


def test_a_server_follows_a_store_in_s3_and_outlives_it(
    serve: Callable[[Path], str], server: S3Server, store: Store, tmp_path: Path
) -> None:
    address = serve(tmp_path / "cache")
    assert version(address) == "1"
    store.promote("stable", Ref("variant", "2"), by="test", reason="")
    until(lambda: version(address) == "2")
    server.stop()
    try:
        until(lambda: warnings(address))
        assert "the store is away" in warnings(address)[0]
        assert version(address) == "2"
        again = serve(tmp_path / "cache")  # a pod that starts while the store is away
        assert version(again) == "2"
    finally:
        server.start()
    until(lambda: not warnings(address))
    store.roll_back("stable", by="test", reason="")
    until(lambda: version(address) == "1")
