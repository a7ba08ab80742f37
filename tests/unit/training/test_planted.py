import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from lynceus.detections import Detections
from lynceus.frame import read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from tests.data import test_data
from tests.unit.training.test_inject import SCENE
from training.errors import TrainingError
from training.fitting.crops import read_labelled
from training.recipe import PlantedSet, Recipe, SceneSet, TrainingSpec
from training.scenarios import known, planted
from training.scenarios.known import KnownSpec, known_sources
from training.scenarios.planted import draw_planted, find_frames, pixel_digest, refuse_tests
from training.scenes.inject import InjectSpec
from training.scenes.scene import draw_scene

SET = PlantedSet(
    folder="real", frames=("night/*.fits",), count=2, seed=3, largest=256, inject=InjectSpec(count=20, snr=(20, 60))
)
DARK = SET.model_copy(
    update={
        "folder": "dark", "frames": ("dark/*.fits",), "starless": True, "empty": 0.5, "count": 6,
        "inject": InjectSpec(count=20, snr=(20, 60), fwhm=(2, 4)), "columns": (0.0, 0.5),
    }
)  # fmt: skip


class Teacher:
    """Sees all of a truth, sure of what is bright."""

    def __init__(self, truth):
        self.truth = truth

    def detect(self, frame):
        boxes = np.stack([self.truth[edge] for edge in known.EDGES], axis=1).astype(np.float32)
        scores = np.where(self.truth["snr"] > 15, 0.9, 0.5).astype(np.float32)
        return Detections(boxes, scores, np.ones(len(boxes), np.int64))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of data, and a run with what was planted in it."""
    data, run = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    for name in ("night", "dark"):
        (data / name).mkdir()
    frame, truth = draw_scene(np.random.default_rng(7), SCENE)
    frame.writeto(data / "night" / "a.fits")
    rng = np.random.default_rng(1)
    dark = rng.normal(50, 3, (320, 640)).round()
    dark[rng.integers(0, 320, 40), rng.integers(0, 640, 40)] = 900
    fits.writeto(data / "dark" / "b.fits", dark.astype(np.int16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "_teacher", lambda path: Teacher(truth))
        label = planted.label_frame
        patch.setattr(planted, "ProcessPoolExecutor", _Here)
        for one in (SET, DARK):
            draw_planted(run, one, data, SkySpec(), 1)
        assert label is planted.label_frame
    return data, run, truth


class _Here:
    """Does the work of a pool in this process."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, work, *args):
        value = work(*args)
        return type("Done", (), {"result": lambda _: value})()


def test_pieces_tile_the_frame_and_can_be_trained_on(drawn):
    _, run, _ = drawn
    pieces = [read_labelled(path, SkySpec()) for path in sorted((run / "real").glob("*.fits"))]
    assert sum(one.frame.pixels.size for one in pieces) == SET.count * 320 * 320
    for one in pieces:
        height, width = one.frame.shape
        assert max(height, width) <= SET.largest
        assert (one.boxes >= 0).all()
        assert (one.boxes[:, 2:] <= (width, height)).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()


def test_what_two_ways_agree_on_is_learned_from_and_the_rest_ignored(drawn):
    data, _, truth = drawn
    frame = read_frame((data / "night" / "a.fits").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "_teacher", lambda path: Teacher(truth))
        table = known_sources(frame, estimate_sky(frame, SkySpec()), KnownSpec(), MeasureSpec())
    sure, rest = table[~table["ignored"]], table[table["ignored"]]
    distance = np.hypot(*(np.subtract.outer(sure[axis], truth[axis]) for axis in "xy"))
    assert len(sure) > 0.3 * len(truth)
    assert (distance.min(axis=1) < 1).all()
    own = truth[distance.argmin(axis=1)]
    sides = [np.asarray(some["x_max"] - some["x_min"]) for some in (sure, own)]
    assert np.median(sides[0] / sides[1]) == pytest.approx(1, abs=0.1)
    assert np.isnan(rest["snr"]).all()
    bright = truth[truth["snr"] > 30]
    everything = np.hypot(*(np.subtract.outer(bright[axis], table[axis]) for axis in "xy")).min(axis=1)
    assert np.mean(everything < 2) > 0.95


def test_a_frame_without_stars_has_no_source_but_the_planted(drawn):
    _, run, _ = drawn
    tables = [Table.read(path) for path in sorted((run / "dark").glob("*.ecsv"))]
    kinds = {str(kind) for table in tables if len(table) for kind in table["kind"]}
    assert kinds == {"star", "galaxy"}
    assert {fits.getdata(path).shape[1] for path in (run / "dark").glob("*.fits")} == {160}
    by_turn = [sum(len(table) for table in tables[4 * turn : 4 * turn + 4]) for turn in range(DARK.count)]
    assert 0 < sum(count == 0 for count in by_turn) < DARK.count


def test_what_is_there_is_kept_and_the_same_seed_plants_the_same(drawn):
    data, run, _ = drawn
    assert draw_planted(run, DARK, data, SkySpec(), 1) == len(list((run / "dark").glob("*.fits")))


def test_an_absent_frame_is_an_error_unless_it_is_optional(tmp_path):
    with pytest.raises(TrainingError, match=r"night/\*.fits .* LYNCEUS_TEST_DATA"):
        find_frames(SET, None)
    assert find_frames(SET.model_copy(update={"optional": True}), tmp_path) == []


def test_frames_to_be_judged_on_are_refused_by_name(tmp_path):
    (tmp_path / "frames" / "kids_viking").mkdir(parents=True)
    (tmp_path / "frames" / "kids_viking" / "r.fits").touch()
    with pytest.raises(TrainingError, match="judged"):
        find_frames(SET.model_copy(update={"frames": ("frames/*/*.fits",)}), tmp_path)


def test_frames_to_be_judged_on_are_refused_by_their_pixels(tmp_path):
    path = test_data("catalogues/eso_ntt_emmi/image.fits")
    copy = tmp_path / "harmless.fits"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(TrainingError, match="judged"):
        refuse_tests(read_frame(copy.read_bytes()), copy)
    assert len(pixel_digest(read_frame(copy.read_bytes()))) == 16


def test_a_planted_set_changes_only_the_phases_that_see_it():
    scenes = SceneSet(folder="train", count=1, seed=1)
    sets = dict.fromkeys(("train_set", "tuning_set", "validation_set"), scenes)
    plain = Recipe(name="a", **sets, training=(TrainingSpec(), TrainingSpec()))
    with_real = Recipe(name="a", **sets, planted_set=(SET,), training=(TrainingSpec(), TrainingSpec(planted=True)))
    assert plain.shaping(1) == with_real.shaping(1)
    assert plain.shaping(2) != with_real.shaping(2)
    with pytest.raises(ValueError, match="planted_set"):
        Recipe(name="a", **sets, training=(TrainingSpec(planted=True),))
