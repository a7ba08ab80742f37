import numpy as np
import pytest

from lynceus.frame import Frame
from training.scenarios.confirmed import completed, contrast, missing_places
from training.scenarios.field import Field
from training.scenarios.listings import Place

SIDE, FWHM = 300, 3.0
BRIGHT = np.array([[80.0, 80.0], [220.0, 90.0], [150.0, 220.0]])
BESIDE = BRIGHT + np.array([[9.0, 0.0], [0.0, -9.0], [7.0, 7.0]])  # on the wings of the bright ones


def star(x: float, y: float, peak: float, sigma: float = FWHM / 2.3548) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def band(seed: int, spike: bool = False) -> Frame:
    """Bright stars with wide wings, a faint one beside each, a faint one alone; and a spike, if asked for."""
    pixels = np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE))
    pixels += sum(star(x, y, 300) + star(x, y, 15, 12.0) for x, y in BRIGHT)
    pixels += sum(star(x, y, 15) for x, y in [*BESIDE, (40, 250)])
    if spike:
        pixels[84:130, 79:82] += 8
    return Frame(pixels.astype(np.float32))


@pytest.fixture(scope="module")
def field() -> Field:
    """The truth has the bright stars alone."""
    place = Place(BRIGHT, np.full(3, np.nan), np.full(3, 4.0), (SIDE, SIDE))
    return Field(band(0), FWHM, place)


def near(places: np.ndarray, x: float, y: float) -> bool:
    return bool((np.hypot(*(places - [x, y]).T) < FWHM / 2).any())


def test_what_two_telescopes_see_beside_bright_stars_and_alone_is_found(field):
    places, missing = missing_places(field, [band(1), band(2)], [band(3), band(4)])
    for x, y in [*BESIDE, (40, 250)]:
        assert near(places, x, y)
    assert missing.objects == len(places) <= 7


def test_what_one_telescope_alone_sees_is_not_confirmed(field):
    spiked, _ = missing_places(field, [band(1, spike=True), band(2, spike=True)], [band(3), band(4)])
    both, _ = missing_places(field, [band(1, spike=True)], [band(3, spike=True)])
    on_spike = [((abs(one[:, 0] - 80) < 3) & (abs(one[:, 1] - 107) < 20)).sum() for one in (spiked, both)]
    assert on_spike[0] == 0 < on_spike[1]


def test_two_telescopes_with_skies_of_their_own_agree_on_little(field):
    noise = [Frame(np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE)).astype(np.float32)) for seed in range(4)]
    places, missing = missing_places(field, noise[:2], noise[2:])
    assert len(places) <= 5
    assert missing.by_chance <= 5


def test_contrast_is_in_standard_deviations_of_its_own_noise():
    plane = np.random.default_rng(1).normal(7, 3, (SIDE, SIDE))
    assert contrast(plane, FWHM).std() == pytest.approx(1, abs=0.05)


def test_the_completed_truth_holds_both(field):
    place = completed(field.place, BESIDE, FWHM)
    assert len(place) == 6
    np.testing.assert_array_equal(place.positions[3:], BESIDE)
    assert (place.fwhm[3:] == FWHM).all()
    assert not place.aside.any()
