"""Part `detector`: decode to measured list in process, beside everything else that finds sources."""

from concurrent.futures import ThreadPoolExecutor

from lynceus.frame import read_frame
from tests.bench.bench import Bench
from tests.bench.figures import Bar, Figure, ratio
from tests.bench.finding import detect
from tests.bench.rivals import NAIVE, SEP, SEP_MAP, SEXTRACTOR, TUNED, rivals
from tests.bench.rounds import Contender, Times, interleave

DETECTOR = "detector in process"
TOGETHER, IN_TURN = "frames at once", "frames one after the other"
IN_FLIGHT = {"cpu": 2, "cuda": 16}
NAIVE_BARS = {"cpu": Bar(low=60), "cuda": Bar(low=10)}


def run(bench: Bench) -> list[Figure]:
    """Time the detector and its rivals in turns."""
    detector, data, frames = bench.load(), bench.frame, IN_FLIGHT[bench.device]
    detect(detector, data)
    with ThreadPoolExecutor(frames) as pool, rivals(read_frame(data), bench.device, bench.cores) as others:
        contenders = {
            DETECTOR: Contender(lambda: detect(detector, data)),
            TOGETHER: Contender(lambda: list(pool.map(lambda _: detect(detector, data), range(frames)))),
            IN_TURN: Contender(lambda: [detect(detector, data) for _ in range(frames)]),
            **others,
        }
        if SEXTRACTOR not in others:
            bench.console.print("SExtractor is not installed (Debian: source-extractor); left out")
        times = interleave(contenders, bench.rounds, bench.console)
    named = {name: f"{frames} {name}" if name in (TOGETHER, IN_TURN) else name for name in times}
    seconds = [Figure(named[name], "s", tuple(took.wall), tuple(took.cpu)) for name, took in times.items()]
    return [*seconds, *ratios(times, NAIVE_BARS[bench.device])]


def ratios(times: dict[str, Times], naive: Bar) -> list[Figure]:
    """Rivals over the detector and the reverse, round by round."""
    ours = times[DETECTOR].wall

    def over(name: str, rival: str, bar: Bar | None = None) -> Figure:
        theirs = times[rival].wall
        return ratio(name, theirs, ours[: len(theirs)], bar)

    found = [
        over("naive torchvision over detector", NAIVE, naive),
        over("tuned torchvision over detector", TUNED),
        ratio("detector over sep, one noise", ours, times[SEP].wall, Bar(high=3)),
        ratio("detector over sep, noise map", ours, times[SEP_MAP].wall),
        ratio("at once over one after the other", times[TOGETHER].wall, times[IN_TURN].wall, Bar(high=1.05)),
    ]
    if SEXTRACTOR in times:
        found.append(ratio("detector over SExtractor", ours, times[SEXTRACTOR].wall))
    return found
