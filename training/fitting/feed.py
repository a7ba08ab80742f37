"""What a run is fed with: tiles to train on and tiles to validate on, from simulated frames or from a tile set."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from rich.progress import track
from torch.utils.data import Dataset

from training.errors import TrainingError
from training.fitting.crops import Item, LabelledFrame, RandomTiles, grid_tiles, read_labelled
from training.fitting.stream import TileStream, whole_tiles
from training.recipe import Recipe, SceneSet, TrainingSpec
from training.tiling.tileset import TileSet


class Feed(Protocol):
    """Where the tiles come from."""

    fingerprint: str

    def items(self, how: TrainingSpec) -> Dataset[Item]:
        """An endless list of tiles to train on."""
        ...

    def validation(self, how: TrainingSpec) -> Iterable[Item]:
        """The tiles that the network is looked at with, the same ones each time."""
        ...


def open_feed(recipe: Recipe, run: Path) -> Feed:
    """The tiles of a recipe.

    Raises
    ------
    TrainingError
        If its tile set was made for other classes or another sky than the recipe's.
    """
    if recipe.tiles is None:
        return SceneFeed(recipe, run)
    return TileFeed(recipe, TileSet(Path(recipe.tiles)))


class TileFeed:
    """Tiles from a tile set, read one at a time."""

    def __init__(self, recipe: Recipe, tiles: TileSet) -> None:
        if tuple(tiles.classes) != recipe.network.classes:
            ours, theirs = ", ".join(recipe.network.classes), ", ".join(tiles.classes)
            raise TrainingError(f"the tile set {recipe.tiles} is of the classes {theirs}; the network has {ours}")
        if tiles.sky != recipe.sky:
            raise TrainingError(f"the tile set {recipe.tiles} was made with another `sky` than the recipe's")
        self.recipe, self.tiles, self.fingerprint = recipe, tiles, tiles.fingerprint

    def items(self, how: TrainingSpec) -> Dataset[Item]:
        """Crops of the tiles of the split for training."""
        return TileStream(
            self.tiles.split("train"), how.crop, self.recipe.normalise, self.recipe.augment, seed=how.seed
        )

    def validation(self, how: TrainingSpec) -> Iterable[Item]:
        """Whole tiles of the split for validation."""
        return whole_tiles(self.tiles.split("validation"), self.recipe.normalise, how.validation_tiles)


class SceneFeed:
    """Tiles cut from simulated frames, which stay in memory."""

    fingerprint = ""  # the recipe says all there is to them

    def __init__(self, recipe: Recipe, run: Path) -> None:
        self.recipe, self.run = recipe, run

    def items(self, how: TrainingSpec) -> Dataset[Item]:
        """Crops of the frames for training."""
        recipe = self.recipe
        return RandomTiles(
            self._train, how.crop, recipe.normalise, recipe.augment, recipe.network.classes, seed=how.seed
        )

    def validation(self, how: TrainingSpec) -> Iterable[Item]:
        """Crops side by side of the frames for tuning."""
        tiles = grid_tiles(self._tuning, how.crop, self.recipe.normalise, self.recipe.network.classes)
        return islice(tiles, how.validation_tiles or None)

    @cached_property
    def _train(self) -> list[LabelledFrame]:
        return self._read(self.recipe.train_set)

    @cached_property
    def _tuning(self) -> list[LabelledFrame]:
        return self._read(self.recipe.tuning_set)

    def _read(self, scenes: SceneSet | None) -> list[LabelledFrame]:
        folder = self.run / scenes.folder if scenes else self.run
        paths: Sequence[Path] = sorted(folder.glob("*.fits"))
        if not paths:
            raise TrainingError(f"there are no simulated frames in {folder}: run `python -m training simulate` first")
        return [read_labelled(path, self.recipe.sky) for path in track(paths, description="reading frames")]
