"""The store's commands: what is there, fetch and publish versions, point tracks to them, go back."""

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from lynceus.errors import ConflictError, LynceusError
from model_store import BUNDLES, Progress, Ref, Step, Store, Track, open_store
from model_store.store import no_track

FAILED, OVERTAKEN = 1, 3
P = ParamSpec("P")
app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)

What = Annotated[str, typer.Argument(help="name/version, or a track")]
TrackName = Annotated[str, typer.Argument(help="such as stable or canary")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
By = Annotated[str, typer.Option(help="who; the name of the user by default")]
Reason = Annotated[str, typer.Option(help="why, kept in the history")]


@app.callback()
def options(
    context: typer.Context,
    store: Annotated[
        str, typer.Option(envvar="LYNCEUS_STORE", help="folder or s3://bucket/prefix; that of the project by default")
    ] = str(BUNDLES),
    cache: Annotated[
        Path | None, typer.Option(envvar="LYNCEUS_CACHE", help="where versions of an S3 store are kept")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar="LYNCEUS_S3_ENDPOINT", help="of an S3 server other than AWS")
    ] = None,
    region: Annotated[str | None, typer.Option(envvar="LYNCEUS_S3_REGION", help="of the bucket")] = None,
) -> None:
    """Versions of detectors, and the tracks that point to them."""
    context.obj = lambda: open_store(store, cache=cache, endpoint=endpoint, region=region)


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Tell an error in one line on stderr; the exit status says whether somebody was faster."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except LynceusError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(OVERTAKEN if isinstance(error, ConflictError) else FAILED) from None

    return run


@app.command("list")
@told
def list_versions(context: typer.Context, as_json: AsJson = False) -> None:
    """Every version, the newest of each bundle last, and the tracks that point to it."""
    store: Store = context.obj()
    tracks = store.tracks()
    rows = [(ref, [name for name, track in tracks.items() if track.ref == ref]) for ref in store.versions()]
    if as_json:
        _print_json([{"name": ref.name, "version": ref.version, "tracks": names} for ref, names in rows])
    else:
        _print_table([(str(ref), ", ".join(names)) for ref, names in rows])


@app.command()
@told
def show(context: typer.Context, what: What, as_json: AsJson = False) -> None:
    """What a version says of itself."""
    store: Store = context.obj()
    meant = _meant(store, what)
    manifest = store.show(meant.ref if isinstance(meant, Track) else meant)
    if as_json:
        _print_json(manifest.model_dump(mode="json"))
        return
    born = manifest.provenance
    _print_table(
        [
            ("version", f"{manifest.name}/{manifest.version}"),
            ("classes", ", ".join(manifest.network.classes)),
            ("network", manifest.network.body),
            ("default score", f"{manifest.detector.min_score:g}"),
            *[(name, f"{figure:g}") for name, figure in manifest.scores.items()],
            ("weights", f"sha256 {manifest.weights_sha256}"),
            ("trained by", f"code {born.code_version}, seed {born.seed}, parent {born.parent or 'none'}"),
            ("trained on", f"fingerprint {born.data_fingerprint}"),
        ]
    )


@app.command()
@told
def pull(context: typer.Context, what: What) -> None:
    """Fetch and verify a version; prints its folder."""
    store: Store = context.obj()
    meant = _meant(store, what)
    with _progress() as progress:
        folder = store.fetch(meant, progress=progress)
    typer.echo(folder)


@app.command()
@told
def push(context: typer.Context, folder: Annotated[Path, typer.Argument(help="of the version")]) -> None:
    """Publish a version; prints its name. Pushing the same one again does no harm."""
    from lynceus.bundle import read_manifest

    read_manifest(folder)  # what is published stays, so nothing may be that no reader understands
    store: Store = context.obj()
    with _progress() as progress:
        ref = store.push(folder, progress=progress)
    typer.echo(ref)


@app.command()
@told
def verify(
    context: typer.Context,
    what: Annotated[list[str] | None, typer.Argument(help="name/version or tracks; everything by default")] = None,
) -> None:
    """Read every byte where it lies and check it."""
    store: Store = context.obj()
    everything: list[Ref | Track] = [*store.versions(), *store.tracks().values()] if not what else []
    meant = everything or [_meant(store, one) for one in what or ()]
    faults = 0
    for one in meant:
        name = one.name if isinstance(one, Track) else str(one)
        try:
            store.verify(one)
            typer.echo(f"{name}: ok")
        except LynceusError as error:
            faults += 1
            typer.echo(f"error: {error}", err=True)
    if faults:
        raise typer.Exit(FAILED)


@app.command()
@told
def tracks(context: typer.Context, as_json: AsJson = False) -> None:
    """Where every track points, since when, by whom and why."""
    store: Store = context.obj()
    found = store.tracks()
    if as_json:
        _print_json({name: _step_dict(track.history[-1]) for name, track in found.items()})
    else:
        _print_table([(name, *_step_row(track.history[-1])) for name, track in found.items()])


@app.command()
@told
def promote(
    context: typer.Context,
    track: TrackName,
    version: Annotated[str, typer.Argument(help="name/version")],
    reason: Reason = "",
    by: By = "",
    expected: Annotated[int | None, typer.Option(help="revision the track must be at; 0 for a new one", min=0)] = None,
) -> None:
    """Point a track to a version."""
    store: Store = context.obj()
    typer.echo(store.promote(track, Ref.parse(version), by=by or _user(), reason=reason, expected=expected))


@app.command()
@told
def rollback(context: typer.Context, track: TrackName, reason: Reason = "", by: By = "") -> None:
    """Point a track to the version it pointed to before; twice goes two versions back."""
    store: Store = context.obj()
    typer.echo(store.roll_back(track, by=by or _user(), reason=reason or "rolled back"))


@app.command()
@told
def history(context: typer.Context, track: TrackName, as_json: AsJson = False) -> None:
    """Everything a track ever pointed to, the latest last."""
    store: Store = context.obj()
    steps = _track(store, track).history
    if as_json:
        _print_json([_step_dict(step) for step in steps])
    else:
        _print_table([_step_row(step) for step in steps])


def _meant(store: Store, what: str) -> Ref | Track:
    """A version has a slash in its name, a track has none."""
    return Ref.parse(what) if "/" in what else _track(store, what)


def _track(store: Store, name: str) -> Track:
    found = store.tracks()
    if name not in found:
        raise no_track(name)
    return found[name]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that nobody named
        return f"user {os.getuid()}"


def _step_row(step: Step) -> tuple[str, ...]:
    return str(step.revision), str(step.ref), step.since, step.by, step.reason


def _step_dict(step: Step) -> dict[str, Any]:
    return {**vars(step), "ref": str(step.ref)}


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns of equal width, with nothing that a shell script would trip over."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Bars on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield progress


if __name__ == "__main__":
    app()
