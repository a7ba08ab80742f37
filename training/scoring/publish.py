"""From averaged weights to a bundle in a store: choose the threshold, score, write report and card."""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lynceus import __version__
from lynceus.bundle import Manifest, Provenance, load_bundle, read_manifest, save_bundle
from lynceus.detector import Detector, DetectorSpec
from lynceus.errors import ConflictError
from lynceus.network import Network, fold_batch_norms
from lynceus.sky import SkySpec
from lynceus.spec import Spec
from model_store import Ref, Store, open_store
from model_store.local import LocalStore
from training.errors import TrainingError
from training.recipe import Recipe
from training.scenarios.rivalry import Rivalry, compare
from training.scenarios.suite import MORE, Split, draw_more, draw_suite, read_suite, scenario_folder
from training.scenarios.summary import tables
from training.scoring.appraisal import RIVALS, appraise
from training.scoring.calibrate import calibrate
from training.scoring.card import card, on_scenes, table
from training.scoring.evaluate import best_threshold
from training.scoring.frames import Frames, HeldBackFrames, SceneFrames, frames_of
from training.scoring.report import OURS, Report, report_json, rounded, write_report
from training.scoring.source_extractor import program
from training.tiling.exposures import LabelledExposure, read_scenes

__all__ = ["publish", "score", "table"]

WEIGHTS = "weights.pt"
REPORT = "report"  # folder of the run
SUITE_KEY = "suite"  # of the report
log = logging.getLogger(__name__)
NOT_SCORED: tuple[Split, ...] = ("calibration", "tuning")  # splits of the suite
PLACES = 4


class SuiteFolders(Spec):
    """Where the scenario suite lies, for all runs together.

    Attributes
    ----------
    frames : Path
        Its frames.
    rivalry : Path
        What the comparison with SExtractor keeps, and its report.
    """

    frames: Path = Path("runs/suite")
    rivalry: Path = Path("runs/rival")


def publish(
    recipe: Recipe,
    run: Path,
    store: Path | str | Store,
    version: str,
    workers: int = 2,
    dataset: Path | None = None,
    tiles: Path | None = None,
    truth: Path | None = None,
    *,
    rivals: bool = True,
    suite: SuiteFolders | None = None,
) -> Ref:
    """Choose `min_score` on frames held back for it, score on others, and publish the version.

    Parameters
    ----------
    recipe : Recipe
        The one the weights were trained by.
    run : Path
        Holds `weights.pt` and, where they were trained on, the simulated frames; gets the report's page.
    store : Path, str or Store
        A folder of bundles, `s3://bucket/prefix`, or a store that is open already.
    version : str
        Of the new version.
    workers : int
        Threads of the network, on a CPU.
    dataset : Path or None
        Data set that the tiles were cut from: the threshold is chosen on the exposures of their validation split and
        scored on those of their test split.
    tiles : Path or None
        Tile set; by default the recipe's.
    truth : Path or None
        Folder of exact truths `<key>.ecsv` to choose and score by, in the place of the catalogues.
    rivals : bool
        Whether `sep` and SExtractor are tuned and shown beside it.
    suite : SuiteFolders or None
        Where the scenario suite lies, for a recipe that asks for it.

    Returns
    -------
    Ref
        The new version.

    Raises
    ------
    TrainingError
        If there are no weights, or no frames to choose or score on.
    ConflictError
        If that version exists: versions are immutable.
    StoreError
        If the store cannot be used.
    """
    ref, opened = Ref(recipe.name, version), _open(store)
    if ref in opened.versions():
        raise ConflictError(f"{ref} exists already; versions are immutable, so choose a new one")
    frames = frames_of(recipe, run, dataset, tiles, truth)
    suite = suite or SuiteFolders()
    plain = _detector(recipe, run, frames, workers)
    detector = calibrated(plain, suite, workers, recipe.suite_more) if recipe.suite else _with_threshold(plain, frames)
    reports = appraise(detector, frames, before=_parent(recipe, detector), kept=run / RIVALS, rivals=rivals)
    write_report(reports, run / REPORT, title=str(ref), about=frames.about)
    manifest = Manifest(
        name=ref.name,
        version=ref.version,
        network=recipe.network,
        detector=detector.spec,
        weights_sha256="",
        provenance=provenance(recipe, frames),
        scores=scores(reports[OURS]),
    )
    network, told = _network(recipe, run), report_json(reports)
    on_card = card(manifest, reports, trained=_trained(recipe, frames), scored=frames.about)
    if recipe.suite and rivals and program() is None:
        log.warning("SExtractor is not installed: the report goes without the scenario suite")
    elif recipe.suite and rivals:
        beside = on_suite(manifest, network, suite, workers)
        told |= {SUITE_KEY: rounded(beside.model_dump(mode="json"))}
        on_card += f"\n## On the scenario suite\n\n{on_scenes(beside.report)}\n{tables(beside.report)}"
    with TemporaryDirectory(prefix="lynceus-") as folder:
        save_bundle(Path(folder), network, manifest, told, on_card)
        return opened.push(Path(folder) / ref.name / ref.version)


