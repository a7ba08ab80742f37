"""Measurements on simulated sources whose truth is exact: Gaussians on a known sky."""

from dataclasses import replace

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.detections import Detections, box_about
from lynceus.frame import Facts, Frame
from lynceus.measure import MEASURED, Flag, MeasureSpec, _Plane, _seeing, measure, summarise, unmeasured
from lynceus.sky import SkySpec, estimate_sky

SPEC = MeasureSpec()
LEVEL, NOISE, GAIN = 500.0, 8.0, 2.0
STEP = 48  # pixels between sources, so that none has neighbours


def field(
    flux: float = 2e4,
    fwhm: float = 3.0,
    count: int = 36,
    *,
    q: float = 1.0,
    angle: float = 0.0,
    seed: int = 0,
    facts: Facts | None = None,
    photons: bool = False,
) -> tuple[Frame, Detections, np.ndarray]:
    """A grid of equal sources at random sub-pixel positions, boxes by the box rule, true positions (N, 2)."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    size = STEP * side
    profile = galsim.Gaussian(fwhm=fwhm, flux=flux).shear(q=q, beta=angle * galsim.degrees)
    light = np.zeros((size, size))
    places = []
    for number in range(count):
        row, column = divmod(number, side)
        x0, y0 = column * STEP, row * STEP
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        stamp = profile.drawImage(nx=STEP, ny=STEP, scale=1.0, offset=(dx, dy), dtype=float).array
        light[y0 : y0 + STEP, x0 : x0 + STEP] += stamp
        places.append((x0 + (STEP - 1) / 2 + dx, y0 + (STEP - 1) / 2 + dy))
    noise = rng.normal(0, NOISE, light.shape)
    if photons:
        noise += rng.poisson(np.clip(light, 0, None) * GAIN) / GAIN - light
    truth = np.array(places)
    half = SPEC.box_scale * fwhm / np.sqrt(q)
    boxes = box_about(truth[:, 0], truth[:, 1], np.full(count, half), np.full(count, half)).astype(np.float32)
    found = Detections(boxes, np.ones(count, np.float32), np.zeros(count, np.int64))
    return Frame((LEVEL + light + noise).astype(np.float32), facts or Facts()), found, truth


def measured(frame: Frame, found: Detections, spec: MeasureSpec = SPEC):
    return measure(frame, found, estimate_sky(frame, SkySpec()), spec)


@pytest.mark.parametrize("fwhm", [1.8, 3.0, 6.0])
def test_bright_sources_are_where_they_are_as_bright_and_as_wide(fwhm):
    sources = measured(*field(1e5, fwhm)[:2])
    truth = field(1e5, fwhm)[2]
    assert np.hypot(sources.x - truth[:, 0], sources.y - truth[:, 1]).max() < 0.1
    assert np.median(sources.flux) == pytest.approx(1e5, rel=0.02)
    observed = np.hypot(fwhm, 0.68)  # the pixel widens a profile by 1/12 square pixels of variance
    assert np.median(sources.fwhm) == pytest.approx(observed, rel=0.07)
    assert (sources.flags == 0).all()


def test_fringes_finer_than_the_sky_map_move_no_position():
    frame, found, truth = field(2e3, 3.0, count=100)
    rows, columns = np.indices(frame.shape)
    fringed = replace(frame, pixels=frame.pixels + (15 * np.sin(columns / 8 + rows / 20)).astype(np.float32))
    scatter = {}
    for name, seen in (("plain", frame), ("fringed", fringed)):
        sources = measured(seen, found)
        away = np.hypot(sources.x - truth[:, 0], sources.y - truth[:, 1])
        scatter[name] = float(np.sqrt(np.mean(away**2)))
    assert scatter["fringed"] < 1.3 * scatter["plain"]


@pytest.mark.parametrize("angle", [-60.0, 0.0, 30.0, 75.0])
def test_an_elongated_source_points_where_it_points(angle):
    frame, found, _ = field(2e5, 5.0, q=0.5, angle=angle)
    sources = measured(frame, found)
    difference = (sources.theta - angle + 90) % 180 - 90
    assert np.abs(np.median(difference)) < 2
    assert np.median(sources.ellipticity) == pytest.approx(0.5, abs=0.06)


def test_snr_is_that_of_a_matched_filter():
    fwhm, flux = 3.0, 3000.0
    sources = measured(*field(flux, fwhm, count=100)[:2])
    sigma2 = (fwhm / 2.3548) ** 2 + 1 / 12
    assert np.median(sources.snr) == pytest.approx(flux / (NOISE * np.sqrt(4 * np.pi * sigma2)), rel=0.1)


def test_photon_noise_counts_where_the_gain_is_known():
    known = Facts(gain=GAIN)
    with_gain = measured(*field(2e5, facts=known, photons=True)[:2])
    without = measured(*field(2e5, photons=True)[:2])
    assert np.median(with_gain.snr) < 0.7 * np.median(without.snr)
    assert np.median(with_gain.flux_err) > np.median(without.flux_err)


@pytest.mark.parametrize("gain", [None, GAIN])
def test_errors_are_as_large_as_the_scatter(gain):
    frame, found, _ = field(5e3, count=225, facts=Facts(gain=gain), photons=gain is not None)
    sources = measured(frame, found)
    pull = (sources.flux_aper - sources.flux_aper.mean()) / sources.flux_aper_err
    assert 0.8 < np.std(pull) < 1.25


def test_a_shifted_frame_shifts_the_positions_and_changes_nothing_else():
    frame, found, _ = field(count=16)
    dx, dy = 9, 4
    pixels = np.random.default_rng(3).normal(LEVEL, NOISE, (frame.shape[0] + 20, frame.shape[1] + 20))
    pixels[dy : dy + frame.shape[0], dx : dx + frame.shape[1]] = frame.pixels
    sky = estimate_sky(Frame(np.full(pixels.shape, LEVEL, np.float32), quantum=NOISE * 3.46), SkySpec())
    flat = estimate_sky(Frame(np.full(frame.shape, LEVEL, np.float32), quantum=NOISE * 3.46), SkySpec())
    before = measure(frame, found, flat, SPEC)
    after = measure(Frame(pixels.astype(np.float32)), found.moved(dx, dy), sky, SPEC)
    np.testing.assert_allclose(after.x, before.x + dx, atol=1e-3)
    np.testing.assert_allclose(after.y, before.y + dy, atol=1e-3)
    np.testing.assert_allclose(after.flux, before.flux, rtol=1e-3)
    np.testing.assert_allclose(after.fwhm, before.fwhm, rtol=1e-3)


def test_flags_say_what_is_wrong():
    frame, found, truth = field(1e5, count=9)
    x, y = np.rint(truth).astype(int).T
    frame.pixels[y[0] - 3 : y[0] + 1, x[0] - 3 : x[0] + 4] = np.nan
    frame.pixels[y[1], x[1]] = 40_000
    saturating = Frame(frame.pixels, Facts(saturation=30_000.0))
    extra = np.array([found.boxes[2] + np.float32(1.5), [-3, 10, 5, 18]], np.float32)
    boxes = np.concatenate([found.boxes, extra])
    flags = measured(saturating, Detections(boxes, np.ones(11, np.float32), np.zeros(11, np.int64))).flags
    assert flags[0] & (Flag.NEIGHBOURS | Flag.INCOMPLETE)
    assert flags[1] & Flag.SATURATED
    assert flags[2] & Flag.BLENDED
    assert flags[10] & Flag.TRUNCATED
    assert flags[4] == 0


@pytest.mark.parametrize(
    "box", [[-50, -50, -40, -40], [0, 0, 300, 300], [500, 500, 600, 600], [10, 10, 10.6, 10.6]], ids=str
)
def test_no_box_is_an_error(box):
    frame, _, _ = field(count=9)
    strange = Detections(np.array([box], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    assert len(measured(frame, strange)) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 9),
    st.sampled_from(["noise", "holes", "flat", "spikes", "huge"]),
    st.sampled_from([None, 1.5, 1e-300, 1e300]),
    st.sampled_from([0.0, 1.0, 1e6]),
)
def test_no_list_of_boxes_on_any_frame_is_an_error(seed, count, kind, gain, stray):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(8, 120, 2))
    pixels = rng.normal(0, 10, shape)
    if kind == "holes":
        pixels[rng.random(shape) < 0.5] = np.nan
    elif kind == "flat":
        pixels[:] = 5
    elif kind == "spikes":
        pixels[rng.random(shape) < 0.02] += 1e5
    elif kind == "huge":
        pixels *= 1e35
    frame = Frame(pixels.astype(np.float32), Facts(gain=gain, saturation=1e4, zero_point=25.0), quantum=1.0)
    centres = rng.uniform(0, 120, (count, 2)) * (1 + stray)
    half = np.exp(rng.uniform(np.log(0.2), np.log(2000), (count, 2)))
    boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    found = Detections(boxes, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64))
    sky = estimate_sky(frame, SkySpec())
    sources = measure(frame, found, sky, SPEC)
    assert np.isfinite(sources.x).all()
    assert np.isfinite(sources.y).all()
    assert (np.isfinite(sources.flux) | (sources.flags & Flag.INCOMPLETE != 0)).all()
    limit = summarise(frame, sources, sky, SPEC).limiting_flux
    assert limit is None or np.isfinite(limit)


def test_boxes_off_the_frame_have_a_position_and_nothing_else():
    frame, _, _ = field(count=4)
    found = Detections(np.array([[200, 10, 208, 18]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    sources = measured(frame, found)
    assert (sources.x[0], sources.y[0]) == (203.5, 13.5)
    assert np.isnan(sources.flux).all()
    assert sources.flags[0] == Flag.TRUNCATED | Flag.INCOMPLETE


def test_the_seeing_is_that_of_the_stars_among_galaxies_and_cosmic_rays():
    rng = np.random.default_rng(5)
    fwhm = np.concatenate([rng.normal(3, 0.05, 40), rng.uniform(3.5, 15, 60), rng.uniform(1.05, 1.4, 15)])
    unflagged = np.zeros(len(fwhm), np.int64)
    assert _seeing(fwhm, np.full(len(fwhm), 100.0), unflagged, SPEC) == pytest.approx(3, rel=0.03)
    assert _seeing(fwhm, np.full(len(fwhm), 5.0), unflagged, SPEC) is None


def test_a_moffat_profile_is_given_its_width():
    size, fwhm = 64, 4.0
    light = galsim.Moffat(beta=3, fwhm=fwhm, flux=1e5).drawImage(nx=size, ny=size, scale=1.0, method="no_pixel").array
    frame = Frame((LEVEL + light + np.random.default_rng(1).normal(0, NOISE, light.shape)).astype(np.float32))
    centre = np.array([(size - 1) / 2])
    box = box_about(centre, centre, np.array([10.0]), np.array([10.0])).astype(np.float32)
    sources = measured(frame, Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64)))
    assert sources.fwhm[0] == pytest.approx(fwhm, rel=0.05)


def test_masked_and_constant_frames_are_measured_without_an_error():
    frame, found, _ = field(count=9)
    hidden = Frame(np.where(np.arange(frame.shape[1]) < 40, np.nan, frame.pixels).astype(np.float32))
    assert measured(hidden, found).flags[0] & Flag.INCOMPLETE
    flat = Frame(np.full(frame.shape, 7, np.float32), quantum=1.0)
    assert len(measured(flat, found)) == 9


def test_nothing_found_is_nothing_measured():
    frame, _, _ = field(count=4)
    sources = measured(frame, Detections.empty())
    assert len(sources) == 0
    assert summarise(frame, sources, estimate_sky(frame, SkySpec()), SPEC).fwhm_px is None


def test_without_measuring_there_are_positions_alone():
    frame, found, _ = field(count=4)
    sources = unmeasured(frame, found)
    assert np.isnan(sources.flux).all()
    np.testing.assert_allclose(sources.x, found.centres[0])
    assert np.isnan(sources.ra).all()


def test_the_summary_knows_seeing_noise_and_limit():
    facts = Facts(zero_point=25.0, date_obs="2026-01-01T00:00:00", exposure_time=60.0)
    frame, found, _ = field(1e5, 4.0, count=49, facts=facts)
    sky = estimate_sky(frame, SkySpec())
    sources = measure(frame, found, sky, SPEC)
    summary = summarise(frame, sources, sky, SPEC)
    assert summary.fwhm_px == pytest.approx(4.05, rel=0.06)
    assert summary.noise == pytest.approx(NOISE, rel=0.05)
    assert summary.background == pytest.approx(LEVEL, abs=1)
    expected = 5 * NOISE * np.sqrt(4 * np.pi) * 4.05 / 2.3548
    assert summary.limiting_flux == pytest.approx(expected, rel=0.1)
    assert summary.limiting_mag == pytest.approx(25 - 2.5 * np.log10(expected), abs=0.1)
    assert sources.mag is not None
    assert np.median(sources.mag) == pytest.approx(25 - 2.5 * np.log10(1e5), abs=0.03)


@given(st.lists(st.floats(0.5, 60), min_size=5, max_size=12))
def test_the_seeing_of_few_and_scattered_sources_is_among_them(widths):
    fwhm = np.array(widths)
    seeing = _seeing(fwhm, np.full(len(fwhm), 100.0), np.zeros(len(fwhm), np.int64), SPEC)
    assert fwhm.min() * (1 - 1e-9) <= seeing <= fwhm.max() * (1 + 1e-9)


def blotched(side: int = 480) -> tuple[Frame, Detections]:
    """A wide frame of sources of all sizes at borders of bands of 40 rows and at its own; bad and saturated pixels."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(0, 1.5 * side, 60), [0.0, 1.5 * side - 1, 300.0, 360.0]])
    y = np.concatenate(
        [np.repeat(np.arange(40.0, 440.0, 40.0), 6) + rng.uniform(-1, 1, 60), [0.0, side - 1, 240.0, 239.5]]
    )
    sigma = np.concatenate([rng.uniform(1, 9, 60), [3.0, 3.0, 60.0, 25.0]])
    rows, columns = np.arange(side)[:, None], np.arange(round(1.5 * side))
    light = sum(
        3e3 / s * np.exp(-((rows - v) ** 2) / (2 * s * s)) * np.exp(-((columns - u) ** 2) / (2 * s * s))
        for u, v, s in zip(x, y, sigma, strict=True)
    )
    pixels = (LEVEL + light + rng.normal(0, NOISE, np.shape(light))).astype(np.float32)
    pixels[rng.uniform(size=pixels.shape) < 0.01] = np.nan
    half = SPEC.box_scale * 2.355 * sigma
    boxes = box_about(x, y, half, half).astype(np.float32)
    found = Detections(boxes, np.ones(len(x), np.float32), np.zeros(len(x), np.int64))
    return Frame(np.fmin(pixels, np.float32(2500)), Facts(gain=GAIN, saturation=2500.0)), found


