"""The other rival: the program SExtractor itself, where it is installed; nothing needs it."""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
from astropy.io import fits
from pydantic import Field

from lynceus.detections import Detections, Floats
from lynceus.errors import LynceusError
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.spec import Spec
from lynceus.tables import Catalogue
from lynceus.truth import listed_detections
from training.errors import TrainingError
from training.scoring.cosmic_rays import without_cosmic_rays
from training.scoring.rival import DEFAULT_FILTER, as_scores, gaussian, seeing_of
from training.tiling.exposures import LabelledExposure

PROGRAMS = ("source-extractor", "sex", "sextractor")
TIMEOUT_S = 300.0
COLUMNS = (
    "X_IMAGE", "Y_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO", "FWHM_IMAGE", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "FLAGS",
)  # fmt: skip
WIDEST = 10.0  # FWHM of a filter, in pixels: the program takes none over 31 pixels a side
OBJECTS, PIXELS, LINES = 20_000, 300_000, 1024  # least that its stacks and its buffer hold
log = logging.getLogger(__name__)


class SourceExtractorSettings(Spec):
    """One way to run it; by default, the program's own.

    Attributes
    ----------
    threshold : float
        In standard deviations of the sky, for detection and for analysis; of the sky before the filter, which leaves
        less: 1.5 behind the default filter are 4.
    convolution : {"none", "default", "matched"}
        The filter; a matched one is a Gaussian of the seeing.
    least_area : int
        In pixels.
    mesh : int
        Of the background, in pixels.
    deblend : float
        Contrast from which a part is an object of its own.
    steps : int
        Thresholds at which parts are sought.
    clean : bool
        Whether what a brighter neighbour's wings explain is left out.
    cleaned : bool
        Whether the frame is cleaned of cosmic rays before.
    sharpness : float
        Then: how much sharper than a star is what is cleaned. Where stars are sharp themselves, the usual value takes
        many for cosmic rays.
    """

    threshold: float = Field(1.5, gt=0)
    convolution: str = "default"
    least_area: int = Field(5, ge=1)
    mesh: int = Field(64, ge=8)
    deblend: float = Field(0.005, ge=0)
    steps: int = Field(32, ge=1, le=64)
    clean: bool = True
    cleaned: bool = False
    sharpness: float = Field(5.0, gt=0)


SOURCE_EXTRACTOR_GRID = [
    SourceExtractorSettings(threshold=threshold, convolution=convolution, least_area=area)
    for threshold, convolution, area in product(
        (1.0, 1.5, 2.0, 3.0), ("none", "default", "matched"), (3, 5, 8)
    )
]  # fmt: skip


