"""The command `lynceus`: detect, evaluate, watch, models and compare from a shell."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lynceus.arrivals import FRAME_SUFFIX, PATTERNS
from lynceus.client import EXTENSIONS, AsyncClient, Client
from lynceus.durable import write_whole
from lynceus.errors import LynceusError
from lynceus.watch import watch_folder
from lynceus.watched import Watched

OK, FAILED, USAGE = 0, 1, 2
URL = "http://127.0.0.1:3000"
KEY_VARIABLE = "LYNCEUS_API_KEY"
COLUMNS = ("id", "x", "y", "score", "snr", "flux", "fwhm", "flags")
MAX_ROWS = 20
BINARY = frozenset({"fits", "ldac"})

app = typer.Typer(
    help="Find the astronomical sources in telescope frames.", no_args_is_help=True, pretty_exceptions_enable=False
)
stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class Format(StrEnum):
    """How sources are written."""

    json = "json"
    votable = "votable"
    ecsv = "ecsv"
    csv = "csv"
    fits = "fits"
    ldac = "ldac"
    sextractor = "sextractor"
    ds9 = "ds9"


class Priority(StrEnum):
    """Whether frames are of this night."""

    live = "live"
    backfill = "backfill"


class BoxRule(StrEnum):
    """Whose boxes a catalogue's sources get."""

    bundle = "bundle"
    catalogue = "catalogue"


