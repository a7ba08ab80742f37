"""Measure what was found: positions, fluxes, shapes and flags of every source, and the facts of the frame."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.moments import Shapes, measure_shapes, stamp_reach
from lynceus.sky import Sky
from lynceus.sources import FWHM_PER_SIGMA, Flag, FrameSummary, Sources
from lynceus.spec import Spec

__all__ = ["Flag", "FrameSummary", "MeasureSpec", "Sources", "measure", "summarise", "unmeasured"]

NEIGHBOURS_SEEN = 6  # nearest detections that are looked at for flags
MEASURED = ("flux", "flux_err", "flux_aper", "flux_aper_err", "snr", "fwhm", "ellipticity", "theta", "a", "b")
WHOLE = 2**26  # pixels of a frame that is measured in one piece: faster, at 9 bytes a pixel
BAND = 2**24  # pixels of a larger frame that are cut out at once
NEAR = 256  # pixels; sources that reach farther are cut out of a larger frame one by one
LARGEST_APERTURE = 1024.0  # greater semi-axis in pixels; a larger one is cut to it and flagged
POINT_SOURCE_SPREAD = 0.15  # of the FWHM of point sources about the seeing, as a fraction


class MeasureSpec(Spec):
    """How sources are measured.

    Attributes
    ----------
    box_scale : float
        The box rule: side of a box over the source's observed FWHM.
    min_box : float
        The box rule: least side, in pixels.
    aperture : float
        Diameter of the aperture of `flux_aper`, in units of the seeing.
    kron : float
        Semi-axes of the aperture of `flux`, in Kron radii.
    kron_limits : (float, float)
        Least and greatest semi-axes of that aperture, in standard deviations of the source.
    kron_reach : float
        The Kron radius is measured on an ellipse of so many standard deviations.
    bad_share : float
        Share of bad pixels in the aperture from which the photometry is flagged.
    neighbour_share : float
        A neighbour whose centre is in the aperture is flagged if it has this share of the source's flux.
    blend_distance : float
        Detections whose centres are closer, in units of their mean FWHM, are flagged as blended.
    seeing_snr : float
        Sources of a higher signal to noise tell the seeing.
    seeing_count : int
        With fewer of them, the seeing is unknown.
    limiting_snr : float
        Signal to noise that the limits of a frame are given for.
    """

    box_scale: float = Field(2.5, gt=0)
    min_box: float = Field(4.0, gt=0)
    aperture: float = Field(2.0, gt=0)
    kron: float = Field(2.5, gt=0)
    kron_limits: tuple[float, float] = (3.5, 8.0)
    kron_reach: float = Field(6.0, gt=0)
    bad_share: float = Field(0.1, ge=0, le=1)
    neighbour_share: float = Field(0.1, ge=0)
    blend_distance: float = Field(1.0, ge=0)
    seeing_snr: float = Field(20.0, ge=0)
    seeing_count: int = Field(5, ge=1)
    limiting_snr: float = Field(5.0, gt=0)


@dataclass(frozen=True, eq=False)
class _Cutout:
    """A rectangle of a frame, ready to be summed.

    Attributes
    ----------
    data : ndarray, shape (h, w), float32
        Counts over the sky, in ADU; `sep` takes no NaN, so bad pixels hold 0.
    bad : ndarray, shape (h, w), bool
        Pixels without a value.
    rows, columns : slice
        Where it lies in the frame.
    """

    data: NDArray[np.float32]
    bad: NDArray[np.bool_]
    rows: slice
    columns: slice


@dataclass(frozen=True, eq=False)
class _Plane:
    """What is summed: a frame over its sky. Of a large one, no copy is ever whole."""

    frame: Frame
    sky: Sky
    _held: dict[tuple[int, ...], _Cutout] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """Electrons per ADU."""
        return self.frame.facts.gain

    def cutouts(self, x: Floats, y: Floats, reach: Floats) -> Iterator[tuple[NDArray[np.intp], _Cutout]]:
        """Which of N sources at `x, y` are whole, as far as they `reach` in pixels, in which cutout; each in one."""
        height, width = self.frame.shape
        if height * width <= WHOLE:
            yield np.arange(len(x)), self._cutout(0, height, 0, width)
            return
        rows, near = max(BAND // width, 1), reach <= NEAR
        band = (y // rows).astype(int)
        for one in np.unique(band[near]):
            here = np.flatnonzero(near & (band == one))
            margin = int(reach[here].max()) + 3
            yield here, self._cutout(one * rows - margin, (one + 1) * rows + margin, 0, width)
        for source in np.flatnonzero(~near):
            (left, bottom), margin = (int(x[source]), int(y[source])), int(reach[source]) + 3
            edges = bottom - margin, bottom + margin + 1, left - margin, left + margin + 1
            yield np.array([source]), self._cutout(*edges)

    def _cutout(self, bottom: int, top: int, left: int, right: int) -> _Cutout:
        """The part of a rectangle that is on the frame; the last one is held, in case it is asked for again."""
        height, width = self.frame.shape
        bottom, left = (max(edge, 0) // 2 * 2 for edge in (bottom, left))  # even: halves round as on the whole frame
        edges = bottom, min(top, height), left, min(right, width)
        if edges not in self._held:
            self._held.clear()
            self._held[edges] = self._over_sky(slice(*edges[:2]), slice(*edges[2:]))
        return self._held[edges]

    def _over_sky(self, rows: slice, columns: slice) -> _Cutout:
        level = self.sky.level_in(rows, columns)
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.subtract(self.frame.pixels[rows, columns], level, out=level)
        bad = ~np.isfinite(data)
        data[bad] = 0.0
        return _Cutout(data, bad, rows, columns)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums in N apertures: flux and its error in ADU, the greater semi-axis in pixels, and which are incomplete."""

    flux: Floats
    error: Floats
    reach: Floats
    incomplete: NDArray[np.bool_]
    patched: NDArray[np.bool_]  # too many bad pixels, made up for by the mean of the good ones


