"""FITS files that are nearly right: headers that lie, cards that are none, data that are damaged."""

import gzip
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import numpy as np
from astropy.io import fits
from hypothesis import strategies as st

from tests.fakes import fits_bytes, star_field
from tests.fuzz.words import NAMES, VALUES

BLOCK, CARD = 2880, 80


@lru_cache
def seeds() -> tuple[bytes, ...]:
    """Small sound files of every kind that is read."""
    field = star_field((32, 40), [(20, 16)])
    whole = (field * 3).astype(np.int16)
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 5.0, "CRPIX2": 5.0}
    sky |= {"CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4, "EXPTIME": 30.0, "DATE-OBS": "2026-01-01"}
    plain = fits_bytes(field, **sky)
    return (
        plain,
        fits_bytes(whole, BZERO=32768, BSCALE=1, GAIN=1.5, SATURATE=60000),
        fits_bytes(field[None]),
        fits_bytes(field, field + 1),
        gzip.compress(plain, mtime=0),
        *(_compressed(whole, kind) for kind in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1")),
        _compressed(field, "RICE_1"),
        _compressed((whole > 3100).astype(np.int16), "PLIO_1"),
    )


def _compressed(pixels: np.ndarray, kind: str) -> bytes:
    file = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, compression_type=kind)]).writeto(file)
    return file.getvalue()


def cards() -> st.SearchStrategy[bytes]:
    """80 bytes that look like a card, more or less."""
    names = st.sampled_from(NAMES) | st.text("ABZ019_- ", max_size=8)
    values = st.sampled_from(VALUES) | st.integers().map(str) | st.floats().map(str)
    written = st.builds("{:8.8}= {:>20}".format, names, values).map(lambda card: card.encode("ascii", "replace"))
    return (written | st.binary(max_size=CARD)).map(lambda card: card[:CARD].ljust(CARD))


@st.composite
def with_another_card(draw: st.DrawFn, data: bytes) -> bytes:
    """A header card replaced, added or taken away, in the first header or a later one."""
    count = max(1, len(data) // CARD)
    at = draw(st.integers(1, min(count, 40)) | st.integers(1, count)) * CARD
    taken = draw(st.sampled_from([0, CARD, CARD]))
    return data[:at] + draw(cards() | st.just(b"")) + data[at + taken :]


@st.composite
def with_another_value(draw: st.DrawFn, data: bytes) -> bytes:
    """A card that is there gets another value: the lie that limits and structure must withstand."""
    found = [at for at in range(CARD, min(len(data), 20 * BLOCK), CARD) if data[at + 8 : at + 10] == b"= "]
    if not found:
        return data
    at = draw(st.sampled_from(found))
    value = draw(st.sampled_from(VALUES) | st.integers(-(2**40), 2**40).map(str)).encode()
    return data[: at + 10] + value[:70].rjust(20).ljust(70) + data[at + CARD :]


@st.composite
def with_other_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes overwritten anywhere."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        piece = draw(
            st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0" * 4, b"\xff" * 8, b"\x7f\xf0" + b"\0" * 6])
        )
        damaged[at : at + len(piece)] = piece
    return bytes(damaged)


@st.composite
def cut_or_grown(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut short, cut out of the middle, or with a piece twice."""
    start, end = sorted(draw(st.integers(min(CARD, len(data)), len(data))) for _ in range(2))
    return draw(
        st.sampled_from([data[:end], data[:start] + data[end:], data[:end] + data[start:], data + data[start:]])
    )


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """A sound file with one to four things wrong; sometimes compressed after that, sometimes no FITS at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200).map(lambda tail: b"SIMPLE  =                    T" + tail) | st.binary())
    data = draw(st.sampled_from(seeds()))
    kinds: list[Callable[[bytes], st.SearchStrategy[bytes]]]
    kinds = [with_another_card, with_another_value, with_another_value, with_other_bytes, cut_or_grown]
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        data = draw(kind(data))
    return draw(st.sampled_from([data, data, data, gzip.compress(data, mtime=0)]))
