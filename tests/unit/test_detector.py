import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.detector import Detector, DetectorSpec
from lynceus.frame import Frame
from lynceus.tiling import TileSpec
from tests.fakes import FixedNetwork

SPEC = DetectorSpec(tile=TileSpec(size=128, overlap=32))


def star_field(height: int, width: int, count: int, seed: int = 0, border: int = 12) -> Frame:
    """Gaussian stars at whole pixels, none closer than 14 px to another or `border` to the edge."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 2, (height, width))
    row, column = np.mgrid[-6:7, -6:7]
    star = 400 * np.exp(-0.5 * (row**2 + column**2) / 1.5**2)
    places: list[tuple[int, int]] = []
    while len(places) < count:
        x, y = int(rng.integers(border, width - border)), int(rng.integers(border, height - border))
        if all(max(abs(x - a), abs(y - b)) > 14 for a, b in places):
            places.append((x, y))
            pixels[y - 6 : y + 7, x - 6 : x + 7] += star
    return Frame(pixels.astype(np.float32))


def positions(frame: Frame, spec: DetectorSpec = SPEC, **how: int) -> np.ndarray:
    found = Detector(FixedNetwork(), spec, **how).detect(frame)
    return np.stack(found.centres, axis=1)[np.lexsort(found.centres)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 1000))
def test_shifting_a_frame_by_whole_pixels_shifts_the_boxes_by_as_many(dx, dy, seed):
    frame = star_field(260, 330, 25, seed)
    moved = np.random.default_rng(1).normal(100, 2, (310, 380)).astype(np.float32)
    moved[dy : dy + 260, dx : dx + 330] = frame.pixels
    before, after = positions(frame), positions(Frame(moved))
    assert len(before) == len(after) == 25
    np.testing.assert_allclose(after, before + np.array([dx, dy]), atol=1e-3)


def test_workers_change_nothing():
    frame = star_field(400, 400, 40)
    np.testing.assert_array_equal(positions(frame), positions(frame, workers=3))


def test_a_frame_smaller_than_a_tile_is_searched():
    assert len(positions(star_field(60, 50, 3))) == 3


def test_masked_stars_are_not_found():
    frame = star_field(200, 200, 10)
    frame.pixels[:, :100] = np.nan
    found = positions(frame)
    assert 0 < len(found) < 10
    assert (found[:, 0] >= 99).all()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_the_unit_of_the_counts_does_not_matter(scale):
    frame = star_field(200, 200, 10)
    scaled = Frame((frame.pixels.astype(float) * scale).astype(np.float32))
    np.testing.assert_allclose(positions(scaled), positions(frame), atol=1e-3)


def test_the_coarse_pass_adds_what_is_larger_than_the_overlap():
    row, column = np.mgrid[:600, :600]
    galaxy = 60 * np.exp(-0.5 * ((row - 300) ** 2 + (column - 280) ** 2) / 40**2)
    frame = Frame((galaxy + np.random.default_rng(0).normal(100, 2, (600, 600))).astype(np.float32))
    for overlap, expected in ((24, 1), (32, 0)):  # FixedNetwork's boxes of 8 px are 32 px after a binning of 4
        spec = DetectorSpec(tile=TileSpec(size=128, overlap=overlap), coarse=4)
        detector = Detector(FixedNetwork(threshold=3.2), spec)
        cut = detector.cut(frame)
        found = detector.join(cut, detector.run(cut.all_tiles))
        x, y = found.centres
        large = found.boxes[:, 2] - found.boxes[:, 0] > 20
        assert cut.coarse
        assert large.sum() == expected
        assert np.hypot(x[large] - 280, y[large] - 300).max(initial=0) < 15


def test_a_small_frame_needs_no_coarse_pass():
    spec = DetectorSpec(tile=TileSpec(size=128, overlap=32), coarse=4)
    assert not Detector(FixedNetwork(), spec).cut(star_field(200, 200, 3)).coarse


def test_tiles_without_anything_on_them_are_not_looked_at():
    pixels = np.full((300, 300), 7, np.float32)
    pixels[:, 200:] = np.nan
    pixels[40, 50] = 60

    class Counting(FixedNetwork):
        looked = 0

        def __call__(self, tiles):
            self.looked += len(tiles)
            return super().__call__(tiles)

    network = Counting()
    detector = Detector(network, SPEC)
    cut = detector.cut(Frame(pixels, quantum=1.0))
    found = detector.join(cut, detector.run(cut.all_tiles))
    assert len(cut.tiles) == 9
    assert network.looked == 1
    assert [axis.tolist() for axis in found.centres] == [[50.0], [40.0]]


@pytest.mark.parametrize("coarse", [0, 2])
@pytest.mark.parametrize("shape", [(40, 50), (128, 128), (129, 300), (500, 90)])
def test_how_many_tiles_there_will_be_is_known_from_the_shape(shape, coarse):
    detector = Detector(FixedNetwork(), DetectorSpec(tile=TileSpec(size=128, overlap=32), coarse=coarse))
    frame = Frame(np.random.default_rng(0).normal(100, 3, shape).astype(np.float32))
    assert detector.least_tiles(shape) == len(detector.cut(frame).all_tiles)
