"""Frames to time: the same in every run, drawn once and kept in the bench's folder."""

import gzip
from collections.abc import Callable
from io import BytesIO
from math import ceil
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lynceus.frame import read_frame
from tests.load.shots import Frame as Copied
from training.scenes.simulate import SceneSpec, draw_scene

SIDE, SOURCES = 4096, 3000
PATCH = 2048  # pixels: larger frames are patches, turned and with noise of their own
FRESH = 0.5  # standard deviation of that noise, over the patch's own
SCENE = SceneSpec(empty=0, fwhm=(3, 3), galaxies=(0.2, 0.2), snr=(3, 1000))


def bench_frame(folder: Path, side: int = SIDE) -> bytes:
    """A simulated frame of some 3000 sources on 4096 x 4096 px, with cosmic rays, bad columns and trails."""
    path = folder / ("frame.fits" if side == SIDE else f"frame-{side}.fits")
    if not path.exists():
        density = per_tile(SOURCES)
        spec = SCENE.model_copy(update={"size": side, "sources": (density, density)})
        draw_scene(np.random.default_rng(7), spec)[0].writeto(path)
    return path.read_bytes()


def per_tile(sources: float) -> float:
    """Sources on 512 x 512 px where 4096 x 4096 px hold so many."""
    return sources / (SIDE / 512) ** 2


def tiled_frame(folder: Path, side: int, sources: float = SOURCES) -> Path:
    """A frame of any side with `sources` on every 4096 x 4096 px: patches of one scene, each turned its own way.

    Trails and bad columns are left out, which would end at the patches' borders.
    """
    path = folder / f"tiled-{side}-{sources:g}.fits"
    if not path.exists():
        patch = _patch(folder, sources)
        partial = path.with_suffix(".part")
        partial.unlink(missing_ok=True)
        _write_strips(partial, side, patch)
        partial.rename(path)
    return path


def _patch(folder: Path, sources: float) -> NDArray[np.float32]:
    """The scene that larger frames are made of, (PATCH, PATCH), in ADU."""
    path = folder / f"patch-{sources:g}.npy"
    if not path.exists():
        density = per_tile(sources)
        still = {"trails": 0.0, "bad_columns": 0.0, "fourier": True}
        spec = SCENE.model_copy(update={"size": PATCH, "sources": (density, density), **still})
        hdu, _ = draw_scene(np.random.default_rng(11), spec)
        np.save(path, np.asarray(hdu.data, np.float32))
    return np.asarray(np.load(path), np.float32)


def _write_strips(path: Path, side: int, patch: NDArray[np.float32]) -> None:
    """Write the frame a row of patches at a time: 16384 px a side are a gigabyte."""
    rng = np.random.default_rng(side)
    noise = np.float32(FRESH * 1.4826 * np.median(np.abs(patch - np.median(patch))))
    header = fits.PrimaryHDU(np.zeros((1, 1), np.float32)).header
    header["NAXIS1"] = header["NAXIS2"] = side
    strips = fits.StreamingHDU(path, header)
    for top in range(0, side, PATCH):
        rows = min(PATCH, side - top)
        strip = np.concatenate([_turned(patch, rng) for _ in range(ceil(side / PATCH))], axis=1)[:rows, :side]
        strips.write(strip + noise * rng.standard_normal(strip.shape, np.float32))
    strips.close()


def _turned(patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    quarters, mirrored = rng.integers(4), rng.integers(2)
    turned = np.rot90(patch, quarters)
    return turned[::-1] if mirrored else turned


def copies(data: bytes) -> Callable[[int], bytes]:
    """Copies of a frame, by number, that differ in a card: of equal uploads a server need answer one only."""
    with fits.open(BytesIO(data)) as hdus:
        hdu = fits.PrimaryHDU(np.asarray(hdus[0].data), hdus[0].header)
        hdu.header["NONCE"] = "0" * 16
        file = BytesIO()
        hdu.writeto(file)
    return Copied("float32", file.getvalue(), tiles=1).copy


def encodings(data: bytes) -> dict[str, bytes]:
    """A frame as files of other kinds: as it is, 16-bit integers, those in gzip, and those in RICE tiles."""
    pixels = read_frame(data).pixels
    whole = np.nan_to_num(pixels).clip(0, 32767).astype(np.int16)
    integers = _file(fits.PrimaryHDU(whole))
    return {
        "float32": data,
        "int16": integers,
        "int16.gz": gzip.compress(integers, 1),
        "RICE": _file(fits.PrimaryHDU(), fits.CompImageHDU(whole, compression_type="RICE_1")),
    }


def cut_out(pixels: NDArray[np.float32], side: int, number: int) -> bytes:
    """A small frame out of a large one, another for each number, as a file."""
    room = min(pixels.shape) - side
    x, y = (7 * number) % max(room, 1), (11 * number) % max(room, 1)
    return _file(fits.PrimaryHDU(pixels[y : y + side, x : x + side].copy()))  # astropy swaps bytes in place


def _file(*hdus: fits.PrimaryHDU | fits.CompImageHDU) -> bytes:
    file = BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()
