"""Laws of the sums along lines: nothing is lost, and a line is found where it was drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.line_sums import line_sums

SIDE = 32


def plane_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)


def test_lines_of_one_shift_share_all_pixels_and_none_twice():
    plane = plane_of(1)
    *_, whole = line_sums(plane)
    np.testing.assert_allclose(whole.values.sum(axis=-1), plane.sum(), rtol=1e-3, atol=1e-2)


def test_lines_without_a_shift_are_rows_and_columns():
    plane = plane_of(2)
    *_, whole = line_sums(plane)
    level = whole.values[:, 0, 0, SIDE:]
    for way, expected in enumerate((plane.sum(1), plane.sum(1)[::-1], plane.sum(0), plane.sum(0)[::-1])):
        np.testing.assert_allclose(level[way], expected, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 10**6))
def test_the_brightest_sum_is_that_of_the_line_that_was_drawn(way, length, seed):
    rng = np.random.default_rng(seed)
    width = (8, 16, 32)[length]
    strip, shift = int(rng.integers(SIDE // width)), int(rng.integers(width))
    row = int(rng.integers(SIDE - shift))
    *_, whole = line_sums(np.zeros((SIDE, SIDE), np.float32))
    x0, y0, x1, y1 = type(whole)(whole.values, width).ends(way, strip, shift, row + SIDE)
    steps = np.linspace(0, 1, 20 * SIDE)
    columns, rows = np.rint(x0 + steps * (x1 - x0)).astype(int), np.rint(y0 + steps * (y1 - y0)).astype(int)
    plane = np.zeros((SIDE, SIDE), np.float32)
    plane[rows, columns] = 1
    sums = list(line_sums(plane))[length]
    assert sums.width == width
    drawn = sums.values[way, strip, shift, row + SIDE]
    assert drawn >= 0.5 * width  # the fast sums step a pixel earlier or later than a drawn line does
    best = np.unravel_index(int(sums.values.argmax()), sums.values.shape)
    found = np.array(sums.ends(*(int(index) for index in best)))
    turned = np.abs(found - [x1, y1, x0, y0]).max()
    assert min(np.abs(found - [x0, y0, x1, y1]).max(), turned) <= 3 or sums.values.max() <= drawn + 4


@pytest.mark.parametrize("side", [8, 64])
def test_three_lengths_are_looked_at(side):
    assert [one.width for one in line_sums(np.ones((side, side), np.float32))] == [side // 4, side // 2, side]
