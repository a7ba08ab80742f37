"""The offline commands, from a telescope's archive to a published version."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from pydantic import ValidationError

from lynceus.errors import LynceusError
from model_store import BUNDLES, DEFAULT
from training.recipe import Recipe, read_recipe

FAILED = 1
RUNS, SUITE_FRAMES = Path("runs/default"), Path("runs/suite")
STUDY = Path(__file__).with_name("recipes") / "study.toml"
P = ParamSpec("P")
app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)

RecipeFile = Annotated[Path, typer.Argument(help="TOML recipe", exists=True, dir_okay=False)]
Run = Annotated[Path, typer.Option(help="folder of the run: checkpoints, log, weights, simulated frames")]
Dataset = Annotated[Path | None, typer.Option(help="data set that `curate` made", exists=True, file_okay=False)]
Tiles = Annotated[Path | None, typer.Option(help="tile set that `tile` made, in the place of the recipe's")]
Truth = Annotated[Path | None, typer.Option(help="folder of exact truths, in the place of the catalogues")]
Data = Annotated[Path | None, typer.Option(help="folder of real frames", envvar="LYNCEUS_TEST_DATA")]
Workers = Annotated[int, typer.Option(help="processes or threads side by side", min=1)]
SuiteFile = Annotated[Path | None, typer.Option(help="TOML suite, in the place of ours", exists=True, dir_okay=False)]
Suites = Annotated[Path, typer.Option(help="folder of the suite's frames", file_okay=False)]
Only = Annotated[list[str], typer.Option(help="names of scenes; by default all")]
Rivals = Annotated[bool, typer.Option("--rivals/--no-rivals", help="tune sep and SExtractor, and show them beside")]


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Tell what the user can mend in one line on stderr."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (LynceusError, ValidationError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from None

    return run


@app.command()
@told
def simulate(recipe: RecipeFile, run: Run = RUNS, workers: Workers = 2, data: Data = None) -> None:
    """Draw the recipe's frames, and plant sources in its real ones; those already there are kept."""
    from training.scenarios.planted import draw_planted
    from training.scenes.simulate import simulate as draw

    what = read_recipe(recipe)
    for scenes in what.scene_sets:
        draw(run / scenes.folder, scenes.count, scenes.seed, scenes.scene, workers)
    for planted in what.planted_set:
        draw_planted(run, planted, data, what.sky, workers)


@app.command()
@told
def archive(
    folder: Annotated[Path, typer.Argument(help="where to write it")],
    frames: Annotated[int, typer.Option(help="exposures", min=1)] = 30,
    fields: Annotated[int, typer.Option(help="fields on the sky they are of", min=1)] = 10,
    size: Annotated[int, typer.Option(help="side of a frame, in pixels", min=64)] = 768,
    seed: int = 1,
    catalogue: Annotated[str, typer.Option(help="`extraction`, with its faults, or `truth`")] = "extraction",
    missing: Annotated[float, typer.Option(help="share of the rows of a `truth` catalogue left out")] = 0.0,
    flagged: Annotated[float, typer.Option(help="share of the others that FLAGS calls failed")] = 0.0,
    galaxies: Annotated[float | None, typer.Option(help="share of the sources that are galaxies")] = None,
    oddities: Annotated[bool, typer.Option(help="with frames that curation should find")] = True,
    workers: Workers = 2,
) -> None:
    """Write a simulated archive as Joan Oro's pipeline does, with its exact truth beside it."""
    from training.scenes.archive import ArchiveSpec, write_archive

    spec = ArchiveSpec.model_validate(
        {"frames": frames, "fields": fields, "size": size, "seed": seed, "catalogue": catalogue, "missing": missing}
        | {"flagged": flagged, "oddities": oddities}
    )
    if galaxies is not None:
        spec = spec.model_copy(update={"scene": spec.scene.model_copy(update={"galaxies": (galaxies, galaxies)})})
    table = write_archive(folder, spec, workers)
    typer.echo(f"{len(table)} exposures are in {folder}, their exact truth in {folder / 'truth'}")


@app.command()
@told
def inject(
    folder: Annotated[Path, typer.Argument(help="where to write frames and truth")],
    frames: Annotated[list[Path], typer.Argument(help="real frames", exists=True, dir_okay=False)],
    sources: Annotated[int, typer.Option(help="most sources a frame", min=0)] = 60,
    galaxies: Annotated[float, typer.Option(help="share of them that are galaxies")] = 0.3,
    near: Annotated[float, typer.Option(help="share planted as blends with what is there")] = 0.0,
    seed: int = 1,
) -> None:
    """Plant sources in real frames; whatever is there already takes no part in training or scoring."""
    from training.scenes.inject import InjectSpec
    from training.scenes.inject import inject as plant

    spec = InjectSpec(count=sources, galaxies=galaxies, near=near)
    for number, frame in enumerate(frames):
        truth = plant(frame, folder, spec, seed + number)
        typer.echo(f"{frame.name}: {sum(~truth['ignored'])} sources planted")


