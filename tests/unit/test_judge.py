import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from lynceus.bundle import Manifest
from lynceus.detections import Detections, box_about
from lynceus.detector import Detector, DetectorSpec
from lynceus.frame import Frame
from lynceus.judge import JudgeSpec, Term, judge, probability
from lynceus.matched import filter_noise, filtered, filtered_on_lattice
from lynceus.second_look import EVEN, FEATURES, ITS_OWN, evidence, of_the_frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec
from tests.fakes import FixedNetwork

SCORE, SIGNAL, CONTRAST, SIZE, APART, CROWDING, EVENNESS, DOUBT = range(len(FEATURES))
LOGS = tuple(float(value) for value in np.log([1.5, 3, 6, 50]))
SPEC = JudgeSpec(
    bias=-4.0,
    terms=(
        Term(features=("score",), knots=((-3.0, 0.0, 6.0),), weights=(1.0, 3.0)),
        Term(features=("contrast",), knots=(LOGS,), weights=(1.0, 2.0, 1.0)),
        Term(features=("size",), knots=((-0.5, 0.5),), weights=(-0.5,)),
        Term(features=("score", "contrast"), knots=((-3.0, 3.0), LOGS), weights=(0.5, 1.0, 0.0)),
    ),
)


def scene(count: int = 60, side: int = 300, seed: int = 0, sigma: float = 1.5, smooth: float = 0.0):
    """Gaussian stars of many brightnesses on noise; their frame, and detections at the stars and where nothing is."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 5, (side, side))
    if smooth:
        noise = gaussian_filter(noise, smooth)
        noise *= 5 / noise.std()
    row, column = np.mgrid[:side, :side]
    x, y = rng.uniform(15, side - 15, (2, count))
    flux = np.where(np.arange(count) % 3, rng.uniform(60, 2000, count), 0.0)
    for one, a, b in zip(flux, x, y, strict=True):
        noise += one * np.exp(-0.5 * ((column - a) ** 2 + (row - b) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    box = 2.5 * 2.3548 * sigma
    scores = np.clip(1 / (1 + np.exp(2 - flux / 200)) + rng.normal(0, 0.05, count), 0.05, 0.99)
    found = Detections(
        box_about(x, y, np.full(count, box), np.full(count, box)).astype(np.float32),
        scores.astype(np.float32),
        np.arange(count, dtype=np.int64),
    )
    return Frame((noise + 100).astype(np.float32)), found


def judged(frame: Frame, found: Detections) -> dict[int, float]:
    """Scores by label."""
    after = judge(frame, estimate_sky(frame, SkySpec()), found, SPEC)
    assert (np.diff(after.scores) <= 0).all()
    return dict(zip(after.labels.tolist(), after.scores.tolist(), strict=True))


def close(first: dict[int, float], second: dict[int, float], within: float) -> None:
    assert first.keys() == second.keys()
    assert max(abs(first[label] - second[label]) for label in first) < within


def test_boxes_and_labels_stay_together_and_as_they_were():
    frame, found = scene()
    after = judge(frame, estimate_sky(frame, SkySpec()), found, SPEC)
    np.testing.assert_array_equal(after.boxes, found.boxes[after.labels])
    assert sorted(after.labels) == sorted(found.labels)
    assert ((after.scores > 0) & (after.scores < 1)).all()


def test_nothing_found_is_nothing_judged():
    frame, _ = scene()
    assert not len(judge(frame, estimate_sky(frame, SkySpec()), Detections.empty(), SPEC))


def test_the_order_of_the_list_does_not_matter():
    frame, found = scene()
    close(judged(frame, found), judged(frame, found[np.random.default_rng(1).permutation(len(found))]), 1e-6)


@pytest.mark.parametrize(("scale", "added"), [(1e-6, 0.0), (1e5, 0.0), (1.0, 3000.0), (7.0, -500.0)])
def test_the_unit_of_the_counts_and_a_constant_sky_do_not_matter(scale, added):
    frame, found = scene()
    other = Frame((frame.pixels.astype(float) * scale + added).astype(np.float32))
    close(judged(frame, found), judged(other, found), 5e-3)


@settings(max_examples=3, deadline=None)
@given(st.integers(-40, 40), st.integers(-40, 40))
def test_shifting_by_whole_pixels_changes_hardly_a_score(dx, dy):
    """The sky's mesh and the lattice of the noise stay where they are, so that it is not exactly none."""
    frame, found = scene()
    moved = Frame(np.ascontiguousarray(np.roll(frame.pixels, (dy, dx), (0, 1))))
    x, y = found.centres
    kept = (np.abs(x + dx - 149.5) < 135) & (np.abs(y + dy - 149.5) < 135)
    whole, part = judged(frame, found[kept]), judged(moved, found.moved(dx, dy)[kept])
    close(whole, part, 0.12)
    assert np.mean([abs(whole[label] - part[label]) for label in whole]) < 0.03


