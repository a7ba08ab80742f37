"""Our readers of uploads against atheris, which looks for inputs that reach new code: `python -m tests.soak.fuzz_fits`.

A crash, an error that is not one of ours, more than two gigabytes, or more than twenty seconds for one input is a
finding, and that input is kept.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

MOST_BYTES = 64 * 1024  # of an input
MOST_MEMORY, MOST_SECONDS = 2048, 20  # MiB; for one input
GRACE = 600.0  # seconds to start, and to end, on a machine that has other work
PROGRESS = re.compile(r"#(\d+)\s+(\w+) +cov: (\d+) ft: (\d+) corp: (\d+)/")
DONE = re.compile(r"Done (\d+) runs in (\d+) second")
TABLES = (
    b"#   1 X_IMAGE  Object position along x [pixel]\n#   2 Y_IMAGE  Object position [pixel]\n 5.5 6.5\n 7.5 8.5\n",
    b"x,y,flux\n1.5,2.5,100\n3.5,4.5,\n",
    b"# %ECSV 1.0\n# ---\n# datatype:\n# - {name: x, datatype: float64}\n# - {name: y, datatype: int8}\nx y\n1 2\n",
    b'{"detections": [{"x": 1, "y": 2, "box": [0, 0, 3, 4]}]}',
    b'<VOTABLE><RESOURCE><TABLE><FIELD name="x" datatype="double"/><FIELD name="y" datatype="int" arraysize="*"/>'
    b"<DATA><TABLEDATA><TR><TD>1</TD><TD>2</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>",
    b'<VOTABLE><RESOURCE><TABLE><FIELD name="x" datatype="float"/><FIELD name="t" datatype="char" arraysize="*"/>'
    b'<DATA><BINARY><STREAM encoding="base64">P4AAAAAAAAFh</STREAM></BINARY></DATA></TABLE></RESOURCE></VOTABLE>',
)
"""Catalogues of every kind, for the reader behind `/evaluate`."""


def main(
    seconds: Annotated[int, typer.Option(min=1, help="how long")] = 600,
    findings: Annotated[Path, typer.Option(help="folder for inputs that break something")] = Path("out/fuzz"),
    out: Annotated[Path | None, typer.Option(help="file for the figures, as JSON")] = None,
    seed: Annotated[int, typer.Option(min=1, help="of everything drawn at random")] = 1,
) -> None:
    """Fuzz for so long, print the figures, and exit with 1 if there was a finding."""
    findings.mkdir(parents=True, exist_ok=True)
    old = set(findings.iterdir())
    with TemporaryDirectory() as corpus:
        write_seeds(Path(corpus))
        figures = fuzzed(Path(corpus), findings, seconds, seed)
    figures["findings"] = sorted(str(path) for path in set(findings.iterdir()) - old)
    Console(width=120).print(table(figures))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    if figures["findings"] or figures["exit code"]:
        raise typer.Exit(1)


def write_seeds(corpus: Path) -> None:
    """Sound files to begin with."""
    from tests.fuzz.mutations import seeds

    for number, data in enumerate((*seeds(), *tables())):
        (corpus / str(number)).write_bytes(data)


def tables() -> tuple[bytes, ...]:
    """Catalogues, a FITS table among them."""
    from io import BytesIO

    from astropy.table import Table as Columns

    file = BytesIO()
    Columns({"X_IMAGE": np.arange(3.0), "FLAGS": np.arange(3), "NAME": ["a", "b", "c"]}).write(file, format="fits")
    return (*TABLES, file.getvalue())


def fuzzed(corpus: Path, findings: Path, seconds: int, seed: int) -> dict[str, object]:
    """Let atheris run in a process of its own, which a finding ends; the time that is left goes to a next one."""
    executions = restarts = code = 0
    last: re.Match[str] | None = None
    text = ""
    end = time.monotonic() + seconds
    while (left := int(end - time.monotonic())) > 0 and restarts <= 3:
        text, code = _run(corpus, findings, left, seed + restarts)
        steps = list(PROGRESS.finditer(text))
        last = steps[-1] if steps else last
        done = DONE.search(text)
        executions += int(done[1] if done else last[1] if last else 0)
        if done or not steps:
            break
        restarts += 1
    if code:
        print(text[-3000:])
    coverage, features, inputs = (int(last[group]) for group in (3, 4, 5)) if last else (0, 0, 0)
    return {
        "seconds": seconds,
        "executions": executions,
        "executions a second": round(executions / seconds, 1),
        "branches reached": coverage,
        "features": features,
        "inputs kept": inputs,
        "exit code": code,
    }


def _run(corpus: Path, findings: Path, seconds: int, seed: int) -> tuple[str, int]:
    options = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", f"-rss_limit_mb={MOST_MEMORY}"]
    options += [f"-timeout={MOST_SECONDS}", f"-artifact_prefix={findings}/", f"-seed={seed}", "-print_final_stats=0"]
    command = [sys.executable, "-m", "tests.soak.fuzz_fits_target", *options, str(corpus)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
    try:
        _, text = process.communicate(timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        _, text = process.communicate()
    return text, process.returncode


def table(figures: dict[str, object]) -> Table:
    """A line a figure."""
    shown = Table("atheris on our readers", "", title="inputs that nobody would write")
    for name, figure in figures.items():
        shown.add_row(name, "\n".join(figure) or "none" if isinstance(figure, list) else str(figure))
    return shown


if __name__ == "__main__":
    typer.run(main)
