"""Laws of labelled exposures: what a catalogue or an exact truth says is what the network will be told."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from lynceus.detections import box_about
from lynceus.errors import CatalogueError, FrameError, NotFitsError
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tables import Catalogue
from lynceus.truth import Truth, truth_of
from tests.unit.training.tile_kit import FWHM, small_dataset, star_field, write_dataset, write_exposure
from training.curation.dataset import read_dataset
from training.errors import TrainingError
from training.tiling.exposures import (
    LabelledExposure,
    TruthSpec,
    accepted,
    exact_exposure,
    exposure_of,
    read_exposures,
    read_scenes,
)

SKY, MEASURE = SkySpec(), MeasureSpec()
POSITIONS = np.array([[30.0, 40.0], [80.25, 20.5], [120.0, 130.0], [60.0, 110.0]])
SIDE = MEASURE.box_scale * FWHM


def read(folder: Path, spec: TruthSpec | None = None, **options) -> list[LabelledExposure]:
    return list(read_exposures(folder, SKY, MEASURE, spec or TruthSpec(), **options))


@pytest.fixture
def exposed(tmp_path: Path) -> tuple[Path, Path]:
    """A frame and its catalogue: of its four stars the second is flagged."""
    write_exposure(tmp_path, "one", POSITIONS, flags=[0, 16, 0, 2], stars=[0.9, 0.9, 0.1, 0.5])
    return tmp_path / "one_U_imc.fits.gz", tmp_path / "one_U_imc_trl.dat"


def write_scene(folder: Path, name: str, meta: dict | None = None, **columns) -> Path:
    fits.PrimaryHDU(star_field(POSITIONS, (160, 160), 1)).writeto(folder / f"{name}.fits")
    boxes = box_about(*POSITIONS.T, np.full(4, SIDE), np.full(4, SIDE))
    edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), boxes.T, strict=True))
    told = {"x": POSITIONS[:, 0], "y": POSITIONS[:, 1], **edges, "ignored": [False, True, False, False]}
    Table({**told, **columns}, meta=meta or {}).write(folder / f"{name}.ecsv", format="ascii.ecsv")
    return folder / f"{name}.fits"


def test_an_exposure_is_the_frame_with_its_catalogue(exposed):
    one = exposure_of(*exposed, SKY, MEASURE)
    assert one.key == "one_U_imc"
    assert one.frame.shape == one.sky.shape == (160, 160)
    np.testing.assert_allclose(one.truth.boxes[:4], box_about(*POSITIONS.T, np.full(4, SIDE), np.full(4, SIDE)))
    assert one.truth.ignored[:4].tolist() == [False, True, False, False]
    assert one.truth.kinds is not None
    assert one.truth.kinds[:4] == ("star", "star", "galaxy", "star")


def test_flagged_rows_are_dropped_on_demand_and_do_not_return_as_candidates(exposed):
    dropped = exposure_of(*exposed, SKY, MEASURE, TruthSpec(flagged="drop", unlisted=False)).truth
    np.testing.assert_allclose(np.stack(dropped.centres, axis=1), POSITIONS[[0, 2, 3]], atol=1e-6)
    assert not dropped.ignored.any()
    assert "1 flagged rows were left out" in dropped.warnings
    seen = exposure_of(*exposed, SKY, MEASURE, TruthSpec(flagged="drop")).truth
    assert (len(seen), seen.listed, seen.ignored[3:].tolist()) == (4, 3, [True])
    np.testing.assert_allclose(np.stack(seen.centres, axis=1)[3], POSITIONS[1], atol=0.5)


def test_the_mask_says_which_flags_matter(exposed):
    for bits, ignored in ((16, [1]), (2, [3]), (18, [1, 3]), (0, [])):
        truth = exposure_of(*exposed, SKY, MEASURE, TruthSpec(ignore_flags=bits)).truth
        assert np.flatnonzero(truth.ignored).tolist() == ignored


def test_what_the_catalogue_lacks_is_ignored_or_background(tmp_path):
    write_exposure(tmp_path, "one", POSITIONS)
    catalogue = tmp_path / "one_U_imc_trl.dat"
    catalogue.write_text("\n".join(catalogue.read_text().splitlines()[:-1]) + "\n")
    frame = tmp_path / "one_U_imc.fits.gz"
    with_candidates = exposure_of(frame, catalogue, SKY, MEASURE).truth
    assert with_candidates.ignored.tolist() == [False, False, False, True]
    assert with_candidates.kinds == ("star", "star", "star", "")
    assert len(exposure_of(frame, catalogue, SKY, MEASURE, TruthSpec(unlisted=False)).truth) == 3


def test_frames_are_read_one_at_a_time_and_by_their_labels(tmp_path):
    labels = {"night0": "OK,ESO", "night1": "KO", "night2": "ok", "night3": "OK,LIGHT"}
    folder = small_dataset(tmp_path)
    write_dataset(folder, tmp_path / "archive", {f"night{n}": f"f{n}" for n in range(6)}, labels)
    assert [one.key for one in read(folder)] == ["night0", "night2", "night4", "night5"]
    assert [one.key for one in read(folder, keys={"night0", "night1"})] == ["night0"]
    assert [one.key for one in read(folder, TruthSpec(labels=("OK", "KO")))] == ["night1", "night2", "night4", "night5"]
    (tmp_path / "archive" / "night5_U_imc.fits.gz").unlink()
    stream = read_exposures(folder, SKY, MEASURE, TruthSpec())
    assert next(stream).key == "night0"  # what comes later is not looked at


def test_a_frame_that_fails_is_told_and_left_out(tmp_path):
    folder = small_dataset(tmp_path, frames=4)
    (tmp_path / "archive" / "night0_U_imc.fits.gz").write_bytes(b"not FITS")
    (tmp_path / "archive" / "night1_U_imc_trl.dat").write_bytes(b"")
    (tmp_path / "archive" / "night2_U_imc_trl.dat").unlink()
    told: dict[str, Exception] = {}
    assert [one.key for one in read(folder, failed=told.__setitem__)] == ["night3"]
    assert {key: type(error) for key, error in told.items()} == {
        "night0": NotFitsError,
        "night1": CatalogueError,
        "night2": FileNotFoundError,
    }


def test_by_default_failures_go_to_the_log(tmp_path, caplog):
    folder = small_dataset(tmp_path, frames=2)
    (tmp_path / "archive" / "night0_U_imc.fits.gz").write_bytes(b"not FITS")
    assert [one.key for one in read(folder)] == ["night1"]
    assert "night0 was left out" in caplog.text


def test_the_exact_truth_takes_the_place_of_the_catalogue(tmp_path):
    folder = small_dataset(tmp_path, frames=2)
    truth = tmp_path / "truth"
    truth.mkdir()
    write_scene(truth, "night0", snr=[9.0, 8.0, 7.0, 6.0], kind=["star", "galaxy", "comet", "star"])
    (one,) = read(folder, keys=["night0"], truth=truth)
    assert one.key == "night0"
    assert one.truth.brightness.tolist() == [9, 8, 7, 6]
    assert (one.truth.brightness_kind, one.truth.listed) == ("snr", 4)
    assert one.truth.kinds == ("star", "galaxy", "comet", "star")
    assert one.truth.ignored.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(np.stack(one.truth.centres, axis=1), POSITIONS)
    told: dict[str, Exception] = {}
    assert read(folder, keys=["night1"], truth=truth, failed=told.__setitem__) == []
    assert "there is no truth night1.ecsv" in str(told["night1"])


def test_trails_of_the_exact_truth_are_hidden(tmp_path):
    trail = [10.0, 20.0, 150.0, 90.0, 8.0]
    one = exact_exposure(write_scene(tmp_path, "00000", {"trails": [trail]}), tmp_path / "00000.ecsv", SKY)
    assert one.hidden is not None
    rows, columns = np.nonzero(one.hidden)
    away = np.abs((columns - 10) * 70 - (rows - 20) * 140) / np.hypot(70, 140)
    assert away.max() <= 4
    assert one.hidden[20, 10]
    assert one.hidden[90, 150]
    clean = exact_exposure(write_scene(tmp_path, "00001"), tmp_path / "00001.ecsv", SKY)
    assert clean.hidden is None


def test_boxes_of_the_exact_truth_end_at_the_frame(tmp_path):
    frame = write_scene(tmp_path, "00000")
    table = Table.read(tmp_path / "00000.ecsv")
    table["x_min"] -= 40.0
    table["x_max"] -= 40.0  # the first source is off the frame now
    table.write(tmp_path / "00000.ecsv", overwrite=True)
    truth = exact_exposure(frame, tmp_path / "00000.ecsv", SKY).truth
    assert len(truth) == 3
    assert truth.boxes.min() >= 0
    assert truth.boxes.max() <= 160


def test_simulated_sets_are_read_in_order(tmp_path):
    for name in ("00001", "00000", "00002"):
        write_scene(tmp_path, name)
    (tmp_path / "00002.ecsv").unlink()  # is being written
    assert [one.key for one in read_scenes(tmp_path, SKY)] == ["00000", "00001"]
    assert [one.key for one in read_scenes(tmp_path, SKY, keys=["00001"])] == ["00001"]
    (tmp_path / "00000.ecsv").write_text("x y\n1 2\n")
    told: dict[str, Exception] = {}
    assert [one.key for one in read_scenes(tmp_path, SKY, failed=told.__setitem__)] == ["00001"]
    assert isinstance(told["00000"], TrainingError)
    with pytest.raises(TrainingError, match="holds no simulated frames"):
        list(read_scenes(tmp_path / "elsewhere", SKY))


def test_a_truth_without_what_it_needs_is_refused(tmp_path):
    frame = write_scene(tmp_path, "00000")
    table = Table.read(tmp_path / "00000.ecsv")
    del table["x_max"], table["ignored"]
    table.write(tmp_path / "00000.ecsv", overwrite=True)
    with pytest.raises(TrainingError, match="it lacks x_max, ignored"):
        exact_exposure(frame, tmp_path / "00000.ecsv", SKY)


def test_an_empty_exact_truth_has_no_sources(tmp_path):
    frame = write_scene(tmp_path, "00000", kind=["star"] * 4)
    Table.read(tmp_path / "00000.ecsv")[:0].write(tmp_path / "00000.ecsv", overwrite=True)
    truth = exact_exposure(frame, tmp_path / "00000.ecsv", SKY).truth
    assert truth.boxes.shape == (0, 4)
    assert truth.kinds == ()


def test_no_data_set_no_exposures(tmp_path):
    with pytest.raises(TrainingError, match="no data set"):
        read(tmp_path)


def test_an_exposure_without_catalogue_is_told(tmp_path):
    folder = small_dataset(tmp_path, frames=1)
    table = Table.read(folder / "frames.ecsv")
    table["catalogue"] = [""]
    table.write(folder / "frames.ecsv", overwrite=True)
    told: dict[str, Exception] = {}
    assert read(folder, failed=told.__setitem__) == []
    assert "has no catalogue" in str(told["night0"])
    assert len(accepted(read_dataset(folder), TruthSpec())) == 1


def test_shapes_must_agree():
    frame = Frame(np.ones((40, 50), np.float32))
    truth = Truth(np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0), "none", (), 0)
    sky = estimate_sky(frame, SKY)
    with pytest.raises(ValueError, match="the sky"):
        LabelledExposure("a", Frame(np.ones((50, 40), np.float32)), sky, truth)
    with pytest.raises(ValueError, match="hidden"):
        LabelledExposure("a", frame, sky, truth, np.zeros((50, 40), bool))


def kinds_of(**columns) -> tuple[str, ...] | None:
    frame = Frame(star_field(POSITIONS[:3], (160, 160), 0))
    arrays = {
        name: np.array(values, object if isinstance(values[0], str) else float) for name, values in columns.items()
    }
    x, y = POSITIONS[:3].T + 1
    catalogue = Catalogue({"X_IMAGE": x, "Y_IMAGE": y, "FWHM_IMAGE": np.full(3, FWHM), **arrays}, "ascii_head")
    return truth_of(catalogue, frame, estimate_sky(frame, SKY), MEASURE, unlisted=False).kinds


def test_kinds_are_words_or_the_star_galaxy_classifier():
    assert kinds_of() is None
    assert kinds_of(KIND=["Star", "galaxy", " "]) == ("star", "galaxy", "")
    assert kinds_of(CLASS=["star", "trail", "galaxy"], CLASS_STAR=[0, 0, 0]) == ("star", "trail", "galaxy")
    assert kinds_of(CLASS_STAR=[0.5, 0.49, np.nan]) == ("star", "galaxy", "")
    assert kinds_of(CLASS=[1.0, 2.0, 3.0]) is None


def test_kinds_stay_with_their_sources():
    frame = Frame(star_field(POSITIONS, (160, 160), 0))
    x, y = POSITIONS[[0, 0, 1, 2]].T + 1  # one row twice, one off the frame, one star unlisted
    columns = {"X_IMAGE": np.append(x, 900.0), "Y_IMAGE": np.append(y, 9.0), "FWHM_IMAGE": np.full(5, FWHM)}
    catalogue = Catalogue({**columns, "KIND": np.array(["a", "b", "c", "d", "e"], object)}, "ascii_head")
    truth = truth_of(catalogue, frame, estimate_sky(frame, SKY), MEASURE)
    assert truth.kinds == ("a", "c", "d", "")
    with pytest.raises(ValueError, match="kinds"):
        Truth(truth.boxes, truth.ignored, truth.brightness, "none", (), 3, kinds=("star",))


def test_a_damaged_frame_is_a_frame_error(tmp_path, exposed):
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE")
    with pytest.raises(FrameError):
        exposure_of(broken, exposed[1], SKY, MEASURE)
