"""Positions of isolated stars: as sure as photons allow, also where a star is hardly wider than a pixel."""

from io import BytesIO

import numpy as np
import pytest

from lynceus.detections import Detections, box_about
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec, measure, unmeasured
from lynceus.sky import SkySpec, estimate_sky
from lynceus.sources import Sources
from training.scenarios.positions import (
    Errors,
    PositionFigures,
    Stars,
    figures_of,
    isolated,
    pooled,
    position_errors,
    position_figures,
    star_grid,
    stars_of,
)
from training.scenes.ranges import SceneSpec

EMPTY = SceneSpec(
    size=256, trailed=0, galaxies=(0, 0), bright=0, correlated=0, trails=0, bad_columns=0, hot_pixels=0,
    cosmic_rays=0, clean=1, sky=(400, 600),
)  # fmt: skip


def boxes_near(stars: Stars, seed: int = 0) -> Detections:
    """What a network might find: boxes a little beside the stars, a little too large or small."""
    rng = np.random.default_rng(seed)
    side = np.maximum(2.5 * stars.fwhm, 4.0) * np.exp(rng.normal(0, 0.1, (len(stars.snr), 1)))
    beside = np.hypot(0.06, 0.9 / stars.snr)[:, None] * stars.fwhm
    x, y = (stars.positions + rng.normal(0, 1, beside.shape) * beside).T
    count = len(stars.snr)
    boxes = box_about(x, y, side[:, 0], side[:, 1]).astype(np.float32)
    return Detections(boxes, np.ones(count, np.float32), np.zeros(count, np.int64))


def measured(fwhm: float, snr: float, seed: int) -> tuple[Stars, Sources]:
    hdu, truth = star_grid(EMPTY.model_copy(update={"fwhm": (fwhm, fwhm)}), snr, 16 if fwhm < 2.5 else 24, seed)
    held = BytesIO()
    hdu.writeto(held)
    frame, stars = read_frame(held.getvalue()), stars_of(truth)
    return stars, measure(frame, boxes_near(stars), estimate_sky(frame, SkySpec()), MeasureSpec())


@pytest.mark.parametrize(
    ("fwhm", "snr"), [(1.2, 12.0), (1.2, 50.0), (1.6, 12.0), (1.6, 50.0), (3.0, 12.0), (3.0, 50.0)]
)
def test_positions_scatter_little_more_than_they_must_and_lean_to_no_side(fwhm, snr):
    figures = position_figures(measured(fwhm, snr, seed) for seed in (1, 2))
    assert figures.stars > 150
    assert figures.scatter < 1.35
    assert max(map(abs, figures.bias)) < 0.02 + 3 * figures.bias_error
    assert figures.phase_bias < 0.02 + 4 * figures.phase_error


def test_errors_as_large_as_the_bound_have_scatter_1_and_no_bias():
    rng = np.random.default_rng(0)
    count = 4000
    bound = np.exp(rng.normal(-3, 0.5, (count, 2)))
    errors = Errors(bound * rng.normal(0, 1, (count, 2)), bound, rng.uniform(-0.5, 0.5, (count, 2)), np.ones(count))
    figures = figures_of(errors)
    assert figures.scatter == pytest.approx(1, abs=0.05)
    assert figures.rms == pytest.approx(1, abs=0.05)
    assert max(map(abs, figures.bias)) < 4 * figures.bias_error
    shifted = figures_of(Errors(errors.offset + np.array([0.1, -0.2]), bound, errors.phase, errors.snr))
    np.testing.assert_allclose(np.subtract(shifted.bias, figures.bias), [0.1, -0.2], atol=1e-9)


def test_only_isolated_stars_count_and_each_once():
    places = np.array([[20.0, 20.0], [60.0, 20.0], [62.0, 20.0], [20.0, 60.0]])
    stars = Stars(places, np.full(4, 10.0), np.full((4, 2), 2.0))
    assert isolated(stars).tolist() == [True, False, False, True]
    boxes = box_about(*np.array([[20.5, 20.0], [20.9, 20.0], [61.0, 20.0], [30.0, 60.0]]).T, *np.full((2, 4), 5.0))
    found = Detections(boxes.astype(np.float32), np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, np.int64))
    sources = unmeasured(Frame(np.zeros((80, 80), np.float32)), found)
    errors = position_errors(stars, sources)
    np.testing.assert_allclose(errors.offset, [[0.5, 0.0]], atol=1e-5)
    np.testing.assert_allclose(errors.bound, 0.12)
    assert len(position_errors(stars, sources, alone=False)) == 2


def test_of_nothing_there_are_no_figures():
    figures: PositionFigures = figures_of(pooled([]))
    assert figures.stars == 0
    assert figures.scatter is None
