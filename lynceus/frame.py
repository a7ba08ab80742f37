"""FITS bytes to a Frame: pixels, mask, header facts and WCS."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from lynceus.celestial import celestial_wcs, pixel_scale, to_icrs
from lynceus.detections import Floats
from lynceus.errors import FrameError, LynceusError, NoSuchHduError, TooLargeError
from lynceus.facts import Facts, first_text, read_facts
from lynceus.file_map import FileBytes, sha256_of
from lynceus.fits_file import Hdu, beginning, open_fits, text
from lynceus.fits_pixels import read_pixels
from lynceus.levels import clip_saturated, equalise_bayer, find_step, mask_outside, usable
from lynceus.reading import Keywords, Limits

__all__ = [
    *("MIN_SIDE", "Facts", "Frame", "Keywords", "Limits"),
    *("frame_shape", "read_frame", "read_frames", "read_plane"),
]

MIN_SIDE = 8  # pixels; nothing can be measured on less
MAX_WARNINGS = 10
DEFAULT_LIMITS = Limits()
DEFAULT_KEYWORDS = Keywords()
# Extensions that lie beside a frame and are not one, by EXTNAME or IMAGETYP.
COMPANION = re.compile(
    r"(^|[^A-Z])(\w*MASK|BPM|MSK|BADPIX\w*|DQ|ERR|ERRORS?|VAR|VARIANCE|IVAR|INVVAR|WHT|WGT|WEIGHTS?|WGTMAP|"
    r"UNCERT\w*|SIGMA|RMS|FLAGS?|SEG|SEGM|SEGMAP|SEGMENT\w*|CTX|CON|CONTEXT|D2IMARR|WCSDVARR)([^A-Z]|$)"
)


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

    Raises
    ------
    ValueError
        If `pixels` is not a C-ordered 2-D float32 array.
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

    @property
    def pixel_scale(self) -> float | None:
        """Mean side of a pixel, from the WCS matrix, in arcsec; None without WCS."""
        return None if self.wcs is None else pixel_scale(self.wcs)

    @property
    def mid_time(self) -> str | None:
        """Middle of the exposure, ISO 8601, UTC; None where it is unknown."""
        return self.facts.mid_time

    def masked(self, mask: NDArray[np.bool_]) -> "Frame":
        """Mask more pixels.

        Parameters
        ----------
        mask : ndarray, shape (H, W), bool
            True where a pixel must not be used.

        Returns
        -------
        Frame
            The same, with NaN there.

        Raises
        ------
        ValueError
            If the shapes differ.
        FrameError
            If no usable pixel is left.
        """
        if mask.shape != self.shape or mask.dtype != np.bool_:
            raise ValueError(f"the mask must be boolean with shape {self.shape}")
        pixels = self.pixels.copy()
        pixels[mask] = np.nan
        if not usable(pixels):
            raise FrameError("the mask leaves no usable pixel")
        return replace(self, pixels=pixels)

    def sky_positions(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Where on the sky pixel positions are.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            0-based pixel centres.

        Returns
        -------
        ra, dec : ndarray, shape (N,)
            ICRS degrees; NaN where there is no WCS or its projection does not reach.
        """
        if self.wcs is None:
            return np.full(np.shape(x), np.nan), np.full(np.shape(y), np.nan)
        return to_icrs(self.wcs, x, y)


def read_frame(
    data: FileBytes,
    hdu: str | int | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
    keywords: Keywords = DEFAULT_KEYWORDS,
    sha256: str | None = None,
) -> Frame:
    """Read one frame of a FITS file.

    Parameters
    ----------
    data : bytes or FileMap
        The file: plain, .gz or .bz2; images plain or tile-compressed. Of a mapped one, memory is given back as its
        pixels are read.
    hdu : str, int or None
        An index (0 is the primary HDU; also as a string), an EXTNAME in any case, or `NAME,VER`. By default the first
        HDU that holds a 2-D image, masks, weights and the like left out.
    limits : Limits
        What the file may cost.
    keywords : Keywords
        Where in the header the facts are.
    sha256 : str or None
        Of the file, where it is known already.

    Returns
    -------
    Frame
        With everything odd in its `warnings`.

    Raises
    ------
    NotFitsError
        If the bytes are not FITS.
    NoSuchHduError
        If the HDU asked for is not there or holds no 2-D image.
    TooLargeError
        If the file passes a limit.
    FrameError
        If it is damaged or holds no usable frame.
    """
    with _only_frame_errors():
        hdus = open_fits(data, limits)
        chosen = _first_frame(hdus) if hdu is None else _find(hdus, hdu)
        return _read(chosen, hdus[0], sha256 or sha256_of(data), limits, keywords)


