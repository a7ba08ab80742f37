import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynceus.errors import CatalogueError
from lynceus.matching import Counts, count, match_boxes, match_centres, overlaps, pair_iou
from tests.coco import dense_iou, greedy_with_ignored


def matched(found, sources, ignored=(), radius=3.0, scores=None):
    found = np.array(found, float).reshape(-1, 2)
    sources = np.array(sources, float).reshape(-1, 2)
    mask = np.zeros(len(sources), bool)
    mask[list(ignored)] = True
    scores = np.linspace(1, 0.5, len(found)) if scores is None else np.array(scores)
    return match_centres(found, scores, sources, np.full(len(sources), radius), mask)


def test_a_detection_takes_the_nearest_source_and_each_source_is_taken_once():
    match = matched([(0, 0), (1, 0)], [(0.2, 0), (2, 0)])
    assert match.source_of.tolist() == [0, 1]
    assert count(match) == Counts(right=2, wrong=0, missed=0)


def test_the_highest_score_chooses_first_and_a_second_detection_is_wrong():
    match = matched([(1, 0), (0, 0)], [(0, 0)], scores=[0.2, 0.9])
    assert match.source_of.tolist() == [-1, 0]
    assert count(match) == Counts(right=1, wrong=1, missed=0)


def test_an_ignored_source_absorbs_one_detection():
    match = matched([(0, 0), (0.5, 0)], [(0, 0)], ignored=[0])
    assert count(match) == Counts(right=0, wrong=1, missed=0)


def test_a_source_that_counts_is_preferred_to_a_nearer_ignored_one():
    match = matched([(0, 0)], [(0, 0), (1, 0)], ignored=[0])
    assert match.source_of.tolist() == [1]


def test_too_far_is_no_match():
    assert count(matched([(0, 0)], [(3.1, 0)])) == Counts(right=0, wrong=1, missed=1)


@pytest.mark.parametrize(("found", "sources"), [([], []), ([], [(0, 0)]), ([(0, 0)], [])])
def test_nothing_is_no_accident(found, sources):
    counts = count(matched(found, sources))
    assert (counts.wrong, counts.missed) == (len(found), len(sources))
    assert counts.f1 == 0


@given(st.integers(0, 1000), st.integers(0, 40), st.integers(0, 40))
def test_every_detection_and_every_source_is_counted_once(seed, detections, sources):
    rng = np.random.default_rng(seed)
    ignored = np.flatnonzero(rng.random(sources) < 0.3)
    match = matched(rng.uniform(0, 30, (detections, 2)), rng.uniform(0, 30, (sources, 2)), ignored)
    counts = count(match)
    absorbed = detections - counts.right - counts.wrong
    assert 0 <= absorbed <= len(ignored)
    assert counts.right + counts.missed == sources - len(ignored)


def test_the_figures_are_what_their_names_say():
    counts = Counts(right=6, wrong=2, missed=4)
    assert counts.reliability == 0.75
    assert counts.completeness == 0.6
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert counts + Counts(1, 1, 1) == Counts(7, 3, 5)


def overlapped(found, sources, ignored=(), scores=None, threshold=0.5):
    found = np.array(found, float).reshape(-1, 4)
    sources = np.array(sources, float).reshape(-1, 4)
    mask = np.zeros(len(sources), bool)
    mask[list(ignored)] = True
    scores = np.linspace(1, 0.5, len(found)) if scores is None else np.array(scores)
    return match_boxes(found, scores, sources, mask, threshold)


def random_boxes(rng, count):
    """Of all sizes, a trail now and then."""
    low = rng.uniform(-20, 100, (count, 2))
    sides = np.exp(rng.uniform(0, 4, (count, 2))) * rng.choice([1, 8], (count, 1), p=[0.9, 0.1])
    return np.concatenate([low, low + sides], axis=1)


def test_a_detection_takes_the_source_it_overlaps_most():
    # 10 x 10 boxes: 2 px apart they share 80 of 120, 1 px apart 90 of 110
    match = overlapped([(0, 0, 10, 10)], [(2, 0, 12, 10), (1, 0, 11, 10)])
    assert match.source_of.tolist() == [1]


