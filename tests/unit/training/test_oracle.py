import numpy as np
import pytest
from scipy.special import ndtr

from training.errors import TrainingError
from training.scenarios.filters import best_of, filters
from training.scenarios.listings import Listing, Place
from training.scenarios.oracle import find, find_in, next_threshold
from training.scenarios.sight import Sight, sight_of
from training.scenarios.suite import SUITE, draw_suite, read_suite, scenario_folder
from training.scenes import scene as scenes
from training.scenes.ranges import SceneSpec
from training.scenes.scene import Planned

STILL = SceneSpec(
    size=128, sources=(20, 20), empty=0, snr=(8, 60), slope=(0.5, 0.5), bright=0, fwhm=(2.5, 3.5), galaxies=(0, 0),
    trailed=0, correlated=0, clean=1, ignore_snr=0, ignore_prominence=0,
)  # fmt: skip
SEED = 77


def ranged(**ranges: object) -> SceneSpec:
    return SceneSpec.model_validate(STILL.model_dump() | ranges)


def planted(monkeypatch: pytest.MonkeyPatch, spec: SceneSpec, sources: list[Planned], index: int = 0) -> Sight:
    """What the oracle knows of a scene with these sources."""
    monkeypatch.setattr(scenes, "plan_sources", lambda *_: sources)
    return sight_of(spec, SEED, index)


def truth_of(spec: SceneSpec, index: int) -> Place:
    table = scenes.lay_scene(np.random.default_rng([SEED, index]), spec).truth
    x, y, snr, fwhm = (np.array(table[name], float) for name in ("x", "y", "snr", "fwhm"))
    return Place(np.stack([x, y], axis=1), snr, fwhm, (spec.size, spec.size))


def matched(listing: Listing, place: Place) -> np.ndarray:
    """Whether each source has a claim within its FWHM, shape (M,)."""
    apart = np.hypot(*(listing.positions[None] - place.positions[:, None]).transpose(2, 0, 1))
    return (apart < place.fwhm[:, None]).any(axis=1)


@pytest.mark.parametrize("index", range(3))
def test_what_stands_out_is_found_where_it_is(index):
    place = truth_of(STILL, index)
    listing = find_in(sight_of(STILL, SEED, index))
    inside = (place.positions > 4).all(axis=1) & (place.positions < STILL.size - 5).all(axis=1)
    assert matched(listing, place)[inside].all()


def test_without_a_source_it_sees_what_noise_alone_would_make(monkeypatch):
    listings = [find_in(planted(monkeypatch, STILL, [], index)) for index in range(6)]
    scores = np.concatenate([one.scores for one in listings])
    assert (scores > 5.5).sum() == 0
    assert 6 < (scores > 3).sum() < 6 * 128**2 * ndtr(-3) * 2  # no more peaks than pixels so high, and their neighbours


@pytest.mark.parametrize("ranges", [{}, {"correlated": 1.0}, {"amplifiers": 1.0, "fringes": 1.0}])
def test_noise_is_of_the_strength_it_is_told(ranges, monkeypatch):
    spec = ranged(**ranges)
    for index in range(2):
        sight = planted(monkeypatch, spec, [], index)
        weight = np.where(sight.sound, 1 / sight.variance, 0.0)
        bank = filters(sight, 3.0)
        seen = best_of(bank[:1], sight.over, weight)[12:-12, 12:-12]
        assert seen.std() == pytest.approx(1.0, abs=0.15)
        assert abs(seen.mean()) < 0.15


def test_a_star_s_score_is_its_signal_to_noise(monkeypatch):
    star = Planned("star", 64, 64, (3, 5), 12.0)
    scores = [find_in(planted(monkeypatch, STILL, [star], index)).scores.max() for index in range(12)]
    assert np.mean(scores) == pytest.approx(12.0, abs=1.5)


