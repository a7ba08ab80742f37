"""A process that does nothing but run networks, in one thread: `python -m service.network_host PIPE MEMORY`.

It reads questions from the pipe, as `service.networks` writes them, until the other end is gone. The tiles that they
are about lie in the memory.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.errors import BundleError
from service.arena import Arena
from service.wire import pack_found, tiles_in

NICENESS = 10  # who asks, and who decodes, must not wait for a tile to end
MOST_VERSIONS = 4  # kept: stable, canary, and what they were before
ORPHAN_POLL = 2.0  # seconds

Question = dict[str, Any]


class Host:
    """The networks that were asked for lately.

    Parameters
    ----------
    arena : Arena
        Where the tiles are.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._detectors: OrderedDict[tuple[str, str], Detector] = OrderedDict()

    def answer(self, question: Question) -> bytes:
        """Look at the tiles of one batch; without any, see to it that the version is loaded."""
        detector = self._detector(question["folder"], question["precision"])
        layout = question["layout"]
        return pack_found(detector.infer(tiles_in(self._arena, layout))) if layout else b""

    def _detector(self, folder: str, precision: Any) -> Detector:
        key = folder, precision
        if key not in self._detectors:
            self._detectors[key] = load_bundle(Path(folder), precision=precision).detector
            self._detectors[key].warm_up()
            while len(self._detectors) > MOST_VERSIONS:
                self._detectors.popitem(last=False)
        self._detectors.move_to_end(key)
        return self._detectors[key]


def serve(wire: Connection, host: Host) -> None:
    """Answer questions until nobody asks any more."""
    with suppress(EOFError, ConnectionError):
        while True:
            question = json.loads(wire.recv_bytes())
            problem, answer = None, b""
            try:
                answer = host.answer(question)
            except Exception as error:  # whatever it is, it belongs to this batch, and the process goes on
                problem = [_kind(error), str(error) or type(error).__name__]
            wire.send_bytes(json.dumps(problem).encode())
            wire.send_bytes(answer)


def _kind(error: Exception) -> str:
    if isinstance(error, BundleError):
        return "bundle"
    return "memory" if isinstance(error, MemoryError) else "network"


def _leave_with(parent: int) -> None:
    """End when the server is gone, also in the middle of a batch that never ends."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_POLL)
    os._exit(0)


def main() -> None:
    """Begin."""
    for one in (signal.SIGINT, signal.SIGTERM):  # they are for the server, which finishes what is in flight
        signal.signal(one, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(NICENESS)
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    pipe, memory = map(int, sys.argv[1:])
    serve(Connection(pipe), Host(Arena(memory)))


if __name__ == "__main__":
    main()
