"""A data set made into a tile set: split by field, cut frame by frame, written shard by shard; a killed run goes on."""

import hashlib
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from lynceus.durable import write_whole
from lynceus.errors import LynceusError
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec
from lynceus.spec import Spec
from training.curation.dataset import Exposure, read_dataset
from training.errors import TrainingError
from training.tiling.cutting import tiles_of
from training.tiling.exposures import accepted, label_exposure
from training.tiling.shards import LabelledTile, write_shard
from training.tiling.split import SPLITS, Split, split_fields
from training.tiling.tileset import MANIFEST, Shard, TileSet, TileSetManifest, TileSetSpec

__all__ = ["TileSetSpec", "make_tiles"]

JOURNAL = "progress.json"
Work = Callable[[Exposure], list[LabelledTile] | str]
AHEAD = 1  # exposures that are cut before their turn, over one for each worker


@dataclass(frozen=True)
class _Job:
    """What is needed to cut any of the exposures."""

    spec: TileSetSpec
    sky: SkySpec
    measure: MeasureSpec
    classes: tuple[str, ...]
    truth: Path | None


class _Journal(Spec):
    """How far the work has come.

    Attributes
    ----------
    source : str
        Of the work; see `_source_of`.
    shards : dict of str to tuple of Shard
        Files that are there.
    done : tuple of str
        Exposures all of whose tiles are in them.
    taken : int
        Tiles of the next exposure that are in them.
    skipped : dict of str to str
        Exposures that failed, and why.
    """

    source: str
    shards: dict[Split, tuple[Shard, ...]]
    done: tuple[str, ...]
    taken: int
    skipped: dict[str, str]


def make_tiles(
    dataset: Path,
    out: Path,
    spec: TileSetSpec,
    sky: SkySpec,
    measure: MeasureSpec,
    classes: tuple[str, ...],
    workers: int = 2,
    truth: Path | None = None,
) -> TileSet:
    """Cut a data set into tiles; what an interrupted call has written is kept.

    Parameters
    ----------
    dataset : Path
        Folder that `curate` made.
    out : Path
        Folder of the tile set; made if absent.
    spec : TileSetSpec
        How it is cut.
    sky : SkySpec
        How the sky is estimated.
    measure : MeasureSpec
        The box rule of the bundle.
    classes : tuple of str
        Of the network; see `training.tiling.cutting.labels_of`.
    workers : int
        Processes; with 1 the work is done in this one.
    truth : Path or None
        Folder of exact truths `<key>.ecsv` to use in the place of the catalogues.

    Returns
    -------
    TileSet
        The same bytes for the same input, however often the work was interrupted. What could not be used is named in
        its `skipped`, and on the screen.

    Raises
    ------
    TrainingError
        If `dataset` is no data set, nothing of it can be used, or `out` holds something else.
    """
    exposures = accepted(read_dataset(dataset), spec.truth)
    if not exposures:
        raise TrainingError(f"{dataset} has no frame whose labels are all among {', '.join(spec.truth.labels)}")
    job = _Job(spec, sky, measure, classes, truth)
    source = _source_of(exposures, job)
    if (out / MANIFEST).exists():
        return _finished(out, source)
    splits = split_fields(exposures, spec.shares, spec.seed)
    writer = _Writer(out, spec.per_shard, _journal(out, source))
    _cut_all(exposures, splits, job, writer, workers)
    _check(writer.journal, exposures, dataset)
    _manifest(job, writer.journal, splits).write(out)
    (out / JOURNAL).unlink()
    return TileSet(out)


def _cut_all(
    exposures: Sequence[Exposure], splits: dict[str, Split], job: _Job, writer: "_Writer", workers: int
) -> None:
    """Cut what is not done yet, split by split."""
    done = set(writer.journal.done)
    ordered = sorted(exposures, key=lambda one: (SPLITS.index(splits[one.key]), one.key))
    left = [one for one in ordered if one.key not in done]
    results = _in_order(left, partial(_tiles, job=job), workers)
    steps = zip(left, results, strict=True)
    for exposure, tiles in track(steps, "cutting tiles", len(left), console=Console(stderr=True)):
        writer.add(splits[exposure.key], exposure.key, tiles)
    writer.end()


