"""A training run on paper: a TOML file, validated; an unknown key fails."""

import tomllib
from pathlib import Path

from pydantic import Field

from lynceus.merge import Suppression
from lynceus.network import NetworkSpec
from lynceus.normalise import NormaliseSpec
from lynceus.sky import SkySpec
from lynceus.spec import Spec
from lynceus.tiling import TileSpec
from training.simulate import SceneSpec


class SceneSet(Spec):
    """A number of simulated frames: frame i depends on the seed, i and the scene's ranges alone."""

    folder: str
    count: int = Field(gt=0)
    seed: int
    scene: SceneSpec = SceneSpec()


class TrainingSpec(Spec):
    """How the weights are found.

    Attributes
    ----------
    seed : int
        Of weights, crops and flips.
    crop : int
        Side of the tiles trained on, in pixels; the network takes any multiple of its stride.
    batch, steps : int
        Tiles a step, and steps in all.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises for `warm_up` steps, then falls as a cosine.
    warm_up : int
        Steps.
    ema : float
        Decay of the running mean of the weights that is published.
    """

    seed: int = 1
    crop: int = 256
    batch: int = 4
    steps: int = 4000
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    warm_up: int = 200
    ema: float = 0.998


class Recipe(Spec):
    """Everything that makes a bundle; the phases of `training` follow each other, each from the averaged weights."""

    name: str
    train_set: SceneSet
    tuning_set: SceneSet
    validation_set: SceneSet
    network: NetworkSpec = NetworkSpec()
    sky: SkySpec = SkySpec()
    normalise: NormaliseSpec = NormaliseSpec()
    tile: TileSpec = TileSpec()
    merge: Suppression = Suppression(by="centre", threshold=0.25)
    training: tuple[TrainingSpec, ...] = Field((TrainingSpec(),), min_length=1)


def read_recipe(path: Path) -> Recipe:
    """Read and validate a TOML recipe.

    Raises
    ------
    ValueError
        If a key is unknown or a value does not fit (pydantic's ValidationError).
    """
    return Recipe.model_validate(tomllib.loads(path.read_text()))
