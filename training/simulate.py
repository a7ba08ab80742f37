"""Simulated frames with exact truth: GalSim optics, detector faults, and a table of what is where."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field
from rich.progress import track
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from lynceus.detections import box_about
from lynceus.spec import Spec
from training.artefacts import (
    add_bad_columns,
    add_cosmic_rays,
    add_hot_pixels,
    add_trails,
    bleed,
    sky_background,
)

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
BRIGHT, BRIGHT_SIDE = 200.0, 241  # stars of a higher SNR are drawn on stamps of this side, in pixels
LEAST_SURFACE = 0.5  # galaxies have at most this half-light radius, in pixels, for every unit of SNR
PHASES = 8  # sub-pixel positions a star may take along each axis
Range = tuple[float, float]
Floats = NDArray[np.float64]


class SceneSpec(Spec):
    """The ranges scenes are drawn from; a pair is (lowest, highest).

    Attributes
    ----------
    size : int
        Side of a frame, in pixels.
    sources : (float, float)
        Sources on 512 x 512 px, log-uniform.
    empty : float
        Share of scenes without a source.
    snr : (float, float)
        Matched-filter signal to noise; a power law whose slope is drawn for each scene.
    slope : (float, float)
        Of the cumulative number over SNR.
    bright : float
        Mean number of stars of SNR 1000 to 30000 on 512 x 512 px.
    fwhm : (float, float)
        Of the point spread function before it meets the pixels, in pixels, log-uniform.
    trailed : float
        Share of scenes whose point spread function is drawn out along a line.
    galaxies : (float, float)
        Share of sources that are galaxies.
    galaxy_radius : (float, float)
        Half-light radius before the point spread function, in pixels, log-uniform.
    sky : (float, float)
        ADU, log-uniform.
    gain : (float, float)
        Electrons per ADU.
    read_noise : (float, float)
        Electrons.
    correlated : float
        Share of scenes whose noise is smoothed as resampling does.
    cosmic_rays, hot_pixels, bad_columns, trails : float
        Mean number on 512 x 512 px in a scene that has them.
    clean : float
        Share of scenes without any of these faults.
    ignore_snr : float
        Sources fainter than this are marked `ignored`.
    ignore_prominence : float
        So are those that give a smaller share than this of the light at their own centre.
    merge : float
        A source closer than this to a brighter one, in FWHM, is part of it.
    box_scale, smallest_box : float
        The box rule: side in observed FWHM, and the least side in pixels.
    """

    size: int = 768
    sources: Range = (8, 700)
    empty: float = 0.06
    snr: Range = (1.5, 1000)
    slope: Range = (0.2, 1.2)
    bright: float = 0.7
    fwhm: Range = (1.15, 8.0)
    trailed: float = 0.2
    galaxies: Range = (0.0, 0.5)
    galaxy_radius: Range = (0.7, 12.0)
    sky: Range = (20, 5000)
    gain: Range = (0.5, 4.0)
    read_noise: Range = (2.0, 12.0)
    correlated: float = 0.3
    cosmic_rays: float = 30
    hot_pixels: float = 60
    bad_columns: float = 0.7
    trails: float = 0.4
    clean: float = 0.25
    ignore_snr: float = 3.0
    ignore_prominence: float = 0.25
    merge: float = 0.5
    box_scale: float = Field(2.5, gt=0)
    smallest_box: float = Field(4.0, gt=0)


@dataclass(frozen=True)
class Stamp:
    """A noiseless source of unit flux and its observed shape.

    Attributes
    ----------
    pixels : ndarray, shape (S, S), float32
        S odd; sums to the share of the light inside.
    moments : (float, float, float)
        Adaptive second moments xx, xy, yy, in pixels squared.
    """

    pixels: NDArray[np.float32]
    moments: tuple[float, float, float]

    @property
    def fwhm(self) -> float:
        """Geometric mean of the FWHM along both axes, in pixels."""
        xx, xy, yy = self.moments
        return float(FWHM_PER_SIGMA * (xx * yy - xy * xy) ** 0.25)


@dataclass(frozen=True)
class Detector:
    """The noise of one scene: sky in ADU, gain in electrons per ADU, read noise in electrons."""

    sky: float
    gain: float
    read_noise: float
    smoothing: float
    saturation: float

    @property
    def noise(self) -> float:
        """Standard deviation of an empty pixel before smoothing, in ADU."""
        return float(np.sqrt(self.sky / self.gain + (self.read_noise / self.gain) ** 2))


def simulate(folder: Path, count: int, seed: int, spec: SceneSpec, workers: int = 2) -> None:
    """Write frames `00000.fits` and their truth `00000.ecsv`; those that exist are left as they are.

    Parameters
    ----------
    folder : Path
        Made if absent.
    count : int
        Number of frames.
    seed : int
        Frame i depends on `seed` and i alone.
    spec : SceneSpec
        The ranges.
    workers : int
        Processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(count) if not (folder / f"{index:05d}.ecsv").exists()]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(write_scene, folder, index, seed, spec) for index in missing]
        for job in track(jobs, description=f"simulating {len(missing)} frames into {folder}"):
            job.result()


