"""A run that was interrupted ends with the very weights of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.training.run_kit import small_recipe, write_scenes
from training.errors import TrainingError
from training.fitting.augment import AugmentSpec
from training.fitting.checkpoints import read_best
from training.fitting.loggers import read_log
from training.fitting.strategies import StrategySpec
from training.fitting.train import train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning and its loggers have much to say

KILLED_AT = 15
LONG = {"steps": 20, "save_every": 4, "validate_every": 5, "validation_tiles": 2, "warm_up": 5}
CHILD = f"""
import os, signal, sys
from pathlib import Path
import torch
from training.recipe import Recipe
from training.fitting.train import train

def kill(step, figures):
    if step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
run = Path(sys.argv[1])
train(Recipe.model_validate_json((run / "recipe.json").read_text()), run, on_validation=kill)
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are then made in one order
    yield
    torch.set_num_threads(before)


def weights(run: Path, phase: int = 1) -> dict[str, Tensor]:
    return torch.load(run / f"phase{phase}" / "weights.pt", weights_only=True)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


class InterruptionError(Exception):
    pass


def interrupt_at(step: int):
    def stop(now: int, _: dict[str, float]) -> None:
        if now == step:
            raise InterruptionError

    return stop


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(tmp_path):
    recipe = small_recipe(LONG)
    whole, killed = write_scenes(tmp_path / "whole"), write_scenes(tmp_path / "killed")
    (killed / "recipe.json").write_text(recipe.model_dump_json())
    command = [sys.executable, "-c", CHILD, str(killed)]
    child = subprocess.run(command, env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
    saved = torch.load(killed / "phase1" / "last.ckpt", weights_only=False)
    assert saved["global_step"] == 12  # the steps after it are lost, and done again
    assert not (killed / "phase1" / "weights.pt").exists()
    train(recipe, killed)
    train(recipe, whole)
    assert_same(weights(whole), weights(killed))
    assert read_best(whole / "phase1") == read_best(killed / "phase1")
    first, second = (read_log(run / "phase1") for run in (whole, killed))
    assert [tuple(row) for row in first] == [tuple(row) for row in second]


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": StrategySpec(train="lora", rank=2)},
        {"strategy": StrategySpec(train="dynamic")},
        {"augment": AugmentSpec(rotation=20, zoom=(0.9, 1.1), noise=0.5)},
    ],
    ids=["lora", "dynamic", "augmented"],
)
def test_whatever_is_trained_an_interruption_leaves_no_trace(tmp_path, changes):
    short = {"steps": 5, "save_every": 2, "validate_every": 3, "validation_tiles": 2, "accumulate": 2, "statistics": 2}
    recipe = small_recipe(short, **changes)
    whole, broken = write_scenes(tmp_path / "whole"), write_scenes(tmp_path / "broken")
    with pytest.raises(InterruptionError):
        train(recipe, broken, on_validation=interrupt_at(3))
    train(recipe, broken)
    train(recipe, whole)
    assert_same(weights(whole), weights(broken))


def test_loader_workers_change_no_bit(tmp_path):
    runs = [write_scenes(tmp_path / str(workers)) for workers in (0, 2)]
    for workers, run in zip((0, 2), runs, strict=True):
        train(small_recipe({"workers": workers}), run)
    assert_same(*(weights(run) for run in runs))


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    recipe = small_recipe({"steps": 40, "validate_every": 1, "patience": 2, "learning_rate": 1e-9})
    run = write_scenes(tmp_path)
    looks: list[int] = []
    train(recipe, run, on_validation=lambda step, _: looks.append(step))
    best = read_best(run / "phase1")["map_50"]
    assert len(looks) == best["step"] + 2 < 40
    first = weights(run)
    (run / "phase1" / "weights.pt").unlink()
    train(recipe, run, on_validation=lambda step, _: looks.append(step))
    assert len(looks) == best["step"] + 2
    assert_same(first, weights(run))


def test_a_run_is_not_resumed_with_another_recipe(tmp_path):
    run = write_scenes(tmp_path)
    train(small_recipe({"steps": 2}), run)
    train(small_recipe({"steps": 2, "loggers": ("tensorboard",)}, {"steps": 2, "seed": 2}), run)  # goes on
    with pytest.raises(TrainingError, match="another recipe"):
        train(small_recipe({"steps": 2, "learning_rate": 0.5}), run)
