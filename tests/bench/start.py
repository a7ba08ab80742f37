"""Part `start`: how long until the service answers, what memory it takes, and whether that grows."""

import time
from statistics import median

from lynceus.frame import read_frame
from tests.bench.bench import Bench
from tests.bench.figures import Bar, Figure
from tests.bench.frames import cut_out
from tests.bench.server import service

STARTS = 3
FRAMES = 200
SIDES = (512, 2048)  # pixels, in turns


def run(bench: Bench) -> list[Figure]:
    """Start the service a few times, then send it small and large frames."""
    ready, answered, idle = zip(*(start(bench) for _ in range(min(STARTS, bench.rounds))), strict=True)
    resident, peak = memory(bench)
    quarter = FRAMES // 4
    before = median(resident[quarter : 2 * quarter])
    return [
        Figure("started to ready", "s", ready),
        Figure("started to the first answer (512 px)", "s", answered),
        Figure("memory, ready", "MB", idle),
        Figure(f"memory, peak of {FRAMES} frames of {SIDES[0]} and {SIDES[1]} px", "MB", (peak,)),
        Figure(
            "its last quarter over its second",
            "x",
            tuple(one / before for one in resident[-quarter:]),
            bar=Bar(high=1.02),
        ),
    ]


def start(bench: Bench) -> tuple[float, float, float]:
    """Seconds from the command to `/readyz` (asked every 0.2 s) and to an answer, and the memory between, in MB."""
    small = cut_out(read_frame(bench.frame).pixels, SIDES[0], 0)
    begun = time.perf_counter()
    with service(bench) as server:
        ready = time.perf_counter() - begun
        idle = server.resident_bytes() / 1e6
        server.post(small)
        return ready, time.perf_counter() - begun, idle


def memory(bench: Bench) -> tuple[list[float], float]:
    """Resident size after each of the frames, and the peak, in MB."""
    pixels = read_frame(bench.frame).pixels
    resident = []
    with service(bench) as server:
        for number in range(FRAMES):
            server.post(cut_out(pixels, SIDES[number % len(SIDES)], number))
            resident.append(server.resident_bytes() / 1e6)
        return resident, server.peak_bytes() / 1e6
