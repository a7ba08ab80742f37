from dataclasses import replace

import numpy as np
import pytest

from lynceus.facts import Facts
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tables import Catalogue
from lynceus.unlisted import find_peaks
from tests.unit.training.archives import SIDE, SIGMA, exposure, gaussian, sky, star_field
from training.curation.proposals import Proposal, ProposalSpec, propose
from training.curation.quality import Quality, assess, fit_of

SATURATION = 60000.0
STARS, POSITIONS = exposure(star_field(3))
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def frame_of(pixels: np.ndarray) -> Frame:
    clipped = np.minimum(pixels, SATURATION).astype(np.float32)
    return Frame(np.ascontiguousarray(clipped), facts=Facts(saturation=SATURATION, gain=1.5))


def assessed(pixels: np.ndarray) -> Quality:
    frame = frame_of(pixels)
    under = estimate_sky(frame, SkySpec())
    return assess(frame, under, find_peaks(frame, under)[0], MeasureSpec())


def proposed(pixels: np.ndarray, target: str = "") -> Proposal:
    return propose(assessed(pixels), ProposalSpec(), target)


def line(angle: float, through: tuple[float, float], height: float, sigma: float = 1.5) -> np.ndarray:
    """A straight line across the frame, at an angle in degrees from x."""
    turn = np.radians(angle)
    away = (ROWS - through[1]) * np.cos(turn) - (COLUMNS - through[0]) * np.sin(turn)
    return height * np.exp(-(away**2) / (2 * sigma**2))


def test_a_plain_field_is_ok_and_its_facts_are_right():
    quality = assessed(STARS)
    assert quality.fwhm_px == pytest.approx(2.355 * SIGMA, rel=0.05)
    assert quality.background == pytest.approx(400, abs=2)
    assert quality.noise == pytest.approx(6, rel=0.15)
    assert quality.ellipticity < 0.1
    assert quality.saturated_area == 0
    assert propose(quality, ProposalSpec()).labels == ("OK",)


@pytest.mark.parametrize("angle", [12, 33, 61, 104, 140, 167])
def test_a_trail_is_found_wherever_it_runs(angle):
    quality = assessed(STARS + line(angle, (90, 105), 12.0))
    assert propose(quality, ProposalSpec()).labels == ("TRACE",)
    ends = np.array(quality.trail_ends).reshape(2, 2)
    turn = np.radians(angle)
    away = (ends[:, 1] - 105) * np.cos(turn) - (ends[:, 0] - 90) * np.sin(turn)
    assert np.abs(away).max() < 4
    assert np.hypot(*(ends[1] - ends[0])) > 0.6 * SIDE


@pytest.mark.parametrize("axis", [0, 1])
def test_a_bad_column_or_row_is_no_trail(axis):
    pixels = STARS.copy()
    np.moveaxis(pixels, axis, 0)[:, 70] += 300
    np.moveaxis(pixels, axis, 0)[40:150, 120:122] += 100
    assert "TRACE" not in proposed(pixels).labels


def test_masked_pixels_change_no_label():
    pixels = STARS.copy()
    pixels[40:60, 30:90] = np.nan
    quality = assessed(pixels)
    assert quality.masked_share == pytest.approx(1200 / SIDE**2)
    assert propose(quality, ProposalSpec()).labels == ("OK",)


def test_a_saturated_star_is_told_by_its_spot_and_its_profile():
    quality = assessed(STARS + 4e5 * gaussian(100, 90, 3.0))
    assert "ESO" in propose(quality, ProposalSpec()).labels
    profile = np.array(quality.profile)
    flat = profile == profile.max()
    assert flat.sum() >= 8
    assert quality.saturated_area == pytest.approx(np.pi * (flat.sum() / 2) ** 2, rel=0.3)


@pytest.mark.parametrize(("x", "y"), [(60, 120), (110, 80)])
def test_a_galaxy_is_large_and_even(x, y):
    quality = assessed(STARS + 150 * gaussian(x, y, 14, 0.7, 0.5))
    assert propose(quality, ProposalSpec()).labels == ("OK", "GALAXY")
    assert quality.largest_px > 40
    assert (quality.extended[0]["x"], quality.extended[0]["y"]) == pytest.approx((x, y), abs=12)


