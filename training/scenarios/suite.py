"""The scenario suite: a dozen kinds of scene, their seeds, and the frames drawn from them."""

import hashlib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from lynceus.spec import Spec
from training.errors import TrainingError
from training.scenes.ranges import SceneSpec
from training.scenes.simulate import simulate

Split = Literal["tuning", "calibration", "test"]  # tuning: rivals and thresholds; calibration: scores; test: once
SPLITS: tuple[Split, ...] = get_args(Split)
MORE = "more"  # folder of the frames that belong to no split
SUITE = Path(__file__).with_name("suite.toml")
CALM: dict[str, Any] = {  # what a scenario is unless it says otherwise: nothing on the frame but sky and sources
    "snr": (1.8, 1000),
    "slope": (0.5, 0.8),
    "empty": 0,
    "bright": 0,
    "trailed": 0,
    "correlated": 0,
    "sky": (50, 3000),
    "cosmic_rays": 0,
    "hot_pixels": 0,
    "bad_columns": 0,
    "trails": 0,
    "clean": 1,
    "ignore_snr": 0,
    "ignore_prominence": 0,
}


class Scenario(Spec):
    """A kind of scene.

    Attributes
    ----------
    name : str
        Lower case, with hyphens.
    about : str
        What a reader is told of it.
    scene : SceneSpec
        The ranges its frames are drawn from.
    starless : bool
        Whether nothing is there to be found.
    """

    name: str = Field(pattern=r"^[a-z]+(-[a-z]+)*$")
    about: str
    scene: SceneSpec
    starless: bool = False


class Suite(Spec):
    """Scenarios, how many frames each has in every split, and the seeds of the splits."""

    name: str
    frames: dict[Split, int]
    seeds: dict[Split, int]
    scenarios: tuple[Scenario, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> "Suite":
        if set(self.frames) != set(SPLITS) or set(self.seeds) != set(SPLITS):
            raise ValueError(f"frames and seeds are needed for each of {', '.join(SPLITS)}")
        if len(set(self.seeds.values())) < len(SPLITS):
            raise ValueError("two splits share a seed")
        if len({one.name for one in self.scenarios}) < len(self.scenarios):
            raise ValueError("two scenarios share a name")
        return self

    def chosen(self, names: Collection[str] = ()) -> tuple[Scenario, ...]:
        """The scenarios of these names, or all.

        Raises
        ------
        TrainingError
            If there is none of a name.
        """
        if unknown := sorted(set(names) - {one.name for one in self.scenarios}):
            raise TrainingError(f"no scenario is called {', '.join(unknown)}")
        return tuple(one for one in self.scenarios if not names or one.name in names)


def read_suite(path: Path = SUITE) -> Suite:
    """Read and validate the specification of a suite.

    Raises
    ------
    TrainingError
        If it cannot be used.
    """
    try:
        told = tomllib.loads(path.read_text())
        told["scenarios"] = [one | {"scene": CALM | one["scene"]} for one in told["scenarios"]]
        return Suite.model_validate(told)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValidationError) as error:
        raise TrainingError(f"{path} is no scenario suite: {error}") from error


def digest(suite: Suite) -> str:
    """SHA-256 of all that the file says about its frames, so that a change is seen."""
    told = suite.model_dump_json(exclude={"scenarios": {"__all__": {"about"}}}, exclude_unset=True)
    return hashlib.sha256(told.encode()).hexdigest()


def seed_of(suite: Suite, split: Split, name: str) -> int:
    """The seed of a scenario's frames, 64 bits: no small number, as the seeds of recipes are."""
    return _seed(suite.name, suite.seeds[split], name)


def _seed(*parts: object) -> int:
    told = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(told[:8], "big")


def scenario_folder(folder: Path, split: Split, name: str) -> Path:
    """Where the frames of a scenario are, in a folder that `draw_suite` filled."""
    return folder / split / name


def draw_suite(
    suite: Suite,
    folder: Path,
    splits: Collection[Split] = SPLITS,
    workers: int = 2,
    only: Collection[str] = (),
) -> None:
    """Draw the frames of a suite, `<split>/<scenario>/00000.fits`, and beside each its exact truth `00000.ecsv`.

    Parameters
    ----------
    suite : Suite
        The specification.
    folder : Path
        Made if absent; frames that are in it stay as they are.
    splits : collection of {"tuning", "calibration", "test"}
        Which are drawn, in this order.
    workers : int
        Processes.
    only : collection of str
        Names of scenarios; by default all.

    Raises
    ------
    TrainingError
        If a name is unknown, or if the folder holds frames of another specification.
    """
    scenarios = suite.chosen(only)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / "suite.json", suite)
    for split in splits:
        for one in scenarios:
            where = scenario_folder(folder, split, one.name)
            simulate(where, suite.frames[split], seed_of(suite, split, one.name), one.scene, workers)


def draw_more(suite: Suite, folder: Path, frames: int, workers: int = 2) -> None:
    """Draw further frames of every scenario, `more/<scenario>/`, to learn from: their seeds are no split's.

    Stars are drawn through Fourier space: there are many of these frames, and nothing is scored on them.

    Parameters
    ----------
    suite : Suite
        The specification.
    folder : Path
        That of `draw_suite`.
    frames : int
        Of each scenario; those that are there stay as they are.
    workers : int
        Processes.
    """
    for one in suite.scenarios:
        scene = one.scene.model_copy(update={"fourier": True})
        simulate(folder / MORE / one.name, frames, _seed(suite.name, MORE, one.name), scene, workers)


def _claim(note: Path, suite: Suite) -> None:
    """Write down what the frames of a folder are drawn from, or check it."""
    told = digest(suite)
    if not note.exists():
        note.write_text(told)
    elif note.read_text() != told:
        raise TrainingError(f"{note.parent} holds the frames of another suite: name another folder")
