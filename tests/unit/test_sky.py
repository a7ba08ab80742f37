import numpy as np
import pytest
import sep
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.frame import Frame, read_frame
from lynceus.sky import SkySpec, cubic_taps, estimate_sky
from tests.data import REAL, real_frame

SPEC = SkySpec()


def noisy(shape: tuple[int, int], level: float = 100.0, noise: float = 5.0) -> np.ndarray:
    return np.random.default_rng(1).normal(level, noise, shape).astype(np.float32)


@given(st.floats(0, 1))
def test_cubic_taps_reproduce_a_line(fraction):
    taps = cubic_taps(fraction)
    assert sum(taps) == pytest.approx(1)
    assert sum(t * w for t, w in zip((-1, 0, 1, 2), taps, strict=True)) == pytest.approx(fraction, abs=1e-12)


@pytest.mark.parametrize("shape", [(10, 10), (64, 64), (130, 20), (40, 700), (300, 300)])
def test_flat_noise_gives_its_level_and_noise(shape):
    level, noise = estimate_sky(Frame(noisy(shape)), SPEC).upsampled()
    assert level.shape == noise.shape == shape
    assert np.median(level) == pytest.approx(100, abs=2)
    assert np.median(noise) == pytest.approx(5, rel=0.2)


def test_a_gradient_is_followed_to_the_edge():
    row, column = np.mgrid[:600, :700]
    true = 1000 + 0.1 * column - 0.05 * row
    level, _ = estimate_sky(Frame((true + noisy(true.shape, 0, 5)).astype(np.float32)), SPEC).upsampled()
    assert np.percentile(np.abs(level - true), 95) < 0.2 * 5


def test_stars_hardly_move_the_sky():
    pixels = noisy((512, 512))
    rng = np.random.default_rng(2)
    row, column = np.mgrid[-6:7, -6:7]
    star = np.exp(-0.5 * (row**2 + column**2) / 2.25)
    for x, y in rng.integers(10, 500, (700, 2)):
        pixels[y - 6 : y + 7, x - 6 : x + 7] += rng.uniform(20, 3000) * star
    level, noise = estimate_sky(Frame(pixels), SPEC).upsampled()
    assert np.median(level) == pytest.approx(100, abs=0.5 * 5)
    assert np.median(noise) == pytest.approx(5, rel=0.5)


def test_masked_squares_take_their_neighbours_value():
    pixels = noisy((400, 400))
    pixels[:200, :200] = np.nan
    level, noise = estimate_sky(Frame(pixels), SPEC).upsampled()
    assert np.abs(level - 100).max() < 3
    assert noise.min() > 3


def test_a_frame_with_few_usable_pixels_still_has_a_sky():
    pixels = np.full((300, 300), np.nan, np.float32)
    pixels[100:110] = noisy((10, 300))
    level, _ = estimate_sky(Frame(pixels), SPEC).upsampled()
    assert np.median(level) == pytest.approx(100, abs=1)


def test_noise_is_never_below_that_of_rounding():
    flat = Frame(np.full((100, 100), 7, np.float32), quantum=2.0)
    assert estimate_sky(flat, SPEC).noise.min() == pytest.approx(2 / np.sqrt(12))


@pytest.mark.parametrize("value", [0.0, 7.0, -1e20])
def test_a_constant_frame_has_a_positive_noise(value):
    assert (estimate_sky(Frame(np.full((90, 90), value, np.float32)), SPEC).noise > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 37), st.floats(0, 0.6))
def test_no_values_are_too_wild(seed, exponent, share):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 5, (130, 70)).astype(np.float32)
    wild = rng.random(pixels.shape) < share
    pixels[wild] = rng.choice([-1, 1], wild.sum()) * 10.0 ** rng.uniform(-exponent, exponent, wild.sum())
    pixels[rng.random(pixels.shape) < rng.uniform(0, 0.5)] = np.nan
    sky = estimate_sky(Frame(pixels), SPEC)
    assert np.isfinite(sky.level).all()
    assert (sky.noise > 0).all()


def test_a_few_absurd_pixels_do_not_matter():
    pixels = noisy((128, 128))
    pixels[::9, ::7] = -1e38
    sky = estimate_sky(Frame(pixels), SPEC)
    np.testing.assert_allclose(sky.level, 100, atol=1)
    np.testing.assert_allclose(sky.noise, 5, rtol=0.1)


@pytest.mark.parametrize("name", REAL)
def test_the_sky_of_real_frames_is_that_of_sextractor(name):
    frame = read_frame(real_frame(name))
    pixels, mask = np.nan_to_num(frame.pixels), frame.mask
    theirs = sep.Background(pixels, mask=mask, bw=64, bh=64, fw=3, fh=3)
    level, noise = estimate_sky(frame, SPEC).upsampled()
    empty = ~mask & (np.abs(pixels - theirs.back()) < 3 * theirs.rms())
    shift = np.abs(level - theirs.back())[empty] / theirs.rms()[empty]
    assert np.percentile(shift, 95) < 0.15
    assert np.percentile(np.abs(noise / theirs.rms() - 1)[empty], 95) < 0.15


@pytest.mark.parametrize("mesh", [16, 24])
def test_a_wide_frame_is_interpolated_some_columns_at_a_time_and_the_same(monkeypatch, mesh):
    sky = estimate_sky(Frame(noisy((150, 333))), SkySpec(mesh=mesh))
    level, noise = sky.upsampled()
    monkeypatch.setattr("lynceus.sky.WIDE", 37)
    rows, columns = slice(20, 91), slice(11, 333)
    np.testing.assert_allclose(sky.level_in(rows, columns), level[rows, columns], rtol=1e-6)
    np.testing.assert_allclose(sky.noise_in(rows, columns), noise[rows, columns], rtol=1e-6)
    np.testing.assert_allclose(sky.upsampled()[0], level, rtol=1e-6)
