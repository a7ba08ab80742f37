import numpy as np
import pytest
import sep

from lynceus import unlisted
from lynceus.detections import box_about
from lynceus.frame import Frame, read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.unlisted import TOO_CROWDED, find_peaks, peak_boxes, seeing, unlisted_peaks
from tests.data import real_frame
from tests.fakes import star_field

SPEC = MeasureSpec()
SHAPE = (240, 320)
STARS = [(40.0 + 40 * column, 30.0 + 45 * row) for column in range(7) for row in range(5)]
X, Y = np.array(STARS).T


def field(stars=STARS, seed: int = 0):
    frame = Frame(star_field(SHAPE, stars, seed))
    return frame, estimate_sky(frame, SkySpec())


def near(peaks, x: float, y: float) -> int:
    return int((np.hypot(peaks.x - x, peaks.y - y) < 1).sum())


def test_what_is_there_is_seen_where_it_is_and_as_wide():
    peaks, warning = find_peaks(*field())
    assert warning == ""
    assert all(near(peaks, x, y) == 1 for x, y in STARS)
    bright = peaks[peaks.height > 100]
    assert len(bright.x) == len(STARS)
    np.testing.assert_allclose(bright.shapes.fwhm, 3.0, rtol=0.2)


def test_what_is_listed_is_no_candidate_and_what_is_not_is_one():
    peaks, _ = find_peaks(*field())
    boxes = box_about(X, Y, np.full(len(X), 8.0), np.full(len(X), 8.0))
    keep = np.arange(len(X)) != 17
    left = unlisted_peaks(peaks, SPEC, X[keep], Y[keep], boxes[keep])
    assert near(left, X[17], Y[17]) == 1
    assert sum(near(left, x, y) for x, y in STARS) == 1
    found = peak_boxes(left, SPEC, SHAPE)
    index = int(np.argmin(np.hypot(left.x - X[17], left.y - Y[17])))
    np.testing.assert_allclose(found[index], boxes[17], atol=1.0)


def test_all_is_unlisted_where_nothing_is_listed():
    peaks, _ = find_peaks(*field())
    none = np.zeros(0)
    assert len(unlisted_peaks(peaks, SPEC, none, none, np.zeros((0, 4))).x) == len(peaks.x)


def test_knots_inside_a_listed_galaxy_are_no_candidates():
    peaks, _ = find_peaks(*field())
    box = np.array([[60.0, 60.0, 180.0, 180.0]])
    left = unlisted_peaks(peaks, SPEC, np.array([119.5]), np.array([119.5]), box)
    assert (np.hypot(left.x - 119.5, left.y - 119.5) > 60).all()
    assert len(left.x) < len(peaks.x)


def test_the_search_of_masked_pixels_finds_nothing():
    frame, sky = field()
    mask = np.zeros(SHAPE, bool)
    mask[:, :160] = True
    peaks, _ = find_peaks(frame.masked(mask), sky)
    assert peaks.x.min() > 158
    assert near(peaks, *STARS[-1]) == 1


def test_seeing_is_measured_on_the_brightest():
    assert seeing(*field(), SPEC) == pytest.approx(3.1, rel=0.05)
    assert seeing(*field([]), SPEC) is None


def test_faint_stars_are_seen_and_noise_is_not():
    grid = np.arange(20.0, 480.0, 20.0)
    rng = np.random.default_rng(1)
    columns, rows = np.meshgrid(grid, grid)
    noise = rng.normal(100, 10, (500, 500))
    width = 3 / 2.355
    light = np.zeros((500, 500))
    y, x = np.indices((500, 500))
    for column, row in zip(columns.ravel(), rows.ravel(), strict=True):
        cut = np.s_[int(row) - 9 : int(row) + 10, int(column) - 9 : int(column) + 10]
        light[cut] += np.exp(-((x[cut] - column) ** 2 + (y[cut] - row) ** 2) / (2 * width**2))
    amplitude = 8 * 10 / np.sqrt(np.pi * width**2)  # SNR 8
    empty, stars = (Frame((noise + amount * light).astype(np.float32)) for amount in (0.0, amplitude))
    sky = estimate_sky(empty, SkySpec())
    assert len(find_peaks(empty, sky)[0].x) < 5
    assert len(find_peaks(stars, sky)[0].x) > 0.95 * columns.size


def test_a_limit_of_sep_is_a_warning_and_not_an_error(monkeypatch):
    monkeypatch.setattr(unlisted, "LEAST_STACK", 5)
    monkeypatch.setattr(unlisted, "STACK_SHARE", 0.0)
    before = sep.get_extract_pixstack()
    peaks, warning = find_peaks(*field())
    sep.set_extract_pixstack(before)
    assert (len(peaks.x), warning) == (0, TOO_CROWDED)
    assert peak_boxes(peaks, SPEC, SHAPE).shape == (0, 4)


def test_without_deblending_what_is_too_crowded_is_still_seen(monkeypatch):
    real, asked = sep.extract, []

    def extract(*args, **options):
        asked.append(options.get("deblend_cont"))
        if "deblend_cont" not in options:
            raise Exception("object deblending overflow: limit of 1024 sub-objects reached")
        return real(*args, **options)

    monkeypatch.setattr(sep, "extract", extract)
    peaks, warning = find_peaks(*field())
    assert (asked, warning) == ([None, 1.0], "")
    assert all(near(peaks, x, y) == 1 for x, y in STARS)


def test_a_large_crowded_frame_is_searched():
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 5, (2048, 2048)).astype(np.float32)
    columns, rows = rng.integers(4, 2044, (2, 20_000))
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            pixels[rows + dy, columns + dx] += 60
    frame = Frame(pixels)
    peaks, warning = find_peaks(frame, estimate_sky(frame, SkySpec()))
    assert warning == ""
    assert len(peaks.x) > 15_000


@pytest.mark.parametrize("name", ["eso_ntt_emmi/galaxies", "phosim_decam/img_r"])
def test_real_frames(name):
    frame = read_frame(real_frame(name))
    peaks, warning = find_peaks(frame, estimate_sky(frame, SkySpec()))
    assert warning == ""
    assert len(peaks.x) > 50
    assert np.isfinite(peak_boxes(peaks, SPEC, frame.shape)).all(axis=1).mean() > 0.99