@pytest.mark.parametrize("near", [4, 30, 1000])
def test_a_large_frame_is_measured_piece_by_piece_and_the_same(monkeypatch, near):
    frame, found = blotched()
    whole = measured(frame, found)
    monkeypatch.setattr("lynceus.measure.WHOLE", 0)
    monkeypatch.setattr("lynceus.measure.BAND", 40 * frame.shape[1])
    monkeypatch.setattr("lynceus.measure.NEAR", near)
    pieces = measured(frame, found)
    for column in MEASURED:
        np.testing.assert_allclose(getattr(pieces, column), getattr(whole, column), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(pieces.flags, whole.flags)
    assert (whole.flags & Flag.INCOMPLETE).any()
    assert (whole.flags & Flag.NEIGHBOURS).any()
    sky = estimate_sky(frame, SkySpec())
    assert summarise(frame, pieces, sky, SPEC).saturated_fraction == frame.saturated.mean() > 0


def test_no_source_is_measured_in_a_piece_of_a_large_frame_that_it_is_not_whole_in(monkeypatch):
    frame, found = blotched()
    monkeypatch.setattr("lynceus.measure.WHOLE", 0)
    monkeypatch.setattr("lynceus.measure.BAND", 40 * frame.shape[1])
    monkeypatch.setattr("lynceus.measure.NEAR", 30)
    (x, y), reach = found.centres, np.linspace(1, 200, len(found))
    seen = []
    for here, cutout in _Plane(frame, estimate_sky(frame, SkySpec())).cutouts(x, y, reach):
        for centre, span, length in ((x, cutout.columns, frame.shape[1]), (y, cutout.rows, frame.shape[0])):
            assert (span.start <= np.maximum(centre[here] - reach[here] - 1, 0)).all()
            assert (span.stop >= np.minimum(centre[here] + reach[here] + 2, length)).all()
        seen += here.tolist()
    assert sorted(seen) == list(range(len(found)))
