"""The rival put to the test: what it lists with some settings, how good that is, and a record that outlives a kill."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from rich.progress import Progress

from lynceus.detections import centre_from_fits
from lynceus.frame import Frame
from lynceus.matching import Counts, count, match_centres
from lynceus.sky import SkySpec
from training.errors import TrainingError
from training.scenarios.listings import FAINTEST, Listing, Place, place_of
from training.scenarios.search import Scores, Search
from training.scoring.rival import seeing_of
from training.scoring.source_extractor import Extractor, SourceExtractorSettings, significance
from training.tiling.exposures import read_scenes

LISTED = ("X_IMAGE", "Y_IMAGE", "FLUX_ISO", "FLUXERR_ISO")
LONGEST_S = 60.0  # a run that takes longer is of settings that nobody would use
AT_ONCE = 6  # settings in one job: what a kill loses
log = logging.getLogger(__name__)
Tried = dict[SourceExtractorSettings, Counts]


@dataclass(frozen=True, eq=False)
class Sample:
    """A frame to try the rival on.

    Attributes
    ----------
    frame : Frame
        Of shape (H, W).
    place : Place
        What is there.
    fwhm : float
        The true seeing, in pixels: more than the rival would know in real life.
    """

    frame: Frame
    place: Place
    fwhm: float


def samples_of(folder: Path) -> Iterator[Sample]:
    """The frames of one scene, one at a time."""
    for exposure in read_scenes(folder, SkySpec()):
        yield Sample(exposure.frame, place_of(exposure), seeing_of(exposure))


def listings_of(
    frame: Frame, fwhm: float, settings: Iterable[SourceExtractorSettings], longest: float = LONGEST_S
) -> dict[SourceExtractorSettings, Listing]:
    """What the rival lists on a frame with each of several settings.

    Parameters
    ----------
    frame : Frame
        Masked pixels get no weight.
    fwhm : float
        Of point sources, in pixels.
    settings : iterable of SourceExtractorSettings
        All are run on the one file that is written.
    longest : float
        Seconds that a run may take.

    Returns
    -------
    dict of SourceExtractorSettings to Listing
        Every detection, whatever its flags; scores are signal to noise within the isophote. Nothing is listed where
        the program fails or takes longer.

    Raises
    ------
    TrainingError
        If the program is not installed.
    """
    with Extractor(frame, fwhm) as extractor:
        return {each: _listed(extractor, each, longest) for each in settings}


def _listed(extractor: Extractor, settings: SourceExtractorSettings, longest: float) -> Listing:
    try:
        x, y, flux, error = extractor.run(settings, LISTED, longest).T
    except TrainingError as failure:
        log.warning("%s: %s", settings, failure)
        return Listing(np.zeros((0, 2)), np.zeros(0))
    positions = np.stack([centre_from_fits(x), centre_from_fits(y)], axis=1)
    return Listing(positions, np.nan_to_num(significance(flux, error)))


def counts_of(listing: Listing, place: Place, faintest: float = FAINTEST) -> Counts:
    """Count a whole list; fainter sources absorb one detection each and do not count."""
    ignored = place.fainter(faintest)
    return count(match_centres(listing.positions, listing.scores, place.positions, place.fwhm, ignored))


def try_out(
    samples: Iterable[Sample], settings: Sequence[SourceExtractorSettings], faintest: float = FAINTEST
) -> Tried:
    """Count what each of several settings finds, right and wrong, on all frames together."""
    tried = dict.fromkeys(settings, Counts(0, 0, 0))
    for sample in samples:
        for each, listing in listings_of(sample.frame, sample.fwhm, settings).items():
            tried[each] += counts_of(listing, sample.place, faintest)
    return tried


def tune_on(
    samples: Iterable[Sample], grid: Sequence[SourceExtractorSettings], faintest: float = FAINTEST
) -> tuple[SourceExtractorSettings, float]:
    """The settings of a grid with the highest F1, and that F1."""
    tried = try_out(samples, grid, faintest)
    best = max(grid, key=lambda one: tried[one].f1)
    return best, tried[best].f1


def search_on(
    samples: Sequence[Sample], cosmic: bool = False, faintest: float = FAINTEST
) -> tuple[SourceExtractorSettings, float]:
    """What the staged search comes to on a few frames, and its F1; they are cleaned where that helps if `cosmic`."""
    search = Search(cosmic)
    while search.wanted:
        search.learn({each: one.f1 for each, one in try_out(samples, search.wanted, faintest).items()})
    return search.best, search.scores[search.best]


class Ledger:
    """What was tried on every scene: a file that is appended to, so that a search that was killed goes on.

    Parameters
    ----------
    path : Path
        Made if absent. It must be of one suite alone: scenes are known by their names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[tuple[str, SourceExtractorSettings], Counts] = {}
        for line in path.read_text().split("\n") if path.exists() else ():
            if line:
                self._recall(line)

    def get(self, scene: str, settings: SourceExtractorSettings) -> Counts | None:
        """What was counted; None if it was not tried."""
        return self._known.get((scene, settings))

    def add(self, scene: str, tried: Mapping[SourceExtractorSettings, Counts]) -> None:
        """Write down what was counted."""
        self._known |= {(scene, each): counts for each, counts in tried.items()}
        lines = [
            json.dumps(
                {
                    "scene": scene,
                    "settings": each.model_dump(),
                    "counts": [counts.right, counts.wrong, counts.missed],
                }
            )
            for each, counts in tried.items()
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("".join(f"\n{line}" for line in lines) + "\n")  # the last line may be half a one

    def _recall(self, line: str) -> None:
        try:
            told = json.loads(line)
            settings = SourceExtractorSettings.model_validate(told["settings"])
            self._known[told["scene"], settings] = Counts(*told["counts"])
        except (json.JSONDecodeError, KeyError, TypeError, ValidationError):
            log.warning("%s has a line that cannot be read, as a kill leaves one", self.path)


class Bench:
    """Scores settings on scenes, several scenes side by side, and remembers.

    Parameters
    ----------
    folders : mapping of str to Path
        The frames of each scene.
    ledger : Ledger
        What is in it is not tried again.
    workers : int
        Processes.
    """

    def __init__(self, folders: Mapping[str, Path], ledger: Ledger, workers: int = 1) -> None:
        self.folders, self.ledger, self.workers = folders, ledger, workers

    def f1(self, wanted: Mapping[str, Sequence[SourceExtractorSettings]]) -> dict[str, Scores]:
        """F1 of each of the settings wanted for a scene, on all its frames together."""
        jobs = [
            (scene, some)
            for scene, settings in wanted.items()
            for some in _parts([each for each in settings if self.ledger.get(scene, each) is None])
        ]
        self._run(jobs)
        return {
            scene: {each: counts.f1 for each in settings if (counts := self.ledger.get(scene, each)) is not None}
            for scene, settings in wanted.items()
        }

    def _run(self, jobs: Sequence[tuple[str, list[SourceExtractorSettings]]]) -> None:
        if not jobs:
            return
        with Progress() as bar, ProcessPoolExecutor(self.workers) as pool:
            task = bar.add_task("SExtractor", total=sum(len(some) for _, some in jobs))
            running = {pool.submit(try_folder, self.folders[scene], some): scene for scene, some in jobs}
            for done in as_completed(running):
                tried = done.result()
                self.ledger.add(running[done], tried)
                bar.update(task, advance=len(tried), description=f"SExtractor on {running[done]}")


def try_folder(folder: Path, settings: Sequence[SourceExtractorSettings]) -> Tried:
    """`try_out` on the frames of a folder, in a process of its own."""
    return try_out(samples_of(folder), settings)


def _parts(settings: list[SourceExtractorSettings]) -> Iterator[list[SourceExtractorSettings]]:
    """A few at a time, those together that share a cleaned frame, which takes longer than all their runs."""
    settings = sorted(settings, key=lambda one: (one.cleaned, one.sharpness))
    for start in range(0, len(settings), AT_ONCE):
        yield settings[start : start + AT_ONCE]
