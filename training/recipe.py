"""A training run on paper: a TOML file, validated; an unknown key fails."""

import tomllib
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lynceus.finepass import FineSpec
from lynceus.merge import Suppression
from lynceus.network import NetworkSpec
from lynceus.normalise import NormaliseSpec
from lynceus.sky import SkySpec
from lynceus.spec import Spec
from lynceus.tiling import TileSpec
from lynceus.trails import TrailSpec
from training.fitting.augment import AugmentSpec
from training.fitting.start import StartSpec
from training.fitting.strategies import StrategySpec
from training.scenarios.known import KnownSpec
from training.scenes.inject import InjectSpec
from training.scenes.scene import SceneSpec
from training.tiling.tileset import TileSetSpec

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
MACHINE = {"workers", "loggers", "save_every"}  # how a machine goes about it: no weight depends on these


class SceneSet(Spec):
    """A number of simulated frames: frame i depends on the seed, i and the scene's ranges alone."""

    folder: str
    count: int = Field(gt=0)
    seed: int
    scene: SceneSpec = SceneSpec()


SceneSets = SceneSet | tuple[SceneSet, ...]


class PlantedSet(Spec):
    """Real frames with planted sources, to train on; they lie outside the project, and are read where they lie.

    Attributes
    ----------
    folder : str
        Of the run, where they are written.
    frames : tuple of str
        Patterns of files, relative to the folder of real frames (`--data`, LYNCEUS_TEST_DATA).
    count : int
        Plantings of each frame, each with sources of its own.
    seed : int
        Of the sources.
    repeat : int
        The weight of each piece, over that of a simulated frame.
    largest : int
        Side of the largest piece that frames are cut into, in pixels.
    columns : (float, float)
        The part of a frame that is used, in shares of its width: the rest can still be judged on.
    optional : bool
        Whether frames that are absent are left out with a warning; otherwise they are an error.
    starless : bool
        Whether nothing real is there, as in a dark frame: what can be seen are then faults, and background.
    empty : float
        Share of plantings of starless frames that get no source.
    inject : InjectSpec
        What is planted.
    known : KnownSpec
        Which of what was there before is learned from; the rest is ignored.
    """

    folder: str
    frames: tuple[str, ...] = Field(min_length=1)
    count: int = Field(1, gt=0)
    seed: int
    repeat: int = Field(1, gt=0)
    largest: int = Field(768, ge=256)
    columns: tuple[float, float] = (0.0, 1.0)
    optional: bool = False
    starless: bool = False
    empty: float = Field(0.5, ge=0, le=1)
    inject: InjectSpec = InjectSpec()
    known: KnownSpec = KnownSpec()

    @model_validator(mode="after")
    def _columns_are_a_range(self) -> "PlantedSet":
        if not 0 <= self.columns[0] < self.columns[1] <= 1:
            raise ValueError(f"columns must be two rising shares of the width, not {self.columns}")
        return self


