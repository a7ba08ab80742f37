"""The facts of a frame and of its catalogue by which it is judged fit for training."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from scipy.ndimage import find_objects, label
from scipy.spatial import cKDTree

from lynceus.alignment import check_alignment
from lynceus.box_rules import positions_of
from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec, measure, summarise
from lynceus.sky import Sky
from lynceus.sources import Sources
from lynceus.spec import Spec
from lynceus.tables import Catalogue
from lynceus.unlisted import BRIGHT_COUNT, BRIGHT_PEAK, Peaks, peak_boxes
from training.curation.patterns import find_trail, survey_background

USUAL_FWHM = 4.0  # pixels; where there are too few stars to tell
PROFILE_REACH = 24  # pixels to either side of the brightest star
TOLERANCE, LEAST_TOLERANCE = 1.2, 2.0  # of a position that agrees: in FWHM, and at least, in pixels
BRIGHTEST, PAIR_REACH, PAIR_SHARE = (
    20,
    (1.2, 4.0),
    0.2,
)  # stars of which pairs are made, distances in FWHM, share of flux
SHARP_RAY, TELLS_RAYS = 2.0, 1.3  # FWHM of most cosmic rays in pixels, and how much wider stars must be to tell
FEWEST = 6  # point sources that tell their shape
SHARPEST = 7.5  # what is sharper is a star
NOT_ROUND = 1.5  # times the seeing; a larger source tells nothing of the shape of point sources


class Quality(Spec):
    """What was measured of a frame; None where it could not be.

    Attributes
    ----------
    background, noise : float
        Median sky level and sky noise, in ADU.
    fwhm_px, fwhm_arcsec : float or None
        Of point sources.
    ellipticity : float or None
        Median of point sources.
    drift : float or None
        Ellipticity that point sources share, as they do where the telescope moved.
    masked_share, saturated_share : float
        Of the pixels, 0..1.
    saturated_area : int
        Pixels of the largest saturated spot.
    profile : tuple of float
        Row through the brightest star, in ADU over the sky; NaN and what lies off the frame is 0.
    trail, trail_length : float
        Significance of the straightest line, and how far it is seen, over the shorter side of the frame.
    trail_ends : tuple of float
        Its ends, `x0, y0, x1, y1`; empty where there is none.
    gradient, gradient_sigma, pattern : float
        Of the background; see `training.curation.patterns.Background`.
    extended : tuple of mapping
        Large objects, the largest first; see `training.curation.patterns.Extended`.
    sources, sources_per_mpx : float
        What `sep` sees.
    largest_px : float
        Diameter of the largest object that is neither a star nor cut by the edge, in pixels; 0 where there is none.
    companion_px : float or None
        Distance in the most remarkable close pair of bright stars.
    companion_chance : float or None
        Number of such pairs that chance would give the frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    background: float
    noise: float
    fwhm_px: float | None
    fwhm_arcsec: float | None
    ellipticity: float | None
    drift: float | None
    masked_share: float
    saturated_share: float
    saturated_area: int
    profile: tuple[float, ...]
    trail: float
    trail_length: float
    trail_ends: tuple[float, ...]
    gradient: float
    gradient_sigma: float
    pattern: float
    extended: tuple[dict[str, Any], ...]
    sources: int
    sources_per_mpx: float
    largest_px: float
    companion_px: float | None
    companion_chance: float | None


class CatalogueFit(Spec):
    """How a catalogue lies on its frame.

    Attributes
    ----------
    rows, rows_on_frame : int
        Of the catalogue, and those whose position is on the frame.
    verdict : str
        As of `lynceus.alignment.Alignment`.
    text : str
        The same in words.
    dx, dy : float
        Catalogue less frame, in pixels.
    matched : float
        Share of the sources of the shorter list that the other has.
    unseen : int
        Rows on the frame near which `sep` sees nothing at a low threshold: faint sources, or noise.
    """

    rows: int
    rows_on_frame: int
    verdict: str
    text: str
    dx: float
    dy: float
    matched: float
    unseen: int


