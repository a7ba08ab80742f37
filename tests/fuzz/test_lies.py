"""Headers that state absurd sizes: what a small file may take is bounded by what is in it, not by what it says."""

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lynceus.errors import LynceusError
from lynceus.frame import read_frames
from lynceus.reading import Limits
from lynceus.tables import read_catalogue
from tests.fuzz.mutations import BLOCK, CARD, seeds

MOST_MEMORY = 30_000_000  # bytes; the files have ten thousand, and their pixels five
LIMITS = Limits(pixels=1_000_000, bytes=20_000_000)
KEYS = ["NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "TFIELDS", "THEAP", "ZNAXIS", "ZNAXIS1", "ZNAXIS2"]
KEYS += ["ZTILE1", "ZTILE2", "ZVAL1", "ZBITPIX", "ZBLANK", "TFORM1", "TDIM1", "TZERO1", "TNULL1", "BLANK", "WCSAXES"]
KEYS += ["A_ORDER", "B_ORDER", "EXTVER", "DATASEC", "PV1_99", "CRPIX1", "CD1_1", "PS1_0", "EXTLEVEL"]
SIZES = ("3000000", "2147483648", "9" * 18, "-2147483648", "1E18")
TEXTS = ("'{0}PB({0})'", "'{0}J'", "'({0},{0})'")


def lies(key: str) -> Iterator[bytes]:
    """Every kind of sound file with one card replaced, or added before the END."""
    texts = TEXTS if key in ("TFORM1", "TDIM1", "DATASEC") else ("{0}",)
    for data in (seeds()[0], seeds()[5], seeds()[8]):
        at, taken = _place(data, key)
        for text in texts:
            for size in SIZES:
                card = f"{key:8}= {text.format(size):>20}".ljust(CARD).encode()
                end = b"" if taken else b"END".ljust(CARD)
                yield data[:at] + card + end + data[at + len(card + end) :]


def _place(data: bytes, key: str) -> tuple[int, bool]:
    """Where the last card of that name is, or else the last END, with room for another card behind it."""
    names = {at: data[at : at + 8].strip() for at in range(0, min(len(data), 20 * BLOCK), CARD)}
    there = [at for at, name in names.items() if name == key.encode()]
    ends = [at for at, name in names.items() if name == b"END"]
    return (there[-1], True) if there else (ends[-1], False)


@pytest.mark.parametrize("key", KEYS)
def test_no_size_in_a_header_takes_memory(key: str) -> None:
    tracemalloc.start()
    try:
        for data in lies(key):
            tracemalloc.reset_peak()
            for read in (lambda file: read_frames(file, limits=LIMITS), read_catalogue):
                with suppress(LynceusError):
                    read(data)
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
