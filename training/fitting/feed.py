"""What a run is fed with: tiles to train on and tiles to validate on, from simulated frames or from a tile set."""

from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

from rich.progress import track
from torch.utils.data import Dataset

from training.errors import TrainingError
from training.fitting.crops import Item, LabelledFrame, RandomTiles, grid_tiles, read_labelled
from training.fitting.stream import TileStream, whole_tiles
from training.recipe import Recipe, SceneSets, TrainingSpec, each
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
        """Crops of the frames for training, of those with planted sources too where the phase asks for them."""
        recipe = self.recipe
        sets = tuple(scenes for scenes in each(recipe.train_set) if not how.sets or scenes.folder in how.sets)
        frames = self._read(sets) + (self._planted if how.planted else [])
        return RandomTiles(frames, how.crop, recipe.normalise, recipe.augment, recipe.network.classes, seed=how.seed)

    def validation(self, how: TrainingSpec) -> Iterable[Item]:
        """Crops side by side of the frames for tuning."""
        tiles = grid_tiles(self._tuning, how.crop, self.recipe.normalise, self.recipe.network.classes)
        return islice(tiles, how.validation_tiles or None)

    @cached_property
    def _planted(self) -> list[LabelledFrame]:
        """Each as often as its set says."""
        frames: list[LabelledFrame] = []
        for planted in self.recipe.planted_set:
            frames += self._read_folder(planted.folder, planted.optional) * planted.repeat
        return frames

    @cached_property
    def _tuning(self) -> list[LabelledFrame]:
        return self._read(self.recipe.tuning_set)

    def _read(self, mixture: SceneSets | None) -> list[LabelledFrame]:
        return [frame for scenes in each(mixture) for frame in self._read_folder(scenes.folder)]

    def _read_folder(self, name: str, optional: bool = False) -> list[LabelledFrame]:
        folder = self.run / name
        paths = sorted(folder.glob("*.fits"))
        if not paths and not optional:
            raise TrainingError(f"there are no simulated frames in {folder}: run `python -m training simulate` first")
        return [read_labelled(path, self.recipe.sky) for path in track(paths, description=f"reading {folder}")]
