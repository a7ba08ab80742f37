"""Laws of the truth: whatever way a catalogue says the same thing, the boxes are the same."""

import time
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.catalogue import FORMATS
from lynceus.detections import box_about
from lynceus.errors import CatalogueError
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.sources import FWHM_PER_SIGMA
from lynceus.tables import Catalogue, read_catalogue
from lynceus.truth import Truth, listed_detections, positions_of, truth_of
from tests.data import test_data
from tests.fakes import NOISE, SKY, star_field
from tests.unit.test_catalogue import block_of

SPEC = MeasureSpec()
SHAPE = (200, 300)
SCALE = 0.5  # arcsec a pixel
BLANK = Frame(np.random.default_rng(0).normal(SKY, NOISE, SHAPE).astype(np.float32))
BLANK_SKY = estimate_sky(BLANK, SkySpec())
BIG = Frame(np.zeros((4200, 4200), np.float32))
X, Y = np.array([50.0, 150.0, 250.0]), np.array([60.0, 100.0, 140.0])
READABLE = [name for name in FORMATS if name != "ds9"]


def catalogue_of(form: str = "ascii_head", units: dict[str, str] | None = None, **columns) -> Catalogue:
    return Catalogue({name: np.asarray(values, float) for name, values in columns.items()}, form, units or {})


def listed(form: str = "ascii_head", frame: Frame = BLANK, rule: str = "bundle", flags: int | None = None, **columns):
    """The truth of three rows at X, Y with these columns."""
    catalogue = catalogue_of(form, X_IMAGE=X + 1, Y_IMAGE=Y + 1, **columns)
    options = {} if flags is None else {"ignore_flags": flags}
    return truth_of(catalogue, frame, BLANK_SKY, SPEC, rule=rule, unlisted=False, **options)


