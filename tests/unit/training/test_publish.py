"""From a run to a version in a store: what it is chosen on, what it is scored on, and what it says of itself."""

import json

import numpy as np
import pytest
import torch

from lynceus.bundle import load_bundle, read_manifest
from lynceus.errors import ConflictError
from lynceus.measure import MeasureSpec
from lynceus.network import Network, NetworkSpec
from lynceus.sky import SkySpec
from model_store import Ref
from model_store.local import LocalStore
from tests.unit.training.tile_kit import write_dataset, write_exposure
from training.errors import TrainingError
from training.recipe import Recipe, SceneSet
from training.scenes.scene import SceneSpec
from training.scenes.simulate import simulate
from training.scoring import appraisal, rival
from training.scoring.appraisal import evaluate_bundle
from training.scoring.evaluate import Finder
from training.scoring.frames import HeldBackFrames, SceneFrames, WholeDataset, frames_of
from training.scoring.publish import publish
from training.scoring.rival import RivalSettings
from training.tiling.exposures import TruthSpec
from training.tiling.tileset import TileSet, TileSetManifest, TileSetSpec

NETWORK = NetworkSpec(
    widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid=8, head_units=(16,), detections=30, proposals=60
)
SETTINGS = RivalSettings(threshold=2.0, convolution="default", least_area=5)
SETS = ("train_set", "tuning_set", "validation_set")
SPLITS = {"train": ("a",), "validation": ("b", "c"), "test": ("d",)}

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecat")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of four exposures, its tile set without tiles, and a run with weights that find a little."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(3)
    for key in "abcd":
        write_exposure(folder / "archive", key, rng.uniform(15, 145, (25, 2)))
    write_dataset(folder / "dataset", folder / "archive", {key: key for key in "abcd"})
    manifest = TileSetManifest(
        spec=TileSetSpec(truth=TruthSpec(unlisted=False)),
        sky=SkySpec(),
        measure=MeasureSpec(box_scale=3.0),
        classes=("source",),
        source="",
        splits=SPLITS,
        shards=dict.fromkeys(SPLITS, ()),
    )
    (folder / "tiles").mkdir()
    manifest.write(folder / "tiles")
    torch.manual_seed(0)
    (folder / "run").mkdir()
    torch.save(Network(NETWORK).state_dict(), folder / "run" / "weights.pt")
    return folder


@pytest.fixture
def recipe(made):
    tile = {"size": 128, "overlap": 32}
    return Recipe(name="tiny", tiles=str(made / "tiles"), network=NETWORK, tile=tile)


def published(recipe, made, store, version="1", **options):
    return publish(recipe, made / "run", store, version, 1, dataset=made / "dataset", rivals=False, **options)


