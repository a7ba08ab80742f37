"""Networks in processes of their own, so that neither they nor what is around them wait for the interpreter."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from torch import Tensor

from lynceus.bundle import Bundle, read_manifest
from lynceus.detector import Detector, DetectorSpec, Found
from lynceus.errors import BundleError, DetectionError
from lynceus.network import RawDetections
from lynceus.precision import Precision
from lynceus.sums import verify
from lynceus.tiling import Tile
from service.arena import Arena
from service.wire import lay_out, unpack_found

ATTEMPTS = 2  # at a batch: the first process may be killed for something that is not the batch's fault
LAST_WORDS = 5.0  # seconds that a process may take to end
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# What one tile took, the next one needs again: glibc would hand it back, and have it zeroed anew, 2000 pages a tile.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # bytes

logger = logging.getLogger(__name__)


class NetworkProcess:
    """One process, which answers one question at a time; where it dies, another takes its place."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._arena = Arena()
        self._begin()

    @property
    def pid(self) -> int:
        """Of the process that answers now."""
        return self._process.pid

    def ask(self, folder: Path, precision: Precision, tiles: Sequence[Tile] = ()) -> list[Found]:
        """Let a version look at tiles of one batch; without any, let it be loaded.

        Raises
        ------
        BundleError
            If the version cannot be loaded.
        MemoryError
            If there is no room for the batch.
        RuntimeError
            If the network fails on it.
        DetectionError
            If the process dies of it, twice.
        """
        with self._lock:
            layout = lay_out(tiles, self._arena) if tiles else None
            question = json.dumps({"folder": str(folder), "precision": precision, "layout": layout}).encode()
            for _ in range(ATTEMPTS):
                try:
                    problem, answer = self._once(question)
                except (EOFError, OSError):
                    logger.warning("a network process died (status %s), another takes its place", self._end())
                    self._begin()
                    continue
                _raise(problem)
                return unpack_found(answer) if tiles else []
        raise DetectionError("the process of the network died")

    def close(self) -> None:
        """End it."""
        with self._lock:
            self._end()
            self._arena.close()

    def _once(self, question: bytes) -> tuple[list[str] | None, bytes]:
        self._wire.send_bytes(question)
        return json.loads(self._wire.recv_bytes()), self._wire.recv_bytes()

    def _begin(self) -> None:
        self._wire, theirs = Pipe()
        shared = theirs.fileno(), self._arena.descriptor
        command = [sys.executable, "-m", "service.network_host", *map(str, shared)]
        environment = os.environ | ONE_THREAD | KEEP_MEMORY
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=shared, env=environment)

    def _end(self) -> int:
        """Close the pipe, at which it ends; or make it."""
        self._wire.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(LAST_WORDS)
        self._process.kill()
        return self._process.wait()


class Networks:
    """Processes that all versions share; there are none before `start`.

    Parameters
    ----------
    count : int
        How many; each keeps one core busy.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._serving = False
        self._processes: list[NetworkProcess] = []
        self._idle: SimpleQueue[NetworkProcess] = SimpleQueue()

    def start(self) -> None:
        """Start them; they get ready while other things are done."""
        self._processes = [NetworkProcess() for _ in range(self._count)]
        for one in self._processes:
            self._idle.put(one)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [one.pid for one in self._processes]

    def load(self, folder: Path, precision: Precision) -> Bundle:
        """A version whose detector has its network in all of the processes.

        While others are served it goes from one process to the next, so that no more than one of them is away.

        Raises
        ------
        BundleError
            As `load_bundle`.
        """
        verify(folder)
        manifest = read_manifest(folder)
        with ThreadPoolExecutor(1 if self._serving else self._count) as pool:
            list(pool.map(lambda one: one.ask(folder, precision), self._processes))
        self._serving = True
        return Bundle(HostedDetector(self, folder, precision, manifest.detector), manifest)

    def infer(self, folder: Path, precision: Precision, tiles: Sequence[Tile]) -> list[Found]:
        """Let the first process that is free look at a batch; raises as `NetworkProcess.ask`."""
        process = self._idle.get()
        try:
            return process.ask(folder, precision, tiles)
        finally:
            self._idle.put(process)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """End all processes."""
        for one in self._processes:
            one.close()


class HostedDetector(Detector):
    """A detector whose network is elsewhere."""

    def __init__(self, networks: Networks, folder: Path, precision: Precision, spec: DetectorSpec) -> None:
        super().__init__(_not_here, spec, workers=len(networks))
        self._networks, self._folder, self._precision = networks, folder, precision

    def infer(self, tiles: Sequence[Tile]) -> list[Found]:
        """Look at one batch of tiles of one size and one pass, in another process."""
        return self._networks.infer(self._folder, self._precision, tiles)


def _not_here(tiles: Tensor) -> Sequence[RawDetections]:
    raise RuntimeError("this network is in other processes")


def _raise(problem: list[str] | None) -> None:
    """What went wrong in the process, as it would have here."""
    if problem is not None:
        kind, text = problem
        raise {"bundle": BundleError, "memory": MemoryError}.get(kind, RuntimeError)(text)
