"""Drive a server of its own with mixed frames, on this machine alone, and tell what it bears: `make load`."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from examples.running import free_port, running
from tests.load import TILE_SECONDS
from tests.load.drive import Range, shooting
from tests.load.shots import Magazine, Priority, mixed_frames
from tests.load.tally import Tally, table, tally

REAL_SIDES, PACED_SIDES = (500, 900, 1800), (120, 210, 400)  # pixels: 1, 4 and 16 tiles of either network
PATIENT = 120.0  # seconds: the deadline while the peak is looked for
KEPT, HELD, SOON = 0.99, 0.9, 1.0  # of the deadlines, of the peak, and seconds to a refusal (95th percentile)
console = Console(width=180, highlight=False)


@dataclass(frozen=True)
class Plan:
    """How hard the server is driven, and for how long."""

    peak_seconds: float
    seconds: float
    clients: int
    overload: float
    live: float
    deadline: float
    backfill_deadline: float
    warm_up_seconds: float = 5.0


def main(
    seconds: Annotated[float, typer.Option(help="of each phase with too much load, and of that with live frames")] = 60,
    peak_seconds: Annotated[float, typer.Option(help="of the phase that finds the peak")] = 45,
    clients: Annotated[int, typer.Option(min=1, max=64, help="at once, to find the peak")] = 8,
    overload: Annotated[float, typer.Option(min=1, max=10, help="load over the peak")] = 2.0,
    live: Annotated[float, typer.Option(min=0.05, max=1, help="load of the live frames over the peak")] = 0.3,
    deadline: Annotated[float, typer.Option(help="of live frames, in seconds")] = 15,
    backfill_deadline: Annotated[float, typer.Option(help="of backfill, in seconds")] = 60,
    network: Annotated[Literal["default", "paced"], typer.Option(help="the default bundle, or one that sleeps")] = (
        "default"
    ),
    tile_seconds: Annotated[float, typer.Option(help="that the paced network takes a tile")] = 0.05,
    out: Annotated[Path | None, typer.Option(help="file for the figures, as JSON")] = None,
) -> None:
    """Find the peak, then ask for more; exit with 1 where a promise is not kept."""
    plan = Plan(peak_seconds, min(seconds, 1800), clients, overload, live, deadline, backfill_deadline)
    report(plan, asyncio.run(loaded(plan, network, tile_seconds)), out)


async def loaded(plan: Plan, network: str, tile_seconds: float) -> list[Tally]:
    """Start a server, and drive it with frames that suit its network."""
    sides, tile = (REAL_SIDES, (512, 64)) if network == "default" else (PACED_SIDES, (128, 32))
    deadlines: dict[Priority, float] = {"live": plan.deadline, "backfill": plan.backfill_deadline}
    with server(network, tile_seconds) as address:
        return await drive(address, plan, Magazine(mixed_frames(*tile, sides), deadlines))


@contextmanager
def server(network: str, tile_seconds: float) -> Iterator[str]:
    """A server of its own, on this machine."""
    port = free_port()
    command = [sys.executable, "-m", "service", "--port", str(port)]
    settings: dict[str, str] = {}
    if network == "paced":
        service = "tests.load.paced_service:Lynceus"
        command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port), "--host", "127.0.0.1"]
        settings = {TILE_SECONDS: str(tile_seconds), "LYNCEUS_WORKERS": "2"}
    with TemporaryDirectory() as folder, running(command, port, Path(folder) / "log", settings=settings) as address:
        yield address


async def drive(address: str, plan: Plan, magazine: Magazine) -> list[Tally]:
    """Go through the phases."""
    async with shooting(address) as field:
        live, backfill = partial(magazine.shot, "live"), partial(magazine.shot, "backfill")
        patient = partial(magazine.shot, "live", PATIENT)
        await field.closed_loop(2, plan.warm_up_seconds, patient)
        run = partial(field.closed_loop, plan.clients, plan.peak_seconds, patient)
        [peak] = await phase(field, "peak", plan.peak_seconds, run)
        frames = peak.tiles_per_second / magazine.mean_tiles  # a second
        console.print(f"peak: {peak.tiles_per_second:.1f} tiles/s, {frames:.2f} requests/s of this mix")
        slow, fast = plan.live * frames, plan.overload * frames
        run = partial(field.open_loop, slow, plan.seconds, live)
        [alone] = await phase(field, "live alone", plan.seconds, run)

        async def both() -> None:
            flood = field.open_loop(fast - slow, plan.seconds, backfill, seed=1)
            await asyncio.gather(field.open_loop(slow, plan.seconds, live), flood)

        over = f"{plan.overload:g}x"
        mixed = await phase(field, f"{over}, mostly backfill", plan.seconds, both, ("live", "backfill", "all"))
        run = partial(field.open_loop, fast, plan.seconds, live, seed=2)
        [crowd] = await phase(field, f"{over}, all live", plan.seconds, run)
        peaks = [await peak_of(field, plan, magazine, one) for one in (mixed[-1], crowd)]
        return [peak, alone, *mixed, crowd, *peaks]


async def peak_of(field: Range, plan: Plan, magazine: Magazine, loaded: Tally) -> Tally:
    """What the server bears of the very mix that it answered: large frames are refused sooner, and cost less a tile."""
    same = partial(replace(magazine, mix=loaded.mix).shot, "live", PATIENT)
    run = partial(field.closed_loop, plan.clients, plan.peak_seconds, same)
    [peak] = await phase(field, f"peak of what was answered of {loaded.phase}", plan.peak_seconds, run)
    return peak


async def phase(
    field: Range,
    name: str,
    seconds: float,
    run: Callable[[], Awaitable[None]],
    priorities: Sequence[str] = ("live",),
) -> list[Tally]:
    """Go through one phase and count."""
    console.print(f"{time.strftime('%H:%M:%S')} {name} ...")
    start = time.monotonic()
    await run()
    tallies = [tally(name, priority, start, seconds, field.results) for priority in priorities]
    field.results.clear()
    return tallies


def report(plan: Plan, tallies: list[Tally], out: Path | None) -> None:
    """Show the table, write the figures, and say which promises are kept."""
    peak = tallies[0].tiles_per_second
    console.print(table(tallies, peak))
    kept = promises(tallies)
    for text, good in kept:
        console.print(f"{'kept ' if good else 'BROKEN'} {text}")
    if out is not None:
        figures: dict[str, Any] = {"plan": plan.__dict__, "tallies": [one.json() for one in tallies]}
        out.write_text(json.dumps(figures | {"promises": dict(kept)}, indent=1) + "\n")
    if not all(good for _, good in kept):
        raise typer.Exit(1)


def promises(tallies: list[Tally]) -> list[tuple[str, bool]]:
    """What the service promises under too much load, and whether it did it."""
    peak, alone, live, backfill, both, crowd, *peaks = tallies
    over = (live, backfill, crowd)
    wrong = sorted({text for one in tallies for text in one.wrong})
    lost = sum(one.lost for one in (peak, alone, both, crowd))
    held = min(one.tiles_per_second / most.tiles_per_second for one, most in zip((both, crowd), peaks, strict=True))
    refusal = max(one.refusal[1] for one in over if one.refused) if any(one.refused for one in over) else 0.0
    return [
        (f"no wrong answer {wrong or ''}", not wrong),
        (f"no request lost ({lost})", not lost),
        (
            f"accepted frames keep their deadline: {min(one.kept for one in over):.2%}",
            all(o.kept >= KEPT for o in over),
        ),
        (f"the others get 503 at once: 95 % within {refusal:.3f} s", refusal <= SOON),
        (f"throughput is held: {held:.0%} of the peak with the same mix of frames", held >= HELD),
        (
            f"live frames beside backfill: median {live.latency[0]:.2f} s, alone {alone.latency[0]:.2f} s; "
            f"95th {live.latency[1]:.2f} s, alone {alone.latency[1]:.2f} s; refused {live.refused} of {live.sent}",
            not live.refused and live.latency[0] <= 2 * alone.latency[0],
        ),
    ]


if __name__ == "__main__":
    typer.run(main)
