"""A simulated scene: what is on the sky, what a telescope makes of it, and the exact truth about both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import box_about
from training.scenes.artefacts import add_bad_columns, add_cosmic_rays, add_hot_pixels, bleed, sky_background
from training.scenes.camera import Detector, Unevenness, draw_detector, draw_unevenness, expose, to_hdu
from training.scenes.optics import Optics, draw_psf
from training.scenes.ranges import Floats, SceneSpec, happens, log_uniform, power_law
from training.scenes.resample import Resampling, draw_resampling
from training.scenes.stamps import (
    FWHM_PER_SIGMA,
    LARGE,
    PHASES,
    WIDEST,
    StarStamps,
    add_stamp,
    draw_comet,
    draw_galaxy,
    draw_stamp,
    flux_of_snr,
    fwhm_of,
    moments_of,
    noise_boost,
    offset_of,
    snr_of_flux,
)
from training.scenes.streaks import Glare, Trail, add_ghosts, add_spikes, add_trails

__all__ = [
    "Backstage",
    "Planned",
    "Scene",
    "SceneSpec",
    "Seen",
    "Sources",
    "draw_scene",
    "lay_scene",
    "plan_sources",
    "truth_table",
]

BRIGHT, BRIGHT_SIDE = 200.0, 241  # stars of a higher SNR are drawn on stamps of this side, in pixels
VAST, VAST_SIDE = 2000.0, 701  # so are those of a given flux and a still higher SNR, whose halo would end in a square
LEAST_SURFACE = 0.5  # galaxies have at most this half-light radius, in pixels, for every unit of SNR
BRIGHTEST = (1e3, 3e4)  # SNR of the stars that `SceneSpec.bright` counts
FAINTEST = 0.05  # of the noise: light that is left out
COMETS = (30.0, 1000.0)  # SNR of comets
COLUMNS = ("x", "y", "xx", "xy", "yy", "fwhm", "flux", "snr", "prominence", "kind")


@dataclass(frozen=True)
class Planned:
    """A source before any telescope saw it.

    Attributes
    ----------
    kind : {"star", "galaxy", "comet"}
        What it is.
    column, row : int
        The pixel it is in; it may lie off the frame.
    phase : (int, int)
        Where in it, in eighths of a pixel from its corner.
    snr : float
        What a matched filter is to see; unless `flux` is given.
    flux : float or None
        ADU.
    shape : tuple of float
        The arguments of `draw_galaxy` and `draw_comet` after the phase.
    """

    kind: str
    column: int
    row: int
    phase: tuple[int, int]
    snr: float
    flux: float | None = None
    shape: tuple[float, ...] = ()


Sources = Callable[[int], Sequence[Planned]]  # of the side of the raw frame


@dataclass
class Seen:
    """A source on a frame: the pixel it is in, its position (0-based centres), stamp, moments, flux (ADU) and SNR."""

    kind: str
    column: int
    row: int
    x: float
    y: float
    pixels: NDArray[np.float32]
    moments: tuple[float, float, float]
    flux: float
    snr: float
    boost: float  # of the noise that a matched filter sees, over that of white noise
    noise: float  # of an empty pixel around it, in ADU


@dataclass(frozen=True, eq=False)
class Backstage:
    """What only the maker of a scene knows; arrays are of the frame as the detector has it, (H, W).

    Attributes
    ----------
    optics : Optics
        The point spread function.
    resampling : Resampling or None
        What became of the detector's frame.
    uneven : Unevenness or None
        How its pixels differ.
    light : ndarray
        Of sources, spikes, ghosts and trails, without noise, in ADU of an even detector.
    sky : ndarray
        Likewise, of the sky without fringes.
    faults : ndarray, bool
        Where numbers are not what light and noise made them: cosmic rays, hot pixels, bad columns, saturation.
    seen : list of Seen
        The sources, as an even detector has them.
    """

    optics: Optics
    resampling: Resampling | None
    uneven: Unevenness | None
    light: Floats
    sky: Floats
    faults: NDArray[np.bool_]
    seen: list[Seen]


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene before its numbers are rounded: pixels (H, W) in ADU, truth, detector, and how it was made."""

    pixels: Floats
    truth: Table
    detector: Detector
    behind: Backstage