def program() -> str | None:
    """Where SExtractor is on the PATH, by the first of its names that is there; None without it."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def find(exposure: LabelledExposure, settings: SourceExtractorSettings, measure: MeasureSpec) -> Detections:
    """What SExtractor finds in an exposure, with boxes by the bundle's rule.

    Parameters
    ----------
    exposure : LabelledExposure
        Its truth tells the seeing, for the matched filter.
    settings : SourceExtractorSettings
        How.
    measure : MeasureSpec
        The box rule.

    Returns
    -------
    Detections
        Scores rise with the signal to noise of FLUX_AUTO; none at all where the program fails on this frame.
    """
    try:
        catalogue = run_source_extractor(exposure.frame, settings, seeing_of(exposure))
        if not len(catalogue):
            return Detections.empty()
        return listed_detections(catalogue, exposure.frame, measure, rule="bundle")
    except LynceusError as error:
        log.warning("SExtractor fails on %s: %s", exposure.key, error)
        return Detections.empty()


def run_source_extractor(frame: Frame, settings: SourceExtractorSettings, fwhm: float) -> Catalogue:
    """Run the program on a frame, in a folder that is gone afterwards.

    Parameters
    ----------
    frame : Frame
        Masked pixels get no weight.
    settings : SourceExtractorSettings
        How.
    fwhm : float
        Of point sources, in pixels, for the matched filter.

    Returns
    -------
    Catalogue
        Its columns, and SCORE.

    Raises
    ------
    TrainingError
        If it is not installed, fails, or takes more than five minutes.
    """
    with Extractor(frame, fwhm) as extractor:
        found = dict(zip(COLUMNS, extractor.run(settings, COLUMNS).T, strict=True))
    score = as_scores(significance(found["FLUX_AUTO"], found["FLUXERR_AUTO"]))
    return Catalogue(found | {"SCORE": score}, "ascii_head")


def significance(flux: Floats, error: Floats) -> Floats:
    """Flux over its error, (N,); 0 where there is none."""
    return np.asarray(np.divide(flux, error, out=np.zeros_like(flux), where=error > 0))


class Extractor:
    """The program on one frame: the frame is written once, and read by as many runs as are asked for.

    Parameters
    ----------
    frame : Frame
        Masked pixels get no weight.
    fwhm : float
        Of point sources, in pixels, for the matched filter and for cleaning.

    Raises
    ------
    TrainingError
        If the program is not installed.
    """

    def __init__(self, frame: Frame, fwhm: float) -> None:
        path = program()
        if path is None:
            raise TrainingError(f"SExtractor is not installed: none of {', '.join(PROGRAMS)} is on the PATH")
        self.program, self.frame, self.fwhm = path, frame, fwhm

    def __enter__(self) -> "Extractor":
        self._scratch = TemporaryDirectory(prefix="lynceus-")
        self.folder = Path(self._scratch.name)
        (self.folder / "empty.sex").write_text("")
        for name, kernel in (("default", DEFAULT_FILTER), ("matched", gaussian(min(self.fwhm, WIDEST)))):
            (self.folder / f"{name}.conv").write_text(_told(kernel))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._scratch.cleanup()

    def run(self, settings: SourceExtractorSettings, columns: Sequence[str], timeout: float = TIMEOUT_S) -> Floats:
        """Run it once.

        Parameters
        ----------
        settings : SourceExtractorSettings
            How.
        columns : sequence of str
            What is asked of it: C names.
        timeout : float
            Seconds it may take.

        Returns
        -------
        ndarray, shape (N, C)
            As the program writes it: positions are 1-based.

        Raises
        ------
        TrainingError
            If it fails, or takes longer.
        """
        wanted = self.folder / "columns.param"
        wanted.write_text("\n".join(columns) + "\n")
        options = self._options(settings) | {"PARAMETERS_NAME": wanted.name}
        written = self._cleaned(settings.sharpness) if settings.cleaned else self._written
        command = [self.program, written, *(word for key, value in options.items() for word in (f"-{key}", value))]
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TrainingError(f"SExtractor did not run: {type(error).__name__}") from error
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise TrainingError(f"SExtractor failed: {said[-1] if said else f'status {done.returncode}'}")
        return _read(done.stdout, len(columns))

    def _options(self, settings: SourceExtractorSettings) -> dict[str, str]:
        """How the program shall run, but for what it shall write."""
        facts = self.frame.facts
        options = {
            "c": "empty.sex",
            "CATALOG_NAME": "STDOUT",
            "CATALOG_TYPE": "ASCII",
            "DETECT_THRESH": str(settings.threshold),
            "ANALYSIS_THRESH": str(settings.threshold),
            "DETECT_MINAREA": str(settings.least_area),
            "DEBLEND_MINCONT": str(settings.deblend),
            "DEBLEND_NTHRESH": str(settings.steps),
            "CLEAN": "Y" if settings.clean else "N",
            "BACK_SIZE": str(settings.mesh),
            "BACK_FILTERSIZE": "3",
            "FILTER": "N" if settings.convolution == "none" else "Y",
            "GAIN": str(facts.gain or 0.0),
            "VERBOSE_TYPE": "QUIET",
            "WRITE_XML": "N",
            "MEMORY_OBJSTACK": str(OBJECTS),
            "MEMORY_PIXSTACK": str(max(PIXELS, self.frame.pixels.size)),
            "MEMORY_BUFSIZE": str(max(LINES, self.frame.shape[0])),
        }
        if settings.convolution != "none":
            options["FILTER_NAME"] = f"{settings.convolution}.conv"
        if facts.saturation is not None:
            options["SATUR_LEVEL"] = str(facts.saturation)
        return options | self._weights

    @cached_property
    def _written(self) -> str:
        """The frame as a file, sky where it is masked."""
        return self._write("frame.fits", self.frame)

    def _cleaned(self, sharpness: float) -> str:
        """The frame cleaned of cosmic rays as a file; a second asking finds it there."""
        name = f"cleaned-{sharpness:g}.fits"
        return name if (self.folder / name).exists() else self._write(name, without_cosmic_rays(self.frame, sharpness))

    @cached_property
    def _weights(self) -> dict[str, str]:
        """Options that give masked pixels no weight; none where nothing is masked."""
        mask = self.frame.mask
        if not mask.any():
            return {}
        fits.writeto(self.folder / "weight.fits", (~mask).astype(np.float32))
        return {"WEIGHT_TYPE": "MAP_WEIGHT", "WEIGHT_IMAGE": "weight.fits", "WEIGHT_GAIN": "N"}

    def _write(self, name: str, frame: Frame) -> str:
        mask = frame.mask
        middle = np.float32(np.nanmedian(frame.pixels)) if not mask.all() else np.float32(0)
        fits.writeto(self.folder / name, np.where(mask, middle, frame.pixels))
        return name


def _told(kernel: Floats) -> str:
    """A filter as the program reads it."""
    scaled = kernel / kernel.max()
    return "CONV NORM\n" + "\n".join(" ".join(f"{value:.6f}" for value in row) for row in scaled) + "\n"


def _read(told: str, columns: int) -> Floats:
    """Read its table, (N, `columns`)."""
    try:
        return np.array(told.split(), np.float64).reshape(-1, columns)
    except ValueError as error:
        raise TrainingError("SExtractor wrote no table that can be read") from error
