"""A whole run in the small: simulate, train, resume, publish, evaluate."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lynceus.bundle import load_bundle
from training.__main__ import app
from training.recipe import read_recipe

TINY = """
name = "tiny"
[train_set]
folder = "train"
count = 2
seed = 1
scene = { size = 128 }
[tuning_set]
folder = "tuning"
count = 1
seed = 2
scene = { size = 128, empty = 0, sources = [200, 200] }
[validation_set]
folder = "validation"
count = 1
seed = 3
scene = { size = 128, empty = 0, sources = [200, 200] }
[network]
widths = [8, 8, 8, 8]
blocks = [1, 1, 1, 1]
pyramid = 8
head_units = [16]
[tile]
size = 128
overlap = 32
[[training]]
crop = 64
batch = 2
steps = 3
warm_up = 1
[[training]]
crop = 64
batch = 1
steps = 2
warm_up = 1
seed = 2
"""

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning and its loggers have much to say


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_becomes_a_bundle_and_a_finished_phase_is_not_trained_again(recipe, tmp_path):
    folder, store = tmp_path / "run", tmp_path / "store"
    run("simulate", recipe, "--run", folder, "--workers", 1)
    run("train", recipe, "--run", folder)
    first = torch.load(folder / "phase1" / "weights.pt", weights_only=True)
    (folder / "phase2" / "weights.pt").unlink()
    again = run("train", recipe, "--run", folder)
    assert "weights.pt" in again
    kept = torch.load(folder / "phase1" / "weights.pt", weights_only=True)
    assert all(torch.equal(first[name], kept[name]) for name in first)
    run("publish", recipe, "--run", folder, "--store", store, "--workers", 1)
    bundle = load_bundle(store / "tiny" / "0.1.0")
    assert bundle.manifest.network.pyramid == 8
    assert set(bundle.manifest.scores) == {"ap50", "f1", "reliability", "completeness"}
    assert "AP50" in (store / "tiny" / "0.1.0" / "card.md").read_text()
    output = run("evaluate", recipe, "--run", folder, "--bundle", store / "tiny" / "0.1.0", "--workers", 1)
    assert "completeness, SNR 5-7" in output


@pytest.mark.parametrize(
    ("place", "mistake", "message"),
    [
        ("pyramid = 8", "pyramid = 8\nanchors = [[4]]", "pyramid levels"),
        ("[tile]", "[merge]\nby = 'magic'\n[tile]", "merge.by"),
        ('name = "tiny"', 'name = "tiny"\nsurprise = 1', "surprise"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused(recipe, place, mistake, message):
    recipe.write_text(recipe.read_text().replace(place, mistake))
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe)


def test_the_shipped_recipe_uses_no_seed_twice():
    recipe = read_recipe(Path(__file__).parents[3] / "training" / "recipes" / "default.toml")
    seeds = [scenes.seed for scenes in (recipe.train_set, recipe.tuning_set, recipe.validation_set)]
    assert len(set(seeds)) == 3