Url = Annotated[str, typer.Option(envvar="LYNCEUS_URL", help="Where the service is.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", envvar="LYNCEUS_API_KEY_FILE", help="File that holds the API key of the service."),
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds a frame may take, retries included.")]
Hdu = Annotated[str | None, typer.Option(help="HDU of the frame, by index or EXTNAME, or `all`.")]
MinScore = Annotated[float | None, typer.Option(min=0, max=1, help="Lowest score.")]
MaxDetections = Annotated[int | None, typer.Option(min=0, help="Most detections a frame, the best first.")]
Model = Annotated[str | None, typer.Option(help="A track, a version, or NAME/VERSION.")]
Measure = Annotated[bool, typer.Option(help="Measure flux, FWHM and shape.")]
Deadline = Annotated[float | None, typer.Option(min=0, help="Seconds the service may take for a frame.")]
Urgency = Annotated[Priority, typer.Option(help="Backfill takes what live frames leave.")]
File = typer.Option(exists=True, dir_okay=False)


@app.command()
def detect(
    frames: Annotated[list[Path], typer.Argument(metavar="FRAME...", help="FITS files.")],
    url: Url = URL,
    api_key_file: KeyFile = None,
    format: Annotated[Format, typer.Option(help="Of the answers.")] = Format.json,
    out: Annotated[Path | None, typer.Option(help="Folder for the answers; a file, for one frame.")] = None,
    hdu: Hdu = None,
    min_score: MinScore = None,
    max_detections: MaxDetections = None,
    model: Model = None,
    measure: Measure = True,
    deadline: Deadline = None,
    priority: Urgency = Priority.live,
    mask: Annotated[Path | None, typer.Option(exists=True, help="FITS file; what is not 0 is ignored.")] = None,
    weight: Annotated[Path | None, typer.Option(exists=True, help="FITS file; what is 0 is ignored.")] = None,
    timeout: Timeout = 300.0,
) -> None:
    """Find the sources in frames.

    Without --out, one frame's answer goes to standard output (as a summary where that is a terminal), and those of
    several frames as one line of JSON each. The exit code is 1 if a frame failed; the others are answered all the same.
    """
    targets = _targets(frames, out, format)
    query = _query(hdu, min_score, max_detections, model, measure, deadline, priority)
    failed = 0
    with _told(), _client(url, timeout, api_key_file) as client, _progress(len(frames)) as advance:
        for frame, target in zip(frames, targets, strict=True):
            try:
                answer = client.detect_as(frame, format, mask=mask, weight=weight, **query)
                _give(answer, target, format, alone=len(frames) == 1)
            except (LynceusError, OSError) as error:
                failed += 1
                _complain(error, frame)
            advance(frame)
    raise typer.Exit(FAILED if failed else OK)


@app.command()
def evaluate(
    frame: Annotated[Path, typer.Argument(help="A FITS file.")],
    catalogue: Annotated[Path, typer.Argument(help="The sources in it: ASCII_HEAD, LDAC, FITS, VOTable, ECSV, CSV.")],
    detections: Annotated[Path | None, typer.Option(help="A list to score in place of the service's own.")] = None,
    url: Url = URL,
    api_key_file: KeyFile = None,
    box_rule: Annotated[BoxRule, typer.Option(help="Boxes by the version's rule, or the catalogue's.")] = (
        BoxRule.bundle
    ),
    ignore_flags: Annotated[int | None, typer.Option(min=0, help="Rows with these FLAGS do not count.")] = None,
    unlisted: Annotated[bool, typer.Option(help="What the catalogue lacks does not count.")] = True,
    hdu: Hdu = None,
    min_score: MinScore = None,
    model: Model = None,
    deadline: Deadline = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the overlay to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeout: Timeout = 300.0,
) -> None:
    """Score what the service finds in a frame, or another list, against a catalogue."""
    query = {
        "box_rule": box_rule.value, "ignore_flags": ignore_flags, "unlisted": unlisted, "hdu": hdu,
        "min_score": min_score, "model": model, "deadline": deadline,
    }  # fmt: skip
    with _told(frame), _client(url, timeout, api_key_file) as client:
        answer = client.evaluate(frame, catalogue, detections, **query)
        if html is not None:
            write_whole(html, client.evaluation_page(frame, catalogue, detections, **query))
        if as_json:
            typer.echo(json.dumps(answer, indent=1))
        else:
            _print_evaluation(answer)


@app.command()
def models(
    url: Url = URL,
    api_key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeout: Timeout = 30.0,
) -> None:
    """List the versions that the service has loaded."""
    with _told(), _client(url, timeout, api_key_file) as client:
        answer = client.models()
        if as_json:
            typer.echo(json.dumps(answer, indent=1))
        else:
            _print_models(answer)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Where frames arrive.")],
    url: Url = URL,
    api_key_file: KeyFile = None,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for results; else beside frames.")] = None,
    format: Annotated[Format, typer.Option(help="Of the results.")] = Format.votable,
    pattern: Annotated[list[str] | None, typer.Option(help="Of frames' names; may be repeated.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into sub-folders too.")] = False,
    poll: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between looks, where a file system reports no changes.")
    ] = None,
    dead_letter: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for reasons.")] = None,
    move: Annotated[bool, typer.Option("--move", help="Move refused frames there too.")] = False,
    state: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for the spool; a local disk.")] = None,
    settle: Annotated[float, typer.Option(min=0.01, help="Seconds a file must be at rest.")] = 1.0,
    give_up: Annotated[float, typer.Option(min=0, help="Seconds until an incomplete file is given up.")] = 600.0,
    tries: Annotated[int, typer.Option(min=1, help="How often the service may fail on a frame.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, help="Frames in flight.")] = 2,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for what is in flight at the end.")] = 30.0,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Serve /metrics here.")] = None,
    metrics_file: Annotated[Path | None, typer.Option(dir_okay=False, help="Write metrics to this file.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when every frame has its result or reason.")] = False,
    hdu: Hdu = None,
    min_score: MinScore = None,
    max_detections: MaxDetections = None,
    model: Model = None,
    measure: Measure = True,
    deadline: Deadline = None,
    priority: Urgency = Priority.live,
    timeout: Timeout = 300.0,
) -> None:
    """Send every frame that arrives in a folder, and write its sources beside it."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    watched = Watched(
        folder=folder,
        out=out,
        format=format.value,
        patterns=tuple(one.lower() for one in pattern) if pattern else PATTERNS,
        recursive=recursive,
        dead_letters=dead_letter,
        state=state,
        move=move,
        poll=poll,
        settle=settle,
        give_up=give_up,
        tries=tries,
        concurrency=concurrency,
        grace=grace,
        once=once,
        query=_query(hdu, min_score, max_detections, model, measure, deadline, priority),
    )
    with _told():
        key = _key(api_key_file)
        tally = watch_folder(
            watched, lambda: AsyncClient(url, timeout=timeout, retries=0, api_key=key), metrics_port, metrics_file
        )
    raise typer.Exit(FAILED if once and tally.dead else OK)


@app.command()
def compare(
    frames: Annotated[Path, typer.Argument(exists=True, help="Folder of FITS files.")],
    stable: Annotated[str, typer.Option(metavar="URL[@MODEL]", help="What serves now.")] = f"{URL}@stable",
    canary: Annotated[str, typer.Option(metavar="URL[@MODEL]", help="What may replace it.")] = f"{URL}@canary",
    catalogues: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of tables, each named as its frame.")
    ] = None,
    darks: Annotated[Path | None, typer.Option(exists=True, help="Folder of frames without sky.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures here.")] = None,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a page here.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Draw so many of the frames.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    allow_same: Annotated[bool, typer.Option("--allow-same", help="Compare a version with itself.")] = False,
    api_key_file: KeyFile = None,
    timeout: Timeout = 300.0,
) -> None:
    """Compare two versions on real frames: PROMOTE (exit code 0), HOLD (10), ROLL BACK (20), not compared (30)."""
    from lynceus.compare_files import compare_command  # a second of imports that no other command needs

    code = compare_command(
        stable,
        canary,
        frames,
        catalogues=catalogues,
        darks=darks,
        json_path=json_file,
        html_path=html,
        max_frames=max_frames,
        seed=seed,
        allow_same=allow_same,
        connect=lambda endpoint: _client(endpoint.url, timeout, api_key_file),
    )
    raise typer.Exit(code)


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def _query(
    hdu: str | None,
    min_score: float | None,
    max_detections: int | None,
    model: str | None,
    measure: bool,
    deadline: float | None,
    priority: Priority,
) -> dict[str, Any]:
    """Parameters of `/detect`; what says nothing new stays away."""
    return {
        "hdu": hdu, "min_score": min_score, "max_detections": max_detections, "model": model,
        "measure": None if measure else False, "deadline": deadline,
        "priority": None if priority is Priority.live else priority.value,
    }  # fmt: skip


def _targets(frames: Sequence[Path], out: Path | None, format: str) -> list[Path | None]:
    """Where each answer goes; None for standard output."""
    if out is None:
        if len(frames) > 1 and format != Format.json:
            raise typer.BadParameter("several frames need --out, or the format json")
        if format in BINARY and is_terminal():
            raise typer.BadParameter(f"{format} is not for a terminal; give --out")
        return [None] * len(frames)
    as_file = len(frames) == 1 and not out.is_dir() and not str(out).endswith("/")
    suffix = EXTENSIONS[format]
    targets = [out if as_file else out / (FRAME_SUFFIX.sub("", frame.name) + suffix) for frame in frames]
    if len(set(targets)) < len(targets):
        raise typer.BadParameter("two frames of one name would be written to one file")
    overwritten = {target.resolve() for target in targets} & {frame.resolve() for frame in frames}
    if overwritten:
        raise typer.BadParameter(f"{overwritten.pop()} would be overwritten; choose another --out")
    return list(targets)


def _client(url: str, timeout: float, key_file: Path | None) -> Client:
    return Client(url, timeout=timeout, api_key=_key(key_file))


def _key(file: Path | None) -> str | Path | None:
    """The API key, or the file that holds it; never from the command line, which every user can read."""
    return file or os.environ.get(KEY_VARIABLE)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on standard error where that is a terminal and there is more than one frame."""
    columns = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=stderr, transient=True, disable=total == 1 or not stderr.is_terminal) as progress:
        task = progress.add_task("frames", total=total)
        yield lambda frame: progress.update(task, advance=1, description=frame.name)