def test_a_comet_has_a_tail_or_a_name():
    along, across = (COLUMNS - 50) * 0.8 + (ROWS - 60) * 0.6, (ROWS - 60) * 0.8 - (COLUMNS - 50) * 0.6
    tail = np.exp(-np.clip(along, 0, None) / 40 - np.clip(-along, 0, None) / 4) * np.exp(-(across**2) / 200)
    assert "COMET" in proposed(STARS + 200 * tail).labels
    assert all("COMET" in proposed(STARS, name).labels for name in ("C/2020 F3", "67P", "comet NEOWISE"))
    assert not any("COMET" in proposed(STARS, name).labels for name in ("NGC 67", "PC 2020", "M31", "67"))


def test_a_close_pair_of_bright_stars_is_a_binary():
    pair = 8000 * gaussian(100, 100) + 6000 * gaussian(108, 104)
    apart = 8000 * gaussian(100, 100) + 6000 * gaussian(150, 60)
    assert proposed(STARS + pair).labels == ("OK", "BINARY")
    assert proposed(STARS + apart).labels == ("OK",)


def test_light_from_beyond_the_edge_is_no_sky():
    leak = 900 * np.exp(-COLUMNS / 50)
    assert "LIGHT" in proposed(STARS + leak).labels
    assert proposed(STARS * (1 - 0.05 * COLUMNS / SIDE)).labels == ("OK",)


def test_fringes_and_steps_are_patterns():
    fringes = 5 * np.sin(2 * np.pi * (ROWS + 0.4 * COLUMNS) / 64)
    assert proposed(STARS + fringes).labels == ("background_pattern",)
    assert proposed(STARS + 12.0 * (COLUMNS > 70)).labels == ("background_pattern",)


@pytest.mark.parametrize(
    "pixels",
    [
        sky(1),
        sum((900 * gaussian(*place, 4.0, 0.25, 0.6) for place in POSITIONS[:20]), sky(2)),
        np.where(ROWS < 0.6 * SIDE, np.nan, STARS),
    ],
    ids=["no sources", "the telescope moved", "mostly masked"],
)
def test_what_is_of_no_use_is_told(pixels):
    found = proposed(pixels)
    assert "KO" in found.labels
    assert "OK" not in found.labels
    assert all(why.startswith(f"{label}: ") for label, why in zip(found.labels, found.why, strict=True))


@pytest.mark.parametrize("value", [0.0, 1e9, -5.0])
def test_a_flat_frame_is_assessed_all_the_same(value):
    assert "KO" in proposed(np.full((SIDE, SIDE), value)).labels


@pytest.mark.parametrize("shape", [(8, 8), (9, 300), (64, 17)])
def test_small_frames_are_assessed_all_the_same(shape):
    frame = replace(frame_of(sky(4)), pixels=np.ascontiguousarray(np.resize(sky(4), shape).astype(np.float32)))
    under = estimate_sky(frame, SkySpec())
    quality = assess(frame, under, find_peaks(frame, under)[0], MeasureSpec())
    assert propose(quality, ProposalSpec()).labels


def test_the_fit_of_a_catalogue_counts_what_is_not_seen():
    frame = frame_of(STARS)
    under = estimate_sky(frame, SkySpec())
    peaks, _ = find_peaks(frame, under)
    away = np.array([[5.0, 5.0], [300.0, 20.0]])
    free = next(p for p in np.argwhere(sky(7) > 0)[::977] if np.hypot(*(POSITIONS - p[::-1]).T).min() > 15)[::-1]
    x, y = np.concatenate([POSITIONS, [free], away[1:]]).T
    fit = fit_of(Catalogue({"X_IMAGE": x + 1, "Y_IMAGE": y + 1}, "ascii_head"), frame, peaks, 2.355 * SIGMA)
    assert fit.verdict == "fits"
    assert (fit.rows, fit.rows_on_frame) == (len(x), len(x) - 1)
    blended = sum(np.hypot(peaks.x - px, peaks.y - py).min() > 4.6 for px, py in POSITIONS)
    assert fit.unseen == blended + 1
