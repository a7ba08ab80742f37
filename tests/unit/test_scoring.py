import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from time import process_time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.detections import Detections
from lynceus.errors import CatalogueError
from lynceus.figures import Evaluation
from lynceus.scoring import evaluate
from lynceus.truth import Truth
from tests.coco import THRESHOLDS, coco, dense_iou, greedy_with_ignored
from training.scenes.simulate import SceneSpec, draw_scene

AT_50_AND_75 = [THRESHOLDS.index(0.5), THRESHOLDS.index(0.75)]


def squares(*corners, side=10.0):
    """Boxes of one side with their lowest corners at (x, y)."""
    low = np.array(corners, float).reshape(-1, 2)
    return np.concatenate([low, low + side], axis=1)


def row(count, start=0.0):
    """Boxes along a line, apart from one another."""
    return squares(*[(start + 20 * n, 0) for n in range(count)])


def listed(boxes, scores=None):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else np.asarray(scores)
    return Detections(boxes, scores.astype(np.float32), np.zeros(len(boxes), np.int64))


def truth_of(boxes, ignored=(), brightness=None, kind="none", positions=None):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    mask = np.zeros(len(boxes), bool)
    mask[list(ignored)] = True
    brightness = np.full(len(boxes), np.nan) if brightness is None else np.array(brightness, float)
    return Truth(boxes, mask, brightness, kind, (), len(boxes), positions)


def scored(found, truth, min_score=0.0, **options) -> Evaluation:
    return evaluate(found, truth, min_score=min_score, **options)


def random_scene(seed, sources, extra):
    """Sources close enough to compete, detections near them, twice near some, and anywhere; scores with ties."""
    rng = np.random.default_rng(seed)
    low, sides = rng.uniform(0, 60, (sources, 2)), rng.uniform(4, 20, (sources, 2))
    true = np.concatenate([low, low + sides], axis=1)
    near = true[rng.random(sources) < 0.8]
    near = np.concatenate([near, near[rng.random(len(near)) < 0.3]])
    near = near + rng.normal(0, rng.choice([0.3, 1.5]), near.shape)
    low = rng.uniform(0, 60, (extra, 2))
    boxes = np.concatenate([near, np.hstack([low, low + rng.uniform(4, 20, (extra, 2))])])
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)]
    return listed(boxes, rng.integers(0, 30, len(boxes)) / 30), true, rng.random(sources) < 0.3


def assert_like(evaluation, reference):
    expected = [reference.precisions.mean(), *reference.precisions[AT_50_AND_75]]
    np.testing.assert_allclose([evaluation.map, evaluation.map_50, evaluation.map_75], expected, atol=1.1e-6)
    for name, cap in evaluation.caps.items():
        assert evaluation.mar[name] == pytest.approx(reference.recalls[cap].mean(), abs=1.1e-6)


scenes = st.builds(random_scene, st.integers(0, 10**6), st.integers(1, 25), st.integers(0, 12))
slow = settings(deadline=None, max_examples=40)


@slow
@given(scenes)
def test_figures_are_those_of_the_definition(scene):
    found, true, _ = scene
    evaluation = scored(found, truth_of(true))
    if len(found):
        assert_like(evaluation, coco(found.boxes.astype(float), found.scores, true, evaluation.caps.values()))


@slow
@given(scenes)
def test_an_ignored_source_absorbs_one_detection_and_both_are_left_out(scene):
    found, true, ignored = scene
    evaluation = scored(found, truth_of(true, np.flatnonzero(ignored)))
    boxes = found.boxes.astype(float)
    source_of = greedy_with_ignored(*dense_iou(boxes, true), found.scores, ignored)
    absorbed = (source_of >= 0) & ignored[source_of]
    matched = int((source_of >= 0).sum() - absorbed.sum())
    counts = evaluation.counts
    assert (counts.matched, counts.ignored, counts.sources_ignored) == (matched, absorbed.sum(), ignored.sum())
    assert counts.missed == (~ignored).sum() - matched
    assert counts.extra == len(found) - matched - absorbed.sum()
    if not ignored.all() and not absorbed.all():
        kept = coco(boxes[~absorbed], found.scores[~absorbed], true[~ignored], evaluation.caps.values())
        assert_like(evaluation, kept)


