"""FITS bytes to HDUs: decompression, structure and limits, before any pixel is read.

The structure is read from the headers alone, so that every limit is checked, and every lie about
sizes found out, before anything is allocated for the data.
"""

import bz2
import gzip
import re
import threading
import warnings
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any, BinaryIO

import astropy
from astropy.io import fits

from lynceus.errors import FrameError, NotFitsError, TooLargeError
from lynceus.file_map import FileBytes, forget
from lynceus.reading import Limits

BLOCK = 2880
CARD = 80
BITPIX = (8, 16, 32, 64, -32, -64)
CHUNK = 1 << 20  # bytes decompressed at a time
BEGINNING = 1 << 17  # bytes in which the headers are looked for

SIMPLE = re.compile(rb"SIMPLE *= *[TF]")
GZIP = b"\x1f\x8b"
BZIP2 = b"BZh"
OTHER_FORMATS = {
    b"\x1f\x9d": "the file is compressed with compress (.Z), which is not supported; send it plain, .gz or .bz2",
    b"\xfd7zXZ": "the file is compressed with xz, which is not supported; send it plain, .gz or .bz2",
    b"\x28\xb5\x2f\xfd": "the file is compressed with zstd, which is not supported; send it plain, .gz or .bz2",
    b"PK": "the file is a zip archive, which is not supported; send the frame itself",
    b"#ASDF": "the file is ASDF, not FITS",
}
# Header text is made plain ASCII: anything else is against the standard and upsets the parsers.
PRINTABLE = bytes(byte if 32 <= byte < 127 else ord(" " if byte < 32 else "?") for byte in range(256))

# warnings.catch_warnings swaps global state, and frames are decoded in several threads.
_quiet_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class Hdu:
    """One header and where its data lie; nothing of the data has been read.

    Attributes
    ----------
    index : int
        0 is the primary HDU.
    header : Header
        As in the file (of the table, where an image is tile-compressed), in plain ASCII.
    file : bytes or FileMap
        The whole file, decompressed.
    start, data_start, data_size : int
        Offset of the header and of the data, and size of the data, in bytes.
    kind : str
        `image`, `table`, `groups`, or the unknown extension's type.
    shape : tuple of int
        Axes of the image, slowest first; empty for anything else.
    fault : str
        Why nothing can be read from it, as the end of a sentence; empty if it is sound.
    """

    index: int
    header: fits.Header
    file: FileBytes
    start: int
    data_start: int = 0
    data_size: int = 0
    kind: str = "image"
    shape: tuple[int, ...] = ()
    fault: str = ""

    @property
    def end(self) -> int:
        """Offset of the next HDU, in bytes."""
        return self.data_start + blocks(self.data_size)

    @property
    def name(self) -> str:
        """EXTNAME, or the empty string."""
        return text(self.header, "EXTNAME") or ""

    @property
    def version(self) -> int:
        """EXTVER, 1 where there is none."""
        return int(number(self.header, "EXTVER") or 1)

    @property
    def compressed(self) -> bool:
        """Whether it is an image stored as a table of compressed tiles."""
        return value(self.header, "ZIMAGE") is True

    @property
    def plane_axes(self) -> tuple[int, int] | None:
        """The two axes of `shape` that span the frame, others having length 1; None if it is not a frame."""
        axes = list(range(len(self.shape)))
        for axis, length in enumerate(self.shape):
            if length == 1 and len(axes) > 2:
                axes.remove(axis)
        return (axes[0], axes[1]) if len(axes) == 2 and 0 not in self.shape else None

    @property
    def plane_shape(self) -> tuple[int, int] | None:
        """Height and width of the frame in pixels; None if it is not a frame."""
        axes = self.plane_axes
        return axes and (self.shape[axes[0]], self.shape[axes[1]])

    def forget(self, first: int, last: int) -> None:
        """Give back the memory of its data from byte `first` to before `last`, where the file is mapped."""
        forget(self.file, self.data_start + first, self.data_start + last)

    def describe(self) -> str:
        """Say what it holds, as a sentence without its full stop."""
        size = " x ".join(str(length) for length in self.shape)
        if self.fault:
            what = self.fault
        elif self.kind != "image":
            what = {"table": "is a table", "groups": "holds random groups"}.get(self.kind, f"is a {self.kind!r}")
        elif not self.shape:
            what = "has no data"
        elif 0 in self.shape:
            what = f"is empty ({size})"
        elif self.plane_shape:
            what = f"is an image of {size}" + (f" named {self.name[:20]!r}" if self.name else "")
        else:
            what = f"is one row of {size} values" if len(self.shape) == 1 else f"is a cube of {size}"
        return f"HDU {self.index} {what}"


