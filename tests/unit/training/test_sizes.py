"""Laws of measured sizes: they follow the frame, whatever the catalogue says, and change nothing but boxes."""

from dataclasses import replace

import numpy as np
import pytest

from lynceus.detections import box_about
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from tests.unit.training.tile_kit import FWHM, star_field, write_exposure
from training.tiling.exposures import TruthSpec, exposure_of
from training.tiling.sizes import measured_sizes

MEASURE = MeasureSpec()
SIDE = 300
POSITIONS = np.array([(x + 0.3, y + 0.1) for x in range(30, 280, 40) for y in range(30, 280, 40)])


def truth_with(side: float, positions: np.ndarray = POSITIONS) -> Truth:
    """A catalogue that calls every box `side` pixels wide."""
    count = len(positions)
    boxes = box_about(*positions.T, np.full(count, side), np.full(count, side))
    return Truth(boxes, np.zeros(count, bool), np.full(count, np.nan), "none", (), count)


def frame_of(pixels: np.ndarray) -> Frame:
    return Frame(pixels.astype(np.float32))


def sides(truth: Truth) -> np.ndarray:
    return np.sqrt((truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1))


@pytest.mark.parametrize("wrong", [0.5, 1.0, 1.5])
def test_the_frame_tells_the_size_and_not_the_catalogue(wrong):
    frame = frame_of(star_field(POSITIONS, (SIDE, SIDE), 1))
    right = MEASURE.box_scale * FWHM
    measured = measured_sizes(truth_with(wrong * right), frame, estimate_sky(frame, SkySpec()), MEASURE)
    assert np.abs(sides(measured) / right - 1).max() < 0.1


def test_a_source_wider_than_the_stars_stays_so_and_a_faint_one_is_a_star():
    pixels = star_field(POSITIONS, (SIDE, SIDE), 1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    wide, faint = np.array([[50.0, 50.0]]), np.array([[250.3, 250.2]])
    sigma = 2 * FWHM / 2.3548
    pixels += 400 * np.exp(-((columns - 50) ** 2 + (rows - 50) ** 2) / (2 * sigma**2))
    pixels += 14 * np.exp(-((columns - 250.3) ** 2 + (rows - 250.2) ** 2) / (2 * (FWHM / 2.3548) ** 2))
    frame = frame_of(pixels)
    truth = truth_with(9.0, np.concatenate([POSITIONS, wide, faint]))
    measured = sides(measured_sizes(truth, frame, estimate_sky(frame, SkySpec()), MEASURE)) / MEASURE.box_scale / FWHM
    assert 1.6 < measured[-2] < 2.4
    assert 0.8 < measured[-1] < 1.25


def test_nothing_but_boxes_changes():
    frame = frame_of(star_field(POSITIONS, (SIDE, SIDE), 1))
    truth = replace(truth_with(5.0), ignored=np.arange(len(POSITIONS)) % 2 == 0)
    measured = measured_sizes(truth, frame, estimate_sky(frame, SkySpec()), MEASURE)
    np.testing.assert_allclose(np.stack(measured.centres), np.stack(truth.centres))
    np.testing.assert_array_equal(measured.ignored, truth.ignored)
    assert measured.listed == truth.listed


def test_without_stars_the_catalogue_is_believed():
    frame = frame_of(np.random.default_rng(1).normal(1000, 10, (SIDE, SIDE)))
    truth = truth_with(7.0)
    assert measured_sizes(truth, frame, estimate_sky(frame, SkySpec()), MEASURE) is truth


def test_a_saturated_star_keeps_its_box():
    pixels = star_field(POSITIONS, (SIDE, SIDE), 1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels += 60000 * np.exp(-((columns - 150) ** 2 + (rows - 170) ** 2) / (2 * 36.0))
    frame = frame_of(np.minimum(pixels, 30000))
    frame = replace(frame, facts=replace(frame.facts, saturation=30000.0))
    truth = truth_with(31.0, np.concatenate([POSITIONS, [[150.0, 170.0]]]))
    measured = measured_sizes(truth, frame, estimate_sky(frame, SkySpec()), MEASURE)
    np.testing.assert_allclose(sides(measured)[-1], 31.0)


def test_a_recipe_may_ask_for_the_catalogues_sizes(tmp_path):
    write_exposure(tmp_path, "one", POSITIONS, (SIDE, SIDE))
    catalogue = tmp_path / "one_U_imc_trl.dat"
    catalogue.write_text(catalogue.read_text().replace(f" {FWHM} ", f" {FWHM / 2} "))
    found = {}
    for sizes in ("measured", "catalogue"):
        spec = TruthSpec(sizes=sizes, unlisted=False)
        one = exposure_of(tmp_path / "one_U_imc.fits.gz", catalogue, SkySpec(), MEASURE, spec)
        found[sizes] = float(np.median(sides(one.truth))) / MEASURE.box_scale
    assert found["catalogue"] == pytest.approx(FWHM / 2)
    assert found["measured"] == pytest.approx(FWHM, rel=0.1)