@slow
@given(scenes, st.floats(0, 1))
def test_best_overlaps_are_means_of_the_best(scene, min_score):
    found, true, ignored = scene
    evaluation = scored(found, truth_of(true, np.flatnonzero(ignored)), min_score)
    boxes, shown = found.boxes.astype(float), found.scores >= min_score
    source_of = greedy_with_ignored(*dense_iou(boxes[shown], true), found.scores[shown], ignored)
    counted = ~((source_of >= 0) & ignored[source_of])
    iou = np.pad(dense_iou(boxes[shown], true[~ignored])[0], ((0, 1), (0, 1)))
    by_source, by_detection = iou.max(axis=0)[:-1], iou.max(axis=1)[:-1][counted]
    assert evaluation.best_iou_per_gt == (pytest.approx(by_source.mean()) if len(by_source) else None)
    assert evaluation.best_iou_per_prediction == (pytest.approx(by_detection.mean()) if len(by_detection) else None)


@slow
@given(scenes, st.floats(0, 1))
def test_what_is_under_min_score_takes_nothing_from_the_rest(scene, min_score):
    found, true, ignored = scene
    truth = truth_of(true, np.flatnonzero(ignored), np.arange(len(true)), "snr")
    dropped = {"map", "map_50", "map_75", "mar", "caps"}  # these are of all detections
    whole = scored(found, truth, min_score)
    alone = scored(found[found.scores >= min_score], truth, min_score)
    assert whole.model_dump(exclude=dropped) == alone.model_dump(exclude=dropped)
    assert whole.map == scored(found, truth, 0.0).map


def test_a_simulated_frame():
    _, table = draw_scene(np.random.default_rng(8), SceneSpec(size=512, sources=(150, 200), empty=0))
    edges = ("x_min", "y_min", "x_max", "y_max")
    boxes, ignored = np.stack([table[edge] for edge in edges], axis=1), np.flatnonzero(table["ignored"])
    rng = np.random.default_rng(9)
    seen = rng.random(len(table)) < 1 - np.exp(-np.array(table["snr"]) / 6)
    low = rng.uniform(0, 500, (20, 2))
    near = boxes[seen] + rng.normal(0, 0.4, (seen.sum(), 4))
    found = listed(np.concatenate([near, np.hstack([low, low + 8])]), rng.random(seen.sum() + 20))
    positions = np.array(table["x"]), np.array(table["y"])
    truth = truth_of(boxes, ignored, table["snr"], "snr", positions)
    evaluation = scored(found, truth)
    exact, wide = found.boxes.astype(float), np.asarray(table["ignored"], bool)
    source_of = greedy_with_ignored(*dense_iou(exact, boxes), found.scores, wide)
    absorbed = (source_of >= 0) & wide[source_of]
    assert_like(evaluation, coco(exact[~absorbed], found.scores[~absorbed], boxes[~wide], evaluation.caps.values()))
    shares = [one.share for one in evaluation.completeness if one.count > 5]
    assert shares[0] < shares[-1]
    assert evaluation.median_centroid_offset < 1


def test_precision_recall_and_f1_by_hand():
    evaluation = scored(listed(row(4, start=20)), truth_of(row(3)))  # at 20, 40 | 60, 80 against 0 | 20, 40
    assert evaluation.precision == 2 / 4
    assert evaluation.recall == pytest.approx(2 / 3)
    assert evaluation.f1 == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert evaluation.best_iou_per_gt == pytest.approx((0 + 1 + 1) / 3)
    assert evaluation.best_iou_per_prediction == (1 + 1 + 0 + 0) / 4
    # By falling score right, right, wrong, wrong: precision 1 up to recall 2/3, which the recalls 0.00 .. 0.66 reach.
    assert evaluation.map == evaluation.map_50 == pytest.approx(67 / 101, abs=1e-6)
    assert evaluation.mar["at_1.0"] == pytest.approx(2 / 3, abs=1e-6)


def test_overlap_by_hand():
    shifted = squares((2, 0))  # 8 of 12 wide: IoU 2/3, over the thresholds 0.5 .. 0.65, under 0.75
    evaluation = scored(listed(shifted), truth_of(squares((0, 0))))
    assert (evaluation.map_50, evaluation.map_75) == (1, 0)
    assert evaluation.map == evaluation.mar["at_1.0"] == pytest.approx(4 / 10)
    assert evaluation.best_iou_per_gt == evaluation.best_iou_per_prediction == pytest.approx(8 / 12)
    assert (evaluation.median_centroid_offset, evaluation.median_dx, evaluation.median_dy) == (2, 2, 0)


def test_a_second_detection_of_a_source_is_extra():
    doubled = np.concatenate([row(1), row(1)])
    evaluation = scored(listed(doubled), truth_of(row(1)))
    assert (evaluation.counts.matched, evaluation.counts.extra) == (1, 1)
    assert evaluation.map == 1  # recall 1 is reached before the extra one
    first_elsewhere = scored(listed(np.concatenate([row(1, start=500), row(1)])), truth_of(row(1)))
    assert first_elsewhere.map == 0.5


