"""One HDU to a plane of float32 pixels, whatever it was stored as."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from math import ceil, prod

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lynceus.detections import Floats
from lynceus.errors import FrameError, TooLargeError
from lynceus.fits_file import Hdu, number, quiet, text, value
from lynceus.reading import Limits

DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
STRIP = 1 << 18  # pixels scaled at a time, so that float64 never exists for the whole frame
MAX_TILES = 1_000_000
MAX_FIELDS = 999  # of a table, by the standard
HCOMPRESS_MAGIC = b"\xdd\x99"


@dataclass(frozen=True, eq=False)
class Plane:
    """The pixels of one HDU, scaled.

    Attributes
    ----------
    pixels : ndarray, shape (H, W), float32, C order
        Physical values; NaN for NaN, Inf, BLANK and what float32 cannot hold.
    step : float
        Step between integer values, in their physical unit; 0 for floating point data.
    header : Header
        Of the image (not of the table it may be compressed in).
    warnings : tuple of str
        What was odd.
    """

    pixels: NDArray[np.float32]
    step: float
    header: fits.Header
    warnings: tuple[str, ...] = ()


def read_pixels(hdu: Hdu, limits: Limits) -> Plane:
    """Decode and scale the pixels of an HDU that holds a 2-D image.

    Parameters
    ----------
    hdu : Hdu
        Its `plane_axes` must not be None.
    limits : Limits
        `pixels` is checked before anything is allocated.

    Returns
    -------
    Plane
        Axes of length 1 removed.

    Raises
    ------
    TooLargeError
        If it has more pixels than the limit.
    FrameError
        If the HDU is truncated or its compressed tiles are damaged.
    """
    shape = hdu.plane_shape
    if hdu.fault or shape is None:
        raise FrameError(hdu.describe())
    if prod(shape) > limits.pixels:
        raise TooLargeError(f"HDU {hdu.index} has {prod(shape)} pixels; the limit is {limits.pixels}")
    stored, header = _decompressed(hdu) if hdu.compressed else (_stored(hdu), hdu.header)
    forget = None if hdu.compressed else hdu.forget
    scale, zero, warnings = _scaling(header)
    integer = stored.dtype.kind in "iu"
    blank = value(header, "BLANK") if integer else None
    pixels = _scaled(stored.reshape(shape), scale, zero, blank if isinstance(blank, int) else None, forget)
    return Plane(pixels, abs(scale) if integer else 0.0, header, warnings)


def _stored(hdu: Hdu) -> NDArray[np.generic]:
    """The pixels as they lie in the file: a view, not a copy."""
    dtype = np.dtype(DTYPES[value(hdu.header, "BITPIX")])
    return np.frombuffer(hdu.file, dtype, prod(hdu.shape), hdu.data_start).reshape(hdu.shape)


def _scaling(header: fits.Header) -> tuple[float, float, tuple[str, ...]]:
    """BSCALE and BZERO, and a warning where they are not usable."""
    scale, zero = number(header, "BSCALE"), number(header, "BZERO")
    unusable = [key for key, found in (("BSCALE", scale or None), ("BZERO", zero)) if found is None and key in header]
    warnings = tuple(f"{key} in the header is not usable and was left out" for key in unusable)
    return scale or 1.0, zero or 0.0, warnings


def _scaled(
    stored: NDArray[np.generic],
    scale: float,
    zero: float,
    blank: int | None,
    forget: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Apply `stored * scale + zero` precisely, strip by strip, with NaN for whatever is not a value.

    `forget` is told from which byte to which a strip was stored, when it is not needed any more.
    """
    height, width = stored.shape
    line = width * stored.itemsize
    pixels = np.empty((height, width), np.float32)
    rows = max(1, STRIP // width)
    plain = stored.dtype.kind == "f" and (scale, zero) == (1, 0)
    with np.errstate(all="ignore"):
        for top in range(0, height, rows):
            strip, part = stored[top : top + rows], pixels[top : top + rows]
            part[...] = strip if plain else _values(strip, scale, zero, blank)
            part[~np.isfinite(part)] = np.nan
            if forget is not None:
                forget(top * line, (top + len(strip)) * line)
    return pixels


def _values(strip: NDArray[np.generic], scale: float, zero: float, blank: int | None) -> Floats:
    """Scaled values of a strip (R, W), NaN for blank ones."""
    precise = np.longdouble if strip.dtype.str[1:] == "i8" else np.float64  # unsigned 64 bits have BZERO = 2**63
    values: Floats = strip.astype(precise)
    if scale != 1:
        values *= scale
    if zero != 0:
        values += zero
    if blank is not None:
        values[strip == blank] = np.nan
    return values


def _decompressed(hdu: Hdu) -> tuple[NDArray[np.generic], fits.Header]:
    """The pixels and the header of a tile-compressed image, both as they were before compression."""
    _check_tiles(hdu)
    with quiet(), fits.open(BytesIO(_alone(hdu)), do_not_scale_image_data=True) as opened:
        return opened[1].data, opened[1].header


def _alone(hdu: Hdu) -> bytes:
    """The HDU as the only extension of a file, so that no other HDU can disturb it."""
    primary = fits.PrimaryHDU().header.tostring().encode("ascii")
    header = hdu.header.tostring().encode("ascii")
    data = hdu.file[hdu.data_start : hdu.data_start + hdu.data_size]
    return b"".join([primary, header, data, bytes(hdu.end - hdu.data_start - hdu.data_size)])


def _check_tiles(hdu: Hdu) -> None:
    """Refuse a table of tiles that would make a decompressor write or allocate more than the frame needs.

    The decompressors trust what the tiles say of themselves.
    """
    damaged = FrameError(f"HDU {hdu.index} is compressed, and its table of tiles is damaged")
    if not 0 < (number(hdu.header, "TFIELDS") or 0) <= MAX_FIELDS:  # astropy takes memory for as many as it states
        raise damaged
    shapes = _tile_shapes(hdu)
    if len(shapes) != value(hdu.header, "NAXIS2") or not _settings_known(hdu.header):
        raise damaged
    algorithm = text(hdu.header, "ZCMPTYPE") or ""
    width = max(abs(int(number(hdu.header, "ZBITPIX") or 0)) // 8, 4)  # quantised floats are stored as 32 bits
    for column, tile, data in _tiles(hdu):
        pixels = prod(shapes[tile])
        if data is None or not _sound("GZIP_1" if column == "GZIP_COMPRESSED_DATA" else algorithm, data, pixels, width):
            raise damaged


def _tile_shapes(hdu: Hdu) -> list[tuple[int, ...]]:
    """The shape of every tile in the order of the table's rows."""
    axes = len(hdu.shape)
    default = [1] * (axes - 1) + [hdu.shape[-1]]
    tile = [int(number(hdu.header, f"ZTILE{axes - axis}") or default[axis]) for axis in range(axes)]
    if min(tile) < 1 or prod(ceil(n / t) for n, t in zip(hdu.shape, tile, strict=True)) > MAX_TILES:
        raise FrameError(f"HDU {hdu.index} is compressed in tiles of an impossible size")
    edges = [[min(t, n - start) for start in range(0, n, t)] for n, t in zip(hdu.shape, tile, strict=True)]
    return list(product(*edges))


def _settings_known(header: fits.Header) -> bool:
    """Whether the Rice block size and the like are among those of the standard; others loop for ever."""
    allowed = {"BLOCKSIZE": (16, 32), "BYTEPIX": (1, 2, 4, 8)}
    names = [key for key in header if key.startswith("ZNAME")]
    stated = {(text(header, key) or "").upper(): value(header, f"ZVAL{key[5:]}") for key in names}
    return all(stated[name] in known for name, known in allowed.items() if name in stated)


def _tiles(hdu: Hdu) -> Iterator[tuple[str, int, bytes | None]]:
    """Column, row and bytes of every compressed tile; None for bytes that lie outside the table's heap."""
    with quiet(), fits.open(BytesIO(_alone(hdu)), disable_image_compression=True) as opened:
        columns = opened[1].columns
        formats = {column.name: str(column.format) for column in columns}
        dtype = columns.dtype.newbyteorder(">")
    rows = np.frombuffer(hdu.file, dtype, value(hdu.header, "NAXIS2"), hdu.data_start)
    heap_start = int(number(hdu.header, "THEAP") or rows.nbytes)
    heap = memoryview(hdu.file)[hdu.data_start + heap_start : hdu.data_start + hdu.data_size]
    for name in ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"):
        if name in formats:
            item = {"B": 1, "I": 2, "J": 4}.get(formats[name].lstrip("1")[1:2], 8)
            for tile, (count, offset) in enumerate(rows[name].tolist()):
                inside = count >= 0 and offset >= 0 and offset + count * item <= len(heap)
                yield name, tile, bytes(heap[offset : offset + count * item]) if inside else None


def _sound(algorithm: str, data: bytes, pixels: int, width: int) -> bool:
    """Whether a compressed tile expands to no more than its pixels."""
    if not data:
        return True
    if algorithm.startswith("GZIP"):
        return _gzip_fits(data, pixels * width)
    if algorithm == "HCOMPRESS_1":
        sides = int.from_bytes(data[2:6], "big"), int.from_bytes(data[6:10], "big")
        return data.startswith(HCOMPRESS_MAGIC) and prod(sides) == pixels
    if algorithm == "PLIO_1":
        return _plio_length(data) * 2 <= len(data)
    return True


def _gzip_fits(data: bytes, limit: int) -> bool:
    """Whether a gzip stream is whole and expands to at most `limit` bytes."""
    stream = zlib.decompressobj(wbits=31)
    try:
        expanded = stream.decompress(data, limit + 1)
    except zlib.error:
        return False
    return stream.eof and not stream.unused_data and len(expanded) <= limit


def _plio_length(data: bytes) -> int:
    """The length, in 16-bit words, that an IRAF pixel list states of itself (V4 header, or the older one)."""
    words = np.frombuffer(data[: len(data) // 2 * 2], ">i2")
    if len(words) < 3 or (words[2] <= 0 and len(words) < 5):
        return len(data)  # too short for any header: never sound
    return int(words[2]) if words[2] > 0 else (int(words[4]) << 15) + int(words[3])
