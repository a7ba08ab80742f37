"""Laws of trails: they are found where they are, hidden as pixels, and no box of theirs is left in the truth."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.trails import find_trails
from tests.unit.training.tile_kit import FWHM, NOISE, small_dataset, star_field, write_dataset, write_exposure
from training.tiling.exposures import TruthSpec, exposure_of, read_exposures

SKY, MEASURE = SkySpec(), MeasureSpec()
SIDE = 400
POSITIONS = np.random.default_rng(4).uniform(10, SIDE - 10, (40, 2))


def distance(x, y, angle: float, middle: tuple[float, float]):
    """From the line through `middle` at `angle` degrees, in pixels."""
    turn = np.radians(angle)
    return np.abs((x - middle[0]) * np.sin(turn) - (y - middle[1]) * np.cos(turn))


def with_trail(pixels: np.ndarray, angle: float, middle: tuple[float, float], height: float = 8.0) -> np.ndarray:
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    light = np.exp(-(distance(columns, rows, angle, middle) ** 2) / (2 * (FWHM / 2.3548) ** 2))
    return np.asarray(pixels + height * NOISE * light, np.float32)


def trails_of(pixels: np.ndarray) -> list[tuple[float, float, float, float, float]]:
    frame = Frame(pixels)
    return find_trails(frame, estimate_sky(frame, SKY))


@pytest.mark.parametrize("angle", [25.0, 110.0])
@pytest.mark.parametrize("height", [2.0, 30.0])
def test_a_trail_is_found_where_it_is(angle, height):
    middle = (220.0, 170.0)
    (line,) = trails_of(with_trail(star_field(POSITIONS, (SIDE, SIDE), 1), angle, middle, height))
    for x, y in (line[:2], line[2:4]):
        assert distance(x, y, angle, middle) < 3
    assert np.hypot(line[2] - line[0], line[3] - line[1]) > 0.9 * SIDE
    assert FWHM < line[4] < 8 * FWHM


def test_several_trails_are_found():
    pixels = with_trail(star_field(POSITIONS, (SIDE, SIDE), 1), 25.0, (220.0, 170.0))
    lines = trails_of(with_trail(pixels, 130.0, (100.0, 100.0)))
    assert len(lines) == 2


def test_stars_and_galaxies_are_no_trails():
    pixels = star_field(POSITIONS, (SIDE, SIDE), 1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels += 300 * np.exp(-np.hypot((columns - 200) / 30, (rows - 200) / 9)).astype(np.float32)
    assert trails_of(pixels) == []


@pytest.mark.parametrize("seed", [2, 7])
def test_stars_in_a_crowd_are_no_trails(seed):
    crowd = np.random.default_rng(seed).uniform(0, SIDE, (150, 2))
    assert trails_of(star_field(crowd, (SIDE, SIDE), seed)) == []


@pytest.fixture
def trailed(tmp_path: Path) -> tuple[Path, Path]:
    """A frame that a trail crosses, and a catalogue that lists the trail as a source."""
    write_exposure(tmp_path, "one", np.append(POSITIONS, [[200.0, 200.0]], axis=0), (SIDE, SIDE))
    frame, catalogue = tmp_path / "one_U_imc.fits.gz", tmp_path / "one_U_imc_trl.dat"
    pixels = with_trail(star_field(POSITIONS, (SIDE, SIDE), 1), 40.0, (200.0, 200.0))
    fits.PrimaryHDU(pixels).writeto(frame, overwrite=True)
    *rows, last = catalogue.read_text().splitlines()
    catalogue.write_text("\n".join([*rows, last.replace(f" {FWHM} ", " 150.0 ")]) + "\n")
    return frame, catalogue


def test_no_box_of_a_trail_is_left(trailed):
    as_listed = TruthSpec(sizes="catalogue")
    plain = exposure_of(*trailed, SKY, MEASURE, as_listed)
    assert (plain.truth.boxes[:, 2:] - plain.truth.boxes[:, :2]).max() > 200  # it would void the frame
    hidden = exposure_of(*trailed, SKY, MEASURE, as_listed, trailed=True)
    assert hidden.hidden is not None
    assert (hidden.truth.boxes[:, 2:] - hidden.truth.boxes[:, :2]).max() < 12 * FWHM
    assert hidden.truth.listed == len(POSITIONS)
    assert hidden.truth.kinds is not None
    rows, columns = np.mgrid[:SIDE, :SIDE]
    bright = distance(columns, rows, 40.0, (200.0, 200.0)) < FWHM / 2
    assert hidden.hidden[bright].mean() > 0.95
    assert hidden.hidden.mean() < 0.15


def test_sources_on_a_trail_are_ignored_and_others_are_not(trailed):
    one = exposure_of(*trailed, SKY, MEASURE, trailed=True)
    away = distance(*POSITIONS.T, 40.0, (200.0, 200.0))
    ignored = one.truth.ignored[: len(POSITIONS)]
    assert ignored[away < 2].all()
    assert not ignored[away > 20].any()
    np.testing.assert_array_equal(one.frame.mask, np.zeros((SIDE, SIDE), bool))  # the network sees the trail


def test_trails_are_looked_for_on_frames_that_are_labelled_so(tmp_path):
    folder = small_dataset(tmp_path, frames=2, shape=(SIDE, SIDE))
    for key in ("night0", "night1"):
        frame = tmp_path / "archive" / f"{key}_U_imc.fits.gz"
        fits.PrimaryHDU(with_trail(fits.getdata(frame), 40.0, (200.0, 200.0))).writeto(frame, overwrite=True)
    write_dataset(folder, tmp_path / "archive", {"night0": "a", "night1": "b"}, {"night0": "TRACE", "night1": "OK"})
    trail, plain = read_exposures(folder, SKY, MEASURE, TruthSpec())
    assert trail.hidden is not None
    assert plain.hidden is None
    assert [one.key for one in read_exposures(folder, SKY, MEASURE, TruthSpec(labels=("OK",)))] == ["night1"]