def open_fits(data: FileBytes, limits: Limits) -> list[Hdu]:
    """Find the HDUs of a FITS file.

    Parameters
    ----------
    data : bytes or FileMap
        The file: plain, .gz or .bz2.
    limits : Limits
        What it may cost.

    Returns
    -------
    list of Hdu
        At least one. Behind an HDU with a fault nothing can be found, so that it is the last.

    Raises
    ------
    NotFitsError
        If the file is not FITS.
    TooLargeError
        If it passes one of the limits.
    FrameError
        If its compression is damaged.
    """
    if len(data) > limits.bytes:
        raise TooLargeError(f"the file has {len(data)} bytes; the limit is {limits.bytes}")
    plain = _decompress(data, limits.bytes)
    if not SIMPLE.match(plain):
        raise NotFitsError(_what_else(plain))
    hdus: list[Hdu] = []
    position = cards = 0
    while plain[position : position + 8].startswith(b"XTENSION" if hdus else b"SIMPLE"):
        if len(hdus) == limits.hdus:
            raise TooLargeError(f"the file has more than {limits.hdus} HDUs")
        hdu = _read_hdu(plain, position, len(hdus), limits.header_cards - cards)
        hdus.append(hdu)
        if hdu.fault:
            break
        position, cards = hdu.end, cards + (hdu.data_start - hdu.start) // CARD
    return hdus


def beginning(data: FileBytes) -> FileBytes:
    """A file as it is; of a .gz what its first bytes expand to, where the headers most often are; of a .bz2 nothing."""
    if data[: len(BZIP2)] == BZIP2:
        return b""  # its blocks are large, and slow
    if data[: len(GZIP)] != GZIP:
        return data
    return zlib.decompressobj(wbits=31).decompress(data[:BEGINNING], BEGINNING)


