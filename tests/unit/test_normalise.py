import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.frame import Frame
from lynceus.normalise import NormaliseSpec, normalise, stack_tiles
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec, cut_tiles

SPEC = NormaliseSpec()


def frame_with_gradient(height: int, width: int) -> Frame:
    row, column = np.mgrid[:height, :width]
    noise = np.random.default_rng(5).normal(0, 3, (height, width))
    return Frame((500 + 0.05 * column + 0.02 * row + noise).astype(np.float32))


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), st.sampled_from([16, 64]))
def test_every_tile_says_the_same_of_a_pixel(height, width, mesh):
    frame = frame_with_gradient(height, width)
    sky = estimate_sky(frame, SkySpec(mesh=mesh))
    level, noise = sky.upsampled()
    expected = np.arcsinh((frame.pixels - level) / noise / SPEC.softening)
    tiles = cut_tiles(frame, sky, TileSpec(size=128, overlap=32))
    for tile, found in zip(tiles, normalise(*stack_tiles(tiles), mesh, SPEC).numpy(), strict=True):
        x, y = tile.origin
        here = expected[y : y + 128, x : x + 128]
        np.testing.assert_allclose(found[0, : here.shape[0], : here.shape[1]], here, atol=5e-3)


def test_masked_pixels_are_sky():
    frame = frame_with_gradient(128, 128)
    frame.pixels[10:20, 30:40] = np.nan
    tiles = cut_tiles(frame, estimate_sky(frame, SkySpec()), TileSpec(size=128, overlap=32))
    found = normalise(*stack_tiles(tiles), 64, SPEC)
    assert (found[0, 0, 10:20, 30:40] == 0).all()
    assert torch.isfinite(found).all()


def test_the_scale_of_the_counts_does_not_matter():
    frame = frame_with_gradient(128, 128)
    scaled = Frame(frame.pixels * np.float32(1e-12))
    tiles = [cut_tiles(one, estimate_sky(one, SkySpec()), TileSpec(size=128, overlap=32))[0] for one in (frame, scaled)]
    plain, tiny = normalise(*stack_tiles(tiles), 64, SPEC)
    torch.testing.assert_close(plain, tiny, atol=2e-3, rtol=0)


def test_sky_is_zero_and_noise_is_known():
    frame = Frame(np.random.default_rng(5).normal(500, 3, (512, 512)).astype(np.float32))
    tiles = cut_tiles(frame, estimate_sky(frame, SkySpec()), TileSpec())
    deviations = torch.sinh(normalise(*stack_tiles(tiles), 64, SPEC)) * SPEC.softening
    assert deviations.mean().item() == pytest.approx(0, abs=0.02)
    assert deviations.std().item() == pytest.approx(1, abs=0.02)


def test_several_softenings_give_a_channel_each():
    frame = frame_with_gradient(128, 128)
    frame.pixels[10:20, 30:40] = np.nan
    tiles = stack_tiles(cut_tiles(frame, estimate_sky(frame, SkySpec()), TileSpec(size=128, overlap=32)))
    spec = NormaliseSpec(softening=(1.0, 2.0, 50.0))
    found = normalise(*tiles, 64, spec)
    assert spec.channels == found.shape[1] == 3
    for channel, softening in enumerate(spec.softening):
        alone = normalise(*tiles, 64, NormaliseSpec(softening=softening))
        assert alone.shape[1] == NormaliseSpec(softening=softening).channels == 1
        torch.testing.assert_close(found[:, channel : channel + 1], alone)
    assert NormaliseSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("wrong", [0, -1.0, (), (2.0, 0.0)])
def test_a_softening_that_stretches_nothing_is_refused(wrong):
    with pytest.raises(ValueError):
        NormaliseSpec(softening=wrong)
