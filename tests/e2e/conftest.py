"""The real thing: the shipped bundle behind BentoML on a port."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.running import free_port, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests that share the server run in one worker."""
    for item in items:
        if "address" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("shipped service"))


@pytest.fixture(scope="session")
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def address(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [sys.executable, "-m", "service", "--port", str(port)]
    log: Path = tmp_path_factory.mktemp("service") / "log"
    with running(command, port, log) as url:
        yield url
