import math
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from astropy.table import Table
from optuna.trial import TrialState

from training.errors import TrainingError
from training.recipe import Recipe, TrainingSpec
from training.studies.sweep import SweepSpec, sweep
from training.studies.trials import ALIVE, TAKEN_UP, TRIED, TRIES, WORKER, engaged, open_study, take_up

RECIPE = Recipe(
    name="tiny", tiles="tiles", training=(TrainingSpec(steps=40), TrainingSpec(steps=20, learning_rate=3e-4))
)
RANDOM = SweepSpec(sampler="random", pruner="none", trials=6)


class Pretend:
    """Stands for training: a figure that is highest at a learning rate of 1e-3, and rises as the training goes on."""

    def __init__(self, fail: int = -1) -> None:
        self.recipes: list[Recipe] = []
        self.folders: list[Path] = []
        self.looks = 0
        self.fail = fail

    def __call__(self, recipe, run, *, on_validation=None):
        number = len(self.recipes)
        self.recipes.append(recipe)
        self.folders.append(run)
        run.mkdir(parents=True, exist_ok=True)
        (run / "last.ckpt").write_bytes(b"large")
        if number == self.fail:
            raise TrainingError("the loss is not a number at step 3")
        reached = 0.9 - abs(math.log10(recipe.training[0].learning_rate / 1e-3)) / 5
        for step in (4, 12, 24, 40):
            self.looks += 1
            on_validation(step, {"map_50": reached * (1 - 1 / step), "loss": 1.0})


@pytest.fixture(autouse=True)
def _page_is_not_drawn(request, monkeypatch):
    """A page takes a second; the test of the page alone draws it."""
    if "page" not in request.node.name:
        monkeypatch.setattr("training.studies.sweep_page.sweep_page", lambda *_: "")


@pytest.fixture
def address(tmp_path, request) -> str:
    return {"sqlite": f"sqlite:///{tmp_path / 'shared.db'}", "journal": f"journal:{tmp_path / 'shared.log'}"}[
        getattr(request, "param", "sqlite")
    ]


def settings(table: Table) -> list[tuple]:
    return [tuple(row[name] for name in ("batch", "learning_rate", "weight_decay", "patience")) for row in table]


def test_settings_lie_in_the_space_and_reach_every_phase(tmp_path):
    train = Pretend()
    table = sweep(RECIPE, tmp_path / "tiles", tmp_path / "run", RANDOM, train=train)
    assert list(table["state"]) == ["finished"] * 6
    assert len(set(settings(table))) == 6
    for recipe, row in zip(train.recipes, table, strict=True):
        first, second = recipe.training
        assert recipe.tiles == str(tmp_path / "tiles")
        assert first.batch == second.batch == row["batch"]
        assert 2 <= first.batch <= 8
        assert 1e-5 <= first.learning_rate <= 1e-2
        assert second.learning_rate / first.learning_rate == pytest.approx(
            3e-4 / RECIPE.training[0].learning_rate, rel=1e-5
        )
        assert first.patience == row["patience"]
        assert first.validate_every == 4  # ten looks where the recipe has none


def test_settings_are_drawn_apart_from_one_another(tmp_path):
    table = sweep(RECIPE, tmp_path, tmp_path, RANDOM, train=Pretend(), trials=12)
    low, high = (math.log(value) for value in RANDOM.learning_rate)
    rate = [(math.log(value) - low) / (high - low) for value in table["learning_rate"]]
    low, high = (math.log(value) for value in RANDOM.weight_decay)
    decay = [(math.log(value) - low) / (high - low) for value in table["weight_decay"]]
    assert max(abs(one - other) for one, other in zip(rate, decay, strict=True)) > 0.2
    assert min(rate) < 0.4
    assert max(rate) > 0.6


def test_a_sweep_in_two_goes_is_the_sweep_in_one(tmp_path):
    whole = sweep(RECIPE, tmp_path, tmp_path / "whole", RANDOM, train=Pretend())
    train = Pretend()
    sweep(RECIPE, tmp_path, tmp_path / "parts", RANDOM, trials=2, train=train)
    parts = sweep(RECIPE, tmp_path, tmp_path / "parts", RANDOM, train=train)
    assert settings(parts) == settings(whole)
    assert len(train.recipes) == 6
    sweep(RECIPE, tmp_path, tmp_path / "parts", RANDOM, train=train)
    assert len(train.recipes) == 6  # all done: nothing is trained again


def test_the_best_look_counts_and_checkpoints_do_not_pile_up(tmp_path):
    train = Pretend()
    table = sweep(RECIPE, tmp_path, tmp_path / "run", RANDOM, train=train)
    for recipe, row in zip(train.recipes, table, strict=True):
        reached = 0.9 - abs(math.log10(recipe.training[0].learning_rate / 1e-3)) / 5
        assert row["map_50"] == pytest.approx(reached * (1 - 1 / 40))
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_hopeless_trials_are_pruned(tmp_path):
    train = Pretend()
    spec = RANDOM.model_copy(update={"pruner": "median", "startup": 2, "trials": 10})
    table = sweep(RECIPE, tmp_path, tmp_path / "run", spec, train=train)
    pruned = table[table["state"] == "pruned"]
    assert 0 < len(pruned) < 8
    assert train.looks < 10 * 4
    assert max(pruned["map_50"]) < max(table["map_50"])


