"""`lynceus compare`: folders in, a decision, reports and an exit code out."""

import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from lynceus.arrivals import FRAME_SUFFIX, PATTERNS
from lynceus.compare import Connect, compare
from lynceus.comparison import SCHEMA_VERSION, CompareSpec, Comparison, Endpoint
from lynceus.comparison_report import comparison_json, comparison_page
from lynceus.durable import write_whole
from lynceus.errors import ComparisonError, LynceusError

NOT_COMPARED = 30  # exit code
CATALOGUE_ENDINGS = (".cat", ".ldac", ".fits", ".fit", ".vot", ".xml", ".ecsv", ".csv", ".dat", ".txt")
CATALOGUE_MARKS = ("", "_trl", "_cat")  # between the frame's name and the ending


def compare_command(
    stable: str,
    canary: str,
    frames: Path,
    *,
    catalogues: Path | None = None,
    darks: Path | None = None,
    json_path: Path | None = None,
    html_path: Path | None = None,
    max_frames: int | None = None,
    seed: int = 0,
    allow_same: bool = False,
    spec: CompareSpec | None = None,
    connect: Connect | None = None,
) -> int:
    """Compare two versions on a folder of frames, write what was asked for, and say what is to be done.

    Parameters
    ----------
    stable, canary : str
        `http://host:3000` (its stable version) or `http://host:3000@canary`, a version or `name/version` in its place.
    frames : Path
        Folder of FITS files, or one file.
    catalogues : Path or None
        Folder of tables, each named as its frame, with another ending.
    darks : Path or None
        Folder of FITS files without sky.
    json_path, html_path : Path or None
        Where the reports go.
    max_frames : int or None
        Draw so many of the frames.
    seed : int
        Of the frames drawn, the stars planted and the bootstrap.
    allow_same : bool
        Whether a version may be compared with itself.
    spec : CompareSpec or None
        Everything else; by default the defaults.
    connect : callable or None
        As `compare` has it.

    Returns
    -------
    int
        The exit code: 0 PROMOTE, 10 HOLD, 20 ROLL BACK, 30 could not compare.
    """
    spec = spec or CompareSpec()
    decision = spec.decision.model_copy(update={"seed": seed})
    spec = spec.model_copy(update={"seed": seed, "allow_same": allow_same, "decision": decision})
    try:
        chosen = drawn(fits_files(frames), max_frames, seed)
        pairs = {} if catalogues is None else catalogues_of(chosen, catalogues)
        dark_files = [] if darks is None else fits_files(darks)
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("comparing", total=None)

            def tell(done: int, total: int, name: str) -> None:
                bar.update(task, completed=done, total=total, description=name)

            result = compare(
                Endpoint.parse(stable), Endpoint.parse(canary), chosen, pairs, dark_files, spec, tell, connect
            )
        write_reports(result, json_path, html_path)
    except (LynceusError, OSError) as error:
        return _not_compared(error, json_path)
    print(summary(result))
    return result.decision.outcome.exit_code


def fits_files(folder: Path) -> list[Path]:
    """The FITS files of a folder by name; of a single file that alone.

    Raises
    ------
    ComparisonError
        If there are none.
    """
    if folder.is_file():
        return [folder]
    found = sorted(path for path in folder.glob("*") if path.is_file() and _is_fits(path.name))
    if not found:
        raise ComparisonError(f"there is no FITS file in {folder}")
    return found


def catalogues_of(frames: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The catalogue of every frame that has one.

    Parameters
    ----------
    frames : sequence of Path
        FITS files.
    folder : Path
        Where the catalogues are; it may be that of the frames.

    Raises
    ------
    ComparisonError
        If no frame has one.
    """
    present = {path.name.lower(): path for path in folder.glob("*") if path.is_file()}
    found = {}
    for frame in frames:
        stem = FRAME_SUFFIX.sub("", frame.name).lower()
        names = (f"{stem}{mark}{ending}" for mark in CATALOGUE_MARKS for ending in CATALOGUE_ENDINGS)
        paths = (present[name] for name in names if name in present)
        own = next((path for path in paths if path.resolve() != frame.resolve()), None)
        if own is not None:
            found[frame] = own
    if not found:
        raise ComparisonError(f"no file in {folder} is named as a frame is, with the ending of a catalogue")
    return found


def drawn(frames: Sequence[Path], most: int | None, seed: int) -> list[Path]:
    """At most so many of the frames, drawn by the seed, in their order."""
    if most is None or len(frames) <= most:
        return list(frames)
    chosen = np.random.default_rng(seed).choice(len(frames), most, replace=False)
    return [frames[index] for index in sorted(chosen)]


def summary(result: Comparison) -> str:
    """What is printed: the decision and why."""
    head = f"{result.decision.outcome.value}: {result.canary} against {result.stable}"
    left_out = result.evidence.left_out
    lines = [f"  - {reason}" for reason in result.decision.reasons]
    if left_out:
        lines.append(f"  ({len(left_out)} left out, such as {left_out[0].frame}: {left_out[0].reason})")
    return "\n".join([head, *lines])


def write_reports(result: Comparison, json_path: Path | None, html_path: Path | None) -> None:
    """Write the reports that were asked for."""
    if json_path is not None:
        write_whole(json_path, comparison_json(result))
    if html_path is not None:
        write_whole(html_path, comparison_page(result).encode())


def _not_compared(error: Exception, json_path: Path | None) -> int:
    """Say why there is no decision; a report that was asked for says it too."""
    reason = str(error)
    print(f"could not compare: {reason}", file=sys.stderr)
    if json_path is not None:
        report = {
            "schema_version": SCHEMA_VERSION,
            "outcome": "COULD NOT COMPARE",
            "exit_code": NOT_COMPARED,
            "reasons": [reason],
        }
        try:
            write_whole(json_path, json.dumps(report, indent=1).encode() + b"\n")
        except OSError as failed:
            print(f"the report cannot be written: {failed.strerror}", file=sys.stderr)
    return NOT_COMPARED


def _is_fits(name: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in PATTERNS)
