"""Sources planted in real frames: an exact truth where everything else, noise and faults included, is real."""

from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_dilation, shift, uniform_filter
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from lynceus import injection
from lynceus.detections import Floats
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.sources import FWHM_PER_SIGMA
from lynceus.spec import Spec
from lynceus.unlisted import Peaks, find_peaks, peak_boxes, seeing
from training.scenes.optics import Optics, measured_optics
from training.scenes.ranges import Range, SceneSpec, log_uniform
from training.scenes.scene import LEAST_SURFACE, Seen, truth_table
from training.scenes.stamps import PHASES, Stamp, draw_galaxy, draw_stamp, flux_of_snr, offset_of

BRIGHT, LIKE_STARS = 30.0, 0.25  # standard deviations of a star's peak, and its FWHM's distance from the seeing
APART = 6.0  # FWHM from a star that tells the point spread function to whatever is next
LEAST_STARS, MOST_STARS = 5, 60
REACH = 4.0  # FWHM from a star's middle to the border of its stamp
FREE = 1000  # pixels of empty sky that tell the noise of a filter
BY_CHOICE = (0.8, 2.0)  # mean FWHM from what is there already, where sources are planted near it
Bools = NDArray[np.bool_]


class InjectSpec(Spec):
    """What is planted in a frame.

    Attributes
    ----------
    count : int
        Most sources; a crowded frame has room for fewer.
    snr : (float, float)
        Signal to noise of a matched filter, log-uniform.
    galaxies : float
        Share of them that are galaxies.
    galaxy_radius : (float, float)
        Half-light radius before the point spread function, in pixels, log-uniform.
    near : float
        Share planted within two FWHM of something that is there, as blends with it.
    clearance : float
        Distance of the others from whatever is there and from pixels without a value, in FWHM.
    spacing : float
        Distance of planted sources from each other, in FWHM.
    beta : float
        Of the Moffat profile that serves where the frame has too few bright stars to measure its own.
    fwhm : (float, float) or None
        Of a Moffat profile that serves in any case, in pixels, log-uniform: for frames in which there is no star.
    measure, sky : MeasureSpec, SkySpec
        The box rule, and how sky and noise are estimated.
    """

    count: int = Field(60, ge=0)
    snr: Range = (3.0, 100.0)
    galaxies: float = Field(0.3, ge=0, le=1)
    galaxy_radius: Range = (0.7, 5.0)
    near: float = Field(0.0, ge=0, le=1)
    clearance: float = Field(3.0, gt=0)
    spacing: float = Field(6.0, gt=0)
    beta: float = Field(3.5, gt=1)
    fwhm: Range | None = None
    measure: MeasureSpec = MeasureSpec()
    sky: SkySpec = SkySpec()


@dataclass(frozen=True, eq=False)
class _Scenery:
    """What is known of a frame before anything is planted: sky, what is there and its boxes, optics and their FWHM."""

    frame: Frame
    noise: Floats
    over_sky: Floats  # (H, W), ADU; 0 where there is no value
    peaks: Peaks
    boxes: Floats
    optics: Optics
    fwhm: float
    boost: float

    @property
    def taken(self) -> Floats:
        """Positions x, y of what is there, (N, 2)."""
        return np.stack([self.peaks.x, self.peaks.y], axis=1)


