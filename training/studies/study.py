"""Studies: variants of a recipe, each trained with several seeds, all scored on the same frames."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from astropy.table import Table

from lynceus.durable import write_whole
from lynceus.errors import LynceusError
from lynceus.measure import MeasureSpec
from lynceus.network import Network
from training.curation.dataset import TABLE, read_dataset, read_frames_table
from training.errors import TrainingError
from training.recipe import Recipe
from training.studies.held_out import HeldOut, score
from training.studies.study_page import DASH, file_name, summarise, write_study
from training.studies.variants import Study, Variant, study_of
from training.tiling.exposures import accepted
from training.tiling.split import split_fields
from training.tiling.tileset import TileSet, TileSetSpec

SHARES = (0.5, 0.1, 0.4)  # a study asks for differences: more frames to score on than a published version needs
MEASURE = MeasureSpec()
Figures = dict[str, float | None]


class Trainer(Protocol):
    """What a study needs of `training.fitting.train.train`."""

    def __call__(self, recipe: Recipe, run: Path) -> Network:
        """The trained network of a recipe; goes on where an interrupted run stopped."""
        ...


class Scorer(Protocol):
    """What a study needs of `training.studies.held_out.score`."""

    def __call__(self, network: Network, recipe: Recipe, held: HeldOut, overlay: Path | None) -> Figures:
        """Figures of a network on frames that were held back, and a picture of one of them if asked for."""
        ...


@dataclass(frozen=True)
class Serving:
    """One use of a job's weights that is scored: the variant, how it is served, and where its figures are kept."""

    variant: str
    recipe: Recipe
    kept: Path
    overlay: Path | None

    def digest(self, job: "Job") -> str:
        """Of all that the figures depend on; other figures than those of this are not taken."""
        served = self.recipe.model_copy(update={"tiles": job.data})
        return _digest(_shaping(job.recipe, job.data), served.model_dump_json(), repr(job.held))


@dataclass(frozen=True)
class Job:
    """One training with one seed, and all that is scored of it.

    Attributes
    ----------
    recipe : Recipe
        With its seeds and tile set.
    data : str
        Fingerprint of the tile set.
    run : Path
        Of the training.
    seed : int
        Of the study.
    held : HeldOut
        What to score on.
    servings : tuple of Serving
        Which variants use these weights.
    """

    recipe: Recipe
    data: str
    run: Path
    seed: int
    held: HeldOut
    servings: tuple[Serving, ...]


@dataclass(frozen=True)
class Outcome:
    """The figures of one variant with one seed, or why there are none."""

    variant: str
    seed: int
    figures: Figures | None
    failure: str = ""

    def __str__(self) -> str:
        figure = None if self.figures is None else self.figures.get("map_50")
        told = self.failure or (DASH if figure is None else f"mAP@50 {figure:.4f}")
        return f"{self.variant}, seed {self.seed}: {told}"


def run_study(
    name: str,
    recipe: Recipe,
    dataset: Path,
    out: Path,
    seeds: Sequence[int] = (1, 2, 3),
    truth: Path | None = None,
    workers: int = 2,
    *,
    tiles: TileSetSpec | None = None,
    train: Trainer | None = None,
    score: Scorer = score,
) -> dict[str, Any]:
    """Run a study; what an earlier run has done is not done again.

    Parameters
    ----------
    name : str
        Of the study; see `training.studies.variants.STUDIES`.
    recipe : Recipe
        That the variants depart from. Its `tiles` are not used: a study makes its own.
    dataset : Path
        As `curate` makes it.
    out : Path
        Folder of the study: tile sets, runs, figures, `study.json`, `study.md` and `study.html`.
    seeds : sequence of int
        Each variant is trained once with each: first weights, order and turns of the tiles. The frames and their split
        are the same for all.
    truth : Path or None
        Folder of exact truths `<key>.ecsv` to score against; None for the catalogues.
    workers : int
        Trainings side by side, one thread each where there is more than one.
    tiles : TileSetSpec or None
        How tiles are cut, as far as the study leaves it open; None for the defaults, with 40 % of the frames to test.
    train, score : callable
        What trains and what scores.

    Returns
    -------
    dict
        What `study.json` holds.

    Raises
    ------
    TrainingError
        If there is no such study, the data set cannot be split, or not one variant could be trained.
    """
    study = study_of(name)
    dataset, out, truth = dataset.resolve(), out.resolve(), truth and truth.resolve()
    variants = study.variants(recipe, tiles or TileSetSpec(shares=SHARES))
    cut = {variant.name: cut_variant(variant, dataset, out, workers) for variant in variants}
    held = held_out(variants[0], dataset, truth)
    jobs = plan(variants, seeds, cut, held, out)
    started = time.monotonic()
    outcomes = run_jobs(jobs, workers, partial(do, train=train or _train, score=score))
    if all(outcome.figures is None for outcome in outcomes):
        raise TrainingError(f"not one variant of the study {name} could be trained: {outcomes[0].failure}")
    report = describe(study, variants, outcomes, held, time.monotonic() - started)
    write_study(report, out)
    return report


