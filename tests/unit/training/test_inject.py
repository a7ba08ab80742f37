import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.signal import fftconvolve

from lynceus.frame import read_frame
from lynceus.sky import SkySpec, estimate_sky
from tests.data import test_data
from training.scenes.inject import InjectSpec, inject
from training.scenes.optics import Optics
from training.scenes.ranges import SceneSpec
from training.scenes.scene import Planned, draw_scene
from training.scenes.stamps import draw_stamp

SCENE = SceneSpec(
    size=320, sources=(100, 100), empty=0, snr=(20, 300), slope=(0.2, 0.2), bright=0, fwhm=(3, 3), trailed=0,
    galaxies=(0, 0), correlated=0, clean=1, sky=(400, 400), gain=(2, 2), read_noise=(5, 5),
)  # fmt: skip
SPEC = InjectSpec(count=25, snr=(5, 60))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A frame that stands for a real one, its truth, and what came of planting sources in it."""
    folder = tmp_path_factory.mktemp("night")
    frame, truth = draw_scene(np.random.default_rng(7), SCENE.model_copy(update={"correlated": 1.0}))
    frame.header["OBJECT"] = "M 57"
    frame.writeto(folder / "night.fits")
    planted = inject(folder / "night.fits", folder / "out", SPEC, 5)
    return folder, truth, planted


def pixels(path):
    return fits.getdata(path).astype(float)


def test_light_is_added_where_the_truth_says_and_nowhere_else(night):
    folder, _, planted = night
    added = pixels(folder / "out" / "night.fits") - pixels(folder / "night.fits")
    sources = planted[~planted["ignored"]]
    assert len(sources) > 15
    row, column = np.indices(added.shape)
    near = np.zeros(added.shape, bool)
    for source in sources:
        around = np.hypot(column - source["x"], row - source["y"]) < 4 * source["fwhm"]
        near |= np.hypot(column - source["x"], row - source["y"]) < 40
        light = added[around]
        assert light.sum() == pytest.approx(source["flux"], rel=0.1, abs=4 * np.sqrt(source["flux"] / 2) + 20)
        assert np.average(column[around], weights=np.abs(light)) == pytest.approx(source["x"], abs=1.0)
        assert np.average(row[around], weights=np.abs(light)) == pytest.approx(source["y"], abs=1.0)
    assert (added[~near] == 0).all()


def test_the_file_keeps_its_header_and_its_numbers(night):
    folder, _, _ = night
    before, after = folder / "night.fits", folder / "out" / "night.fits"
    assert dict(fits.getheader(before)) == dict(fits.getheader(after))
    assert fits.getdata(before).dtype == fits.getdata(after).dtype


def test_what_was_there_is_ignored(night):
    _, truth, planted = night
    there = planted[planted["kind"] == ""]
    assert np.all(there["ignored"])
    assert np.isnan(there["snr"]).all()
    bright = truth[(truth["snr"] > 25) & ~truth["ignored"]]
    distance = np.hypot(*(np.subtract.outer(bright[axis], there[axis]) for axis in "xy")).min(axis=1)
    assert np.mean(distance < 0.5 * bright["fwhm"]) > 0.95


def test_planted_sources_are_clear_of_what_was_there(night):
    _, truth, planted = night
    sources, known = planted[planted["kind"] != ""], truth[truth["snr"] > 25]
    distance = np.hypot(*(np.subtract.outer(sources[axis], known[axis]) for axis in "xy"))
    assert distance.min() > 2.5 * planted.meta["fwhm"]
    assert set(sources["kind"]) == {"star", "galaxy"}


def test_the_point_spread_function_is_the_frames_own(night):
    _, truth, planted = night
    stars = planted[planted["kind"] == "star"]
    assert planted.meta["optics"] == "measured"
    np.testing.assert_allclose(stars["fwhm"], np.median(truth["fwhm"]), rtol=0.05)


def test_the_same_seed_plants_the_same(night, tmp_path):
    folder, _, planted = night
    again = inject(folder / "night.fits", tmp_path, SPEC, 5)
    assert (tmp_path / "night.fits").read_bytes() == (folder / "out" / "night.fits").read_bytes()
    np.testing.assert_array_equal(again["x"], planted["x"])
    other = inject(folder / "night.fits", tmp_path, SPEC, 6)
    assert not np.array_equal(other["x"][:5], planted["x"][:5])
    written = Table.read(folder / "out" / "night.ecsv")
    assert written.colnames == planted.colnames
    assert written.meta["fwhm"] == planted.meta["fwhm"]


def test_a_matched_filter_on_the_frame_sees_the_signal_to_noise(tmp_path):
    """On an empty sky whose noise is correlated: filter many places without a star, and the places with one."""
    spec = SCENE.model_copy(update={"sources": (1, 1), "correlated": 1.0, "size": 384})
    bare = draw_scene(np.random.default_rng(3), spec, lambda side: [Planned("star", 40, 40, (4, 4), 30.0)])[0]
    bare.writeto(tmp_path / "bare.fits")
    truth = inject(tmp_path / "bare.fits", tmp_path / "out", InjectSpec(count=20, snr=(8, 8), galaxies=0), 2)
    assert truth.meta["optics"] == "moffat"  # one star tells nothing
    stamp = draw_stamp(Optics(galsim.Moffat(beta=3.5, fwhm=truth.meta["fwhm"]), pixelised=True), np.zeros(2)).pixels
    sky = estimate_sky(read_frame((tmp_path / "bare.fits").read_bytes()), SkySpec()).upsampled()[0]
    before = fftconvolve(bare.data - sky, stamp[::-1, ::-1], mode="same")
    after = fftconvolve(pixels(tmp_path / "out" / "bare.fits") - sky, stamp[::-1, ::-1], mode="same")
    noise = 1.4826 * np.median(np.abs(before[90:-20, 90:-20] - np.median(before[90:-20, 90:-20])))
    stars = truth[truth["kind"] == "star"]
    at = np.rint(stars["y"]).astype(int), np.rint(stars["x"]).astype(int)
    assert len(stars) > 12
    assert np.median((after - before)[at]) / noise == pytest.approx(8.0, rel=0.12)


def test_sources_can_be_planted_beside_what_is_there(night, tmp_path):
    folder, _, _ = night
    truth = inject(folder / "night.fits", tmp_path, InjectSpec(count=20, near=1.0), 9)
    sources, there = truth[truth["kind"] != ""], truth[truth["kind"] == ""]
    distance = np.hypot(*(np.subtract.outer(sources[axis], there[axis]) for axis in "xy")).min(axis=1)
    assert len(sources) > 5
    assert (distance < 2.1 * (truth.meta["fwhm"] + there["fwhm"].max()) / 2).all()


def test_a_frame_without_room_gets_nothing(tmp_path):
    fits.writeto(tmp_path / "small.fits", np.random.default_rng(1).normal(100, 3, (16, 16)).astype(np.float32))
    truth = inject(tmp_path / "small.fits", tmp_path / "out", SPEC, 1)
    assert (truth["kind"] == "").all()
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "small.fits"), pixels(tmp_path / "small.fits"))


def test_a_real_frame_takes_sources(tmp_path):
    path = test_data("frames/phosim_decam/img_r.fits")
    truth = inject(path, tmp_path, SPEC, 1)
    frame = read_frame((tmp_path / "img_r.fits").read_bytes())
    positives = truth[~truth["ignored"]]
    assert len(positives) > 5
    assert (frame.pixels != read_frame(path.read_bytes()).pixels).any()
    assert (positives["x_max"] <= frame.shape[1]).all()
