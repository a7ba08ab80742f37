"""Tiles to train on: crops of simulated frames, and a stream over a tile set."""

import numpy as np
import pytest
import torch
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from lynceus.normalise import NormaliseSpec
from lynceus.sky import SkySpec
from tests.unit.training.run_kit import write_scene
from tests.unit.training.tile_kit import NOISE, SKY, star_field
from training.errors import TrainingError
from training.fitting.augment import AugmentSpec
from training.fitting.crops import RandomTiles, grid_tiles, read_labelled
from training.fitting.stream import Batches, TileStream, shuffled, view, whole_tiles
from training.tiling.shards import LabelledTile

STRETCH = NormaliseSpec()
STILL = AugmentSpec(flips=False)
MESH = 16


@pytest.fixture
def labelled(tmp_path):
    write_scene(tmp_path, 1, kinds=("star", "galaxy", "comet"))
    return read_labelled(tmp_path / "00001.fits", SkySpec(mesh=32))


def labelled_tile(number: int, size: int = 64, hidden: bool = False) -> LabelledTile:
    """A tile under a sky that slopes, with one star at a place of its own."""
    x, y = (star := np.array([[10.0 + 3 * number, 30.0]]))[0]
    box = np.array([[x - 4.5, y - 4.5, x + 5.5, y + 5.5]], np.float32)
    squares = size // MESH + 4
    slope = np.arange(squares, dtype=np.float32)[:, None] * np.ones(squares, np.float32)
    return LabelledTile(
        pixels=star_field(star, (size, size), number),
        window=np.stack([SKY + slope, np.full_like(slope, np.log(NOISE))]),
        phase=np.array([1.5, 1.5], np.float32),
        mesh=MESH,
        boxes=box,
        labels=np.array([1]),
        ignored=np.array([[0, 0, 5, 5]], np.float32),
        hidden=np.eye(size, dtype=bool) if hidden else None,
        brightness=np.array([50.0], np.float32),
        key=str(number),
        origin=(0, 0),
    )


@given(st.integers(1, 5), st.integers(0, 40), st.integers(1, 4))
def test_processes_share_the_items_without_gap_or_overlap_and_go_on_where_they_stopped(size, first, ranks):
    streams = [iter(Batches(size, 0, rank, ranks)) for rank in range(ranks)]
    rounds = [[next(stream) for stream in streams] for _ in range(first + 3)]
    assert [item for batches in rounds for batch in batches for item in batch] == list(
        range(len(rounds) * ranks * size)
    )
    resumed = iter(Batches(size, first, ranks - 1, ranks))
    assert [next(resumed) for _ in range(3)] == [batches[-1] for batches in rounds[first:]]


def test_every_tile_comes_once_an_epoch_in_an_order_of_its_own():
    orders = [shuffled(50, 1, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert shuffled(50, 2, 0).tolist() != orders[0]


def test_an_item_depends_on_the_seed_and_its_number_alone():
    tiles = [labelled_tile(number) for number in range(3)]
    forward = TileStream(tiles, 32, STRETCH, AugmentSpec(), seed=1)
    backward = TileStream(tiles, 32, STRETCH, AugmentSpec(), seed=1)
    there = [forward[item][0] for item in range(7)]
    back = [backward[item][0] for item in reversed(range(7))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(there, back, strict=True))
    assert not torch.equal(TileStream(tiles, 32, STRETCH, AugmentSpec(), seed=2)[0][0], there[0])


def test_a_crop_is_normalised_as_the_whole_tile_is():
    tile = labelled_tile(2, hidden=True)
    whole, truth = view(tile, 0, 0, 64, STRETCH)
    crop, target = view(tile, 7, 13, 40, STRETCH)
    torch.testing.assert_close(crop, whole[:, 13:53, 7:47], rtol=0, atol=2e-4)
    assert torch.equal(target["boxes"], truth["boxes"] - torch.tensor([7, 13, 7, 13]))
    assert torch.equal(target["hidden"], truth["hidden"][13:53, 7:47])
    assert len(truth["ignored"]) == 1
    assert len(target["ignored"]) == 0
    assert "hidden" not in view(labelled_tile(2), 0, 0, 64, STRETCH)[1]


def test_tiles_to_validate_on_are_whole_and_spread_over_the_split():
    tiles = [labelled_tile(number) for number in range(7)]
    assert len(list(whole_tiles(tiles, STRETCH))) == 7
    chosen = [float(target["boxes"][0, 0]) for _, target in whole_tiles(tiles, STRETCH, most=3)]
    assert chosen == [float(tiles[number].boxes[0, 0]) for number in (0, 3, 6)]
    assert not list(whole_tiles([], STRETCH))


def test_a_stream_over_nothing_or_over_tiles_too_small_is_refused():
    with pytest.raises(TrainingError, match="empty"):
        TileStream([], 32, STRETCH, STILL, seed=1)
    with pytest.raises(TrainingError, match="crop"):
        TileStream([labelled_tile(1)], 128, STRETCH, STILL, seed=1)


def test_the_light_of_a_random_crop_is_in_its_boxes(labelled):
    tiles = RandomTiles([labelled], 64, STRETCH, AugmentSpec(), ("source",), seed=3)
    seen = 0
    for item in range(10):
        tile, target = tiles[item]
        assert tile.shape == (1, 64, 64)
        for x_min, y_min, x_max, y_max in target["boxes"].round().long().tolist():
            seen += 1
            assert tile[0, y_min:y_max, x_min:x_max].max() > 2.5  # the sky's noise is under it
    assert seen > 10
    assert torch.equal(tiles[3][0], RandomTiles([labelled], 64, STRETCH, AugmentSpec(), ("source",), seed=3)[3][0])


def test_classes_come_from_the_truth_and_others_are_ignored(labelled):
    targets = [target for _, target in grid_tiles([labelled], 128, STRETCH, ("star", "galaxy"))]
    assert len(targets) == 1
    assert targets[0]["labels"].tolist() == [1, 2] * 4
    assert len(targets[0]["ignored"]) == 4  # the comets, one of them ignored in any case
    (one,) = [target for _, target in grid_tiles([labelled], 128, STRETCH, ("source",))]
    assert one["labels"].tolist() == [1] * 11


def test_trails_hide_their_pixels(tmp_path):
    write_scene(tmp_path, 2)
    path = tmp_path / "00002.ecsv"
    truth = Table.read(path, format="ascii.ecsv")
    truth.meta["trails"] = [[0, 10, 127, 10, 4]]
    truth.write(path, format="ascii.ecsv", overwrite=True)
    labelled = read_labelled(tmp_path / "00002.fits", SkySpec(mesh=32))
    first, *_, last = (target for _, target in grid_tiles([labelled], 64, STRETCH, ("source",)))
    assert first["hidden"][10].all()
    assert not first["hidden"][20:].any()
    assert "hidden" not in last
