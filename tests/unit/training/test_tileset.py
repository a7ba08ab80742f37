"""Laws of tile sets on disk: what was written is what is read, in any order, and memory does not grow with it."""

import json
import pickle
import shutil
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.normalise import stack_tiles
from lynceus.sky import window_size
from training.errors import TrainingError
from training.tiling.shards import LabelledTile, read_tile, write_shard
from training.tiling.split import SPLITS
from training.tiling.tileset import MANIFEST, Shard, Tiles, TileSet, TileSetManifest, TileSetSpec

MESH = 64
COUNTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=5)


def tile_with(seed: int, sources: int = 2, ignored: int = 1, hidden: bool = False, size: int = 32) -> LabelledTile:
    """A tile of random content."""
    rng = np.random.default_rng(seed)
    squares = window_size(size, MESH)
    pixels = rng.normal(0, 1, (size, size)).astype(np.float32)
    pixels[0, 0] = np.nan
    window = np.asfortranarray(rng.normal(0, 1, (2, squares, squares)).astype(np.float32))  # not in C order
    return LabelledTile(
        pixels,
        window,
        rng.random(2, np.float32),
        MESH,
        rng.random((sources, 4), np.float32),
        rng.integers(1, 4, sources),
        rng.random((ignored, 4), np.float32),
        rng.random((size, size)) > 0.5 if hidden else None,
        rng.random(sources, np.float32),
        f"night{seed % 3}",
        (int(rng.integers(9000)), int(rng.integers(9000))),
    )


