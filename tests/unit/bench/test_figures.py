import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test

from tests.bench.figures import Bar, Figure, fit_exponent, median_interval, ratio

VALUES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


@given(VALUES)
def test_the_interval_holds_the_median_and_lies_within_the_values(values):
    low, high = median_interval(values)
    assert min(values) <= low <= np.median(values) <= high <= max(values)


@pytest.mark.parametrize("count", [6, 7, 9, 15, 30, 101])
def test_the_interval_is_that_of_the_quantile_test(count):
    values = np.random.default_rng(count).normal(size=count)
    expected = quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = median_interval(values.tolist())
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("count", "width"), [(1, 0), (5, 4), (6, 5), (9, 6), (30, 11)])
def test_the_interval_narrows_as_rounds_are_added(count, width):
    low, high = median_interval(range(count))
    assert high - low == width


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(3)
    intervals = (median_interval(rng.exponential(size=8).tolist()) for _ in range(2000))
    held = sum(low <= math.log(2) <= high for low, high in intervals)
    assert held / 2000 > 0.94


def test_a_ratio_is_taken_round_by_round():
    slow_round = ratio("a over b", [2.0, 20.0, 2.2], [1.0, 10.0, 1.0])
    assert slow_round.values == (2.0, 2.0, 2.2)
    with pytest.raises(ValueError):
        ratio("a over b", [1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("bar", "value", "verdict"),
    [
        (Bar(high=1.05), 1.05, "kept"),
        (Bar(high=1.05), 1.06, "short"),
        (Bar(low=60), 61, "kept"),
        (Bar(low=60), 59, "short"),
    ],
)
def test_a_bar_is_kept_or_not(bar, value, verdict):
    figure = Figure("a figure", "x", (value,), bar=bar)
    assert figure.verdict == verdict
    assert figure.json()["verdict"] == verdict
    assert figure.json()["bar"] == str(bar)


def test_a_figure_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing was measured"):
        Figure("a figure", "s", ())


@given(st.floats(-1, 3), st.floats(0.01, 100))
def test_a_power_law_gives_its_exponent(exponent, scale):
    x = np.array([1.0, 2, 4, 8, 16])
    fit = fit_exponent(x, scale * x**exponent)
    assert fit.value == pytest.approx(exponent, abs=1e-9)
    assert fit.low <= fit.value <= fit.high


def test_what_is_the_same_at_any_size_does_not_hide_the_exponent():
    x = 4.0 ** np.arange(8)
    y = 100 + x
    assert fit_exponent(x, y).value < 0.9
    assert fit_exponent(x, y, least=4.0**5).value == pytest.approx(1, abs=0.05)


def test_the_exponents_interval_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(5)
    x = np.repeat([1.0, 2, 4, 8], 2)
    fits = (fit_exponent(x, x * np.exp(rng.normal(0, 0.1, len(x)))) for _ in range(1000))
    assert 0.93 < sum(fit.low <= 1 <= fit.high for fit in fits) / 1000 < 0.97


def test_two_points_have_no_interval():
    with pytest.raises(ValueError, match="three points"):
        fit_exponent([1, 2, 4], [1, 2, 4], least=2)