def measure(frame: Frame, detections: Detections, sky: Sky, spec: MeasureSpec) -> Sources:
    """Measure every detection on its frame.

    Parameters
    ----------
    frame : Frame
        Where they were found.
    detections : Detections
        N of them; none at all, and boxes that lie off the frame or on masked pixels, are flagged, never an error.
    sky : Sky
        Of the frame.
    spec : MeasureSpec
        The box rule and the apertures.

    Returns
    -------
    Sources
        In the order given. NaN where nothing can be measured, because the centre is off the frame or no good pixel
        is left.

    Notes
    -----
    `flux` is AUTO of Bertin & Arnouts (1996), section 7.2, on the ellipse of the source's own Gaussian: at least 3.5
    standard deviations, which holds 99.8 % of a Gaussian and 91 % of a Moffat profile with beta = 3. Where a
    neighbour is near, the Kron radius is measured only as far as the neighbour. `flux_aper` is not corrected for
    what lies outside its circle.

    Errors are sqrt(area noise^2 + flux / gain) with the noise of the sky at the source, the second term only where the
    header knows the gain. The read noise (RDNOISE) does not appear: the measured noise of the sky already contains it.
    Noise that is correlated between pixels makes true errors larger than these.
    """
    if not len(detections):
        return unmeasured(frame, detections)
    plane = _Plane(frame, sky)
    x, y, off = _centres(frame, detections)
    local = sky.noise_at(np.rint(y).astype(int), np.rint(x).astype(int)).astype(np.float64)
    shapes = _shapes(plane, x, y, _box_variance(detections, spec), local)
    fwhm = FWHM_PER_SIGMA * shapes.radius
    distance, neighbour = _neighbours(shapes)

    auto = _sum_kron(plane, shapes, local, distance[:, 0] - fwhm[neighbour[:, 0]], spec)
    flags = _box_flags(frame, detections) | np.where(shapes.failed | auto.incomplete, Flag.INCOMPLETE, 0)
    brighter = shapes.flux[neighbour] > spec.neighbour_share * shapes.flux[:, None]
    crowded = ((distance < auto.reach[:, None]) & brighter).any(axis=1)
    blended = distance[:, 0] < spec.blend_distance * (fwhm + fwhm[neighbour[:, 0]]) / 2
    flags |= np.where(crowded | auto.patched, Flag.NEIGHBOURS, 0) | np.where(blended, Flag.BLENDED, 0)
    diameter = spec.aperture * (_seeing(fwhm, shapes.snr, flags, spec) or float(np.median(fwhm)))
    radius = np.full(len(x), diameter / 2)
    circle = _sum_ellipses(plane, shapes, local, radius, radius, spec)
    flags |= np.where(circle.incomplete, Flag.INCOMPLETE, 0)
    return _table(frame, detections, shapes, auto, circle, flags, off)


