"""A small archive of star fields for the tests of curation, quick to draw and with everything known."""

import gzip
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

SIDE = 192
SCALE = 0.5 / 3600  # degrees a pixel
SIGMA = 1.6  # of the stars, in pixels


@dataclass(frozen=True)
class Field:
    """Stars on the sky: their places in pixels from the middle, and their peaks in ADU."""

    ra: float
    dec: float
    target: str
    places: np.ndarray
    peaks: np.ndarray


def star_field(seed: int, stars: int = 60) -> Field:
    """A field that no other seed's overlaps."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-SIDE, SIDE, (stars * 4, 2))
    peaks = np.exp(rng.uniform(np.log(60), np.log(3000), len(places)))
    return Field(10.0 + 7 * seed, 5.0, f"FIELD{seed}", places, peaks)


def sky(seed: int, level: float = 400.0, noise: float = 6.0) -> np.ndarray:
    """A flat sky, (SIDE, SIDE), in ADU."""
    return np.random.default_rng([9, seed]).normal(level, noise, (SIDE, SIDE))


def gaussian(x: float, y: float, sigma: float = SIGMA, ratio: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """A source of height 1 at a 0-based position."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    return np.exp(-(along**2 + (across / ratio) ** 2) / (2 * sigma**2))


def exposure(field: Field, dither: tuple[float, float] = (0, 0), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and the 0-based positions of the stars on them."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = sky(seed)
    positions = field.places + (SIDE - 1) / 2 + np.array(dither)
    inside = ((positions > 3) & (positions < SIDE - 4)).all(axis=1)
    for (x, y), peak in zip(positions[inside], field.peaks[inside], strict=True):
        pixels += peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * SIGMA**2))
    return pixels, positions[inside]


def header(field: Field, dither: tuple[float, float] = (0, 0), minute: int = 0, **cards: object) -> fits.Header:
    """Of an exposure, with a celestial WCS."""
    x, y = ((SIDE - 1) / 2 + 1 + shift for shift in dither)
    told = {
        "OBJECT": field.target, "DATE-OBS": f"2024-03-01T{minute // 60:02d}:{minute % 60:02d}:00", "FILTER": "R",
        "EXPTIME": 60.0, "INSTRUME": "CCD", "GAIN": 1.5, "SATURATE": 60000.0, "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN", "CRPIX1": x, "CRPIX2": y, "CRVAL1": field.ra, "CRVAL2": field.dec, "CD1_1": -SCALE,
        "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE,
    }  # fmt: skip
    return fits.Header([(key, value) for key, value in {**told, **cards}.items() if value is not None])


def write_frame(path: Path, pixels: np.ndarray, cards: fits.Header) -> None:
    """As FITS, packed if the name says so."""
    file = BytesIO()
    fits.PrimaryHDU(pixels.astype(np.float32), cards).writeto(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(file.getvalue(), 1) if path.suffix == ".gz" else file.getvalue())


def write_catalogue(path: Path, positions: np.ndarray) -> None:
    """As SExtractor's ASCII_HEAD, positions counted from 1."""
    names = ("X_IMAGE", "Y_IMAGE", "FWHM_IMAGE", "FLAGS")
    lines = [f"#{index:4d} {name}" for index, name in enumerate(names, start=1)]
    lines += [f"{x + 1:.3f} {y + 1:.3f} {2.355 * SIGMA:.2f} 0" for x, y in positions]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_pair(folder: Path, key: str, field: Field, dither: tuple[float, float] = (0, 0), minute: int = 0) -> None:
    """A frame and its catalogue, as the Joan Oro telescope names them."""
    pixels, positions = exposure(field, dither, minute)
    write_frame(folder / f"{key}_U_imc.fits.gz", pixels, header(field, dither, minute))
    write_catalogue(folder / f"{key}_U_imc_trl.dat", positions)


def by_key(table: Table) -> dict[str, Table.Row]:
    """Rows of a data set's table by their key."""
    return {str(row["key"]): row for row in table}