def test_an_ignored_source_counts_neither_way_but_absorbs_one_only():
    thrice = np.concatenate([row(2), row(1), row(1)])  # at 0, 20, 0, 0; the source at 0 is ignored
    evaluation = scored(listed(thrice), truth_of(row(2), ignored=[0]))
    counts = evaluation.counts
    assert (counts.matched, counts.missed, counts.extra, counts.ignored, counts.sources_ignored) == (1, 0, 2, 1, 1)
    assert (evaluation.sources, evaluation.detections, evaluation.recall) == (1, 4, 1)
    assert evaluation.precision == pytest.approx(1 / 3)


def test_equal_scores_stay_in_the_order_of_the_list():
    right_first, wrong_first = np.concatenate([row(1), row(1, 500)]), np.concatenate([row(1, 500), row(1)])
    tied = [0.5, 0.5]
    assert scored(listed(right_first, tied), truth_of(row(1))).map_50 == 1
    assert scored(listed(wrong_first, tied), truth_of(row(1))).map_50 == 0.5


@pytest.mark.parametrize("count", [99, 100, 101, 999, 1000, 1001])
def test_no_number_of_detections_is_cut_off(count):
    evaluation = scored(listed(row(count)), truth_of(row(count)))
    assert (evaluation.map, evaluation.mar["at_1.0"], evaluation.recall) == (1, 1, 1)
    cap = max(count, 100)
    assert evaluation.caps == {"at_0.3": round(0.3 * cap), "at_0.65": round(0.65 * cap), "at_1.0": cap}
    assert evaluation.mar["at_0.3"] == pytest.approx(min(round(0.3 * cap), count) / count, abs=1e-6)
    assert evaluation.mar["at_0.65"] == pytest.approx(min(round(0.65 * cap), count) / count, abs=1e-6)


def test_caps_hold_for_the_whole_frame_and_not_for_its_parts():
    rng = np.random.default_rng(4)
    scores = rng.permutation(1500) / 1500
    evaluation = scored(listed(row(1500), scores), truth_of(row(1500)))
    assert evaluation.mar == pytest.approx({"at_0.3": 0.3, "at_0.65": 0.65, "at_1.0": 1.0}, abs=1e-6)


def test_a_large_list_is_scored_as_the_definition_has_it():
    rng = np.random.default_rng(6)
    low = rng.uniform(0, 900, (700, 2))
    true = np.hstack([low, low + rng.uniform(4, 30, (700, 2))])
    boxes = true[rng.random(700) < 0.8]
    found = listed(boxes + rng.normal(0, 1, boxes.shape), rng.integers(0, 50, len(boxes)) / 50)
    evaluation = scored(found, truth_of(true))
    assert_like(evaluation, coco(found.boxes.astype(float), found.scores, true, evaluation.caps.values()))


UNDEFINED = (
    *("map", "map_50", "map_75", "best_iou_per_gt", "best_iou_per_prediction", "precision", "recall", "f1"),
    *("median_centroid_offset", "median_dx", "median_dy"),
)


@pytest.mark.parametrize(
    ("found", "sources", "ignored", "defined"),
    [
        (0, 0, (), {}),
        (3, 0, (), {"precision": 0, "f1": 0, "best_iou_per_prediction": 0}),
        (0, 3, (), {"map": 0, "map_50": 0, "map_75": 0, "recall": 0, "f1": 0, "best_iou_per_gt": 0}),
        (1, 1, (0,), {}),
        (2, 1, (0,), {"precision": 0, "f1": 0, "best_iou_per_prediction": 0}),
    ],
)
def test_what_is_not_defined_is_none(found, sources, ignored, defined):
    evaluation = scored(listed(row(found)), truth_of(row(sources), ignored))
    assert {name: getattr(evaluation, name) for name in UNDEFINED} == dict.fromkeys(UNDEFINED) | defined
    assert set(evaluation.mar.values()) == {defined.get("map")}
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_detections_that_are_all_below_min_score_still_make_average_precision():
    evaluation = scored(listed(row(2), [0.2, 0.1]), truth_of(row(2)), min_score=0.5)
    assert evaluation.map == 1
    assert (evaluation.detections, evaluation.precision, evaluation.recall) == (0, None, 0)


def test_measured_positions_are_used_where_there_are_any():
    truth = truth_of(row(3))
    x, y = (np.array(axis) for axis in truth.centres)
    x = x + np.array([0.3, 0.4, np.nan])
    evaluation = scored(listed(row(3)), truth, positions=(x, y))
    assert evaluation.median_dx == pytest.approx(0.3)  # of 0.3, 0.4 and, of the box centre, 0
    assert scored(listed(row(3)), truth).median_dx == 0


