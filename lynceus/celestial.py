"""The celestial WCS of a frame: a sound one or none, never a wrong position."""

import re
from io import BytesIO

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from lynceus.detections import Floats
from lynceus.fits_file import Hdu, number, quiet, text

CELESTIAL = re.compile(r"(RA--|DEC-|[A-Z]LON|[A-Z]LAT|[A-Z]{2}LN|[A-Z]{2}LT)")
LOOKUP_TABLES = re.compile(r"(CPDIS|CQDIS|DP\d|DQ\d|D2IM|AXISCORR|PS\d)")
SIP_ORDER = re.compile(r"(A|B|AP|BP)_ORDER")
HIGHEST_ORDER = 9  # of the SIP polynomials and of WCSAXES: the parsers allocate what the header says
TOLERANCE = 1.0  # pixels that a position may move on its way to the sky and back


class _UnusableError(Exception):
    """The WCS is there and cannot be trusted; the text says why."""


def celestial_wcs(hdu: Hdu, header: fits.Header) -> tuple[WCS | None, str]:
    """Read the celestial WCS of a frame and try it out.

    Parameters
    ----------
    hdu : Hdu
        The frame; some distortions lie in other HDUs of its file.
    header : Header
        Of the frame's image.

    Returns
    -------
    wcs : WCS or None
        Of the two axes of the frame, 0-based pixel centres; None if there is none, or if it is not celestial,
        or not usable: the centre of the frame and a corner must go to the sky and back.
    warning : str
        Why it cannot be used, or the empty string.
    """
    axes = hdu.plane_axes or ()
    numbers = [len(hdu.shape) - axis for axis in reversed(axes)]
    if not any(CELESTIAL.match(text(header, f"CTYPE{axis}") or "") for axis in numbers):
        return None, ""
    try:
        with quiet():
            _check_header(header, numbers)
            wcs = _parse(hdu, header, numbers)
            _check_round_trip(wcs, hdu.plane_shape or (0, 0))
    except Exception as error:  # wcslib's own words name source files, so they are not passed on
        reason = str(error) if isinstance(error, _UnusableError) else "its keywords contradict each other"
        return None, f"the WCS cannot be used: {reason}; positions are in pixels only"
    return wcs, ""


def to_icrs(wcs: WCS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Pixel positions to the sky.

    Parameters
    ----------
    wcs : WCS
        Celestial, in any frame (ICRS, FK5, FK4, galactic, ecliptic).
    x, y : ndarray, shape (N,)
        0-based pixel centres.

    Returns
    -------
    ra, dec : ndarray, shape (N,)
        ICRS degrees; NaN where the projection does not reach.
    """
    with quiet(), np.errstate(all="ignore"):
        sky = wcs.pixel_to_world(np.asarray(x, float), np.asarray(y, float)).icrs
        ra, dec = np.array(sky.ra.deg, float), np.array(sky.dec.deg, float)
    bad = ~(np.isfinite(ra) & np.isfinite(dec))
    ra[bad] = dec[bad] = np.nan
    return ra, dec


def pixel_scale(wcs: WCS) -> float | None:
    """Mean side of a pixel at the reference point, from the WCS matrix, in arcsec."""
    with quiet():
        scale = float(np.mean(proj_plane_pixel_scales(wcs))) * 3600
    return scale if np.isfinite(scale) and scale > 0 else None


def _check_header(header: fits.Header, numbers: list[int]) -> None:
    """Refuse what the parser would fill in with a default (a wrong position) or allocate without bounds."""
    for axis in numbers:
        for key in (f"CRVAL{axis}", f"CRPIX{axis}"):
            if number(header, key) is None:
                raise _UnusableError(f"{key} is absent or not a number")
    cd, pc = (_determinant(header, prefix, numbers) for prefix in ("CD", "PC"))
    steps = [number(header, f"CDELT{axis}") for axis in numbers]
    if cd is None and None in steps:
        raise _UnusableError("it gives no pixel scale")
    if cd == 0 or (cd is None and (pc == 0 or 0 in steps)):  # wcslib takes a matrix of zeros for a missing one
        raise _UnusableError("its matrix is singular")
    for key in header:
        if (SIP_ORDER.fullmatch(key) or key == "WCSAXES") and not 0 <= (number(header, key) or 0) <= HIGHEST_ORDER:
            raise _UnusableError(f"{key} is out of range")


def _determinant(header: fits.Header, prefix: str, numbers: list[int]) -> float | None:
    """Determinant of the CD or PC matrix of two axes; None where the header holds no such matrix."""
    i, j = numbers
    a, b, c, d = (number(header, f"{prefix}{row}_{column}") for row in (i, j) for column in (i, j))
    if a is b is c is d is None:
        return None
    identity = 1.0 if prefix == "PC" else 0.0  # what the standard puts in the place of missing elements
    diagonal = (identity if a is None else a) * (identity if d is None else d)
    return diagonal - (b or 0.0) * (c or 0.0)


def _parse(hdu: Hdu, header: fits.Header, numbers: list[int]) -> WCS:
    """Build the WCS of the frame's two axes."""
    try:
        if any(LOOKUP_TABLES.match(key) for key in header):
            with fits.open(BytesIO(hdu.file)) as tables:
                wcs = WCS(header, fobj=tables)
        else:
            wcs = WCS(header)
        wcs = wcs if wcs.naxis == 2 else wcs.sub(numbers)
        celestial = wcs.has_celestial
    except Exception as error:
        singular = "singular" in str(error).lower()
        raise _UnusableError("its matrix is singular" if singular else "it cannot be parsed") from None
    if not celestial:
        raise _UnusableError("its projection is unknown")
    return wcs


def _check_round_trip(wcs: WCS, shape: tuple[int, int]) -> None:
    """Send the centre and the corners of the frame to the sky and back.

    A corner may lie outside an all-sky projection; all that reach the sky must come back.
    """
    right, top = shape[1] - 1, shape[0] - 1
    pixels = np.array([[right / 2, top / 2], [0, 0], [right, 0], [0, top], [right, top]], float)
    sky = np.asarray(wcs.all_pix2world(pixels, 0))
    there = np.isfinite(sky).all(axis=1)
    if not (there[0] and there[1:].any()):
        raise _UnusableError("the frame lies outside its projection")
    back = np.asarray(wcs.all_world2pix(sky[there], 0, quiet=True))
    if not (np.hypot(*(back - pixels[there]).T) < TOLERANCE).all():
        raise _UnusableError("it cannot be inverted")
    ra, _ = to_icrs(wcs, pixels[:1, 0], pixels[:1, 1])
    if not np.isfinite(ra).all():
        raise _UnusableError("its frame of reference is unknown")