def assess(frame: Frame, sky: Sky, peaks: Peaks, spec: MeasureSpec) -> Quality:
    """Measure what a frame is judged by.

    Parameters
    ----------
    frame : Frame
        To judge.
    sky : Sky
        Of the frame.
    peaks : Peaks
        What `lynceus.unlisted.find_peaks` sees on it.
    spec : MeasureSpec
        How sources are measured.

    Returns
    -------
    Quality
        Whatever the frame is like.
    """
    sources = _bright(frame, sky, peaks, spec)
    summary = summarise(frame, sources, sky, spec)
    fwhm = summary.fwhm_px
    ellipticity, drift = _shape(sources, fwhm)
    trail = find_trail(frame, sky)
    background = survey_background(frame, sky, fwhm or USUAL_FWHM)
    pixels = frame.pixels.size
    companion, chance = _companion(sources, fwhm or USUAL_FWHM, pixels)
    area, spot = _largest_spot(frame)
    objects = [one for one in background.extended if not (one.at_edge or one.saturated or one.sharpness > SHARPEST)]
    return Quality(
        background=summary.background,
        noise=summary.noise,
        fwhm_px=fwhm,
        fwhm_arcsec=summary.fwhm_arcsec,
        ellipticity=ellipticity,
        drift=drift,
        masked_share=float(frame.mask.mean()),
        saturated_share=summary.saturated_fraction,
        saturated_area=area,
        profile=_profile(frame, sky, spot or _highest(peaks)),
        trail=trail.significance if trail else 0.0,
        trail_length=trail.length if trail else 0.0,
        trail_ends=trail.ends if trail else (),
        gradient=background.gradient,
        gradient_sigma=background.gradient_sigma,
        pattern=background.pattern,
        extended=tuple(asdict(one) for one in background.extended),
        sources=len(peaks.x),
        sources_per_mpx=len(peaks.x) / pixels * 1e6,
        largest_px=max((one.diameter for one in objects), default=0.0),
        companion_px=companion,
        companion_chance=chance,
    )


def fit_of(
    catalogue: Catalogue, frame: Frame, peaks: Peaks, fwhm: float | None, listed_fwhm: float = 0.0
) -> CatalogueFit:
    """Compare the positions of a catalogue with what is on the frame.

    Parameters
    ----------
    catalogue : Catalogue
        Said to be of this frame.
    frame : Frame
        The frame.
    peaks : Peaks
        What `sep` sees on it.
    fwhm : float or None
        Of point sources, in pixels.
    listed_fwhm : float
        Median of the catalogue's rows, in pixels. If it is wide enough to tell, a catalogue that does not fit is
        compared again with what is no cosmic ray.

    Raises
    ------
    CatalogueError
        If the catalogue has no position that can be used.
    """
    x, y = positions_of(catalogue, frame)
    height, width = frame.shape
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    tolerance = max(TOLERANCE * (fwhm or 0.0), LEAST_TOLERANCE)
    seen = peaks[np.argsort(-peaks.height, kind="stable")]
    found = check_alignment(x, y, seen.x, seen.y, frame.shape, tolerance)
    if found.verdict == "other_field" and listed_fwhm > TELLS_RAYS * SHARP_RAY:
        wide = seen[seen.shapes.fwhm > SHARP_RAY]
        again = check_alignment(x, y, wide.x, wide.y, frame.shape, tolerance)
        found = found if again.verdict == "other_field" else again
    return CatalogueFit(
        rows=len(catalogue),
        rows_on_frame=int(inside.sum()),
        verdict=found.verdict,
        text=found.text,
        dx=found.dx,
        dy=found.dy,
        matched=max(found.matched, found.matched_after),
        unseen=_unseen(x[inside] - found.dx, y[inside] - found.dy, peaks, tolerance),
    )


def _unseen(x: Floats, y: Floats, peaks: Peaks, tolerance: float) -> int:
    """Positions without a peak near them."""
    if not len(x) or not len(peaks.x):
        return len(x)
    distance, _ = cKDTree(np.stack([peaks.x, peaks.y], axis=1)).query(np.stack([x, y], axis=1))
    return int((distance > tolerance).sum())


