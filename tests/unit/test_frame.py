"""FITS bytes to a Frame: what is read, what is refused, and that nothing else ever happens."""

import bz2
import gzip
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lynceus.errors import FrameError, LynceusError, NoSuchHduError, NotFitsError, TooLargeError
from lynceus.frame import Frame, Keywords, Limits, frame_shape, read_frame, read_frames, read_plane

DATA = Path(os.environ.get("LYNCEUS_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
FILES = sorted(path for folder in ("nasty", "frames") for path in (DATA / folder).glob("*/*") if path.is_file())
needs_data = pytest.mark.skipif(not FILES, reason="no test data: set LYNCEUS_TEST_DATA")

BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def to_bytes(*hdus):
    """Write HDUs to bytes, a primary HDU in front where there is none."""
    if not isinstance(hdus[0], fits.PrimaryHDU):
        hdus = (fits.PrimaryHDU(), *hdus)
    file = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def with_cards(data, **cards):
    """Write an image with header cards; `__` stands for a hyphen."""
    hdu = fits.PrimaryHDU(data)
    for key, card in cards.items():
        hdu.header[key.replace("__", "-")] = card
    return to_bytes(hdu)


def patched(data, key, value):
    """Change a number in the first header, whatever astropy thinks of it."""
    at = data.index(f"{key:<8}=".encode())
    return data[:at] + f"{key:<8}= {value:>20}".ljust(80).encode() + data[at + 80 :]


def sky(shape=(40, 60), level=1000.0, noise=10.0, seed=1):
    return np.random.default_rng(seed).normal(level, noise, shape)


# --- Pixels


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_pixel_type_is_read(dtype):
    data = np.clip(sky(level=100), 0, 120).astype(dtype)
    data.flat[0] = 121
    frame = read_frame(to_bytes(fits.PrimaryHDU(data)))
    assert frame.pixels.dtype == np.float32
    assert frame.pixels.dtype.isnative
    np.testing.assert_array_equal(frame.pixels, data.astype(np.float32).clip(max=frame.facts.saturation))


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1", "NOCOMPRESS"])
@pytest.mark.parametrize("dtype", ["i2", "i4"])
def test_every_compression_is_read(algorithm, dtype):
    data = sky((33, 47)).astype(dtype)
    hdu = fits.CompImageHDU(data, compression_type=algorithm, tile_shape=(10, 12) if algorithm == "RICE_1" else None)
    frame = read_frame(to_bytes(hdu))
    np.testing.assert_array_equal(frame.pixels, data)
    assert frame.quantum == 1
    assert frame.hdu == 1


def test_compressed_floats_and_unsigned():
    data = sky((64, 64)).astype(np.float32)
    data[3, 4] = np.nan
    frame = read_frame(to_bytes(fits.CompImageHDU(data, quantize_level=64)))
    assert np.nanmax(np.abs(frame.pixels - data)) < 0.3
    assert list(zip(*np.nonzero(frame.mask), strict=True)) == [(3, 4)]
    unsigned = sky((64, 64), 40000).astype(np.uint16)
    np.testing.assert_array_equal(read_frame(to_bytes(fits.CompImageHDU(unsigned))).pixels, unsigned)


def test_compressed_blank_is_masked():
    hdu = fits.CompImageHDU(sky((20, 20)).astype(np.int16))
    hdu.data[2, 3] = -99
    hdu.header["BLANK"] = -99
    assert np.argwhere(read_frame(to_bytes(hdu)).mask).tolist() == [[2, 3]]


@BOUNDED
@given(scale=st.floats(1e-3, 1e3), zero=st.floats(-1e5, 1e5), dtype=st.sampled_from(["u1", "i2", "i4"]))
def test_scaling_and_blank(scale, zero, dtype):
    raw = (np.arange(200).reshape(10, 20) % 97).astype(dtype)
    data = patched(patched(with_cards(raw, BSCALE=1.0, BZERO=0.0, BLANK=5), "BSCALE", repr(scale)), "BZERO", repr(zero))
    frame = read_frame(data)
    expected = np.where(raw == 5, np.nan, raw * scale + zero).astype(np.float32)
    np.testing.assert_array_equal(frame.pixels, expected)
    assert frame.quantum == pytest.approx(scale)


def test_unusable_scaling_is_said():
    data = patched(patched(with_cards(sky().astype(np.int16), BSCALE=1.0, BZERO=0.0), "BSCALE", "0.0"), "BZERO", "'x'")
    frame = read_frame(data)
    assert frame.quantum == 1
    assert len([warning for warning in frame.warnings if "not usable" in warning]) == 2


def test_what_is_not_a_float32_is_masked():
    data = sky().astype(np.float64)
    data[0, :5] = [np.nan, np.inf, -np.inf, 1e300, -1e300]
    data[1, 0] = 3e38
    frame = read_frame(to_bytes(fits.PrimaryHDU(data)))
    assert frame.mask[0, :5].all()
    assert frame.mask.sum() == 5


def test_large_integers_do_not_overflow():
    data = np.full((10, 10), 2**62, np.int64)
    data[::2] -= 2**55
    frame = read_frame(patched(with_cards(data, BSCALE=2.0), "BSCALE", "4.0"))
    np.testing.assert_allclose(frame.pixels, data.astype(float) * 4, rtol=1e-6)


def test_a_big_frame_is_decoded_quickly():
    data = np.random.default_rng(0).poisson(1000, (4096, 4096)).astype(np.uint16)
    file = to_bytes(fits.PrimaryHDU(data))
    start = time.perf_counter()
    frame = read_frame(file)
    assert time.perf_counter() - start < 2  # 0.06 s on an idle core
    assert frame.pixels[17, 3000] == data[17, 3000]


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:])]
)
def test_compressed_files(pack):
    plain = to_bytes(fits.PrimaryHDU(sky().astype(np.int16)))
    np.testing.assert_array_equal(read_frame(pack(plain)).pixels, read_frame(plain).pixels)


