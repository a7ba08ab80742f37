"""A detector beside its rivals: scored, and written up for people."""

from pathlib import Path

from rich.progress import Progress

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from training.errors import TrainingError
from training.scoring.evaluate import detector_finder, score_finders
from training.scoring.frames import FAINTEST, Frames, HeldBackFrames, SceneFolder, WholeDataset
from training.scoring.report import OURS, PARENT, Report, write_report
from training.scoring.rivals import rival_finders
from training.tiling.exposures import TruthSpec
from training.tiling.tileset import TileSet

RIVALS = "rivals.json"


def appraise(
    detector: Detector,
    frames: Frames,
    *,
    before: Detector | None = None,
    kept: Path | None = None,
    rivals: bool = True,
) -> dict[str, Report]:
    """Score a detector at its threshold, and beside it the rivals, tuned on other frames.

    Parameters
    ----------
    detector : Detector
        With its threshold.
    frames : Frames
        What is tuned and scored on.
    before : Detector or None
        The version it started from, at its own threshold: a training must have been worth it.
    kept : Path or None
        File that keeps the rivals' settings.
    rivals : bool
        Whether there shall be any.

    Returns
    -------
    dict of str to Report
        The detector's first.
    """
    finders = {OURS: detector_finder(detector)}
    if before is not None:
        finders[PARENT] = detector_finder(before)
    if rivals:
        finders |= rival_finders(frames.tuning, frames.measure, kept=kept, faintest=frames.faintest)
    with Progress() as bar:
        task = bar.add_task("scoring", total=None)
        return score_finders(
            finders,
            frames.test(),
            faintest=frames.faintest,
            heard=lambda key, count: bar.update(task, completed=count, description=f"scored {count}: {key}"),
        )


def evaluate_bundle(
    bundle: Path,
    out: Path,
    *,
    dataset: Path | None = None,
    tiles: Path | None = None,
    truth: Path | None = None,
    scenes: Path | None = None,
    tuned_on: Path | None = None,
    labelled: TruthSpec | None = None,
    faintest: float | None = None,
    rivals: bool = True,
    workers: int = 2,
    device: str = "cpu",
) -> dict[str, Report]:
    """Score a bundle on a data set or on simulated frames, and write the report.

    Parameters
    ----------
    bundle : Path
        Folder `<name>/<version>/`.
    out : Path
        Gets `report.json` and `report.html`, and keeps the rivals' settings.
    dataset : Path or None
        That `curate` made.
    tiles : Path or None
        A tile set of it: then its test split is scored, and the rivals are tuned on its validation split.
    truth : Path or None
        Folder of exact truths `<key>.ecsv` to score against, in the place of the catalogues.
    scenes : Path or None
        Folder of simulated frames, in the place of a data set.
    tuned_on : Path or None
        Another one to tune the rivals on; by default they are tuned on what is scored.
    labelled : TruthSpec or None
        How catalogues become truth; that of the tile set, or the defaults.
    faintest : float or None
        Sources below this signal to noise are ignored; by default 5 on simulated frames, else none.
    rivals : bool
        Whether `sep` and SExtractor are shown beside it.
    workers : int
        Threads of the network, on a CPU.
    device : str
        Where it runs.

    Returns
    -------
    dict of str to Report
        The bundle's first.

    Raises
    ------
    TrainingError
        If not one of `dataset` and `scenes` is given, or nothing can be scored.
    """
    if (dataset is None) == (scenes is None):
        raise TrainingError("name what to score on: either a data set or a folder of simulated frames")
    loaded = load_bundle(bundle, device, workers)
    spec = loaded.detector.spec
    frames: Frames
    if scenes is not None:
        frames = SceneFolder(scenes, spec.sky, tuned_on, FAINTEST if faintest is None else faintest, spec.measure)
    elif dataset is not None and tiles is not None:
        frames = HeldBackFrames(dataset, TileSet(tiles), spec.sky, truth, faintest, spec.measure)
    elif dataset is not None:
        frames = WholeDataset(dataset, spec.sky, spec.measure, labelled or TruthSpec(), truth, faintest=faintest)
    reports = appraise(loaded.detector, frames, kept=out / RIVALS, rivals=rivals)
    manifest = loaded.manifest
    write_report(reports, out, title=f"{manifest.name} {manifest.version}", about=frames.about)
    return reports
