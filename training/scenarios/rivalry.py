"""Our detector, SExtractor at its best and an oracle on the scenes of the suite, all scored the same way."""

import subprocess
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from inspect import getfile
from pathlib import Path

from rich.progress import track

from lynceus.bundle import Bundle, load_bundle
from lynceus.durable import write_whole
from lynceus.figures import Figures
from training.errors import TrainingError
from training.scenarios import oracle as all_knowing
from training.scenarios import sight
from training.scenarios.calibration import calibration_of
from training.scenarios.figures import SceneFigures, score_listings, score_sweep
from training.scenarios.listings import Listing
from training.scenarios.page import suite_page
from training.scenarios.search import fitting, search_all
from training.scenarios.store import kept_listings
from training.scenarios.suite import Scenario, Split, Suite, digest, scenario_folder
from training.scenarios.summary import SceneReport, SuiteReport, tables
from training.scenarios.trials import Bench, Ledger, Sample, listings_of, samples_of
from training.scoring.report import OURS
from training.scoring.source_extractor import SourceExtractorSettings, program

DEFAULTS, TUNED, TUNED_PER_SCENE, ORACLE = (
    "SExtractor, defaults", "SExtractor, tuned", "SExtractor, tuned per scene", "oracle",
)  # fmt: skip
SWEEP = (0.5, 0.65, 0.8, 0.9, 1.0, 1.15, 1.4, 1.8, 2.5)  # of the threshold it is run with
RESULT, TABLES, PAGE = "rival.json", "rival.md", "rival.html"
ABOUT = (
    "{frames} frames of each scene of the suite `{digest}`, that nothing was trained or tuned on. {program} is shown "
    "with its defaults, with the one setting that has the best mean F1, and with the best of each scene, both found on "
    "other seeds; it is told the true seeing, and frames with cosmic rays are cleaned where that helps. Its curves are "
    "the best of a sweep of its threshold and of every list cut by signal to noise. The oracle knows the point spread "
    "function and the noise."
)


class Tuned(Figures):
    """The best settings on the tuning frames.

    Attributes
    ----------
    mean : SourceExtractorSettings
        Best in the mean over the scenes; `cleaned` is for those with cosmic rays.
    mean_f1 : float
        Its mean F1 there.
    scenes : dict of str to SourceExtractorSettings
        Best in each scene with sources.
    f1 : dict of str to float
        Theirs.
    """

    mean: SourceExtractorSettings
    mean_f1: float
    scenes: dict[str, SourceExtractorSettings]
    f1: dict[str, float]

    def finders(self, scenario: Scenario) -> dict[str, SourceExtractorSettings]:
        """How the rival is run on a scene, by the name it is shown under."""
        mean = fitting(self.mean, has_cosmic_rays(scenario))
        own = self.scenes.get(scenario.name, mean)
        return {DEFAULTS: SourceExtractorSettings(), TUNED: mean, TUNED_PER_SCENE: own}


class Rivalry(Figures):
    """All that came of it.

    Attributes
    ----------
    suite, bundle : str
        Digest of the suite; name and version of ours.
    program : str
        Name and version of the rival.
    tuned : Tuned
        The settings.
    report : SuiteReport
        The figures.
    """

    suite: str
    bundle: str
    program: str
    tuned: Tuned
    report: SuiteReport


