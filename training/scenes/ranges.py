"""The ranges that simulated scenes are drawn from, and the few ways to draw from them."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lynceus.spec import Spec

Range = tuple[float, float]
Floats = NDArray[np.float64]
SMOOTHING = (0.35, 0.9)
Kernel = Literal["bilinear", "cubic", "lanczos", "drizzle"]


class SceneSpec(Spec):
    """The ranges scenes are drawn from; a pair is (lowest, highest).

    What a share or a mean number of 0 switches off draws no random number: a recipe that does not know a switch
    repeats to the byte.

    Attributes
    ----------
    size : int
        Side of a frame, in pixels.
    sources : (float, float)
        Sources on 512 x 512 px, log-uniform.
    crowding : float
        Most of them on an area of one observed FWHM squared; 0 for no limit.
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
    fourier : bool
        Whether stars are drawn through Fourier space: as well to a thousandth, and up to a hundred times faster.
    trailed : float
        Share of scenes whose point spread function is drawn out along a line.
    defocused : float
        Share of scenes whose stars are rings: the image of a mirror with a hole, out of focus.
    ring : (float, float)
        Outer radius of these rings, in FWHM of the seeing.
    measured : float
        Share of scenes whose point spread function is one of `stamps`.
    stamps : tuple of str
        Files of measured point spread functions: FITS or .npy, square, in the pixels of the frame.
    galaxies : (float, float)
        Share of sources that are galaxies.
    galaxy_radius : (float, float)
        Half-light radius before the point spread function, in pixels, log-uniform.
    comets : float
        Mean number on 512 x 512 px.
    spikes, ghosts : float
        Share of scenes whose stars over SNR 200 have diffraction spikes, and over SNR 1000 ghosts.
    sky : (float, float)
        ADU, log-uniform.
    gain : (float, float)
        Electrons per ADU.
    read_noise : (float, float)
        Electrons.
    correlated : float
        Share of scenes whose noise alone is smoothed, as if by resampling.
    smoothing : (float, float)
        Standard deviation of the Gaussian it is smoothed by, in pixels.
    resampled : float
        Share of scenes that are turned, shifted and interpolated, light and noise alike.
    kernels : tuple of str
        What these are interpolated with.
    turn : float
        Greatest angle they are turned by, in degrees.
    vignetting, fringes, amplifiers : float
        Share of scenes that lose light towards the corners, whose sky has fringes, whose detector is read through two
        or four amplifiers with an offset, a gain and a noise of their own. (A fixed small share of all scenes has the
        first two, and a step, in its sky alone.)
    quantised : float
        Share of scenes whose numbers come in coarse steps, of 0.5 to 4 standard deviations of the noise.
    cosmic_rays, hot_pixels, bad_columns, trails : float
        Mean number on 512 x 512 px in a scene that has them.
    clean : float
        Share of scenes without any of these faults.
    bleed_rows : float
        Share of scenes where charge over saturation runs along rows, not columns.
    ignore_snr : float
        Sources fainter than this are marked `ignored`.
    ignore_prominence : float
        So are those that give a smaller share than this of the light at their own centre.
    merge : float
        A source closer than this to a brighter one, in FWHM, is part of it.
    box_scale, smallest_box : float
        The box rule: side in observed FWHM, and the least side in pixels.
    """

    size: int = Field(768, ge=32)
    sources: Range = (8, 700)
    crowding: float = Field(0.0, ge=0)
    empty: float = 0.06
    snr: Range = (1.5, 1000)
    slope: Range = (0.2, 1.2)
    bright: float = 0.7
    fwhm: Range = (1.15, 8.0)
    fourier: bool = False
    trailed: float = 0.2
    defocused: float = 0.0
    ring: Range = (1.2, 4.0)
    measured: float = 0.0
    stamps: tuple[str, ...] = ()
    galaxies: Range = (0.0, 0.5)
    galaxy_radius: Range = (0.7, 12.0)
    comets: float = 0.0
    spikes: float = 0.0
    ghosts: float = 0.0
    sky: Range = (20, 5000)
    gain: Range = (0.5, 4.0)
    read_noise: Range = (2.0, 12.0)
    correlated: float = 0.3
    smoothing: Range = Field(SMOOTHING, exclude_if=lambda limits: limits == SMOOTHING)  # younger than runs that resume
    resampled: float = 0.0
    kernels: tuple[Kernel, ...] = Field(("bilinear", "cubic", "lanczos", "drizzle"), min_length=1)
    turn: float = Field(3.0, ge=0, le=20)
    vignetting: float = 0.0
    fringes: float = 0.0
    amplifiers: float = 0.0
    quantised: float = 0.0
    cosmic_rays: float = 30
    hot_pixels: float = 60
    bad_columns: float = 0.7
    trails: float = 0.4
    clean: float = 0.25
    bleed_rows: float = 0.0
    ignore_snr: float = 3.0
    ignore_prominence: float = 0.25
    merge: float = 0.5
    box_scale: float = Field(2.5, gt=0)
    smallest_box: float = Field(4.0, gt=0)

    @property
    def area(self) -> float:
        """Of a frame, in units of 512 x 512 px."""
        return (self.size / 512) ** 2


def happens(rng: np.random.Generator, share: float) -> bool:
    """Whether something with this chance happens; what cannot happen draws no random number."""
    return share > 0 and bool(rng.random() < share)


def log_uniform(rng: np.random.Generator, limits: Range) -> float:
    """A number whose logarithm is uniform between the limits."""
    return float(np.exp(rng.uniform(*np.log(limits))))


def power_law(rng: np.random.Generator, limits: Range, slope: float, count: int) -> Floats:
    """SNR with cumulative number falling as SNR^-slope between the limits, shape (count,)."""
    low, high = (limit**-slope for limit in limits)
    return np.asarray(rng.uniform(high, low, count) ** (-1 / slope))
