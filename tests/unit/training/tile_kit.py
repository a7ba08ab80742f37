"""Small data sets for tests: star fields with their catalogues, in the layout that curation writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

SKY, NOISE = 1000.0, 10.0  # ADU
FWHM = 4.0  # pixels
COLUMNS = ("X_IMAGE", "Y_IMAGE", "FWHM_IMAGE", "FLAGS", "MAG_AUTO", "CLASS_STAR")


def star_field(positions: np.ndarray, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Pixels (H, W) with a star at each of the positions (N, 2), 0-based centres."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(SKY, NOISE, shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for x, y in positions:
        pixels += 500 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (FWHM / 2.3548) ** 2))
    return pixels.astype(np.float32)


def write_exposure(
    archive: Path,
    key: str,
    positions: np.ndarray,
    shape: tuple[int, int] = (160, 160),
    flags: Sequence[int] | None = None,
    stars: Sequence[float] | None = None,
) -> None:
    """Write a frame and its catalogue, in the layout of Joan Oro."""
    archive.mkdir(parents=True, exist_ok=True)
    seed = sum(key.encode())
    fits.PrimaryHDU(star_field(positions, shape, seed)).writeto(archive / f"{key}_U_imc.fits.gz", overwrite=True)
    head = "".join(f"# {number:3d} {name}\n" for number, name in enumerate(COLUMNS, start=1))
    count = len(positions)
    values = zip(positions, flags or [0] * count, stars or [1.0] * count, strict=True)
    rows = [f"{x + 1:.4f} {y + 1:.4f} {FWHM} {flag} 15.0 {star}\n" for (x, y), flag, star in values]
    (archive / f"{key}_U_imc_trl.dat").write_text(head + "".join(rows))


def write_dataset(folder: Path, archive: Path, fields: dict[str, str], labels: dict[str, str] | None = None) -> Path:
    """Write the table of a data set of these keys; each has a field."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(fields)
    told = labels or {}
    table = Table(
        {
            "key": keys,
            "frame": [f"{key}_U_imc.fits.gz" for key in keys],
            "catalogue": [f"{key}_U_imc_trl.dat" for key in keys],
            "state": ["kept"] * len(keys),
            "labels": [told.get(key, "OK") for key in keys],
            "field": list(fields.values()),
        },
        meta={"archive": str(archive.resolve())},
    )
    table.write(folder / "frames.ecsv", format="ascii.ecsv", overwrite=True)
    return folder


def small_dataset(folder: Path, frames: int = 6, per_field: int = 2, shape: tuple[int, int] = (160, 160)) -> Path:
    """A data set of star fields, some stars of each flagged; one frame in six shows none."""
    keys = {f"night{number}": f"field{number // per_field}" for number in range(frames)}
    for key in keys:
        positions, flags = sources_of(key, shape)
        write_exposure(folder / "archive", key, positions, shape, flags)
    return write_dataset(folder / "dataset", folder / "archive", keys)


def sources_of(key: str, shape: tuple[int, int] = (160, 160)) -> tuple[np.ndarray, list[int]]:
    """Positions (N, 2) and FLAGS of the sources on a frame of `small_dataset`."""
    number = int(key.removeprefix("night"))
    count = 0 if number % 6 == 5 else 9
    positions = np.random.default_rng(number).uniform(8, np.array(shape[::-1]) - 8, (count, 2))
    return positions, ([0, 0, 16] * 3)[:count]
