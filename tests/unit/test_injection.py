import gzip
from io import BytesIO

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.frame import Frame, read_frame
from lynceus.injection import Planted, PlantSpec, inverted, plant
from lynceus.sky import SkySpec, estimate_sky
from tests.data import REAL, STAR_FREE, real_frame
from tests.fakes import NOISE, SKY, fits_bytes, star_field

NOTHING = np.zeros((0, 2))
SPEC = PlantSpec(count=20)
STARS = [(60.0, 50.0), (150.0, 90.0)]


def planted_in(data: bytes, known=NOTHING, fwhm=3.0, spec=SPEC, seed=1) -> tuple[Frame, Planted]:
    frame = read_frame(data)
    return frame, plant(data, frame, estimate_sky(frame, SkySpec()), known, fwhm, spec, seed)


def upside_down(data: bytes) -> Frame:
    frame = read_frame(data)
    return read_frame(inverted(data, frame, estimate_sky(frame, SkySpec())))


def integers(dtype: str, **header: object) -> bytes:
    return fits_bytes(star_field((256, 256), STARS).clip(0, 30000).astype(dtype), **header)


def matched_filter(light: np.ndarray, noise: float, gain: float | None) -> float:
    """Signal to noise of light without noise, when its own profile is the filter."""
    profile = light / light.sum()
    area = 1 / (profile**2).sum()
    return light.sum() / np.sqrt(area * noise**2 + (light.sum() / gain if gain else 0))


def test_planted_stars_have_the_brightness_they_are_said_to_have():
    frame, planted = planted_in(fits_bytes(star_field((400, 400), [])))
    light = read_frame(planted.data).pixels.astype(float) - frame.pixels
    assert len(planted) == SPEC.count
    assert planted.snr.min() >= 3
    assert planted.snr.max() <= 30
    for x, y, snr in zip(planted.x, planted.y, planted.snr, strict=True):
        column, row = round(x), round(y)
        star = light[row - 9 : row + 10, column - 9 : column + 10]
        assert matched_filter(star, NOISE, None) == pytest.approx(snr, rel=0.15)
        rows, columns = np.indices(star.shape)
        assert (star * columns).sum() / star.sum() + column - 9 == pytest.approx(x, abs=0.2)
        assert (star * rows).sum() / star.sum() + row - 9 == pytest.approx(y, abs=0.2)


def test_photons_make_noise_where_the_gain_is_known():
    pixels = star_field((300, 300), [])
    quiet = planted_in(fits_bytes(pixels))[1].data
    noisy = planted_in(fits_bytes(pixels, GAIN=2.0))[1].data
    light, grains = (read_frame(data).pixels.astype(float) - pixels for data in (quiet, noisy))
    faint = (light > 0) & (light < 0.1)
    assert (light[faint] > 0).all()
    assert (grains[faint] == 0).mean() > 0.8  # most get no photon
    assert grains.sum() == pytest.approx(light.sum(), rel=0.3)


def test_only_the_pixels_of_the_stars_change():
    data = integers("int16", GAIN=1.5, OBJECT="M 13", EXPTIME=30.0)
    _, planted = planted_in(data)
    assert len(planted.data) == len(data)
    before, after = fits.open(BytesIO(data))[0], fits.open(BytesIO(planted.data))[0]
    assert before.header == after.header
    rows, columns = np.nonzero(before.data != after.data)
    nearest = np.hypot(planted.x - columns[:, None], planted.y - rows[:, None]).min(axis=1)
    assert len(rows) > 0
    assert nearest.max() <= np.hypot(13, 13)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
def test_integers_stay_integers_within_their_range(dtype):
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(top - 40, top, (200, 200), endpoint=True).astype(dtype)
    data = fits_bytes(pixels)
    frame = read_frame(data)
    for changed in (planted_in(data)[1].data, inverted(data, frame, estimate_sky(frame, SkySpec()))):
        stored = fits.open(BytesIO(changed))[0].data
        assert stored.dtype.kind == pixels.dtype.kind
        assert stored.max() <= top
        assert read_frame(changed).quantum == 1


def test_whole_numbers_stored_as_floats_stay_whole():
    data = fits_bytes(np.rint(star_field((256, 256), STARS)))
    assert read_frame(planted_in(data)[1].data).quantum == read_frame(data).quantum == 1
    assert upside_down(data).quantum == 1


@given(st.integers(0, 10_000), st.floats(1.2, 8.0))
@settings(max_examples=12, deadline=None)
def test_stars_keep_away_from_what_is_known_from_holes_and_from_each_other(seed, fwhm):
    rng = np.random.default_rng(seed)
    pixels = star_field((300, 260), [])
    pixels[100:130, 60:90] = np.nan
    known = rng.uniform(0, 260, (30, 2))
    _, planted = planted_in(fits_bytes(pixels), known, fwhm, seed=seed)
    places = np.stack([planted.x, planted.y], axis=1)
    gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(places))
    assert gaps.min(initial=np.inf) > SPEC.spacing * fwhm
    assert np.hypot(*(places[:, None] - known[None]).transpose(2, 0, 1)).min(initial=np.inf) > SPEC.clearance * fwhm
    hole = np.argwhere(np.isnan(pixels))[:, ::-1]
    assert np.hypot(*(places[:, None] - hole[None]).transpose(2, 0, 1)).min(initial=np.inf) > SPEC.clearance * fwhm