@given(st.integers(0, 10_000))
def test_a_probability_never_falls_with_the_score_or_the_contrast(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 3, (20, len(FEATURES)))
    for feature in (SCORE, CONTRAST):
        more = features.copy()
        more[:, feature] += rng.exponential(2, 20)
        assert (probability(more, SPEC) >= probability(features, SPEC)).all()


def test_features_beyond_the_range_count_as_its_end():
    far = np.full((1, len(FEATURES)), 1e6)
    end = np.array([[6.0, 0.0, LOGS[-1], 0.5, 0.0, 0.0, 0.0, 0.0]])
    assert probability(far, SPEC) == pytest.approx(probability(end, SPEC))


def test_equal_evidence_is_equally_probable_and_a_higher_score_more_so():
    frame, found = scene()
    raised = Detections(found.boxes, np.minimum(found.scores + 0.3, 0.995), found.labels)
    features = evidence(frame, estimate_sky(frame, SkySpec()), found)
    more = features.copy()
    more[:, SCORE] = np.log(raised.scores / (1 - raised.scores))
    assert (probability(more, SPEC) >= probability(features, SPEC)).all()


@pytest.mark.parametrize("smooth", [0.0, 0.6, 1.5])
def test_the_signal_of_noise_scatters_by_one_however_it_is_correlated(smooth):
    frame, _ = scene(count=1, side=512, smooth=smooth)
    sky = estimate_sky(frame, SkySpec())
    rng = np.random.default_rng(3)
    x, y = rng.uniform(20, 490, (2, 3000))
    width = np.full(3000, 1.5)
    values = filtered(frame, sky, x, y, width) / filter_noise(frame, sky, width)
    np.testing.assert_allclose(values.std(axis=0), 1.0, atol=0.12)


