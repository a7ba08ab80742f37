"""The report of a suite holds every figure, marks the best, survives JSON, and loads nothing from anywhere."""

import re

import numpy as np
import pytest

from training.scenarios.calibration import calibration
from training.scenarios.figures import Listing, Place, score_listings
from training.scenarios.page import suite_page
from training.scenarios.summary import COLUMNS, SceneReport, SuiteReport, tables

OURS, RIVAL, ORACLE = "Lynceus", "SExtractor, tuned per scene", "oracle"


def figures(seed, offset, frames=1):
    """Of a finder whose noise lifts strays to some height."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(frames):
        snr = np.minimum(1.8 * rng.uniform(size=300) ** -1.5, 1000)
        there = Place(rng.uniform(0, 511, (300, 2)), snr, np.full(300, 4.0), (512, 512))
        wild = rng.uniform(0, 511, (80, 2))
        scores = np.concatenate([snr + rng.normal(size=300), rng.exponential(1.0, 80) + offset])
        pairs.append((Listing(np.concatenate([there.positions, wild]), scores), there))
    return score_listings(pairs, shipped=5.0, shifts=2, draws=10)


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(1)
    scores = rng.uniform(size=600)
    blank = Place(np.zeros((0, 2)), np.zeros(0), np.zeros(0), (512, 512))
    empty = score_listings([(Listing(np.array([[9.0, 9.0]]), np.array([9.0])), blank)], shipped=5.0)
    scenes = [
        SceneReport(
            name=name,
            about="stars & <galaxies>",
            finders={OURS: figures(n, 0.0), RIVAL: figures(n, 2.0), ORACLE: figures(n, -1.0)},
            calibration=calibration(scores, rng.uniform(size=600) < scores),
        )
        for n, name in enumerate(("sparse", "crowded"))
    ]
    bare = SceneReport(name="star-free", finders={OURS: empty, RIVAL: empty})
    return SuiteReport(about="Two frames of each.", scenes=(*scenes, bare))


def test_the_page_holds_every_scene_and_finder_and_nothing_foreign(report):
    html = suite_page(report, "Scenes")
    for told in (OURS, RIVAL, ORACLE, "sparse", "crowded", "star-free", *(column.label[1:] for column, _ in COLUMNS)):
        assert told in html
    assert "stars &amp; &lt;galaxies&gt;" in html
    assert html.count("<svg") == 3 * 2  # none of the scene without sources
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)


def test_the_tables_have_a_row_a_scene_and_the_best_in_bold(report):
    text = tables(report)
    parts = text.split("\n**")
    assert len(parts) == 1 + len(COLUMNS) + 2  # the sentence; false detections and calibration
    for part in parts[1:]:
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        assert len({row.count("|") for row in rows}) == 1
    best = next(part for part in parts if part.startswith("best F1"))
    names = [row.split(" | ")[0].strip("| ") for row in best.splitlines() if row.startswith("| ")]
    assert names == ["", "sparse", "crowded", "mean"]
    value = max(one.best_f1 for one in report.scenes[0].finders.values())
    assert f"**{value:.3f}**" in best


def test_means_are_over_the_scenes_with_sources_and_need_all_of_them(report):
    values = [scene.finders[OURS].best_f1 for scene in report.populated]
    assert len(values) == 2
    assert report.mean(OURS, lambda one: one.best_f1) == pytest.approx(np.mean(values))
    assert report.mean("nobody", lambda one: one.best_f1) is None


def test_a_report_survives_json(report):
    assert SuiteReport.model_validate_json(report.model_dump_json()) == report


def test_a_finder_that_sees_too_little_has_a_bound_for_its_depth(report):
    scene = report.scenes[0]
    blind = scene.finders[RIVAL].model_copy(
        update={"depth": scene.finders[RIVAL].depth.model_copy(update={"snr50": None, "interval": None})}
    )
    changed = scene.model_copy(update={"finders": {OURS: scene.finders[OURS], RIVAL: blind}})
    assert "> 8" in tables(SuiteReport(scenes=(changed,)))
    assert suite_page(SuiteReport(scenes=(changed,)))