def cut_variant(variant: Variant, dataset: Path, out: Path, workers: int) -> TileSet:
    """The tile set that a variant is trained on, made if it is not there."""
    from training.tiling.tile import make_tiles

    recipe = variant.recipe
    told = (variant.tiles, recipe.sky, recipe.network.classes, variant.amount, str(dataset))
    folder = out / "tiles" / _digest(*map(repr, told))
    source = dataset if variant.amount == 1 else part_of(dataset, folder.with_name(f"{folder.name}-frames"), variant)
    return make_tiles(source, folder, variant.tiles, recipe.sky, MEASURE, recipe.network.classes, workers=workers)


def part_of(dataset: Path, folder: Path, variant: Variant) -> Path:
    """A data set of a share of the frames that the whole one trains on; smaller shares are parts of larger ones."""
    splits = splits_of(dataset, variant.tiles)
    training = sorted((key for key, split in splits.items() if split == "train"), key=_digest)
    chosen = set(training[: max(round(variant.amount * len(training)), 1)])
    chosen |= {key for key, split in splits.items() if split == "validation"}
    table = read_frames_table(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    part: Table = table[[str(key) in chosen for key in table["key"]]]
    part.write(folder / TABLE, format="ascii.ecsv", overwrite=True)
    return folder


def splits_of(dataset: Path, tiles: TileSetSpec) -> dict[str, str]:
    """The split of every exposure that is used, as tile sets have it."""
    return dict(split_fields(accepted(read_dataset(dataset), tiles.truth), tiles.shares, tiles.seed))


def held_out(variant: Variant, dataset: Path, truth: Path | None) -> HeldOut:
    """What all variants are scored on: the same frames, and truth that no variant changes."""
    splits = splits_of(dataset, variant.tiles)
    test, validation = (tuple(sorted(k for k, s in splits.items() if s == name)) for name in ("test", "validation"))
    if not test or not validation:
        raise TrainingError("the data set has too few fields: a study needs one each to train, to validate and to test")
    labelled = variant.tiles.truth.model_copy(update={"flagged": "ignore", "unlisted": True})
    return HeldOut(dataset, test, validation, truth, labelled, MEASURE)


def plan(
    variants: Iterable[Variant], seeds: Sequence[int], cut: Mapping[str, TileSet], held: HeldOut, out: Path
) -> list[Job]:
    """The trainings that are needed, seed by seed; variants that differ in serving alone share one."""
    jobs: dict[Path, Job] = {}
    for seed in seeds:
        for variant in variants:
            tiles = cut[variant.name]
            recipe = _seeded(variant.recipe, seed, tiles.folder)
            run = out / "runs" / f"{_digest(_shaping(recipe, tiles.fingerprint))}-{seed}"
            place = file_name(variant.name)
            overlay = out / "overlays" / f"{place}.png" if seed == seeds[0] else None
            serving = Serving(variant.name, variant.served or recipe, out / "scores" / f"{place}-{seed}.json", overlay)
            job = jobs.get(run) or Job(recipe, tiles.fingerprint, run, seed, held, ())
            jobs[run] = replace(job, servings=(*job.servings, serving))
    return list(jobs.values())


def run_jobs(jobs: Sequence[Job], workers: int, work: Any) -> list[Outcome]:
    """Work through the jobs, several side by side; a job that fails does not end the others."""
    outcomes: list[Outcome] = []
    for number, done in enumerate(_side_by_side(jobs, workers, work) if workers > 1 else map(work, jobs), start=1):
        outcomes += done
        for outcome in done:  # a line each: a progress bar would cut through that of a training
            print(f"{number} of {len(jobs)}: {outcome}")
    return outcomes


def _side_by_side(jobs: Sequence[Job], workers: int, work: Any) -> Iterator[list[Outcome]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_in_process, work, job) for job in jobs]):
            yield future.result()