def unmeasured(frame: Frame, detections: Detections) -> Sources:
    """Positions alone, for callers that asked for no measurement.

    Parameters
    ----------
    frame : Frame
        For its WCS.
    detections : Detections
        N of them.

    Returns
    -------
    Sources
        `x, y` at the box centres; NaN for what is not measured, no flags.
    """
    x, y = detections.centres
    ra, dec = frame.sky_positions(x, y)
    unknown = np.full(len(x), np.nan)
    magnitude = None if frame.facts.zero_point is None else unknown
    columns: dict[str, Any] = dict.fromkeys(MEASURED, unknown)
    flags = np.zeros(len(x), np.int64)
    return Sources(detections, x, y, ra, dec, flags=flags, mag=magnitude, mag_err=magnitude, **columns)


def summarise(frame: Frame, sources: Sources, sky: Sky, spec: MeasureSpec) -> FrameSummary:
    """Facts of the whole frame.

    Parameters
    ----------
    frame : Frame
        For its scale, zero point, gain and times.
    sources : Sources
        What was measured on it; those of `unmeasured` leave the seeing and the limits unknown.
    sky : Sky
        Of the frame.
    spec : MeasureSpec
        What the seeing is taken from.

    Returns
    -------
    FrameSummary
        The limit is that of a matched filter on a round Gaussian of the seeing's width.
    """
    noise = float(np.median(sky.noise))
    fwhm = _seeing(sources.fwhm, sources.snr, sources.flags, spec)
    scale, zero_point = frame.pixel_scale, frame.facts.zero_point
    limit = None if fwhm is None else _limiting_flux(fwhm, noise, frame.facts.gain, spec.limiting_snr)
    limit = limit if limit is not None and np.isfinite(limit) else None  # a header may hold any gain
    return FrameSummary(
        background=float(np.median(sky.level)),
        noise=noise,
        fwhm_px=fwhm,
        fwhm_arcsec=None if fwhm is None or scale is None else fwhm * scale,
        limiting_snr=spec.limiting_snr,
        limiting_flux=limit,
        limiting_mag=None if limit is None or zero_point is None else zero_point - 2.5 * float(np.log10(limit)),
        saturated_fraction=_saturated_fraction(frame),
        mid_time=frame.mid_time,
    )