def test_the_signal_is_that_of_a_matched_filter():
    side, sigma, flux = 200, 2.0, 500.0
    row, column = np.mgrid[:side, :side]
    rng = np.random.default_rng(0)
    star = flux * np.exp(-0.5 * ((column - 100.3) ** 2 + (row - 90.7) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    frame = Frame((rng.normal(50, 3, (side, side)) + star).astype(np.float32))
    sky = estimate_sky(frame, SkySpec())
    measured = filtered(frame, sky, np.array([100.3]), np.array([90.7]), np.array([sigma]))[0, 0]
    assert measured == pytest.approx(flux / (3 * np.sqrt(4 * np.pi) * sigma), abs=2.5)


@pytest.mark.parametrize("width", [0.5, 2.0, 9.0])
@pytest.mark.parametrize("holes", [False, True])
def test_a_lattice_is_filtered_as_its_places_are(width, holes):
    frame, _ = scene(side=200)
    pixels = frame.pixels + np.linspace(0, 40, 200, dtype=np.float32)
    if holes:
        pixels[np.random.default_rng(1).random(pixels.shape) < 0.02] = np.nan
        pixels[90:95] = np.nan
    frame = Frame(pixels)
    sky, rows, columns = estimate_sky(frame, SkySpec(mesh=32)), np.array([0, 3, 92, 130, 199]), np.array([1, 77, 150])
    y, x = np.meshgrid(rows.astype(float), columns.astype(float), indexing="ij")
    one_by_one = filtered(frame, sky, x.ravel(), y.ravel(), np.full(x.size, width)).reshape(5, 3, 2)
    np.testing.assert_allclose(filtered_on_lattice(frame, sky, rows, columns, width), one_by_one, atol=1e-4)


def test_a_large_source_is_seen_at_its_own_size():
    side, sigma = 300, 5.0
    row, column = np.mgrid[:side, :side]
    galaxy = 3 * np.exp(-0.5 * ((column - 150) ** 2 + (row - 150) ** 2) / sigma**2)
    flat = np.random.default_rng(0).normal(0, 1, (side, side)).astype(np.float32)
    sky = estimate_sky(Frame(flat), SkySpec())
    at = np.array([150.0])
    measured = filtered(Frame((flat + galaxy).astype(np.float32)), sky, at, at, np.array([sigma]))[0, 0]
    assert measured == pytest.approx(3 * np.sqrt(np.pi) * sigma, rel=0.1)


@pytest.mark.parametrize("shape", [(8, 8), (8, 300), (64, 20)])
def test_tiny_frames_and_boxes_beyond_their_edges_are_judged(shape):
    frame = Frame(np.random.default_rng(0).normal(10, 1, shape).astype(np.float32))
    boxes = np.array([[-5, -5, 3, 3], [1, 1, 900, 900], [shape[1] - 2, 0, shape[1] + 9, 4], [0, 0, 0.1, 0.1]])
    found = Detections(boxes.astype(np.float32), np.array([1.0, 0.5, 0.2, 0.0], np.float32), np.arange(4))
    assert all(0 <= score <= 1 for score in judged(frame, found).values())


def test_masked_pixels_and_a_frame_without_noise_are_safe():
    frame, found = scene()
    frame.pixels[:, :150] = np.nan
    x, _ = found.centres
    scores = judged(frame, found)
    features = evidence(frame, estimate_sky(frame, SkySpec()), found)
    assert np.isfinite(list(scores.values())).all()
    assert np.isfinite(features).all()
    assert features[x < 130, SIGNAL].max() == features[:, SIGNAL].min()
    flat = Frame(np.full((100, 100), 7, np.float32), quantum=1.0)
    assert np.isfinite(list(judged(flat, found[found.boxes[:, 2] < 90]).values())).all()


def test_only_a_surer_neighbour_counts_as_near():
    frame, found = scene(count=2)
    x, y = np.array([50.0, 53.0]), np.array([50.0, 50.0])
    pair = Detections(
        box_about(x, y, np.full(2, 9.0), np.full(2, 9.0)).astype(np.float32),
        np.array([0.9, 0.4], np.float32),
        found.labels,
    )
    apart = evidence(frame, estimate_sky(frame, SkySpec()), pair)[:, APART]
    assert apart[0] > apart[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": ("score",), "knots": ((0.0, 1.0),), "weights": (1.0, 2.0)},
        {"features": ("score",), "knots": ((1.0, 0.0),), "weights": (1.0,)},
        {"features": ("score",), "knots": (), "weights": (1.0,)},
        {"features": ("colour",), "knots": ((0.0, 1.0),), "weights": (1.0,)},
    ],
)
def test_a_term_that_does_not_agree_with_itself_is_refused(wrong):
    with pytest.raises(ValidationError):
        Term(**wrong)


def test_a_detector_judges_what_it_merged_wherever_its_tiles_lie():
    frame, _ = scene(count=40)
    lists = []
    for tile in (TileSpec(size=128, overlap=32), TileSpec(size=256, overlap=64)):
        plain = Detector(FixedNetwork(), DetectorSpec(tile=tile)).detect(frame)
        ours = Detector(FixedNetwork(), DetectorSpec(tile=tile, judge=SPEC)).detect(frame)
        assert len(plain) == len(ours)
        assert (np.diff(ours.scores) <= 0).all()
        lists.append(np.sort(ours.scores))
    np.testing.assert_allclose(*lists, atol=1e-5)


def test_a_manifest_without_a_judge_is_read_and_one_with_it_survives():
    old = {"min_score": 0.8, "coarse": 0}
    assert DetectorSpec.model_validate(old).judge is None
    spec = DetectorSpec(judge=SPEC)
    assert DetectorSpec.model_validate_json(spec.model_dump_json()) == spec
    assert "judge" in Manifest.model_fields["detector"].annotation.model_fields


def told(scores: list[float], apart: float = 5.0, signal: float = 3.0, contrast: float = 2.9) -> np.ndarray:
    """What a frame is like whose detections have these scores, and all else alike; by name."""
    logits = np.log(np.array(scores) / (1 - np.array(scores)))
    own = np.tile([0.0, signal, contrast, 0.0, np.log(apart)], (len(scores), 1))
    own[:, SCORE] = logits
    return dict(zip(FEATURES[len(ITS_OWN) :], of_the_frame(own), strict=True))


def test_all_detections_of_a_frame_share_what_the_frame_is_like():
    frame, found = scene()
    features = evidence(frame, estimate_sky(frame, SkySpec()), found)
    shared = features[:, len(ITS_OWN) :]
    np.testing.assert_array_equal(shared, np.tile(of_the_frame(features[:, : len(ITS_OWN)]), (len(found), 1)))


def test_a_frame_is_crowded_where_sure_detections_are_close_to_one_another():
    sure = [0.9] * 20
    assert told(sure, apart=1.5)["crowding"] == pytest.approx(np.log(10 / 1.5))
    assert told(sure, apart=10)["crowding"] == pytest.approx(0)
    assert told([*sure, *[0.3] * 90], apart=10)["crowding"] == pytest.approx(0)  # doubtful ones do not count


def test_doubtful_detections_make_a_frame_doubtful_and_hopeless_ones_do_not():
    sure = [0.9] * 20
    assert told(sure + [0.3] * 60)["doubt"] > 0 > told(sure)["doubt"]
    assert told(sure + [0.01] * 600) == told(sure)
    assert told([0.3] * 100_000)["doubt"] == 2.5


def test_a_sky_with_structure_is_uneven_and_too_few_sure_detections_do_not_tell():
    assert told([0.9] * 20, signal=2.0, contrast=3.0)["evenness"] == pytest.approx(-1.0)
    assert told([0.9] * 4, signal=2.0, contrast=3.0)["evenness"] == EVEN
    assert told([0.9] * 4, apart=1)["crowding"] == 0
