"""Where the rows of a catalogue are on a frame, and the boxes about them, by either box rule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import skycoord_to_pixel

from lynceus.detections import Floats, box_about, centre_from_fits, edge_from_fits
from lynceus.errors import CatalogueError
from lynceus.fits_file import quiet
from lynceus.frame import Frame
from lynceus.sources import FWHM_PER_SIGMA
from lynceus.tables import Catalogue

if TYPE_CHECKING:  # `measure` needs `sep`; reading a catalogue does not
    from lynceus.measure import MeasureSpec

BoxRule = Literal["bundle", "catalogue"]

FITS_ORIGIN = ("ascii_head", "ldac", "fits", "votable")  # formats that count pixels from 1
FITS_CENTRES = (("X_IMAGE", "Y_IMAGE"), ("XWIN_IMAGE", "YWIN_IMAGE"), ("XPSF_IMAGE", "YPSF_IMAGE"))
ARRAY_CENTRES = ("XCENTROID", "YCENTROID")  # photutils
SKY = (
    ("ALPHA_J2000", "DELTA_J2000"), ("ALPHAWIN_J2000", "DELTAWIN_J2000"), ("ALPHA_SKY", "DELTA_SKY"),
    ("ALPHAWIN_SKY", "DELTAWIN_SKY"), ("RA", "DEC"), ("RAJ2000", "DEJ2000"), ("RA_ICRS", "DE_ICRS"),
    ("X_WORLD", "Y_WORLD"),
)  # fmt: skip
OWN_EDGES = ("X_MIN", "Y_MIN", "X_MAX", "Y_MAX")
IMAGE_EDGES = ("XMIN_IMAGE", "YMIN_IMAGE", "XMAX_IMAGE", "YMAX_IMAGE")
AXES = (
    ("A_IMAGE", "B_IMAGE", "THETA_IMAGE"), ("AWIN_IMAGE", "BWIN_IMAGE", "THETAWIN_IMAGE"),
    ("SEMIMAJOR_SIGMA", "SEMIMINOR_SIGMA", "ORIENTATION"),
)  # fmt: skip
SEP_AXES = ("A", "B", "THETA")
MOMENTS = ("X2_IMAGE", "Y2_IMAGE", "XY_IMAGE")
DEGREES, ARCSECONDS = ("", "deg", "degree", "degrees"), ("arcsec", "arcsecond", "arcseconds", '"')
THINNEST = 0.02  # axis ratio; a thinner source is a fault of its catalogue
SMALLEST_SIDE = 0.5  # pixels; a thinner box is no source
SIGMAS, KRON_MISSING = 3.0, 0.0  # semi-axes of the box in A and B where there is no Kron radius
ROUND_TRIP = 1.0  # pixels that a position may move on its way from the sky and back
MARGIN = 0.5  # of the frame's side; distortion moves nothing further
DOES_NOT_FIT = "the catalogue has no position that can be used"


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Shapes of N rows on the frame; NaN where a quantity is not known.

    Attributes
    ----------
    fwhm : ndarray, shape (N,)
        Geometric mean over both axes, observed, in pixels.
    sigma : ndarray, shape (N,)
        Geometric mean of the catalogue's own A and B (one standard deviation), in pixels.
    ratio : ndarray, shape (N,)
        Minor over major axis, 1 where it or the angle is not known.
    theta : ndarray, shape (N,)
        Of the major axis, radians counter-clockwise from +x.
    """

    fwhm: Floats
    sigma: Floats
    ratio: Floats
    theta: Floats

    @property
    def extent(self) -> tuple[Floats, Floats]:
        """Standard deviations along x and y over the geometric mean of those along the axes, (N,) each."""
        cos, sin = np.cos(self.theta), np.sin(self.theta)
        along, across = 1 / self.ratio, self.ratio
        return np.sqrt(cos**2 * along + sin**2 * across), np.sqrt(sin**2 * along + cos**2 * across)