def read_frames(
    data: FileBytes,
    *,
    limits: Limits = DEFAULT_LIMITS,
    keywords: Keywords = DEFAULT_KEYWORDS,
    sha256: str | None = None,
) -> list[Frame]:
    """Read every frame of a mosaic.

    Parameters
    ----------
    data : bytes or FileMap
        The file, as for `read_frame`.
    limits : Limits
        What the file may cost, all its frames together.
    keywords : Keywords
        Where in the headers the facts are.
    sha256 : str or None
        Of the file, where it is known already.

    Returns
    -------
    list of Frame
        At least one, in the order of the file. An HDU that cannot be read is a warning on all others.

    Raises
    ------
    LynceusError
        As `read_frame` does, if not one frame can be read.
    """
    with _only_frame_errors():
        hdus = open_fits(data, limits)
        wanted = [hdu for hdu in hdus if hdu.fault or _is_frame(hdu)]
        if not wanted:
            raise FrameError(_no_frame(hdus))
        pixels = sum(prod(hdu.shape) for hdu in wanted)
        if pixels > limits.pixels and not hdus[-1].fault:
            raise TooLargeError(f"the frames have {pixels} pixels together; the limit is {limits.pixels}")
        return _read_all(wanted, hdus[0], sha256 or sha256_of(data), limits, keywords)


def frame_shape(data: FileBytes, hdu: str | int | None = None) -> tuple[int, int] | None:
    """Height and width of the frame that `read_frame` would read, by the headers at the beginning of its file.

    Parameters
    ----------
    data : bytes or FileMap
        The file, or its first bytes.
    hdu : str, int or None
        As for `read_frame`.

    Returns
    -------
    (int, int) or None
        None where those bytes do not tell, or will not be a frame: reading all of it says why.
    """
    with suppress(Exception):
        hdus = open_fits(beginning(data), DEFAULT_LIMITS)
        return (_first_frame(hdus) if hdu is None else _named(hdus, hdu)).plane_shape
    return None


def read_plane(data: FileBytes, shape: tuple[int, int], *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.float32]:
    """Read a mask or a weight map that belongs to a frame.

    Parameters
    ----------
    data : bytes or FileMap
        A FITS file; its first 2-D image is read, whatever its name.
    shape : (int, int)
        Height and width of the frame, in pixels.
    limits : Limits
        What the file may cost.

    Returns
    -------
    ndarray, shape (H, W), float32
        NaN where it has no value.

    Raises
    ------
    FrameError
        If it cannot be read, or its shape is not the frame's.
    """
    with _only_frame_errors():
        hdus = open_fits(data, limits)
        hdu = next((hdu for hdu in hdus if hdu.fault or hdu.plane_shape), None)
        if hdu is None:
            raise FrameError(_no_frame(hdus))
        if not hdu.fault and hdu.plane_shape != shape:
            height, width = hdu.plane_shape or (0, 0)
            raise FrameError(f"the mask or weight is {height} x {width}; the frame is {shape[0]} x {shape[1]}")
        return read_pixels(hdu, limits).pixels


@contextmanager
def _only_frame_errors() -> Iterator[None]:
    """Turn whatever the parsers stumble over into a FrameError that shows nothing of our inside."""
    try:
        with np.errstate(all="ignore"):  # absurd pixel values overflow, and come out as NaN
            yield
    except LynceusError:
        raise
    except Exception as error:
        raise FrameError(f"the file is damaged and cannot be read ({type(error).__name__})") from error


def _is_frame(hdu: Hdu) -> bool:
    """Whether it is a 2-D image, and not the mask or weight of one."""
    names = hdu.name, text(hdu.header, "IMAGETYP") or ""
    return hdu.plane_shape is not None and not any(COMPANION.search(name.upper()) for name in names)


def _first_frame(hdus: list[Hdu]) -> Hdu:
    """The HDU that is meant where none is named."""
    for hdu in hdus:
        if hdu.fault or _is_frame(hdu):
            return hdu
    raise FrameError(_no_frame(hdus))


