import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.frame import Frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec, binned, cut_tiles, tile_starts

RAMP = SkySpec(mesh=16)


def frame_of(height: int, width: int) -> Frame:
    return Frame(np.arange(height * width, dtype=np.float32).reshape(height, width))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 128), st.data())
def test_tiles_cover_every_pixel_and_hold_what_the_frame_holds(height, width, size, data):
    spec = TileSpec(size=size, overlap=data.draw(st.integers(0, size // 2)), margin=0)
    frame = frame_of(height, width)
    seen = np.zeros(frame.shape, int)
    for tile in cut_tiles(frame, estimate_sky(frame, RAMP), spec):
        x, y = tile.origin
        inside = frame.pixels[y : y + size, x : x + size]
        seen[y : y + size, x : x + size] += 1
        np.testing.assert_array_equal(tile.pixels[: inside.shape[0], : inside.shape[1]], inside)
        assert np.isnan(tile.pixels[inside.shape[0] :]).all()
        assert np.isnan(tile.pixels[:, inside.shape[1] :]).all()
    assert seen.min() >= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 128), st.data())
def test_every_point_lies_in_exactly_one_core(height, width, size, data):
    spec = TileSpec(size=size, overlap=data.draw(st.integers(0, size // 2)), margin=0)
    frame = frame_of(height, width)
    cores = np.array([tile.core for tile in cut_tiles(frame, estimate_sky(frame, RAMP), spec)])
    x, y = np.random.default_rng(0).uniform(0, [[width], [height]], (2, 200))
    inside = (x[:, None] >= cores[:, 0]) & (x[:, None] < cores[:, 2])
    inside &= (y[:, None] >= cores[:, 1]) & (y[:, None] < cores[:, 3])
    assert (inside.sum(axis=1) == 1).all()


@given(st.integers(1, 5000), st.integers(64, 512), st.integers(0, 63))
def test_neighbours_share_at_least_the_overlap_and_the_last_tile_ends_at_the_border(length, size, overlap):
    starts = tile_starts(length, TileSpec(size=size, overlap=overlap, margin=0))
    assert starts[0] == 0
    assert starts[-1] == max(length - size, 0)
    assert all(0 < step <= size - overlap for step in np.diff(starts))


def test_a_4096_px_frame_is_81_or_100_tiles():
    assert len(tile_starts(4096, TileSpec())) ** 2 in (81, 100)


def test_tiles_inside_the_frame_are_views():
    frame = frame_of(600, 600)
    tile = cut_tiles(frame, estimate_sky(frame, RAMP), TileSpec())[0]
    assert np.shares_memory(tile.pixels, frame.pixels)


@pytest.mark.parametrize("wrong", [{"overlap": 512}, {"overlap": 10, "margin": 6}, {"size": 0}, {"unknown": 1}])
def test_a_spec_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        TileSpec(**wrong)


def test_binning_takes_the_mean_of_what_is_usable():
    pixels = np.arange(30, dtype=np.float32).reshape(5, 6)
    pixels[0, 0] = np.nan
    pixels[2:4, 4:6] = np.nan
    small = binned(Frame(pixels), 2).pixels
    assert small.shape == (2, 3)
    assert small[0, 0] == pytest.approx((1 + 6 + 7) / 3)
    assert small[0, 1] == pytest.approx((2 + 3 + 8 + 9) / 4)
    assert np.isnan(small[1, 2])