class _Writer:
    """Gathers tiles into shards, and notes after each of them how far it is."""

    def __init__(self, out: Path, per_shard: int, journal: _Journal) -> None:
        self.out, self.per_shard, self.journal = out, per_shard, journal
        self.waiting: list[LabelledTile] = []
        self.finished: list[str] = []  # exposures whose last tiles are in no shard yet
        self.skipped: dict[str, str] = {}
        self.first = journal.taken  # tiles of the first exposure that an earlier run has written
        self.split: Split = SPLITS[0]

    def add(self, split: Split, key: str, tiles: list[LabelledTile] | str) -> None:
        """Take the tiles of the next exposure, or the reason why there are none."""
        if split != self.split:  # shards do not mix splits
            self.end()
            self.split = split
        if isinstance(tiles, str):
            Console(stderr=True).print(f"{key} was left out: {tiles}", markup=False, highlight=False, soft_wrap=True)
            self.skipped[key] = tiles
            tiles = []
        for number, tile in enumerate(tiles[self.first :], start=self.first + 1):
            self.waiting.append(tile)
            if len(self.waiting) == self.per_shard:
                self.write(number)
        self.first = 0
        self.finished.append(key)

    def end(self) -> None:
        """Write what is left of a split."""
        if self.finished:
            self.write(0)

    def write(self, taken: int) -> None:
        """Write a shard, and then that it is there."""
        shards = self.journal.shards[self.split]
        if self.waiting:
            name = f"{self.split}-{len(shards):05d}.safetensors"
            keys = tuple(tile.key for tile in self.waiting)
            shards = (*shards, Shard(file=name, sha256=write_shard(self.out / name, self.waiting), keys=keys))
        self.journal = _Journal(
            source=self.journal.source,
            shards={**self.journal.shards, self.split: shards},
            done=(*self.journal.done, *self.finished),
            taken=taken,
            skipped={**self.journal.skipped, **self.skipped},
        )
        write_whole(self.out / JOURNAL, self.journal.model_dump_json().encode())
        self.waiting, self.finished = [], []


def _in_order(exposures: Sequence[Exposure], work: Work, workers: int) -> Iterator[list[LabelledTile] | str]:
    """Results in the order of the exposures, few of them ahead of their turn: tiles of a frame can fill memory."""
    if workers <= 1 or len(exposures) <= 1:
        yield from map(work, exposures)
        return
    left = iter(exposures)
    context = multiprocessing.get_context("forkserver")  # a fork of this process could copy a lock that a thread holds
    context.set_forkserver_preload(["training.tiling.tile"])
    with ProcessPoolExecutor(workers, context) as pool:
        try:
            running: deque[Future[list[LabelledTile] | str]] = deque(
                pool.submit(work, one) for one in islice(left, workers + AHEAD)
            )
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(work, one) for one in islice(left, 1))
                yield result
        except BrokenProcessPool as error:
            raise TrainingError("a process that cut tiles was killed: run it again, with fewer workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _tiles(exposure: Exposure, job: _Job) -> list[LabelledTile] | str:
    """The tiles of one exposure, or the reason why it cannot be used: no frame may end the work on all others."""
    try:
        labelled = label_exposure(exposure, job.sky, job.measure, job.spec.truth, job.truth)
        return tiles_of(labelled, job.spec, job.classes)
    except LynceusError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _source_of(exposures: Sequence[Exposure], job: _Job) -> str:
    """The sha256 over what the tiles depend on: the specifications and the files, frames by name and length alone."""
    files = [
        (one.key, one.field, one.labels, one.frame.name, _length(one.frame), _sha256(_told(one, job.truth)))
        for one in sorted(exposures, key=lambda one: one.key)
    ]
    specs = [spec.model_dump(mode="json") for spec in (job.spec, job.sky, job.measure)]
    return hashlib.sha256(json.dumps([files, specs, job.classes]).encode()).hexdigest()


def _told(exposure: Exposure, truth: Path | None) -> Path | None:
    return exposure.catalogue if truth is None else truth / f"{exposure.key}.ecsv"


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _sha256(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.exists() else ""


def _finished(out: Path, source: str) -> TileSet:
    tileset = TileSet(out)
    if tileset.manifest.source != source:
        raise _other(out)
    return tileset


def _journal(out: Path, source: str) -> _Journal:
    """What an earlier run has left, or a fresh start."""
    path = out / JOURNAL
    if not path.exists():
        return _Journal(source=source, shards=dict.fromkeys(SPLITS, ()), done=(), taken=0, skipped={})
    try:
        journal = _Journal.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise TrainingError(f"{path} is not understood: remove the folder {out} and start again") from error
    if journal.source != source:
        raise _other(out)
    return journal


def _other(out: Path) -> TrainingError:
    return TrainingError(
        f"{out} holds tiles of another data set, or cut in another way: choose another folder, or remove this one"
    )


def _check(journal: _Journal, exposures: Sequence[Exposure], dataset: Path) -> None:
    if len(journal.skipped) == len(exposures):
        key, reason = next(iter(journal.skipped.items()))
        raise TrainingError(f"not one frame of {dataset} could be used; the first, {key}: {reason}")
    if not journal.shards["train"]:
        raise TrainingError(f"no tile to train on came of {dataset}: there is no source in it that can be used")


def _manifest(job: _Job, journal: _Journal, splits: dict[str, Split]) -> TileSetManifest:
    used = sorted(key for key in splits if key not in journal.skipped)
    return TileSetManifest(
        spec=job.spec,
        sky=job.sky,
        measure=job.measure,
        classes=job.classes,
        source=journal.source,
        splits={split: tuple(key for key in used if splits[key] == split) for split in SPLITS},
        shards=journal.shards,
        skipped=journal.skipped,
    )