def draw_scene(
    rng: np.random.Generator, spec: SceneSpec, sources: Sources | None = None
) -> tuple[fits.PrimaryHDU, Table]:
    """Draw one frame and its truth.

    Parameters
    ----------
    rng : Generator
        The only source of chance.
    spec : SceneSpec
        The ranges.
    sources : callable or None
        What is there, given the side of the frame it is drawn on (larger than `spec.size` where the scene is
        resampled); by default it is drawn too.

    Returns
    -------
    frame : PrimaryHDU
        16-bit integers or 32-bit floats, ADU.
    truth : Table
        x, y (0-based centres), x_min .. y_max (edges), kind, xx, xy, yy (adaptive moments, px^2), fwhm (px),
        ellipticity, theta (degrees counter-clockwise from x), flux (ADU), snr, prominence (share of the light at its
        own centre), ignored. In `meta`: `trails`, see `trail_mask`; `affine` (of a resampled frame), the matrix
        from `(x, y, 1)` on it to x, y on the frame it would be had it not been resampled.
    """
    scene = lay_scene(rng, spec, sources)
    return to_hdu(scene.pixels, scene.detector, rng), scene.truth


def lay_scene(rng: np.random.Generator, spec: SceneSpec, sources: Sources | None = None) -> Scene:
    """Draw one scene up to the point where its numbers are rounded; arguments as `draw_scene` has them."""
    resampling = draw_resampling(rng, spec) if happens(rng, spec.resampled) else None
    raw = spec if resampling is None else spec.model_copy(update={"size": spec.size + 2 * resampling.margin})
    detector = draw_detector(rng, raw)
    optics = draw_psf(rng, raw)
    uneven = draw_unevenness(rng, raw, detector)
    light = np.zeros((raw.size, raw.size))
    planned = plan_sources(rng, raw, most_sources(raw, optics)) if sources is None else sources(raw.size)
    seen, prominence = add_sources(light, planned, optics, detector, rng, raw)
    faulty = rng.random() >= spec.clean
    trails = add_trails(light, optics, rng, spec.trails * raw.area, detector.noise) if faulty else []
    sky = sky_background(light.shape, detector.sky, rng)
    pixels, noise = expose(light, detector, rng, uneven, sky)
    sound = pixels.copy()
    if faulty:
        add_cosmic_rays(pixels, rng, spec.cosmic_rays * raw.area, detector.noise)
        add_hot_pixels(pixels, rng, spec.hot_pixels * raw.area, detector.noise)
        add_bad_columns(pixels, rng, spec.bad_columns * raw.area, detector.noise)
    bleed(pixels.T if happens(rng, spec.bleed_rows) else pixels, detector.saturation)
    behind = Backstage(optics, resampling, uneven, light, sky, pixels != sound, [replace(one) for one in seen])
    if noise is not None and uneven is not None:
        _dim(seen, noise, uneven.response)
    if resampling is not None:
        pixels, trails = resampling.apply(pixels), _moved_trails(trails, resampling)
        _resample(seen, resampling)
    if noise is not None or resampling is not None or detector.step:
        _reckon(seen, detector)
    truth = truth_table(seen, prominence, (spec.size, spec.size), spec)
    truth.meta["trails"] = trails
    if resampling is not None:
        truth.meta["affine"] = (resampling.affine - [[0, 0, resampling.margin]]).tolist()
    return Scene(pixels, truth, detector, behind)


def most_sources(spec: SceneSpec, optics: Optics) -> int | None:
    """How many sources such optics leave apart on a frame; None where that is no matter."""
    if not spec.crowding:
        return None
    return int(spec.crowding * (spec.size / draw_stamp(optics, np.zeros(2)).fwhm) ** 2)


def plan_sources(rng: np.random.Generator, spec: SceneSpec, most: int | None = None) -> list[Planned]:
    """Draw what is on the sky: faint to bright sources (`most` at most), a few very bright stars, comets."""
    populated = rng.random() >= spec.empty
    count = rng.poisson(populated * log_uniform(rng, spec.sources) * spec.area)
    count = count if most is None else min(count, most)
    bright = rng.poisson(populated * spec.bright * spec.area)
    low, high = np.log(BRIGHTEST)
    faint = power_law(rng, spec.snr, rng.uniform(*spec.slope), count)
    snr = np.concatenate([faint, np.exp(rng.uniform(low, high, bright))])
    is_galaxy = rng.random(len(snr)) < rng.uniform(*spec.galaxies)
    is_galaxy[count:] = False
    planned = []
    for wanted, galaxy in zip(snr, is_galaxy, strict=True):
        star = _placed(rng, "star", float(wanted), spec.size)
        planned.append(_as_galaxy(rng, star, spec) if galaxy else star)
    comets = rng.poisson(populated * spec.comets * spec.area) if spec.comets else 0
    return planned + [_draw_comet(rng, spec) for _ in range(comets)]


