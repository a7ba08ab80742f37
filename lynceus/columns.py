"""What is published of a frame: the block of results, and the one table of columns all formats are made from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import centre_to_fits, edge_to_fits
from lynceus.frame import Frame
from lynceus.sources import FrameSummary, Sources

Origin = Literal["array", "fits"]  # pixels from 0, as programs index them, or from 1, as FITS counts them
PRINTABLE = dict.fromkeys(range(32), "?") | {127: "?"}


@dataclass(frozen=True)
class ModelInfo:
    """The version that found the sources."""

    name: str
    version: str
    track: str
    sha256: str
    classes: tuple[str, ...] = ("source",)


@dataclass(frozen=True, eq=False)
class Block:
    """Everything that is published of one frame.

    Attributes
    ----------
    frame : Frame
        Where the sources are.
    sources : Sources
        By falling score.
    summary : FrameSummary
        What was measured of the whole frame.
    model : ModelInfo
        Who found them.
    warnings : tuple of str
        What was odd, in the user's words.
    timing_ms : dict of str to float
        Milliseconds by stage.
    overflow : bool
        There were more than `limit`.
    limit : int or None
        Most sources that were asked for.
    """

    frame: Frame
    sources: Sources
    summary: FrameSummary
    model: ModelInfo
    warnings: tuple[str, ...] = ()
    timing_ms: dict[str, float] = field(default_factory=dict)
    overflow: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Column:
    """One column of every table.

    Attributes
    ----------
    name, unit, ucd, description : str
        As published; the unit in VOUnit spelling, the UCD of UCD1+.
    sextractor : str
        The name SExtractor has for it, or would have.
    values : callable
        Takes the Block, gives an array of length N.
    pixel : {"", "centre", "edge"}
        Which of the pixel conventions it is in, if it is a position.
    sextractor_shift : float
        What SExtractor's column adds to the 0-based value; its XMIN and XMAX are inclusive pixels.
    """

    name: str
    unit: str
    ucd: str
    description: str
    sextractor: str
    values: Callable[[Block], NDArray[Any] | None]
    pixel: Literal["", "centre", "edge"] = ""
    sextractor_shift: float = 0.0

    def described(self, origin: Origin) -> str:
        """The description, with the convention of the pixels."""
        if not self.pixel:
            return self.description
        if origin == "fits":
            return f"{self.description}; the centre of the first pixel is 1"
        if self.pixel == "edge":
            return f"{self.description}; the first pixel covers 0 to 1"
        return f"{self.description}; the centre of the first pixel is 0"


def _of(name: str) -> Callable[[Block], NDArray[Any] | None]:
    return lambda block: getattr(block.sources, name)


def _edge(index: int) -> Callable[[Block], NDArray[Any]]:
    return lambda block: block.sources.detections.boxes[:, index].astype(np.float64)


def _classes(block: Block) -> NDArray[Any]:
    names = np.array([plain(name) for name in block.model.classes] or [""])
    return np.asarray(names[block.sources.detections.labels])


COLUMNS = (
    Column("id", "", "meta.id;meta.main", "Running number, by falling score", "NUMBER",
           lambda block: np.arange(1, len(block.sources) + 1)),
    Column("x", "pix", "pos.cartesian.x;instr.det", "Windowed centroid, column", "X_IMAGE", _of("x"), "centre", 1.0),
    Column("y", "pix", "pos.cartesian.y;instr.det", "Windowed centroid, row", "Y_IMAGE", _of("y"), "centre", 1.0),
    Column("x_min", "pix", "pos.cartesian.x;instr.det;stat.min", "Left edge of the box", "XMIN_IMAGE",
           _edge(0), "edge", 1.0),
    Column("y_min", "pix", "pos.cartesian.y;instr.det;stat.min", "Lower edge of the box", "YMIN_IMAGE",
           _edge(1), "edge", 1.0),
    Column("x_max", "pix", "pos.cartesian.x;instr.det;stat.max", "Right edge of the box", "XMAX_IMAGE",
           _edge(2), "edge"),
    Column("y_max", "pix", "pos.cartesian.y;instr.det;stat.max", "Upper edge of the box", "YMAX_IMAGE",
           _edge(3), "edge"),
    Column("score", "", "stat.value", "How sure the network is, 0 to 1; not a calibrated probability", "SCORE",
           lambda block: block.sources.detections.scores.astype(np.float64)),
    Column("class", "", "src.class", "What it is", "CLASS", _classes),
    Column("ra", "deg", "pos.eq.ra;meta.main", "Right ascension, ICRS", "ALPHA_J2000", _of("ra")),
    Column("dec", "deg", "pos.eq.dec;meta.main", "Declination, ICRS", "DELTA_J2000", _of("dec")),
    Column("flux", "adu", "phot.count", "Flux in a Kron-like ellipse", "FLUX_AUTO", _of("flux")),
    Column("flux_err", "adu", "stat.error;phot.count", "Standard error of flux", "FLUXERR_AUTO", _of("flux_err")),
    Column("flux_aper", "adu", "phot.count;instr.det", "Flux in a circle, one size for the frame", "FLUX_APER",
           _of("flux_aper")),
    Column("flux_aper_err", "adu", "stat.error;phot.count;instr.det", "Standard error of flux_aper", "FLUXERR_APER",
           _of("flux_aper_err")),
    Column("snr", "", "stat.snr", "Signal to noise of a matched filter", "SNR_WIN", _of("snr")),
    Column("fwhm", "pix", "phys.angSize", "Full width at half maximum", "FWHM_IMAGE", _of("fwhm")),
    Column("ellipticity", "", "src.ellipticity", "1 - minor axis / major axis", "ELLIPTICITY", _of("ellipticity")),
    Column("theta", "deg", "pos.posAng", "Angle of the major axis, counter-clockwise from x", "THETA_IMAGE",
           _of("theta")),
    Column("flags", "", "meta.code.qual", "SExtractor's FLAGS: 1 neighbours, 2 blended, 4 saturated, 8 truncated, "
           "16 incomplete", "FLAGS", _of("flags")),
    Column("mag", "mag", "phot.mag", "Magnitude of flux, by the header's zero point", "MAG_AUTO", _of("mag")),
    Column("mag_err", "mag", "stat.error;phot.mag", "Standard error of mag", "MAGERR_AUTO", _of("mag_err")),
)  # fmt: skip


def columns_of(block: Block, origin: Origin) -> Iterator[tuple[Column, NDArray[Any]]]:
    """The columns a block has, with their values; magnitudes only where there is a zero point.

    Parameters
    ----------
    block : Block
        N sources.
    origin : {"array", "fits"}
        Which pixel the positions count from.

    Yields
    ------
    column, values : Column, ndarray of shape (N,)
        In the order of `COLUMNS`.
    """
    for column in COLUMNS:
        values = column.values(block)
        if values is None:
            continue
        if origin == "fits" and column.pixel:
            values = centre_to_fits(values) if column.pixel == "centre" else edge_to_fits(values)
        yield column, values


def facts_of(frame: Frame, summary: FrameSummary) -> dict[str, Any]:
    """What is known of a frame as a whole, in plain types; None where it is unknown."""
    height, width = frame.shape
    return {
        "sha256": frame.sha256,
        "shape": [height, width],
        "hdu": frame.hdu,
        "name": plain(frame.name),
        "background": summary.background,
        "noise": summary.noise,
        "fwhm_px": summary.fwhm_px,
        "fwhm_arcsec": summary.fwhm_arcsec,
        "pixel_scale_arcsec": frame.pixel_scale,
        "wcs": None if frame.wcs is None else [plain(axis) for axis in frame.wcs.wcs.ctype],
        "date_obs": None if frame.facts.date_obs is None else plain(frame.facts.date_obs),
        "mid_time": summary.mid_time,
        "filter": None if frame.facts.filter is None else plain(frame.facts.filter),
        "exptime": frame.facts.exposure_time,
        "limiting_snr": summary.limiting_snr,
        "limiting_flux": summary.limiting_flux,
        "limiting_mag": summary.limiting_mag,
        "saturated_fraction": summary.saturated_fraction,
    }


def plain(text: str) -> str:
    """Text of a stranger's header, made fit for every format: one line of ASCII."""
    return text.translate(PRINTABLE).encode("ascii", "replace").decode()
