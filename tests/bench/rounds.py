"""Contenders that take turns, so that whatever else the machine does hits all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console

from tests.bench.processes import cpu_seconds


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes
    ----------
    run : callable
        What is timed.
    scale : float
        Its time stands for so much more work.
    rounds : int or None
        At most so many count: it is slow, and far from its bar.
    cpu : callable
        CPU time so far, in seconds, of whatever does the work.
    ready : callable or None
        Called before each round, untimed; its value is given to `run`.
    """

    run: Callable[..., object]
    scale: float = 1.0
    rounds: int | None = None
    cpu: Callable[[], float] = cpu_seconds
    ready: Callable[[], object] | None = None


@dataclass
class Times:
    """What a contender took, a value a round, in seconds: by the clock, and of all cores together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleave(contenders: Mapping[str, Contender], rounds: int, console: Console) -> dict[str, Times]:
    """Run all in turn, `rounds` times after one round that does not count."""
    times = {name: Times() for name in contenders}
    for round_ in range(rounds + 1):
        for name, one in contenders.items():
            if one.rounds is None or round_ <= one.rounds:
                wall, cpu = _time(one)
                if round_:
                    times[name].wall.append(one.scale * wall)
                    times[name].cpu.append(one.scale * cpu)
        console.print(f"  round {round_} of {rounds}" + ("" if round_ else " (not counted)"))
    return times


def _time(one: Contender) -> tuple[float, float]:
    given = () if one.ready is None else (one.ready(),)
    gc.collect()  # what the last one left must not be paid for by this one
    cpu, start = one.cpu(), time.perf_counter()
    one.run(*given)
    return time.perf_counter() - start, one.cpu() - cpu
