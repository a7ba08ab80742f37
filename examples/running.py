"""A service that runs while a block does."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import httpx

START_LIMIT_S = 180.0


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    home: Path | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """Start a server, wait until it is ready, yield its address, stop it.

    Parameters
    ----------
    command : sequence of str
        What to run.
    port : int
        Where it will listen.
    log : Path
        Where its output goes.
    home : Path or None
        BentoML's; a temporary one by default, because a shared home would wipe another server's metrics.
    settings : mapping
        Added to its environment.

    Raises
    ------
    RuntimeError
        If it ends, or is not ready within three minutes; the log's last lines are in the message.
    """
    address = f"http://127.0.0.1:{port}"
    with TemporaryDirectory() as temporary, log.open("w") as output:
        environment = {**os.environ, **settings, "BENTOML_HOME": str(home or temporary)}
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            wait_until_ready(address, process, log)
            yield address
        finally:
            stop(process)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask `/readyz` until it answers 200."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the service did not start:\n" + "\n".join(log.read_text().splitlines()[-20:]))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, and end it with its children if it does not."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a server at once: BentoML's worker has a session of its own, and would go on without its parent."""
    for pid in (process.pid, *descendants(process.pid)):  # the parent first: it starts workers anew
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these did (Linux)."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *descendants(child)]
    return found