def write_scene(folder: Path, index: int, seed: int, spec: SceneSpec) -> None:
    """Draw one scene and write its frame, then its truth (whose presence says that both are there)."""
    frame, truth = draw_scene(np.random.default_rng([seed, index]), spec)
    frame.writeto(folder / f"{index:05d}.fits", overwrite=True)
    partial = folder / f"{index:05d}.part"
    truth.write(partial, format="ascii.ecsv", overwrite=True)
    partial.rename(folder / f"{index:05d}.ecsv")


def draw_scene(rng: np.random.Generator, spec: SceneSpec) -> tuple[fits.PrimaryHDU, Table]:
    """Draw one frame and its truth.

    Parameters
    ----------
    rng : Generator
        The only source of chance.
    spec : SceneSpec
        The ranges.

    Returns
    -------
    frame : PrimaryHDU
        16-bit integers or 32-bit floats, ADU.
    truth : Table
        x, y (0-based centres), x_min .. y_max (edges), kind, flux (ADU), snr, fwhm (px),
        prominence (share of the light at its own centre), ignored.
    """
    detector = draw_detector(rng, spec)
    psf = draw_psf(rng, spec)
    light = np.zeros((spec.size, spec.size))
    truth = add_sources(light, psf, detector, rng, spec)
    faulty = rng.random() >= spec.clean
    if faulty:
        add_trails(light, psf, rng, spec.trails * _area(spec), detector.noise)
    pixels = expose(light, detector, rng)
    if faulty:
        add_cosmic_rays(pixels, rng, spec.cosmic_rays * _area(spec), detector.noise)
        add_hot_pixels(pixels, rng, spec.hot_pixels * _area(spec), detector.noise)
        add_bad_columns(pixels, rng, spec.bad_columns * _area(spec), detector.noise)
    bleed(pixels, detector.saturation)
    return to_hdu(pixels, detector, rng), truth


def draw_detector(rng: np.random.Generator, spec: SceneSpec) -> Detector:
    """Draw sky, gain and noise."""
    sky, gain = _log_uniform(rng, spec.sky), rng.uniform(*spec.gain)
    smoothing = rng.uniform(0.35, 0.9) if rng.random() < spec.correlated else 0.0
    saturation = min(65535.0, sky + rng.uniform(2e4, 6e4))
    return Detector(sky, gain, rng.uniform(*spec.read_noise), smoothing, saturation)


def draw_psf(rng: np.random.Generator, spec: SceneSpec) -> galsim.GSObject:
    """Draw a point spread function of unit flux, in pixels."""
    fwhm = _log_uniform(rng, spec.fwhm)
    kinds: list[Callable[[], galsim.GSObject]] = [
        lambda: galsim.Moffat(beta=rng.uniform(2.3, 5.0), fwhm=fwhm, trunc=15 * fwhm),
        lambda: galsim.Kolmogorov(fwhm=fwhm),
        lambda: galsim.Gaussian(fwhm=fwhm),
    ]
    psf = kinds[rng.choice(3, p=[0.6, 0.2, 0.2])]()
    psf = psf.shear(g=abs(rng.normal(0, 0.04)), beta=rng.uniform(0, np.pi) * galsim.radians)
    if rng.random() < spec.trailed:
        line = galsim.Box(fwhm * rng.uniform(0.5, 3.0), 0.05 * fwhm)
        psf = galsim.Convolve(psf, line.rotate(rng.uniform(0, np.pi) * galsim.radians))
    return psf


