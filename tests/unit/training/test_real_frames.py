import numpy as np
import pytest

from lynceus.frame import Frame
from tests.data import ROOT, test_data
from training.errors import TrainingError
from training.scenarios import field as fields
from training.scenarios.curves import Curve
from training.scenarios.field import Field, crossband_place, limits_of, stack_of
from training.scenarios.listings import Listing, Place
from training.scenarios.real import OURS, completeness_at, control_of, fair_curve, field_grid, lead_of, real_tests
from training.scoring.source_extractor import SourceExtractorSettings

SIDE = 400


@pytest.fixture(scope="module")
def sky():
    """A field of objects whose light is in the frame, but for every fifth; and the places of all."""
    rng = np.random.default_rng(4)
    places = np.stack(np.meshgrid(np.arange(25, SIDE - 20, 30), np.arange(25, SIDE - 20, 30)), axis=-1).reshape(-1, 2)
    places = places + rng.uniform(-2, 2, places.shape)
    rows, columns = np.indices((SIDE, SIDE))
    pixels = rng.normal(0, 1, (SIDE, SIDE))
    for index, (x, y) in enumerate(places):
        if index % 5:
            pixels += 12 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.3**2))
    place = Place(places, np.full(len(places), np.nan), np.full(len(places), 3.0), (SIDE, SIDE))
    return Field(Frame(pixels.astype(np.float32)), 3.0, place)


def listing(places, scores=None):
    return Listing(places, np.linspace(1, 0.5, len(places)) if scores is None else scores)


def test_the_limits_tell_what_the_truth_lacks_and_what_the_frame_lacks(sky):
    some = sky.place.positions[:60]
    strays = some[:20] + 15
    limits = limits_of(sky, listing(np.concatenate([some, strays])), None)
    assert limits.sure_matched == pytest.approx(60 / 80)
    assert limits.unseen == pytest.approx(0.2, abs=0.06)
    assert limits.chance == pytest.approx(len(sky.place) * np.pi * 9 / SIDE**2, rel=0.15)
    assert limits.objects == len(sky.place)


def test_a_list_of_chance_alone_is_not_reliable(sky):
    rng = np.random.default_rng(2)
    curve = fair_curve(listing(rng.uniform(0, SIDE, (2000, 2))), sky.place)
    assert completeness_at(curve, 0.5) < 0.1


def test_the_truth_itself_is_complete_and_reliable(sky):
    curve = fair_curve(listing(sky.place.positions), sky.place)
    assert completeness_at(curve, 0.97) > 0.97


def test_the_lead_is_over_the_best_of_the_rivals():
    def curve(most):
        right = np.linspace(1, most, 50)
        return Curve(np.linspace(1, 0, 50), right, right * 0.05, 100)

    lead = lead_of({OURS: curve(80), "one": curve(60), "other": curve(70)}, (0.95, 0.5))
    assert lead == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_stack_upside_down_holds_its_noise_alone(sky):
    stack = stack_of([sky.frame, sky.frame])
    assert fields.extracted(stack)[0] > 100
    assert fields.extracted(-stack)[0] < 10


def test_controls_count_detections_in_a_million_pixels():
    control = control_of([Listing(np.zeros((3, 2)), np.array([0.2, 0.6, 0.9]))], 500_000, 0.5)
    assert (control.detections, control.per_megapixel, control.surest) == (2, 4.0, 0.9)


def test_defaults_are_among_what_is_tried():
    assert SourceExtractorSettings() in field_grid()
    assert set(field_grid()) - {SourceExtractorSettings()} <= set(field_grid(thorough=True)) | set(field_grid())


def test_without_the_frames_nothing_is_judged(tmp_path):
    with pytest.raises(TrainingError, match="LYNCEUS_TEST_DATA"):
        real_tests(tmp_path, tmp_path / "none", tmp_path)


def test_the_truth_of_the_field_is_read():
    test_data(fields.TRUTH)
    place = crossband_place(ROOT, (2600, 2600), 2.7)
    assert len(place) == 3724
    assert place.fwhm.min() >= 2.7
    assert place.fwhm.max() <= fields.WIDEST * 2.7