def _placed(rng: np.random.Generator, kind: str, snr: float, size: int) -> Planned:
    column, row = rng.integers(0, size, 2)
    phase = rng.integers(0, PHASES, 2)
    return Planned(kind, int(column), int(row), (int(phase[0]), int(phase[1])), snr)


def _as_galaxy(rng: np.random.Generator, source: Planned, spec: SceneSpec) -> Planned:
    """A galaxy in its place: from disc-like to spheroidal, at any inclination."""
    radius = min(log_uniform(rng, spec.galaxy_radius), LEAST_SURFACE * source.snr)
    shape = (radius, rng.uniform(-0.5, 0.8), rng.uniform(0.25, 1.0), rng.uniform(0, np.pi))
    return replace(source, kind="galaxy", shape=shape)


def _draw_comet(rng: np.random.Generator, spec: SceneSpec) -> Planned:
    comet = _placed(rng, "comet", log_uniform(rng, COMETS), spec.size)
    shape = (rng.uniform(4, 15), rng.uniform(15, 60), rng.uniform(0, 2 * np.pi))
    return replace(comet, shape=shape)


def add_sources(
    light: Floats,
    planned: Sequence[Planned],
    optics: Optics,
    detector: Detector,
    rng: np.random.Generator,
    spec: SceneSpec,
) -> tuple[list[Seen], Floats]:
    """Add sources to the noiseless light, (H, W) in ADU.

    Returns
    -------
    seen : list
        What each of those on the frame looks like, N of them.
    prominence : ndarray, shape (N,)
        Share of the light at its own centre.
    """
    stars = StarStamps(optics)
    boost = noise_boost(stars.at(0, 0).pixels, detector.smoothing)
    size, reach = len(light), VAST_SIDE // 2
    near = [one for one in planned if -reach <= min(one.column, one.row) <= max(one.column, one.row) < size + reach]
    seen = [_see(source, stars, optics, detector, boost) for source in near]
    for source in seen:
        add_stamp(light, source.pixels, source.flux, source.column, source.row, FAINTEST * detector.noise)
    glares = [_glare(source) for source in seen if source.kind == "star"]
    if happens(rng, spec.spikes):
        add_spikes(light, glares, stars.at(0, 0).fwhm, detector.noise, rng)
    if happens(rng, spec.ghosts):
        add_ghosts(light, glares, rng)
    seen = [one for one in seen if 0 <= min(one.column, one.row) <= max(one.column, one.row) < size]
    return seen, _overlaps(seen, light) if optics.ring else _prominence(seen, light)


def _see(source: Planned, stars: StarStamps, optics: Optics, detector: Detector, boost: float) -> Seen:
    """What the optics make of a source, and how bright it is."""
    if source.kind == "galaxy":
        stamp = draw_galaxy(optics, source.phase, *source.shape)
    elif source.kind == "comet":
        stamp = draw_comet(optics, source.phase, *source.shape)
    else:
        stamp = stars.at(*source.phase)
    noise, gain = detector.noise, detector.gain
    snr = source.snr if source.flux is None else snr_of_flux(source.flux, stamp.pixels, noise, gain, boost)
    if source.kind == "star" and snr >= BRIGHT:
        vast = source.flux is not None and snr >= VAST
        stamp = draw_stamp(optics, offset_of(source.phase), VAST_SIDE if vast else BRIGHT_SIDE)
    flux = flux_of_snr(snr, stamp.pixels, noise, gain, boost) if source.flux is None else source.flux
    if source.kind == "galaxy" and source.shape[0] > LARGE and flux * float(stamp.pixels[0].max()) > FAINTEST * noise:
        stamp = draw_galaxy(optics, source.phase, *source.shape, reach=WIDEST)  # or its halo would end in a square
    x, y = np.array([source.column, source.row]) + offset_of(source.phase)
    return Seen(source.kind, source.column, source.row, x, y, stamp.pixels, stamp.moments, flux, snr, boost, noise)


def _glare(source: Seen) -> Glare:
    return Glare(source.x, source.y, source.flux, source.flux * float(source.pixels.max()), source.snr)


def _prominence(seen: Sequence[Seen], light: Floats) -> Floats:
    """A source's highest pixel over the light at its centre, (N,)."""
    x, y = np.array([(source.x, source.y) for source in seen]).reshape(-1, 2).T
    column, row = (np.clip(np.round(axis).astype(int), 0, len(light) - 1) for axis in (x, y))
    peaks = np.array([source.flux * float(source.pixels.max()) for source in seen])
    return np.asarray(peaks / light[row, column])


