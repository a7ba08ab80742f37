"""Side by side in one run on a 4096 px frame: the service, the detector, the naive loop, `sep`."""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import sep
import torch
from astropy.io import fits
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2

from examples.running import free_port, running
from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.frame import read_frame
from lynceus.measure import measure
from lynceus.sky import estimate_sky
from lynceus.tiling import cut_tiles
from model_store import default_bundle
from tests.bench.shadow import shadow_cost
from training.scenes.simulate import SceneSpec, draw_scene

ROUNDS = 5
NAIVE_TILES = 2  # of 81, scaled: the whole loop takes minutes
SIDE, SOURCES = 4096, 3000
BURST, LONE = 32, 7  # small frames at once, and one after the other
FOLDER = Path(".bench")
console = Console(width=110, highlight=False)


def main() -> None:
    """Time everything, interleaved, print the table and append it to the history."""
    FOLDER.mkdir(exist_ok=True)
    data = bench_frame().read_bytes()
    cores = len(os.sched_getaffinity(0))
    detector = load_bundle(default_bundle(), workers=cores).detector
    torch.set_num_threads(cores)
    naive = NaiveLoop(data, detector)
    port = free_port()
    command = [sys.executable, "-m", "service", "--port", str(port)]
    with running(command, port, FOLDER / "service.log") as address:
        contenders: dict[str, Callable[[], object]] = {
            "service end to end": lambda: post(address, data),
            "detector in process": lambda: detect(detector, data),
            f"naive torchvision loop ({NAIVE_TILES} tiles, scaled)": naive.run,
            "sep: background and extract": lambda: run_sep(data),
        }
        seconds = interleave(contenders)
        peak = peak_memory(port)
        burst = lone_after_burst(address, data)
    seconds = {name: [t * naive.scale if "naive" in name else t for t in times] for name, times in seconds.items()}
    show(seconds, peak)
    console.print(f"a lone small frame after a burst of {BURST}, over one before it: {burst:.2f}")
    shadow = shadow_cost(read_frame(data).pixels, FOLDER, console)
    with (FOLDER / "history.jsonl").open("a") as history:
        history.write(
            json.dumps({"at": time.time(), "seconds": seconds, "service_peak_bytes": peak, "shadow": shadow}) + "\n"
        )


def bench_frame() -> Path:
    """A simulated frame of 4096 px and some 3000 sources, the same in every run."""
    path = FOLDER / "frame.fits"
    if not path.exists():
        density = SOURCES / (SIDE / 512) ** 2
        console.print(f"simulating a {SIDE} px frame of {SOURCES} sources ...")
        spec = SceneSpec(
            size=SIDE, sources=(density, density), empty=0, fwhm=(3, 3), galaxies=(0.2, 0.2), snr=(3, 1000)
        )
        draw_scene(np.random.default_rng(7), spec)[0].writeto(path)
    return path


def post(address: str, data: bytes) -> None:
    """A client's view: send the frame, take the JSON."""
    httpx.post(f"{address}/detect", content=data, timeout=600).raise_for_status()


def detect(detector: Detector, data: bytes) -> None:
    """The same work without a server: decode, network, merge, measure."""
    frame = read_frame(data)
    cut = detector.cut(frame)
    found = detector.join(cut, detector.run(cut.all_tiles))
    measure(frame, found[found.scores >= detector.spec.min_score], cut.sky, detector.spec.measure)


class NaiveLoop:
    """What a first script does: torchvision's network with its defaults, tile by tile."""

    def __init__(self, data: bytes, detector: Detector) -> None:
        frame = read_frame(data)
        tiles = cut_tiles(frame, estimate_sky(frame, detector.spec.sky), detector.spec.tile)
        self.scale = len(tiles) / NAIVE_TILES
        self.tiles = [torch.from_numpy(np.nan_to_num(tile.pixels)).expand(3, -1, -1) for tile in tiles[:NAIVE_TILES]]
        self.network = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()

    def run(self) -> None:
        """Look at a few tiles."""
        with torch.no_grad():
            for tile in self.tiles:
                self.network([tile])


def run_sep(data: bytes) -> None:
    """The classical way, in one thread: background, threshold, deblend."""
    pixels = read_frame(data).pixels
    background = sep.Background(pixels)
    sep.set_extract_pixstack(5_000_000)
    sep.set_sub_object_limit(20_000)
    sep.extract(pixels - background.back(), 1.5, err=background.rms())


def interleave(contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Run all in turn, `ROUNDS` times after one round that does not count, and time each, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(ROUNDS + 1):
        for name, run in contenders.items():
            if round_ and "naive" in name and round_ > 2:
                continue  # it is slow, and its ratio is far from its floor
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - start)
        console.print(f"round {round_} of {ROUNDS}" + ("" if round_ else " (not counted)"))
    return times


def lone_after_burst(address: str, data: bytes) -> float:
    """Median time of a lone small frame after a burst of them, over the median before it."""
    frame = read_frame(data).pixels

    def ask(number: int) -> float:
        start = time.perf_counter()
        post(address, small_frame(frame, number))
        return time.perf_counter() - start

    before = median(ask(number) for number in range(LONE))
    with ThreadPoolExecutor(BURST) as clients:
        list(clients.map(ask, range(100, 100 + BURST)))
    return median(ask(200 + number) for number in range(LONE)) / before


def small_frame(pixels: NDArray[np.float32], number: int) -> bytes:
    """One tile of the large frame, another for each number."""
    file = BytesIO()
    start = 7 * number
    tile = pixels[start : start + 512, start : start + 512].copy()  # astropy swaps the bytes in place while it writes
    fits.PrimaryHDU(tile).writeto(file)
    return file.getvalue()


def peak_memory(port: int) -> int:
    """The largest resident size so far of any process of the server on `port`, in bytes (Linux)."""
    peaks = [0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            ours = f"--port\0{port}" in command or "bentoml" in command
            lines = (process / "status").read_text().splitlines() if ours else []
        except OSError:
            continue
        peaks += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def show(seconds: dict[str, list[float]], peak: int) -> None:
    """Print medians, ranges and the ratios that matter."""
    detector = median(seconds["detector in process"])
    table = Table("", "median s", "least", "most", "x detector", box=None)
    for name, times in seconds.items():
        middle = median(times)
        table.add_row(name, *(f"{value:.2f}" for value in (middle, min(times), max(times), middle / detector)))
    console.print(table)
    pairs = zip(seconds["service end to end"], seconds["detector in process"], strict=True)
    console.print(f"service over detector, pair by pair: {median(ours / bare for ours, bare in pairs):.3f}")
    console.print(f"peak memory of the service: {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
