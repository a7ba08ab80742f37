"""Real frames to learn from: sources planted where the truth is then known, and labels for what was there before."""

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray
from rich.progress import track

from lynceus.frame import Frame, read_frames
from lynceus.sky import SkySpec, estimate_sky
from training.errors import TrainingError
from training.recipe import PlantedSet
from training.scenarios.known import EDGES, known_sources
from training.scenes.inject import plan_light

TESTS = ("kids", "viking", "emmi", "eso_ntt")  # in a path: frames to be judged on, which nobody learns from
TEST_PIXELS = frozenset({  # the same by their pixels: KiDS and VIKING in nine bands, EMMI and its corner
    "2d9fac6f084b5c87", "c3a4698ced40b863", "0d7362eba1080b05", "ed8d3fee62748b05", "9c00f7c000f1ecda",
    "6a623c9a11b3be1b", "3bb9205894ea6d2c", "ca7ebd3de7bf9ad6", "ad6b8fa539fcaf04", "c3c7ef12fb891e81",
    "2a00907dd841f291",
})  # fmt: skip
COLUMNS = ("x", "y", *EDGES, "snr", "kind", "ignored")
LEAST_PIECE = 64  # pixels
log = logging.getLogger(__name__)


def draw_planted(run: Path, planted: PlantedSet, data: Path | None, sky: SkySpec, workers: int = 2) -> int:
    """Write a set of real frames with planted sources, in pieces; those that exist are left as they are.

    Parameters
    ----------
    run : Path
        Its `planted.folder` gets `00000.fits`, float32, and its truth `00000.ecsv`, and so on.
    planted : PlantedSet
        Which frames, and what becomes of them.
    data : Path or None
        Where the frames are.
    sky : SkySpec
        How sky and noise are estimated.
    workers : int
        Processes.

    Returns
    -------
    int
        Pieces in the folder; 0 where the set is optional and its frames are absent.

    Raises
    ------
    TrainingError
        If a frame is absent and the set is not optional, or if it is one to be judged on.
    """
    paths = find_frames(planted, data)
    folder = run / planted.folder
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        begun = [pool.submit(_write, path, folder, number, planted, sky) for number, path in enumerate(paths)]
        said = f"planting sources in {len(paths)} real frames into {folder}"
        return sum(job.result() for job in track(begun, description=said))


def find_frames(planted: PlantedSet, data: Path | None) -> list[Path]:
    """The files of a set, in the order of its patterns.

    Raises
    ------
    TrainingError
        If a pattern fits no file and the set is not optional, or if a file is one to be judged on.
    """
    found: list[Path] = []
    for pattern in planted.frames:
        some = sorted(data.glob(pattern)) if data is not None else []
        if not some and not planted.optional:
            where = f"in {data}" if data is not None else "without a folder of real frames (--data, LYNCEUS_TEST_DATA)"
            raise TrainingError(f"no frame fits {pattern} of the planted set {planted.folder} {where}")
        if not some:
            log.warning("no frame fits %s: the planted set %s goes without", pattern, planted.folder)
        found += some
    for path in found:
        if any(word in str(path).lower() for word in TESTS):
            raise TrainingError(f"{path} is a frame to be judged on: nothing may be learned from it")
    return found


def refuse_tests(frame: Frame, path: Path) -> None:
    """Know a frame to be judged on by its pixels, whatever its name and compression.

    Raises
    ------
    TrainingError
        If it is one.
    """
    if pixel_digest(frame) in TEST_PIXELS:
        raise TrainingError(f"{path} holds a frame to be judged on: nothing may be learned from it")


def pixel_digest(frame: Frame) -> str:
    """Of the pixels as they are read."""
    return hashlib.sha256(np.nan_to_num(frame.pixels).tobytes()).hexdigest()[:16]


