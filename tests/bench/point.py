"""One point of a curve, in a process of its own so that its peak of memory is its own; prints JSON."""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from lynceus.bundle import load_bundle
from lynceus.file_map import map_file
from lynceus.frame import Frame, read_frame
from lynceus.precision import Precision
from tests.bench.finding import find
from tests.bench.processes import kilobytes


def main(
    frame: Annotated[Path, typer.Argument(help="FITS file")],
    bundle: Annotated[Path, typer.Option()],
    device: Annotated[str, typer.Option()] = "cpu",
    precision: Annotated[Precision, typer.Option()] = "float32",
    workers: Annotated[int, typer.Option()] = 1,
    repeats: Annotated[int, typer.Option()] = 3,
) -> None:
    """Find the sources of a frame so often, after a small one that does not count.

    The peak is the kernel's `VmHWM`: `ru_maxrss` of a process starts with the size of the one that it was forked from.
    """
    detector = load_bundle(bundle, device, workers, precision).detector
    find(detector, Frame(np.random.default_rng(0).normal(100, 10, (512, 512)).astype(np.float32)))
    base, wall, cpu, sources = kilobytes("VmRSS"), [], [], 0
    for _ in range(repeats):
        busy, start = time.process_time(), time.perf_counter()
        with frame.open("rb") as file:
            sources = find(detector, read_frame(map_file(file)))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    peak = kilobytes("VmHWM")
    print(json.dumps({"wall": wall, "cpu": cpu, "sources": sources, "base": base / 1e3, "peak": peak / 1e3}))


if __name__ == "__main__":
    typer.run(main)
