"""Laws of cutting: what a tile says of a source is what the frame says, and an interruption leaves no mark."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.tiling.tile
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec, cut_tiles
from lynceus.truth import Truth
from tests.unit.training.tile_kit import small_dataset, sources_of, star_field, write_dataset, write_exposure
from training.errors import TrainingError
from training.tiling.cutting import cut, labels_of, offsets_of, tiles_of
from training.tiling.exposures import LabelledExposure, TruthSpec
from training.tiling.shards import LabelledTile
from training.tiling.split import SPLITS
from training.tiling.tile import make_tiles
from training.tiling.tileset import TileSet, TileSetSpec

SKY, MEASURE = SkySpec(mesh=32), MeasureSpec()
SPEC = TileSetSpec(size=64, per_shard=5, negatives=1.0)
FRAME = Frame(star_field(np.zeros((0, 2)), (150, 200), 1))
UNDER = estimate_sky(FRAME, SKY)
BOXES = st.lists(st.tuples(st.floats(0, 190), st.floats(0, 140), st.floats(1, 60), st.floats(1, 60)), max_size=8)


def truth_with(boxes: list, ignored: list[bool] | None = None, kinds: tuple[str, ...] | None = None) -> Truth:
    """A truth of boxes given as corner and sides, ended at the frame."""
    corners = np.array(boxes, float).reshape(-1, 4)
    edges = np.concatenate([corners[:, :2], np.minimum(corners[:, :2] + corners[:, 2:], [200, 150])], axis=1)
    told = np.zeros(len(edges), bool) if ignored is None else np.array(ignored, bool)
    return Truth(edges, told, np.arange(len(edges), dtype=float), "snr", (), len(edges), kinds=kinds)


def exposure_with(truth: Truth, key: str = "a", hidden: np.ndarray | None = None) -> LabelledExposure:
    return LabelledExposure(key, FRAME, UNDER, truth, hidden)


def made(
    folder: Path, out: Path, spec: TileSetSpec = SPEC, classes: tuple[str, ...] = ("source",), **options
) -> TileSet:
    return make_tiles(folder, out, spec, SKY, MEASURE, classes, **{"workers": 1, **options})


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> tuple[Path, Path]:
    """A data set, and the tile set that comes of it in one go."""
    folder = tmp_path_factory.mktemp("untouched")
    dataset = small_dataset(folder)
    made(dataset, folder / "whole")
    return dataset, folder / "whole"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(BOXES, st.integers(0, 136), st.integers(0, 86))
def test_a_source_is_whole_cut_ignored_or_absent(boxes, x, y):
    truth = truth_with(boxes)
    tile = cut(exposure_with(truth), labels_of(truth, ("source",)), (x, y), 64)
    inside = np.clip(truth.boxes - [x, y, x, y], 0, 64)
    sides, whole = inside[:, 2:] - inside[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]
    touching = (sides > 0).all(axis=1)
    seen = touching & (sides.prod(axis=1) >= 0.5 * whole.prod(axis=1)) & (sides >= 1).all(axis=1)
    np.testing.assert_array_equal(tile.boxes, inside[seen].astype(np.float32))
    np.testing.assert_array_equal(tile.brightness, np.flatnonzero(seen))
    np.testing.assert_array_equal(tile.ignored, inside[touching & ~seen].astype(np.float32))
    assert tile.labels.tolist() == [1] * seen.sum()


@settings(max_examples=30)
@given(BOXES, st.data())
def test_what_is_ignored_on_the_frame_is_ignored_in_every_tile(boxes, data):
    flags = data.draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
    truth = truth_with(boxes, flags)
    for tile in tiles_of(exposure_with(truth), SPEC, ("source",)):
        assert not truth.ignored[tile.brightness.astype(int)].any()


@pytest.mark.parametrize("size", [64, 100, 256])
def test_a_grid_shows_the_detectors_tiles_and_every_pixel(size):
    exposure = exposure_with(truth_with([]))
    grid = tiles_of(exposure, SPEC.model_copy(update={"size": size}), ("source",))
    expected = cut_tiles(FRAME, UNDER, TileSpec(size=size, overlap=0, margin=0))
    shown = np.zeros(FRAME.shape, bool)
    for tile, other in zip(grid, expected, strict=True):
        x, y = tile.origin
        shown[y : y + size, x : x + size] = True
        assert (tile.origin, tile.mesh) == (other.origin, other.mesh)
        for ours, theirs in zip(
            (tile.pixels, *tile.window, tile.phase), (other.pixels, *other.window, other.phase), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert shown.all()


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 190), st.floats(0, 140), st.floats(4, 9), st.floats(4, 9)), min_size=1, max_size=3)
)
def test_random_tiles_show_a_source_each_and_lie_on_the_frame(boxes):
    truth = truth_with(boxes)
    spec = SPEC.model_copy(update={"placing": "random", "per_frame": 6})
    offsets = offsets_of(exposure_with(truth), np.ones(len(truth), bool), spec)
    assert 1 <= len(offsets) <= 6
    for x, y in offsets:
        assert 0 <= x <= 136
        assert 0 <= y <= 86
        assert len(cut(exposure_with(truth), labels_of(truth, ("source",)), (x, y), 64).boxes)


def test_random_tiles_depend_on_the_seed_and_the_exposure_alone():
    truth = truth_with([(50, 50, 8, 8), (120, 90, 8, 8)])
    positive = np.ones(2, bool)
    spec = SPEC.model_copy(update={"placing": "random"})
    first = offsets_of(exposure_with(truth), positive, spec)
    assert first == offsets_of(exposure_with(truth), positive, spec)
    assert first != offsets_of(exposure_with(truth, "b"), positive, spec)
    assert first != offsets_of(exposure_with(truth), positive, spec.model_copy(update={"seed": 2}))


def test_a_source_larger_than_a_tile_is_no_positive():
    truth = truth_with([(10, 10, 150, 120)])
    spec = SPEC.model_copy(update={"placing": "random", "negatives": 0.0})
    assert tiles_of(exposure_with(truth), spec, ("source",)) == []


@settings(max_examples=20)
@given(st.floats(0, 1), st.floats(0, 1))
def test_more_negatives_are_the_same_ones_and_others(less, more):
    less, more = sorted((less, more))
    kept = [
        {
            tile.origin
            for tile in tiles_of(
                exposure_with(truth_with([])), SPEC.model_copy(update={"negatives": share}), ("source",)
            )
        }
        for share in (0.0, less, more, 1.0)
    ]
    assert kept[0] == set()
    assert kept[1] <= kept[2] <= kept[3]
    assert len(kept[3]) == 12


def test_the_share_of_negatives_is_the_one_asked_for():
    spec = SPEC.model_copy(update={"negatives": 0.3})
    exposures = [exposure_with(truth_with([(70, 70, 8, 8)]), f"frame{number}") for number in range(60)]
    tiles = [tile for exposure in exposures for tile in tiles_of(exposure, spec, ("source",))]
    empty = sum(not len(tile.boxes) for tile in tiles)
    assert len(tiles) - empty == 60 * sum(len(tile.boxes) for tile in tiles_of(exposures[0], spec, ("source",)))
    assert empty / (60 * 11) == pytest.approx(0.3, abs=0.06)


def test_tiles_without_a_usable_pixel_are_no_negatives():
    pixels = FRAME.pixels.copy()
    pixels[:, :128] = np.nan
    exposure = replace(exposure_with(truth_with([])), frame=Frame(pixels))
    assert {tile.origin[0] for tile in tiles_of(exposure, SPEC, ("source",))} == {128, 136}


def test_classes_are_told_apart_by_kind():
    truth = truth_with(
        [(20 * n, 20, 8, 8) for n in range(5)], [False] * 4 + [True], ("star", "GALAXY", "comet", "", "star")
    )
    assert labels_of(truth, ("star", "galaxy")).tolist() == [1, 2, 0, 0, 0]
    assert labels_of(truth, ("Galaxy", "Star", "comet")).tolist() == [2, 1, 3, 0, 0]
    assert labels_of(truth, ("source",)).tolist() == [1, 1, 1, 1, 0]
    tile = cut(exposure_with(truth), labels_of(truth, ("star", "galaxy")), (0, 0), 128)
    assert (tile.labels.tolist(), len(tile.ignored)) == ([1, 2], 3)
    with pytest.raises(TrainingError, match="does not tell star, galaxy apart"):
        labels_of(truth_with([(20, 20, 8, 8)]), ("star", "galaxy"))
    assert labels_of(truth_with([]), ("star", "galaxy")).tolist() == []


def test_what_is_hidden_on_the_frame_is_hidden_in_its_tiles():
    hidden = np.zeros(FRAME.shape, bool)
    hidden[10:20, 60:80] = True
    tiles = tiles_of(exposure_with(truth_with([]), hidden=hidden), SPEC, ("source",))
    again = np.zeros(FRAME.shape, bool)
    for tile in tiles:
        x, y = tile.origin
        if tile.hidden is not None:
            again[y : y + 64, x : x + 64] |= tile.hidden
    np.testing.assert_array_equal(again, hidden)
    assert sum(tile.hidden is not None for tile in tiles) == 2


def test_a_data_set_becomes_a_tile_set(tmp_path):
    tiles = made(small_dataset(tmp_path), tmp_path / "tiles")
    keys = [set(tiles.keys(split)) for split in SPLITS]
    assert set.union(*keys) == {f"night{number}" for number in range(6)}
    assert sum(map(len, keys)) == 6
    for split, own in zip(SPLITS, keys, strict=True):
        assert {tile.key for tile in tiles.split(split)} == own
    assert (tiles.spec, tiles.sky, tiles.measure, tiles.classes) == (SPEC, SKY, MEASURE, ("source",))
    assert TileSet(tmp_path / "tiles").fingerprint == tiles.fingerprint
    assert len([tile for split in SPLITS for tile in tiles.split(split)]) == 6 * 9


def test_the_sources_of_the_catalogue_are_in_the_tiles(tmp_path):
    tiles = made(small_dataset(tmp_path), tmp_path / "tiles")
    cut_out = [tile for split in SPLITS for tile in tiles.split(split)]
    for key in {tile.key for tile in cut_out}:
        positions, flags = sources_of(key)
        own = [tile for tile in cut_out if tile.key == key]
        for position, flag in zip(positions, flags, strict=True):
            listed, ignored = (sum(holds(tile, part, position) for tile in own) for part in ("boxes", "ignored"))
            assert listed + ignored >= 1
            assert not (flag and listed)


def holds(tile: LabelledTile, part: str, position: np.ndarray) -> bool:
    """Whether the tile has a whole box about this position of its frame."""
    boxes = getattr(tile, part)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5 + np.array(tile.origin)
    cut_off = (boxes == 0).any(axis=1) | (boxes == tile.size).any(axis=1)
    return bool((np.abs(middles - position) < np.where(cut_off, 6, 0.01)[:, None]).all(axis=1).any())


class Killed(BaseException):
    """Stands for the end of the process: nothing that handles errors catches it."""


@pytest.mark.parametrize("victim", ["write_shard", "write_whole", "label_exposure"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch, untouched, victim, at):
    folder, whole = untouched
    real, calls = getattr(training.tiling.tile, victim), iter(range(1, 1000))

    def killing(*args, **options):
        number = next(calls)
        result = None if number == at else real(*args, **options)
        if number in (at, at + 3):  # once before its work, once after it
            raise Killed
        return result

    monkeypatch.setattr(training.tiling.tile, victim, killing)
    for _ in range(2):
        with pytest.raises(Killed):
            made(folder, tmp_path / "killed")
        with pytest.raises(TrainingError, match="no finished tile set"):
            TileSet(tmp_path / "killed")
    made(folder, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(whole)


def test_what_is_finished_is_not_done_again(tmp_path, monkeypatch):
    folder = small_dataset(tmp_path)
    first = made(folder, tmp_path / "tiles")
    monkeypatch.delattr(training.tiling.tile, "label_exposure")
    assert made(folder, tmp_path / "tiles").fingerprint == first.fingerprint


def test_tiles_of_something_else_are_not_mixed_in(tmp_path):
    folder = small_dataset(tmp_path, frames=3)
    made(folder, tmp_path / "tiles")
    other = SPEC.model_copy(update={"truth": TruthSpec(flagged="drop")})
    with pytest.raises(TrainingError, match="holds tiles of another data set"):
        made(folder, tmp_path / "tiles", other)
    catalogue = tmp_path / "archive" / "night0_U_imc_trl.dat"
    catalogue.write_text(catalogue.read_text().replace(" 15.0 ", " 16.0 "))
    with pytest.raises(TrainingError, match="holds tiles of another data set"):
        made(folder, tmp_path / "tiles")


def test_processes_change_nothing(tmp_path, untouched):
    folder, whole = untouched
    made(folder, tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(whole)


def test_a_frame_that_fails_is_told_and_left_out(tmp_path, capsys):
    folder = small_dataset(tmp_path)
    (tmp_path / "archive" / "night0_U_imc.fits.gz").write_bytes(b"not FITS")
    (tmp_path / "archive" / "night2_U_imc_trl.dat").unlink()
    tiles = made(folder, tmp_path / "tiles")
    assert set(tiles.skipped) == {"night0", "night2"}
    assert {key for split in SPLITS for key in tiles.keys(split)} == {f"night{number}" for number in (1, 3, 4, 5)}
    told = capsys.readouterr().err
    assert "night0 was left out: the file is not FITS" in told
    assert "night2_U_imc_trl.dat cannot be read" in told


def test_nothing_to_train_on_is_an_error(tmp_path):
    folder = small_dataset(tmp_path, frames=3)
    with pytest.raises(TrainingError, match="could be used; the first, night0: there is no truth"):
        made(folder, tmp_path / "a", truth=tmp_path)
    with pytest.raises(TrainingError, match="labels are all among KO"):
        made(folder, tmp_path / "b", SPEC.model_copy(update={"truth": TruthSpec(labels=("KO",))}))
    write_exposure(tmp_path / "archive", "void", np.zeros((0, 2)))
    write_dataset(folder, tmp_path / "archive", {"void": "field"})
    with pytest.raises(TrainingError, match="no tile to train on"):
        made(folder, tmp_path / "c", SPEC.model_copy(update={"negatives": 0.0}))


def test_a_star_galaxy_tile_set_by_configuration_alone(tmp_path):
    rng = np.random.default_rng(3)
    for number in range(3):
        positions = rng.uniform(8, 150, (6, 2))
        write_exposure(tmp_path / "archive", f"n{number}", positions, stars=[0.9, 0.1] * 3)
    folder = write_dataset(
        tmp_path / "dataset", tmp_path / "archive", {f"n{number}": f"f{number}" for number in range(3)}
    )
    tiles = made(folder, tmp_path / "tiles", SPEC.model_copy(update={"size": 160}), ("star", "galaxy"))
    labels = [tile.labels.tolist() for split in SPLITS for tile in tiles.split(split)]
    assert labels == [[1, 2] * 3] * 3


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        TileSetSpec(shares=(0.5, 0.1, 0.1))