def test_the_same_seed_plants_the_same_stars():
    data = integers("int16")
    first, second, other = (planted_in(data, seed=seed)[1] for seed in (3, 3, 4))
    assert first.data == second.data
    assert first.data != other.data


@pytest.mark.parametrize("fwhm", [None, 0.0, float("nan")])
def test_a_frame_of_unknown_seeing_gets_stars_of_three_pixels(fwhm):
    assert planted_in(integers("int16"), fwhm=fwhm)[1].fwhm == 3.0


def test_where_there_is_no_room_nothing_is_planted():
    data = fits_bytes(star_field((20, 20), []))
    frame, planted = planted_in(data, fwhm=4.0)
    assert len(planted) == 0
    assert read_frame(planted.data).pixels.tolist() == frame.pixels.tolist()


def test_upside_down_stars_are_holes_and_the_sky_is_the_same():
    data = fits_bytes(star_field((256, 256), STARS))
    frame = upside_down(data)
    assert np.median(frame.pixels) == pytest.approx(SKY, abs=1)
    assert estimate_sky(frame, SkySpec()).noise.mean() == pytest.approx(NOISE, rel=0.1)
    assert frame.pixels.max() < SKY + 6 * NOISE
    for x, y in STARS:
        assert frame.pixels[round(y), round(x)] < SKY - 1000


def test_twice_upside_down_is_as_before():
    data = fits_bytes(star_field((256, 256), []))
    frame = read_frame(data)
    sky = estimate_sky(frame, SkySpec())
    again = read_frame(inverted(inverted(data, frame, sky), frame, sky))
    np.testing.assert_allclose(again.pixels, frame.pixels, atol=1e-3)


@pytest.mark.parametrize("saturation", [1020.0, 1500.0, None])
def test_upside_down_dead_pixels_are_sky_and_nothing_is_saturated(saturation):
    pixels = star_field((256, 256), STARS)
    pixels[:3] = 0
    header = {} if saturation is None else {"SATURATE": saturation}
    frame = upside_down(fits_bytes(pixels, **header))
    assert not frame.saturated.any()
    assert np.abs(frame.pixels[:3] - SKY).max() < 2 * NOISE


def test_blank_and_nan_stay_what_they_are():
    stored = star_field((200, 200), []).astype("int16")
    stored[50:60, 50:60] = -32768
    holes = read_frame(fits_bytes(stored, BLANK=-32768))
    for changed in (upside_down(fits_bytes(stored, BLANK=-32768)), upside_down(fits_bytes(holes.pixels))):
        assert (changed.mask == holes.mask).all()


def test_other_hdus_stay_what_they_are():
    pixels = star_field((200, 200), STARS)
    mask = fits.ImageHDU((pixels > 2000).astype("uint8"), name="MASK")
    file = BytesIO()
    science = fits.ImageHDU(pixels, name="SCI")
    fits.HDUList([fits.PrimaryHDU(), science, mask]).writeto(file)
    changed = fits.open(BytesIO(planted_in(file.getvalue())[1].data))
    assert (changed["MASK"].data == mask.data).all()
    assert (changed["SCI"].data != pixels).any()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_compressed_frame_comes_back_plain_with_its_keywords(dtype):
    pixels = star_field((200, 200), STARS).clip(0, 30000).astype(dtype)
    image = fits.CompImageHDU(pixels, compression_type="RICE_1", quantize_level=64)
    image.header["GAIN"], image.header["CRVAL1"] = 1.7, 12.5
    primary = fits.PrimaryHDU()
    primary.header["EXPTIME"] = 30.0
    file = BytesIO()
    fits.HDUList([primary, image]).writeto(file)
    frame, planted = planted_in(file.getvalue())
    back = read_frame(planted.data)
    assert (back.facts.gain, back.facts.exposure_time, back.quantum) == (1.7, 30.0, frame.quantum)
    assert np.count_nonzero(back.pixels != frame.pixels) < 0.4 * frame.pixels.size
    assert (back.pixels - frame.pixels).max() > NOISE


def test_a_gzipped_frame_comes_back_plain():
    data = integers("int16")
    assert planted_in(gzip.compress(data))[1].data.startswith(b"SIMPLE")


@pytest.mark.parametrize("name", [*REAL, *STAR_FREE])
def test_real_frames_survive(name):
    data = real_frame(name)
    frame, planted = planted_in(data, fwhm=None)
    sky = estimate_sky(frame, SkySpec())
    for changed in (planted.data, inverted(data, frame, sky)):
        back = read_frame(changed)
        other = estimate_sky(back, SkySpec())
        assert back.shape == frame.shape
        assert (back.wcs is None) == (frame.wcs is None)
        noise = float(np.median(sky.noise))
        assert np.median(other.noise) == pytest.approx(noise, rel=0.05)
        assert np.median(other.level) == pytest.approx(np.median(sky.level), abs=0.2 * noise)
    assert len(planted) == SPEC.count