def _saturated_fraction(frame: Frame) -> float:
    """Share of the pixels that are saturated, counted without a mask of the whole frame."""
    level = frame.facts.saturation
    if level is None:
        return 0.0
    rows = max(BAND // frame.shape[1], 1)
    strips = (frame.pixels[top : top + rows] for top in range(0, frame.shape[0], rows))
    return sum(int(np.count_nonzero(strip >= np.float32(level))) for strip in strips) / frame.pixels.size


def _shapes(plane: _Plane, x: Floats, y: Floats, variance: Floats, noise: Floats) -> Shapes:
    """Positions, shapes and signal to noise, from positions and variances (N, 2) by the boxes."""
    parts, order = [], []
    for here, cutout in plane.cutouts(x, y, stamp_reach(variance)):
        left, bottom = cutout.columns.start, cutout.rows.start
        guess = x[here] - left, y[here] - bottom, variance[here]
        part = measure_shapes(cutout.data, cutout.bad, *guess, noise[here], plane.gain)
        parts.append(replace(part, x=part.x + left, y=part.y + bottom))
        order.append(here)
        del cutout  # its memory is needed for the next
    back = np.argsort(np.concatenate(order))
    columns = {one.name: np.concatenate([getattr(part, one.name) for part in parts])[back] for one in fields(Shapes)}
    return Shapes(**columns)


def _centres(frame: Frame, detections: Detections) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Box centres brought into the frame, and which of them lay outside."""
    height, width = frame.shape
    x, y = detections.centres
    inside_x, inside_y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    return inside_x, inside_y, (np.abs(x - inside_x) > 0.5) | (np.abs(y - inside_y) > 0.5)


def _box_variance(detections: Detections, spec: MeasureSpec) -> Floats:
    """Variances (N, 2) along x and y of the sources that the boxes fit, by the box rule, in square pixels."""
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).astype(np.float64)
    return (sides / (spec.box_scale * FWHM_PER_SIGMA)) ** 2


def _neighbours(shapes: Shapes) -> tuple[Floats, NDArray[np.intp]]:
    """Distance in pixels and index of the nearest other sources, (N, K) both, nearest first; infinitely far if none."""
    positions = np.stack([shapes.x, shapes.y], axis=1)
    distance, index = cKDTree(positions).query(positions, k=list(range(2, NEIGHBOURS_SEEN + 2)))
    return distance, np.minimum(index, len(positions) - 1)


def _sum_kron(plane: _Plane, shapes: Shapes, noise: Floats, clear: Floats, spec: MeasureSpec) -> _Sums:
    """Sum in Kron-like ellipses; the radius is measured no further than `clear` pixels, where a neighbour begins."""
    a, b, theta = shapes.axes
    low, high = spec.kron_limits
    reach = np.clip(clear / a, low / spec.kron, spec.kron_reach)
    reach = np.minimum(reach, LARGEST_APERTURE / a)
    radius = np.empty(len(a))
    for here, cutout in plane.cutouts(shapes.x, shapes.y, reach * a):
        x, y = shapes.x[here] - cutout.columns.start, shapes.y[here] - cutout.rows.start
        ellipses = x, y, a[here], b[here], theta[here], reach[here]
        radius[here], _ = sep.kron_radius(cutout.data, *ellipses, mask=cutout.bad)
        del cutout  # its memory is needed for the next
    scale = np.clip(spec.kron * radius, low, high)
    return _sum_ellipses(plane, shapes, noise, a * scale, b * scale, spec)


def _sum_ellipses(
    plane: _Plane, shapes: Shapes, noise: Floats, major: Floats, minor: Floats, spec: MeasureSpec
) -> _Sums:
    """Sum in ellipses along the sources' axes, of given semi-axes in pixels, on a sky of given noise in ADU."""
    shrink = np.minimum(LARGEST_APERTURE / major, 1.0)
    ellipses = shapes.x, shapes.y, major * shrink, minor * shrink, shapes.axes[2]
    flux, spread, marks, hidden = _sums(plane, *ellipses)
    with np.errstate(over="ignore", invalid="ignore"):  # a header may hold any gain
        photons = np.maximum(flux, 0.0) / plane.gain if plane.gain else 0.0
        error = np.sqrt(np.square(noise * spread) + photons)
    lost = (marks & sep.APER_ALLMASKED) != 0
    flux, error = np.where(lost, np.nan, flux), np.where(lost, np.nan, error)
    patched = hidden > spec.bad_share * np.pi * ellipses[2] * ellipses[3]
    incomplete = lost | ((marks & sep.APER_TRUNC) != 0) | (shrink < 1.0) | ~np.isfinite(flux)
    return _Sums(flux, error, ellipses[2], incomplete, patched)


def _sums(
    plane: _Plane, x: Floats, y: Floats, a: Floats, b: Floats, theta: Floats
) -> tuple[Floats, Floats, NDArray[np.int16], Floats]:
    """Sums in ellipses, (N,) each: flux in ADU, its error were the noise 1, what `sep` notes, and hidden area."""
    flux, spread, marks, hidden = np.empty(len(x)), np.empty(len(x)), np.empty(len(x), np.int16), np.zeros(len(x))
    for here, cutout in plane.cutouts(x, y, a):
        ellipses = [x[here] - cutout.columns.start, y[here] - cutout.rows.start, a[here], b[here], theta[here]]
        flux[here], spread[here], marks[here] = sep.sum_ellipse(cutout.data, *ellipses, 1.0, err=1.0, mask=cutout.bad)
        holed = np.flatnonzero(marks[here] & sep.APER_HASMASKED)
        if len(holed):
            bad = cutout.bad.astype(np.float32)
            hidden[here[holed]], _, _ = sep.sum_ellipse(bad, *(column[holed] for column in ellipses), 1.0)
            del bad
        del cutout  # its memory is needed for the next
    return flux, spread, marks, hidden


def _box_flags(frame: Frame, detections: Detections) -> NDArray[np.int64]:
    """Flags that the boxes alone decide: saturated pixels inside, and the frame's edge."""
    height, width = frame.shape
    boxes = detections.boxes
    cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= (width, height)).any(axis=1)
    flags = np.where(cut, Flag.TRUNCATED, 0).astype(np.int64)
    level = frame.facts.saturation
    if level is not None:
        low = np.clip(np.floor(boxes[:, :2]), 0, (width, height)).astype(int)
        high = np.clip(np.ceil(boxes[:, 2:]), 0, (width, height)).astype(int)
        for row, ((left, bottom), (right, top)) in enumerate(zip(low, high, strict=True)):
            flags[row] |= Flag.SATURATED * bool((frame.pixels[bottom:top, left:right] >= np.float32(level)).any())
    return flags


