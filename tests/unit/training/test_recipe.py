"""A recipe says everything, and refuses what it does not know."""

from pathlib import Path

import pytest

from tests.unit.training.run_kit import small_recipe
from training.recipe import Recipe, TrainingSpec, each, read_recipe

RECIPES = sorted((Path(__file__).parents[3] / "training" / "recipes").glob("*.toml"))
DEFAULT = next(path for path in RECIPES if path.stem == "default")


def test_what_is_new_is_off_in_the_shipped_recipe():
    recipe = read_recipe(DEFAULT)
    assert recipe.tiles is None
    assert recipe.start.source == "random"
    assert recipe.strategy.train == "all"
    assert not recipe.augment.resamples
    assert not recipe.augment.changes_counts
    for how in recipe.training:
        assert how.gradient_clip == 5.0
        assert (how.accumulate, how.precision, how.validate_every, how.statistics) == (1, "32-true", 0, 0)


def test_the_shipped_recipe_uses_no_seed_twice():
    seeds = [scenes.seed for scenes in read_recipe(DEFAULT).scene_sets]
    assert len(seeds) == len(set(seeds)) == 3


def test_no_two_recipes_share_a_seed():
    seeds = [scenes.seed for path in RECIPES for scenes in read_recipe(path).scene_sets]
    assert len(seeds) == len(set(seeds)) > 10


def test_a_mixture_is_several_sets_and_one_set_is_a_mixture_of_one():
    deep = read_recipe(DEFAULT.with_name("deep.toml"))
    assert isinstance(deep.train_set, tuple)
    folders = [scenes.folder for scenes in deep.scene_sets]
    assert len(set(folders)) == len(folders) == len(each(deep.train_set)) + 2
    assert each(deep.tuning_set) == (deep.tuning_set,)
    assert each(None) == ()


def test_a_tile_set_stands_in_for_the_simulated_ones():
    assert Recipe(name="real", tiles="tiles").scene_sets == ()
    with pytest.raises(ValueError, match="train_set, tuning_set and validation_set"):
        Recipe(name="nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 3}, "validate_every"),
        ({"precision": "8-bit"}, "precision"),
        ({"loggers": ("papyrus",)}, "loggers"),
        ({"steps": 0}, "steps"),
        ({"momentum": 0.9}, "momentum"),
        ({"batch": -1}, "batch"),
    ],
)
def test_a_mistake_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingSpec(**change)


def test_only_what_shapes_the_weights_is_told_apart():
    recipe = small_recipe({}, {"seed": 2})
    same = small_recipe({"workers": 3, "loggers": ("wandb",), "save_every": 7}, {"seed": 3}, name="other")
    assert recipe.shaping(1) == same.shaping(1)
    assert recipe.shaping(2) != same.shaping(2)
    assert recipe.shaping(1) != recipe.shaping(1, "of another tile set")
    assert recipe.shaping(1) != small_recipe({"learning_rate": 1e-5}).shaping(1)


def test_a_recipe_survives_json():
    recipe = small_recipe({"validate_every": 2, "patience": 1}, augment={"rotation": 10.0, "zoom": (0.9, 1.2)})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
