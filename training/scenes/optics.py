"""Point spread functions: what the atmosphere, the mirror and the tracking make of a point."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from training.errors import TrainingError
from training.scenes.ranges import SceneSpec, happens, log_uniform

HOLE = (0.25, 0.5)  # radius of the shadow in the middle of a ring, over its outer one


@dataclass(frozen=True)
class Optics:
    """A point spread function of unit flux, in pixels.

    Attributes
    ----------
    profile : GSObject
        Before it meets the pixels, unless `pixelised`.
    pixelised : bool
        Whether it is what pixels saw already: a measured one.
    ring : bool
        Whether it is darker in its middle than around it.
    """

    profile: galsim.GSObject
    pixelised: bool = False
    ring: bool = False

    @property
    def method(self) -> str:
        """How GalSim is to draw it."""
        return "no_pixel" if self.pixelised else "auto"

    def through(self, profile: galsim.GSObject) -> "Optics":
        """What becomes of a profile seen through these optics."""
        return Optics(galsim.Convolve(self.profile, profile), self.pixelised)


def draw_psf(rng: np.random.Generator, spec: SceneSpec) -> Optics:
    """Draw a point spread function.

    Raises
    ------
    TrainingError
        If a measured one is drawn and its file cannot be used.
    """
    if spec.stamps and happens(rng, spec.measured):
        return measured_optics(read_stamp(Path(spec.stamps[rng.integers(len(spec.stamps))])))
    fwhm = log_uniform(rng, spec.fwhm)
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
    if happens(rng, spec.defocused):
        outer = fwhm * rng.uniform(*spec.ring)
        ring = galsim.Convolve(psf, annulus(outer, outer * rng.uniform(*HOLE)))
        return Optics(_on_pixels(ring), pixelised=True, ring=True) if spec.fourier else Optics(ring, ring=True)
    return Optics(_on_pixels(psf), pixelised=True) if spec.fourier else Optics(psf)


def _on_pixels(profile: galsim.GSObject) -> galsim.GSObject:
    """A profile as pixels see it, never integrated in real space, which is what GalSim would do where it has an end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", galsim.GalSimWarning)
        return galsim.Convolve(profile, galsim.Pixel(1.0), real_space=False)


def annulus(outer: float, inner: float) -> galsim.GSObject:
    """A uniform ring of unit flux between two radii, in pixels."""
    disc, hole = galsim.TopHat(outer, flux=outer**2), galsim.TopHat(inner, flux=-(inner**2))
    return (disc + hole) / (outer**2 - inner**2)


def measured_optics(stamp: NDArray[np.floating]) -> Optics:
    """A point spread function as it was measured on a frame.

    Parameters
    ----------
    stamp : ndarray, shape (S, S)
        A star on no sky, centred on the middle pixel; its own pixels have blurred it, and blur it no further.

    Raises
    ------
    TrainingError
        If it is not square, not finite, or has no light.
    """
    side = len(stamp)
    if stamp.shape != (side, side) or side < 5 or not np.isfinite(stamp).all() or stamp.sum() <= 0:
        raise TrainingError("a measured point spread function is a square of at least 5 x 5 finite values with light")
    star = galsim.Image(np.ascontiguousarray(stamp / stamp.sum(), np.float64), scale=1.0)
    return Optics(galsim.InterpolatedImage(star, x_interpolant="lanczos5", flux=1.0), pixelised=True)


def read_stamp(path: Path) -> NDArray[np.float64]:
    """Read a measured point spread function, (S, S), from FITS or .npy.

    Raises
    ------
    TrainingError
        If the file is absent or holds none.
    """
    try:
        stamp = np.load(path, allow_pickle=False) if path.suffix == ".npy" else fits.getdata(path)
        return np.asarray(stamp, np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} holds no point spread function: {error}") from None