def _write(path: Path, folder: Path, number: int, planted: PlantedSet, sky: SkySpec) -> int:
    """Plant in all frames of a file, and write their pieces as `<number><index>`; how many they are."""
    done = folder / f"{number:02d}.done"
    if done.exists():
        return int(done.read_text())
    index = 0
    for place, frame in enumerate(read_frames(path.read_bytes())):
        refuse_tests(frame, path)
        frame = _part(frame, planted.columns)
        known = None if planted.starless else label_frame(frame, planted, sky)
        for turn in range(planted.count):
            rng = np.random.default_rng([planted.seed, number, turn, place])
            for pixels, truth in plant(frame, planted, known, rng):
                stem = folder / f"{number:02d}{index:03d}"
                _to_hdu(pixels, frame).writeto(stem.with_suffix(".fits"), overwrite=True)
                truth.write(stem.with_suffix(".ecsv"), format="ascii.ecsv", overwrite=True)
                index += 1
    done.write_text(str(index))
    return index


def label_frame(frame: Frame, planted: PlantedSet, sky: SkySpec) -> Table:
    """What is on a frame of stars; see `known_sources`."""
    return known_sources(frame, estimate_sky(frame, sky), planted.known, planted.inject.measure)


def plant(
    frame: Frame, planted: PlantedSet, known: Table | None, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], Table]]:
    """Plant sources in a frame, and cut it.

    Parameters
    ----------
    frame : Frame
        A real one.
    planted : PlantedSet
        What is planted, and how large a piece is.
    known : Table or None
        What was there; None for a frame without stars, on which what can be seen are faults.
    rng : Generator
        The only source of chance.

    Yields
    ------
    pixels : ndarray, shape (h, w), float32
        ADU, as the frame is read: overscan NaN, Bayer phases equalised, clipped at saturation.
    truth : Table
        Columns of `COLUMNS`: the planted sources, then those known.
    """
    bare = planted.starless and rng.random() < planted.empty
    light, truth = plan_light(frame, planted.inject.model_copy(update={"count": 0} if bare else {}), rng)
    rows = [truth[truth["kind"] != ""][list(COLUMNS)], *([] if known is None else [known[list(COLUMNS)]])]
    both = vstack(rows, metadata_conflicts="silent")
    both.meta = {**truth.meta}
    yield from _pieces(_lit(frame, light, rng), both, planted.largest)


def _part(frame: Frame, columns: tuple[float, float]) -> Frame:
    """The part of a frame between two shares of its width."""
    first, last = (round(share * frame.shape[1]) for share in columns)
    return replace(frame, pixels=np.ascontiguousarray(frame.pixels[:, first:last]), wcs=None)


def _lit(frame: Frame, light: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Its pixels with the light, clipped at saturation; whole numbers stay whole, faint light is not lost."""
    step = frame.quantum
    pixels = frame.pixels + (np.floor(light / step + rng.random(light.shape)) * step if step else light)
    return np.minimum(pixels, np.inf if frame.facts.saturation is None else frame.facts.saturation).astype(np.float32)


def _pieces(pixels: NDArray[np.float32], truth: Table, largest: int) -> Iterator[tuple[NDArray[np.float32], Table]]:
    """Equal pieces side by side, none larger than so many pixels a side."""
    (rows, columns) = (np.linspace(0, side, -(-side // largest) + 1).astype(int) for side in pixels.shape)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            piece = np.ascontiguousarray(pixels[top:bottom, left:right])
            if min(piece.shape) >= LEAST_PIECE and np.isfinite(piece).any():
                yield piece, _window(truth, left, top, piece.shape)


def _window(truth: Table, left: int, top: int, shape: tuple[int, ...]) -> Table:
    """The rows whose box is in a piece, in its pixels; those centred beyond it are ignored, their boxes cut."""
    height, width = shape
    some = truth.copy()
    some["x"], some["y"] = truth["x"] - left, truth["y"] - top
    for edge in EDGES:
        x = edge.startswith("x")
        some[edge] = np.clip(truth[edge] - (left if x else top), 0, width if x else height)
    outside = (some["x"] < -0.5) | (some["x"] >= width - 0.5) | (some["y"] < -0.5) | (some["y"] >= height - 0.5)
    some["ignored"] |= outside
    return some[(some["x_max"] > some["x_min"]) & (some["y_max"] > some["y_min"])]


def _to_hdu(pixels: NDArray[np.float32], frame: Frame) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU(pixels)
    if frame.facts.gain is not None:
        hdu.header["GAIN"] = frame.facts.gain, "electrons per ADU"
    if frame.facts.saturation is not None:
        hdu.header["SATURATE"] = frame.facts.saturation, "ADU"
    return hdu