def _table(
    frame: Frame,
    detections: Detections,
    shapes: Shapes,
    auto: _Sums,
    circle: _Sums,
    flags: NDArray[np.int64],
    off: NDArray[np.bool_],
) -> Sources:
    """Put the columns together; sources whose box centre is `off` the frame keep that and nothing else."""
    a, b, theta = shapes.axes
    box_x, box_y = detections.centres
    x, y = np.where(off, box_x, shapes.x), np.where(off, box_y, shapes.y)
    ra, dec = frame.sky_positions(x, y)
    values = (
        *(auto.flux, auto.error, circle.flux, circle.error, shapes.snr),
        *(FWHM_PER_SIGMA * shapes.radius, 1 - b / a, np.degrees(theta), a, b),
    )
    columns: dict[str, Any] = {
        name: np.where(off, np.nan, value) for name, value in zip(MEASURED, values, strict=True)
    }  # fmt: skip
    mag, mag_err = _magnitudes(frame, columns["flux"], columns["flux_err"])
    flags = flags | np.where(off, Flag.TRUNCATED | Flag.INCOMPLETE, 0)
    return Sources(detections, x, y, ra, dec, flags=flags, mag=mag, mag_err=mag_err, **columns)


def _magnitudes(frame: Frame, flux: Floats, error: Floats) -> tuple[Floats, Floats] | tuple[None, None]:
    """Magnitudes and errors of fluxes in ADU, NaN where the flux is not positive; None without a zero point."""
    if frame.facts.zero_point is None:
        return None, None
    positive = np.where(flux > 0, flux, np.nan)
    return frame.facts.zero_point - 2.5 * np.log10(positive), 2.5 / np.log(10) * error / positive


def _seeing(fwhm: Floats, snr: Floats, flags: NDArray[np.int64], spec: MeasureSpec) -> float | None:
    """Median FWHM of point sources in pixels; None where too few are bright.

    Point sources are the densest place of the distribution of log FWHM: galaxies are wider and scattered, cosmic
    rays narrower and few. Where crowding leaves too few unflagged sources, those with neighbours serve.
    """
    bright = (snr >= spec.seeing_snr) & np.isfinite(fwhm)
    for allowed in (0, int(Flag.NEIGHBOURS), int(Flag.NEIGHBOURS | Flag.BLENDED)):
        chosen = np.sort(np.log(fwhm[bright & (flags & ~allowed == 0)]))
        if len(chosen) >= spec.seeing_count:
            mode = _densest(chosen)
            near = chosen[np.abs(chosen - mode) < POINT_SOURCE_SPREAD]
            return float(np.exp(np.median(near) if len(near) else mode))  # of few and scattered ones, none is near
    return None


def _densest(ordered: Floats) -> float:
    """Where ordered values lie closest: the half-sample mode (Bickel & Frühwirth 2006), ended at an eighth of them."""
    enough = max(len(ordered) // 8, 4)
    while len(ordered) > enough:
        half = -(-len(ordered) // 2)
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        first = int(np.argmin(widths))
        ordered = ordered[first : first + half]
    return float(np.median(ordered))


def _limiting_flux(fwhm: float, noise: float, gain: float | None, snr: float) -> float:
    """Flux in ADU of a round Gaussian at a signal to noise: flux^2 = snr^2 (area noise^2 + flux / gain)."""
    area = 4 * np.pi * (fwhm / FWHM_PER_SIGMA) ** 2
    photons = snr**2 / (2 * gain) if gain else 0.0
    return float(photons + np.hypot(photons, snr * np.sqrt(area) * noise))