def test_a_training_that_fails_is_a_failed_trial_and_on_the_page(tmp_path):
    table = sweep(RECIPE, tmp_path, tmp_path / "run", RANDOM, train=Pretend(fail=1))
    assert list(table["state"]).count("failed") == 1
    assert "not a number" in table["failure"][1]
    page = (tmp_path / "run" / "sweep.html").read_text()
    assert "the loss is not a number" in page
    assert Table.read(tmp_path / "run" / "trials.ecsv", format="ascii.ecsv")["batch"].tolist() == list(table["batch"])


@pytest.mark.parametrize("address", ["sqlite", "journal"], indirect=True)
def test_the_trial_of_a_dead_worker_is_taken_up_where_it_stopped(tmp_path, address):
    study = open_study(RANDOM, address, RECIPE.name)
    lost = sweep_once_and_die(study, tmp_path)
    train = Pretend()
    table = sweep(RECIPE, tmp_path, tmp_path / "run", RANDOM, address, trials=3, train=train)
    again = [row for row in table if row["number"] != lost.number and row["folder"] == lost.user_attrs["folder"]]
    assert len(again) == 1
    assert again[0]["learning_rate"] == pytest.approx(lost.params["learning_rate"])
    assert again[0]["map_50"] >= 0.95  # what was seen before the worker died still counts
    assert list(table["state"]).count("finished") == 3
    assert table["state"][lost.number] == "failed"


def sweep_once_and_die(study: optuna.Study, folder: Path) -> optuna.trial.FrozenTrial:
    """Leave a trial behind as a worker does that is killed in the middle of it."""

    class Killed(BaseException):
        pass

    def train(recipe, run, *, on_validation=None):
        on_validation(2, {"map_50": 0.95})
        raise Killed

    with pytest.raises(Killed):
        sweep(RECIPE, folder, folder / "run", RANDOM, str(storage_of(study)), train=train)
    left = open_study(RANDOM, storage_of(study), RECIPE.name).get_trials()[-1]
    shorten(storage_of(study))
    assert left.state is TrialState.RUNNING
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    study._storage.set_trial_user_attr(left._trial_id, WORKER, f"{socket.gethostname()}:{int(gone.stdout)}")
    return left


def shorten(address: str) -> None:
    """Let a database lose the last digits of what it holds, as some do."""
    if address.startswith("sqlite"):
        with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as database, database:
            database.execute("update trial_params set param_value = cast(printf('%.12g', param_value) as real)")


def storage_of(study: optuna.Study) -> str:
    backend = getattr(study._storage, "_backend", None)
    if hasattr(backend, "url"):
        return str(backend.url)
    return f"journal:{backend._file_path}"


def test_a_trial_that_lives_is_left_alone(address):
    study = open_study(RANDOM, address, "one")
    trial = study.ask()
    trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
    take_up(study, grace=60)
    assert study.trials[0].state is TrialState.RUNNING
    assert engaged(study) == 1


def test_silence_from_another_machine_is_death_after_the_grace(address):
    study = open_study(RANDOM, address, "one")
    trial = study.ask({"batch": optuna.distributions.IntDistribution(2, 8)})
    trial.set_user_attr(WORKER, "elsewhere:1")
    trial.set_user_attr(ALIVE, 1e9)
    take_up(study, grace=60)
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].user_attrs == {TRIED: 2, TAKEN_UP: 0}
    assert engaged(study) == 0  # the queued one is still to be done


def test_a_worker_that_died_before_it_had_settings_leaves_nothing_behind(address):
    study = open_study(RANDOM, address, "one")
    study.ask().set_user_attr(WORKER, "elsewhere:1")
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, ALIVE, 1e9)
    take_up(study, grace=60)
    assert [one.state for one in study.trials] == [TrialState.FAIL]
    assert engaged(study) == 0


def test_a_setting_that_kills_its_worker_is_given_up(address):
    study = open_study(RANDOM, address, "one")
    for _ in range(TRIES + 2):
        trial = study.ask({"batch": optuna.distributions.IntDistribution(2, 8)})
        trial.set_user_attr(WORKER, "elsewhere:1")
        trial.set_user_attr(ALIVE, 1e9)
        if trial.number < TRIES:
            assert trial.params == study.trials[0].params
        take_up(study, grace=60)
        if trial.number == TRIES - 1:
            break
    assert [one.state for one in study.trials] == [TrialState.FAIL] * TRIES
    assert engaged(study) == 1


def test_a_storage_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(TrainingError, match=r"nowhere\.db cannot be used"):
        sweep(RECIPE, tmp_path, tmp_path, RANDOM, "sqlite:////nonexistent/folder/nowhere.db", train=Pretend())


def test_a_space_without_extent_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        SweepSpec(learning_rate=(1e-2, 1e-2))