def calibrated(detector: Detector, suite: SuiteFolders, workers: int = 2, more: int = 0) -> Detector:
    """The same detector, its scores probabilities, its threshold that of the best mean F1 over the suite's scenes.

    Parameters
    ----------
    detector : Detector
        Its own threshold and judge are left aside.
    suite : SuiteFolders
        Gets the frames for calibration and tuning where they are not there: the more of them, the steadier the fit.
    workers : int
        Processes that draw them.
    more : int
        So many further frames a scene are drawn.
    """
    spec = read_suite()
    draw_suite(spec, suite.frames, NOT_SCORED, workers)
    if more:
        draw_more(spec, suite.frames, more, workers)
    scenes = {one.name: _not_scored(suite, one.name, detector.spec.sky, more) for one in spec.scenarios}
    made = calibrate(detector, scenes)
    return detector.revised(judge=made.judge, min_score=made.threshold)


def _not_scored(suite: SuiteFolders, name: str, sky: SkySpec, more: int) -> Iterator[LabelledExposure]:
    """The frames of one scene that nothing is scored on, one at a time; `more` of the further ones."""
    for split in NOT_SCORED:
        yield from read_scenes(scenario_folder(suite.frames, split, name), sky)
    if more:
        yield from islice(read_scenes(suite.frames / MORE / name, sky), more)


def on_suite(manifest: Manifest, network: Network, suite: SuiteFolders, workers: int = 2) -> Rivalry:
    """How a version that is not published yet does on the suite's test frames, beside SExtractor at its best."""
    spec = read_suite()
    draw_suite(spec, suite.frames, ("tuning", "test"), workers)
    with TemporaryDirectory(prefix="lynceus-") as folder:
        save_bundle(Path(folder), network, manifest, {}, "")
        bundle = Path(folder) / manifest.name / manifest.version
        return compare(bundle, spec, suite.frames, suite.rivalry, workers)


def score(detector: Detector, recipe: Recipe, run: Path) -> dict[str, Report]:
    """Figures of a detector and of its rivals on the recipe's validation frames; all were tuned on other frames."""
    return appraise(detector, SceneFrames(recipe, run), kept=run / RIVALS)


def scores(report: Report) -> dict[str, float]:
    """The few figures that a manifest carries: average precision by box, the others by centre."""
    figures = {
        "ap50": report.map_50,
        "f1": report.by_centre.f1,
        "reliability": report.by_centre.precision,
        "completeness": report.by_centre.recall,
    }
    return {name: rounded(value, PLACES) for name, value in figures.items() if value is not None}


def provenance(recipe: Recipe, frames: Frames) -> Provenance:
    """Where the weights come from: the data, the seed, the code, and the bundle they started from."""
    parent = None
    if recipe.start.source == "bundle":
        started = read_manifest(Path(recipe.start.path))
        parent = f"{started.name}/{started.version}"
    return Provenance(
        data_fingerprint=frames.fingerprint(),
        seed=recipe.training[0].seed,
        code_version=__version__,
        parent=parent,
    )


def _open(store: Path | str | Store) -> Store:
    """The store at a location; a folder that is not there yet is made."""
    opened = open_store(str(store)) if isinstance(store, Path | str) else store
    if isinstance(opened, LocalStore):
        opened.root.mkdir(parents=True, exist_ok=True)
    return opened


def _network(recipe: Recipe, run: Path) -> Network:
    """The network with the run's averaged weights, on the CPU."""
    path = run / WEIGHTS
    if not path.exists():
        raise TrainingError(f"{run} holds no {WEIGHTS}: run `python -m training train` first")
    network = Network(recipe.network).eval()
    try:
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except RuntimeError as error:
        raise TrainingError(f"{path} does not fit the network of the recipe: was the recipe changed since?") from error
    return network


def _parent(recipe: Recipe, detector: Detector) -> Detector | None:
    """The detector of the bundle that the weights started from, where `detector` runs."""
    if recipe.start.source != "bundle":
        return None
    return load_bundle(Path(recipe.start.path), detector.device, detector.workers).detector


def _detector(recipe: Recipe, run: Path, frames: Frames, workers: int) -> Detector:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = DetectorSpec(
        sky=recipe.sky,
        normalise=recipe.normalise,
        tile=recipe.tile,
        merge=recipe.merge,
        measure=frames.measure,
        coarse=recipe.coarse,
        fine=recipe.fine,
        trails=recipe.trails,
    )
    network = _network(recipe, run)
    fold_batch_norms(network)  # as a reader of the bundle does
    return Detector(network.to(device).to(memory_format=torch.channels_last), spec, device, workers)


def _with_threshold(detector: Detector, frames: Frames) -> Detector:
    """The same detector, its threshold that of the highest F1 on the tuning frames."""
    min_score, f1 = best_threshold(detector, frames.tuning(), faintest=frames.faintest)
    if not f1:
        min_score = detector.spec.min_score  # nothing was found at any threshold, so none is the best
    return detector.revised(min_score=min_score)


def _trained(recipe: Recipe, frames: Frames) -> str:
    if isinstance(frames, HeldBackFrames):
        train = len(frames.tiles.split("train"))
        return f"Trained on {train} tiles of {len(frames.tiles.keys('train'))} exposures."
    if any(how.planted for how in recipe.training):
        return "Trained on simulated frames, and on real ones with planted sources."
    return "Trained on simulated frames alone."