@contextmanager
def _told(frame: Path | None = None) -> Iterator[None]:
    """Turn what went wrong into a line on standard error and an exit code."""
    try:
        yield
    except (LynceusError, OSError) as error:
        _complain(error, frame)
        raise typer.Exit(FAILED) from None


def _complain(error: Exception, frame: Path | None) -> None:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split())
    beginning = f"{frame}: " if frame is not None and not text.startswith(str(frame)) else ""
    stderr.print(f"error: {beginning}{text}", markup=False)


def _give(answer: bytes, target: Path | None, format: str, alone: bool) -> None:
    """Write an answer where it belongs."""
    if target is not None:
        write_whole(target, answer)
    elif alone and format == Format.json and is_terminal():
        _print_sources(json.loads(answer))
    else:
        sys.stdout.buffer.write(answer)
        if format == Format.json:
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()


def _print_sources(answer: Mapping[str, Any]) -> None:
    for block in answer.get("frames", [answer]):
        table = Table(*COLUMNS, box=None, header_style="bold")
        for row in block["detections"][:MAX_ROWS]:
            table.add_row(*(_cell(row.get(name)) for name in COLUMNS))
        stdout.print(table)
        facts, model = block["frame"], block["model"]
        left = block["count"] - MAX_ROWS
        stdout.print(f"\n{block['count']} sources" + (f", {left} not shown" if left > 0 else ""), end="; ")
        stdout.print(f"seeing {_cell(facts.get('fwhm_px'))} px; {model['name']}/{model['version']}", markup=False)
        _print_warnings(block)


def _print_evaluation(answer: Mapping[str, Any]) -> None:
    table = Table("figure", "value", box=None, header_style="bold")
    for name, value in _figures(answer["evaluation"]):
        table.add_row(name, _cell(value))
    stdout.print(table)
    _print_warnings(answer)


def _figures(evaluation: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every single figure by its name; curves are for the page and for JSON."""
    for name, value in evaluation.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{above}{name}.")
        elif not isinstance(value, list):
            yield f"{above}{name}", value


def _print_models(answer: Mapping[str, Any]) -> None:
    table = Table("model", "tracks", "min score", "sha256", "scores", box=None, header_style="bold")
    for one in answer["models"]:
        scores = ", ".join(f"{name} {_cell(value)}" for name, value in (one.get("scores") or {}).items())
        tracks = ", ".join(one.get("tracks", []))
        table.add_row(
            f"{one['name']}/{one['version']}", tracks, _cell(one.get("min_score")), one["sha256"][:12], scores
        )
    stdout.print(table)
    _print_warnings(answer)


def _print_warnings(answer: Mapping[str, Any]) -> None:
    for warning in answer.get("warnings", []):
        stdout.print(f"warning: {warning}", markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    return "-" if value is None else str(value)
