"""Laws of trails: found where they are, broken or whole; and what is straight and no trail is not taken for one."""

from collections.abc import Callable

import numpy as np
import pytest

from lynceus.facts import Facts
from lynceus.frame import Frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.trails import SMALLEST, Trail, find_trails, place_on

SIDE, NOISE, SKY, FWHM = 512, 10.0, 1000.0, 3.0
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float64)
Plane = np.ndarray


def blob(x: float, y: float, peak: float, fwhm: float = FWHM) -> Plane:
    return peak * np.exp(-4 * np.log(2) * ((COLUMNS - x) ** 2 + (ROWS - y) ** 2) / fwhm**2)


def line(angle: float, x: float, y: float, height: float, fwhm: float = FWHM) -> Plane:
    """A trail through a point at an angle in degrees, its height in units of the noise."""
    turn = np.radians(angle)
    across = (COLUMNS - x) * np.sin(turn) - (ROWS - y) * np.cos(turn)
    return height * NOISE * np.exp(-4 * np.log(2) * across**2 / fwhm**2)


def stars(count: int, seed: int, fwhm: float = FWHM) -> Plane:
    rng = np.random.default_rng(seed)
    light = np.zeros((SIDE, SIDE))
    reach = int(3 * fwhm)
    for x, y in rng.uniform(reach, SIDE - reach, (count, 2)):
        peak = NOISE * np.exp(rng.uniform(np.log(2), np.log(500)))
        window = slice(int(y) - reach, int(y) + reach), slice(int(x) - reach, int(x) + reach)
        square = (COLUMNS[window] - x) ** 2 + (ROWS[window] - y) ** 2
        light[window] += peak * np.exp(-4 * np.log(2) * square / fwhm**2)
    return light


def frame_of(light: Plane, seed: int = 0, saturation: float | None = None) -> Frame:
    pixels = np.random.default_rng(seed).normal(SKY, NOISE, light.shape) + light
    if saturation is not None:
        pixels = np.minimum(pixels, saturation)
    return Frame(pixels.astype(np.float32), facts=Facts(saturation=saturation))


def trails_on(frame: Frame) -> list[Trail]:
    return find_trails(frame, estimate_sky(frame, SkySpec()))


def lies_on(trail: Trail, angle: float, x: float, y: float) -> bool:
    turn = np.radians(angle)
    ends = np.array([trail[:2], trail[2:4]]) - [x, y]
    return bool(np.abs(ends @ [np.sin(turn), -np.cos(turn)]).max() < 3)


FIELD = stars(60, 3)


@pytest.mark.parametrize("height", [1.0, 8.0, 200.0])
@pytest.mark.parametrize("angle", [5.0, 25.0, 46.0, 110.0, 175.0])
def test_a_trail_is_found_where_it_is(angle, height):
    (trail,) = trails_on(frame_of(FIELD + line(angle, 280, 230, height)))
    assert lies_on(trail, angle, 280, 230)
    assert trail.length > 0.9 * SIDE
    assert FWHM < trail.width < 8 * FWHM


def test_it_is_the_same_on_a_frame_that_is_turned_over():
    frame = frame_of(FIELD + line(33, 250, 200, 6))
    flipped = Frame(np.ascontiguousarray(frame.pixels[:, ::-1]))
    (one,), (other,) = trails_on(frame), trails_on(flipped)
    ends = sorted([one[:2], one[2:4]]), sorted([(SIDE - 1 - x, y) for x, y in (other[:2], other[2:4])])
    np.testing.assert_allclose(*ends, atol=4)


def test_the_unit_of_the_counts_does_not_matter():
    frame = frame_of(FIELD + line(33, 250, 200, 6))
    scaled = Frame((frame.pixels.astype(np.float64) * 1e-9).astype(np.float32))
    np.testing.assert_allclose(trails_on(scaled), trails_on(frame), atol=1)


def test_several_trails_are_found():
    light = FIELD + line(25, 280, 230, 5) + line(130, 100, 300, 2) + line(70, 400, 100, 40)
    assert len(trails_on(frame_of(light))) == 3


def test_a_trail_across_a_crowd_is_found():
    (trail,) = trails_on(frame_of(stars(700, 5) + line(60, 250, 250, 8)))
    assert lies_on(trail, 60, 250, 250)


def test_a_trail_with_gaps_is_one():
    light = line(30, 256, 256, 5) * (np.abs(COLUMNS - 350) > 45)  # it was dark for a while
    frame = frame_of(FIELD + light)
    frame.pixels[:, 200:240] = np.nan  # between two detectors
    (trail,) = trails_on(frame)
    assert lies_on(trail, 30, 256, 256)
    assert trail.length > 0.9 * SIDE


def test_a_trail_that_ends_on_the_frame_ends_there():
    (trail,) = trails_on(frame_of(FIELD + line(30, 256, 256, 5) * (COLUMNS < 330)))
    assert lies_on(trail, 30, 256, 256)
    assert 320 < max(trail.x0, trail.x1) < 460
    assert min(trail.x0, trail.x1) < 5