def positions_of(catalogue: Catalogue, frame: Frame) -> tuple[Floats, Floats]:
    """Where the rows of a catalogue are.

    Parameters
    ----------
    catalogue : Catalogue
        M rows.
    frame : Frame
        For its WCS, where the catalogue has positions on the sky alone.

    Returns
    -------
    x, y : ndarray, shape (M,)
        0-based pixel centres, also off the frame; NaN where a row has no position, or one that cannot be on the frame.

    Raises
    ------
    CatalogueError
        If there is no column of positions, or only one in hours, or on the sky and the frame has no WCS.

    Notes
    -----
    The first that is there: `X_IMAGE, Y_IMAGE` (what SExtractor's users mean by a position), `XWIN_IMAGE`,
    `XPSF_IMAGE`, all 1-based in any format; `x, y`, 1-based in FITS, VOTable and SExtractor's formats and 0-based in
    CSV, ECSV and JSON, as Lynceus writes them; `xcentroid, ycentroid` of photutils, 0-based; the middle of a box;
    right ascension and declination in degrees (ICRS, or J2000, which differ by 0.02 arcsec).
    """
    for x, y in _pixel_positions(catalogue):
        if not len(x) or (np.isfinite(x) & np.isfinite(y)).any():
            return x, y
    sky = next((pair for pair in SKY if pair[0] in catalogue.columns and pair[1] in catalogue.columns), None)
    if sky is None:
        raise CatalogueError(f"{DOES_NOT_FIT}; it needs X_IMAGE and Y_IMAGE, x and y, or ALPHA_J2000 and DELTA_J2000")
    ra, dec = (_degrees(catalogue, name) for name in sky)
    if frame.wcs is None:
        raise CatalogueError(f"{DOES_NOT_FIT}: it has {sky[0]} and {sky[1]} alone, and the frame has no usable WCS")
    return _from_sky(frame, ra, dec)


def _pixel_positions(catalogue: Catalogue) -> Iterator[tuple[Floats, Floats]]:
    """Positions by the columns of pixels that there are, the best first."""
    for pair in FITS_CENTRES:
        x, y = map(catalogue.number, pair)
        if x is not None and y is not None:
            yield centre_from_fits(x), centre_from_fits(y)
    x, y = catalogue.number("X"), catalogue.number("Y")
    if x is not None and y is not None:
        fits = catalogue.format in FITS_ORIGIN
        yield (centre_from_fits(x), centre_from_fits(y)) if fits else (x, y)
    x, y = map(catalogue.number, ARRAY_CENTRES)
    if x is not None and y is not None:
        yield x, y
    for boxes in (_own_edges(catalogue), _image_edges(catalogue)):
        if boxes is not None:
            yield (boxes[:, 0] + boxes[:, 2] - 1) / 2, (boxes[:, 1] + boxes[:, 3] - 1) / 2


def _degrees(catalogue: Catalogue, name: str) -> Floats:
    values, unit = catalogue.number(name), catalogue.units.get(name, "").strip()
    if values is None:
        text = str(catalogue.columns[name][0])[:20]
        raise CatalogueError(f"{DOES_NOT_FIT}: {name} holds text such as {text!r}; it must be in degrees")
    if unit.lower() not in DEGREES:
        raise CatalogueError(f"{DOES_NOT_FIT}: {name} is in {unit[:20]!r}; it must be in degrees")
    return values


