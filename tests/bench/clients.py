"""Part `clients`: what the service gets through with more clients, over what the detector does."""

from functools import partial
from itertools import count

from tests.bench.bench import Bench
from tests.bench.figures import Bar, Figure, ratio
from tests.bench.finding import detect
from tests.bench.frames import copies
from tests.bench.rounds import Contender, Times, interleave
from tests.bench.server import Server, service

CLIENTS = (1, 4, 16)
ALONE = "detector, one frame after the other"
LEAST = 3  # frames a round
EACH = 1.5  # frames a client
ROUNDS = 3  # at most: one is some forty frames


def run(bench: Bench) -> list[Figure]:
    """Time the service with few clients and many, each beside the detector."""
    detector, copy, numbers = bench.load(), copies(bench.frame), count(1)

    def some(server: Server, clients: int) -> Contender:
        frames = frames_for(clients)
        return Contender(
            lambda sent: server.post_all(sent, clients),
            scale=1 / frames,
            cpu=server.cpu_seconds,
            ready=lambda: [copy(next(numbers)) for _ in range(frames)],
        )

    with service(bench) as server:
        alone = Contender(lambda: [detect(detector, bench.frame) for _ in range(LEAST)], scale=1 / LEAST)
        contenders = {ALONE: alone} | {named(clients): some(server, clients) for clients in CLIENTS}
        times = interleave(contenders, min(bench.rounds, ROUNDS), bench.console)
    return figures(times)


def frames_for(clients: int) -> int:
    """How many frames so many clients send in a round."""
    return max(LEAST, round(EACH * clients))


def named(clients: int) -> str:
    """Of a contender."""
    return f"service, {clients} client{'s' if clients > 1 else ''}"


def figures(times: dict[str, Times]) -> list[Figure]:
    """Seconds a frame, and throughput over the detector's, round by round."""
    seconds = [Figure(name, "s a frame", tuple(took.wall), tuple(took.cpu)) for name, took in times.items()]
    over = partial(ratio, ours=times[ALONE].wall)
    bars = {CLIENTS[-1]: Bar(low=0.95)}
    return seconds + [
        over(f"throughput over detector's, {clients}", theirs=times[named(clients)].wall, bar=bars.get(clients))
        for clients in CLIENTS
    ]