# --- Quantum, saturation, DATASEC, Bayer


@BOUNDED
@given(step=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_the_grid_of_floats_is_found(step, offset):
    data = (np.rint(sky(noise=20) - 1000) * step + offset).astype(np.float32)
    assert read_frame(to_bytes(fits.PrimaryHDU(data))).quantum == pytest.approx(step, rel=1e-2)


def test_continuous_floats_have_no_grid():
    assert read_frame(to_bytes(fits.PrimaryHDU(sky((300, 300)).astype(np.float32)))).quantum == 0
    assert read_frame(to_bytes(fits.PrimaryHDU(sky((300, 300))))).quantum == 0


def starry(shape=(200, 200), full=60000.0, seed=2):
    """A sky with bright stars, clipped where a detector would be full."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    data = rng.poisson(1000, shape).astype(float)
    for cx, cy in rng.uniform(20, 180, (6, 2)):
        data += 200000 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8)
    return np.minimum(data, full)


def test_a_plateau_is_saturation():
    frame = read_frame(to_bytes(fits.PrimaryHDU(starry().astype(np.uint16))))
    assert frame.facts.saturation == 60000
    assert frame.saturated.sum() > 30
    assert any("60000" in warning for warning in frame.warnings)


def test_hot_pixels_above_the_plateau_are_clipped():
    data = starry()
    data[5, 5] = 61234
    frame = read_frame(to_bytes(fits.PrimaryHDU(data.astype(np.uint16))))
    assert frame.facts.saturation == 60000
    assert frame.pixels[5, 5] == 60000


@pytest.mark.parametrize(
    "data",
    [
        np.full((50, 50), 7.0),
        np.arange(2500.0).reshape(50, 50),
        np.random.default_rng(3).poisson(3, (300, 300)).astype(np.int16),
        np.random.default_rng(3).integers(0, 256, (300, 300)).astype(np.uint8),
        (np.random.default_rng(3).random((50, 50)) < 0.6).astype(np.uint8),
        starry(full=1e9),
    ],
    ids=["constant", "ramp", "faint", "uniform", "mask", "unsaturated"],
)
def test_no_plateau_where_there_is_none(data):
    assert read_frame(to_bytes(fits.PrimaryHDU(data))).facts.saturation is None


def test_saturation_from_the_header():
    data = starry().astype(np.float32)
    data[0, 0] = np.nan
    frame = read_frame(with_cards(data, SATURATE=50000.0))
    assert frame.facts.saturation == 50000
    assert np.nanmax(frame.pixels) == 50000
    assert frame.mask[0, 0]
    assert read_frame(with_cards(starry(full=1e9), SATURATE=1e7)).facts.saturation == 1e7
    assert read_frame(with_cards(data, SATURATE=1e6)).facts.saturation == 60000  # the data know better
    below_sky = read_frame(with_cards(starry(full=1e9), SATURATE=10.0))
    assert below_sky.facts.saturation is None
    assert "below the sky" in below_sky.warnings[0]


@pytest.mark.parametrize("section", ["[11:50,6:40]", "[50:11,40:6]", "[ 11:50 , 6:40 ]"])
def test_overscan_is_masked(section):
    mask = read_frame(with_cards(sky(), DATASEC=section)).mask
    assert not mask[5:40, 10:50].any()
    assert mask.sum() == mask.size - 35 * 40


@pytest.mark.parametrize("section", ["[1:61,1:40]", "[0:60,1:40]", "[100:200,1:40]", "UNKNOWN"])
def test_an_overscan_that_cannot_be_is_ignored(section):
    frame = read_frame(with_cards(sky(), DATASEC=section))
    assert not frame.mask.any()
    assert "DATASEC" in frame.warnings[0]


def test_an_overscan_of_the_primary_is_not_the_extension_s():
    primary = fits.PrimaryHDU()
    primary.header["DATASEC"] = "[1:10,1:10]"
    assert not read_frame(to_bytes(primary, fits.ImageHDU(sky()))).mask.any()


@pytest.mark.parametrize("key", ["BAYERPAT", "COLORTYP", "FILTER"])
def test_bayer_phases_are_equalised(key):
    data = sky((200, 200), 0, 1)
    for row, column, level, noise in ((0, 0, 500, 5), (0, 1, 1000, 12), (1, 0, 1010, 12), (1, 1, 300, 3)):
        data[row::2, column::2] = data[row::2, column::2] * noise + level
    data[50:54, 50:54] = 4000
    frame = read_frame(with_cards(np.rint(data).astype(np.int16), **{key: "RGGB"}))
    phases = [frame.pixels[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    medians = [np.median(phase) for phase in phases]
    noises = [1.4826 * np.median(np.abs(phase - np.median(phase))) for phase in phases]
    assert np.ptp(medians) < 1
    assert np.mean(medians) == pytest.approx(702.5, abs=1)
    assert max(noises) / min(noises) < 1.3
    assert frame.saturated[50:54, 50:54].all()
    assert frame.saturated.sum() == 16
    assert "equalised" in frame.warnings[-1]


def test_a_filter_is_not_a_bayer_pattern():
    assert read_frame(with_cards(sky(), FILTER="R", BAYERPAT="none")).warnings == ()


# --- Facts


def test_facts_in_dialects():
    facts = read_frame(
        with_cards(sky(), GAIN=100, EGAIN="1.5", RDNOISE="none", READNOIS=4, EXPOSURE=30.0, FILTER=" r ", MAGZERO=25.5)
    ).facts
    assert (facts.gain, facts.read_noise, facts.exposure_time, facts.filter, facts.zero_point) == (
        1.5,
        4,
        30,
        "r",
        25.5,
    )
    none = read_frame(with_cards(sky(), GAIN=0.0, EXPTIME="long", FILTER="", SATURATE=-1, MAGZERO=0.0)).facts
    assert (none.gain, none.exposure_time, none.filter, none.saturation, none.zero_point) == (None,) * 5
    renamed = read_frame(with_cards(sky(), MYGAIN=2.0), keywords=Keywords(gain=("MYGAIN",)))
    assert renamed.facts.gain == 2


def test_facts_come_from_the_hdu_then_from_the_primary():
    primary, own = fits.PrimaryHDU(), fits.ImageHDU(sky(), name="SCI")
    primary.header.update({"GAIN": 1.0, "RDNOISE": 5.0})
    own.header["GAIN"] = 2.0
    frame = read_frame(to_bytes(primary, own))
    assert (frame.facts.gain, frame.facts.read_noise, frame.name) == (2, 5, "SCI")


@pytest.mark.parametrize(
    ("cards", "mid"),
    [
        ({"DATE__OBS": "2020-01-02T03:04:05"}, "2020-01-02T03:04:35.000"),
        ({"DATE__OBS": "2020-01-02 03:04:05Z"}, "2020-01-02T03:04:35.000"),
        ({"DATE__OBS": "2020-01-02", "UTSTART": "03:04:05.5"}, "2020-01-02T03:04:35.500"),
        ({"DATE__OBS": "26/10/92", "MJD__OBS": 48921.5}, "1992-10-26T12:00:30.000"),
        ({"DATE__OBS": "26/10/92", "TIME__OBS": "12:00:00"}, "1992-10-26T12:00:30.000"),
        ({"DATE__OBS": "2020-01-02T03:05:14.184", "TIMESYS": "TT"}, "2020-01-02T03:04:35.000"),
        ({"MJD__OBS": 58850.0}, "2020-01-02T00:00:30.000"),
        ({"DATE__OBS": "2020-01-02"}, None),
        ({"DATE__OBS": "yesterday"}, None),
        ({"DATE__OBS": "2020-13-45T99:99:99"}, None),
        ({}, None),
    ],
)
def test_mid_time(cards, mid):
    assert read_frame(with_cards(sky(), EXPTIME=60.0, **cards)).mid_time == mid


# --- WCS


def wcs_cards(**changes):
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "CRPIX1": 30.0, "CRPIX2": 20.0,
        "CD1_1": -1e-4, "CD1_2": 2e-5, "CD2_1": 2e-5, "CD2_2": 1e-4, "RADESYS": "ICRS",
    }  # fmt: skip
    cards.update(changes)
    return {key: card for key, card in cards.items() if card is not None}


def test_positions_on_the_sky():
    frame = read_frame(with_cards(sky(), **wcs_cards()))
    ra, dec = frame.sky_positions(np.array([29.0, 0.0, np.nan]), np.array([19.0, 0.0, 0.0]))
    assert (ra[0], dec[0]) == pytest.approx((150, 20), abs=1e-9)
    assert np.isfinite(ra).tolist() == [True, True, False]
    assert np.isnan(dec[2])
    assert frame.pixel_scale == pytest.approx(3600 * np.hypot(1e-4, 2e-5))
    assert frame.warnings == ()
    assert all(len(found) == 0 for found in frame.sky_positions(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize(
    ("cards", "frame"),
    [
        ({"RADESYS": "FK5", "EQUINOX": 1975.0}, {"frame": "fk5", "equinox": "J1975"}),
        ({"RADESYS": "FK4", "EQUINOX": 1950.0}, {"frame": "fk4", "equinox": "B1950"}),
        ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN", "RADESYS": None}, {"frame": "galactic"}),
    ],
)
def test_other_frames_become_icrs(cards, frame):
    ra, dec = read_frame(with_cards(sky(), **wcs_cards(**cards))).sky_positions(np.array([29.0]), np.array([19.0]))
    expected = SkyCoord(150, 20, unit="deg", **frame).icrs
    assert expected.separation(SkyCoord(ra[0], dec[0], unit="deg")).arcsec < 0.01


def test_swapped_axes_and_extra_axes():
    swapped = wcs_cards(CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=20.0, CRVAL2=150.0)
    ra, dec = read_frame(with_cards(sky(), **swapped)).sky_positions(np.array([29.0]), np.array([19.0]))
    assert (ra[0], dec[0]) == pytest.approx((150, 20), abs=1e-9)
    cube = wcs_cards(CTYPE3="FREQ", CRVAL3=1e9, CRPIX3=1.0, CD3_3=1e6)
    ra, dec = read_frame(with_cards(sky((1, 40, 60)), **cube)).sky_positions(np.array([29.0]), np.array([19.0]))
    assert (ra[0], dec[0]) == pytest.approx((150, 20), abs=1e-9)


def test_compressed_wcs_is_the_image_s():
    hdu = fits.CompImageHDU(sky().astype(np.int16))
    hdu.header.update(wcs_cards())
    assert read_frame(to_bytes(hdu)).pixel_scale == pytest.approx(3600 * np.hypot(1e-4, 2e-5))


@pytest.mark.parametrize(
    "changes",
    [
        {"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0},
        {"CD1_1": 1e-4, "CD1_2": 1e-4, "CD2_1": 1e-4, "CD2_2": 1e-4},
        {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"},
        {"CTYPE2": None},
        {"CTYPE2": "RA---TAN"},
        {"CRVAL1": None},
        {"CRVAL1": "east"},
        {"CRPIX2": None},
        {"CRVAL2": 95.0},
        {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None},
        {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None, "CDELT1": 0.0, "CDELT2": 1e-4},
        {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 30000, "B_ORDER": 30000},
        {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 10.0, "B_0_2": 10.0},
        {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRPIX1": 1e7},
        {"CUNIT1": "furlong"},
    ],
)
def test_a_broken_wcs_is_none_and_a_warning(changes):
    frame = read_frame(with_cards(sky(), **wcs_cards(**changes)))
    assert frame.wcs is None
    assert frame.warnings[0].startswith("the WCS cannot be used: ")
    assert frame.pixel_scale is None
    assert np.isnan(frame.sky_positions(np.zeros(2), np.zeros(2))).all()


def test_no_wcs_or_a_linear_one_is_no_warning():
    linear = wcs_cards(CTYPE1="LINEAR", CTYPE2="LINEAR", RADESYS=None)
    for frame in (read_frame(with_cards(sky())), read_frame(with_cards(sky(), **linear))):
        assert frame.wcs is None
        assert frame.warnings == ()


@BOUNDED
@given(
    ra=st.floats(0, 359.9), dec=st.floats(-90, 90), scale=st.floats(1e-5, 1e-2), angle=st.floats(0, 6.2),
    projection=st.sampled_from(["TAN", "SIN", "ZEA", "STG"]),
)  # fmt: skip
def test_a_sound_wcs_is_never_moved(ra, dec, scale, angle, projection):
    turn = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cards = wcs_cards(
        CTYPE1=f"RA---{projection}", CTYPE2=f"DEC--{projection}", CRVAL1=ra, CRVAL2=dec,
        CD1_1=turn[0, 0], CD1_2=turn[0, 1], CD2_1=turn[1, 0], CD2_2=turn[1, 1],
    )  # fmt: skip
    data = with_cards(sky(), **cards)
    frame = read_frame(data)
    assert frame.pixel_scale == pytest.approx(scale * 3600)
    x, y = np.array([0.0, 59, 30]), np.array([0.0, 39, 7])
    expected = WCS(fits.getheader(io.BytesIO(data))).pixel_to_world(x, y)
    assert SkyCoord(*frame.sky_positions(x, y), unit="deg").separation(expected).arcsec.max() < 1e-3


# --- Which HDU


def mosaic():
    return [
        fits.ImageHDU(np.ones((30, 30), np.int16), name="BPMASK"),
        fits.ImageHDU(sky(seed=1), name="SCI"),
        fits.ImageHDU(sky(seed=2), name="ERR"),
        fits.ImageHDU(sky(seed=3), name="SCI", ver=2),
        fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])], name="CAT"),
    ]


def test_the_first_frame_is_found():
    frame = read_frame(to_bytes(*mosaic()))
    assert (frame.hdu, frame.name) == (2, "SCI")


@pytest.mark.parametrize(
    ("hdu", "index"),
    [(4, 4), ("4", 4), (" sci ", 2), ("SCI,2", 4), ("sci, 2", 4), ("err", 3), ("bpmask", 1), (1, 1)],
)
def test_an_hdu_is_chosen(hdu, index):
    assert read_frame(to_bytes(*mosaic()), hdu).hdu == index


@pytest.mark.parametrize("hdu", [9, "9", -1, "DQ", "SCI,3", "", "0", "primary", "CAT", "²", "9" * 5000])
def test_no_such_hdu(hdu):
    with pytest.raises(NoSuchHduError):
        read_frame(to_bytes(*mosaic()), hdu)


def test_every_frame_of_a_mosaic():
    data = to_bytes(*mosaic())
    frames = read_frames(data)
    assert [frame.hdu for frame in frames] == [2, 4]
    assert {frame.sha256 for frame in frames} == {read_frame(data).sha256}
    assert {frame.sha256 for frame in read_frames(data, sha256="known")} == {"known"}


def test_a_broken_hdu_is_a_warning_on_the_others():
    data = to_bytes(fits.ImageHDU(sky()), fits.ImageHDU(np.full((20, 20), np.nan)), fits.ImageHDU(sky((100, 100))))
    frames = read_frames(data[:-5000])
    assert [frame.hdu for frame in frames] == [1]
    assert len(frames[0].warnings) == 2
    assert "truncated" in frames[0].warnings[1]


@pytest.mark.parametrize("name", ["MASK", "SEGMASK", "IM1_MASK", "Weight", "DQ", "ERR", "VARIANCE", "BPM", "wht"])
def test_companions_are_not_frames(name):
    with pytest.raises(FrameError, match="no frame"):
        read_frame(to_bytes(fits.ImageHDU(sky(), name=name)))


@pytest.mark.parametrize("name", ["SCI", "CCD1", "IMAGE", "IM_DQN", "VARSTAR", "FLAGSTAFF", "ERROL"])
def test_other_names_are_frames(name):
    assert read_frame(to_bytes(fits.ImageHDU(sky(), name=name))).name == name


# --- Errors


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x1f\x9d\x90abc", r"\.Z"),
        (b"#ASDF 1.0.0\n", "ASDF"),
        (b"PK\x03\x04", "zip"),
        (b"hello " * 1000, "not FITS"),
        (b"SIMPLE is not a FITS file", "not FITS"),
        (gzip.compress(b"hello", mtime=0), "not FITS"),
        (bytes(10000), "not FITS"),
        (np.random.default_rng(0).bytes(9999), "not FITS"),
    ],
)
def test_not_fits(data, words):
    with pytest.raises(NotFitsError, match=words):
        read_frame(data)


def table():
    return fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2])])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (to_bytes(table()), "HDU 1 is a table"),
        (to_bytes(fits.PrimaryHDU()), "no data"),
        (to_bytes(fits.PrimaryHDU(np.zeros((3, 20, 30)))), "HDU 0 is a cube of 3 x 20 x 30"),
        (to_bytes(fits.PrimaryHDU(np.zeros(100))), "one row of 100"),
        (to_bytes(fits.PrimaryHDU(np.zeros((1, 100)))), r"too small \(1 x 100\)"),
        (to_bytes(fits.PrimaryHDU(np.zeros((1, 1)))), "too small"),
        (to_bytes(fits.PrimaryHDU(np.zeros((7, 100)))), "too small"),
        (to_bytes(fits.PrimaryHDU(np.full((9, 9), np.nan))), "no usable pixel"),
        (patched(to_bytes(fits.PrimaryHDU(sky())), "SIMPLE", "F"), "SIMPLE = F"),
        (patched(to_bytes(fits.PrimaryHDU(sky())), "BITPIX", "17"), "BITPIX"),
        (patched(to_bytes(fits.PrimaryHDU(sky())), "NAXIS", "-2"), "NAXIS"),
        (patched(to_bytes(fits.PrimaryHDU(sky())), "NAXIS1", "0"), "empty"),
        (patched(to_bytes(fits.PrimaryHDU(sky())), "NAXIS1", "'x'"), "NAXIS1"),
        (patched(to_bytes(fits.PrimaryHDU(sky())), "NAXIS1", "999999999"), "truncated: .* bytes"),
        (to_bytes(fits.PrimaryHDU(sky()))[:9000], "truncated"),
        (to_bytes(fits.PrimaryHDU(sky()))[:300], "cut short"),
        (gzip.compress(to_bytes(fits.PrimaryHDU(sky())), mtime=0)[:-3000], "cut short"),
        (bz2.compress(to_bytes(fits.PrimaryHDU(sky())))[:-3000], "cut short"),
        (patched(with_cards(sky(), GROUPS=True), "NAXIS1", "0"), "random groups"),
    ],
)
def test_unusable_frames(data, words):
    with pytest.raises(FrameError, match=words):
        read_frame(data)
    with pytest.raises(FrameError, match=words):
        read_frames(data)


def test_missing_padding_is_no_truncation():
    data = to_bytes(fits.PrimaryHDU(sky((10, 10))))
    np.testing.assert_array_equal(read_frame(data[: 2880 + 800]).pixels, read_frame(data).pixels)
    assert read_frame(data + b"garbage" * 1000).shape == (10, 10)


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (Limits(bytes=1000), to_bytes(fits.PrimaryHDU(sky()))),
        (Limits(pixels=2399), to_bytes(fits.PrimaryHDU(sky()))),
        (Limits(pixels=2399), to_bytes(fits.CompImageHDU(sky().astype(np.int16)))),
        (Limits(header_cards=5), to_bytes(fits.PrimaryHDU(sky()))),
        (Limits(hdus=2), to_bytes(*mosaic())),
    ],
)
def test_limits(limits, data):
    with pytest.raises(TooLargeError):
        read_frame(data, limits=limits)


def test_the_frames_of_a_mosaic_share_the_limit():
    with pytest.raises(TooLargeError, match="together"):
        read_frames(to_bytes(*mosaic()), limits=Limits(pixels=3000))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_bomb_is_refused(pack):
    bomb = pack(to_bytes(fits.PrimaryHDU()) + bytes(30_000_000))
    with pytest.raises(TooLargeError, match="decompresses"):
        read_frame(bomb, limits=Limits(bytes=3_000_000))


def compressed_file(algorithm):
    return to_bytes(fits.CompImageHDU(sky((32, 32)).astype(np.int32), compression_type=algorithm, tile_shape=(16, 32)))


def heap_of(data):
    """Offset of the first compressed tile."""
    with fits.open(io.BytesIO(data), disable_image_compression=True) as opened:
        table = opened[1]
        return table.fileinfo()["datLoc"] + table.header["NAXIS1"] * table.header["NAXIS2"]


def test_a_bomb_in_a_tile_is_refused():
    data = compressed_file("GZIP_1")
    bomb = gzip.compress(bytes(3_000_000))
    with fits.open(io.BytesIO(data), disable_image_compression=True) as opened:
        count = int(opened[1].data["COMPRESSED_DATA"][0].size)
    assert len(bomb) < count + 3000
    start = heap_of(data)
    table = start - 16
    data = (
        data[:table]
        + np.array([len(bomb)], ">i4").tobytes()
        + data[table + 4 : start]
        + bomb
        + data[start + len(bomb) :]
    )
    with pytest.raises(FrameError, match="tiles is damaged"):
        read_frame(data)


def test_tiles_that_lie_are_refused():
    hcompress = compressed_file("HCOMPRESS_1")
    start = heap_of(hcompress)
    larger = hcompress[: start + 2] + np.array([10**6, 10**6], ">i4").tobytes() + hcompress[start + 10 :]
    plio = compressed_file("PLIO_1")
    start_plio = heap_of(plio)
    longer = plio[: start_plio + 6] + b"\x7f\xff\x7f\xff" + plio[start_plio + 10 :]
    rice = compressed_file("RICE_1")
    outside = rice[: heap_of(rice) - 16] + np.array([10, 10**8], ">i4").tobytes() + rice[heap_of(rice) - 8 :]
    taller, fewer = patched(rice, "ZNAXIS2", "20000"), patched(rice, "ZTILE2", "8")
    for data in (
        larger,
        longer,
        outside,
        taller,
        fewer,
        patched(rice, "ZVAL1", "0"),
        patched(rice, "TFIELDS", "2147483648"),
        patched(rice, "ZCMPTYPE", "'NO'"),
    ):
        with pytest.raises(FrameError):
            read_frame(data)


def test_messages_show_nothing_of_the_inside():
    with pytest.raises(FrameError) as caught:
        read_frame(patched(compressed_file("RICE_1"), "ZCMPTYPE", "'NO'"))
    assert "/" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


# --- Planes and masks


def test_a_plane_is_read_whatever_its_name():
    weight = sky().astype(np.float32)
    np.testing.assert_array_equal(read_plane(to_bytes(fits.ImageHDU(weight, name="WEIGHT")), weight.shape), weight)
    assert not read_plane(to_bytes(fits.PrimaryHDU(np.zeros((40, 60), np.uint8))), (40, 60)).any()


def test_a_plane_of_another_shape_is_refused():
    with pytest.raises(FrameError, match="40 x 60; the frame is 60 x 40"):
        read_plane(to_bytes(fits.PrimaryHDU(sky())), (60, 40))
    with pytest.raises(FrameError, match="table"):
        read_plane(to_bytes(table()), (60, 40))


def test_masking():
    frame = Frame(sky().astype(np.float32))
    mask = np.zeros(frame.shape, bool)
    mask[3, 4] = True
    np.testing.assert_array_equal(frame.masked(mask).mask, mask)
    assert not frame.mask.any()
    with pytest.raises(FrameError, match="no usable pixel"):
        frame.masked(~np.zeros(frame.shape, bool))
    with pytest.raises(ValueError, match="shape"):
        frame.masked(mask[1:])


# --- Whatever comes in


def outcome(data):
    """Read in every way; anything but frames or a LynceusError is a failure."""
    shape = frame_shape(data)
    try:
        frames = read_frames(data)
    except LynceusError as error:
        return error.code
    assert shape in (frames[0].shape, None)
    for frame in frames:
        assert frame.pixels.flags.c_contiguous
        assert not np.isinf(frame.pixels).any()
        assert len(frame.warnings) <= 10
        ra, dec = frame.sky_positions(np.array([0.0, 5.0]), np.array([0.0, 5.0]))
        assert (np.isnan(ra) == np.isnan(dec)).all()
        assert frame.pixel_scale is None or frame.pixel_scale > 0
        assert frame.mid_time is None or "T" in frame.mid_time
    return "frames"


SEEDS = [
    with_cards(starry((30, 40), 9000), GAIN=1.5, EXPTIME=30.0, DATE__OBS="2020-01-02T03:04:05", **wcs_cards()),
    to_bytes(*mosaic()),
    *(compressed_file(algorithm) for algorithm in ("RICE_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1")),
    gzip.compress(to_bytes(fits.PrimaryHDU(sky((20, 20)).astype(np.int16))), mtime=0),
]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damage_never_escapes(draw):
    data = bytearray(draw.draw(st.sampled_from(SEEDS)))
    header = draw.draw(st.booleans())
    for _ in range(draw.draw(st.integers(0, 8))):
        where = draw.draw(st.integers(0, min(len(data), 6000) - 1 if header else len(data) - 1))
        data[where] = draw.draw(st.sampled_from(b"0123456789T'=-. EF") if header else st.integers(0, 255))
    assert outcome(bytes(data[: draw.draw(st.integers(0, len(data)))] if draw.draw(st.booleans()) else data))


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_real_and_nasty_files(path, capfd):
    start = time.perf_counter()
    outcome(path.read_bytes())
    assert time.perf_counter() - start < 5
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@needs_data
def test_known_files():
    nasty = DATA / "nasty" / "derived"
    assert outcome((nasty / "text_not_fits.fits").read_bytes()) == "not_fits"
    assert outcome((nasty / "half_truncated.fits").read_bytes()) == "unusable_frame"
    assert read_frame((nasty / "wcs_singular_cd.fits").read_bytes()).wcs is None
    amplifiers = read_frames((DATA / "frames" / "lco_sinistro_raw_mef" / "mef_raw_test_frame.fits").read_bytes())
    assert [frame.facts.gain for frame in amplifiers] == [6.42, 6.23, 6.27, 6.26]
    assert all((~frame.mask).sum() == 512 * 512 for frame in amplifiers)
    camera = read_frame((DATA / "frames" / "panoptes" / "solved.fits").read_bytes())
    assert "13583" in camera.warnings[0]
    assert camera.pixel_scale == pytest.approx(10.32, abs=0.01)


# --- Sizes by the headers alone


def test_the_headers_tell_the_size_of_what_will_be_read():
    mask = fits.ImageHDU(np.zeros((90, 70), np.int16), name="MASK")
    mosaic = to_bytes(mask, *(fits.ImageHDU(sky(shape).astype(np.float32)) for shape in ((40, 60), (50, 30))))
    tiled = to_bytes(fits.CompImageHDU(sky().astype(np.int16), compression_type="RICE_1"))
    plain = to_bytes(fits.PrimaryHDU(sky()))
    assert frame_shape(mosaic) == (40, 60)
    assert (frame_shape(mosaic, 3), frame_shape(mosaic, "mask")) == ((50, 30), (90, 70))
    assert frame_shape(tiled) == frame_shape(tiled[:10_000]) == (40, 60)
    assert frame_shape(plain) == frame_shape(plain[:2880]) == frame_shape(plain, "primary") == (40, 60)
    assert frame_shape(gzip.compress(plain)) == frame_shape(gzip.compress(plain)[:2000]) == (40, 60)


def test_of_a_large_gz_only_the_beginning_is_decompressed(monkeypatch):
    data = gzip.compress(to_bytes(fits.PrimaryHDU(sky((600, 700)).astype(np.float32))), 1)
    monkeypatch.setattr(gzip, "GzipFile", lambda *_, **__: pytest.fail("it was decompressed"))
    assert frame_shape(data) == (600, 700)


@pytest.mark.parametrize(
    ("data", "hdu"),
    [
        (b"", None),
        (b"no FITS", None),
        (b"\x1f\x8bno gzip", None),
        (bz2.compress(to_bytes(fits.PrimaryHDU(sky()))), None),
        (to_bytes(fits.PrimaryHDU(sky()))[:240], None),
        (to_bytes(fits.ImageHDU(sky()))[:2880], None),
        (to_bytes(fits.PrimaryHDU(sky())), 5),
        (to_bytes(fits.BinTableHDU.from_columns([fits.Column("A", "D", array=[1.0])])), 1),
    ],
)
def test_where_the_first_bytes_do_not_tell_the_size_reading_does(data, hdu):
    assert frame_shape(data, hdu) is None
