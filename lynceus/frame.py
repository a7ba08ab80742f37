"""FITS bytes to a Frame: pixels, mask, header facts and WCS."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from lynceus.detections import Floats
from lynceus.spec import Spec


class Limits(Spec):
    """What a file may cost, checked before anything is allocated."""

    bytes: int = 2 * 1024**3
    pixels: int = 20_000 * 20_000
    header_cards: int = 20_000
    hdus: int = 1000


class Keywords(Spec):
    """The header keywords each fact is looked up under, the first present wins."""

    gain: tuple[str, ...] = ("GAIN", "EGAIN")
    read_noise: tuple[str, ...] = ("RDNOISE", "READNOIS")
    saturation: tuple[str, ...] = ("SATURATE",)
    exposure_time: tuple[str, ...] = ("EXPTIME",)
    date_obs: tuple[str, ...] = ("DATE-OBS",)
    filter: tuple[str, ...] = ("FILTER",)
    zero_point: tuple[str, ...] = ("MAGZERO",)


@dataclass(frozen=True)
class Facts:
    """What the header says of the exposure; None where it says nothing usable.

    Attributes
    ----------
    gain : float or None
        Electrons per ADU.
    read_noise : float or None
        Electrons, root mean square.
    saturation : float or None
        The level, in ADU, from which a pixel counts as saturated.
    exposure_time : float or None
        Seconds.
    date_obs : str or None
        Start of the exposure, ISO 8601, UTC.
    filter : str or None
        Name of the filter.
    zero_point : float or None
        Magnitude of a source of 1 ADU.
    """

    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None
    exposure_time: float | None = None
    date_obs: str | None = None
    filter: str | None = None
    zero_point: float | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One exposure, ready to be searched.

    Attributes
    ----------
    pixels : ndarray, shape (H, W), float32, C order
        ADU; NaN where masked (NaN, Inf, BLANK, overscan, the caller's mask), clipped at saturation.
    facts : Facts
        What the header says.
    quantum : float
        Step between two possible pixel values, in ADU; 0 where they are continuous.
    wcs : WCS or None
        Celestial, invertible, or absent.
    hdu : int
        Index of the HDU the frame came from.
    name : str
        EXTNAME of that HDU, or the empty string.
    sha256 : str
        Of the bytes the frame was read from.
    warnings : tuple of str
        What was odd and how it was handled, in the user's words.
    """

    pixels: NDArray[np.float32]
    facts: Facts = field(default_factory=Facts)
    quantum: float = 0.0
    wcs: WCS | None = None
    hdu: int = 0
    name: str = ""
    sha256: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype != np.float32 or not self.pixels.flags.c_contiguous:
            raise ValueError("pixels must be a C-ordered 2-D float32 array")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape
        return height, width

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True where a pixel has no usable value, shape (H, W)."""
        return np.isnan(self.pixels)

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """True where a pixel is saturated, shape (H, W)."""
        if self.facts.saturation is None:
            return np.zeros(self.shape, bool)
        return self.pixels >= np.float32(self.facts.saturation)


__all__ = ["Facts", "Floats", "Frame", "Keywords", "Limits", "hashlib"]
