"""Build the Bento, serve it, POST a frame to it, stop it: what is shipped is what works."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import typer
from astropy.io import fits
from rich.console import Console

from examples.running import free_port, running

ROOT = Path(__file__).parents[1]
STARS = [(60, 50), (150, 90), (90, 200), (220, 170)]
console = Console(highlight=False)


def main() -> None:
    """Exit with an error if any step fails."""
    with TemporaryDirectory() as folder:
        home = Path(folder)
        tag = build(home)
        console.print(f"built {tag}")
        check_contents(home, tag)
        port = free_port()
        command = [sys.executable, "-m", "bentoml", "serve", tag, "--port", str(port), "--host", "127.0.0.1"]
        with running(command, port, home / "serve.log", home) as address:
            answer = httpx.post(f"{address}/detect", content=frame(), timeout=300).raise_for_status().json()
    console.print(
        f"the Bento found {answer['count']} sources with {answer['model']['name']} in a frame of {len(STARS)}"
    )
    if answer["count"] != len(STARS):
        raise SystemExit(1)


def build(home: Path) -> str:
    """Run `bentoml build` offline and return the tag."""
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(ROOT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bentoml build failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip().splitlines()[-1].removeprefix("__tag__:")


def check_contents(home: Path, tag: str) -> None:
    """A Bento holds the domain, the service and the bundle, and no training code."""
    source = home / "bentos" / tag.replace(":", "/") / "src"
    missing = [name for name in ("lynceus", "service", "model_store/bundles") if not (source / name).exists()]
    if missing or (source / "training").exists():
        raise SystemExit(f"the Bento lacks {missing} or holds training/")


def frame() -> bytes:
    """A frame with a few stars on it."""
    pixels = np.random.default_rng(0).normal(500, 5, (256, 280))
    row, column = np.mgrid[:256, :280]
    for x, y in STARS:
        pixels += 600 * np.exp(-0.5 * ((row - y) ** 2 + (column - x) ** 2) / 1.4**2)
    file = BytesIO()
    fits.PrimaryHDU(pixels.astype(np.float32)).writeto(file)
    return file.getvalue()


if __name__ == "__main__":
    typer.run(main)
