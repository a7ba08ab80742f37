"""Servers to be hurt, and clients that do what no good client does."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import httpx

from examples.running import descendants, free_port, kill, stop, wait_until_ready
from tests.fakes import fits_bytes, star_field

SERVICE = "tests.faults.faulty_service:Lynceus"
SHIPPED = "service.bento:Lynceus"
FEW = MappingProxyType(
    {
        "LYNCEUS_WORKERS": "1",
        "LYNCEUS_DEVICE": "cpu",
        "MALLOC_ARENA_MAX": "2",  # as `python -m service` has it
        "OMP_WAIT_POLICY": "passive",
    }
)


@dataclass
class Server:
    """A server of our own, with its supervisor."""

    address: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def worker(self) -> int:
        """The process that answers: the supervisor's child that holds the port's files, not a helper of it."""
        for pid in descendants(self.process.pid):
            with suppress(OSError):
                if b"--worker-id" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        raise LookupError("no worker runs")

    def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        text = httpx.get(f"{self.address}/metrics", timeout=10).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def post(self, body: bytes, timeout: float = 60, **query: object) -> httpx.Response:
        """Ask for the sources of a frame."""
        return httpx.post(f"{self.address}/detect", params=dict(query), content=body, timeout=timeout)


def network_processes(parent: int) -> list[int]:
    """Those that run networks for a server among what a process started."""
    found = []
    for pid in descendants(parent):
        with suppress(OSError):
            if b"service.network_host" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@contextmanager
def serving(settings: Mapping[str, str] = MappingProxyType({}), service: str = SERVICE) -> Iterator[Server]:
    """Start a server with its supervisor, and leave nothing of it behind."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port), "--host", "127.0.0.1"]
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        environment = {**os.environ, **FEW, **settings, "BENTOML_HOME": folder}
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        server = Server(f"http://127.0.0.1:{port}", port, process, log)
        try:
            wait_until_ready(server.address, process, log)
            yield server
            stop(process)
        finally:
            if process.poll() is None:
                kill(process)


def small(seed: int, pixel: float | None = None) -> bytes:
    """A frame of one tile that is like no other; its star lies where the seed says."""
    pixels = star_field((110, 110), [star(seed)], seed)
    if pixel is not None:
        pixels[5, 5] = pixel
    return fits_bytes(pixels)


def star(seed: int) -> tuple[float, float]:
    """Where the star of a small frame is: 0-based `x, y`."""
    return 20.0 + 7 * (seed % 10), 20.0 + 7 * (seed // 10 % 10)


def is_right(answer: httpx.Response, seed: int) -> bool:
    """Whether an answer has the one star of a small frame where it is."""
    if answer.status_code != 200:
        return False
    found = answer.json()["detections"]
    x, y = star(seed)
    return len(found) == 1 and abs(found[0]["x"] - x) < 0.5 and abs(found[0]["y"] - y) < 0.5


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something to become true; while the server is away it is not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("it did not become true in time")


def is_ready(server: Server) -> bool:
    """Whether the readiness probe says so."""
    return httpx.get(f"{server.address}/readyz", timeout=5).status_code == 200


def header(port: int, length: int, path: str = "/detect", *lines: str) -> bytes:
    """The header of a POST."""
    fields = (f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {length}", *lines, "", "")
    return "\r\n".join(fields).encode()


def connected(port: int, timeout: float = 60.0) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def answered(connection: socket.socket) -> bytes:
    """All that comes until the server closes; what is there when the line breaks counts too."""
    received = b""
    with suppress(OSError):
        while chunk := connection.recv(65536):
            received += chunk
    return received
