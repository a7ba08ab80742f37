import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynceus.catalogue import write_json
from lynceus.columns import Block, ModelInfo
from lynceus.detections import Detections, box_about
from lynceus.frame import read_frame
from lynceus.measure import MeasureSpec, measure, summarise
from lynceus.pairing import OUTCOMES, SNR_BINS, Listed, listed, listed_answer, pair_lists
from lynceus.sky import SkySpec, estimate_sky
from tests.fakes import fits_bytes, star_field


def a_list(x, y, snr=20.0, box=(0.0, 0.0), side=8.0, flux=100.0, score=0.9, fwhm=3.0) -> Listed:
    """A list at `x, y`, its boxes off by `box`."""
    x, y = np.array(x, float), np.array(y, float)
    many = np.ones(len(x))
    boxes = box_about(x + box[0], y + box[1], side * many, side * many)
    return Listed(boxes, x, y, score * many, flux * many, snr * many, fwhm * many)


def random_list(seed: int, count: int, side: float = 60.0) -> Listed:
    rng = np.random.default_rng(seed)
    snr = np.where(rng.random(count) < 0.1, np.nan, 10 ** rng.uniform(0, 2.5, count))
    return a_list(*rng.uniform(0, side, (2, count)), snr=snr)


def test_the_same_list_is_matched_whole_without_shifts():
    pairing = pair_lists(random_list(1, 50, 500), random_list(1, 50, 500))
    assert pairing.pairs[:, 0].tolist() == pairing.pairs[:, 1].tolist() == list(range(50))
    assert pairing.agreement == 1
    for name, values in pairing.shifts.items():
        assert values == pytest.approx(1.0 if name in ("box_iou", "box_side_ratio") else 0.0), name


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 60))
def test_every_detection_is_counted_once(seed, first, second):
    pairing = pair_lists(random_list(seed, first), random_list(seed + 1, second))
    matched, lost, gained = (sum(pairing.counts[outcome].values()) for outcome in OUTCOMES)
    assert (matched + lost, matched + gained) == (first, second)
    assert len(set(pairing.pairs[:, 0].tolist())) == len(set(pairing.pairs[:, 1].tolist())) == matched
    assert all(tuple(by_snr) == SNR_BINS for by_snr in pairing.counts.values())


@given(st.integers(0, 1000))
def test_the_other_way_round_lost_is_gained(seed):
    first, second = random_list(seed, 30), random_list(seed + 1, 40)
    there, back = pair_lists(first, second), pair_lists(second, first)
    assert {tuple(pair) for pair in there.pairs.tolist()} == {(a, b) for b, a in back.pairs.tolist()}
    assert there.counts["lost"] == back.counts["gained"]


def test_a_shift_of_the_boxes_shows_in_the_boxes_and_not_in_the_positions():
    stable, canary = a_list([50, 90], [60, 20]), a_list([50, 90], [60, 20], box=(1.5, 0.0))
    shifts = pair_lists(stable, canary).summary()["median_shifts"]
    assert (shifts["box_x"], shifts["box_y"], shifts["box_distance"]) == pytest.approx((1.5, 0, 1.5))
    assert (shifts["x"], shifts["y"]) == (0, 0)
    assert shifts["box_iou"] == pytest.approx(6.5 / 9.5)


def test_shifts_have_the_sign_of_canary_less_stable():
    stable = a_list([50], [60], flux=100.0, score=0.5, side=8.0)
    canary = a_list([50.4], [59.8], flux=90.0, score=0.7, side=4.0)
    shifts = pair_lists(stable, canary).summary()["median_shifts"]
    assert (shifts["score"], shifts["flux"]) == pytest.approx((0.2, -0.1))
    assert (shifts["x"], shifts["y"]) == pytest.approx((0.4, -0.2))
    assert shifts["box_side_ratio"] == pytest.approx(0.5)


