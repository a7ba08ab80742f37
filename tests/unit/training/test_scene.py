import tomllib
from pathlib import Path

import galsim
import numpy as np
import pytest
from astropy.io import fits

from lynceus.box_rules import Ellipses, bundle_boxes, clipped
from lynceus.measure import MeasureSpec
from training.errors import TrainingError
from training.scenes.artefacts import bleed, trail_mask
from training.scenes.camera import Detector, draw_unevenness, expose
from training.scenes.optics import Optics, annulus, measured_optics, read_stamp
from training.scenes.ranges import SceneSpec, happens
from training.scenes.resample import REACH, Resampling
from training.scenes.scene import draw_scene
from training.scenes.stamps import FWHM_PER_SIGMA, draw_comet, draw_stamp, fwhm_of, moments_of, snr_of_flux
from training.scenes.streaks import Glare, add_ghosts, add_spikes, add_trails

PLAIN = SceneSpec(
    size=192, sources=(120, 120), empty=0, snr=(20, 200), bright=0, galaxies=(0.2, 0.2), galaxy_radius=(1, 3),
    fwhm=(3, 3), trailed=0, correlated=0, clean=1, sky=(300, 300),
)  # fmt: skip
STAR = Optics(galsim.Moffat(beta=3.0, fwhm=3.0))
KERNELS = tuple(REACH)


def scene(seed, **ranges):
    return draw_scene(np.random.default_rng([4, seed]), SceneSpec(**{**PLAIN.model_dump(), **ranges}))


