"""Part `service`: one client of the whole service, the detector beside it, and the floor of HTTP."""

from collections.abc import Sequence
from itertools import count
from statistics import median

from lynceus.frame import read_frame
from tests.bench.bench import Bench
from tests.bench.figures import Bar, Figure, ratio
from tests.bench.finding import detect
from tests.bench.frames import copies, cut_out
from tests.bench.rounds import Contender, interleave
from tests.bench.server import Server, bare_server, service

SERVICE, DETECTOR, BARE = "service, one client", "detector in process", "bare upload and discard"
TOGETHER, IN_TURN = "service, two frames at once", "service, two frames one after the other"
BURST, LONE, SMALL = 32, 7, 512  # small frames at once, those before and after them, and their side in pixels


def run(bench: Bench) -> list[Figure]:
    """Time the service, the detector and an upload in turns."""
    detector, copy, numbers = bench.load(), copies(bench.frame), count(1)

    def fresh(frames: int) -> list[bytes]:
        return [copy(next(numbers)) for _ in range(frames)]

    with service(bench) as server, bare_server(bench) as bare:
        contenders = {
            SERVICE: Contender(lambda sent: server.post(*sent), cpu=server.cpu_seconds, ready=lambda: fresh(1)),
            DETECTOR: Contender(lambda: detect(detector, bench.frame)),
            BARE: Contender(lambda sent: bare.post(*sent), cpu=bare.cpu_seconds, ready=lambda: fresh(1)),
            TOGETHER: Contender(lambda sent: server.post_all(sent, 2), cpu=server.cpu_seconds, ready=lambda: fresh(2)),
            IN_TURN: Contender(lambda sent: server.post_all(sent, 1), cpu=server.cpu_seconds, ready=lambda: fresh(2)),
        }
        times = interleave(contenders, bench.rounds, bench.console)
        peak = server.peak_bytes()
        burst = lone_after_burst(server, bench)
    return [
        *(Figure(name, "s", tuple(took.wall), tuple(took.cpu)) for name, took in times.items()),
        ratio("service over detector", times[SERVICE].wall, times[DETECTOR].wall, Bar(high=1.05)),
        ratio("service over detector, CPU time", times[SERVICE].cpu, times[DETECTOR].cpu),
        ratio("two at once over one after the other", times[TOGETHER].wall, times[IN_TURN].wall, Bar(high=1.05)),
        Figure("peak memory of the service", "MB", (peak / 1e6,)),
        Figure(f"lone small frame after {BURST} at once, over one before", "x", burst),
    ]


def lone_after_burst(server: Server, bench: Bench) -> tuple[float, ...]:
    """Times of lone small frames after a burst of them, over the median before it."""
    pixels = read_frame(bench.frame).pixels

    def small(numbers: Sequence[int]) -> list[bytes]:
        return [cut_out(pixels, SMALL, number) for number in numbers]

    before = median(server.post_all(small(range(LONE)), 1))
    server.post_all(small(range(100, 100 + BURST)), BURST)
    return tuple(after / before for after in server.post_all(small(range(200, 200 + LONE)), 1))