@app.command()
@told
def curate(
    archive: Annotated[Path, typer.Argument(help="folder of frames and catalogues", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="folder of the data set")],
    labels: Annotated[Path | None, typer.Option(help="labels written by hand: `<file>  OK,ESO` a line")] = None,
    workers: Workers = 2,
) -> None:
    """Pair frames with catalogues, set apart what cannot be trained on, propose labels, draw the contact sheet."""
    from training.curation.curate import SHEET
    from training.curation.curate import curate as review

    table = review(archive, out, labels=labels, workers=workers)
    kept = sum(table["state"] == "kept")
    typer.echo(f"{kept} of {len(table)} frames are kept; look at {out / SHEET}")


@app.command()
@told
def tile(
    recipe: RecipeFile,
    dataset: Annotated[Path, typer.Argument(help="data set that `curate` made", exists=True, file_okay=False)],
    out: Annotated[Path | None, typer.Option(help="folder of the tile set; the recipe's by default")] = None,
    truth: Truth = None,
    workers: Workers = 2,
) -> None:
    """Cut a data set into tiles with their truth, split by field."""
    from lynceus.measure import MeasureSpec
    from training.tiling.tile import make_tiles

    what = read_recipe(recipe)
    folder = out or Path(what.tiles or "tiles")
    tiles = make_tiles(dataset, folder, what.cut, what.sky, MeasureSpec(), what.network.classes, workers, truth)
    counts = ", ".join(f"{len(tiles.split(name))} for {name}" for name in ("train", "validation", "test"))
    typer.echo(f"tiles in {folder}: {counts}")


@app.command()
@told
def train(
    recipe: RecipeFile,
    run: Run = RUNS,
    tiles: Tiles = None,
    threads: Annotated[int, typer.Option(help="0: all")] = 0,
) -> None:
    """Train on tiles or simulated frames; an interrupted run goes on from its last checkpoint."""
    import torch

    from training.fitting.train import train as fit

    if threads:
        torch.set_num_threads(threads)
    network = fit(_with_tiles(read_recipe(recipe), tiles), run)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun every process comes here
        torch.save(network.state_dict(), run / "weights.pt")
        typer.echo(f"averaged weights are in {run / 'weights.pt'}")


@app.command()
@told
def sweep(
    recipe: RecipeFile,
    run: Run = Path("runs/sweep"),
    tiles: Tiles = None,
    trials: Annotated[int | None, typer.Option(help="in all, of all workers together", min=1)] = None,
    sampler: Annotated[str, typer.Option(help="`tpe` or `random`")] = "tpe",
    storage: Annotated[str | None, typer.Option(help="database that several workers share")] = None,
    threads: Annotated[int, typer.Option(help="0: all")] = 0,
) -> None:
    """Search learning rate, weight decay, batch and patience; start it again, or twice, and it goes on."""
    import torch

    from training.studies.sweep import sweep as search
    from training.studies.sweep_spec import SweepSpec

    if threads:
        torch.set_num_threads(threads)
    what = read_recipe(recipe)
    folder = tiles or Path(what.tiles or "tiles")
    search(what, folder, run, SweepSpec.model_validate({"sampler": sampler}), storage, trials)
    typer.echo(f"trials and plots are in {run / 'sweep.html'}")


@app.command()
@told
def study(
    name: Annotated[str, typer.Argument(help="what is compared; without a data set, an archive is simulated")],
    recipe: RecipeFile = STUDY,
    out: Annotated[Path | None, typer.Option(help="folder of the study")] = None,
    dataset: Dataset = None,
    truth: Truth = None,
    seeds: Annotated[int, typer.Option(help="trainings of each variant", min=1)] = 3,
    workers: Workers = 2,
) -> None:
    """Answer one question by training each variant several times: flagged, missing, pretrained, freezing, body ..."""
    from training.studies.study import run_study
    from training.studies.study_archive import study_archive

    folder = out or Path("runs/studies") / name
    if dataset is None:
        dataset, truth = study_archive(name, folder, workers=workers)
    run_study(name, read_recipe(recipe), dataset, folder, range(1, seeds + 1), truth, workers)
    typer.echo((folder / "study.md").read_text())


