"""A simulated archive of an observatory: frames and catalogues as Joan Oro's pipeline names and writes them."""

import gzip
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from pydantic import Field
from rich.progress import track

from lynceus.spec import Spec
from training.errors import TrainingError
from training.scenes.extraction import exact_rows, extracted_rows, joan_oro_table, write_ascii_head
from training.scenes.oddities import ODDITIES, Oddity, add_leak, hand_label, odd_scene, odd_sources
from training.scenes.ranges import SceneSpec
from training.scenes.scene import Planned, draw_scene, plan_sources
from training.scenes.stamps import FWHM_PER_SIGMA, PHASES

FRAME, CATALOGUE = "_U_imc.fits.gz", "_U_imc_trl.dat"
TRUTH, LABELS, RECORD = "truth", "labels.txt", "archive.json"
FIRST_NIGHT = datetime(2024, 3, 12, 20, 0, 0)
MJD_EPOCH = datetime(1858, 11, 17)
CADENCE = timedelta(seconds=190)
EXPOSURES, REFERENCE = (30.0, 60.0, 120.0), 60.0  # seconds
FILTERS = ("B", "V", "R", "I")
TURN = np.radians(0.8)  # of the camera against north
FIELD, EXPOSURE, LISTED = 0, 1, 2  # streams of chance
HAND_LABELLED = 4  # frames a person looked at, besides the odd ones


class ArchiveSpec(Spec):
    """What a simulated archive holds.

    Attributes
    ----------
    frames : int
        Number of exposures.
    seed : int
        Exposure i depends on the seed, i and what is below.
    size : int
        Side of a frame, in pixels.
    fields : int
        Fields on the sky; exposure i is of field i modulo this, and shows the same sources, dithered.
    dither : float
        Greatest shift of a pointing along each axis, in pixels.
    pixel_scale : float
        Arcsec.
    scene : SceneSpec
        What an exposure is drawn from; its `size` does not count.
    catalogue : {"extraction", "truth"}
        Whether catalogues are an extraction with its faults, or list exactly what is there.
    missing, flagged : float
        Of an exact catalogue, the share of rows left out, and of the rest the share that FLAGS calls failed.
    oddities : bool
        Whether up to half of the frames are odd, one in each way of `ODDITIES`.
    """

    frames: int = Field(30, gt=0)
    seed: int = Field(1, ge=0)
    size: int = Field(768, ge=64)
    fields: int = Field(10, gt=0)
    dither: float = Field(40.0, ge=0)
    pixel_scale: float = Field(0.44, gt=0)
    scene: SceneSpec = SceneSpec(
        sources=(25, 200), empty=0, snr=(3, 1000), bright=0.3, fwhm=(2.2, 4.5), trailed=0, galaxies=(0, 0.3),
        galaxy_radius=(0.7, 6.0), sky=(100, 1500), correlated=0, trails=0, bad_columns=0.1, hot_pixels=2, cosmic_rays=3,
    )  # fmt: skip
    catalogue: Literal["extraction", "truth"] = "extraction"
    missing: float = Field(0.0, ge=0, lt=1)
    flagged: float = Field(0.0, ge=0, le=1)
    oddities: bool = False


@dataclass(frozen=True)
class _Exposure:
    """One entry of the archive's log; `drawn` is the exposure whose photons it holds, nearly always its own."""

    index: int
    drawn: int
    key: str
    oddity: Oddity | None


def write_archive(folder: Path, spec: ArchiveSpec, workers: int = 2) -> Table:
    """Write frames and catalogues, the exact truth beside them in `truth/<key>.ecsv`, and `labels.txt`.

    Parameters
    ----------
    folder : Path
        Made if absent; exposures that are in it stay as they are.
    spec : ArchiveSpec
        What it holds.
    workers : int
        Processes.

    Returns
    -------
    Table
        key, field, oddity ("" for most) of every exposure.

    Raises
    ------
    TrainingError
        If the folder holds an archive of another specification.
    """
    (folder / TRUTH).mkdir(parents=True, exist_ok=True)
    _record(folder / TRUTH / RECORD, spec)
    exposures = _log(spec)
    todo = [one for one in exposures if not _truth_path(folder, one).exists()]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_write_exposure, folder, one, spec) for one in todo]
        for job in track(jobs, description=f"exposing {len(todo)} frames into {folder}"):
            job.result()
    _write_labels(folder / LABELS, exposures)
    return Table(
        {
            "key": [one.key for one in exposures],
            "field": [one.drawn % spec.fields for one in exposures],
            "oddity": [one.oddity or "" for one in exposures],
        }
    )