def inject(frame_path: Path, folder: Path, spec: InjectSpec, seed: int) -> Table:
    """Plant stars and galaxies in a real frame, and write it with its truth.

    Parameters
    ----------
    frame_path : Path
        FITS, plain or compressed.
    folder : Path
        Gets `<stem>.fits`, of the same structure, and `<stem>.ecsv`; made if absent.
    spec : InjectSpec
        What is planted.
    seed : int
        The same seed plants the same sources.

    Returns
    -------
    Table
        The truth, with the columns of a scene's: what was planted, then (`ignored`, of kind "", without SNR) what
        was there already and can be seen. `meta["optics"]` is "measured" or "moffat", `meta["fwhm"]` in pixels.

    Raises
    ------
    LynceusError
        If the frame cannot be read.

    Notes
    -----
    The point spread function is the median of the frame's own bright, single, unsaturated stars. A signal to noise is
    that of a matched filter over the noise such a filter meets on the frame's empty sky, so that noise which is
    correlated between pixels counts as it should.
    """
    data = frame_path.read_bytes()
    frame = read_frame(data)
    light, truth = plan_light(frame, spec, np.random.default_rng([seed]))
    stem = frame_path.name.partition(".fit")[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.fits").write_bytes(injection.added(data, frame, lambda pixels: light))
    partial = folder / f"{stem}.part"
    truth.write(partial, format="ascii.ecsv", overwrite=True)
    partial.rename(folder / f"{stem}.ecsv")
    return truth


def plan_light(frame: Frame, spec: InjectSpec, rng: np.random.Generator) -> tuple[Floats, Table]:
    """The light of sources for a frame, (H, W) in ADU, and the truth as `inject` has it.

    Parameters
    ----------
    frame : Frame
        Is not changed.
    spec : InjectSpec
        What is planted.
    rng : Generator
        The only source of chance.
    """
    scenery = _survey(frame, spec, log_uniform(rng, spec.fwhm) if spec.fwhm else None)
    planted, light = _plant(scenery, spec, rng)
    scene = SceneSpec(box_scale=spec.measure.box_scale, smallest_box=spec.measure.min_box)
    truth = vstack(
        [truth_table(planted, _prominence(planted, scenery), frame.shape, scene), _already_there(scenery)],
        metadata_conflicts="silent",
    )
    truth.meta = {
        "trails": [],
        "optics": "measured" if scenery.optics.profile.__class__ is galsim.InterpolatedImage else "moffat",
        "fwhm": scenery.fwhm,
    }
    return light, truth


def _survey(frame: Frame, spec: InjectSpec, fwhm: float | None) -> _Scenery:
    """Find out what is there; `fwhm` is that of what will be planted, where the frame is not to tell it."""
    sky = estimate_sky(frame, spec.sky)
    level, noise = (plane.astype(np.float64) for plane in sky.upsampled())
    over_sky = np.nan_to_num(frame.pixels - level)
    peaks, _ = find_peaks(frame, sky)
    boxes = peak_boxes(peaks, spec.measure, frame.shape)
    sound = np.asarray(np.isfinite(boxes).all(axis=1))
    peaks, boxes = peaks[sound], boxes[sound]
    if fwhm is None:
        optics, fwhm = _optics(frame, sky, over_sky, peaks, spec)
    else:
        optics = Optics(galsim.Moffat(beta=spec.beta, fwhm=fwhm), pixelised=True)
    boost = _filtered_noise(over_sky / noise, frame.mask, boxes, draw_stamp(optics, np.zeros(2)))
    return _Scenery(frame, noise, over_sky, peaks, boxes, optics, fwhm, boost)


def _optics(frame: Frame, sky: Sky, over_sky: Floats, peaks: Peaks, spec: InjectSpec) -> tuple[Optics, float]:
    """The point spread function as the frame's stars show it, else a Moffat as wide as they are; and its FWHM."""
    fwhm = seeing(frame, sky, spec.measure) or injection.UNKNOWN_SEEING
    stars = _star_stamps(over_sky, frame.mask | frame.saturated, peaks, fwhm)
    if len(stars) < LEAST_STARS:
        return Optics(galsim.Moffat(beta=spec.beta, fwhm=fwhm), pixelised=True), fwhm
    star = np.median(stars, axis=0)
    middle = len(star) // 2
    distance = np.hypot(*(np.indices(star.shape) - middle)) / middle
    star = np.clip(star - np.median(star[distance > 0.9]), 0, None)
    star *= np.clip((1 - distance) / 0.2, 0, 1)  # to nothing at the border
    optics = measured_optics(star)
    return optics, draw_stamp(optics, np.zeros(2)).fwhm


def _star_stamps(over_sky: Floats, unusable: Bools, peaks: Peaks, fwhm: float) -> Floats:
    """Bright single stars, each on its middle pixel and of sum 1, shape (N, S, S)."""
    reach = int(np.clip(np.ceil(REACH * fwhm), 5, 40))
    stamps: list[Floats] = []
    if len(peaks.x) < 2:
        return np.zeros((0, 2 * reach + 1, 2 * reach + 1))
    places = np.stack([peaks.x, peaks.y], axis=1)
    alone = cKDTree(places).query(places, k=2)[0][:, 1] > APART * fwhm
    like = (peaks.height > BRIGHT) & alone & (peaks.shapes.ratio > 0.6)
    like &= np.abs(peaks.shapes.fwhm / np.median(peaks.shapes.fwhm[like]) - 1) < LIKE_STARS if like.any() else False
    for index in np.flatnonzero(like)[np.argsort(-peaks.height[like])]:
        column, row = round(peaks.x[index]), round(peaks.y[index])
        window = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
        stamp = over_sky[window] if min(row, column) >= reach else over_sky[:0]
        if stamp.shape == (2 * reach + 1, 2 * reach + 1) and not unusable[window].any() and len(stamps) < MOST_STARS:
            stamps.extend(_centred(stamp))
    return np.array(stamps).reshape(-1, 2 * reach + 1, 2 * reach + 1)


def _centred(stamp: Floats) -> list[Floats]:
    """A star moved onto the middle pixel of its stamp, of sum 1; nothing where its centre cannot be found."""
    found = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(stamp)), strict=False)
    if found.error_message:
        return []
    middle = len(stamp) // 2
    moved = shift(stamp, (middle + 1 - found.moments_centroid.y, middle + 1 - found.moments_centroid.x), order=5)
    return [moved / moved.sum()] if moved.sum() > 0 else []


