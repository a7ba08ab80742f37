import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import t as student

from lynceus.measure import MeasureSpec
from lynceus.network import Network, NetworkSpec
from training.curation.dataset import TABLE, read_dataset
from training.errors import TrainingError
from training.fitting.start import StartSpec
from training.recipe import Recipe, TrainingSpec, read_recipe
from training.scenes.scene import SceneSpec
from training.scenes.simulate import simulate
from training.studies.held_out import HeldOut, score
from training.studies.intervals import mean_difference, mean_of
from training.studies.study import SHARES, held_out, part_of, run_study, splits_of
from training.studies.variants import AMOUNTS, NMS_THRESHOLDS, STUDIES, study_of
from training.tiling.exposures import TruthSpec
from training.tiling.tileset import TileSetSpec

SMALL = NetworkSpec(widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid=8, head_units=(16,))
RECIPE = Recipe(name="tiny", tiles="none", network=SMALL, training=(TrainingSpec(steps=2), TrainingSpec(steps=2)))
TILES = TileSetSpec(shares=SHARES)
FIGURES = ("map_50", "map", "mar", "best_iou_per_gt", "best_iou_per_prediction", "precision", "recall", "f1")
values = st.lists(st.floats(-1, 1), min_size=2, max_size=8)


class Fakes:
    """Stand for cutting, training and scoring: a variant's figures are known, and so is what was asked."""

    def __init__(self, gain: float = 0.05, fail: str = "") -> None:
        self.gain, self.fail = gain, fail
        self.trained: list[Recipe] = []
        self.scored: list[tuple[Recipe, tuple[str, ...]]] = []

    def train(self, recipe, run):
        if self.fail and self.fail in Path(recipe.tiles).read_text():
            raise TrainingError("the loss is not a number")
        self.trained.append(recipe)
        run.mkdir(parents=True)
        network = Network(recipe.network)
        network.tiles = Path(recipe.tiles).read_text()
        return network

    def score(self, network, recipe, held, overlay=None):
        self.scored.append((recipe, held.keys))
        better = '"flagged":"ignore"' in getattr(network, "tiles", "")
        noise = (self.trained[-1].training[0].seed % 1000) / 100
        return dict.fromkeys(FIGURES, 0.5 + noise + self.gain * better)


