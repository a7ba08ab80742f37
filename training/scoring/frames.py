"""What a version is chosen and scored on: simulated frames, or the exposures that a tile set held back."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec
from training.errors import TrainingError
from training.recipe import Recipe, each
from training.tiling.exposures import LabelledExposure, TruthSpec, read_exposures, read_scenes
from training.tiling.split import Split
from training.tiling.tileset import TileSet

FAINTEST = 5.0  # signal to noise from which simulated sources count


class Frames(Protocol):
    """Frames to choose thresholds on, and others to score on.

    Attributes
    ----------
    about : str
        What the frames to score on are, for people.
    faintest : float or None
        Sources below this signal to noise are ignored.
    measure : MeasureSpec
        The box rule of their truth.
    """

    @property
    def about(self) -> str: ...  # noqa: D102
    @property
    def faintest(self) -> float | None: ...  # noqa: D102
    @property
    def measure(self) -> MeasureSpec: ...  # noqa: D102

    def tuning(self) -> Iterator[LabelledExposure]:
        """Those to choose on, one at a time."""
        ...

    def test(self) -> Iterator[LabelledExposure]:
        """Those to score on, one at a time."""
        ...

    def fingerprint(self) -> str:
        """A sha256 over what was trained on."""
        ...


@dataclass(frozen=True)
class SceneFrames:
    """The simulated frames of a recipe, in the folder of its run."""

    recipe: Recipe
    run: Path
    about: str = (
        "Simulated frames that the network was not trained on, with cosmic rays, hot pixels, trails and gradients."
    )
    faintest: float | None = FAINTEST
    measure: MeasureSpec = field(default_factory=MeasureSpec)

    def tuning(self) -> Iterator[LabelledExposure]:
        """The recipe's tuning set."""
        return self._read("tuning_set")

    def test(self) -> Iterator[LabelledExposure]:
        """The recipe's validation set."""
        return self._read("validation_set")

    def fingerprint(self) -> str:
        """Of simulated data: that of the ranges and seeds that made them."""
        told = "".join(one.model_dump_json() for one in (*each(self.recipe.train_set), *each(self.recipe.tuning_set)))
        return hashlib.sha256(told.encode()).hexdigest()

    def _read(self, name: str) -> Iterator[LabelledExposure]:
        mixture = each(getattr(self.recipe, name))
        if not mixture:
            raise TrainingError(
                f"the recipe names no {name}, so there are no simulated frames: give a data set instead"
            )
        folders = [self.run / scenes.folder for scenes in mixture]
        return chain.from_iterable(read_scenes(folder, self.recipe.sky) for folder in folders)


@dataclass(frozen=True)
class HeldBackFrames:
    """The exposures of a data set that a tile set kept from training.

    Attributes
    ----------
    dataset : Path
        That the tiles were cut from.
    tiles : TileSet
        Says which exposure is in which split, and how a catalogue becomes truth.
    sky : SkySpec
        Of the detector.
    truth : Path or None
        Folder of exact truths; None for the catalogues.
    faintest : float or None
        Sources below this signal to noise are ignored.
    rule : MeasureSpec or None
        The box rule of the bundle that is scored; by default that of the tiles.
    """

    dataset: Path
    tiles: TileSet
    sky: SkySpec
    truth: Path | None = None
    faintest: float | None = None
    rule: MeasureSpec | None = None

    @property
    def about(self) -> str:
        """What they are, for people."""
        held = "their exact truth" if self.truth else "their catalogues"
        return f"Exposures of fields that the network was not trained on, against {held}."

    @property
    def measure(self) -> MeasureSpec:
        """The box rule of the truth."""
        return self.rule or self.tiles.measure

    def tuning(self) -> Iterator[LabelledExposure]:
        """Those of the validation split."""
        return self._read("validation")

    def test(self) -> Iterator[LabelledExposure]:
        """Those of the test split."""
        return self._read("test")

    def fingerprint(self) -> str:
        """That of the tile set."""
        return self.tiles.fingerprint

    def _read(self, split: Split) -> Iterator[LabelledExposure]:
        keys = self.tiles.keys(split)
        if not keys:
            raise TrainingError(f"the {split} split of the tile set holds no exposure: more fields are needed")
        return _some(
            read_exposures(self.dataset, self.sky, self.measure, self.tiles.spec.truth, keys=keys, truth=self.truth),
            f"no exposure of the {split} split could be read from {self.dataset}: is it the data set of these tiles?",
        )


@dataclass(frozen=True)
class WholeDataset:
    """All exposures of a data set, for a bundle that was trained elsewhere; rivals are tuned on them too."""

    dataset: Path
    sky: SkySpec
    measure: MeasureSpec
    labelled: TruthSpec = field(default_factory=TruthSpec)
    truth: Path | None = None
    keys: Collection[str] | None = None
    faintest: float | None = None

    @property
    def about(self) -> str:
        """What they are, for people."""
        return f"All exposures of a data set, against their {'exact truth' if self.truth else 'catalogues'}."

    def tuning(self) -> Iterator[LabelledExposure]:
        """The same as those scored on, which favours the rivals."""
        return self.test()

    def test(self) -> Iterator[LabelledExposure]:
        """All of them."""
        found = read_exposures(self.dataset, self.sky, self.measure, self.labelled, keys=self.keys, truth=self.truth)
        return _some(found, f"no exposure of {self.dataset} can be scored")

    def fingerprint(self) -> str:
        """Nothing was trained on them."""
        return ""


@dataclass(frozen=True)
class SceneFolder:
    """Folders of simulated frames: one to score on, and one that the rivals are tuned on, by default the same."""

    folder: Path
    sky: SkySpec
    tuned_on: Path | None = None
    faintest: float | None = FAINTEST
    measure: MeasureSpec = field(default_factory=MeasureSpec)
    about: str = "Simulated frames, against their exact truth."

    def tuning(self) -> Iterator[LabelledExposure]:
        """Those of the one folder."""
        return read_scenes(self.tuned_on or self.folder, self.sky)

    def test(self) -> Iterator[LabelledExposure]:
        """Those of the other."""
        return read_scenes(self.folder, self.sky)

    def fingerprint(self) -> str:
        """Nothing was trained on them."""
        return ""


def _some(exposures: Iterator[LabelledExposure], otherwise: str) -> Iterator[LabelledExposure]:
    """The same, or an error where there are none."""
    count = 0
    for count, exposure in enumerate(exposures, start=1):  # noqa: B007
        yield exposure
    if not count:
        raise TrainingError(otherwise)


def frames_of(
    recipe: Recipe, run: Path, dataset: Path | None = None, tiles: Path | None = None, truth: Path | None = None
) -> Frames:
    """What a run is chosen and scored on, by the kind of its data.

    Raises
    ------
    TrainingError
        If the recipe trains on tiles and the data set is not named.
    """
    folder = tiles or (Path(recipe.tiles) if recipe.tiles is not None else None)
    if folder is None:
        return SceneFrames(recipe, run)
    if dataset is None:
        raise TrainingError("a network trained on tiles is scored on whole exposures: name their data set (--dataset)")
    return HeldBackFrames(dataset, TileSet(folder), recipe.sky, truth)