def test_wide_sources_may_lie_further_apart():
    assert len(pair_lists(a_list([50], [50]), a_list([53], [50])).pairs) == 0
    assert len(pair_lists(a_list([50], [50], fwhm=8.0), a_list([53], [50], fwhm=8.0)).pairs) == 1
    assert len(pair_lists(a_list([50], [50], fwhm=np.nan), a_list([51.9], [50])).pairs) == 1


def test_boxes_tell_sources_apart_whose_positions_fell_together():
    x, y = np.array([50.0, 50.0]), np.array([50.0, 50.0])
    boxes = box_about(np.array([48.5, 51.5]), y, np.full(2, 8.0), np.full(2, 8.0))
    both = Listed(boxes, x, y, np.ones(2), np.ones(2), np.full(2, 9.0), np.full(2, 3.0))
    turned = Listed(boxes[::-1], x, y, np.ones(2), np.ones(2), np.full(2, 9.0), np.full(2, 3.0))
    assert sorted(pair_lists(both, turned).pairs.tolist()) == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("snr", "name"),
    [
        (4.9, "<5"),
        (5, "5-7"),
        (7, "7-10"),
        (10, "10-20"),
        (20, "20-50"),
        (50, "50+"),
        (1e9, "50+"),
        (np.nan, "unknown"),
    ],
)
def test_bins_hold_their_lower_edge(snr, name):
    counts = pair_lists(a_list([5], [5], snr=snr), a_list([], [])).counts
    assert counts["lost"][name] == 1


def test_nothing_is_no_accident():
    pairing = pair_lists(a_list([], []), a_list([], []))
    assert pairing.agreement is None
    assert pairing.summary()["median_shifts"]["box_x"] is None
    assert all(len(values) == 0 for values in pairing.absolute_shifts.values())


def test_absolute_shifts_have_no_sign_and_no_unknowns():
    stable, canary = a_list([5, 50], [5, 50], flux=np.array([100.0, np.nan])), a_list([5.3, 50], [5, 50], score=0.4)
    shifts = pair_lists(stable, canary).absolute_shifts
    assert shifts["score_shift"].tolist() == pytest.approx([0.5, 0.5])
    assert len(shifts["flux_shift_ratio"]) == 1
    assert shifts["centroid_shift_pixels"].tolist() == pytest.approx([0.3, 0.0])
    assert all((values >= 0).all() for values in shifts.values())


@given(st.integers(0, 500))
def test_a_summary_is_fit_for_json(seed):
    summary = pair_lists(random_list(seed, 10), random_list(seed + 7, 12)).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_thousands_are_paired_in_no_time():
    stable, canary = (random_list(seed, 5000, 4000) for seed in (1, 2))
    start = time.process_time()
    pair_lists(stable, canary).summary()
    assert time.process_time() - start < 1


def test_sources_and_their_answer_make_the_same_list():
    frame = read_frame(fits_bytes(star_field((100, 120), [(30, 40), (80, 70)])))
    boxes = box_about(np.array([30.0, 80.0]), np.array([40.0, 70.0]), np.full(2, 8.0), np.full(2, 8.0))
    found = Detections(boxes.astype(np.float32), np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    sky = estimate_sky(frame, SkySpec())
    sources = measure(frame, found, sky, MeasureSpec())
    block = Block(frame, sources, summarise(frame, sources, sky, MeasureSpec()), ModelInfo("a", "1", "stable", "0"))
    direct, answered = listed(sources), listed_answer(json.loads(write_json([block])))
    for name in ("boxes", "x", "y", "scores", "flux", "snr", "fwhm"):
        np.testing.assert_allclose(getattr(answered, name), getattr(direct, name), rtol=1e-6)


def test_an_answer_without_measurements_has_a_list_all_the_same():
    row = {"x": 4.0, "y": 5.0, "box": [0, 1, 9, 10], "score": 0.5, "flux": None, "snr": None, "fwhm": None}
    found = listed_answer({"detections": [row]})
    assert np.isnan(found.snr[0])
    assert len(listed_answer({"detections": []})) == 0


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="1 boxes"):
        Listed(np.zeros((1, 4)), *[np.zeros(2)] * 6)