def _in_process(work: Any, job: Job) -> list[Outcome]:
    """One thread, and what is said goes to a file: several progress bars on one screen cannot be read."""
    torch.set_num_threads(1)
    job.run.mkdir(parents=True, exist_ok=True)
    with (job.run / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        done: list[Outcome] = work(job)
        return done


def do(job: Job, train: Trainer, score: Scorer) -> list[Outcome]:
    """Train, score every variant that uses the weights, and keep the figures; those kept before are taken."""
    kept = {serving.variant: _kept(serving, job) for serving in job.servings}
    try:
        if any(figures is None for figures in kept.values()):
            network = train(job.recipe, job.run)
            for serving in job.servings:
                if kept[serving.variant] is None:
                    kept[serving.variant] = _score(network, serving, job, score)
    except LynceusError as error:
        return [Outcome(name, job.seed, figures, "" if figures else str(error)) for name, figures in kept.items()]
    return [Outcome(name, job.seed, figures) for name, figures in kept.items()]


def _score(network: Network, serving: Serving, job: Job, score: Scorer) -> Figures:
    served = network
    if serving.recipe.network != job.recipe.network:
        served = Network(serving.recipe.network).eval()
        served.load_state_dict(network.state_dict())
    figures = score(served, serving.recipe, job.held, serving.overlay)
    record = {"digest": serving.digest(job), "variant": serving.variant, "seed": job.seed, "figures": figures}
    write_whole(serving.kept, json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
    return figures


def _kept(serving: Serving, job: Job) -> Figures | None:
    """Figures of an earlier run of the same thing."""
    if not serving.kept.exists():
        return None
    record = json.loads(serving.kept.read_text())
    return record["figures"] if record["digest"] == serving.digest(job) else None


def describe(
    study: Study, variants: Sequence[Variant], outcomes: Sequence[Outcome], held: HeldOut, seconds: float
) -> dict[str, Any]:
    """All that `study.json` holds."""
    figures: dict[str, dict[int, Figures]] = {variant.name: {} for variant in variants}
    for outcome in sorted(outcomes, key=lambda one: one.seed):
        if outcome.figures is not None:
            figures[outcome.variant][outcome.seed] = outcome.figures
    return {
        "study": study.name,
        "question": study.question,
        "test": {"frames": len(held.keys), "exact": held.truth is not None},
        "seconds": round(seconds, 1),
        "failures": [{"variant": o.variant, "seed": o.seed, "why": o.failure} for o in outcomes if o.failure],
        **summarise(figures),
    }


def _shaping(recipe: Recipe, data: str) -> str:
    """All that shapes the weights of a recipe on a tile set of this fingerprint."""
    return recipe.shaping(len(recipe.training), data)


def _seeded(recipe: Recipe, seed: int, tiles: Path) -> Recipe:
    """The recipe with this tile set, and in each phase a seed of its own."""
    phases = tuple(how.model_copy(update={"seed": seed + 1000 * phase}) for phase, how in enumerate(recipe.training))
    return recipe.model_copy(update={"tiles": str(tiles), "training": phases})


def _train(recipe: Recipe, run: Path) -> Network:
    from training.fitting.train import train  # Lightning takes seconds to import

    return train(recipe, run)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