def with_wcs(angle: float = 0.0, flip: int = -1, axes: tuple[str, str] = ("RA---TAN", "DEC--TAN"), dec=40.0) -> Frame:
    """A frame whose north is turned by `angle` degrees from +y."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = list(axes), [0.01, dec], [150.5, 100.5]
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.cd = np.diag([flip * SCALE / 3600, SCALE / 3600]) @ rotation
    wcs.wcs.set()
    return replace(BLANK, wcs=wcs)


def sides(truth: Truth) -> np.ndarray:
    return truth.boxes[:, 2:] - truth.boxes[:, :2]


def test_a_box_is_k_observed_fwhm_about_the_source():
    truth = listed(FWHM_IMAGE=[4.0, 6.0, 1.0])
    expected = np.array([10.0, 15.0, SPEC.min_box])
    np.testing.assert_allclose(truth.boxes, box_about(X, Y, expected, expected))
    np.testing.assert_allclose(truth.centres, [X, Y])
    assert not truth.ignored.any()
    assert (len(truth), truth.listed, truth.warnings) == (3, 3, ())


@given(
    st.floats(1.5, 8), st.floats(0.2, 1.0), st.floats(-90, 90),
)  # fmt: skip
def test_every_way_to_say_a_shape_gives_the_box_of_the_simulated_truth(sigma, ratio, angle):
    a, b, theta = sigma / np.sqrt(ratio), sigma * np.sqrt(ratio), np.radians(angle)
    xx, yy = (a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2, (a * np.sin(theta)) ** 2 + (b * np.cos(theta)) ** 2
    xy = (a**2 - b**2) * np.sin(theta) * np.cos(theta)
    fwhm = FWHM_PER_SIGMA * sigma
    expected = [max(SPEC.box_scale * FWHM_PER_SIGMA * np.sqrt(moment), SPEC.min_box) for moment in (xx, yy)]
    ways = [
        {"FWHM_IMAGE": fwhm, "ELLIPTICITY": 1 - ratio, "THETA_IMAGE": angle},
        {"FWHM_IMAGE": fwhm, "A_IMAGE": a / 2, "B_IMAGE": b / 2, "THETA_IMAGE": angle},
        {"FWHM": fwhm, "ELLIPTICITY": 1 - ratio, "THETA": angle},
        {"FWHM_IMAGE": 0, "A_IMAGE": a, "B_IMAGE": b, "THETA_IMAGE": angle},
        {"FWHM_IMAGE": fwhm, "ELONGATION": 1 / ratio, "THETA_IMAGE": angle},
        {"A": a, "B": b, "THETA": theta},
        {"X2_IMAGE": xx, "Y2_IMAGE": yy, "XY_IMAGE": xy},
        {"FLUX_RADIUS": fwhm / 2, "ELLIPTICITY": 1 - ratio, "THETA_IMAGE": angle},
    ]
    for way in ways:
        truth = listed(**{name: [value] * 3 for name, value in way.items()})
        np.testing.assert_allclose(sides(truth)[1], expected, rtol=1e-6, err_msg=str(way))


def test_shapes_are_trusted_row_by_row():
    truth = listed(FWHM_IMAGE=[4, 0, np.nan], A_IMAGE=[9, 2, np.nan], B_IMAGE=[9, 2, np.nan], FLUX_RADIUS=[9, 9, 3])
    np.testing.assert_allclose(sides(truth)[:, 0], [10, 2.5 * 2 * FWHM_PER_SIGMA, 15])


def test_of_several_flux_radii_the_middle_one_is_half_the_light():
    columns = {"FLUX_RADIUS": [1.0] * 3, "FLUX_RADIUS(2)": [3.0] * 3, "FLUX_RADIUS(3)": [9.0] * 3}
    np.testing.assert_allclose(sides(listed(**columns)), 15.0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 360), st.sampled_from([-1, 1]), st.floats(-60, 80))
def test_a_rotated_wcs_gives_the_same_boxes(angle, flip, dec):
    frame = with_wcs(angle, flip, dec=dec)
    ra, dec_of = frame.sky_positions(X, Y)
    fwhm = np.array([3.0, 4.0, 5.0])
    truth = truth_of(
        catalogue_of(ALPHA_J2000=ra, DELTA_J2000=dec_of, FWHM_WORLD=fwhm * SCALE / 3600),
        frame, BLANK_SKY, SPEC, unlisted=False,
    )  # fmt: skip
    np.testing.assert_allclose(truth.boxes, box_about(X, Y, 2.5 * fwhm, 2.5 * fwhm), atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 360), st.sampled_from([-1, 1]), st.floats(-80, 80), st.floats(-85, 85))
def test_an_angle_on_the_sky_becomes_the_angle_on_the_frame(angle, flip, dec, theta):
    frame = with_wcs(angle, flip, dec=dec)
    step = 2.0 * np.array([np.cos(np.radians(theta)), np.sin(np.radians(theta))])
    start, end = (SkyCoord(*frame.sky_positions(X + n * step[0], Y + n * step[1]), unit="deg") for n in (0, 1))
    north = start.position_angle(end).deg
    shape = {"FWHM_IMAGE": [6.0] * 3, "ELLIPTICITY": [0.6] * 3}
    expected = listed(THETA_IMAGE=[theta] * 3, **shape)
    for columns in ({"THETA_J2000": north}, {"THETA_SKY": north - 180}, {"THETA_WORLD": 90 - north}):
        np.testing.assert_allclose(listed(frame=frame, **columns, **shape).boxes, expected.boxes, atol=0.02)
    np.testing.assert_allclose(sides(listed(THETA_J2000=north, **shape)), 15.0)  # no WCS: as if round


def test_angular_sizes_need_a_wcs():
    truth = listed(FWHM_WORLD=[1 / 3600] * 3)
    assert truth.ignored.all()
    assert "no size" in truth.warnings[0]
    frame = with_wcs()
    np.testing.assert_allclose(sides(listed(frame=frame, FWHM_WORLD=[1.0 / 3600] * 3)), 5.0, rtol=1e-6)
    in_arcsec = listed(frame=frame, FWHM_WORLD=[1.0] * 3, units={"FWHM_WORLD": "arcsec"})
    np.testing.assert_allclose(sides(in_arcsec), 5.0, rtol=1e-6)


def test_the_catalogues_own_boxes():
    inclusive = {"XMIN_IMAGE": [41] * 3, "YMIN_IMAGE": [51] * 3, "XMAX_IMAGE": [60] * 3, "YMAX_IMAGE": [55] * 3}
    truth = listed(rule="catalogue", FWHM_IMAGE=[4] * 3, **inclusive)
    assert truth.boxes.tolist() == [[40.0, 50.0, 60.0, 55.0]] * 3
    np.testing.assert_allclose(sides(listed(FWHM_IMAGE=[4] * 3, **inclusive)), 10.0)


def test_kron_ellipses():
    axes = {"A_IMAGE": [4.0] * 3, "B_IMAGE": [2.0] * 3, "THETA_IMAGE": [0, 90, 0]}
    truth = listed(rule="catalogue", KRON_RADIUS=[2.5, 0, np.nan], **axes)
    np.testing.assert_allclose(sides(truth), [[20, 10], [12, 24], [24, 12]])
    np.testing.assert_allclose(sides(listed(rule="catalogue", **axes))[0], [24, 12])


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 360))
def test_the_rule_of_joan_oro(angle):
    truth = listed(
        frame=with_wcs(angle), rule="catalogue", FWHM_WORLD=np.array([2, 2, 2]) / 3600, ELLIPTICITY=[0.5, 0.6, 0.6],
        MAG_CALIB=[14.0, np.nan, 13.9],
    )  # fmt: skip
    np.testing.assert_allclose(sides(truth)[:, 0] / 4, [4, 8, 6], rtol=1e-6)


def test_a_file_of_joan_oro_is_read():
    names = (
        "X_IMAGE Y_IMAGE ALPHA_J2000 DELTA_J2000 MAG_AUTO MAGERR_AUTO FWHM_WORLD FLUX_RADIUS ELLIPTICITY THETA_WORLD"
    )
    names += " THETA_J2000 FLAGS MAG_CALIB MAGERR_CALIB"
    head = "".join(f"# {number:3d} {name:<20s} text\n" for number, name in enumerate(names.split(), start=1))
    rows = "51 61 0 40 -9 .1 0.00055 2 0.1 10 10 3 15.2 .1\n151 101 0 40 99 99 0.00055 60000 0.1 10 10 0 99 99\n"
    truth = truth_of(read_catalogue((head + rows).encode()), with_wcs(), BLANK_SKY, SPEC, unlisted=False)
    assert truth.brightness_kind == "magnitude"
    np.testing.assert_array_equal(truth.brightness, [15.2, np.nan])
    assert not truth.ignored.any()
    assert sides(truth).min() > 9


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_columns_does_not_matter(chance):
    columns = {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "XWIN_IMAGE": X, "YWIN_IMAGE": Y, "FWHM_IMAGE": X / 20,
               "FLAGS": [0, 4, 8], "SNR_WIN": X, "MAG_AUTO": Y, "A_IMAGE": Y, "B_IMAGE": Y}  # fmt: skip
    names = list(columns)
    chance.shuffle(names)
    head = "".join(f"# {number} {name} text\n" for number, name in enumerate(names, start=1))
    rows = "".join(" ".join(str(float(columns[name][row])) for name in names) + "\n" for row in range(3))
    truth = truth_of(read_catalogue((head + rows).encode()), BLANK, BLANK_SKY, SPEC, unlisted=False)
    expected = truth_of(catalogue_of(**columns), BLANK, BLANK_SKY, SPEC, unlisted=False)
    np.testing.assert_allclose(truth.boxes, expected.boxes)
    assert truth.ignored.tolist() == expected.ignored.tolist() == [False, False, True]
    assert truth.brightness.tolist() == expected.brightness.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("form", "names", "shift"),
    [
        ("csv", ("X_IMAGE", "Y_IMAGE"), 1), ("votable", ("XWIN_IMAGE", "YWIN_IMAGE"), 1), ("fits", ("X", "Y"), 1),
        ("votable", ("X", "Y"), 1), ("csv", ("X", "Y"), 0), ("ecsv", ("X", "Y"), 0), ("json", ("X", "Y"), 0),
        ("fits", ("XCENTROID", "YCENTROID"), 0),
    ],
)  # fmt: skip
def test_positions_count_from_where_their_name_says(form, names, shift):
    catalogue = catalogue_of(form, **{names[0]: X + shift, names[1]: Y + shift})
    np.testing.assert_allclose(positions_of(catalogue, BLANK), [X, Y])


def test_x_image_goes_before_xwin_image_and_an_empty_column_goes_last():
    columns = {"XWIN_IMAGE": X + 9, "YWIN_IMAGE": Y + 9}
    both = catalogue_of(X_IMAGE=X + 1, Y_IMAGE=Y + 1, **columns)
    np.testing.assert_allclose(positions_of(both, BLANK), [X, Y])
    empty = catalogue_of(X_IMAGE=X * np.nan, Y_IMAGE=Y, **columns)
    np.testing.assert_allclose(positions_of(empty, BLANK), [X + 8, Y + 8])


@pytest.mark.parametrize("axes", [("RA---TAN", "DEC--TAN"), ("GLON-TAN", "GLAT-TAN"), ("DEC--TAN", "RA---TAN")])
def test_positions_on_the_sky_go_through_the_wcs(axes):
    frame = with_wcs(30, axes=axes)
    if axes[0] == "DEC--TAN":
        frame.wcs.wcs.crval = [40.0, 0.01]
        frame.wcs.wcs.set()
    ra, dec = frame.sky_positions(X, Y)
    far_ra, far_dec = np.append(ra, [ra[0] + 180, 0.0, np.nan]), np.append(dec, [-dec[0], 95.0, 0.0])
    x, y = positions_of(catalogue_of(RA=far_ra, DEC=far_dec), frame)
    np.testing.assert_allclose([x[:3], y[:3]], [X, Y], atol=1e-6)
    assert np.isnan(x[3:]).all()


def test_distortion_neither_folds_far_sources_into_the_frame_nor_loses_near_ones():
    frame = with_wcs(axes=("RA---TAN-SIP", "DEC--TAN-SIP"))
    header = frame.wcs.to_header(relax=True)
    header.update(A_ORDER=2, B_ORDER=2, A_2_0=2e-5, B_0_2=-2e-5, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP")
    frame = replace(frame, wcs=WCS(header))
    ra, dec = frame.sky_positions(X, Y)
    sky = np.random.default_rng(0).uniform([-5, 35], [5, 45], (5000, 2))
    x, y = positions_of(catalogue_of(RA=np.append(ra, sky[:, 0]), DEC=np.append(dec, sky[:, 1])), frame)
    np.testing.assert_allclose([x[:3], y[:3]], [X, Y], atol=1e-3)
    there = np.isfinite(x[3:])
    _, back_dec = frame.sky_positions(x[3:][there], y[3:][there])
    np.testing.assert_allclose(back_dec, sky[there, 1], atol=1e-3)
    assert there.mean() < 0.01


@pytest.mark.parametrize(
    ("columns", "units", "words"),
    [
        ({"FLUX": X}, {}, "needs X_IMAGE and Y_IMAGE, x and y, or ALPHA_J2000 and DELTA_J2000"),
        ({"X_IMAGE": X, "FLUX": X}, {}, "no position that can be used"),
        ({"RA": X, "DEC": Y}, {}, "the frame has no usable WCS"),
        ({"RA": X, "DEC": Y}, {"RA": "hourangle"}, "RA is in 'hourangle'; it must be in degrees"),
    ],
)
def test_a_catalogue_without_positions_is_refused(columns, units, words):
    with pytest.raises(CatalogueError, match=words):
        truth_of(catalogue_of(units=units, **columns), BLANK, BLANK_SKY, SPEC)


def test_hours_are_refused():
    catalogue = read_catalogue(b"ra,dec\n12:34:56.7,+12:00:00\n")
    with pytest.raises(CatalogueError, match="RA holds text such as '12:34"):
        positions_of(catalogue, with_wcs())


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(0, 255))
def test_flags_are_a_mask(flags, mask):
    truth = listed(FWHM_IMAGE=[4.0] * 3, FLAGS=flags, flags=mask)
    assert truth.ignored.tolist() == [bool(flag & mask) for flag in flags]


def test_by_default_crowded_sources_count_and_failed_ones_do_not():
    x = np.arange(10.0, 290.0, 30.0)
    flags = np.array([0, 1, 2, 3, 8, 16, 32, 64, 128, np.nan])
    catalogue = catalogue_of(X=x, Y=np.full(10, 50.0), FWHM=np.full(10, 4.0), FLAGS=flags)
    truth = truth_of(catalogue, BLANK, BLANK_SKY, SPEC, unlisted=False)
    assert truth.ignored.tolist() == [False] * 4 + [True] * 5 + [False]


def test_a_saturated_source_counts_if_its_box_can_be_trusted():
    x = np.arange(20.0, 280.0, 50.0)
    fwhm = np.array([3, 3, 3, 8, 20, np.nan])
    catalogue = catalogue_of(X=x, Y=np.full(6, 100.0), FWHM=fwhm, FLAGS=[0, 0, 0, 4, 4, 4])
    truth = truth_of(catalogue, BLANK, BLANK_SKY, SPEC, unlisted=False)
    assert truth.ignored.tolist() == [False] * 4 + [True, True]


def test_the_flags_of_sep_are_not_sextractors():
    columns = {"X": X, "Y": Y, "A": [2.0] * 3, "B": [2.0] * 3, "FLAG": [1, 2, 8], "NPIX": [9] * 3}
    truth = truth_of(catalogue_of("ecsv", **columns), BLANK, BLANK_SKY, SPEC, unlisted=False)
    assert truth.ignored.tolist() == [False, True, False]


def test_rows_without_size_are_ignored_in_a_box_like_the_others():
    truth = listed(FWHM_IMAGE=[4.0, np.nan, 4.0])
    assert truth.ignored.tolist() == [False, True, False]
    np.testing.assert_allclose(sides(truth)[1], 10.0)
    assert truth.warnings[0].startswith("1 of 3 rows have no size and are ignored")


def test_where_no_row_has_a_size_the_seeing_tells():
    stars = [(30.0 + 40 * column, 30.0 + 40 * row) for column in range(6) for row in range(4)]
    frame = Frame(star_field(SHAPE, stars))
    x, y = np.array(stars).T
    sky = estimate_sky(frame, SkySpec())
    truth = truth_of(catalogue_of(X=x + 1, Y=y + 1), frame, sky, SPEC, unlisted=False)
    assert truth.ignored.all()
    np.testing.assert_allclose(sides(truth), 2.5 * 3.1, rtol=0.1)
    np.testing.assert_allclose(sides(listed()), SPEC.min_box)  # no star to tell it


def test_rows_off_the_frame_are_left_out_and_counted():
    x = np.array([-0.5, -0.51, 299.5, 299.51, np.nan, 10.0])
    catalogue = catalogue_of("csv", X=x, Y=[10, 10, 30, 10, 10, 10], FWHM=[4.0] * 6, SNR=range(6))
    truth = truth_of(catalogue, BLANK, BLANK_SKY, SPEC, unlisted=False)
    assert truth.brightness.tolist() == [0, 2, 5]
    assert truth.boxes[0].tolist() == [0.0, 5.5, 5.0, 15.5]
    np.testing.assert_allclose(truth.centres[0], x[[0, 2, 5]])
    assert any("2 of 6 rows lie outside the frame" in warning for warning in truth.warnings)
    assert any("1 of 6 rows have no position" in warning for warning in truth.warnings)
    away = truth_of(catalogue_of(X=X + 1e6, Y=Y), BLANK, BLANK_SKY, SPEC, unlisted=False)
    assert len(away) == 0
    assert "not one row of the catalogue lies on the frame" in away.warnings


def test_masked_pixels_and_marked_rows_are_ignored():
    mask = np.zeros(SHAPE, bool)
    mask[60, 50] = True
    assert listed(frame=BLANK.masked(mask), FWHM_IMAGE=[4.0] * 3).ignored.tolist() == [True, False, False]
    assert listed(FWHM_IMAGE=[4.0] * 3, IGNORED=[0, 1, np.nan]).ignored.tolist() == [False, True, False]


def test_a_row_that_is_listed_twice_counts_once():
    columns = {"X": [10.0, 10.004, 10.02, 10.0, 50.0], "Y": [20.0] * 5, "FWHM": [3.0] * 5, "SNR": range(5)}
    truth = truth_of(catalogue_of("csv", **columns), BLANK, BLANK_SKY, SPEC, unlisted=False)
    assert truth.brightness.tolist() == [0, 2, 4]
    assert "2 rows repeat the position of another and were left out" in truth.warnings


@pytest.mark.parametrize(
    ("columns", "kind", "values"),
    [
        ({"SNR": X, "MAG_AUTO": Y}, "snr", X),
        ({"FLUX_AUTO": X, "FLUXERR_AUTO": [2, 0, 2], "MAG_AUTO": Y}, "snr", [25, np.nan, 125]),
        ({"MAG_AUTO": X, "MAG_CALIB": Y}, "magnitude", Y),
        ({"MAG_CALIB": X * np.nan, "MAG_BEST": Y, "MAGERR_BEST": X}, "magnitude", Y),
        ({"FLUX_AUTO": X}, "none", [np.nan] * 3),
    ],
)
def test_brightness_is_signal_to_noise_or_else_a_magnitude(columns, kind, values):
    truth = listed(FWHM_IMAGE=[4.0] * 3, **columns)
    assert truth.brightness_kind == kind
    np.testing.assert_array_equal(truth.brightness, np.asarray(values, float))


def test_an_empty_catalogue_is_a_truth():
    for data in (b"x,y\n", b'{"detections": []}'):
        truth = truth_of(read_catalogue(data), BLANK, BLANK_SKY, SPEC, unlisted=False)
        assert (len(truth), truth.listed, truth.warnings) == (0, 0, ())
        assert len(listed_detections(read_catalogue(data), BLANK, SPEC, rule="bundle")) == 0


def test_unlisted_candidates_come_last_and_are_ignored():
    frame = Frame(star_field(SHAPE, [(50, 60), (150, 100), (250, 140)]))
    catalogue = catalogue_of("csv", X=X[:2], Y=Y[:2], FWHM=[3.0, 3.0], SNR=[7.0, 8.0])
    truth = truth_of(catalogue, frame, estimate_sky(frame, SkySpec()), SPEC)
    assert truth.listed == 2
    assert truth.ignored[:2].tolist() == [False, False]
    assert truth.ignored[2:].all()
    distance = np.hypot(truth.centres[0][2:] - 250, truth.centres[1][2:] - 140)
    assert distance.min() < 0.2
    np.testing.assert_array_equal(truth.brightness[:2], [7, 8])
    assert np.isnan(truth.brightness[2:]).all()


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("rule", ["bundle", "catalogue"])
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0, 1, 30]))
def test_our_own_lists_come_back_with_their_boxes_in_every_format(name, rule, seed, count):
    block = block_of(count, seed, unknown=0.3)
    catalogue = read_catalogue(FORMATS[name].write([block]))
    x, y = positions_of(catalogue, BIG)
    np.testing.assert_allclose(x, block.sources.x, atol=1e-6)
    np.testing.assert_allclose(y, block.sources.y, atol=1e-6)
    found = listed_detections(catalogue, BIG, SPEC, rule=rule)
    boxes = block.sources.detections.boxes
    np.testing.assert_allclose(found.boxes, np.clip(boxes, 0, 4200), atol=1e-3)
    np.testing.assert_allclose(found.scores, block.sources.detections.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "scores"),
    [
        ({"PROB": [0.1, np.nan, 0.9]}, [0.1, 0, 0.9]),
        ({"SCORE": [10, 20, 30], "SNR": [3, np.nan, 2]}, [1, 1 / 3, 2 / 3]),
        ({"FLUX_AUTO": [1, 3, 2]}, [1 / 3, 1, 2 / 3]),
        ({"MAG_AUTO": [20, 18, 19]}, [1 / 3, 1, 2 / 3]),
        ({}, [1, 1, 1]),
    ],
)
def test_scores_of_another_tools_list(columns, scores):
    catalogue = catalogue_of(X=X + 1, Y=Y + 1, FWHM=[4.0] * 3, **columns)
    found = listed_detections(catalogue, BLANK, SPEC, rule="bundle")
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


ANY = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e-300, 1e300, 99.0, 150.0, 4.0]))
NAMES = ["FWHM_IMAGE", "FWHM_WORLD", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "THETA_J2000", "ELLIPTICITY", "ELONGATION",
         "KRON_RADIUS", "FLUX_RADIUS", "X2_IMAGE", "Y2_IMAGE", "XY_IMAGE", "XMIN_IMAGE", "YMIN_IMAGE", "XMAX_IMAGE",
         "YMAX_IMAGE", "X_MIN", "Y_MIN", "X_MAX", "Y_MAX", "FLAGS", "MAG_CALIB", "FLUX_AUTO", "FLUXERR_AUTO", "SCORE",
         "IGNORED", "SNR", "RA", "DEC"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), unique=True), st.sampled_from(["X", "X_IMAGE", "RA"]),
    st.sampled_from(["bundle", "catalogue"]), st.data(),
)  # fmt: skip
def test_absurd_values_never_make_an_absurd_truth(names, place, rule, draw):
    pair = {"X": "Y", "X_IMAGE": "Y_IMAGE", "RA": "DEC"}
    rows = {name: draw.draw(st.lists(ANY, min_size=4, max_size=4)) for name in {*names, place, pair[place]}}
    text = ",".join(rows) + "\n" + "\n".join(",".join(map(repr, row)) for row in zip(*rows.values(), strict=True))
    catalogue = read_catalogue(text.encode())
    frame = with_wcs(20)
    truth = truth_of(catalogue, frame, BLANK_SKY, SPEC, rule=rule, unlisted=False)
    assert (truth.boxes >= 0).all()
    assert (truth.boxes <= [300, 200, 300, 200]).all()
    assert len(listed_detections(catalogue, frame, SPEC, rule=rule)) >= len(truth)


def test_the_official_catalogue_of_the_eso_corner():
    frame = read_frame(test_data("catalogues/eso_ntt_emmi/image.fits").read_bytes())
    catalogue = read_catalogue(test_data("catalogues/eso_ntt_emmi/image.cat").read_bytes())
    sky = estimate_sky(frame, SkySpec())
    truth = truth_of(catalogue, frame, sky, SPEC)
    assert (truth.listed, truth.brightness_kind, truth.warnings) == (65, "snr", ())
    flags = catalogue.columns["FLAGS"].astype(int)
    assert truth.ignored[:65].tolist() == (flags & 0b11111000 != 0).tolist()
    assert 4 < np.median(sides(truth)[:65]) < 8  # stars of 2.4 px by the moments in the file
    assert 0 < len(truth) - truth.listed < 40
    own = truth_of(catalogue, frame, sky, SPEC, rule="catalogue", unlisted=False)
    inside = (own.boxes > 0).all(axis=1) & (own.boxes < 256).all(axis=1)
    kron = np.where(catalogue.columns["KRON_RADIUS"] > 0, catalogue.columns["KRON_RADIUS"], 3)
    width = 2 * kron * np.sqrt(catalogue.columns["X2_IMAGE"])
    np.testing.assert_allclose(sides(own)[inside, 0], width[inside], rtol=1e-3)


def test_a_truth_checks_itself():
    box = np.array([[0.0, 0.0, 2.0, 2.0]])
    with pytest.raises(ValueError, match="as many"):
        Truth(box, np.zeros(2, bool), np.zeros(1), "none", (), 1)
    with pytest.raises(ValueError, match="all finite"):
        Truth(box * [1, 1, 0, 1], np.zeros(1, bool), np.zeros(1), "none", (), 1)
    with pytest.raises(ValueError, match="shape"):
        Truth(box[:, :3], np.zeros(1, bool), np.zeros(1), "none", (), 1)
    x, y = Truth(box, np.zeros(1, bool), np.zeros(1), "none", (), 1).centres
    assert (x[0], y[0]) == (0.5, 0.5)


def test_a_large_catalogue_is_read_and_boxed_in_time():
    data = FORMATS["sextractor"].write([block_of(50_000, unknown=0.1)])
    start = time.process_time()
    found = listed_detections(read_catalogue(data), BIG, SPEC, rule="bundle")
    assert len(found) == 50_000
    assert time.process_time() - start < 2