def _record(path: Path, spec: ArchiveSpec) -> None:
    """Write down what the archive is made of, or check it."""
    text = spec.model_dump_json(indent=1)
    if not path.exists():
        path.write_text(text)
    elif path.read_text() != text:
        raise TrainingError(f"{path.parent.parent} holds an archive of another specification: name another folder")


def _log(spec: ArchiveSpec) -> list[_Exposure]:
    """What is exposed when; the odd ones come last."""
    odd = ODDITIES[: spec.frames // 2] if spec.oddities else ()
    first_odd = spec.frames - len(odd)
    exposures = []
    for index in range(spec.frames):
        oddity = odd[index - first_odd] if index >= first_odd else None
        drawn = {"copy": 0, "repeat": 1}.get(oddity or "", index)
        moment = FIRST_NIGHT + index * CADENCE
        exposures.append(_Exposure(index, drawn, f"TJO{moment:%Y%m%d_%H%M%S}_{_object(drawn, spec)}", oddity))
    return exposures


def _object(index: int, spec: ArchiveSpec) -> str:
    return f"SIM{index % spec.fields:03d}"


def _truth_path(folder: Path, exposure: _Exposure) -> Path:
    return folder / TRUTH / f"{exposure.key}.ecsv"


def _write_exposure(folder: Path, exposure: _Exposure, spec: ArchiveSpec) -> None:
    """Write a frame and its catalogue, then its truth (whose presence says that all are there)."""
    hdu, truth = _expose(exposure, spec)
    frame = folder / f"{exposure.key}{FRAME}"
    _write_packed(frame, hdu)
    if exposure.oddity != "no_catalogue":
        write_ascii_head(folder / f"{exposure.key}{CATALOGUE}", _catalogue(exposure, hdu, truth, spec))
    partial = _truth_path(folder, exposure).with_suffix(".part")
    truth.write(partial, format="ascii.ecsv", overwrite=True)
    partial.rename(_truth_path(folder, exposure))


def _write_packed(path: Path, hdu: fits.PrimaryHDU) -> None:
    plain = BytesIO()
    hdu.writeto(plain)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(gzip.compress(plain.getvalue(), compresslevel=3, mtime=0))
    partial.rename(path)


def _catalogue(exposure: _Exposure, hdu: fits.PrimaryHDU, truth: Table, spec: ArchiveSpec) -> Table:
    if exposure.oddity == "foreign_catalogue":  # that of the exposure before, of another field where there are several
        exposure = _Exposure(exposure.index - 1, exposure.index - 1, exposure.key, None)
        hdu, truth = _expose(exposure, spec)
    header, pixels = hdu.header, np.asarray(hdu.data, np.float64)
    if spec.catalogue == "truth":
        rng = np.random.default_rng([spec.seed, LISTED, exposure.drawn])
        rows = exact_rows(truth, pixels, header["SATURATE"], spec.missing, spec.flagged, rng)
    else:
        rows = extracted_rows(pixels, header["SATURATE"], header["GAIN"])
    return joan_oro_table(rows[:0] if exposure.oddity == "empty_catalogue" else rows, WCS(header), header["EXPTIME"])


def _expose(exposure: _Exposure, spec: ArchiveSpec) -> tuple[fits.PrimaryHDU, Table]:
    """Point at a field, dithered, and take the frame, with a header that says so."""
    rng = np.random.default_rng([spec.seed, EXPOSURE, exposure.drawn])
    shift = np.rint(rng.uniform(-spec.dither, spec.dither, 2) * PHASES).astype(int)  # in steps of the phases
    seconds, band = EXPOSURES[rng.integers(len(EXPOSURES))], FILTERS[rng.integers(len(FILTERS))]
    brightness = seconds / REFERENCE * rng.uniform(0.7, 1.0)
    centre, planned = _field(exposure.drawn % spec.fields, spec)
    scene = odd_scene(exposure.oddity, spec.scene.model_copy(update={"size": spec.size}))

    def sources(side: int) -> list[Planned]:
        planned_there = [_shifted(one, shift, brightness, side) for one in planned]
        return planned_there + odd_sources(exposure.oddity, side, rng)

    hdu, truth = draw_scene(rng, scene, sources)
    if exposure.oddity == "light_leak":
        add_leak(hdu, truth, scene, rng)
    if exposure.oddity == "repeat":  # reduced once more, on another level
        hdu.data = hdu.data + hdu.data.dtype.type(3)
    _fill_header(hdu.header, exposure, spec, shift / PHASES, truth.meta.get("affine"), centre, seconds, band)
    return hdu, truth


def _field(number: int, spec: ArchiveSpec) -> tuple[tuple[float, float], list[Planned]]:
    """Right ascension and declination of a field's middle, and the sources around it, placed from that middle."""
    rng = np.random.default_rng([spec.seed, FIELD, number])
    centre = float(rng.uniform(0, 360)), float(rng.uniform(-25, 80))
    reach = spec.size + 2 * int(np.ceil(spec.dither)) + spec.size // 4  # corners of frames that are turned
    wide = spec.scene.model_copy(update={"size": reach})
    planned = [replace(one, flux=_flux(one, spec.scene)) for one in plan_sources(rng, wide)]
    return centre, [replace(one, column=one.column - reach // 2, row=one.row - reach // 2) for one in planned]


def _flux(source: Planned, scene: SceneSpec) -> float:
    """The flux in ADU that has the planned signal to noise about where a typical exposure sees it."""
    sky, gain, fwhm = (float(np.sqrt(low * high)) for low, high in (scene.sky, scene.gain, scene.fwhm))
    noise2 = sky / gain + (scene.read_noise[0] / gain) ** 2
    extent = source.shape[0] / 1.2 if source.shape else 0.0
    area = 4 * np.pi * ((fwhm / FWHM_PER_SIGMA) ** 2 + extent**2 + 0.1)
    photons = source.snr**2 * 2 / 3 / gain  # of a Gaussian: 4 / 3 of its own noise counts
    return float(photons + np.hypot(photons, source.snr * np.sqrt(noise2 * area)))


def _shifted(source: Planned, shift: np.ndarray, brightness: float, side: int) -> Planned:
    """A source of a field on a frame whose middle is `shift` from the field's, in steps of the phases."""
    places = PHASES * (np.array([source.column, source.row]) + side // 2) + np.array(source.phase) + shift
    (column, row), phase = places // PHASES, places % PHASES
    flux = (source.flux or 0.0) * brightness
    return replace(source, column=int(column), row=int(row), phase=(int(phase[0]), int(phase[1])), flux=flux)


def _fill_header(
    header: fits.Header,
    exposure: _Exposure,
    spec: ArchiveSpec,
    shift: np.ndarray,
    affine: list[list[float]] | None,
    centre: tuple[float, float],
    seconds: float,
    band: str,
) -> None:
    """What a telescope writes about an exposure, and its astrometry."""
    middle = spec.size // 2 + shift  # of the field, on the frame, 0-based
    scale, cos, sin = spec.pixel_scale / 3600, np.cos(TURN), np.sin(TURN)
    matrix = scale * np.array([[-cos, sin], [sin, cos]])
    if affine is not None:
        turned = np.array(affine)
        middle, matrix = np.linalg.solve(turned[:, :2], middle - turned[:, 2]), matrix @ turned[:, :2]
    header["OBJECT"] = (_object(exposure.drawn, spec), "name of the field")
    header["TELESCOP"], header["INSTRUME"] = "TJO (simulated)", "MEIA3 (simulated)"
    start = FIRST_NIGHT + exposure.drawn * CADENCE
    header["DATE-OBS"] = (start.isoformat(timespec="milliseconds"), "UTC, start")
    header["MJD-OBS"] = (start - MJD_EPOCH) / timedelta(days=1)
    header["EXPTIME"], header["FILTER"] = (seconds, "seconds"), band
    header["RA"], header["DEC"] = (centre[0], "degrees"), (centre[1], "degrees")
    header["CTYPE1"], header["CTYPE2"], header["RADESYS"] = "RA---TAN", "DEC--TAN", "ICRS"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["CRVAL1"], header["CRVAL2"] = centre
    header["CRPIX1"], header["CRPIX2"] = (float(value) + 1 for value in middle)
    for row, column in np.ndindex(2, 2):
        header[f"CD{row + 1}_{column + 1}"] = float(matrix[row, column])


def _write_labels(path: Path, exposures: list[_Exposure]) -> None:
    """What a person has noted about some of the frames; notes that are there stay."""
    if path.exists():
        return
    plain = [one for one in exposures if one.oddity is None][:HAND_LABELLED]
    lines = [f"{one.key}{FRAME}  OK" for one in plain]
    lines += [f"{one.key}{FRAME}  {label}" for one in exposures if (label := hand_label(one.oddity))]
    path.write_text("\n".join(lines) + "\n")
