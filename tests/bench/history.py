"""Earlier runs, a line of JSON each, and what the last one on this machine measured."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lynceus.bundle import read_manifest
from tests.bench.figures import Figure

PACKAGES = ("torch", "torchvision", "openvino", "numpy", "sep", "bentoml")
Record = dict[str, Any]


def machine() -> dict[str, object]:
    """What figures must share to be compared: the processor, and how many cores this process may use."""
    return {"cpu": _processor(), "cores": len(os.sched_getaffinity(0))}


def provenance(bundle: Path) -> Record:
    """What else shapes the figures: versions, the commit, the bundle."""
    manifest = read_manifest(bundle)
    return {
        "at": time.time(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "bundle": f"{manifest.name}/{manifest.version}",
    }


def read(path: Path) -> list[Record]:
    """The runs so far, oldest first; lines of another form are left out."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [record for record in records if "machine" in record and "parts" in record]


def append(path: Path, record: Record) -> None:
    """Add a run."""
    with path.open("a") as history:
        history.write(json.dumps(record) + "\n")


def last_medians(records: Sequence[Record], where: Mapping[str, object], part: str) -> dict[str, float]:
    """The median of each figure of a part when it was last measured on such a machine, by name."""
    medians: dict[str, float] = {}
    for record in records:
        if record["machine"] == where:
            figures = record["parts"].get(part, {})
            medians |= {name: figure["median"] for name, figure in figures.items()}
    return medians


def over_last(figures: Sequence[Figure], last: Mapping[str, float]) -> Iterator[float | None]:
    """Each figure's median over what it was; None where it was not measured before."""
    for figure in figures:
        before = last.get(figure.name)
        yield figure.median / before if before else None


def _processor() -> str:
    """The model's name where the kernel tells it (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Of the checkout, marked where it was changed; `unknown` outside one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