def test_an_overlap_of_just_the_threshold_is_a_match():
    half = [(0, 0, 10, 5)]  # 50 of 100
    assert overlapped([(0, 0, 10, 10)], half).source_of.tolist() == [0]
    assert overlapped([(0, 0, 10, 10)], half, threshold=0.51).source_of.tolist() == [-1]


def test_of_equal_overlaps_the_last_is_taken_and_of_equal_scores_the_first_chooses():
    same = [(0, 0, 10, 10)] * 2
    assert overlapped(same, same, scores=[0.5, 0.5]).source_of.tolist() == [1, 0]


def test_the_surest_detection_chooses_first_though_another_fits_better():
    boxes = [(0, 0, 10, 10), (2, 0, 12, 10)]
    match = overlapped(boxes, [(0, 0, 10, 10)], scores=[0.3, 0.9])
    assert match.source_of.tolist() == [-1, 0]


def test_an_ignored_box_absorbs_one_detection_that_lies_in_it():
    halo = (0, 0, 100, 100)  # each star covers 1 in 100 of it, and it covers each star whole
    stars = [(10, 10, 20, 20), (30, 30, 40, 40), (95, 95, 106, 106)]
    match = overlapped(stars, [halo], ignored=[0])
    assert match.absorbed.tolist() == [True, False, False]
    assert overlapped(stars[2:], [halo], ignored=[0]).wrong.tolist() == [True]  # 25 of 121 inside


def test_a_source_is_preferred_to_an_ignored_one_that_overlaps_more():
    match = overlapped([(0, 0, 10, 10)], [(0, 0, 10, 10), (0, 0, 10, 6)], ignored=[0])
    assert match.source_of.tolist() == [1]
    assert count(match) == Counts(right=1, wrong=0, missed=0)


@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_boxes_are_matched_as_the_definition_has_it(seed, detections, sources, threshold):
    rng = np.random.default_rng(seed)
    true, found = random_boxes(rng, sources), random_boxes(rng, detections)
    near = min(detections, sources)
    found[:near] = true[:near] + rng.normal(0, 0.15, (near, 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 0.2)
    ignored, scores = rng.random(sources) < 0.3, rng.integers(0, 9, detections) / 9
    match = match_boxes(found, scores, true, ignored, threshold)
    expected = greedy_with_ignored(*dense_iou(found, true), scores, ignored, threshold)
    assert match.source_of.tolist() == expected.tolist()


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 60))
def test_no_pair_that_overlaps_is_overlooked(seed, count_of_one, count_of_other):
    rng = np.random.default_rng(seed)
    one, other = random_boxes(rng, count_of_one), random_boxes(rng, count_of_other)
    pairs = overlaps(one, other)
    iou, covered = np.zeros((2, count_of_one, count_of_other))
    iou[pairs.first, pairs.second], covered[pairs.first, pairs.second] = pairs.iou, pairs.covered
    assert len(pairs.first) == np.count_nonzero(iou)  # each pair once
    for found, expected in zip((iou, covered), dense_iou(one, other), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(pair_iou(one[pairs.first], other[pairs.second]), pairs.iou)


def test_fifty_thousand_boxes_and_one_halo_over_all():
    low = 10.0 * np.stack(np.meshgrid(np.arange(250), np.arange(200)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([low, low + 9], axis=1)
    sources = np.concatenate([boxes, [[0, 0, 2500, 2000]]])
    match = overlapped(boxes, sources, ignored=[len(boxes)])
    assert match.source_of.tolist() == list(range(50_000))


def test_boxes_that_all_lie_on_one_another_are_refused():
    heap = [(0, 0, 10, 10)] * 50_000
    with pytest.raises(CatalogueError, match="5,000,000 pairs"):
        overlapped(heap, heap)


def test_one_wide_source_does_not_slow_the_match_of_centres():
    rng = np.random.default_rng(2)
    sources = rng.uniform(0, 5000, (20_000, 2))
    radius = np.full(20_000, 3.0)
    radius[0] = 5000.0
    match = match_centres(sources, np.ones(20_000), sources, radius, np.zeros(20_000, bool))
    assert count(match).right == 20_000
