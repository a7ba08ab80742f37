"""The real server, once a test session and worker: BentoML, a port, and a network without weights."""

import sys
from collections.abc import Iterator

import httpx
import pytest

from examples.running import free_port, running

SETTINGS = {
    "LYNCEUS_MAX_UPLOAD_BYTES": "20000000",
    "LYNCEUS_MAX_QUEUE_TILES": "60",
    "LYNCEUS_MAX_UPLOADS": "40",
    "LYNCEUS_UPLOAD_TIMEOUT": "2",
    "LYNCEUS_WORKERS": "1",
    "LYNCEUS_LIMITS__PIXELS": "2000000",
}


def command(port: int) -> list[str]:
    service = "tests.contract.fixed_service:Lynceus"
    return [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port), "--host", "127.0.0.1"]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with running(command(port), port, folder / "log", settings=SETTINGS) as running_at:
        yield running_at


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as opened:
        yield opened