def _filtered_noise(significance: Floats, mask: Bools, boxes: Floats, stamp: Stamp) -> float:
    """What a matched filter sees of the noise on the empty sky, over what it would see were it white."""
    taken = mask.copy()
    for x_min, y_min, x_max, y_max in np.rint(boxes).astype(int):
        taken[y_min:y_max, x_min:x_max] = True
    filtered = fftconvolve(np.where(taken, 0.0, significance), stamp.pixels[::-1, ::-1], mode="same")
    free = filtered[~binary_dilation(taken, iterations=max(round(stamp.fwhm), 1))]
    if len(free) < FREE:
        return 1.0
    spread = 1.4826 * float(np.median(np.abs(free - np.median(free))))
    return float(np.clip(spread / np.sqrt(np.square(stamp.pixels).sum()), 0.3, 10.0))


def _plant(scenery: _Scenery, spec: InjectSpec, rng: np.random.Generator) -> tuple[list[Seen], Floats]:
    """Choose places and sources; the light they add, (H, W) in ADU, with its photon noise where the gain is known."""
    light, gain = np.zeros(scenery.frame.shape), scenery.frame.facts.gain
    planted = []
    for x, y in _places(scenery, spec, rng):
        source = _draw(scenery, x, y, spec, rng)
        planted.append(source)
        middle = len(source.pixels) // 2
        top, left = source.row - middle, source.column - middle
        window = light[max(top, 0) : top + 2 * middle + 1, max(left, 0) : left + 2 * middle + 1]
        stamp = source.flux * np.clip(source.pixels[max(-top, 0) :, max(-left, 0) :], 0, None)
        stamp = stamp[: window.shape[0], : window.shape[1]].astype(np.float64)
        window += rng.poisson(stamp * gain) / gain if gain else stamp
    return planted, light


def _draw(scenery: _Scenery, x: float, y: float, spec: InjectSpec, rng: np.random.Generator) -> Seen:
    """A star or galaxy about there, of a signal to noise drawn over the noise there."""
    (column, phase_x), (row, phase_y) = (divmod(round((axis + 0.5) * PHASES), PHASES) for axis in (x, y))
    snr, phase, optics = log_uniform(rng, spec.snr), (phase_x, phase_y), scenery.optics
    kind = "galaxy" if rng.random() < spec.galaxies else "star"
    if kind == "galaxy":
        shape = (
            min(log_uniform(rng, spec.galaxy_radius), LEAST_SURFACE * snr),
            rng.uniform(-0.5, 0.8),
            rng.uniform(0.25, 1),
            rng.uniform(0, np.pi),
        )
        stamp = draw_galaxy(optics, phase, *shape)
    else:
        stamp = draw_stamp(optics, offset_of(phase))
    noise = float(scenery.noise[row, column])
    flux = flux_of_snr(snr, stamp.pixels, noise, scenery.frame.facts.gain or np.inf, scenery.boost)
    x, y = np.array([column, row]) + offset_of(phase)
    return Seen(kind, column, row, x, y, stamp.pixels, stamp.moments, flux, snr, scenery.boost, noise)