def _overlaps(seen: Sequence[Seen], light: Floats) -> Floats:
    """A ring's share of the light that its own shape weighs, (N,): in its middle there is none of its own."""
    shares = np.ones(len(seen))
    for index, source in enumerate(seen):
        middle = len(source.pixels) // 2
        rows, columns = source.row - middle, source.column - middle
        top, left = max(rows, 0), max(columns, 0)
        window = light[top : rows + 2 * middle + 1, left : columns + 2 * middle + 1]
        own = source.pixels[top - rows :, left - columns :][: window.shape[0], : window.shape[1]]
        total = float((own * window).sum())
        shares[index] = source.flux * float(np.square(own).sum()) / total if total > 0 else 1.0
    return shares


def _dim(seen: Sequence[Seen], noise: Floats, response: Floats) -> None:
    """Give every source the light and the noise that the camera has where it is."""
    for source in seen:
        place = tuple(np.clip((source.row, source.column), 0, len(noise) - 1))
        source.flux, source.noise = source.flux * float(response[place]), float(noise[place])


def _resample(seen: Sequence[Seen], resampling: Resampling) -> None:
    """Turn, shift and interpolate the sources as the frame was."""
    for source in seen:
        source.pixels, boost = resampling.stamp(source.pixels, source.column, source.row)
        source.moments, source.boost = moments_of(source.pixels), source.boost * boost
        source.x, source.y = (float(axis) for axis in resampling.from_raw(np.array(source.x), np.array(source.y)))


def _moved_trails(trails: Sequence[Trail], resampling: Resampling) -> list[Trail]:
    moved = []
    for x0, y0, x1, y1, width in trails:
        (first_x, last_x), (first_y, last_y) = resampling.from_raw(np.array([x0, x1]), np.array([y0, y1]))
        moved.append([round(float(value), 3) for value in (first_x, first_y, last_x, last_y, width)])
    return moved


def _reckon(seen: Sequence[Seen], detector: Detector) -> None:
    """Work out the signal to noise afresh: with the noise around each source, and that of coarse numbers."""
    for source in seen:
        noise = float(np.hypot(source.noise, detector.step / np.sqrt(12)))
        source.snr = snr_of_flux(source.flux, source.pixels, noise, detector.gain, source.boost)


def truth_table(seen: Sequence[Seen], prominence: Floats, shape: tuple[int, int], spec: SceneSpec) -> Table:
    """The truth about the sources (N of them) whose centre is on a frame of this height and width.

    `prominence`, shape (N,), is the share each has of the light at its own centre; the rest is as `draw_scene` says.
    """
    height, width = shape
    rows = [
        (one.x, one.y, *one.moments, fwhm_of(one.moments), one.flux, one.snr, share, one.kind)
        for one, share in zip(seen, prominence, strict=True)
        if -0.5 <= one.x < width - 0.5 and -0.5 <= one.y < height - 0.5
    ]
    truth = Table(rows=rows or None, names=COLUMNS, dtype=(float,) * 9 + (str,))
    truth = truth[_separate(truth, spec.merge)]
    truth["ellipticity"], truth["theta"] = _ellipse(*(np.array(truth[axis]) for axis in ("xx", "xy", "yy")))
    sides = [
        np.maximum(spec.box_scale * FWHM_PER_SIGMA * np.sqrt(truth[axis]), spec.smallest_box) for axis in ("xx", "yy")
    ]
    boxes = np.clip(box_about(np.array(truth["x"]), np.array(truth["y"]), *sides), 0, (width, height) * 2)
    for name, values in zip(("x_min", "y_min", "x_max", "y_max"), boxes.T, strict=True):
        truth[name] = values
    truth["ignored"] = (truth["snr"] < spec.ignore_snr) | (truth["prominence"] < spec.ignore_prominence)
    return truth


def _ellipse(xx: Floats, xy: Floats, yy: Floats) -> tuple[Floats, Floats]:
    """1 - minor / major axis, and the angle of the major one in degrees counter-clockwise from x, (N,) each."""
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return 1 - np.sqrt((mean - half) / (mean + half)), np.degrees(np.arctan2(2 * xy, xx - yy) / 2)


def _separate(truth: Table, merge: float) -> NDArray[np.bool_]:
    """False for a source within `merge` FWHM of a brighter one."""
    keep = np.ones(len(truth), bool)
    if len(truth) < 2:
        return keep
    positions = np.stack([truth["x"], truth["y"]], axis=1)
    neighbours = cKDTree(positions).query_ball_point(positions, merge * np.array(truth["fwhm"]))
    for index in np.argsort(-np.array(truth["flux"])):
        if keep[index]:
            keep[[other for other in neighbours[index] if truth["flux"][other] < truth["flux"][index]]] = False
    return keep
