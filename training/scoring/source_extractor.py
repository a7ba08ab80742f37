"""The other rival: the program SExtractor itself, where it is installed; nothing needs it."""

import logging
import shutil
import subprocess
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from astropy.io import fits

from lynceus.detections import Detections
from lynceus.errors import LynceusError
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.spec import Spec
from lynceus.tables import Catalogue, read_catalogue
from lynceus.truth import listed_detections
from training.errors import TrainingError
from training.scoring.rival import DEFAULT_FILTER, as_scores, gaussian, seeing_of
from training.tiling.exposures import LabelledExposure

PROGRAMS = ("source-extractor", "sex", "sextractor")
TIMEOUT_S = 300.0
COLUMNS = (
    "X_IMAGE", "Y_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO", "FWHM_IMAGE", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "FLAGS",
)  # fmt: skip
STACKS = {"MEMORY_OBJSTACK": "20000", "MEMORY_PIXSTACK": "5000000", "MEMORY_BUFSIZE": "4096"}
log = logging.getLogger(__name__)


class SourceExtractorSettings(Spec):
    """One way to run it.

    Attributes
    ----------
    threshold : float
        In standard deviations of the sky, for detection and for analysis.
    convolution : {"none", "default", "matched"}
        The filter.
    least_area : int
        In pixels.
    mesh : int
        Of the background, in pixels.
    deblend : float
        Contrast from which a part is an object of its own.
    """

    threshold: float = 1.5
    convolution: str = "default"
    least_area: int = 5
    mesh: int = 64
    deblend: float = 0.005


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
    path = program()
    if path is None:
        raise TrainingError(f"SExtractor is not installed: none of {', '.join(PROGRAMS)} is on the PATH")
    with TemporaryDirectory(prefix="lynceus-") as name:
        folder = Path(name)
        options = _prepare(frame, settings, fwhm, folder)
        command = [path, "frame.fits", *(word for key, value in options.items() for word in (f"-{key}", value))]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TrainingError(f"SExtractor did not run: {type(error).__name__}") from error
        if done.returncode or not (folder / "found.cat").exists():
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise TrainingError(f"SExtractor failed: {said[-1] if said else f'status {done.returncode}'}")
        return _read((folder / "found.cat").read_bytes())


def _prepare(frame: Frame, settings: SourceExtractorSettings, fwhm: float, folder: Path) -> Mapping[str, str]:
    """Write what the program reads, and say how it shall run."""
    mask = frame.mask
    middle = np.float32(np.nanmedian(frame.pixels)) if not mask.all() else np.float32(0)
    fits.writeto(folder / "frame.fits", np.where(mask, middle, frame.pixels))
    (folder / "empty.sex").write_text("")
    (folder / "columns.param").write_text("\n".join(COLUMNS) + "\n")
    options = {
        "c": "empty.sex",
        "CATALOG_NAME": "found.cat",
        "CATALOG_TYPE": "ASCII_HEAD",
        "PARAMETERS_NAME": "columns.param",
        "DETECT_THRESH": str(settings.threshold),
        "ANALYSIS_THRESH": str(settings.threshold),
        "DETECT_MINAREA": str(settings.least_area),
        "DEBLEND_MINCONT": str(settings.deblend),
        "BACK_SIZE": str(settings.mesh),
        "BACK_FILTERSIZE": "3",
        "FILTER": "N",
        "GAIN": str(frame.facts.gain or 0.0),
        "VERBOSE_TYPE": "QUIET",
        "WRITE_XML": "N",
        **STACKS,
    }
    if settings.convolution != "none":
        (folder / "filter.conv").write_text(_filter(settings.convolution, fwhm))
        options |= {"FILTER": "Y", "FILTER_NAME": "filter.conv"}
    if frame.facts.saturation is not None:
        options["SATUR_LEVEL"] = str(frame.facts.saturation)
    if mask.any():
        fits.writeto(folder / "weight.fits", (~mask).astype(np.float32))
        options |= {"WEIGHT_TYPE": "MAP_WEIGHT", "WEIGHT_IMAGE": "weight.fits", "WEIGHT_GAIN": "N"}
    return options


def _filter(convolution: str, fwhm: float) -> str:
    """A filter as the program reads it; it takes none over 31 pixels a side."""
    kernel = DEFAULT_FILTER if convolution == "default" else gaussian(min(fwhm, 10.0))
    return "CONV NORM\n" + "\n".join(" ".join(f"{value:.6f}" for value in row) for row in kernel) + "\n"


def _read(data: bytes) -> Catalogue:
    """Read its table; a table of none has no lines besides the header's."""
    if not any(line.strip() and not line.startswith(b"#") for line in data.splitlines()):
        return Catalogue({name: np.zeros(0) for name in COLUMNS}, "ascii_head")
    listed = read_catalogue(data)
    flux, error = listed.number("FLUX_AUTO"), listed.number("FLUXERR_AUTO")
    if flux is None or error is None:
        raise TrainingError("SExtractor wrote no fluxes")
    with np.errstate(divide="ignore", invalid="ignore"):
        score = as_scores(np.where(error > 0, flux / error, 0.0))
    return Catalogue({**listed.columns, "SCORE": score}, listed.format, listed.units, listed.warnings)