def compare(
    bundle: Path,
    suite: Suite,
    folder: Path,
    out: Path,
    workers: int = 1,
    *,
    only: Collection[str] = (),
    kept: Path | None = None,
    split: Split = "test",
    oracle: bool = True,
) -> Rivalry:
    """Score a bundle beside the rival, which is tuned before, and beside the oracle.

    Parameters
    ----------
    bundle : Path
        Folder `<name>/<version>/`.
    suite : Suite
        The specification.
    folder : Path
        That `draw_suite` filled, the splits `tuning` and `split` at least.
    out : Path
        Gets `rival.json`, `rival.md` and `rival.html`.
    workers : int
        Processes.
    only : collection of str
        Names of the scenarios that are scored; by default all. The rival is tuned on all.
    kept : Path or None
        Folder that keeps what was tried and what was listed, so that what was killed goes on; `out` by default.
    split : {"tuning", "calibration", "test"}
        That is scored.
    oracle : bool
        Whether it is asked; it takes minutes a frame in a crowd.

    Raises
    ------
    TrainingError
        If SExtractor is not installed, or frames are missing.
    """
    store = (kept or out) / digest(suite)[:12]
    tuned = tune(suite, folder, store, workers)
    loaded = load_bundle(bundle, workers=workers)
    with ProcessPoolExecutor(workers) as pool:
        waiting = {
            one: pool.submit(score_others, one, suite, scenario_folder(folder, split, one.name), store, tuned, oracle)
            for one in suite.chosen(only)
        }
        scenes = tuple(
            _scene(one, loaded, scenario_folder(folder, split, one.name), store, others)
            for one, others in track(waiting.items(), description="scoring scenes")
        )
    about = ABOUT.format(frames=suite.frames[split], digest=digest(suite)[:12], program=version())
    made = Rivalry(
        suite=digest(suite),
        bundle=f"{loaded.manifest.name} {loaded.manifest.version}",
        program=version(),
        tuned=tuned,
        report=SuiteReport(about=about, scenes=scenes),
    )
    write(made, out)
    return made


def tune(suite: Suite, folder: Path, store: Path, workers: int = 1) -> Tuned:
    """Find the rival's best settings on the suite's tuning frames.

    Parameters
    ----------
    suite, folder, workers
        As for `compare`.
    store : Path
        Keeps every trial; what is in it is not tried again.

    Raises
    ------
    TrainingError
        If SExtractor is not installed, or frames are missing.
    """
    if program() is None:
        raise TrainingError("there is no rival: SExtractor is not installed (Debian: apt install source-extractor)")
    populated = [one for one in suite.scenarios if not one.starless]
    folders = {one.name: scenario_folder(folder, "tuning", one.name) for one in populated}
    bench = Bench(folders, Ledger(store / "tuning.jsonl"), workers)
    mean, own = search_all({one.name: has_cosmic_rays(one) for one in populated}, bench.f1)
    return Tuned(
        mean=mean.best,
        mean_f1=mean.scores[mean.best],
        scenes={name: one.best for name, one in own.items()},
        f1={name: one.scores[one.best] for name, one in own.items()},
    )


def has_cosmic_rays(scenario: Scenario) -> bool:
    """Whether some frames may have cosmic rays or hot pixels to be cleaned of."""
    scene = scenario.scene
    return scene.clean < 1 and scene.cosmic_rays + scene.hot_pixels > 0


def score_others(
    scenario: Scenario, suite: Suite, frames: Path, store: Path, tuned: Tuned, oracle: bool
) -> dict[str, SceneFigures]:
    """The rival's figures on one scene, and the oracle's, in a process of their own."""
    samples = list(samples_of(frames))
    places = [one.place for one in samples]
    wanted = tuned.finders(scenario)
    swept = list_all(samples, [one for settings in wanted.values() for one in sweep(settings)], store / scenario.name)
    figures = {
        name: score_sweep({one.threshold: swept[one] for one in sweep(settings)}, places, settings.threshold)
        for name, settings in wanted.items()
    }
    if oracle:
        paths = sorted(frames.glob("*.fits"))
        code = sha256(b"".join(Path(getfile(one)).read_bytes() for one in (all_knowing, sight))).hexdigest()
        listed = kept_listings(
            store / scenario.name / f"oracle-{code[:12]}.npz",
            lambda: [all_knowing.find(path, suite) for path in paths],
        )
        figures[ORACLE] = score_listings(list(zip(listed, places, strict=True)))
    return figures