def add_sources(
    light: Floats, psf: galsim.GSObject, detector: Detector, rng: np.random.Generator, spec: SceneSpec
) -> Table:
    """Add stars and galaxies to the noiseless light, and say where they are."""
    populated = rng.random() >= spec.empty
    count = rng.poisson(populated * _log_uniform(rng, spec.sources) * _area(spec))
    bright = rng.poisson(populated * spec.bright * _area(spec))
    snr = np.concatenate([_power_law(rng, spec.snr, rng.uniform(*spec.slope), count), _log_uniform_many(rng, bright)])
    star_stamps = StarStamps(psf)
    boost = noise_boost(star_stamps.at(0, 0).pixels, detector.smoothing)
    is_galaxy = rng.random(len(snr)) < rng.uniform(*spec.galaxies)
    is_galaxy[count:] = False
    rows = []
    for wanted, galaxy in zip(snr, is_galaxy, strict=True):
        column, row = rng.integers(0, spec.size, 2)
        phase = rng.integers(0, PHASES, 2)
        if galaxy:
            stamp = draw_galaxy(psf, phase, min(_log_uniform(rng, spec.galaxy_radius), LEAST_SURFACE * wanted), rng)
        else:
            stamp = star_stamps.at(*phase) if wanted < BRIGHT else draw_stamp(psf, _offset(phase), BRIGHT_SIDE)
        flux = flux_of_snr(wanted, stamp.pixels, detector, boost)
        add_stamp(light, stamp.pixels, flux, int(column), int(row), 0.05 * detector.noise)
        x, y = np.array([column, row]) + _offset(phase)
        peak = flux * float(stamp.pixels.max())
        rows.append((x, y, *stamp.moments, stamp.fwhm, flux, wanted, peak, "galaxy" if galaxy else "star"))
    return _truth_table(rows, light, spec)


class StarStamps:
    """Stars at every sub-pixel phase, drawn when first asked for."""

    def __init__(self, psf: galsim.GSObject) -> None:
        self._psf = psf
        self._stamps: dict[tuple[int, int], Stamp] = {}

    def at(self, column_phase: int, row_phase: int) -> Stamp:
        """The stamp of a star that lies `phase / 8 - 1/2` pixels from the centre of its middle pixel."""
        key = (int(column_phase), int(row_phase))
        if key not in self._stamps:
            self._stamps[key] = draw_stamp(self._psf, _offset(key))
        return self._stamps[key]


def draw_galaxy(psf: galsim.GSObject, phase: Floats, radius: float, rng: np.random.Generator) -> Stamp:
    """Draw a galaxy: a Spergel profile from disc-like to spheroidal, inclined, seen through the optics."""
    profile = galsim.Spergel(nu=rng.uniform(-0.5, 0.8), half_light_radius=radius)
    ratio = rng.uniform(0.25, 1.0)
    profile = profile.shear(q=ratio, beta=rng.uniform(0, np.pi) * galsim.radians)
    return draw_stamp(galsim.Convolve(psf, profile), _offset(phase))