def _from_sky(frame: Frame, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """Pixels of ICRS degrees; only what lands near the frame without distortion is followed through it."""
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    height, width = frame.shape
    valid = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    if not len(valid):
        return x, y
    with quiet(), np.errstate(all="ignore"):
        sky = SkyCoord(ra[valid] * units.deg, dec[valid] * units.deg, frame="icrs")
        flat_x, flat_y = skycoord_to_pixel(sky, frame.wcs, origin=0, mode="wcs")
        near = (np.abs(flat_x - width / 2) < (0.5 + MARGIN) * width) & (
            np.abs(flat_y - height / 2) < (0.5 + MARGIN) * height
        )
        if near.any() and frame.wcs is not None:
            x[valid[near]], y[valid[near]] = frame.wcs.world_to_pixel(sky[near])
    back_ra, back_dec = frame.sky_positions(x, y)
    away = np.hypot((np.mod(back_ra - ra + 180, 360) - 180) * np.cos(np.radians(dec)), back_dec - dec) * 3600
    strayed = ~(away < ROUND_TRIP * (frame.pixel_scale or 0.0))
    x[strayed] = y[strayed] = np.nan
    return x, y


def boxes_of(catalogue: Catalogue, frame: Frame, x: Floats, y: Floats, measure: "MeasureSpec", rule: BoxRule) -> Floats:
    """Boxes about the rows of a catalogue, as far as they lie on the frame.

    Parameters
    ----------
    catalogue : Catalogue
        M rows.
    frame : Frame
        Clips the boxes; its WCS turns angular sizes into pixels.
    x, y : ndarray, shape (M,)
        0-based pixel centres.
    measure : MeasureSpec
        The bundle's box rule.
    rule : {"bundle", "catalogue"}
        Which rule.

    Returns
    -------
    ndarray, shape (M, 4)
        Edge coordinates, clipped to the frame; NaN where a row has no size, or no part of its box is on the frame.

    Notes
    -----
    Boxes in `x_min, y_min, x_max, y_max`, and in `XMIN_IMAGE` beside a `SCORE`, are Lynceus' own, and follow the rule
    of their bundle: they are taken as they are under both rules.

    "bundle": the bounding box of the ellipse with `box_scale` times the observed FWHM, at least `min_box` on a side.
    The FWHM is the first of FWHM_IMAGE, FWHM_WORLD over the pixel scale, 2.3548 standard deviations by A and B (or
    X2, Y2, XY), twice FLUX_RADIUS; axis ratio and angle are those of A, B and THETA_IMAGE, or of ELLIPTICITY; an angle
    on the sky (THETA_J2000, THETA_SKY from north through east; THETA_WORLD from the first world axis) goes through
    the WCS; without an angle the box is that of a round source.

    "catalogue": XMIN_IMAGE to XMAX_IMAGE, both inclusive; else A, B, THETA times KRON_RADIUS, or 3 where that is
    absent or 0; else the rule of the Joan Oro pipeline, a square of 2 FWHM_WORLD to each side (4 where ELLIPTICITY is
    over 0.5; but 3 where MAG_CALIB is under 14).
    """
    shapes = ellipses_of(catalogue, frame, x, y)
    boxes = np.full((len(x), 4), np.nan)
    if rule == "bundle":
        _fill(boxes, _lynceus_edges(catalogue))
        _fill(boxes, bundle_boxes(x, y, shapes, measure))
    else:
        _fill(boxes, _own_edges(catalogue))
        _fill(boxes, _image_edges(catalogue))
        _fill(boxes, _kron_boxes(catalogue, x, y, shapes))
        _fill(boxes, _joan_oro_boxes(catalogue, x, y, shapes.fwhm))
    return clipped(boxes, frame.shape)


def bundle_boxes(x: Floats, y: Floats, shapes: Ellipses, measure: "MeasureSpec") -> Floats:
    """Boxes (N, 4) by the bundle's rule, not clipped; NaN where the FWHM is not known."""
    width, height = (np.maximum(measure.box_scale * shapes.fwhm * extent, measure.min_box) for extent in shapes.extent)
    return box_about(x, y, width, height)


def clipped(boxes: Floats, shape: tuple[int, int]) -> Floats:
    """Boxes (N, 4) cut at the frame's edges; NaN where less than half a pixel is left."""
    height, width = shape
    cut = np.clip(boxes, 0.0, np.array([width, height, width, height], float))
    with np.errstate(invalid="ignore"):
        lost = ~(cut[:, 2:] - cut[:, :2] >= SMALLEST_SIDE).all(axis=1)
    cut[lost] = np.nan
    return cut


def ellipses_of(catalogue: Catalogue, frame: Frame, x: Floats, y: Floats) -> Ellipses:
    """Shapes of the rows, by whatever columns tell them.

    Parameters
    ----------
    catalogue : Catalogue
        M rows.
    frame : Frame
        For its WCS.
    x, y : ndarray, shape (M,)
        0-based pixel centres.
    """
    count = len(x)
    unknown = np.full(count, np.nan)
    major, minor, theta = _axes(catalogue, count)
    with np.errstate(all="ignore"):
        ratio = _first(minor / major, 1 - _or(catalogue.number("ELLIPTICITY"), unknown),
                       1 / _or(catalogue.number("ELONGATION"), unknown))  # fmt: skip
        theta = _first(theta, np.radians(_or(catalogue.number("THETA_IMAGE", "THETA"), unknown)),
                       _sky_angle(catalogue, frame, x, y))  # fmt: skip
        sigma = np.sqrt(major * minor)
        angular = unknown if frame.pixel_scale is None else _world_fwhm(catalogue, unknown) / frame.pixel_scale
        fwhm = _first(
            _pixel_fwhm(catalogue, unknown, frame.pixel_scale),
            angular,
            FWHM_PER_SIGMA * sigma,
            2 * _radius(catalogue, unknown),
        )
        known = (ratio > 0) & (ratio <= 1) & np.isfinite(theta)
    return Ellipses(
        fwhm,
        _positive(sigma),
        np.where(known, np.maximum(ratio, THINNEST), 1.0),
        np.where(known, theta, 0.0),
    )


def _axes(catalogue: Catalogue, count: int) -> tuple[Floats, Floats, Floats]:
    """Semi-axes A >= B in pixels and the angle of A in radians, NaN where they are not known."""
    unknown = np.full(count, np.nan)
    for names in AXES:
        a, b, theta = map(catalogue.number, names)
        if a is not None and b is not None:
            return _positive(a), _positive(b), np.radians(_or(theta, unknown))
    xx, yy, xy = map(catalogue.number, MOMENTS)
    if xx is not None and yy is not None and xy is not None:
        mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        with np.errstate(invalid="ignore"):
            return np.sqrt(_positive(mean + half)), np.sqrt(_positive(mean - half)), np.arctan2(2 * xy, xx - yy) / 2
    a, b, theta = map(catalogue.number, SEP_AXES)
    if a is not None and b is not None:
        return _positive(a), _positive(b), _sep_angle(_or(theta, unknown), catalogue.units.get("THETA", ""))
    return unknown, unknown, unknown


def _sep_angle(theta: Floats, unit: str) -> Floats:
    """Columns `a, b, theta` are those of `sep`, whose angle is in radians unless a unit or its size says otherwise."""
    finite = np.abs(theta[np.isfinite(theta)])
    degrees = unit in DEGREES[1:] or (len(finite) and finite.max() > np.pi / 2 + 0.01)
    return np.radians(theta) if degrees else theta


def _pixel_fwhm(catalogue: Catalogue, unknown: Floats, scale: float | None) -> Floats:
    name = next((name for name in ("FWHM_IMAGE", "FWHM") if catalogue.number(name) is not None), None)
    if name is None:
        return unknown
    fwhm = _positive(_or(catalogue.number(name), unknown))
    if catalogue.units.get(name, "").lower() in ARCSECONDS:
        return unknown if scale is None else fwhm / scale
    return fwhm


def _world_fwhm(catalogue: Catalogue, unknown: Floats) -> Floats:
    """FWHM_WORLD in arcsec; SExtractor has it in degrees."""
    fwhm = _positive(_or(catalogue.number("FWHM_WORLD"), unknown))
    return fwhm if catalogue.units.get("FWHM_WORLD", "").lower() in ARCSECONDS else fwhm * 3600


def _radius(catalogue: Catalogue, unknown: Floats) -> Floats:
    """The half-light radius; of several in FLUX_RADIUS, whose shares of the light no file says, the middle one."""
    several = [name for name in catalogue.columns if name == "FLUX_RADIUS" or name.startswith("FLUX_RADIUS(")]
    return _or(catalogue.number(several[(len(several) - 1) // 2]) if several else None, unknown)


def _sky_angle(catalogue: Catalogue, frame: Frame, x: Floats, y: Floats) -> Floats:
    """Angles on the sky as angles on the frame, radians from +x; NaN where there is none, or no WCS."""
    position_angle = catalogue.number("THETA_J2000", "THETA_SKY")
    world_angle = catalogue.number("THETA_WORLD")
    if frame.wcs is None or (position_angle is None and world_angle is None):
        return np.full(len(x), np.nan)
    if position_angle is not None:
        east, north = np.sin(np.radians(position_angle)), np.cos(np.radians(position_angle))
    else:
        angle = np.radians(_or(world_angle, np.full(len(x), np.nan)))
        east, north = np.cos(angle), np.sin(angle)
    ra, dec = frame.sky_positions(x, y)
    to_right, to_top = frame.sky_positions(x + 1, y), frame.sky_positions(x, y + 1)
    (east_x, north_x), (east_y, north_y) = (
        ((np.mod(there_ra - ra + 180, 360) - 180) * np.cos(np.radians(dec)), there_dec - dec)
        for there_ra, there_dec in (to_right, to_top)
    )
    turn = np.sign(east_x * north_y - east_y * north_x)  # solve J (dx, dy) = (east, north) by Cramer's rule
    return np.asarray(np.arctan2((east_x * north - north_x * east) * turn, (east * north_y - north * east_y) * turn))


def _lynceus_edges(catalogue: Catalogue) -> Floats | None:
    own = _own_edges(catalogue)
    return own if own is not None or "SCORE" not in catalogue.columns else _image_edges(catalogue)


def _own_edges(catalogue: Catalogue) -> Floats | None:
    edges = _stacked(catalogue, OWN_EDGES)
    return edges if edges is None or catalogue.format not in FITS_ORIGIN else edge_from_fits(edges)


def _image_edges(catalogue: Catalogue) -> Floats | None:
    """SExtractor's first and last pixel, both in the box and counted from 1: edges XMIN - 1 and XMAX."""
    edges = _stacked(catalogue, IMAGE_EDGES)
    return edges if edges is None else edges - np.array([1.0, 1.0, 0.0, 0.0])


def _stacked(catalogue: Catalogue, names: tuple[str, ...]) -> Floats | None:
    columns = [values for values in map(catalogue.number, names) if values is not None]
    return np.stack(columns, axis=1) if len(columns) == len(names) else None


def _kron_boxes(catalogue: Catalogue, x: Floats, y: Floats, shapes: Ellipses) -> Floats:
    kron = _or(catalogue.number("KRON_RADIUS"), np.full(len(x), np.nan))
    with np.errstate(invalid="ignore"):
        scale = np.where(kron > KRON_MISSING, kron, SIGMAS)
    width, height = (2 * scale * shapes.sigma * extent for extent in shapes.extent)
    return box_about(x, y, width, height)


def _joan_oro_boxes(catalogue: Catalogue, x: Floats, y: Floats, fwhm: Floats) -> Floats:
    unknown = np.full(len(x), np.nan)
    with np.errstate(invalid="ignore"):
        reach = np.where(_or(catalogue.number("ELLIPTICITY"), unknown) > 0.5, 4.0, 2.0)
        reach = np.where(_or(catalogue.number("MAG_CALIB"), unknown) < 14, 3.0, reach)
    return box_about(x, y, 2 * reach * fwhm, 2 * reach * fwhm)


def _fill(boxes: Floats, others: Floats | None) -> None:
    """Give the rows that have no box yet those they have here, where these have an area."""
    if others is not None:
        with np.errstate(invalid="ignore"):
            sound = np.isfinite(others).all(axis=1) & (others[:, 2:] > others[:, :2]).all(axis=1)
        empty = np.isnan(boxes).any(axis=1) & sound
        boxes[empty] = others[empty]


def _or(values: Floats | None, otherwise: Floats) -> Floats:
    return otherwise if values is None else values


def _positive(values: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(values > 0, values, np.nan)


def _first(*columns: Floats) -> Floats:
    """Row by row the first value that is known."""
    found = columns[0]
    for column in columns[1:]:
        found = np.where(np.isfinite(found), found, column)
    return found