def test_the_position_of_a_source_is_not_the_centre_of_a_box_that_the_edge_cuts():
    cut = np.array([[0.0, 10.0, 4.0, 20.0]])
    x, y = np.array([0.5]), np.array([14.5])  # the centre of the box is at 1.5
    evaluation = scored(listed(cut), truth_of(cut, positions=(x, y)), positions=(x, y))
    assert evaluation.median_centroid_offset == 0


def test_by_centre_within_one_fwhm():
    moved = squares((3.9, 0), (24.1, 0), side=10)  # a side of 10 is a FWHM of 4
    evaluation = scored(listed(moved), truth_of(row(2)))
    assert (evaluation.by_centre.matched, evaluation.by_centre.extra, evaluation.by_centre.missed) == (1, 1, 1)
    assert evaluation.counts.matched == 0  # an overlap of 6.1 in 13.9


def test_completeness_by_snr():
    snr = [1, 4, 4.9, 5, 60, np.nan, -2, 8]
    found = listed(row(8)[[1, 4, 5]])
    evaluation = scored(found, truth_of(row(8), ignored=[7], brightness=snr, kind="snr"))
    bins = [(one.low, one.high, one.count, one.hits) for one in evaluation.completeness]
    assert bins == [
        *[(0, 3, 2, 0), (3, 5, 2, 1), (5, 7, 1, 0), (7, 10, 0, 0)],
        *[(10, 20, 0, 0), (20, 50, 0, 0), (50, None, 1, 1)],
    ]
    assert [one.share for one in evaluation.completeness] == [0, 0.5, 0, None, None, None, 1]
    # Wilson, 1 of 2: (1/2 + z^2/4) / (1 + z^2/2) -+ z sqrt(1/8 + z^2/16) / (1 + z^2/2), z = 1.96
    assert evaluation.completeness[1].interval == pytest.approx((0.0945, 0.9055), abs=1e-4)


def test_completeness_by_magnitude():
    magnitudes = [17.2, 17.9, 18.0, 20.5, 99.0, -np.inf]
    evaluation = scored(listed(row(2)), truth_of(row(6), brightness=magnitudes, kind="magnitude"))
    bins = [(one.low, one.high, one.count, one.hits) for one in evaluation.completeness]
    assert bins == [(17, 18, 2, 2), (18, 19, 1, 0), (19, 20, 0, 0), (20, 21, 1, 0)]


def test_without_brightness_there_is_no_curve():
    assert scored(listed(row(2)), truth_of(row(2))).completeness == ()
    assert scored(listed(row(2)), truth_of(row(2), brightness=[np.nan, np.nan], kind="magnitude")).completeness == ()


def test_reliability_by_score():
    scores = [1.0, 0.95, 0.7, 0.3, 0.31, 0.05]
    truth = truth_of(row(4), ignored=[1])  # absorbs the second; the last two are nothing
    evaluation = scored(listed(row(6), scores), truth, min_score=0.1)
    counted = {one.low: (one.count, one.hits) for one in evaluation.reliability if one.count}
    assert counted == {0.9: (1, 1), 0.7: (1, 1), 0.3: (2, 1)}
    assert (len(evaluation.reliability), evaluation.reliability[-1].high) == (10, 1)


def test_labels_are_not_looked_at():
    found = listed(row(3))
    other = Detections(found.boxes, found.scores, np.array([0, 3, 1]))
    assert scored(other, truth_of(row(3))) == scored(found, truth_of(row(3)))


def test_boxes_on_one_another_are_refused():
    heap = np.repeat(row(1), 3000, axis=0)
    with pytest.raises(CatalogueError, match="lie on one another"):
        scored(listed(heap), truth_of(heap))


def test_nothing_is_said(capfd, caplog):
    caplog.set_level(logging.DEBUG)
    scored(listed(row(150)), truth_of(row(150)))
    assert capfd.readouterr() == ("", "")
    assert not [one for one in caplog.records if one.levelno >= logging.INFO]


def test_threads_get_their_own_figures_and_standard_output_stays():
    stdout = sys.stdout
    cases = [(listed(row(30)), truth_of(row(count))) for count in range(30, 62)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda case: scored(*case), cases))
    assert sys.stdout is stdout
    assert [one.recall for one in together] == [30 / count for count in range(30, 62)]


def test_three_thousand_sources_take_under_two_seconds():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 4000, (3000, 2))
    true = np.hstack([low, low + rng.uniform(4, 12, (3000, 1))])
    found = listed(true + rng.normal(0, 0.5, true.shape), rng.random(3000))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = process_time()
        scored(found, truth_of(true, np.flatnonzero(rng.random(3000) < 0.1)))
        assert process_time() - start < 2
    finally:
        torch.set_num_threads(threads)