def test_boxes_are_those_of_the_ellipse_that_the_truth_tells():
    _, truth = scene(1)
    values = {name: np.asarray(truth[name], float) for name in ("x", "y", "fwhm", "ellipticity", "theta")}
    shapes = Ellipses(values["fwhm"], values["fwhm"], 1 - values["ellipticity"], np.radians(values["theta"]))
    boxes = clipped(bundle_boxes(values["x"], values["y"], shapes, MeasureSpec()), (192, 192))
    edges = np.stack([truth[name] for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    np.testing.assert_allclose(boxes, edges, atol=1e-6)


@pytest.mark.parametrize(
    ("switch", "more"),
    [("defocused", {}), ("comets", {"comets": 20.0}), ("spikes", {"bright": 20}), ("ghosts", {"bright": 20}),
     ("resampled", {}), ("vignetting", {}), ("fringes", {}), ("amplifiers", {}), ("quantised", {}),
     ("bleed_rows", {"bright": 20})],
)  # fmt: skip
def test_a_switch_changes_the_frame_and_the_truth_stays_sound(switch, more):
    frame, truth = scene(2, **{switch: 1.0, **more})
    plain, _ = scene(2, **{name: value for name, value in more.items() if name != switch})
    assert frame.data.shape == plain.data.shape
    assert not np.array_equal(frame.data, plain.data)
    assert np.isfinite(frame.data).all()
    assert set(truth["kind"]) <= {"star", "galaxy", "comet"}
    assert ((truth["x_max"] > truth["x_min"]) & (truth["y_max"] > truth["y_min"])).all()
    assert ((truth["snr"] > 0) & (truth["fwhm"] > 1) & (truth["ellipticity"] >= 0) & (truth["ellipticity"] < 1)).all()
    assert ("comet" in truth["kind"]) == (switch == "comets")


def test_what_cannot_happen_draws_no_number():
    rng = np.random.default_rng(1)
    state = rng.bit_generator.state
    assert not happens(rng, 0.0)
    assert rng.bit_generator.state == state


@pytest.mark.parametrize("kernel", KERNELS)
def test_light_goes_where_a_resampling_says(kernel):
    resampling = Resampling(96, kernel, np.radians(7.0), (0.31, -0.17), drop=1.0)
    side = 96 + 2 * resampling.margin
    raw = np.zeros((side, side))
    middle = side // 2
    star = draw_stamp(STAR, np.zeros(2), 41).pixels
    raw[middle - 20 : middle + 21, middle - 20 : middle + 21] = star
    x, y = resampling.from_raw(np.array(float(middle)), np.array(float(middle)))
    seen = resampling.apply(raw)
    row, column = np.indices(seen.shape)
    near = np.hypot(column - x, row - y) < 6
    assert np.average(column[near], weights=seen[near]) == pytest.approx(float(x), abs=0.02)
    assert np.average(row[near], weights=seen[near]) == pytest.approx(float(y), abs=0.02)
    stamp, _ = resampling.stamp(star, middle, middle)
    top, left = round(float(y)) - 20, round(float(x)) - 20
    np.testing.assert_allclose(stamp, seen[top : top + 41, left : left + 41], atol=1e-6)
    back = resampling.from_raw(*resampling.to_raw(np.array(3.0), np.array(90.0)))
    np.testing.assert_allclose(back, (3.0, 90.0))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gathering_and_scattering_are_transposes(kernel):
    rng = np.random.default_rng(2)
    taps = Resampling(16, kernel, 0.1, (0.2, 0.4), drop=0.7)._taps(*(rng.uniform(4, 20, (9, 9)) for _ in range(2)))
    raw, picture = rng.normal(size=(25, 25)), rng.normal(size=(9, 9))
    assert (taps.gather(raw) * picture).sum() == pytest.approx((raw * taps.scatter(picture, raw.shape)).sum())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_noise_of_a_resampled_frame_is_what_its_signal_to_noise_counts(kernel):
    resampling = Resampling(40, kernel, np.radians(2.0), (0.5, 0.45), drop=0.8)
    side, rng = 40 + 2 * resampling.margin, np.random.default_rng(3)
    x, y = (round(float(axis)) for axis in resampling.to_raw(np.array(20.0), np.array(20.0)))
    stamp, boost = resampling.stamp(draw_stamp(STAR, np.zeros(2), 21).pixels, x, y)
    column, row = (round(float(axis)) for axis in resampling.from_raw(np.array(float(x)), np.array(float(y))))
    window = slice(row - 10, row + 11), slice(column - 10, column + 11)
    sums = [(resampling.apply(rng.normal(size=(side, side)))[window] * stamp).sum() for _ in range(600)]
    assert np.std(sums) == pytest.approx(boost * np.sqrt(np.square(stamp).sum()), rel=0.1)
    assert moments_of(stamp)[0] > 0


def test_interpolation_blurs_stars_and_the_truth_knows():
    star = draw_stamp(STAR, np.zeros(2), 41)
    shifted = Resampling(96, "bilinear", 0.0, (0.5, 0.5))
    stamp, boost = shifted.stamp(star.pixels, 50, 50)
    assert fwhm_of(moments_of(stamp)) > 1.05 * star.fwhm
    assert boost < 0.97  # averaged pixels are quieter
    still, none = Resampling(96, "lanczos", 0.0, (0.0, 0.0)).stamp(star.pixels, 50, 50)
    np.testing.assert_allclose(still, star.pixels, atol=1e-6)
    assert none == pytest.approx(1.0)


def test_trails_are_hidden_where_they_shine_and_nowhere_else():
    for seed in range(8):
        light = np.zeros((150, 200))
        trails = add_trails(light, STAR, np.random.default_rng(seed), 2.0, noise=10.0)
        mask = trail_mask(trails, light.shape)
        assert mask.any() == bool(trails)
        assert (light[~mask] < 0.75 * 10.0).all()
        assert (light[mask] > 0.05 * 10.0).mean() > 0.5 if trails else True


def test_a_trail_mask_is_a_band_about_its_line():
    trail = [10.0, 5.0, 60.0, 30.0, 6.0]
    mask = trail_mask([trail], (50, 80))
    turned = trail_mask([[5.0, 10.0, 30.0, 60.0, 6.0]], (80, 50))
    np.testing.assert_array_equal(mask.T, turned)
    np.testing.assert_array_equal(mask, trail_mask([[60.0, 30.0, 10.0, 5.0, 6.0]], (50, 80)))
    row, column = np.nonzero(mask)
    across = np.abs((column - 10) * 25 - (row - 5) * 50) / np.hypot(50, 25)
    assert across.max() <= 3
    assert mask.sum() == pytest.approx(6 * np.hypot(50, 25) + np.pi * 9, rel=0.05)
    assert not trail_mask([], (4, 5)).any()


def test_defocused_stars_are_rings():
    stamp = draw_stamp(Optics(galsim.Convolve(galsim.Gaussian(fwhm=2.0), annulus(8.0, 3.0))), np.zeros(2)).pixels
    middle = len(stamp) // 2
    assert stamp[middle, middle] < 0.2 * stamp.max()
    assert stamp.sum() == pytest.approx(1.0, abs=0.02)
    row, column = np.unravel_index(stamp.argmax(), stamp.shape)
    assert 3 < np.hypot(row - middle, column - middle) < 8


def test_a_measured_point_spread_function_is_what_it_was(tmp_path):
    star = draw_stamp(STAR, np.zeros(2), 41)
    np.save(tmp_path / "psf.npy", star.pixels)
    fits.writeto(tmp_path / "psf.fits", star.pixels)
    for name in ("psf.npy", "psf.fits"):
        again = draw_stamp(measured_optics(read_stamp(tmp_path / name)), np.zeros(2), 41)
        np.testing.assert_allclose(again.pixels, star.pixels / star.pixels.sum(), atol=3e-5)
        assert again.fwhm == pytest.approx(star.fwhm, rel=0.01)
    _, truth = scene(3, measured=1.0, stamps=(str(tmp_path / "psf.npy"),), galaxies=(0, 0))
    np.testing.assert_allclose(truth["fwhm"], star.fwhm, rtol=0.03)
    with pytest.raises(TrainingError, match="no point spread function"):
        scene(3, measured=1.0, stamps=(str(tmp_path / "none.fits"),))


def test_a_comet_has_its_tail_on_one_side():
    stamp = draw_comet(STAR, (4, 4), 8.0, 30.0, 0.0).pixels
    middle = len(stamp) // 2
    assert stamp[:, middle + 15 :].sum() > 3 * stamp[:, : middle - 14].sum()
    assert np.unravel_index(stamp.argmax(), stamp.shape) == (middle, middle)
    border = np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]])
    assert np.abs(border).max() < 1e-4 * stamp.max()


