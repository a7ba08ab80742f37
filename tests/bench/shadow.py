"""What the canary's shadow costs stable: the same frames with and without it, in turns, in one run."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from examples.running import free_port, running
from lynceus.tiling import TileSpec
from model_store import Ref, default_bundle
from model_store.local import LocalStore
from tests.fakes import fits_bytes
from tests.variants import jitter, save_variant

ROUNDS, FRAMES = 6, 6
SIDE = 1024
CADENCES = {"one after the other": 0.0, "every 4 s": 4.0}  # seconds between the starts of two frames


def shadow_cost(pixels: NDArray[np.float32], folder: Path, console: Console) -> dict[str, float]:
    """Median time of a frame with the shadow over that without it, by cadence.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        Frames of `SIDE` are cut from it.
    folder : Path
        For the server's log.
    console : Console
        Where the table goes.
    """
    with TemporaryDirectory() as made, TemporaryDirectory() as place:
        store = LocalStore(Path(place))
        stable = store.push(default_bundle())
        save_variant(Path(made), "1", jitter(1), tile=TileSpec())
        canary = store.push(Path(made) / "variant" / "1")
        store.promote("stable", stable, by="bench", reason="")
        port = free_port()
        command = [sys.executable, "-m", "service", "--port", str(port)]
        settings = {"LYNCEUS_STORE": place, "LYNCEUS_TRACK_POLL": "0.1", "LYNCEUS_CANARY_BUDGET": "1"}
        with running(command, port, folder / "shadow.log", settings=settings) as address:
            times = _take_turns(address, pixels, lambda on: _put_canary(store, canary if on else stable, address))
            counts = _counts(address)
    return _show(times, counts, console)


def _take_turns(
    address: str, pixels: NDArray[np.float32], put: Callable[[bool], None]
) -> dict[str, dict[bool, list[float]]]:
    times: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in CADENCES}
    number = 0
    for round_ in range(ROUNDS):
        for on in (False, True) if round_ % 2 else (True, False):
            put(on)
            for name, cadence in CADENCES.items():
                for _ in range(FRAMES):
                    number += 1
                    start = time.perf_counter()
                    httpx.post(f"{address}/detect", content=_frame(pixels, number), timeout=60).raise_for_status()
                    took = time.perf_counter() - start
                    times[name][on].append(took)
                    time.sleep(max(cadence - took, 0))
    return times


def _frame(pixels: NDArray[np.float32], number: int) -> bytes:
    """A frame like no other: cut elsewhere."""
    start = 11 * number
    return fits_bytes(pixels[start : start + SIDE, start : start + SIDE].copy())


def _put_canary(store: LocalStore, ref: Ref, address: str) -> None:
    store.promote("canary", ref, by="bench", reason="")
    while str(ref) not in _canaries(address):
        time.sleep(0.05)


def _canaries(address: str) -> list[str]:
    models = httpx.get(f"{address}/models").json()["models"]
    return [f"{model['name']}/{model['version']}" for model in models if "canary" in model["tracks"]]


def _counts(address: str) -> dict[str, int]:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("lynceus_canary_frames_total{")]
    return {line.split('"')[1]: int(float(line.split()[1])) for line in counted}


def _show(times: dict[str, dict[bool, list[float]]], counts: dict[str, int], console: Console) -> dict[str, float]:
    table = Table("a frame of stable's", "without, median s", "with", "ratio", box=None)
    ratios = {}
    for name, by in times.items():
        without, shadowed = median(by[False]), median(by[True])
        ratios[name] = shadowed / without
        table.add_row(name, f"{without:.3f}", f"{shadowed:.3f}", f"{ratios[name]:.3f}")
    console.print(table)
    console.print("frames of the shadow: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return ratios
