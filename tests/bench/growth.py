"""Part `growth`: how time and memory grow with the frame, with its sources, and with the clients."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from lynceus.frame import read_frame
from tests.bench.bench import Bench
from tests.bench.charts import draw
from tests.bench.curves import Curve, Point, fitted
from tests.bench.figures import Bar, Figure
from tests.bench.frames import SIDE, cut_out, tiled_frame
from tests.bench.server import service

SIDES = (512, 1024, 2048, 4096, 8192, 16384)  # pixels
SOURCES = (10, 100, 1000, 3000, 10_000, 30_000, 50_000)  # on SIDE x SIDE px
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CLIENTS_SIDE = 1024  # pixels of their frames
CLIENTS_FRAMES = 24  # at least; two a client
REPEATS, REPEATED = 3, 4096  # times that frames up to so many pixels a side are looked at; larger ones once
LINEAR = Bar(high=1.05)
MOST_MEMORY = Bar(high=3e3)  # MB, of the largest frame


def run(bench: Bench) -> list[Figure]:
    """Measure the curves, draw them, and fit their exponents."""
    bench.out.mkdir(parents=True, exist_ok=True)
    curves = [over_pixels(bench), over_sources(bench), over_clients(bench)]
    (bench.out / "growth.json").write_text(json.dumps({one.name: one.json() for one in curves}, indent=1) + "\n")
    for curve in curves:
        draw(curve, bench.out / f"growth-{curve.name}.png")
    bench.console.print(f"charts and growth.json are in {bench.out}")
    return [figure for curve in curves for figure in figures(curve)]


def over_pixels(bench: Bench) -> Curve:
    """Frames from one tile to the largest, equally dense."""
    points = []
    for side in (one for one in SIDES if one <= 4 * bench.side):
        repeats = REPEATS if side <= REPEATED else 1
        points.append(point(bench, tiled_frame(bench.folder, side), side**2 / 1e6, repeats))
    return fitted("pixels", "million pixels", points, {"wall", "cpu", "memory"})


def over_sources(bench: Bench) -> Curve:
    """Frames of one size, ever more crowded."""
    share = (bench.side / SIDE) ** 2
    points = [
        point(bench, tiled_frame(bench.folder, bench.side, sources), sources * share, REPEATS) for sources in SOURCES
    ]
    return fitted("sources", f"sources on {bench.side} x {bench.side} px", points, {"wall", "cpu", "memory"})


def over_clients(bench: Bench) -> Curve:
    """Ever more clients of one server; `wall` is how long a frame of each takes, `cpu` that of a frame."""
    pixels = read_frame(tiled_frame(bench.folder, min(SIDE, bench.side)).read_bytes()).pixels
    points, number = [], 0
    with service(bench) as server:
        for clients in (CLIENTS[0], *CLIENTS):  # the first one to warm up
            frames = max(CLIENTS_FRAMES, 2 * clients)
            sent = [cut_out(pixels, min(CLIENTS_SIDE, bench.side), number + one) for one in range(frames)]
            number += frames
            cpu = server.cpu_seconds()
            took = server.post_all(sent, clients)
            cpu = (server.cpu_seconds() - cpu) / frames
            bench.console.print(f"  {clients} clients: median {median(took):.2f} s a frame")
            points.append(Point(clients, took, [cpu], peak=server.peak_bytes() / 1e6))
    return fitted("clients", f"clients with frames of {CLIENTS_SIDE} px", points[1:], {"wall"})


def point(bench: Bench, frame: Path, x: float, repeats: int) -> Point:
    """Measure a point in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.point", str(frame), "--bundle", str(bench.bundle)]
    command += ["--device", bench.device, "--precision", bench.precision]
    command += ["--workers", str(bench.cores), "--repeats", str(repeats)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "MALLOC_ARENA_MAX": "2"}  # as the service has it
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = Point(x, **json.loads(done.stdout.splitlines()[-1]))
    bench.console.print(
        f"  {frame.name}: {median(found.wall):.2f} s, CPU {median(found.cpu):.2f} s, peak {found.peak:.0f} MB, "
        f"{found.sources} sources"
    )
    return found


def figures(curve: Curve) -> list[Figure]:
    """What the table and the history say of a curve."""
    last = curve.points[-1]
    bar = LINEAR if curve.name != "sources" else None
    found = [
        Figure(f"{curve.name}: exponent of {name}", "", (one.value,), bar=bar, bounds=(one.low, one.high))
        for name, one in curve.exponents.items()
    ]
    largest = f"{last.x:,.0f} {curve.along}"
    found.append(Figure(f"{largest}: time", "s", tuple(last.wall), tuple(last.cpu)))
    bar = MOST_MEMORY if curve.name == "pixels" else None
    found.append(Figure(f"{largest}: peak memory", "MB", (last.peak,), bar=bar))
    return found