def test_spikes_and_ghosts_belong_to_bright_stars_alone():
    faint, bright = Glare(60, 60, 2e3, 300.0, 50.0), Glare(60, 60, 1e7, 1e6, 2000.0)
    for star, lit in ((faint, False), (bright, True)):
        for add in (
            lambda light, star: add_spikes(light, [star], 3.0, 5.0, np.random.default_rng(1)),
            lambda light, star: add_ghosts(light, [star], np.random.default_rng(1)),
        ):
            light = np.zeros((160, 150))
            add(light, star)
            assert (light > 0).any() == lit
    ghost = np.zeros((160, 150))
    add_ghosts(ghost, [Glare(20, 30, 1e7, 1e6, 2000.0)], np.random.default_rng(5))
    row, column = np.average(np.indices(ghost.shape).reshape(2, -1), axis=1, weights=ghost.ravel())
    assert row > 79.5
    assert column > 74.5  # on the other side of the middle


def test_uneven_cameras_tell_their_own_noise():
    spec = PLAIN.model_copy(update={"vignetting": 1.0, "amplifiers": 1.0, "fringes": 1.0})
    detector = Detector(sky=300.0, gain=2.0, read_noise=8.0, smoothing=0.0, saturation=6e4)
    rng = np.random.default_rng(8)
    uneven = draw_unevenness(rng, spec, detector)
    state = rng.bit_generator.state
    runs = []
    for seed in range(30):  # the same sky every time
        rng.bit_generator.state = state
        stream = _SameSky(rng, np.random.default_rng(seed))
        pixels, noise = expose(np.zeros((192, 192)), detector, stream, uneven)
        runs.append(pixels)
    measured = np.std(runs, axis=0)
    assert np.median(measured / noise) == pytest.approx(1.0, abs=0.03)
    for corner in np.s_[:96, :96], np.s_[:96, 96:], np.s_[96:, :96], np.s_[96:, 96:]:
        assert np.sqrt(np.mean((measured[corner] / noise[corner]) ** 2)) == pytest.approx(1.0, abs=0.03)