def sweep(settings: SourceExtractorSettings) -> list[SourceExtractorSettings]:
    """The settings at thresholds below and above their own, which is among them."""
    return [settings.model_copy(update={"threshold": round(settings.threshold * one, 4)}) for one in SWEEP]


def list_all(
    samples: Sequence[Sample], settings: Sequence[SourceExtractorSettings], store: Path | None = None
) -> dict[SourceExtractorSettings, list[Listing]]:
    """What the rival lists on each frame with each of the settings.

    Parameters
    ----------
    samples : sequence of Sample
        The frames.
    settings : sequence of SourceExtractorSettings
        Those that are there twice are run once.
    store : Path or None
        Folder that keeps the lists.
    """
    paths = {one: store / f"{_key(one)}.npz" for one in settings} if store else {}
    missing = [one for one in dict.fromkeys(settings) if one not in paths or not paths[one].exists()]
    frames = [listings_of(one.frame, one.fwhm, missing) for one in samples] if missing else []
    fresh = {one: [listed[one] for listed in frames] for one in missing}
    if not paths:
        return fresh
    return {one: kept_listings(path, partial(fresh.__getitem__, one)) for one, path in paths.items()}


def _scene(
    scenario: Scenario, loaded: Bundle, frames: Path, store: Path, others: Future[dict[str, SceneFigures]]
) -> SceneReport:
    """One scene: ours, and what the others came to."""
    samples = list(samples_of(frames))
    detector = loaded.detector
    key = sha256((loaded.manifest.weights_sha256 + detector.spec.model_dump_json()).encode()).hexdigest()
    listed = kept_listings(
        store / scenario.name / f"ours-{key[:12]}.npz",
        lambda: [Listing.of(detector.detect(one.frame)) for one in samples],
    )
    pairs = [(listing, one.place) for listing, one in zip(listed, samples, strict=True)]
    ours = score_listings(pairs, detector.spec.min_score)
    finders = {OURS: ours} | others.result()
    return SceneReport(name=scenario.name, about=scenario.about, finders=finders, calibration=calibration_of(pairs))


def write(made: Rivalry, out: Path) -> None:
    """Write the result for programs, for Markdown and for a browser."""
    write_whole(out / RESULT, made.model_dump_json(indent=1).encode() + b"\n")
    write_whole(out / TABLES, f"{tables(made.report)}\n{settings_table(made.tuned)}".encode())
    write_whole(out / PAGE, suite_page(made.report, f"{made.bundle}, {made.program} and an oracle").encode())


def settings_table(tuned: Tuned) -> str:
    """The rival's settings as a Markdown table, with the F1 they have on the tuning frames."""
    names = list(SourceExtractorSettings.model_fields)
    rows: Mapping[str, tuple[SourceExtractorSettings, float | None]] = {
        "defaults": (SourceExtractorSettings(), None),
        "all": (tuned.mean, tuned.mean_f1),
        **{name: (settings, tuned.f1[name]) for name, settings in tuned.scenes.items()},
    }
    lines = [
        f"| {name} | {' | '.join(str(getattr(one, each)) for each in names)} | {'' if f1 is None else f'{f1:.3f}'} |"
        for name, (one, f1) in rows.items()
    ]
    head = f"| scene | {' | '.join(each.replace('_', ' ') for each in names)} | F1, tuning |"
    return "\n".join(["**settings of SExtractor**", "", head, "|---" * (len(names) + 2) + "|", *lines]) + "\n"


def version() -> str:
    """What the program calls itself."""
    path = program()
    if path is None:
        return "SExtractor"
    told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30).stdout.split()
    return f"SExtractor {next((word for word in told if word[:1].isdigit()), '')}".strip()


def _key(settings: SourceExtractorSettings) -> str:
    return f"rival-{sha256(settings.model_dump_json().encode()).hexdigest()[:12]}"
