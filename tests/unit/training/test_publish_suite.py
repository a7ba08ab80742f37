"""A version that is made for every kind of scene: its scores become probabilities on scenes of their own."""

import json

import pytest

from lynceus.bundle import load_bundle, read_manifest
from lynceus.network import Network
from model_store import DEFAULT
from training.scenarios.suite import Scenario, Suite
from training.scenarios.summary import SceneReport, SuiteReport
from training.scenes.ranges import SceneSpec
from training.scoring import publish as publishing
from training.scoring.publish import SuiteFolders, calibrated

STARS = SceneSpec(size=192, sources=(250, 250), fwhm=(2.0, 3.0), snr=(3, 50), empty=0, clean=0.0, fourier=True)
BLANK = SceneSpec(size=192, empty=1.0, clean=0.0, fourier=True)
FEW = Suite(
    name="few",
    frames={"tuning": 1, "calibration": 2, "test": 1},
    seeds={"tuning": 1, "calibration": 2, "test": 3},
    scenarios=(
        Scenario(name="stars", about="stars", scene=STARS),
        Scenario(name="blank", about="nothing", scene=BLANK, starless=True),
    ),
)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(publishing, "read_suite", lambda: FEW)


def test_scores_become_probabilities_on_frames_that_nothing_is_scored_on(few, tmp_path):
    detector = load_bundle(DEFAULT).detector.revised(judge=None)
    made = calibrated(detector, SuiteFolders(frames=tmp_path), 1)
    assert made.spec.judge is not None
    assert 0 < made.spec.min_score < 1
    assert made.spec.model_copy(update={"judge": None, "min_score": detector.spec.min_score}) == detector.spec
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["calibration", "tuning"]


def test_further_frames_are_drawn_for_the_judge_where_they_are_asked_for(few, tmp_path):
    detector = load_bundle(DEFAULT).detector.revised(judge=None)
    without = calibrated(detector, SuiteFolders(frames=tmp_path), 1)
    more = calibrated(detector, SuiteFolders(frames=tmp_path), 1, more=2)
    assert more.spec.judge != without.spec.judge
    assert len(list((tmp_path / "more/stars").glob("*.fits"))) == 2
    assert calibrated(detector, SuiteFolders(frames=tmp_path), 1).spec == without.spec


def test_the_report_of_a_version_tells_how_it_does_on_the_suite(few, tmp_path, monkeypatch):
    seen = {}

    def compare(bundle, suite, frames, out, workers):
        seen["loaded"] = load_bundle(bundle).manifest
        return SuiteReport(about="told", scenes=(SceneReport(name="stars", finders={}),))

    monkeypatch.setattr(publishing, "compare", compare)
    manifest = read_manifest(DEFAULT).model_copy(update={"version": "9.9.9"})
    made = publishing.on_suite(
        manifest,
        Network(manifest.network).eval(),
        SuiteFolders(frames=tmp_path / "frames", rivalry=tmp_path / "rivalry"),
        1,
    )
    assert seen["loaded"].version == "9.9.9"
    assert json.loads(made.model_dump_json())["about"] == "told"
    assert sorted(path.name for path in (tmp_path / "frames").iterdir() if path.is_dir()) == ["test", "tuning"]
