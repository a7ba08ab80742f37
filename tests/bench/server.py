"""Servers to time, and what they cost: CPU time and memory of all their processes (Linux)."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx

from examples.running import descendants, free_port, running
from tests.bench.bench import Bench
from tests.bench.processes import cpu_seconds, cpu_seconds_of, kilobytes

DEADLINE = 600  # seconds: nothing shall be refused for being late
MOST_CLIENTS = 64
PIECE = 2**18  # bytes


@dataclass(frozen=True)
class Server:
    """A server on this machine, and a client of it."""

    address: str
    port: int
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=DEADLINE, limits=httpx.Limits(max_connections=MOST_CLIENTS))
    )

    def post(self, data: bytes) -> None:
        """Send a frame and take the JSON; where the server is full, again when it says so."""
        url, query = f"{self.address}/detect", {"deadline": DEADLINE}
        while True:
            answer = self.client.post(
                url, params=query, content=pieces(data), headers={"Content-Length": str(len(data))}
            )
            if answer.status_code != 503:
                answer.raise_for_status()
                return
            time.sleep(float(answer.headers.get("retry-after", 1)))

    def post_all(self, frames: Sequence[bytes], clients: int) -> list[float]:
        """Let so many clients send frames, each one after the other; how long each frame took, in seconds."""

        def ask(data: bytes) -> float:
            start = time.perf_counter()
            self.post(data)
            return time.perf_counter() - start

        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(ask, frames))

    def cpu_seconds(self) -> float:
        """CPU time so far of the server and of this process, its client."""
        return sum(map(cpu_seconds_of, self._processes())) + cpu_seconds()

    def peak_bytes(self) -> int:
        """The largest resident sizes so far of its processes, together."""
        return sum(kilobytes("VmHWM", pid) for pid in self._processes()) * 1024

    def resident_bytes(self) -> int:
        """The resident sizes of its processes, together."""
        return sum(kilobytes("VmRSS", pid) for pid in self._processes()) * 1024

    def _processes(self) -> set[int]:
        """Those that were started with its port, and their children."""
        ours = set[int]()
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if ("--port", str(self.port)) in pairwise(words):
                ours |= {int(place.name), *descendants(int(place.name))}
        return ours


def pieces(data: bytes) -> Iterator[bytes]:
    """The body bit by bit: of one that it is given whole, httpx copies the rest with everything it sends."""
    return (data[start : start + PIECE] for start in range(0, len(data), PIECE))


@contextmanager
def service(bench: Bench) -> Iterator[Server]:
    """The service on the bundle that is timed."""
    settings = {
        "LYNCEUS_BUNDLE": str(bench.bundle.resolve()),
        "LYNCEUS_DEVICE": bench.device,
        "LYNCEUS_PRECISION": bench.precision,
    }
    with _served(["-m", "service"], bench.folder / "service.log", settings) as server:
        yield server


@contextmanager
def bare_server(bench: Bench) -> Iterator[Server]:
    """One that throws uploads away."""
    with _served(["-m", "uvicorn", "tests.bench.bare:app"], bench.folder / "bare.log", {}) as server:
        yield server


@contextmanager
def _served(module: Sequence[str], log: Path, settings: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    with running([sys.executable, *module, "--port", str(port)], port, log, settings=settings) as address:
        server = Server(address, port)
        with server.client:
            yield server