@pytest.fixture
def dataset(tmp_path) -> Path:
    """The table of twenty frames in ten fields, without any frames."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "set").mkdir()
    keys = [f"k{index:02d}" for index in range(20)]
    table = Table(
        {
            "key": keys,
            "frame": [f"{key}.fits" for key in keys],
            "catalogue": [f"{key}.dat" for key in keys],
            "state": ["kept"] * 20,
            "labels": ["OK"] * 20,
            "field": [f"f{index % 10}" for index in range(20)],
        },
        meta={"archive": str(tmp_path / "archive")},
    )
    table.write(tmp_path / "set" / TABLE, format="ascii.ecsv")
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def _nothing_is_cut(monkeypatch, request):
    def make_tiles(dataset, out, spec, sky, measure, classes, workers=2):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(spec.model_dump_json())
        return SimpleNamespace(folder=out, fingerprint=f"{spec}{classes}{dataset.parent.name}")

    monkeypatch.setattr("training.tiling.tile.make_tiles", make_tiles)
    if "told" not in request.node.name:  # a page takes a second to draw
        monkeypatch.setattr("training.studies.study_page.study_page", lambda *_: "")


def study(name: str, dataset: Path, fakes: Fakes, **options) -> dict:
    out = dataset.parent / "study"
    return run_study(name, RECIPE, dataset, out, workers=1, train=fakes.train, score=fakes.score, **options)


@given(values)
def test_the_interval_is_students(some):
    mean = mean_of(some)
    low, high = student.interval(0.95, len(some) - 1, np.mean(some), np.std(some, ddof=1) / len(some) ** 0.5 or 1e-300)
    assert mean.mean == pytest.approx(np.mean(some), abs=1e-12)
    assert mean.mean - mean.half == pytest.approx(low, abs=1e-9)
    assert mean.mean + mean.half == pytest.approx(high, abs=1e-9)


@given(values, st.floats(-1, 1))
def test_what_a_seed_does_to_both_cancels(some, gain):
    reference = dict(enumerate(some))
    difference = mean_difference({seed: value + gain for seed, value in reference.items()}, reference)
    assert difference.mean == pytest.approx(gain, abs=1e-9)
    assert difference.half == pytest.approx(0, abs=1e-9)


def test_few_values_claim_little():
    assert mean_of([]) is None
    assert mean_of([0.5]).half is None
    assert not mean_of([0.5]).clear
    assert mean_difference({1: 0.5}, {2: 0.4}) is None


def test_a_gain_is_told_with_its_interval(dataset):
    fakes = Fakes(gain=0.05)
    report = study("flagged", dataset, fakes)
    dropped, ignored = report["variants"]
    assert report["reference"] == dropped["name"] == "dropped"
    assert ignored["difference"]["map_50"]["mean"] == pytest.approx(0.05)
    assert ignored["difference"]["map_50"]["half"] == pytest.approx(0, abs=1e-9)
    assert dropped["mean"]["map_50"]["half"] == pytest.approx(student.ppf(0.975, 2) * 0.01 / 3**0.5)
    out = dataset.parent / "study"
    assert json.loads((out / "study.json").read_text()) == report
    assert "| ignored | +0.0500 ± 0.0000* |" in (out / "study.md").read_text()
    assert "seed by seed" in (out / "study.html").read_text()


def test_variants_differ_in_one_thing_and_seeds_in_nothing_else(dataset):
    fakes = Fakes()
    study("missing", dataset, fakes, seeds=(1, 2))
    assert len(fakes.trained) == 4
    by_seed = {}
    for recipe in fakes.trained:
        plain = [how.model_copy(update={"seed": 0}) for how in recipe.training]
        assert recipe.model_copy(update={"tiles": "none", "training": RECIPE.training}) == RECIPE
        assert plain == [how.model_copy(update={"seed": 0}) for how in RECIPE.training]
        assert len({how.seed for how in recipe.training}) == 2  # each phase has a seed of its own
        by_seed.setdefault(recipe.training[0].seed, set()).add(recipe.tiles)
    assert len(by_seed) == 2
    assert by_seed[1] == by_seed[2]
    specs = [TileSetSpec.model_validate_json(Path(tiles).read_text()) for tiles in by_seed[1]]
    assert {spec.truth.unlisted for spec in specs} == {True, False}
    assert len({spec.model_copy(update={"truth": TruthSpec()}).model_dump_json() for spec in specs}) == 1


def test_all_are_scored_on_the_same_frames_which_none_was_trained_on(dataset):
    fakes = Fakes()
    study("flagged", dataset, fakes)
    assert len({keys for _, keys in fakes.scored}) == 1
    splits = splits_of(dataset, TILES)
    assert {splits[key] for key in fakes.scored[0][1]} == {"test"}


def test_what_is_done_is_not_done_again(dataset):
    first = study("flagged", dataset, Fakes(), seeds=(1, 2))
    fakes = Fakes()
    second = study("flagged", dataset, fakes, seeds=(1, 2, 3))
    assert len(fakes.trained) == len(fakes.scored) == 2
    assert second["variants"][0]["scores"].keys() - first["variants"][0]["scores"].keys() == {"3"}
    longer = RECIPE.model_copy(update={"training": (TrainingSpec(steps=3),)})
    run_study("flagged", longer, dataset, dataset.parent / "study", (1,), None, 1, train=fakes.train, score=fakes.score)
    assert len(fakes.trained) == 4  # figures of another recipe are not taken


def test_a_variant_that_fails_is_told_and_the_others_stand(dataset):
    report = study("flagged", dataset, Fakes(fail='"flagged":"drop"'), seeds=(1, 2))
    assert [one["why"] for one in report["failures"]] == ["the loss is not a number"] * 2
    assert report["variants"][0]["mean"]["map_50"] is None
    assert report["variants"][1]["mean"]["map_50"]["count"] == 2
    assert report["variants"][1]["difference"]["map_50"] is None
    assert "the loss is not a number" in (dataset.parent / "study" / "study.html").read_text()
    with pytest.raises(TrainingError, match="not one variant"):
        study("missing", dataset, Fakes(fail="flagged"))


def test_suppression_is_studied_on_one_training(dataset):
    fakes = Fakes()
    report = study("nms", dataset, fakes, seeds=(1,))
    assert len(fakes.trained) == 1
    served = [(recipe.network.detection_suppression, recipe.merge) for recipe, _ in fakes.scored]
    assert [rule.threshold for rule, _ in served] == list(NMS_THRESHOLDS)
    assert all(rule == merge and rule.by == "iou" for rule, merge in served)
    assert report["variants"][0]["difference"] == dict.fromkeys(report["variants"][0]["mean"])


@pytest.mark.parametrize("name", sorted(set(STUDIES) - {"pretrained"}))
def test_every_study_makes_variants_that_differ(name):
    variants = study_of(name).variants(RECIPE, TILES)
    told = [(one.recipe, one.tiles, one.served, one.amount) for one in variants]
    assert len(told) >= 2
    assert all(one != other for index, one in enumerate(told) for other in told[:index])
    assert len({one.name for one in variants}) == len(variants)
    assert all(one.recipe.training[0].crop <= one.tiles.size for one in variants)


def test_pretrained_needs_weights_to_start_from():
    with pytest.raises(TrainingError, match="compact body"):
        study_of("pretrained").variants(RECIPE, TILES)
    named = RECIPE.model_copy(update={"start": StartSpec(source="file", path="weights.pt")})
    random, trained = study_of("pretrained").variants(named, TILES)
    assert random.recipe.start == StartSpec()
    assert trained.recipe.start == named.start


def test_smaller_amounts_are_parts_of_larger_ones_and_hold_no_test_frame(dataset, tmp_path):
    whole = {exposure.key for exposure in read_dataset(dataset)}
    splits = splits_of(dataset, TILES)
    parts = [
        {exposure.key for exposure in read_dataset(part_of(dataset, tmp_path / f"{variant.amount}", variant))}
        for variant in study_of("amount").variants(RECIPE, TILES)
    ]
    assert [len(part) for part in parts] == sorted((len(part) for part in parts), reverse=True)
    training = [{key for key in part if splits[key] == "train"} for part in parts]
    assert all(smaller < larger < whole for larger, smaller in pairwise(training))
    assert len(training[1]) == round(AMOUNTS[1] * len(training[0]))
    assert not any(splits[key] == "test" for part in parts for key in part)


def test_the_truth_to_score_by_is_that_of_no_variant(dataset):
    for variant in study_of("flagged").variants(RECIPE, TILES):
        labelled = held_out(variant, dataset, None).labelled
        assert (labelled.flagged, labelled.unlisted) == ("ignore", True)


def test_a_network_is_scored_by_the_exact_truth_and_drawn(tmp_path):
    simulate(tmp_path, 1, 5, SceneSpec(size=128, sources=(200, 200), empty=0), workers=1)
    row = [["00000"], ["00000.fits"], [""], ["kept"], ["OK"], ["f"]]
    table = Table(row, names=("key", "frame", "catalogue", "state", "labels", "field"), meta={"archive": str(tmp_path)})
    table.write(tmp_path / TABLE, format="ascii.ecsv")
    held = HeldOut(tmp_path, ("00000",), ("00000",), tmp_path, TruthSpec(), MeasureSpec())
    figures = score(Network(SMALL).eval(), RECIPE, held, tmp_path / "drawn" / "one.png")
    assert set(FIGURES) <= figures.keys()
    truth = Table.read(tmp_path / "00000.ecsv", format="ascii.ecsv")
    assert (~truth["ignored"]).sum() > 0
    assert 0 <= figures["map_50"] <= 1
    with Image.open(tmp_path / "drawn" / "one.png") as picture:
        assert picture.size == (768, 768)


def test_an_unknown_study_is_told_with_those_there_are(dataset):
    with pytest.raises(TrainingError, match="there is no study 'bodies'; there are amount, body"):
        study("bodies", dataset, Fakes())


def test_the_shipped_recipe_of_studies_is_one():
    recipe = read_recipe(Path(__file__).parents[3] / "training" / "recipes" / "study.toml")
    assert recipe.network.body == "compact"
    assert recipe.training[0].crop <= TILES.size
