import hashlib

import galsim
import numpy as np
import pytest
from astropy.table import Table

from lynceus.detections import box_about
from training.scenes.camera import Detector
from training.scenes.optics import Optics
from training.scenes.ranges import SceneSpec
from training.scenes.scene import draw_scene
from training.scenes.simulate import simulate
from training.scenes.stamps import FWHM_PER_SIGMA, draw_stamp, flux_of_snr, snr_of_flux

PLAIN = SceneSpec(
    size=256, sources=(80, 80), empty=0, snr=(20, 200), bright=0, galaxies=(0, 0), trailed=0, correlated=0, clean=1
)


# Of the pixels and the boxes of frames drawn from the default recipe's ranges before any switch was added to them.
VALIDATION = {"sources": (20, 250), "snr": (3, 500), "bright": 0, "empty": 0, "fwhm": (1.5, 6.0), "clean": 0}
DRAWN = [
    ({}, 0, "bacb40763b73cb54", "e372c1759b90c507"),
    ({}, 1, "14e7be7297f2be75", "e3b0c44298fc1c14"),
    ({}, 2, "135d9797fa1dd1e3", "7d1bfc3bf755f58e"),
    ({}, 3, "a3b31a586a691601", "a1415688cf402b68"),
    (VALIDATION, 0, "fc8b89cd5577c4a9", "b8776b42db8a9173"),
    (VALIDATION, 1, "f6e72d3c8d28245b", "9728e0ce38450364"),
    (VALIDATION, 2, "5b56a65a704d19df", "2afe8e2d65320f3f"),
    (VALIDATION, 3, "850d90bb876156d0", "894166d3e5096bf3"),
]
OFF = ("defocused", "measured", "comets", "spikes", "ghosts", "resampled", "vignetting", "fringes", "amplifiers",
       "quantised", "bleed_rows")  # fmt: skip


@pytest.mark.parametrize(("ranges", "index", "pixels", "boxes"), DRAWN)
def test_the_shipped_recipe_repeats(ranges, index, pixels, boxes):
    frame, truth = draw_scene(np.random.default_rng([20261, index]), SceneSpec(size=128, **ranges))
    edges = np.stack([np.asarray(truth[name], float) for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    assert hashlib.sha256(frame.data.tobytes()).hexdigest()[:16] == pixels
    assert hashlib.sha256(np.round(edges, 6).tobytes()).hexdigest()[:16] == boxes


@pytest.mark.parametrize("switch", OFF)
def test_every_later_switch_is_off_by_default(switch):
    assert SceneSpec.model_fields[switch].default == 0


def test_a_scene_depends_on_its_seed_alone():
    first, truth = draw_scene(np.random.default_rng([1, 2]), PLAIN)
    again, same = draw_scene(np.random.default_rng([1, 2]), PLAIN)
    other, _ = draw_scene(np.random.default_rng([1, 3]), PLAIN)
    np.testing.assert_array_equal(first.data, again.data)
    assert (truth == same).all()
    assert not np.array_equal(first.data, other.data)


def test_the_light_is_where_the_truth_says():
    frame, truth = draw_scene(np.random.default_rng(5), PLAIN.model_copy(update={"sources": (8, 8)}))
    pixels = frame.data.astype(float) - np.median(frame.data)
    brightest = truth[np.argmax(truth["flux"])]
    x, y = round(brightest["x"]), round(brightest["y"])
    reach = int(3 * brightest["fwhm"])
    rows, columns = np.mgrid[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
    stamp = pixels[rows[0, 0] : y + reach + 1, columns[0, 0] : x + reach + 1]
    rows, columns = rows[: stamp.shape[0], : stamp.shape[1]], columns[: stamp.shape[0], : stamp.shape[1]]
    weight = stamp * (np.hypot(columns - brightest["x"], rows - brightest["y"]) < brightest["fwhm"])
    assert (weight * columns).sum() / weight.sum() == pytest.approx(brightest["x"], abs=0.2)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(brightest["y"], abs=0.2)


def test_boxes_follow_the_rule():
    _, truth = draw_scene(np.random.default_rng(6), PLAIN)
    inside = truth[(np.abs(truth["x"] - 128) < 60) & (np.abs(truth["y"] - 128) < 60)]
    width = np.maximum(2.5 * FWHM_PER_SIGMA * np.sqrt(inside["xx"]), 4)
    height = np.maximum(2.5 * FWHM_PER_SIGMA * np.sqrt(inside["yy"]), 4)
    boxes = box_about(np.array(inside["x"]), np.array(inside["y"]), np.array(width), np.array(height))
    np.testing.assert_allclose(np.stack([inside[c] for c in ("x_min", "y_min", "x_max", "y_max")], 1), boxes)


def test_a_matched_filter_sees_the_snr_that_was_asked_for():
    rng = np.random.default_rng(1)
    stamp = draw_stamp(Optics(galsim.Gaussian(fwhm=3.0)), np.zeros(2)).pixels
    detector = Detector(sky=400.0, gain=2.0, read_noise=5.0, smoothing=0.0, saturation=6e4)
    flux = flux_of_snr(15.0, stamp, detector.noise, detector.gain, boost=1.0)
    assert snr_of_flux(flux, stamp, detector.noise, detector.gain, boost=1.0) == pytest.approx(15.0)
    mean = (flux * stamp + 400.0) * 2.0
    exposures = (rng.poisson(mean, (4000, *stamp.shape)) + rng.normal(0, 5.0, (4000, *stamp.shape))) / 2.0 - 400.0
    filtered = (exposures * stamp).sum(axis=(1, 2)) / np.square(stamp).sum()
    assert filtered.mean() == pytest.approx(flux, rel=0.01)
    assert filtered.mean() / filtered.std() == pytest.approx(15.0, rel=0.05)


def test_close_pairs_are_one_source():
    _, truth = draw_scene(np.random.default_rng(2), PLAIN.model_copy(update={"sources": (3000, 3000), "fwhm": (4, 4)}))
    positions = np.stack([truth["x"], truth["y"]], 1)
    distance = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 0.5 * truth["fwhm"].min() * 0.99


@pytest.mark.parametrize("seed", range(6))
def test_every_kind_of_scene_can_be_drawn(seed):
    wide = SceneSpec(size=128)
    frame, truth = draw_scene(np.random.default_rng([9, seed]), wide)
    assert frame.data.shape == (128, 128)
    assert np.isfinite(frame.data).all()
    assert set(truth["kind"]) <= {"star", "galaxy"}
    assert (np.asarray(truth["ignored"]) >= np.asarray(truth["snr"] < 3)).all()


def test_simulating_again_keeps_what_is_there(tmp_path):
    spec = SceneSpec(size=64)
    simulate(tmp_path, 2, 1, spec, workers=1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "00001.ecsv").unlink()
    simulate(tmp_path, 2, 1, spec, workers=1)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(after) == ["00000.ecsv", "00000.fits", "00001.ecsv", "00001.fits"]
    assert after["00000.fits"] == before["00000.fits"]
    assert len(Table.read(tmp_path / "00001.ecsv", format="ascii.ecsv").colnames) == 17