def draw_stamp(profile: galsim.GSObject, offset: Floats, side: int | None = None) -> Stamp:
    """Draw a profile on pixels, `offset` pixels from the centre of the middle one, and measure its shape."""
    side = side or 2 * int(np.clip(profile.getGoodImageSize(1.0) // 2, 8, 100)) + 1
    picture = profile.drawImage(nx=side, ny=side, scale=1.0, offset=tuple(offset), dtype=np.float32)
    found = galsim.hsm.FindAdaptiveMom(picture, strict=False)
    if found.error_message:
        sigma = np.sqrt(1 / (4 * np.pi * np.square(picture.array).sum()))  # of a Gaussian as sharp
        return Stamp(picture.array, (sigma**2, 0.0, sigma**2))
    e1, e2 = found.observed_shape.e1, found.observed_shape.e2
    scale = found.moments_sigma**2 / np.sqrt(max(1 - e1 * e1 - e2 * e2, 1e-6))
    return Stamp(picture.array, (scale * (1 + e1), scale * e2, scale * (1 - e1)))


def noise_boost(stamp: NDArray[np.float32], smoothing: float) -> float:
    """How much more a matched filter sees of noise smoothed by a Gaussian of `smoothing` pixels than of white noise."""
    if smoothing == 0:
        return 1.0
    smooth = gaussian_filter(np.pad(stamp, 4), smoothing)
    return float(np.sqrt(np.square(smooth).sum() / np.square(stamp).sum()))


def flux_of_snr(snr: float, stamp: NDArray[np.float32], detector: Detector, boost: float) -> float:
    """The flux, in ADU, of a source that a matched filter sees at `snr`, its own photon noise counted."""
    power = float(np.square(stamp, dtype=np.float64).sum())
    empty = (boost * detector.noise) ** 2 / power
    own = float(np.power(stamp, 3, dtype=np.float64).sum()) / power**2 / detector.gain
    return (snr * snr * own + np.sqrt((snr * snr * own) ** 2 + 4 * snr * snr * empty)) / 2


def add_stamp(light: Floats, stamp: NDArray[np.float32], flux: float, column: int, row: int, negligible: float) -> None:
    """Add a stamp centred on a pixel, cropped where it is negligible and at the frame's border."""
    middle = len(stamp) // 2
    profile = flux * stamp.max(axis=0)
    bright = np.flatnonzero(profile > negligible)
    reach = int(np.clip(np.abs(bright - middle).max() + 1 if len(bright) else 3, 3, middle))
    top, left = max(row - reach, 0), max(column - reach, 0)
    bottom, right = min(row + reach + 1, len(light)), min(column + reach + 1, len(light))
    shift_row, shift_column = middle - row, middle - column
    cut = stamp[top + shift_row : bottom + shift_row, left + shift_column : right + shift_column]
    light[top:bottom, left:right] += flux * cut


def expose(light: Floats, detector: Detector, rng: np.random.Generator) -> Floats:
    """Photon and read noise on light and sky, in ADU, on a pedestal-free detector."""
    sky = sky_background(light.shape, detector.sky, rng)
    expected = np.clip(light + sky, 0, None)
    electrons = rng.poisson(expected * detector.gain) + rng.normal(0, detector.read_noise, light.shape)
    noise = electrons / detector.gain - expected
    if detector.smoothing:
        noise = gaussian_filter(noise, detector.smoothing)
    return np.asarray(expected + noise)


def to_hdu(pixels: Floats, detector: Detector, rng: np.random.Generator) -> fits.PrimaryHDU:
    """Quantise as a camera does, or leave as a reduced frame is."""
    if rng.random() < 0.6:
        hdu = fits.PrimaryHDU(np.clip(np.round(pixels), 0, 65535).astype(np.uint16))
    else:
        hdu = fits.PrimaryHDU(pixels.astype(np.float32))
    hdu.header["GAIN"] = (detector.gain, "electrons per ADU")
    hdu.header["RDNOISE"] = (detector.read_noise, "electrons")
    hdu.header["SATURATE"] = (np.floor(detector.saturation), "ADU")
    return hdu


def _truth_table(rows: list[tuple[object, ...]], light: Floats, spec: SceneSpec) -> Table:
    names = ("x", "y", "xx", "xy", "yy", "fwhm", "flux", "snr", "prominence", "kind")
    kinds = (float,) * 9 + (str,)
    truth = Table(rows=rows or None, names=names, dtype=kinds)
    column, row = (np.clip(np.round(truth[axis]).astype(int), 0, spec.size - 1) for axis in ("x", "y"))
    truth["prominence"] /= light[row, column]
    truth = truth[_separate(truth, spec.merge)]
    sides = [
        np.maximum(spec.box_scale * FWHM_PER_SIGMA * np.sqrt(truth[axis]), spec.smallest_box) for axis in ("xx", "yy")
    ]
    boxes = np.clip(box_about(np.array(truth["x"]), np.array(truth["y"]), *sides), 0, spec.size)
    for name, values in zip(("x_min", "y_min", "x_max", "y_max"), boxes.T, strict=True):
        truth[name] = values
    truth["ignored"] = (truth["snr"] < spec.ignore_snr) | (truth["prominence"] < spec.ignore_prominence)
    return truth


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


def _offset(phase: Floats | tuple[int, int]) -> Floats:
    return np.asarray(phase) / PHASES - 0.5


def _area(spec: SceneSpec) -> float:
    """Of a frame, in units of 512 x 512 px."""
    return (spec.size / 512) ** 2


def _log_uniform(rng: np.random.Generator, limits: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _log_uniform_many(rng: np.random.Generator, count: int) -> Floats:
    return np.exp(rng.uniform(np.log(1e3), np.log(3e4), count))


def _power_law(rng: np.random.Generator, limits: Range, slope: float, count: int) -> Floats:
    """SNR with cumulative number falling as SNR^-slope between the limits."""
    low, high = (limit**-slope for limit in limits)
    return np.asarray(rng.uniform(high, low, count) ** (-1 / slope))