def _no_frame(hdus: list[Hdu]) -> str:
    """Say what a file holds in which there is no frame."""
    held = [hdu.describe() for hdu in hdus[:5]] + (["..."] if len(hdus) > 5 else [])
    named = " (masks and weights only if named)" if any(hdu.plane_shape for hdu in hdus) else ""
    return f"the file holds no frame: {', '.join(held)}; only 2-D frames are searched{named}"


def _find(hdus: list[Hdu], wanted: str | int) -> Hdu:
    """Find a frame by index, EXTNAME, or EXTNAME and EXTVER."""
    found = _named(hdus, wanted)
    if found.fault:
        raise FrameError(found.describe())
    if found.plane_shape is None:
        raise NoSuchHduError(f"{found.describe()}; only 2-D frames are searched")
    return found


def _named(hdus: list[Hdu], wanted: str | int) -> Hdu:
    """Find an HDU, whatever it holds."""
    name = str(wanted).strip()
    digits = name.isascii() and name.isdecimal() and len(name) < 10
    for hdu in hdus:
        if hdu.index == int(name) if digits else _is_called(hdu, name):
            return hdu
    cut = f"; {hdus[-1].describe()}" if hdus[-1].fault else ""
    raise NoSuchHduError(f"there is no HDU {name[:70]!r} in the file, which has {len(hdus)}{cut}")


def _is_called(hdu: Hdu, name: str) -> bool:
    """Whether an HDU goes by `NAME` or `NAME,VER`, in any case."""
    own = {hdu.name.upper(), f"{hdu.name.upper()},{hdu.version}"}
    return bool(name) and name.upper().replace(", ", ",") in (own | {"PRIMARY"} if hdu.index == 0 else own)


def _read_all(wanted: list[Hdu], primary: Hdu, sha256: str, limits: Limits, keywords: Keywords) -> list[Frame]:
    """Read what can be read, and tell the frames of what cannot."""
    frames: list[Frame] = []
    errors: list[LynceusError] = []
    for hdu in wanted:
        try:
            with _only_frame_errors():
                frames.append(_read(hdu, primary, sha256, limits, keywords))
        except LynceusError as error:
            errors.append(error)
    if not frames:
        raise errors[0]
    others = [f"another frame of the file was left out: {error}" for error in errors]
    return [replace(frame, warnings=_bounded([*frame.warnings, *others])) for frame in frames]


def _read(hdu: Hdu, primary: Hdu, sha256: str, limits: Limits, keywords: Keywords) -> Frame:
    """Read one HDU: pixels, then what the header says of them, then the sky."""
    _check_size(hdu)
    plane = read_pixels(hdu, limits)
    pixels, header, warnings = plane.pixels, plane.header, list(plane.warnings)
    headers = (header, primary.header)
    facts = read_facts(headers, keywords)
    warnings += mask_outside(pixels, first_text((header,), keywords.data_section))
    if not usable(pixels):
        raise FrameError(f"HDU {hdu.index} has no usable pixel: all are NaN, infinite, blank or outside DATASEC")
    step = plane.step or find_step(pixels)
    level, found = clip_saturated(pixels, facts.saturation, step)
    level, step, equalised = equalise_bayer(pixels, first_text(headers, keywords.bayer_pattern), level, step)
    wcs, unusable = celestial_wcs(hdu, header)
    return Frame(
        pixels,
        facts=replace(facts, saturation=level),
        quantum=step,
        wcs=wcs,
        hdu=hdu.index,
        name=hdu.name,
        sha256=sha256,
        warnings=_bounded([*warnings, *found, *equalised, unusable]),
    )


def _check_size(hdu: Hdu) -> None:
    """Refuse an HDU that is broken, or too small for anything to be measured on it."""
    height, width = hdu.plane_shape or (0, 0)
    if hdu.fault:
        raise FrameError(hdu.describe())
    if min(height, width) < MIN_SIDE:
        raise FrameError(
            f"HDU {hdu.index} is too small ({height} x {width}); a frame has at least {MIN_SIDE} pixels a side"
        )


def _bounded(warnings: list[str]) -> tuple[str, ...]:
    """Keep the warnings short and few."""
    unique = dict.fromkeys(warning[:200] for warning in warnings if warning)
    return tuple(unique)[:MAX_WARNINGS]