def assert_same(one: LabelledTile, other: LabelledTile) -> None:
    assert (one.key, one.origin, one.mesh) == (other.key, other.origin, other.mesh)
    assert (one.hidden is None) == (other.hidden is None)
    for name in ("pixels", "window", "phase", "boxes", "labels", "ignored", "brightness", "hidden"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def written(folder: Path, tiles: list[LabelledTile], per_shard: int = 4) -> Tiles:
    """Tiles written into shards, as a split."""
    shards = []
    for number, start in enumerate(range(0, len(tiles), per_shard)):
        part = tiles[start : start + per_shard]
        name = f"train-{number:05d}.safetensors"
        shards.append(Shard(file=name, sha256=write_shard(folder / name, part), keys=tuple(one.key for one in part)))
    return Tiles(folder, tuple(shards), MESH, tuple(accumulate(len(shard.keys) for shard in shards)))


def finished(folder: Path, tiles: list[LabelledTile]) -> TileSet:
    split = written(folder, tiles)
    keys = tuple(sorted({tile.key for tile in tiles}))
    TileSetManifest(
        spec=TileSetSpec(size=32),
        sky={"mesh": MESH},
        measure={},
        classes=("source",),
        source="",
        splits={"train": keys, "validation": (), "test": ("night9",)},
        shards={"train": split.shards, "validation": (), "test": ()},
    ).write(folder)
    return TileSet(folder)


@settings(max_examples=20)
@given(COUNTS)
def test_what_was_written_is_what_is_read(tmp_path_factory, counts):
    tiles = [tile_with(seed, *told) for seed, told in enumerate(counts)]
    path = tmp_path_factory.mktemp("shard") / "train-00000.safetensors"
    write_shard(path, tiles)
    for index, tile in enumerate(tiles):
        assert_same(read_tile(path, index, tile.key, MESH), tile)


def test_the_sha256_tells_the_tiles_and_nothing_else(tmp_path):
    first = write_shard(tmp_path / "a", [tile_with(1), tile_with(2)])
    assert write_shard(tmp_path / "b", [tile_with(1), tile_with(2)]) == first
    assert write_shard(tmp_path / "c", [tile_with(1), tile_with(3)]) != first


def test_tiles_can_be_read_in_any_order(tmp_path):
    tiles = [tile_with(seed) for seed in range(10)]
    split = written(tmp_path, tiles)
    assert len(split) == 10
    assert split.keys == tuple(tile.key for tile in tiles)
    for index in (9, 0, 4, 3, -1, -10):
        assert_same(split[index], tiles[index])
    for one, other in zip(split, tiles, strict=True):
        assert_same(one, other)
    for one, other in zip(split[2:9:3], tiles[2:9:3], strict=True):
        assert_same(one, other)
    for index in (10, -11):
        with pytest.raises(IndexError):
            split[index]


def test_a_split_travels_to_another_process(tmp_path):
    split = written(tmp_path, [tile_with(seed) for seed in range(5)])
    assert split[3].key
    assert_same(pickle.loads(pickle.dumps(split))[3], split[3])


def resident() -> int:
    """Memory of this process that is in use, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_memory_does_not_grow_with_the_tiles_that_are_read(tmp_path):
    split = written(tmp_path, [tile_with(seed, size=512) for seed in range(8)], per_shard=8)
    (shard,) = split.shards
    shards = [shard.model_copy(update={"file": f"copy-{number}"}) for number in range(10)]
    for copy in shards:
        shutil.copy(tmp_path / shard.file, tmp_path / copy.file)
    everything = Tiles(tmp_path, tuple(shards), MESH, tuple(range(8, 81, 8)))
    for index in range(8):
        split[index]
    before, seen = resident(), 0
    for tile in everything:
        seen += tile.pixels.nbytes
        assert resident() - before < 8 * 2**20
    assert seen == 80 * 2**20


def test_a_tile_set_says_what_it_is(tmp_path):
    tiles = [tile_with(seed) for seed in range(10)]
    found = finished(tmp_path, tiles)
    assert [len(found.split(split)) for split in SPLITS] == [10, 0, 0]
    assert list(found.split("validation")) == []
    assert [found.keys(split) for split in SPLITS] == [("night0", "night1", "night2"), (), ("night9",)]
    assert (found.sky.mesh, found.spec.size, found.classes, found.skipped) == (MESH, 32, ("source",), {})
    with pytest.raises(ValueError, match="train, validation, test"):
        found.split("tuning")


def test_the_fingerprint_is_of_the_content(tmp_path):
    first = finished(tmp_path / "a", [tile_with(1)]).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert TileSet(tmp_path / "b").fingerprint == first
    assert finished(tmp_path / "c", [tile_with(2)]).fingerprint != first


def test_tiles_go_into_the_network_as_the_detectors_do():
    tile = tile_with(1)
    pixels, window, phase = stack_tiles([tile.tile])
    assert pixels.shape == (1, 1, 32, 32)
    np.testing.assert_array_equal(window[0], tile.window)
    np.testing.assert_array_equal(phase[0], tile.phase)
    assert tile.size == tile.tile.size == 32


def test_damage_is_told_in_words(tmp_path):
    found = finished(tmp_path, [tile_with(seed) for seed in range(6)])
    first, second = (tmp_path / shard.file for shard in found.split("train").shards)
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    for index in (0, 5):
        with pytest.raises(TrainingError, match=r"train-0000\d.safetensors cannot be read"):
            found.split("train")[index]


def test_a_folder_without_a_finished_tile_set_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no finished tile set"):
        TileSet(tmp_path)
    finished(tmp_path, [tile_with(1)])
    told = json.loads((tmp_path / MANIFEST).read_text())
    for damaged in ({**told, "format": 2}, {**told, "more": 1}, {**told, "classes": 3}):
        (tmp_path / MANIFEST).write_text(json.dumps(damaged))
        with pytest.raises(TrainingError, match=r"tiles\.json is not understood"):
            TileSet(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"\xff{")
    with pytest.raises(TrainingError, match=r"tiles\.json is not understood"):
        TileSet(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": np.zeros((3, 4), np.float32)},
        {"boxes": np.zeros((3, 4), np.float32)},
        {"labels": np.ones(1, np.int64)},
        {"ignored": np.zeros((2, 3), np.float32)},
        {"hidden": np.zeros((4, 4), bool)},
        {"phase": np.zeros(3, np.float32)},
    ],
)
def test_a_tile_whose_parts_do_not_agree_is_refused(wrong):
    parts = {name: getattr(tile_with(1), name) for name in LabelledTile.__dataclass_fields__}
    LabelledTile(**parts)
    with pytest.raises(ValueError):
        LabelledTile(**{**parts, **wrong})