def spikes() -> Plane:
    light = np.zeros((SIDE, SIDE))
    for x, y in ((150.0, 200.0), (380.0, 330.0)):
        light += blob(x, y, 4e5, 6)
        for angle in (0.4, 0.4 + np.pi / 2):
            along = (COLUMNS - x) * np.cos(angle) + (ROWS - y) * np.sin(angle)
            across = (ROWS - y) * np.cos(angle) - (COLUMNS - x) * np.sin(angle)
            light += 4e3 / (1 + np.abs(along) / 15) ** 2 * np.exp(-(across**2) / 2)
    return light


def bleeding() -> Plane:
    light = np.zeros((SIDE, SIDE))
    for column, low, high in ((100, 50, 350), (260, 200, 500), (400, 0, 300)):
        for beside in range(-4, 5):
            reach = (high - low) * (5 - abs(beside)) / 10
            rows = np.abs(np.arange(SIDE) - (low + high) / 2) < reach
            light[rows, column + beside] = 1e6
    return light


def edge_on() -> Plane:
    turn = np.radians(35)
    along = (COLUMNS - 256) * np.cos(turn) + (ROWS - 256) * np.sin(turn)
    across = (ROWS - 256) * np.cos(turn) - (COLUMNS - 256) * np.sin(turn)
    return 600 * np.exp(-np.abs(along) / 50 - np.abs(across) / 4)


def comet() -> Plane:
    along, across = COLUMNS - 150, ROWS - 200
    turned = along * np.cos(0.5) + across * np.sin(0.5), across * np.cos(0.5) - along * np.sin(0.5)
    tail = np.exp(-turned[0] / 80 - (turned[1] / (4 + 0.05 * np.clip(turned[0], 0, None))) ** 2)
    return blob(150, 200, 5000, 5) + np.where(turned[0] > 0, 300 * tail, 0)


def trailed_stars() -> Plane:
    rng = np.random.default_rng(8)
    light = np.zeros((SIDE, SIDE))
    for x, y in rng.uniform(40, SIDE - 40, (120, 2)):
        along = np.clip((COLUMNS - x) * 0.8 + (ROWS - y) * 0.6, -20, 20)
        light += 300 * np.exp(-((COLUMNS - x - 0.8 * along) ** 2 + (ROWS - y - 0.6 * along) ** 2) / 4)
    return light


def fringes() -> Plane:
    return 2 * NOISE * np.sin(2 * np.pi * (0.9 * COLUMNS + 0.44 * ROWS) / 25)


def amplifiers() -> Plane:
    return 60.0 * (COLUMNS > 255) - 45.0 * (ROWS > 255) + 30.0 * ((COLUMNS > 255) & (ROWS > 255))


def bad_columns() -> Plane:
    light = np.zeros((SIDE, SIDE))
    light[:, [77, 300]], light[100:400, 180], light[333] = 400, 2000, -300
    return light


def turned_border() -> Plane:
    """The edge of what was resampled: sky on one side, nothing on the other."""
    return np.where(0.97 * COLUMNS + 0.24 * ROWS < 200, -SKY / 5, 0.0)


def nebula() -> Plane:
    return 5 * NOISE * np.sin(COLUMNS / 40 + np.sin(ROWS / 60)) * np.cos(ROWS / 50)


NO_TRAILS: list[Callable[[], Plane]] = [
    lambda: np.zeros((SIDE, SIDE)),
    lambda: stars(1500, 4),
    lambda: blob(250, 250, 3000, 150),
    spikes,
    bleeding,
    edge_on,
    comet,
    trailed_stars,
    fringes,
    amplifiers,
    bad_columns,
    turned_border,
    nebula,
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("light", NO_TRAILS)
def test_what_is_no_trail_is_none(light, seed):
    saturation = 6e4 if light is bleeding else None
    assert trails_on(frame_of(FIELD + light(), seed, saturation)) == []


def test_a_frame_too_small_or_without_noise_has_none():
    assert trails_on(Frame(np.zeros((SMALLEST - 1, 400), np.float32))) == []
    assert trails_on(Frame(np.full((300, 400), 7, np.float32), quantum=1.0)) == []


def test_a_long_frame_is_searched():
    rows, columns = np.mgrid[:200, :700]
    across = (rows - 100) * np.cos(0.1) - (columns - 350) * np.sin(0.1)
    pixels = np.random.default_rng(1).normal(SKY, NOISE, rows.shape) + 60 * np.exp(-(across**2) / 4)
    (trail,) = trails_on(Frame(pixels.astype(np.float32)))
    assert trail.length > 600


def test_the_sky_between_squares_is_that_of_a_plane():
    pixels = (1000 + 0.3 * COLUMNS - 0.2 * ROWS + np.random.default_rng(0).normal(0, 0.1, ROWS.shape)).astype(
        np.float32
    )
    rows, columns = np.array([40.0, 200.5, 400.0]), np.array([50.0, 300.0])
    level, _ = estimate_sky(Frame(pixels), SkySpec()).on_grid(rows, columns)
    np.testing.assert_allclose(level, 1000 + 0.3 * columns - 0.2 * rows[:, None], atol=0.3)


def test_places_on_a_trail_are_measured_from_its_first_end():
    along, across = place_on(Trail(10, 20, 10, 120, 5), np.array([10.0, 13.0]), np.array([20.0, 70.0]))
    np.testing.assert_allclose(along, [0, 50])
    np.testing.assert_allclose(across, [0, -3])
