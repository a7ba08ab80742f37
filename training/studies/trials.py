"""What keeps a search together: its storage, its chance, and trials that outlive the worker they began on."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from training.errors import TrainingError
from training.studies.sweep_spec import SweepSpec

BEATS = 8.0  # signs of life of a trial in the time after which its worker counts as dead
LOCKED = 60.0  # seconds that a worker waits while others write
TRIES = 3  # of one setting whose worker dies each time
ALIVE, WORKER, TRIED, TAKEN_UP = "alive", "worker", "tried", "taken_up"  # attributes of a trial


def open_study(spec: SweepSpec, storage: str, name: str) -> Study:
    """The study that all workers with one storage share.

    Parameters
    ----------
    spec : SweepSpec
        The search.
    storage : str
        An address of a database as SQLAlchemy takes it, or `journal:` and a path.
    name : str
        Of the study.

    Raises
    ------
    TrainingError
        If the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name=name,
            storage=_storage(storage),
            sampler=ByTrial(spec),
            pruner=_pruner(spec),
            direction="maximize",
            load_if_exists=True,
        )
    except Exception as error:  # each database and driver has errors of its own
        raise TrainingError(f"the storage {storage} cannot be used: {error}") from error


def _storage(address: str) -> BaseStorage:
    kind, _, path = address.partition(":")
    if kind == "journal":
        return JournalStorage(JournalFileBackend(path))
    patient = {"connect_args": {"timeout": LOCKED}} if kind == "sqlite" else {}
    return RDBStorage(address, engine_kwargs=patient)


def _pruner(spec: SweepSpec) -> optuna.pruners.BasePruner:
    if spec.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=spec.startup)
    if spec.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(reduction_factor=3)
    return optuna.pruners.NopPruner()


class ByTrial(optuna.samplers.BaseSampler):
    """A sampler whose chance depends on the seed and the number of the trial, whichever worker asks, and when."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: settings are drawn one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, as there is no such space."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one setting by a generator of its own."""
        told = f"{self.spec.seed}:{trial.number}:{param_name}"
        seed = int.from_bytes(hashlib.sha256(told.encode()).digest()[:4])
        if self.spec.sampler == "random":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.spec.startup)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


@contextmanager
def kept_alive(trial: Trial, grace: float) -> Iterator[None]:
    """Give signs of life of a trial while the block runs, so that no other worker takes it up."""
    over = threading.Event()
    trial.set_user_attr(WORKER, _me())

    def beat() -> None:
        while not over.wait(grace / BEATS):
            with suppress(Exception):  # a database that is locked now will not be next time
                trial.set_user_attr(ALIVE, time.time())

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def take_up(study: Study, grace: float) -> None:
    """Close the trials whose workers died, and queue their settings again: their runs go on where they stopped."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_dead(trial, grace):
            continue
        tried = int(trial.user_attrs.get(TRIED, 1))
        again = bool(trial.params) and tried < TRIES
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, RuntimeError):  # another worker was quicker
            continue
        if again:
            study.enqueue_trial(trial.params, user_attrs={TRIED: tried + 1, TAKEN_UP: trial.number})


def engaged(study: Study) -> int:
    """Trials that ended or are at work; one that was taken up again counts once, as the later one."""
    trials = study.get_trials(deepcopy=False)
    replaced = {trial.user_attrs.get(TAKEN_UP) for trial in trials}
    return sum(_counts(trial) and trial.number not in replaced for trial in trials)


def _counts(trial: FrozenTrial) -> bool:
    """Queued trials are still to be made; one that died before it had settings tried none."""
    died_early = trial.state is TrialState.FAIL and not trial.params
    return trial.state is not TrialState.WAITING and not died_early


def _is_dead(trial: FrozenTrial, grace: float) -> bool:
    """Without a sign of life for too long, or its process gone from this machine."""
    host, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
    if host == socket.gethostname() and not _runs(int(process)):
        return True
    began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - float(trial.user_attrs.get(ALIVE, began)) > grace


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