@app.command()
@told
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="folder <name>/<version>", file_okay=False)] = DEFAULT,
    out: Annotated[Path, typer.Option(help="gets report.html and report.json")] = Path("runs/report"),
    dataset: Dataset = None,
    tiles: Tiles = None,
    truth: Truth = None,
    scenes: Annotated[Path | None, typer.Option(help="simulated frames, in the place of a data set")] = None,
    tuned_on: Annotated[Path | None, typer.Option(help="simulated frames that the rivals are tuned on")] = None,
    faintest: Annotated[float | None, typer.Option(help="ignore sources of a lower signal to noise")] = None,
    rivals: Rivals = True,
    workers: Workers = 2,
    device: str = "cpu",
) -> None:
    """Score a version on a data set or on simulated frames, beside its rivals."""
    from training.scoring.appraisal import evaluate_bundle
    from training.scoring.card import table

    reports = evaluate_bundle(
        bundle, out, dataset=dataset, tiles=tiles, truth=truth, scenes=scenes, tuned_on=tuned_on, faintest=faintest,
        rivals=rivals, workers=workers, device=device,
    )  # fmt: skip
    typer.echo(table(reports))
    typer.echo(f"the whole report is {out / 'report.html'}")


@app.command()
@told
def publish(
    recipe: RecipeFile,
    run: Run = RUNS,
    store: Annotated[str, typer.Option(help="folder or s3://bucket/prefix")] = str(BUNDLES),
    version: str = "0.1.0",
    dataset: Dataset = None,
    tiles: Tiles = None,
    truth: Truth = None,
    rivals: Rivals = True,
    workers: Workers = 2,
) -> None:
    """Choose the threshold, score, and publish the version with its report into a store."""
    from training.scoring.publish import publish as save

    ref = save(
        _with_tiles(read_recipe(recipe), tiles), run, store, version, workers, dataset, truth=truth, rivals=rivals
    )
    typer.echo(f"published {ref} into {store}; its report is {run / 'report' / 'report.html'}")


@app.command()
@told
def scenarios(
    out: Suites = SUITE_FRAMES,
    suite: SuiteFile = None,
    split: Annotated[list[str], typer.Option(help="tuning, calibration or test; by default all")] = [],  # noqa: B006
    only: Only = [],  # noqa: B006
    workers: Workers = 2,
) -> None:
    """Draw the scenes that finders are compared on; those already there are kept."""
    from training.scenarios.suite import SPLITS, SUITE, draw_suite, read_suite

    draw_suite(read_suite(suite or SUITE), out, split or SPLITS, workers, only)
    typer.echo(f"the scenes are in {out}")


@app.command()
@told
def rival(
    bundle: Annotated[Path, typer.Argument(help="folder <name>/<version>", file_okay=False)] = DEFAULT,
    out: Annotated[Path, typer.Option(help="gets rival.html, rival.md and rival.json")] = Path("runs/rival"),
    frames: Suites = SUITE_FRAMES,
    suite: SuiteFile = None,
    only: Only = [],  # noqa: B006
    oracle: Annotated[bool, typer.Option(help="ask what knows optics and noise; minutes a frame in a crowd")] = True,
    workers: Workers = 2,
) -> None:
    """Score a version on every scene beside SExtractor at its best; killed, it goes on where it stopped."""
    from training.scenarios.rivalry import compare
    from training.scenarios.suite import SUITE, draw_suite, read_suite
    from training.scenarios.summary import tables

    what = read_suite(suite or SUITE)
    draw_suite(what, frames, ("tuning", "test"), workers)
    made = compare(bundle, what, frames, out, workers, only=only, oracle=oracle)
    typer.echo(tables(made.report))
    typer.echo(f"the page is {out / 'rival.html'}")


@app.command()
@told
def real(
    bundle: Annotated[Path, typer.Argument(help="folder <name>/<version>", file_okay=False)] = DEFAULT,
    out: Annotated[Path, typer.Option(help="gets real.html, real.md and real.json")] = Path("runs/real"),
    data: Data = None,
) -> None:
    """Judge a version on real frames that nothing was trained on: a deep field, a catalogue, frames without stars."""
    from training.errors import TrainingError
    from training.scenarios.real import TABLES, real_tests

    if data is None:
        raise TrainingError("no folder of real frames is named: --data, or LYNCEUS_TEST_DATA")
    real_tests(bundle, data, out)
    typer.echo((out / TABLES).read_text())


def _with_tiles(recipe: Recipe, tiles: Path | None) -> Recipe:
    return recipe if tiles is None else recipe.model_copy(update={"tiles": str(tiles)})


if __name__ == "__main__":
    app()