def test_a_version_says_what_it_was_made_from_and_scored_on(recipe, made, tmp_path):
    ref = published(recipe, made, tmp_path / "store")
    assert ref == Ref("tiny", "1")
    folder = LocalStore(tmp_path / "store").fetch(ref)
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    assert manifest.provenance.data_fingerprint == TileSet(made / "tiles").fingerprint
    assert manifest.provenance.parent is None
    assert manifest.detector.measure.box_scale == 3.0
    report = json.loads((folder / "report.json").read_text())["detector"]
    assert [one["key"] for one in report["per_frame"]] == ["d"]
    assert report["min_score"] == manifest.detector.min_score
    assert "1 exposures" in (folder / "card.md").read_text()
    assert (made / "run" / "report" / "report.html").exists()
    stored = bundle.detector.network.state_dict()
    trained = Network(NETWORK).eval()
    trained.load_state_dict(torch.load(made / "run" / "weights.pt", weights_only=True))
    name = "roi_heads.box_predictor.cls_score.weight"
    torch.testing.assert_close(stored[name], trained.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_a_version_is_published_once_and_a_second_try_costs_nothing(recipe, made, tmp_path, monkeypatch):
    published(recipe, made, tmp_path)
    monkeypatch.setattr("training.scoring.publish.appraise", lambda *_, **__: pytest.fail("scored for nothing"))
    with pytest.raises(ConflictError, match="immutable"):
        published(recipe, made, tmp_path)


def test_a_version_names_the_bundle_it_started_from(recipe, made, tmp_path):
    published(recipe, made, tmp_path)
    child = recipe.model_copy(
        update={"start": recipe.start.model_copy(update={"source": "bundle", "path": str(tmp_path / "tiny" / "1")})}
    )
    ref = published(child, made, tmp_path, "2")
    manifest = read_manifest(tmp_path / ref.name / ref.version)
    assert manifest.provenance.parent == "tiny/1"
    card = (tmp_path / ref.name / ref.version / "card.md").read_text()
    assert "started from tiny/1" in card
    assert "| this version | the version it started from |" in card
    report = json.loads((tmp_path / ref.name / ref.version / "report.json").read_text())
    assert report["parent"]["by_centre"] == report["detector"]["by_centre"]  # the same weights


def test_the_threshold_is_chosen_on_other_frames_than_the_figures(made):
    frames = HeldBackFrames(made / "dataset", TileSet(made / "tiles"), SkySpec())
    assert [one.key for one in frames.tuning()] == list(SPLITS["validation"])
    assert [one.key for one in frames.test()] == list(SPLITS["test"])


@pytest.mark.parametrize("version", ["../1", "", "a b"])
def test_a_version_whose_name_is_a_path_is_refused_at_once(recipe, made, tmp_path, version):
    with pytest.raises(Exception, match="cannot be the number of a version"):
        published(recipe, made, tmp_path, version)


def test_what_is_missing_is_named(recipe, made, tmp_path):
    with pytest.raises(TrainingError, match=r"weights\.pt"):
        publish(recipe, tmp_path, tmp_path / "store", "1", 1, dataset=made / "dataset")
    with pytest.raises(TrainingError, match="--dataset"):
        publish(recipe, made / "run", tmp_path / "store", "1", 1)
    other = recipe.model_copy(update={"network": NETWORK.model_copy(update={"head_units": (32,)})})
    with pytest.raises(TrainingError, match="does not fit"):
        published(other, made, tmp_path / "store")
    wrong = write_dataset(tmp_path / "other", made / "archive", {"z": "z"})
    with pytest.raises(TrainingError, match="data set of these tiles"):
        list(HeldBackFrames(wrong, TileSet(made / "tiles"), SkySpec()).test())
    with pytest.raises(TrainingError, match="names no tuning_set"):
        list(SceneFrames(recipe, tmp_path).tuning())


def test_a_split_without_exposures_is_told(recipe, made, tmp_path):
    manifest = TileSet(made / "tiles").manifest
    manifest.model_copy(update={"splits": {**SPLITS, "validation": ()}}).write(tmp_path)
    frames = frames_of(recipe, made / "run", made / "dataset", tmp_path)
    with pytest.raises(TrainingError, match="validation split of the tile set holds no exposure"):
        list(frames.tuning())


def test_a_bundle_is_scored_on_a_whole_data_set_or_on_the_test_split(recipe, made, tmp_path):
    ref = published(recipe, made, tmp_path / "store")
    bundle = tmp_path / "store" / ref.name / ref.version
    whole = evaluate_bundle(bundle, tmp_path / "whole", dataset=made / "dataset", rivals=False, workers=1)
    assert [one.key for one in whole["detector"].per_frame] == list("abcd")
    assert json.loads((tmp_path / "whole" / "report.json").read_text())["detector"]["frames"] == 4
    part = evaluate_bundle(
        bundle, tmp_path / "part", dataset=made / "dataset", tiles=made / "tiles", rivals=False, workers=1
    )
    assert [one.key for one in part["detector"].per_frame] == ["d"]
    assert "tiny 1" in (tmp_path / "part" / "report.html").read_text()
    for both in ({}, {"dataset": made / "dataset", "scenes": made}):
        with pytest.raises(TrainingError, match="either a data set or a folder"):
            evaluate_bundle(bundle, tmp_path, **both)


def test_rivals_stand_beside_the_version_tuned_on_its_tuning_frames(recipe, made, tmp_path, monkeypatch):
    seen = []

    def rivals(tuning, measure, **_):
        seen.extend(one.key for one in tuning())
        return {"sep": Finder(lambda one: rival.find(one, SETTINGS, measure))}

    monkeypatch.setattr(appraisal, "rival_finders", rivals)
    ref = publish(recipe, made / "run", tmp_path, "1", 1, dataset=made / "dataset")
    assert seen == list(SPLITS["validation"])
    report = json.loads((tmp_path / ref.name / ref.version / "report.json").read_text())
    keys = {name: [one["key"] for one in scored["per_frame"]] for name, scored in report.items()}
    assert keys == {"detector": ["d"], "sep": ["d"]}
    assert report["sep"]["by_centre"]["matched"] > 15


def test_a_network_trained_on_simulated_frames_is_scored_on_others_of_its_recipe(made, tmp_path):
    scene = SceneSpec(size=128, sources=(200, 200), empty=0)
    sets = {name: SceneSet(folder=name, count=1, seed=n, scene=scene) for n, name in enumerate(SETS)}
    recipe = Recipe(name="sim", network=NETWORK, tile={"size": 128, "overlap": 32}, **sets)
    for name in ("tuning_set", "validation_set"):
        simulate(tmp_path / name, 1, sets[name].seed, scene, 1)
    (tmp_path / "weights.pt").write_bytes((made / "run" / "weights.pt").read_bytes())
    ref = publish(recipe, tmp_path, tmp_path / "store", "1", 1, rivals=False)
    folder = tmp_path / "store" / ref.name / ref.version
    report = json.loads((folder / "report.json").read_text())["detector"]
    (truth,) = [one.truth for one in SceneFrames(recipe, tmp_path).test()]
    assert report["faintest"] == 5
    assert report["sources"] == ((truth.brightness >= 5) & ~truth.ignored).sum()
    assert sum(one["count"] for one in report["completeness"]) == (~truth.ignored).sum()
    assert set(read_manifest(folder).scores) <= {"ap50", "f1", "reliability", "completeness"}
    assert "Trained on simulated frames alone." in (folder / "card.md").read_text()
    scored = evaluate_bundle(folder, tmp_path / "out", scenes=tmp_path / "validation_set", rivals=False, workers=1)
    assert scored["detector"].counts.model_dump() == report["counts"]
    other = recipe.model_copy(update={"train_set": sets["train_set"].model_copy(update={"seed": 99})})
    prints = [SceneFrames(one, tmp_path).fingerprint() for one in (recipe, other)]
    assert read_manifest(folder).provenance.data_fingerprint == prints[0] != prints[1]


def test_some_exposures_of_a_data_set_can_be_named(made):
    frames = WholeDataset(made / "dataset", SkySpec(), MeasureSpec(), keys=("a", "c"))
    assert [one.key for one in frames.test()] == [one.key for one in frames.tuning()] == ["a", "c"]
