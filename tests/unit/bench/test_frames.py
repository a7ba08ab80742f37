import numpy as np
import pytest
from astropy.io import fits

from lynceus.frame import read_frame
from tests.bench import frames
from tests.fakes import fits_bytes, star_field


@pytest.fixture
def small_patches(monkeypatch, tmp_path):
    """Patches of 64 px, one of them on disk already."""
    monkeypatch.setattr(frames, "PATCH", 64)
    patch = star_field((64, 64), [(20, 40)])
    np.save(tmp_path / "patch-3000.npy", patch)
    return tmp_path, patch


@pytest.mark.parametrize("side", [40, 64, 150])
def test_a_large_frame_is_made_of_patches_of_one_scene(small_patches, side):
    folder, patch = small_patches
    frame = read_frame(frames.tiled_frame(folder, side).read_bytes())
    assert frame.shape == (side, side)
    assert not frame.mask.any()
    assert abs(np.median(frame.pixels) - np.median(patch)) < 2
    assert not list(folder.glob("*.part"))


def test_a_frame_is_drawn_once(small_patches):
    folder, _ = small_patches
    path = frames.tiled_frame(folder, 100)
    written = path.stat().st_mtime_ns
    assert frames.tiled_frame(folder, 100).stat().st_mtime_ns == written


def test_neighbouring_patches_differ(small_patches):
    folder, _ = small_patches
    pixels = fits.getdata(frames.tiled_frame(folder, 128))
    assert not np.array_equal(pixels[:64, :64], pixels[:64, 64:])


def test_copies_show_the_same_and_are_not_the_same():
    data = fits_bytes(star_field((50, 60), [(20, 20)]))
    copy = frames.copies(data)
    first, second = read_frame(copy(1)), read_frame(copy(2))
    assert first.sha256 != second.sha256
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.pixels, read_frame(data).pixels)


def test_all_encodings_show_the_same_frame():
    field = star_field((70, 90), [(20, 20)])
    found = {name: read_frame(data).pixels for name, data in frames.encodings(fits_bytes(field)).items()}
    assert set(found) == {"float32", "int16", "int16.gz", "RICE"}
    for pixels in found.values():
        assert np.abs(pixels - field).max() < 1
