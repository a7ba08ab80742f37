"""The long fault suite, apart from CI: `make soak`."""

import json
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.soak.trials import TRIALS, Trial, Verdict

console = Console(width=150, highlight=False)


def main(
    scale: Annotated[float, typer.Option(min=0.02, max=10, help="of the counts: 1 takes about ten minutes")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help="trials by name; all by default")] = None,
    out: Annotated[Path | None, typer.Option(help="file for the figures, as JSON")] = None,
) -> None:
    """Hurt servers of our own, one fault after the other; exit with 1 where a promise is not kept."""
    known = [trial.run.__name__ for trial in TRIALS]
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"no trial {', '.join(unknown)}; there are {', '.join(known)}")
    verdicts = {trial: tried(trial, scale) for trial in TRIALS if not only or trial.run.__name__ in only}
    console.print(table(verdicts))
    if out is not None:
        figures = {trial.run.__name__: one.figures | {"broken": one.broken} for trial, one in verdicts.items()}
        out.write_text(json.dumps(figures, indent=1) + "\n")
    if any(one.broken for one in verdicts.values()):
        raise typer.Exit(1)


def tried(trial: Trial, scale: float) -> Verdict:
    """Run a trial; what it raises breaks it, and not the others."""
    console.print(f"{time.strftime('%H:%M:%S')} {trial.run.__name__}: {trial.name} ...")
    verdict, start = Verdict(), time.monotonic()
    try:
        trial.run(scale, verdict)
    except Exception as error:
        console.print(traceback.format_exc(), markup=False)
        verdict.broken.append(f"{type(error).__name__}: {error}"[:200])
    verdict.figures["took, s"] = round(time.monotonic() - start, 1)
    return verdict


def table(verdicts: dict[Trial, Verdict]) -> Table:
    """A line a trial."""
    shown = Table(title="faults, and what came of them", show_lines=True)
    for name in ("trial", "verdict", "figures"):
        shown.add_column(name)
    for trial, verdict in verdicts.items():
        figures = ", ".join(f"{name}: {value}" for name, value in verdict.figures.items())
        shown.add_row(trial.run.__name__, "BROKEN: " + "; ".join(verdict.broken) if verdict.broken else "good", figures)
    return shown


if __name__ == "__main__":
    typer.run(main)