class _SameSky:
    """Two generators as one: `uniform` and the first `normal` repeat, photons and read noise do not."""

    def __init__(self, sky, grain):
        self._sky, self.poisson, self._grain = sky, grain.poisson, grain
        self.uniform, self.random = sky.uniform, sky.random

    def normal(self, mean, deviation, shape=None):
        return self._sky.normal(mean, deviation) if shape is None else self._grain.normal(mean, deviation, shape)


def test_coarse_numbers_are_multiples_of_their_step_and_cost_signal_to_noise():
    frame, truth = scene(5, quantised=1.0, galaxies=(0, 0), trailed=0)
    levels = np.unique(frame.data.astype(np.int64))
    step = np.gcd.reduce(np.diff(levels))
    np.testing.assert_array_equal(frame.data, np.round(frame.data / step) * step)
    gain, read_noise = frame.header["GAIN"], frame.header["RDNOISE"]
    noise = np.sqrt(300.0 / gain + (read_noise / gain) ** 2)
    assert 0.4 * noise < step < 4.1 * noise + 1
    stamp = draw_stamp(Optics(galsim.Gaussian(fwhm=truth["fwhm"].max())), np.zeros(2)).pixels
    fine = np.array([snr_of_flux(flux, stamp, noise, gain, 1.0) for flux in truth["flux"]])
    coarse = np.array([snr_of_flux(flux, stamp, np.hypot(noise, step / 12**0.5), gain, 1.0) for flux in truth["flux"]])
    np.testing.assert_allclose(truth["snr"], coarse, rtol=0.12)
    assert (coarse < fine).all()


def test_charge_runs_along_rows_as_along_columns():
    pixels = np.zeros((80, 60))
    pixels[40, 30] = 5e5
    turned = pixels.T.copy()
    bleed(pixels, 5e4)
    bleed(turned.T, 5e4)
    np.testing.assert_array_equal(turned, pixels.T)
    assert (pixels[:, 30] == 5e4).sum() > 5
    assert pixels.max() == 5e4


def test_a_wide_beam_holds_no_crowd():
    crowd = {"sources": (900, 900), "snr": (20, 30), "galaxies": (0, 0), "comets": 0.0}
    for fwhm, most in ((2.0, 0.15 * (192 / 2) ** 2), (8.0, 0.15 * (192 / 8) ** 2)):
        _, limited = scene(7, crowding=0.15, fwhm=(fwhm, fwhm), **crowd)
        assert 0 < len(limited) <= most
    _, free = scene(7, fwhm=(8, 8), merge=0.0, **crowd)
    assert len(free) > most


def test_the_fwhm_is_that_of_the_moments():
    _, truth = scene(6)
    determinant = truth["xx"] * truth["yy"] - truth["xy"] ** 2
    np.testing.assert_allclose(truth["fwhm"], FWHM_PER_SIGMA * np.asarray(determinant) ** 0.25)


def test_the_wide_recipe_turns_every_switch_on():
    path = Path(__file__).parents[3] / "training" / "recipes" / "wide.toml"
    recipe = tomllib.loads(path.read_text())
    spec = SceneSpec.model_validate(recipe["train_set"]["scene"])
    for switch in ("defocused", "comets", "spikes", "ghosts", "resampled", "vignetting", "fringes", "amplifiers",
                   "quantised", "bleed_rows"):  # fmt: skip
        assert getattr(spec, switch) > 0
    assert spec.fwhm == (1.2, 12.0)
    assert len({recipe[name]["seed"] for name in ("train_set", "tuning_set", "validation_set")}) == 3