def _places(scenery: _Scenery, spec: InjectSpec, rng: np.random.Generator) -> list[Floats]:
    """Positions x, y on the frame: some by choice near what is there, the others clear of it."""
    height, width = scenery.frame.shape
    margin, taken = spec.clearance * scenery.fwhm, scenery.taken
    if min(height, width) <= 2 * margin + 2:
        return []
    tries = rng.uniform((margin, margin), (width - 1 - margin, height - 1 - margin), (20 * spec.count, 2))
    close = rng.random(len(tries)) < (spec.near if len(taken) else 0.0)
    for index in np.flatnonzero(close):
        other, angle = rng.integers(len(taken)), rng.uniform(0, 2 * np.pi)
        distance = rng.uniform(*BY_CHOICE) * (scenery.fwhm + scenery.peaks.shapes.fwhm[other]) / 2
        tries[index] = taken[other] + distance * np.array([np.cos(angle), np.sin(angle)])
    tries_inside = ((tries > margin) & (tries < np.array([width, height]) - 1 - margin)).all(axis=1)
    usable = tries_inside & (_clear(tries, scenery, margin) | close)
    chosen: list[Floats] = []
    for place in tries[usable]:
        if len(chosen) < spec.count and all(np.hypot(*(place - one)) > spec.spacing * scenery.fwhm for one in chosen):
            chosen.append(place)
    return chosen


def _clear(places: Floats, scenery: _Scenery, margin: float) -> Bools:
    """Whether places are `margin` pixels from what is there, its boxes, and pixels without a value."""
    occupied = scenery.frame.mask | scenery.frame.saturated
    for x_min, y_min, x_max, y_max in np.rint(scenery.boxes).astype(int):
        occupied[y_min:y_max, x_min:x_max] = True
    bad = np.argwhere(occupied)[:, ::-1].astype(float)
    clear = np.ones(len(places), bool)
    for others in (scenery.taken, bad):
        if len(others) and len(places):
            clear &= cKDTree(others).query(places, distance_upper_bound=margin)[0] > margin
    return clear


def _prominence(planted: list[Seen], scenery: _Scenery) -> NDArray[np.float64]:
    """The share of each in the light at its centre, (N,)."""
    before = np.clip(uniform_filter(scenery.over_sky, 3), 0, None)
    peaks = np.array([source.flux * float(source.pixels.max()) for source in planted])
    there = np.array([max(before[source.row, source.column] - source.noise, 0.0) for source in planted])
    return np.asarray(peaks / np.maximum(peaks + there, 1e-12)) if planted else np.zeros(0)


def _already_there(scenery: _Scenery) -> Table:
    """Rows of what can be seen on the frame as it was; all are to be ignored."""
    peaks, shapes = scenery.peaks, scenery.peaks.shapes
    variance, unknown = (shapes.fwhm / FWHM_PER_SIGMA) ** 2, np.full(len(peaks.x), np.nan)
    major, minor = variance / shapes.ratio, variance * shapes.ratio
    cos, sin = np.cos(shapes.theta), np.sin(shapes.theta)
    columns = {
        "x": peaks.x,
        "y": peaks.y,
        "xx": major * cos**2 + minor * sin**2,
        "xy": (major - minor) * cos * sin,
        "yy": major * sin**2 + minor * cos**2,
        "fwhm": shapes.fwhm,
        "flux": unknown,
        "snr": unknown,
        "prominence": unknown,
        "kind": np.full(len(peaks.x), "", "U6"),
        "ellipticity": 1 - shapes.ratio,
        "theta": np.degrees(shapes.theta),
    }
    edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), scenery.boxes.T, strict=True))
    return Table({**columns, **edges, "ignored": np.ones(len(peaks.x), bool)})
