import numpy as np
import pytest

from lynceus.detector import Detector
from lynceus.frame import Frame
from lynceus.judge import probability
from lynceus.second_look import FEATURES
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from tests.fakes import SMALL_TILES, FixedNetwork
from training.errors import TrainingError
from training.scenarios.listings import Listing, Place
from training.scoring.calibrate import (
    CalibrateSpec,
    Looked,
    best_mean_threshold,
    calibrate,
    calibration_errors,
    fit,
    judged,
    without_each,
)
from training.tiling.exposures import LabelledExposure

SCORE, SIGNAL, CONTRAST, SIZE, APART, CROWDING, EVENNESS, DOUBT = range(len(FEATURES))


def looked(seed: int, count: int = 1500, lean: float = 0.0) -> Looked:
    """A frame whose detections are right as a known law has it, while the network's scores lean from it."""
    rng = np.random.default_rng(seed)
    features = np.zeros((count, len(FEATURES)))
    features[:, SCORE] = rng.uniform(-3, 5, count)
    features[:, CONTRAST] = features[:, SIGNAL] = rng.uniform(np.log(1.5), np.log(9), count)
    truth = rng.random(count) < 1 / (1 + np.exp(3 - 0.7 * features[:, SCORE] - 1.5 * features[:, CONTRAST] + lean))
    positions = np.stack(np.divmod(np.arange(count), 40), axis=1)[:, ::-1] * 20.0 + 10
    scores = 1 / (1 + np.exp(-features[:, SCORE]))
    place = Place(positions[truth], np.full(int(truth.sum()), 8.0), np.full(int(truth.sum()), 3.0), (800, 800))
    return Looked(Listing(positions, scores), features, place)


def scenes(first: int = 0) -> dict[str, list[Looked]]:
    return {name: [looked(first + 10 * number + one) for one in range(2)] for number, name in enumerate("abc")}


def test_what_was_fitted_means_what_it_says_on_other_frames():
    judge = fit(scenes(), CalibrateSpec(ridge=3.0))
    for name, errors in calibration_errors(scenes(100), judge).items():
        assert errors.after < 0.06 < errors.before / 2, name


def test_the_fit_repeats_to_the_last_digit():
    assert fit(scenes()) == fit(scenes())


def test_a_probability_never_falls_with_score_signal_or_contrast():
    judge = fit(scenes(), CalibrateSpec(ridge=1.0))
    rng = np.random.default_rng(0)
    features = rng.normal(1, 3, (500, len(FEATURES)))
    for feature in (SCORE, SIGNAL, CONTRAST):
        more = features.copy()
        more[:, feature] += rng.exponential(1, 500)
        assert (probability(more, judge) >= probability(features, judge)).all()


def test_every_scene_weighs_the_same():
    """A scene of many frames with another law does not outvote one of few."""
    few, many = [looked(1)], [looked(10 + one, lean=3.0) for one in range(6)]
    level = [
        probability(few[0].features, fit({"few": few, "many": some})).mean() for some in (many[:1], many)
    ]  # fmt: skip
    assert level[0] == pytest.approx(level[1], abs=0.03)


def test_a_judge_is_fitted_without_each_scene_in_turn():
    taught = scenes()
    left_out = without_each(taught)
    assert set(left_out) == set(taught)
    assert left_out["a"] == fit({name: taught[name] for name in "bc"})
    errors = calibration_errors(scenes(100), fit(taught), left_out)
    assert all(one.unseen < one.before / 2 for one in errors.values())


def test_the_best_threshold_is_of_the_mean_over_scenes_with_sources():
    taught = scenes()
    taught["star-free"] = [Looked(taught["a"][0].listing, taught["a"][0].features, _nothing())]
    judge = fit(scenes())
    threshold, f1 = best_mean_threshold(judged(taught, judge))
    assert (threshold, f1) == best_mean_threshold(judged(scenes(), judge))
    assert 0.2 < threshold < 0.7
    assert f1 > best_mean_threshold(judged(scenes(), None))[1]
    assert best_mean_threshold({}) == (pytest.approx(0.05), 0.0)


def test_one_kind_alone_teaches_nothing():
    one = looked(0)
    for place in (_nothing(), Place(one.listing.positions, np.full(1500, 9.0), np.full(1500, 3.0), (800, 800))):
        with pytest.raises(TrainingError):
            fit({"a": [Looked(one.listing, one.features, place)]})


def test_a_heavier_ridge_says_less():
    spread = [
        probability(looked(0).features, fit(scenes(), CalibrateSpec(ridge=ridge))).std() for ridge in (1.0, 1e5)
    ]  # fmt: skip
    assert spread[1] < 0.5 * spread[0]


def _nothing() -> Place:
    return Place(np.zeros((0, 2)), np.zeros(0), np.zeros(0), (800, 800))


def test_a_detector_is_calibrated_from_labelled_frames():
    def exposure(seed: int) -> LabelledExposure:
        rng = np.random.default_rng(seed)
        pixels = rng.normal(100, 2, (200, 200))
        row, column = np.mgrid[:200, :200]
        x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(20.0, 190, 20)] * 2))
        for one, a, b in zip(rng.uniform(4, 30, len(x)), x, y, strict=True):
            pixels += one * np.exp(-0.5 * ((column - a) ** 2 + (row - b) ** 2) / 1.5**2)
        frame = Frame(pixels.astype(np.float32))
        boxes = np.stack([x - 4, y - 4, x + 5, y + 5], axis=1)
        truth = Truth(boxes, np.zeros(len(x), bool), np.full(len(x), 10.0), "snr", (), len(x))
        return LabelledExposure(str(seed), frame, estimate_sky(frame, SkySpec()), truth)

    plain = Detector(FixedNetwork(threshold=1.2), SMALL_TILES)
    calibrated = calibrate(plain, {"a": [exposure(0)], "b": [exposure(1)]})
    with_judge = SMALL_TILES.model_copy(update={"judge": calibrated.judge, "min_score": calibrated.threshold})
    again = calibrate(Detector(plain.network, with_judge), {"a": [exposure(0)], "b": [exposure(1)]})
    assert again == calibrated
    assert calibrated.f1 > 0.8


def crowd(seed: int) -> Looked:
    """A frame that is crowded or not, whose detections are the more often right the more crowded it is."""
    crowding = seed % 4 / 3
    one = looked(seed, 800, lean=-3 * crowding)
    one.features[:, CROWDING] = crowding
    return one


def test_what_a_frame_is_like_counts():
    judge = fit({name: [crowd(4 * number + one) for one in range(4)] for number, name in enumerate("abc")})
    for seed in range(20, 24):
        errors = calibration_errors({"": [crowd(seed)]}, judge)
        assert errors[""].after < 0.07, seed
