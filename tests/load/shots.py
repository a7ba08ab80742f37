"""What the load is made of: frames of several sizes and kinds, files that are none, and clients that hang up."""

import gzip
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from math import ceil
from typing import Literal

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tests.fakes import star_field

Priority = Literal["live", "backfill"]
NONCE = b"NONCE   = '" + b"0" * 16
NASTY_SHARE, GONE_SHARE = 0.06, 0.04
FORMATS = ("json", "json", "votable", "fits", "csv", "ecsv")
LATEST_HANG_UP = 0.5  # seconds


@dataclass(frozen=True)
class Shot:
    """A request, and what may be answered."""

    kind: str
    body: bytes
    query: dict[str, str]
    tiles: int = 0
    expected: frozenset[int] = frozenset({200})
    hangs_up_after: float | None = None

    @property
    def priority(self) -> str:
        """Live or backfill."""
        return self.query["priority"]

    @property
    def sha256(self) -> str:
        """Of the body, as the answer has it."""
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Frame:
    """A file of which every copy is like no other, though it shows the same: the same one twice is answered once."""

    kind: str
    data: bytes
    tiles: int

    def copy(self, number: int) -> bytes:
        """The file with another nonce: in a card, or where gzip keeps a date."""
        if self.kind.endswith("gz"):
            return self.data[:4] + number.to_bytes(4, "little") + self.data[8:]
        return self.data.replace(NONCE, NONCE[:11] + b"%016d" % number, 1)


@dataclass
class Magazine:
    """An endless supply of requests, the same in every run.

    Attributes
    ----------
    frames : sequence of Frame
        Drawn from.
    deadlines : dict
        Seconds, by priority.
    nasty : bool
        Whether files that are no frames, and clients that hang up, are among them.
    mix : dict or None
        How often frames of so many tiles are drawn; by default the small ones more often.
    """

    frames: list[Frame]
    deadlines: dict[Priority, float]
    nasty: bool = True
    seed: int = 0
    mix: Mapping[int, int] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._weights = [self.mix.get(one.tiles, 0) if self.mix else 1 / one.tiles**0.5 for one in self.frames]

    def shot(self, priority: Priority, deadline: float | None = None) -> Shot:
        """The next request."""
        draw = self._random.random() if self.nasty else 1.0
        query = {"priority": priority, "deadline": f"{deadline or self.deadlines[priority]:g}"}
        if draw < NASTY_SHARE:
            name, (body, status) = self._random.choice(list(NASTY.items()))
            return Shot(name, body, query, expected=frozenset({status}))
        [frame] = self._random.choices(self.frames, self._weights)
        query["format"] = self._random.choice(FORMATS)
        hangs_up = self._random.uniform(0, LATEST_HANG_UP) if draw < NASTY_SHARE + GONE_SHARE else None
        return Shot(frame.kind, frame.copy(next(self._numbers)), query, frame.tiles, hangs_up_after=hangs_up)

    @property
    def mean_tiles(self) -> float:
        """Of a request."""
        share = 1 - NASTY_SHARE - GONE_SHARE if self.nasty else 1.0
        return share * float(np.average([frame.tiles for frame in self.frames], weights=self._weights))


def mixed_frames(tile: int, overlap: int, sides: tuple[int, ...]) -> list[Frame]:
    """Frames of these sides, each as floats, as 16-bit integers, and compressed in two ways."""
    frames = []
    for side in sides:
        pixels = crowded(side)
        across = max(1, ceil((side - overlap) / (tile - overlap)))
        frames += [Frame(f"{side} px {name}", write(pixels), across**2) for name, write in WRITERS.items()]
    return frames


def crowded(side: int) -> NDArray[np.float32]:
    """A frame with a star on some five thousand pixels."""
    rng = np.random.default_rng(side)
    stamp = star_field((41, 41), [(20, 20)])
    pixels = rng.normal(1000, 10, (side, side)).astype(np.float32)
    for row, column in rng.integers(0, max(side - 41, 1), (max(side**2 // 5000, 1), 2)):
        pixels[row : row + 41, column : column + 41] += stamp[: side - row, : side - column] - 1000
    return pixels


def _floats(pixels: NDArray[np.float32]) -> bytes:
    return _file(fits.PrimaryHDU(pixels))


def _integers(pixels: NDArray[np.float32]) -> bytes:
    return _file(fits.PrimaryHDU(pixels.clip(0, 65535).astype(np.uint16)))


def _gzipped(pixels: NDArray[np.float32]) -> bytes:
    return gzip.compress(_integers(pixels), 1)


def _rice(pixels: NDArray[np.float32]) -> bytes:
    hdu = fits.CompImageHDU(pixels.clip(0, 32767).astype(np.int16), compression_type="RICE_1")
    return _file(fits.PrimaryHDU(), hdu)


WRITERS: dict[str, Callable[[NDArray[np.float32]], bytes]] = {
    "float32": _floats,
    "uint16": _integers,
    "uint16.gz": _gzipped,
    "RICE": _rice,
}


def _file(*hdus: fits.PrimaryHDU | fits.CompImageHDU) -> bytes:
    hdus[0].header["NONCE"] = "0" * 16
    file = BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def _table() -> bytes:
    return _file(fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "D", array=np.zeros(9))]))


NASTY: dict[str, tuple[bytes, int]] = {
    "not FITS": (b"\x89PNG\r\n" + bytes(5000), 415),
    "nothing": (b"", 415),
    "a header that ends": (b"SIMPLE  =                    T" + b" " * 1000, 422),
    "a table": (_table(), 422),
    "cut short": (_floats(np.zeros((64, 64), np.float32))[:9000], 422),
}
"""Files that hold no frame, and the status each must get."""