def blocks(size: int) -> int:
    """Round a size up to whole FITS blocks, in bytes."""
    return -(-size // BLOCK) * BLOCK


def value(header: fits.Header, key: str) -> Any:
    """Look a keyword up; None where it is absent, empty or cannot be parsed."""
    try:
        found = header[key]
    except Exception:  # a hostile card fails in many ways, and each means the same
        return None
    return None if isinstance(found, fits.card.Undefined) else found


def number(header: fits.Header, key: str) -> float | None:
    """Look a number up, also one written as a string; None where there is no finite one."""
    found = value(header, key)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        result = float(found)
    except (ValueError, OverflowError):
        return None
    return result if abs(result) < float("inf") else None  # also false for NaN


def text(header: fits.Header, key: str) -> str | None:
    """Look a string up; None where it is absent or blank. Numbers are spelled out."""
    found = value(header, key)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    return str(found).strip() or None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep astropy's warnings and messages from the terminal; what matters is said in our own words."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = astropy.log.level
        astropy.log.setLevel("ERROR")
        try:
            yield
        finally:
            astropy.log.setLevel(level)


def _decompress(data: FileBytes, limit: int) -> FileBytes:
    """Undo .gz or .bz2, stopping as soon as the limit on bytes is passed."""
    if data[: len(GZIP)] == GZIP:
        return _inflate(gzip.GzipFile(fileobj=BytesIO(data)), limit)
    if data[: len(BZIP2)] == BZIP2:
        return _inflate(bz2.BZ2File(BytesIO(data)), limit)
    return data


def _inflate(stream: BinaryIO | gzip.GzipFile | bz2.BZ2File, limit: int) -> bytes:
    """Read a stream that decompresses as it is read."""
    plain = BytesIO()
    try:
        while part := stream.read(CHUNK):
            plain.write(part)
            if plain.tell() > limit:
                raise TooLargeError(f"the file decompresses to more than {limit} bytes, the limit")
    except EOFError:
        raise FrameError("the compressed file is cut short") from None
    except (OSError, zlib.error):
        raise FrameError("the compressed file is damaged and cannot be decompressed") from None
    return plain.getvalue()


def _what_else(data: FileBytes) -> str:
    """Say what a file is that is not FITS."""
    if not data:
        return "the file is empty"
    head = data[:BLOCK]
    if head.startswith((GZIP, BZIP2)):
        return "the file is compressed twice"
    for magic, message in OTHER_FORMATS.items():
        if head.startswith(magic):
            return message
    return "the file is not FITS: it does not begin with a SIMPLE card"


def _read_hdu(file: FileBytes, start: int, index: int, cards_left: int) -> Hdu:
    """Read one header; what is wrong with it becomes the HDU's fault."""
    end = _header_end(file, start, cards_left)
    if end is None:
        return Hdu(index, fits.Header(), file, start, fault="has a header without END card: the file is cut short")
    plain = file[start:end].translate(PRINTABLE).decode("ascii")
    with quiet():
        header = fits.Header.fromstring(plain)
        try:
            kind, shape, size = _structure(header)
        except FrameError as error:
            return Hdu(index, header, file, start, end, fault=str(error))
    missing = size - max(0, len(file) - end)
    fault = f"is truncated: {missing} of its {size} bytes of data are missing" if missing > 0 else ""
    return Hdu(index, header, file, start, end, size, kind, shape, fault)


def _header_end(file: FileBytes, start: int, cards_left: int) -> int | None:
    """Offset of the first block behind the END card; None where there is no END card."""
    for card, position in enumerate(range(start, len(file), CARD)):
        if card == cards_left:
            raise TooLargeError("the headers pass the limit on the number of cards")
        if file[position : position + 8].rstrip(b" \0") == b"END":
            return start + blocks(position + CARD - start)
    return None


def _structure(header: fits.Header) -> tuple[str, tuple[int, ...], int]:
    """What kind of HDU it is, the shape of its image and the size of its data in bytes."""
    if value(header, "SIMPLE") is False:
        raise FrameError("says SIMPLE = F: it does not follow the FITS standard")
    axes = _axes(header, "")
    bitpix = _count(header, "BITPIX", BITPIX)
    elements = prod(axes) if axes else 0
    kind = {"IMAGE": "image", "BINTABLE": "table", "TABLE": "table"}
    extension = text(header, "XTENSION")
    name = "image" if extension is None else kind.get(extension, extension[:20])
    if axes and axes[-1] == 0 and value(header, "GROUPS") is True:
        name, elements = "groups", prod(axes[:-1])
    extra = _count(header, "PCOUNT", default=0)
    size = abs(bitpix) // 8 * _count(header, "GCOUNT", default=1) * (extra + elements)
    if name == "table" and value(header, "ZIMAGE") is True:
        return "image", _axes(header, "Z"), size
    return name, axes if name == "image" else (), size


def _axes(header: fits.Header, prefix: str) -> tuple[int, ...]:
    """The lengths of the axes, slowest first."""
    count = _count(header, f"{prefix}NAXIS", range(1000))
    return tuple(_count(header, f"{prefix}NAXIS{axis}") for axis in range(count, 0, -1))


def _count(header: fits.Header, key: str, allowed: Container[int] | None = None, default: int | None = None) -> int:
    """Look up a whole number that the structure of the file depends on."""
    found = value(header, key) if key in header or default is None else default
    whole = isinstance(found, int) and not isinstance(found, bool)
    if whole and (found >= 0 if allowed is None else found in allowed):
        return int(found)
    stated = "no" if found is None else "an impossible"
    raise FrameError(f"has {stated} {key} in its header")
