"""A search for the best settings of a training: trials that several workers share, prune and take up again."""

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import optuna
from astropy.table import Table
from optuna.study import Study
from optuna.trial import Trial, TrialState

from lynceus.durable import write_whole
from lynceus.errors import LynceusError
from lynceus.network import Network
from training.errors import TrainingError
from training.recipe import Recipe
from training.studies.sweep_page import write_sweep
from training.studies.sweep_spec import SweepSpec
from training.studies.trials import engaged, kept_alive, open_study, take_up

__all__ = ["SweepSpec", "sweep"]

FIGURE = "map_50"  # of the validation tiles: what is to be as high as possible
LOOKS = 10  # at the validation tiles in a trial, where the recipe has none
DIGITS = 6  # of a rate
PAGE_EVERY = 60.0  # seconds: a page takes one or two to draw
SEEN = "looks.json"  # in the folder of a trial
OnValidation = Callable[[int, dict[str, float]], None]


class Trainer(Protocol):
    """What a sweep needs of `training.fitting.train.train`."""

    def __call__(self, recipe: Recipe, run: Path, *, on_validation: OnValidation | None = None) -> Network:
        """Train, telling the figures of each look at the validation tiles; what that raises ends the training."""
        ...


def sweep(
    recipe: Recipe,
    tiles: Path,
    run: Path,
    spec: SweepSpec | None = None,
    storage: str | None = None,
    trials: int | None = None,
    *,
    train: Trainer | None = None,
) -> Table:
    """Search for good settings; call it again to go on, or from several processes to share the work.

    Parameters
    ----------
    recipe : Recipe
        That the trials depart from.
    tiles : Path
        Tile set: its training tiles are trained on, its validation tiles judge.
    run : Path
        Folder of the sweep: a folder a trial, `trials.ecsv` and `sweep.html`.
    spec : SweepSpec or None
        The search; None for the ancestor's.
    storage : str or None
        Where the trials are kept: an address of a database as SQLAlchemy takes it, or `journal:` and a path on a file
        system that all workers see. None for a SQLite file in `run`.
    trials : int or None
        In all; None for those of `spec`. Several workers may make up to one more each.
    train : callable or None
        What trains; None for `training.fitting.train.train`.

    Returns
    -------
    Table
        The trials so far, one a row.

    Raises
    ------
    TrainingError
        If the storage cannot be used.
    """
    spec = spec or SweepSpec()
    run.mkdir(parents=True, exist_ok=True)
    study = open_study(spec, storage or f"sqlite:///{(run / 'sweep.db').resolve()}", recipe.name)
    base = recipe.model_copy(update={"tiles": str(tiles)})
    take_up(study, spec.grace)
    written = time.monotonic()
    while engaged(study) < (trials or spec.trials):
        attempt(study, spec, partial(reach, recipe=base, run=run, spec=spec, train=train or _train))
        if time.monotonic() - written > PAGE_EVERY:
            write_sweep(study, run)
            written = time.monotonic()
        take_up(study, spec.grace)
    return write_sweep(study, run)


def attempt(study: Study, spec: SweepSpec, objective: Callable[[Trial], float]) -> None:
    """Make one trial; one that cannot be trained is a failed trial, and the search goes on."""
    trial = study.ask()
    with kept_alive(trial, spec.grace):
        try:
            value = objective(trial)
        except optuna.TrialPruned:
            outcome: dict[str, object] = {"state": TrialState.PRUNED}
        except LynceusError as error:
            trial.set_user_attr("failure", str(error))
            outcome = {"state": TrialState.FAIL}
        else:
            outcome = {"values": value}
    study.tell(trial, **outcome)  # type: ignore[arg-type]


def reach(trial: Trial, recipe: Recipe, run: Path, spec: SweepSpec, train: Trainer) -> float:
    """Train with the settings of a trial; its best figure on the validation tiles."""
    chosen = changed(recipe, trial, spec)
    # Named by its settings: when these are tried again because the worker died, the run goes on where it stopped.
    shaping = chosen.shaping(len(chosen.training))
    folder = run / "trials" / hashlib.sha256(shaping.encode()).hexdigest()[:12]
    trial.set_user_attr("folder", folder.name)
    looks = Looks(trial, folder / SEEN)
    train(chosen, folder, on_validation=looks)
    for checkpoint in folder.rglob("*.ckpt"):  # of use to nobody once the trial is over, and larger than the weights
        checkpoint.unlink()
    return looks.best()


class Looks:
    """What the looks at the validation tiles saw: told to the trial, kept on disk for when it is taken up.

    Parameters
    ----------
    trial : Trial
        Is told, and says whether to go on.
    path : Path
        Where they are kept.
    """

    def __init__(self, trial: Trial, path: Path) -> None:
        self.trial, self.path = trial, path
        self.seen: dict[int, float] = {}
        for step, value in (json.loads(path.read_text()) if path.exists() else {}).items():
            self._note(int(step), value)

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        """Take the figures of one look; raises `TrialPruned` where going on is not worth it."""
        value = figures.get(FIGURE)
        if value is None or value != value:
            return
        self._note(step, float(value))
        write_whole(self.path, json.dumps(self.seen).encode())
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def best(self) -> float:
        """The highest figure."""
        if not self.seen:
            raise TrainingError(f"the validation tiles gave no {FIGURE}: are there sources in them?")
        return max(self.seen.values())

    def _note(self, step: int, value: float) -> None:
        if step not in self.seen:
            self.trial.report(value, step)
        self.seen[step] = value


def changed(recipe: Recipe, trial: Trial, spec: SweepSpec) -> Recipe:
    """The recipe with the settings that a trial proposes."""
    batch = trial.suggest_categorical("batch", spec.batch)
    # A database may give back fewer digits than it was given; taken up, a trial must find the run that it left.
    rate = _short(trial.suggest_float("learning_rate", *spec.learning_rate, log=True))
    decay = _short(trial.suggest_float("weight_decay", *spec.weight_decay, log=True))
    patience = trial.suggest_categorical("patience", spec.patience)
    first = recipe.training[0].learning_rate
    phases = tuple(
        how.model_copy(
            update={
                "batch": batch,
                "learning_rate": _short(rate * how.learning_rate / first),
                "weight_decay": decay,
                "patience": patience,
                "validate_every": how.validate_every or max(how.steps // LOOKS, 1),
            }
        )
        for how in recipe.training
    )
    return recipe.model_copy(update={"training": phases})


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _train(recipe: Recipe, run: Path, *, on_validation: OnValidation | None = None) -> Network:
    from training.fitting.train import train  # Lightning takes seconds to import

    return train(recipe, run, on_validation=on_validation)
