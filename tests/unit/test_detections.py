import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynceus.detections import (
    Detections,
    box_about,
    centre_from_fits,
    centre_to_fits,
    edge_from_fits,
    edge_to_fits,
)

pixels = st.floats(-10, 20000, allow_nan=False, width=32)
sides = st.floats(0.5, 300, allow_nan=False, width=32)


def one_box(x_min: float, y_min: float, width: float, height: float) -> Detections:
    box = np.array([[x_min, y_min, x_min + width, y_min + height]], np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))


def test_a_box_around_the_first_pixel_has_its_centre_at_zero_and_at_one_in_fits():
    x, y = one_box(0, 0, 1, 1).centres
    assert (x[0], y[0]) == (0.0, 0.0)
    assert centre_to_fits(x)[0] == 1.0
    assert edge_to_fits(np.array([0.0, 1.0])).tolist() == [0.5, 1.5]  # FITS: pixel 1 covers [0.5, 1.5)


@given(pixels, pixels, sides, sides)
def test_conventions_convert_both_ways(x, y, width, height):
    box = box_about(np.array([x]), np.array([y]), np.array([width]), np.array([height]))
    back_x, back_y = Detections(box, np.ones(1), np.zeros(1, np.int64)).centres
    assert back_x[0] == pytest.approx(x, abs=1e-6)
    assert back_y[0] == pytest.approx(y, abs=1e-6)
    np.testing.assert_allclose(centre_from_fits(centre_to_fits(box)), box, atol=1e-9)
    np.testing.assert_allclose(edge_from_fits(edge_to_fits(box)), box, atol=1e-9)


@given(pixels, sides)
def test_the_centre_of_a_box_in_fits_is_the_mean_of_its_edges_in_fits(x_min, width):
    detections = one_box(x_min, 0, width, 1)
    x, _ = detections.centres
    edges = edge_to_fits(detections.boxes[0, [0, 2]].astype(float))
    assert centre_to_fits(x)[0] == pytest.approx(edges.mean(), abs=1e-6)


@pytest.mark.parametrize("box", [[0, 0, 0, 1], [2, 0, 1, 1], [0, 0, np.nan, 1], [0, 0, np.inf, 1]])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match="x_min < x_max"):
        Detections(np.array([box], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="as many scores"):
        Detections(np.array([[0, 0, 1, 1.0]]), np.ones(2), np.zeros(1, np.int64))


def test_selecting_and_joining_keep_what_belongs_together():
    many = Detections.concatenate([one_box(i, 2 * i, 1, 1) for i in range(4)])
    assert len(Detections.concatenate([])) == 0
    assert many[np.array([False, True, False, True])].boxes[:, 0].tolist() == [1, 3]
    assert many.moved(10, 20, 2)[:1].boxes.tolist() == [[10, 20, 12, 22]]
