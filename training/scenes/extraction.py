"""Catalogues as an observatory's pipeline leaves them: exact rows, or an extraction with its faults, in ASCII_HEAD."""

from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.sources import Flag
from training.scenes.ranges import Floats

ZERO_POINT = 25.0  # magnitudes, of 1 ADU a second
MISSING = 99.0
FAILED_RADIUS = -1.0e5  # FLUX_RADIUS where it cannot be measured
THRESHOLD, LEAST_AREA = 1.5, 5  # standard deviations, and pixels: SExtractor's defaults
KRON, KRON_REACH, LEAST_KRON = 2.5, 6.0, 3.5
BLEND = 1.5  # FWHM
MAGNITUDES_PER_SHARE = 2.5 / np.log(10)
Ints = NDArray[np.int64]
COLUMNS = {
    "X_IMAGE": ("Object position along x", "pixel", "%11.4f"),
    "Y_IMAGE": ("Object position along y", "pixel", "%11.4f"),
    "ALPHA_J2000": ("Right ascension of barycenter (J2000)", "deg", "%13.8f"),
    "DELTA_J2000": ("Declination of barycenter (J2000)", "deg", "%+13.8f"),
    "MAG_AUTO": ("Kron-like elliptical aperture magnitude", "mag", "%9.4f"),
    "MAGERR_AUTO": ("RMS error for AUTO magnitude", "mag", "%9.4f"),
    "FWHM_WORLD": ("FWHM assuming a gaussian core", "deg", "%14.7e"),
    "FLUX_RADIUS": ("Fraction-of-light radii", "pixel", "%10.3f"),
    "ELLIPTICITY": ("1 - B_IMAGE/A_IMAGE", "", "%9.5f"),
    "THETA_WORLD": ("Position angle (CCW/world-x)", "deg", "%8.2f"),
    "THETA_J2000": ("Position angle (east of north) (J2000)", "deg", "%8.2f"),
    "FLAGS": ("Extraction flags", "", "%4d"),
    "MAG_CALIB": ("Calibrated magnitude", "mag", "%9.4f"),
    "MAGERR_CALIB": ("RMS error for the calibrated magnitude", "mag", "%9.4f"),
}


def exact_rows(
    truth: Table, pixels: Floats, saturation: float, missing: float, flagged: float, rng: np.random.Generator
) -> Table:
    """Rows that say what is there: all that the truth does not ignore, but for a share that is left out.

    Parameters
    ----------
    truth : Table
        As `draw_scene` gives it.
    pixels : ndarray, shape (H, W)
        Of the frame, in ADU; tell which rows are saturated.
    saturation : float
        ADU.
    missing, flagged : float
        Share of rows left out, and share of the others that get one of the bits 8 to 128 of FLAGS.
    rng : Generator
        Chooses them.

    Returns
    -------
    Table
        x, y (0-based), flux, error (ADU), fwhm, radius (px), ellipticity, theta (degrees), flags.
    """
    listed = truth[~np.asarray(truth["ignored"], bool)]
    listed = listed[np.sort(rng.permutation(len(listed))[round(missing * len(listed)) :])]
    x, y, fwhm = (np.asarray(listed[name], float) for name in ("x", "y", "fwhm"))
    flags = np.where(_nearest(x, y) < BLEND * fwhm, int(Flag.BLENDED), 0)
    height, width = pixels.shape
    row, column = (np.rint(np.clip(axis, 0, side - 1)).astype(int) for axis, side in ((y, height), (x, width)))
    flags |= np.where(pixels[row, column] >= saturation, int(Flag.SATURATED), 0)
    failed = rng.permutation(len(listed))[: round(flagged * len(listed))]
    flags[failed] |= 2 ** rng.integers(3, 8, len(failed))
    rows = listed["x", "y", "flux", "fwhm", "ellipticity", "theta"]
    rows["error"], rows["radius"], rows["flags"] = listed["flux"] / listed["snr"], fwhm / 2, flags
    return rows


