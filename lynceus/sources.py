"""What was measured of each detection, and of the frame as a whole: values only, without `sep`."""

from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Detections, Floats

FWHM_PER_SIGMA = 2.0 * float(np.sqrt(2.0 * np.log(2.0)))


class Flag(IntFlag):
    """The bits of `flags`; numbers and meaning are SExtractor's."""

    NEIGHBOURS = 1  # a neighbour, or bad pixels on over a tenth of the aperture, bias the photometry
    BLENDED = 2  # with another detection: the centres lie within about a FWHM
    SATURATED = 4  # at least one saturated pixel in the box
    TRUNCATED = 8  # the box meets the frame's edge
    INCOMPLETE = 16  # the aperture is incomplete or corrupt, or the centroid failed


@dataclass(frozen=True, eq=False)
class Sources:
    """Detections with their measurements, one row each; NaN where a quantity is not known.

    Attributes
    ----------
    detections : Detections
        What was measured, N of them.
    x, y : ndarray, shape (N,)
        Windowed centroid, 0-based pixel centres; the box centre where that failed.
    ra, dec : ndarray, shape (N,)
        ICRS degrees.
    flux, flux_err : ndarray, shape (N,)
        In an elliptical Kron-like aperture (AUTO), in ADU.
    flux_aper, flux_aper_err : ndarray, shape (N,)
        In a circle of one size for the whole frame, in ADU.
    snr : ndarray, shape (N,)
        Signal to noise of a matched filter, with the source's own photon noise where the gain is known.
    fwhm : ndarray, shape (N,)
        Geometric mean over the two axes, in pixels.
    ellipticity : ndarray, shape (N,)
        1 - b/a.
    theta : ndarray, shape (N,)
        Of the major axis, degrees counter-clockwise from +x, in (-90, 90].
    a, b : ndarray, shape (N,)
        Semi-axes of the Gaussian nearest to the source (one standard deviation), in pixels.
    flags : ndarray, shape (N,), int64
        Bits of `Flag`.
    mag, mag_err : ndarray of shape (N,), or None
        Of `flux`; None where the header gives no zero point.

    Raises
    ------
    ValueError
        If a column is not as long as the detections.
    """

    detections: Detections
    x: Floats
    y: Floats
    ra: Floats
    dec: Floats
    flux: Floats
    flux_err: Floats
    flux_aper: Floats
    flux_aper_err: Floats
    snr: Floats
    fwhm: Floats
    ellipticity: Floats
    theta: Floats
    a: Floats
    b: Floats
    flags: NDArray[np.int64]
    mag: Floats | None = None
    mag_err: Floats | None = None

    def __post_init__(self) -> None:
        for column in fields(self):
            value = getattr(self, column.name)
            if value is not None and len(value) != len(self.detections):
                raise ValueError(f"{column.name} has {len(value)} rows for {len(self.detections)} detections")

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Sources":
        """Select by a mask, an array of indices, or a slice."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        chosen: dict[str, Any] = {name: None if value is None else value[index] for name, value in columns.items()}
        return Sources(**chosen)


@dataclass(frozen=True)
class FrameSummary:
    """What was measured of a whole frame; None where it is not known.

    Attributes
    ----------
    background, noise : float
        Median sky level and sky noise, in ADU.
    fwhm_px, fwhm_arcsec : float or None
        Seeing, as the FWHM of point sources, in pixels and arcsec.
    limiting_snr : float
        Signal to noise that the limits below are given for.
    limiting_flux : float or None
        Of a point source at that signal to noise, in ADU.
    limiting_mag : float or None
        The same as a magnitude, where the header gives a zero point.
    saturated_fraction : float
        Share of the pixels that are saturated, 0..1.
    mid_time : str or None
        Middle of the exposure, ISO 8601, UTC.
    """

    background: float
    noise: float
    fwhm_px: float | None
    fwhm_arcsec: float | None
    limiting_snr: float
    limiting_flux: float | None
    limiting_mag: float | None
    saturated_fraction: float
    mid_time: str | None