class TrainingSpec(Spec):
    """How the weights are found.

    Attributes
    ----------
    seed : int
        Of weights, crops, turns and of which anchors a step looks at.
    sets : tuple of str
        Folders of the training sets of the mixture that it learns from; empty for all.
    crop : int
        Side of the tiles trained on, in pixels; the network takes any multiple of its stride.
    batch, steps : int
        Tiles a step (of each process, and of each of `accumulate` parts), and steps in all.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises for `warm_up` steps, then falls as a cosine.
    warm_up : int
        Steps.
    ema : float
        Decay of the running mean of the weights that is published.
    gradient_clip : float
        Largest norm of all gradients together; 0 for no limit.
    accumulate : int
        Batches whose gradients make one step.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
        Of the arithmetic; boxes are decoded in float32 always.
    validate_every : int
        Steps between two looks at the validation tiles; 0 for none. A phase that is validated ends with the averaged
        weights of its best look, else with those of its last step.
    validation_tiles : int
        At most so many tiles are looked at, the same ones each time; 0 for all.
    patience : int
        The phase ends after so many looks without a better `map_50`; 0 for never.
    statistics : int
        Batches to take the statistics of batch norms from afresh, for the averaged weights; 0 to keep their mean.
    save_every : int
        Steps between two checkpoints.
    workers : int
        Processes that prepare tiles; 0 for none besides the one that trains.
    loggers : tuple of {"tensorboard", "wandb", "mlflow"}
        Besides the CSV file.
    planted : bool
        Whether the phase sees the recipe's planted sets too.
    """

    seed: int = 1
    sets: tuple[str, ...] = ()
    crop: int = Field(256, gt=0)
    batch: int = Field(4, gt=0)
    steps: int = Field(4000, gt=0)
    learning_rate: float = Field(1.5e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warm_up: int = Field(200, ge=0)
    ema: float = Field(0.998, ge=0, lt=1)
    gradient_clip: float = Field(5.0, ge=0)
    accumulate: int = Field(1, gt=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    validate_every: int = Field(0, ge=0)
    validation_tiles: int = Field(0, ge=0)
    patience: int = Field(0, ge=0)
    statistics: int = Field(0, ge=0)
    save_every: int = Field(200, gt=0)
    workers: int = Field(0, ge=0)
    loggers: tuple[LoggerName, ...] = ()
    planted: bool = False

    @model_validator(mode="after")
    def _patience_needs_looks(self) -> "TrainingSpec":
        if self.patience and not self.validate_every:
            raise ValueError("patience counts looks at the validation tiles: set validate_every too")
        return self


class Recipe(Spec):
    """Everything that makes a bundle.

    Attributes
    ----------
    name : str
        Of the bundle.
    tiles : str or None
        Folder of a tile set to train on. None for simulated frames, and then the three sets are needed.
    cut : TileSetSpec
        How a data set is cut into such tiles, and how its catalogues become truth.
    train_set, tuning_set, validation_set : SceneSet, tuple of SceneSet, or None
        Simulated frames: to train on, to choose thresholds (and weights, where a phase is validated), to score.
        Several are a mixture, each with as much weight as it has frames.
    planted_set : tuple of PlantedSet
        Real frames with planted sources, seen beside the simulated ones by the phases that ask for them.
    network, sky, normalise, tile, merge : Spec
        What travels in the bundle.
    coarse : int
    fine : FineSpec or None
    trails : TrailSpec or None
        Further looks that travel in the bundle; see `DetectorSpec`.
    suite : bool
        Whether the bundle's scores become probabilities, and its threshold is chosen, on the scenario suite's frames
        for that, and its report tells how it does on the test frames beside SExtractor; otherwise the threshold is
        chosen on the tuning set.
    suite_more : int
        So many further frames of each of its scenes are drawn for that, by seeds of their own.
    start : StartSpec
        The weights before the first step.
    strategy : StrategySpec
        Which weights are trained.
    augment : AugmentSpec
        How the tiles are varied.
    training : tuple of TrainingSpec
        Phases that follow each other, each from the averaged weights of the one before.
    """

    name: str
    tiles: str | None = None
    cut: TileSetSpec = TileSetSpec()
    train_set: SceneSets | None = None
    tuning_set: SceneSets | None = None
    validation_set: SceneSets | None = None
    planted_set: tuple[PlantedSet, ...] = ()
    network: NetworkSpec = NetworkSpec()
    sky: SkySpec = SkySpec()
    normalise: NormaliseSpec = NormaliseSpec()
    tile: TileSpec = TileSpec()
    merge: Suppression = Suppression(by="centre", threshold=0.25)
    coarse: int = Field(0, ge=0)
    fine: FineSpec | None = None
    trails: TrailSpec | None = None
    suite: bool = False
    suite_more: int = Field(0, ge=0, exclude_if=lambda frames: not frames)  # younger than runs that resume
    start: StartSpec = StartSpec()
    strategy: StrategySpec = StrategySpec()
    augment: AugmentSpec = AugmentSpec()
    training: tuple[TrainingSpec, ...] = Field((TrainingSpec(),), min_length=1)

    @model_validator(mode="after")
    def _something_to_train_on(self) -> "Recipe":
        if self.tiles is None and None in (self.train_set, self.tuning_set, self.validation_set):
            raise ValueError("without `tiles` a recipe needs train_set, tuning_set and validation_set")
        return self

    @model_validator(mode="after")
    def _sets_are_known(self) -> "Recipe":
        known = {scenes.folder for scenes in each(self.train_set)}
        if unknown := {folder for how in self.training for folder in how.sets} - known:
            raise ValueError(f"there are no training sets {', '.join(sorted(unknown))} in the recipe")
        return self

    @model_validator(mode="after")
    def _planted_frames_are_named(self) -> "Recipe":
        if any(how.planted for how in self.training) and not (self.planted_set and self.tiles is None):
            raise ValueError("a phase with `planted` needs a [[planted_set]] beside simulated frames")
        return self

    @model_validator(mode="after")
    def _channels_agree(self) -> "Recipe":
        if self.normalise.channels not in (1, self.network.channels):
            raise ValueError(
                f"normalise.softening makes {self.normalise.channels} channels, and network.channels is "
                f"{self.network.channels}"
            )
        return self

    @property
    def scene_sets(self) -> tuple[SceneSet, ...]:
        """The simulated sets that the recipe names."""
        return tuple(chain(*map(each, (self.train_set, self.tuning_set, self.validation_set))))

    def shaping(self, phase: int, data: str = "") -> str:
        """All that shapes the weights at the end of a phase (from 1), as JSON.

        What only says how a machine goes about it (workers, loggers, checkpoints) is left out, and so are the phases
        that follow: a run may be resumed with those changed. A tile set goes by its fingerprint, `data`, so that it
        may be moved.
        """
        phases = [how.model_copy(update=_defaults(MACHINE)) for how in self.training[:phase]]
        unseen = {
            "name": "",
            "tiles": data,
            "tuning_set": None,
            "validation_set": None,
            "tile": TileSpec(),
            "merge": Suppression(),
            "coarse": 0,
            "fine": None,
            "trails": None,
            "suite": False,
            "suite_more": 0,
        }
        if not any(how.planted for how in phases):
            unseen["planted_set"] = ()
        return self.model_copy(update={"training": tuple(phases), **unseen}).model_dump_json()


def each(scenes: SceneSets | None) -> tuple[SceneSet, ...]:
    """The sets of a mixture; of one set, or none, a tuple too."""
    if scenes is None:
        return ()
    return (scenes,) if isinstance(scenes, SceneSet) else scenes


def _defaults(names: set[str]) -> dict[str, object]:
    return {name: TrainingSpec.model_fields[name].default for name in names}


def read_recipe(path: Path) -> Recipe:
    """Read and validate a TOML recipe.

    Raises
    ------
    ValueError
        If a key is unknown or a value does not fit (pydantic's ValidationError).
    """
    return Recipe.model_validate(tomllib.loads(path.read_text()))
