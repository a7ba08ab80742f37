"""Figures of a scene: perfect lists are perfect, strays are chance, depth and calibration are what they were made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from lynceus.detections import Detections, box_about
from lynceus.facts import Facts
from lynceus.frame import Frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from training.scenarios.calibration import calibration, calibration_of, rightness
from training.scenarios.chance import shifts_of
from training.scenarios.curves import NEVER, claims_of, curve_of
from training.scenarios.figures import FAINTEST, Listing, Place, best_f1, place_of, score_listings, score_sweep
from training.tiling.exposures import LabelledExposure

SIDE, FWHM = 512, 4.0


def place(rng, count=300, faintest=1.8, fwhm=FWHM, side=SIDE):
    """Sources anywhere, most of them faint."""
    snr = np.minimum(faintest * rng.uniform(size=count) ** -1.5, 1000)
    return Place(rng.uniform(-0.5, side - 0.5, (count, 2)), snr, np.full(count, fwhm), (side, side))


def seen(rng, there, width=1.0, offset=0.0, strays=0):
    """What a filter of Gaussian noise would list, `offset` less sure than it might be, and strays besides."""
    scores = there.snr - offset + rng.normal(0, width, len(there))
    positions = there.positions + rng.normal(0, 0.1, (len(there), 2))
    wild = rng.uniform(-0.5, there.shape[0] - 0.5, (strays, 2))
    return Listing(np.concatenate([positions, wild]), np.concatenate([scores, rng.exponential(1.0, strays) + 1.5]))


def perfect(there):
    return Listing(there.positions, there.snr.copy())


def test_a_perfect_list_is_perfect():
    there = place(np.random.default_rng(1))
    figures = score_listings([(perfect(there), there)], shipped=FAINTEST, draws=0)
    assert figures.f1_shipped == figures.best_f1 == figures.ap == 1
    assert figures.completeness_at == {"0.95": 1, "0.90": 1}
    assert figures.false_per_megapixel == 0
    assert figures.sources == (there.snr >= FAINTEST).sum()
    assert figures.chance_matches == 0
    assert figures.snr50 == 2  # everything is found, down to the lowest edge


def test_strays_match_by_chance_alone_and_are_seen_through():
    rng = np.random.default_rng(2)
    there = place(rng, 1500)
    wild = Listing(rng.uniform(-0.5, SIDE - 0.5, (1000, 2)), rng.uniform(size=1000))
    figures = score_listings([(wild, there)], draws=0)
    counted = int((there.snr >= FAINTEST).sum())
    rate = counted * np.pi * FWHM**2 / SIDE**2  # how many sources a stray is near to
    assert figures.chance == pytest.approx(1 - np.exp(-rate), rel=0.2)
    assert figures.chance_matches > 0.6
    assert figures.completeness_at["0.90"] == 0
    assert figures.snr50 is None


def test_the_chance_share_of_a_thin_field_is_density_times_area():
    rng = np.random.default_rng(3)
    there = Place(rng.uniform(-0.5, SIDE - 0.5, (200, 2)), np.full(200, 20.0), np.full(200, FWHM), (SIDE, SIDE))
    listing = Listing(rng.uniform(-0.5, SIDE - 0.5, (400, 2)), rng.uniform(size=400))
    figures = score_listings([(listing, there)], shipped=0.0, shifts=32, draws=0)
    assert figures.chance == pytest.approx(200 * np.pi * FWHM**2 / SIDE**2, rel=0.2)


def test_what_a_list_finds_itself_is_hardly_chance():
    rng = np.random.default_rng(4)
    there = place(rng, 1500)
    figures = score_listings([(seen(rng, there), there)], shipped=FAINTEST, draws=0)
    assert figures.chance > 0.03  # shifted, it would match so much
    assert figures.chance_matches < 0.001  # yet hardly any of it is free to


def test_a_faint_source_absorbs_one_detection_and_no_more():
    spot = np.array([[50.0, 50.0]])
    faint = Place(np.concatenate([spot, [[200.0, 200.0]]]), np.array([3.0, 9.0]), np.full(2, FWHM), (SIDE, SIDE))
    bright = np.array([[200.0, 200.0]])
    once = score_listings([(Listing(np.concatenate([spot, bright]), np.array([0.9, 0.8])), faint)], 0.5, draws=0)
    twice = Listing(np.concatenate([spot, spot + 1, bright]), np.array([0.9, 0.85, 0.8]))
    assert once.f1_shipped == once.reliability_shipped == 1
    assert score_listings([(twice, faint)], 0.5, draws=0).reliability_shipped == 0.5
    assert once.sources == 1


def test_a_source_set_aside_never_counts_however_bright():
    there = Place(np.array([[9.0, 9.0], [99.0, 99.0]]), np.array([90.0, 9.0]), np.full(2, FWHM), (SIDE, SIDE))
    aside = Place(there.positions, there.snr, there.fwhm, there.shape, np.array([True, False]))
    assert len(claims_of([(perfect(there), there)], None).snr) == 2
    claims = claims_of([(perfect(aside), aside)], None)
    assert len(claims.snr) == 1
    assert not len(claims.strays)


def test_two_detections_of_one_source_are_one_right_and_one_wrong():
    there = Place(np.array([[50.0, 50.0]]), np.array([20.0]), np.array([FWHM]), (SIDE, SIDE))
    listing = Listing(np.array([[50.0, 50.0], [51.0, 50.0]]), np.array([0.6, 0.9]))
    figures = score_listings([(listing, there)], 0.5, draws=0)
    assert figures.reliability_shipped == 0.5
    assert figures.completeness_shipped == 1
    assert figures.best_threshold == 0.9


def test_what_lies_over_one_fwhm_away_is_no_match():
    there = Place(np.array([[50.0, 50.0]]), np.array([20.0]), np.array([FWHM]), (SIDE, SIDE))
    for away, found in ((0.99 * FWHM, 1), (1.01 * FWHM, 0)):
        listing = Listing(np.array([[50.0 + away, 50.0]]), np.ones(1))
        assert score_listings([(listing, there)], 0.5, draws=0).completeness_shipped == found


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.floats(0.2, 3), scale=st.floats(0.01, 100))
def test_only_the_order_of_the_scores_counts(seed, power, scale):
    rng = np.random.default_rng(seed)
    there = place(rng, 80)
    listing = seen(rng, there, strays=30)
    scores = listing.scores - listing.scores.min()
    changed = Listing(listing.positions, scale * scores**power)
    first = score_listings([(listing, there)], draws=0, shifts=2)
    second = score_listings([(changed, there)], draws=0, shifts=2)
    same = {"best_threshold", "depth", "curve"}
    assert first.model_dump(exclude=same) == second.model_dump(exclude=same)
    assert first.snr50 == second.snr50
    assert [(p.completeness, p.reliability) for p in first.curve] == [
        (p.completeness, p.reliability) for p in second.curve
    ]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.floats(1.0, 20.0))
def test_what_is_listed_below_a_threshold_changes_nothing_above(seed, cut):
    rng = np.random.default_rng(seed)
    there = place(rng, 150, fwhm=9.0)
    listing = seen(rng, there, strays=100)
    sure = listing.scores >= cut
    whole = curve_of(claims_of([(listing, there)], FAINTEST))
    part = curve_of(claims_of([(Listing(listing.positions[sure], listing.scores[sure]), there)], FAINTEST))
    kept = whole.thresholds >= cut
    np.testing.assert_array_equal(whole.thresholds[kept], part.thresholds)
    np.testing.assert_array_equal(whole.right[kept], part.right)
    np.testing.assert_array_equal(whole.wrong[kept], part.wrong)


def test_the_curve_agrees_with_a_count_at_every_threshold():
    rng = np.random.default_rng(5)
    pairs = [(seen(rng, there, strays=40), there) for there in (place(rng, 100), place(rng, 50))]
    pairs = [(Listing(one.positions, np.round(one.scores, 0)), there) for one, there in pairs]  # many of one score
    claims = claims_of(pairs, FAINTEST)
    curve = curve_of(claims)
    assert len(curve.thresholds) == len(set(curve.thresholds.tolist()))
    for threshold, right, wrong in zip(curve.thresholds, curve.right, curve.wrong, strict=True):
        assert right == (claims.found_at >= threshold).sum()
        assert wrong == (claims.strays >= threshold).sum()
    assert curve.sources == sum((there.snr >= FAINTEST).sum() for _, there in pairs)
    assert best_f1(pairs)[0] == curve.f1.max()


@pytest.mark.parametrize("half", [3.0, 4.5, 6.0])
def test_the_depth_of_a_finder_that_is_known_is_found_again(half):
    rng = np.random.default_rng(int(10 * half))
    pairs = []
    for _ in range(4):
        there = place(rng, 2000, side=2048)
        found = rng.uniform(size=len(there)) < ndtr(there.snr - half)
        pairs.append((Listing(there.positions[found], there.snr[found]), there))
    depth = score_listings(pairs).depth
    assert depth.snr50 == pytest.approx(half, abs=0.12)
    assert depth.interval[0] < half + 0.02
    assert half - 0.02 < depth.interval[1]
    assert depth.interval[1] - depth.interval[0] < 0.35


def test_depth_lies_at_the_threshold_where_strays_leave_95_per_cent():
    rng = np.random.default_rng(8)
    pairs = [(seen(rng, there, strays=600), there) for there in (place(rng, 1500, side=1024) for _ in range(3))]
    depth = score_listings(pairs, draws=0).depth
    assert depth.reliability == pytest.approx(0.95, abs=0.002)
    assert depth.snr50 == pytest.approx(depth.threshold, abs=0.15)  # a filter finds half of what is at its threshold


def test_a_field_that_hides_many_is_no_less_deep_for_chance():
    """A third of all sources cannot be seen: half completeness is where three quarters of the others are."""
    rng = np.random.default_rng(9)
    there = place(rng, 5000, side=2048)
    found = rng.uniform(size=len(there)) < 2 / 3 * ndtr(there.snr - 4.0)
    depth = score_listings([(Listing(there.positions[found], there.snr[found]), there)], draws=0).depth
    assert depth.snr50 == pytest.approx(4.0 + 0.674, abs=0.2)


def test_a_finder_that_misses_half_of_the_brightest_has_no_depth():
    rng = np.random.default_rng(10)
    there = place(rng, 2000, side=1024)
    found = (rng.uniform(size=len(there)) < 0.4) & (there.snr > 3)
    figures = score_listings([(Listing(there.positions[found], there.snr[found]), there)], draws=0)
    assert figures.snr50 is None
    assert figures.depth.threshold is not None


def test_a_sweep_is_no_worse_than_its_best_run_and_needs_no_ranking():
    rng = np.random.default_rng(11)
    places = [place(rng, 300) for _ in range(2)]
    whole = [seen(rng, there, strays=300) for there in places]
    runs = {}
    for threshold in (2.0, 3.0, 5.0, 6.0, 7.0):
        kept = [one.scores >= threshold for one in whole]
        runs[threshold] = [
            Listing(one.positions[k], np.ones(k.sum())) for one, k in zip(whole, kept, strict=True)
        ]  # ranks nothing
    swept = score_sweep(runs, places, shipped=3.0, draws=0)
    ranked = score_listings(list(zip(whole, places, strict=True)), draws=0)
    single = [score_listings(list(zip(one, places, strict=True)), 0.0, draws=0) for one in runs.values()]
    assert swept.best_f1 >= max(one.best_f1 for one in single)
    assert swept.f1_shipped == single[1].f1_shipped
    assert swept.completeness_at["0.95"] == pytest.approx(ranked.completeness_at["0.95"], abs=0.05)
    assert swept.snr50 == pytest.approx(ranked.snr50, abs=1.0)
    with_ranking = {
        threshold: [
            Listing(one.positions[one.scores >= threshold], one.scores[one.scores >= threshold]) for one in whole
        ]
        for threshold in runs
    }
    best = score_sweep(with_ranking, places, draws=0)
    assert best.ap >= swept.ap
    assert best.snr50 == pytest.approx(ranked.snr50, abs=0.01)


def test_a_sweep_needs_every_frame_and_a_run_for_its_threshold():
    there = place(np.random.default_rng(12), 20)
    with pytest.raises(ValueError, match="2 lists"):
        score_sweep({1.0: [perfect(there)]}, [there, there])
    with pytest.raises(ValueError, match="no run at 2"):
        score_sweep({1.0: [perfect(there)]}, [there], shipped=2.0)


def test_a_sky_without_sources_has_detections_by_area_and_nothing_else():
    blank = Place(np.zeros((0, 2)), np.zeros(0), np.zeros(0), (1000, 2000))
    listing = Listing(np.array([[5.0, 5.0], [700.0, 900.0], [9.0, 9.0]]), np.array([0.9, 0.8, 0.1]))
    for figures in (
        score_listings([(listing, blank)], 0.5),
        score_sweep({0.5: [Listing(listing.positions[:2], listing.scores[:2])], 0.1: [listing]}, [blank], 0.5),
    ):
        assert figures.per_megapixel == figures.false_per_megapixel == 1
        assert figures.best_f1 is figures.f1_shipped is figures.ap is figures.snr50 is None
        assert figures.completeness_at == {}
        assert figures.model_dump_json()


def test_an_empty_list_finds_nothing():
    there = place(np.random.default_rng(13), 50)
    figures = score_listings([(Listing(np.zeros((0, 2)), np.zeros(0)), there)], 0.5)
    assert figures.best_f1 == figures.f1_shipped == figures.ap == 0
    assert figures.completeness_at == {"0.95": 0, "0.90": 0}
    assert figures.per_megapixel == 0


def test_a_shift_leaves_every_source_behind_and_stays_on_the_frame():
    there = place(np.random.default_rng(14), 40, fwhm=20.0)
    shifts = shifts_of(there)
    assert (np.hypot(*shifts.T) > 3 * 20.0).all()
    moved = perfect(there).moved(shifts[0], there.shape)
    assert ((moved.positions >= -0.5) & (moved.positions < SIDE - 0.5)).all()
    np.testing.assert_array_equal(moved.scores, perfect(there).scores)


def test_place_of_undoes_what_the_edge_of_the_frame_cuts():
    pixels = np.random.default_rng(15).normal(100, 5, (128, 128)).astype(np.float32)
    frame = Frame(pixels, Facts())
    x, y = np.array([64.0, 0.0]), np.array([64.0, 30.0])
    boxes = np.clip(box_about(x, y, np.full(2, 10.0), np.full(2, 10.0)), 0, 128)
    truth = Truth(boxes, np.array([False, False]), np.array([9.0, 4.0]), "snr", (), 2, (x, y))
    there = place_of(LabelledExposure("", frame, estimate_sky(frame, SkySpec()), truth))
    np.testing.assert_allclose(there.fwhm, 4.0)
    np.testing.assert_array_equal(there.positions, np.stack([x, y], axis=1))
    assert there.shape == (128, 128)
    assert there.fainter(FAINTEST).tolist() == [False, True]
    assert not there.fainter(None).any()


def test_a_listing_takes_measured_positions_where_there_are_any():
    found = Detections(np.array([[0, 0, 4, 4], [10, 10, 14, 14]], np.float32), np.array([0.5, 0.9]), np.zeros(2, int))
    listing = Listing.of(found, (np.array([1.7, np.nan]), np.array([1.4, np.nan])))
    np.testing.assert_allclose(listing.positions, [[1.7, 1.4], [11.5, 11.5]])


def test_scores_that_mean_what_they_say_have_no_error_but_that_of_few():
    rng = np.random.default_rng(16)
    scores = rng.uniform(size=20000)
    figures = calibration(scores, rng.uniform(size=len(scores)) < scores)
    assert figures.error < 2 * figures.noise < 0.03
    assert abs(figures.lean) < 0.02
    assert figures.detections == pytest.approx(16000, rel=0.05)
    assert sum(one.count for one in (*figures.bins, *figures.ends)) == len(scores)


def test_scores_that_are_too_sure_have_the_error_that_they_have():
    rng = np.random.default_rng(17)
    scores = rng.uniform(0.1, 0.9, 40000)
    right = rng.uniform(size=len(scores)) < scores - 0.08
    figures = calibration(scores, right)
    assert figures.error == pytest.approx(0.08, abs=0.01)
    assert figures.lean == pytest.approx(0.08, abs=0.01)


def test_a_detection_is_right_if_it_is_a_source_that_can_be_told_from_noise():
    positions = np.array([[50.0, 50.0], [100.0, 100.0], [150.0, 150.0]])
    there = Place(positions, np.array([3.0, 1.5, 60.0]), np.full(3, FWHM), (SIDE, SIDE), np.array([False, False, True]))
    listing = Listing(np.concatenate([positions, [[300.0, 300.0]]]), np.full(4, 0.5))
    right, counts = rightness(listing, there)
    assert right.tolist() == [True, False, False, False]
    assert counts.tolist() == [True, True, False, True]
    assert rightness(listing, there, 1.0)[0].tolist() == [True, True, False, False]
    assert calibration_of([(listing, there)]).detections == 3


def test_a_few_detections_say_nothing_of_calibration():
    figures = calibration(np.full(5, 0.5), np.ones(5, bool))
    assert figures.error is figures.noise is None
    assert calibration(np.zeros(0), np.zeros(0, bool)).bins == ()


def test_a_source_that_nothing_found_is_found_at_no_threshold():
    there = place(np.random.default_rng(18), 10)
    claims = claims_of([(Listing(np.zeros((0, 2)), np.zeros(0)), there)], None)
    assert (claims.found_at == NEVER).all()
    assert not len(claims.hits)