def _bright(frame: Frame, sky: Sky, peaks: Peaks, spec: MeasureSpec) -> Sources:
    """The brightest peaks, measured; the brightest first."""
    order = np.argsort(-peaks.height, kind="stable")[:BRIGHT_COUNT]
    order = order[peaks.height[order] > BRIGHT_PEAK]
    boxes = peak_boxes(peaks[order], spec, frame.shape).astype(np.float32)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    found = Detections(boxes, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64))
    return measure(frame, found, sky, spec)


def _shape(sources: Sources, fwhm: float | None) -> tuple[float | None, float | None]:
    """Median ellipticity of the point sources that nothing speaks against, and what of it they share."""
    if fwhm is None:
        return None, None
    point = (sources.flags == 0) & (sources.fwhm < NOT_ROUND * fwhm) & np.isfinite(sources.ellipticity)
    if point.sum() < FEWEST:
        return None, None
    ellipticity, turn = sources.ellipticity[point], np.exp(2j * np.radians(sources.theta[point]))
    return float(np.median(ellipticity)), float(np.abs(np.mean(ellipticity * np.nan_to_num(turn))))


def _companion(sources: Sources, fwhm: float, pixels: int) -> tuple[float | None, float | None]:
    """Distance in the closest pair of bright stars, and how many such pairs there would be by chance.

    Of the pairs within reach that which is the least likely: its stars are the brightest.
    """
    known = np.isfinite(sources.flux) & np.isfinite(sources.x) & np.isfinite(sources.y) & (sources.flux > 0)
    order = np.flatnonzero(known)[np.argsort(-sources.flux[known], kind="stable")][:BRIGHTEST]
    if len(order) < 2:
        return None, None
    positions, flux = np.stack([sources.x, sources.y], axis=1)[order], sources.flux[order]
    least, reach = (distance * fwhm for distance in PAIR_REACH)  # nearer ones are often one, and saturated
    near = [
        (fainter, brighter)
        for brighter, fainter in cKDTree(positions).query_pairs(reach)
        if flux[fainter] >= PAIR_SHARE * flux[brighter]
        and np.hypot(*(positions[fainter] - positions[brighter])) > least
    ]
    if not near:
        return None, None
    fainter, brighter = min(near)
    chance = fainter * (fainter + 1) / 2 * np.pi * reach**2 / pixels
    return float(np.hypot(*(positions[fainter] - positions[brighter]))), float(chance)


def _largest_spot(frame: Frame) -> tuple[int, tuple[float, float] | None]:
    """Pixels of the largest saturated spot, and its middle."""
    saturated: NDArray[np.bool_] = frame.saturated
    if not saturated.any():
        return 0, None
    spots, count = label(saturated, np.ones((3, 3)))
    sizes = np.bincount(spots.ravel(), minlength=count + 1)[1:]
    largest = int(np.argmax(sizes))
    rows, columns = find_objects(spots)[largest]
    inside = np.argwhere(spots[rows, columns] == largest + 1)
    row, column = np.median(inside, axis=0)  # of a bleeding star the middle of the column
    return int(sizes[largest]), (float(columns.start + column), float(rows.start + row))


def _highest(peaks: Peaks) -> tuple[float, float] | None:
    if not len(peaks.x):
        return None
    highest = int(np.argmax(peaks.height))
    return float(peaks.x[highest]), float(peaks.y[highest])


def _profile(frame: Frame, sky: Sky, position: tuple[float, float] | None) -> tuple[float, ...]:
    """The row through a star, in ADU over the sky."""
    if position is None:
        return ()
    column, row = round(position[0]), round(position[1])
    line: Floats = np.zeros(2 * PROFILE_REACH + 1)
    reach = np.arange(column - PROFILE_REACH, column + PROFILE_REACH + 1)
    on_frame = (reach >= 0) & (reach < frame.shape[1])
    line[on_frame] = frame.pixels[row, reach[on_frame]] - float(np.median(sky.level))
    return tuple(round(float(value), 2) for value in np.nan_to_num(line, posinf=0.0, neginf=0.0))
