"""A run is fed from a tile set, if that fits the recipe."""

import pytest

from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec
from tests.unit.training.run_kit import NETWORK, small_recipe
from tests.unit.training.tile_kit import small_dataset
from training.errors import TrainingError
from training.fitting.checkpoints import read_best
from training.fitting.feed import open_feed
from training.fitting.train import train
from training.tiling.tile import make_tiles
from training.tiling.tileset import TileSet, TileSetSpec

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning and its loggers have much to say

SKY = SkySpec(mesh=32)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> TileSet:
    folder = tmp_path_factory.mktemp("tiles")
    spec = TileSetSpec(size=128, shares=(0.4, 0.3, 0.3))
    dataset = small_dataset(folder)
    return make_tiles(dataset, folder / "tiles", spec, SKY, MeasureSpec(), ("source",), workers=1)


def test_a_network_trains_on_a_tile_set(tmp_path, tiles):
    recipe = small_recipe({"validate_every": 2, "validation_tiles": 3}, tiles=str(tiles.folder), sky=SKY)
    looks: list[int] = []
    train(recipe, tmp_path, on_validation=lambda step, _: looks.append(step))
    assert looks == [2, 4]
    assert "map_50" in read_best(tmp_path / "phase1")


def test_the_tiles_of_one_split_only_are_trained_on(tiles):
    recipe = small_recipe({"validation_tiles": 0}, tiles=str(tiles.folder), sky=SKY)
    feed = open_feed(recipe, tiles.folder)
    assert feed.fingerprint == tiles.fingerprint
    assert len(list(feed.validation(recipe.training[0]))) == len(tiles.split("validation"))
    assert not set(tiles.keys("train")) & set(tiles.keys("validation"))


def test_a_tile_set_for_another_network_is_refused(tiles, tmp_path):
    with pytest.raises(TrainingError, match="another `sky`"):
        open_feed(small_recipe(tiles=str(tiles.folder)), tmp_path)
    other = NETWORK.model_copy(update={"classes": ("star", "galaxy")})
    with pytest.raises(TrainingError, match="star, galaxy"):
        open_feed(small_recipe(tiles=str(tiles.folder), sky=SKY, network=other), tmp_path)
