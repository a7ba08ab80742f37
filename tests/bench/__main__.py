"""Time everything side by side: `make bench`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from lynceus.frame import read_frame
from lynceus.precision import Precision
from model_store import default_bundle
from tests.bench import clients, detector, growth, history, service, stages, start
from tests.bench.bench import Bench
from tests.bench.figures import Figure
from tests.bench.shadow import shadow_cost
from tests.bench.tables import table

FOLDER = Path(".bench")
HISTORY = "history.jsonl"


def shadow(bench: Bench) -> list[Figure]:
    """What the canary's shadow costs stable."""
    ratios = shadow_cost(read_frame(bench.frame).pixels, bench.folder, bench.console)
    return [Figure(f"with the canary's shadow over without, {name}", "x", (one,)) for name, one in ratios.items()]


PARTS: Mapping[str, Callable[[Bench], list[Figure]]] = {
    "stages": stages.run,
    "detector": detector.run,
    "service": service.run,
    "clients": clients.run,
    "start": start.run,
    "shadow": shadow,
    "growth": growth.run,
}
LONG = "growth"  # asked for by name


def main(
    only: Annotated[str, typer.Option(help=f"parts, separated by commas: {', '.join(PARTS)}")] = ",".join(
        part for part in PARTS if part != LONG
    ),
    rounds: Annotated[int, typer.Option(min=1, help="that count, after one that does not")] = 6,
    bundle: Annotated[
        Path | None, typer.Option(envvar="LYNCEUS_BUNDLE", help="version; by default the shipped one")
    ] = (None),
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="where networks run")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="of the detector's network")] = "auto",
    side: Annotated[int, typer.Option(min=512, help="of the frame, in pixels; bars are for 4096")] = 4096,
    out: Annotated[Path, typer.Option(help="folder for the charts of growth, and their figures")] = FOLDER / "growth",
) -> None:
    """Time the parts, print a table of each beside its last run on this machine, and add them to the history."""
    parts = [part.strip() for part in only.split(",") if part.strip()]
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    FOLDER.mkdir(exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    bench = Bench(FOLDER, out, bundle or default_bundle(), device, precision, rounds, side, console)
    how = {"device": device, "precision": precision, "side": side}
    record = history.provenance(bench.bundle) | how | {"rounds": rounds, "parts": {}}
    console.print(", ".join(f"{name} {value}" for name, value in record.items() if name not in ("at", "parts")))
    earlier = [one for one in history.read(FOLDER / HISTORY) if how.items() <= one.items()]
    for part in parts:
        console.print(f"{part} ...")
        figures = PARTS[part](bench)
        console.print(table(part, figures, history.last_medians(earlier, record["machine"], part)))
        record["parts"][part] = {figure.name: figure.json() for figure in figures}
    history.append(FOLDER / HISTORY, record)


if __name__ == "__main__":
    typer.run(main)
