"""A frame enlarged for a finer look: the same light, the same sky, and boxes that come back to their place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.detections import Detections
from lynceus.detector import Detector, DetectorSpec
from lynceus.finepass import FineSpec, enlarged, fine_scale
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec
from tests.fakes import FixedNetwork

NOISE = 5.0


def star_field(fwhm: float, size: int = 256, step: int = 16) -> Frame:
    """Bright round stars on a grid, each somewhere else in its pixel, as pixels see them."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:size, 0:size]
    sigma2 = (fwhm / 2.3548) ** 2 + 1 / 12
    light = np.zeros((size, size))
    for row in range(step // 2, size, step):
        for column in range(step // 2, size, step):
            dx, dy = rng.uniform(-0.5, 0.5, 2)
            window = slice(row - 8, row + 8), slice(column - 8, column + 8)
            square = (across[window] - column - dx) ** 2 + (down[window] - row - dy) ** 2
            light[window] += 400 * np.exp(-square / 2 / sigma2)
    return Frame((100 + light + rng.normal(0, NOISE, light.shape)).astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.integers(2, 3))
def test_an_enlarged_frame_is_the_frame_seen_closer(height, width, factor):
    rng = np.random.default_rng(height)
    frame = Frame(rng.normal(100, NOISE, (height, width)).astype(np.float32))
    sky = estimate_sky(frame, SkySpec())
    big, under = enlarged(frame, sky, factor)
    np.testing.assert_array_equal(big.pixels[::factor, ::factor], frame.pixels)
    np.testing.assert_array_equal(big.pixels[factor - 1 :: factor, factor - 1 :: factor], frame.pixels)
    assert (under.shape, under.mesh) == (big.shape, sky.mesh)
    assert under.level.shape == estimate_sky(big, SkySpec()).level.shape
    level, noise = under.upsampled()
    assert sky.level.min() - NOISE <= level.min() <= level.max() <= sky.level.max() + NOISE
    assert noise.max() <= 1.5 * sky.noise.max()


def test_a_box_comes_back_to_its_place():
    boxes = np.array([[3.0, 4.0, 7.5, 9.0]], np.float32)
    there = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int64)).moved(0, 0, 2)
    np.testing.assert_array_equal(there.moved(0, 0, 0.5).boxes, boxes)


@pytest.mark.parametrize(("fwhm", "scale"), [(1.2, 2), (3.0, 1)])
def test_only_undersampled_frames_are_enlarged(fwhm, scale):
    assert fine_scale(star_field(fwhm), FineSpec(probe=192), SkySpec(), MeasureSpec()) == scale


def test_a_frame_without_stars_or_pixels_is_left_as_it_is():
    blank = Frame(np.random.default_rng(1).normal(0, 1, (128, 128)).astype(np.float32))
    hidden = Frame(np.full((64, 64), np.nan, np.float32))
    for frame in (blank, hidden):
        assert fine_scale(frame, FineSpec(), SkySpec(), MeasureSpec()) == 1


def test_what_is_found_on_enlarged_tiles_is_where_it_is_on_the_frame():
    frame = star_field(1.2)
    spec = DetectorSpec(tile=TileSpec(size=128, overlap=32), fine=FineSpec(probe=192))
    detector = Detector(FixedNetwork(), spec)
    cut = detector.cut(frame)
    assert (cut.scale, {tile.size for tile in cut.tiles}) == (2, {128})
    assert {tile.window.shape for tile in cut.tiles} == {cut.tiles[0].window.shape}
    native = Detector(FixedNetwork(), spec.model_copy(update={"fine": None})).detect(frame)
    found = detector.detect(frame)
    assert len(found) >= 0.9 * len(native) > 150
    places, wanted = np.stack(found.centres, axis=1), np.stack(native.centres, axis=1)
    distance = np.abs(places[:, None] - wanted).max(axis=2).min(axis=1)
    assert np.median(distance) < 0.6
    assert (found.boxes[:, 2:] <= 256).all()