def test_a_pair_a_fwhm_apart_comes_out_as_two(monkeypatch):
    pair = [Planned("star", 64, 64, (4, 4), 300.0), Planned("star", 67, 64, (4, 4), 100.0)]
    listing = find_in(planted(monkeypatch, ranged(fwhm=(2.5, 2.5)), pair))
    for x in (64.0, 67.0):
        assert np.hypot(*(listing.positions - [x, 64.0]).T).min() < 0.5


def test_faults_trails_and_spikes_are_known(monkeypatch):
    spec = ranged(clean=0.0, cosmic_rays=300, hot_pixels=300, bad_columns=20, trails=20, spikes=1.0)
    for index in range(2):
        bright = [Planned("star", 64, 64, (4, 4), 2e3)]
        listing = find_in(planted(monkeypatch, spec, bright, index))
        far = np.hypot(*(listing.positions - 64).T) > 6
        assert listing.scores[~far].max() > 100
        assert listing.scores[far].max(initial=0.0) < 6


def test_a_saturated_star_is_one_source(monkeypatch):
    listing = find_in(planted(monkeypatch, STILL, [Planned("star", 64, 64, (2, 6), 3e4)]))
    assert np.hypot(*(listing.positions[np.argmax(listing.scores)] - 64).T) < 3
    assert (listing.scores > 6).sum() == 1


def test_the_shape_of_a_galaxy_leaves_nothing_behind_and_does_not_find_it(monkeypatch):
    spec = ranged(galaxies=(1, 1), galaxy_radius=(1.0, 12.0))
    bright = Planned("galaxy", 64, 64, (4, 4), 400.0, shape=(8.0, 0.3, 0.5, 0.4))
    listing = find_in(planted(monkeypatch, spec, [bright]))
    assert (listing.scores > 6).sum() == 1
    hidden = Planned("galaxy", 64, 64, (4, 4), 0.5, shape=(3.0, 0.3, 0.5, 0.4))
    assert find_in(planted(monkeypatch, spec, [hidden])).scores.max(initial=0.0) < 6


def test_faint_sources_stay_hidden():
    """It knows the noise, not the truth: at an SNR of 2 few claims stand out over what noise alone makes."""
    faint = ranged(snr=(2.0, 2.01), sources=(300, 300))
    places, listings = zip(*((truth_of(faint, i), find_in(sight_of(faint, SEED, i))) for i in range(3)), strict=True)
    sure = [Listing(one.positions[one.scores > 4.5], one.scores[one.scores > 4.5]) for one in listings]
    found = sum(int(matched(one, place).sum()) for one, place in zip(sure, places, strict=True))
    assert found < 0.1 * sum(map(len, places))


def test_stages_go_down_to_the_floor():
    threshold, steps = np.inf, 0
    while threshold > 3.0:
        threshold, steps = next_threshold(1e6, threshold), steps + 1
    assert steps < 25
    assert next_threshold(3.5, 100.0) == 3.0


def test_a_frame_of_the_suite_is_known_by_its_name(tmp_path):
    whole = read_suite(SUITE)
    (sparse,) = whole.chosen(("sparse",))
    small = sparse.model_copy(update={"scene": sparse.scene.model_copy(update={"size": 128, "sources": (40, 40)})})
    suite = whole.model_copy(update={"scenarios": (small,), "frames": dict.fromkeys(whole.frames, 1)})
    draw_suite(suite, tmp_path, workers=1)
    frame = scenario_folder(tmp_path, "test", "sparse") / "00000.fits"
    assert len(find(frame, suite)) > 0
    elsewhere = scenario_folder(tmp_path, "tuning", "sparse") / "00000.fits"
    elsewhere.write_bytes(frame.read_bytes())
    with pytest.raises(TrainingError, match="not drawn from this"):
        find(elsewhere, suite)
    with pytest.raises(TrainingError, match="no frame of the suite"):
        find(tmp_path / "00000.fits", suite)


def test_a_resampled_scene_is_refused():
    with pytest.raises(TrainingError, match="resampled"):
        sight_of(ranged(resampled=1.0), SEED, 0)
