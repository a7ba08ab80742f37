import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynceus.matching import Counts, count, match_centres


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