def extracted_rows(pixels: Floats, saturation: float, gain: float) -> Table:
    """Rows as SExtractor finds them, faults and all: what is faint is missing, blends are one, sizes are isophotal.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        ADU.
    saturation, gain : float
        ADU, and electrons per ADU.

    Returns
    -------
    Table
        As of `exact_rows`; NaN where a quantity could not be measured.
    """
    data = np.ascontiguousarray(pixels, np.float32)
    background = sep.Background(data, bw=64, bh=64, fw=3, fh=3)
    data, noise = data - background.back(), background.rms()
    sep.set_extract_pixstack(max(300_000, data.size // 2))
    sep.set_sub_object_limit(20_000)
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)
    found = sep.extract(data, THRESHOLD, err=noise, minarea=LEAST_AREA, filter_kernel=kernel, filter_type="conv")
    x, y, a, b = (found[name].astype(float) for name in ("x", "y", "a", "b"))
    flux, error, kron, aperture_flags = _kron_fluxes(data, noise, found, gain)
    radius, failed = sep.flux_radius(data, x, y, KRON_REACH * a, 0.5, normflux=flux, subpix=5)
    near = _nearest(x, y) < kron * a
    flags = (
        np.where(found["flag"] & sep.OBJ_MERGED, int(Flag.BLENDED), 0)
        | np.where(found["flag"] & sep.OBJ_TRUNC, int(Flag.TRUNCATED), 0)
        | np.where(found["peak"] + background.globalback >= 0.99 * saturation, int(Flag.SATURATED), 0)
        | np.where(near, int(Flag.NEIGHBOURS), 0)
        | np.where(aperture_flags & sep.APER_TRUNC, int(Flag.INCOMPLETE), 0)
    )
    rows = Table({"x": x, "y": y, "flux": np.where(flux > 0, flux, np.nan), "error": error})
    rows["fwhm"], rows["ellipticity"] = 2 * np.sqrt(np.log(2) * (a**2 + b**2)), 1 - b / a
    rows["theta"] = np.degrees(found["theta"])
    rows["radius"], rows["flags"] = np.where((failed == 0) & (flux > 0), radius, np.nan), flags
    return rows


def _kron_fluxes(
    data: NDArray[np.float32], noise: NDArray[np.float32], found: NDArray[Any], gain: float
) -> tuple[Floats, Floats, Floats, Ints]:
    """Fluxes, errors, Kron radii in semi-axes, and flags of the apertures, (N,) each."""
    x, y, a, b = (found[name].astype(float) for name in ("x", "y", "a", "b"))
    theta = np.clip(found["theta"].astype(float), -np.pi / 2, np.pi / 2)
    kron, _ = sep.kron_radius(data, x, y, a, b, theta, KRON_REACH)
    kron = np.maximum(KRON * np.nan_to_num(kron), LEAST_KRON)
    flux, error, flags = sep.sum_ellipse(data, x, y, a, b, theta, kron, err=noise, gain=gain, subpix=1)
    return flux, error, kron, flags


def _nearest(x: Floats, y: Floats) -> Floats:
    """Distance to the nearest other one in pixels, (N,)."""
    if len(x) < 2:
        return np.full(len(x), np.inf)
    positions = np.stack([x, y], axis=1)
    return np.asarray(cKDTree(positions).query(positions, k=2)[0][:, 1])


def joan_oro_table(rows: Table, wcs: WCS, exposure_time: float) -> Table:
    """Rows of an extraction in the columns of a Joan Oro catalogue.

    Parameters
    ----------
    rows : Table
        As of `exact_rows`.
    wcs : WCS
        Of the frame.
    exposure_time : float
        Seconds.
    """
    x, y = (np.asarray(rows[name], float) for name in ("x", "y"))
    east, north = _directions(wcs, x, y, np.radians(np.asarray(rows["theta"], float)))
    scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = ZERO_POINT - 2.5 * np.log10(rows["flux"] / exposure_time)
        error = MAGNITUDES_PER_SHARE * np.asarray(rows["error"] / rows["flux"])
    unknown = ~np.isfinite(magnitude) | ~np.isfinite(error)
    magnitude, error = (np.where(unknown, MISSING, values) for values in (magnitude, np.clip(error, 0, 90)))
    ra, dec = wcs.all_pix2world(x, y, 0) if len(x) else (x, y)
    return Table(
        {
            "X_IMAGE": x + 1,
            "Y_IMAGE": y + 1,
            "ALPHA_J2000": ra,
            "DELTA_J2000": dec,
            "MAG_AUTO": magnitude,
            "MAGERR_AUTO": error,
            "FWHM_WORLD": np.asarray(rows["fwhm"]) * scale,
            "FLUX_RADIUS": np.where(np.isfinite(rows["radius"]), rows["radius"], FAILED_RADIUS),
            "ELLIPTICITY": rows["ellipticity"],
            "THETA_WORLD": _folded(np.degrees(np.arctan2(north, east))),
            "THETA_J2000": _folded(np.degrees(np.arctan2(east, north))),
            "FLAGS": rows["flags"],
            "MAG_CALIB": magnitude,
            "MAGERR_CALIB": error,
        }
    )


def _directions(wcs: WCS, x: Floats, y: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Where a direction on the frame points to on the sky: east and north, (N,) each, of any length."""
    if not len(x):
        return x, y
    ra, dec = wcs.all_pix2world(x, y, 0)
    there_ra, there_dec = wcs.all_pix2world(x + np.cos(theta), y + np.sin(theta), 0)
    return (np.mod(there_ra - ra + 180, 360) - 180) * np.cos(np.radians(dec)), there_dec - dec


def _folded(angle: Floats) -> Floats:
    """The same axis between -90 and 90 degrees."""
    return np.asarray(np.mod(angle + 90, 180) - 90)


def write_ascii_head(path: Path, table: Table) -> None:
    """Write a catalogue as SExtractor's ASCII_HEAD: one line a column, then one a row."""
    heads = []
    for number, name in enumerate(table.colnames, 1):
        text, unit, _ = COLUMNS[name]
        heads.append(f"# {number:3d} {name:<22} {text:<58} {f'[{unit}]' if unit else ''}".rstrip())
    formats = [COLUMNS[name][2] for name in table.colnames]
    rows = [" ".join(form % value for form, value in zip(formats, row, strict=True)) for row in table]
    partial = path.with_name(path.name + ".part")
    partial.write_text("\n".join([*heads, *rows]) + "\n")
    partial.rename(path)
