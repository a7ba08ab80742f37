"""The demo: start the service on its bundle, POST a frame, show and draw what comes back."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.running import free_port, running
from lynceus.frame import read_frame
from lynceus.overlay import draw_overlay
from lynceus.sky import SkySpec, estimate_sky

console = Console(width=100, highlight=False)
DEMO_SEED = [4, 4]  # in no training, tuning or validation set
COLUMNS = ("id", "x", "y", "score", "snr", "flux", "fwhm", "flags")


def main(out: Path = Path("out"), frame: Annotated[Path | None, typer.Option(exists=True)] = None) -> None:
    """Run the demo on a FITS file, or on a frame simulated on the spot."""
    out.mkdir(parents=True, exist_ok=True)
    path = frame or simulate_frame(out / "simulated.fits")
    port = free_port()
    console.print(f"Starting the service on port {port} ...")
    command = [sys.executable, "-m", "service", "--port", str(port)]
    with running(command, port, out / "service.log") as address:
        answer = post_frame(address, path)
        save(address, path, "votable", out / "sources.vot")
        save(address, path, "ds9", out / "sources.reg")
        show(answer)
    draw(path, answer, out / "overlay.png")
    (out / "sources.json").write_text(json.dumps(answer, indent=1))
    console.print(f"Wrote sources.vot, sources.reg, sources.json and overlay.png to {out}/. The service has stopped.")


def simulate_frame(path: Path) -> Path:
    """Draw a frame the network has never seen: galaxies, cosmic rays, two satellite trails."""
    from training.scenes.simulate import SceneSpec, draw_scene

    spec = SceneSpec(size=1024, sources=(60, 120), fwhm=(2.0, 4.0), snr=(3, 1000), empty=0, clean=0)
    frame, truth = draw_scene(np.random.default_rng(DEMO_SEED), spec)
    frame.writeto(path, overwrite=True)
    visible = int((np.asarray(truth["snr"]) >= 5).sum())
    console.print(f"Simulated {path}: 1024 x 1024 px, {visible} sources of SNR 5 or more.")
    return path


def post_frame(address: str, path: Path) -> dict[str, Any]:
    """POST the frame as a browser would, and take the JSON."""
    started = time.perf_counter()
    reply = httpx.post(f"{address}/detect", files={"frame": (path.name, path.read_bytes())}, timeout=300)
    if reply.is_error:
        problem = reply.json()
        console.print(f"{reply.status_code} {problem['title']}: {problem['detail']}")
        raise SystemExit(1)
    elapsed = time.perf_counter() - started
    answer: dict[str, Any] = reply.json()
    console.print(f"POST /detect -> {reply.status_code}, {answer['count']} sources in {elapsed:.2f} s\n")
    return answer


def save(address: str, path: Path, fmt: str, target: Path) -> None:
    """Ask again in another format, this time with the raw file as the body."""
    reply = httpx.post(f"{address}/detect", params={"format": fmt}, content=path.read_bytes(), timeout=300)
    target.write_bytes(reply.raise_for_status().content)


def show(answer: dict[str, Any]) -> None:
    """Print the first rows, the frame's facts and the timings."""
    table = Table(*COLUMNS, box=None, header_style="bold")
    for row in answer["detections"][:8]:
        table.add_row(*(_cell(row[name]) for name in COLUMNS))
    console.print(table)
    facts, model = answer["frame"], answer["model"]
    console.print(f"\nseeing {_cell(facts['fwhm_px'])} px, sky {_cell(facts['background'])} ADU, noise ", end="")
    console.print(f"{_cell(facts['noise'])} ADU; model {model['name']} {model['version']}")
    console.print("timings, ms: " + ", ".join(f"{stage} {ms:.0f}" for stage, ms in answer["timing_ms"].items()))
    for warning in answer["warnings"]:
        console.print(f"warning: {warning}")


def draw(path: Path, answer: dict[str, Any], target: Path) -> None:
    """Draw the boxes on the frame."""
    frame = read_frame(path.read_bytes())
    boxes = np.array([row["box"] for row in answer["detections"]], float).reshape(-1, 4)
    draw_overlay(frame, estimate_sky(frame, SkySpec()), boxes, target)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
