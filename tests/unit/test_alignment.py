"""A catalogue that fits is never called shifted, and one that is shifted is told by how much."""

from collections import Counter

import numpy as np
import pytest

from lynceus.alignment import check_alignment

SHAPES = [(256, 256), (1024, 1024), (2048, 2048), (600, 900)]
NOISE = 0.2  # pixels


def lists(seed: int, count: int, shape, *, seen=0.8, extra=0.5, clustered=False):
    """A catalogue and what a frame shows of it: a share `seen`, and others that it lacks."""
    rng = np.random.default_rng(seed)
    sides = np.array([shape[1], shape[0]]) - 1.0
    if clustered:
        places = rng.uniform(0, sides, (10, 2))[rng.integers(0, 10, count)] + rng.normal(0, 40, (count, 2))
        places = places[((places > 0) & (places < sides)).all(axis=1)]
    else:
        places = rng.uniform(0, sides, (count, 2))
    there = places[rng.random(len(places)) < seen]
    others = rng.uniform(0, sides, (int(extra * len(places)), 2))
    shown = np.concatenate([there + rng.normal(0, NOISE, there.shape), others])
    return places, rng.permutation(shown)


def drawn(seed: int):
    """Anything from sparse to crowded, shallow to deep."""
    rng = np.random.default_rng([seed, 1])
    shape = SHAPES[seed % 4]
    count = int(np.exp(rng.uniform(np.log(12), np.log(min(3000, 0.005 * shape[0] * shape[1])))))
    options = {"seen": rng.uniform(0.35, 0.95), "extra": rng.uniform(0, 1.5), "clustered": seed % 3 == 0}
    return (*lists(seed, count, shape, **options), shape, rng.uniform(1.5, 4))


def checked(places, shown, shape, tolerance=2.5, shift=(0.0, 0.0)):
    return check_alignment(
        places[:, 0] + shift[0], places[:, 1] + shift[1], shown[:, 0], shown[:, 1], shape, tolerance
    )  # fmt: skip


def test_a_catalogue_that_fits_is_never_called_shifted():
    verdicts = Counter(checked(*drawn(seed)).verdict for seed in range(120))
    assert verdicts["shifted"] == verdicts["other_field"] == verdicts["no_overlap"] == 0
    assert verdicts["fits"] == 120


def test_a_catalogue_of_another_field_fits_nowhere():
    verdicts = Counter()
    for seed in range(40):
        places, _, shape, tolerance = drawn(seed)
        other = lists(seed + 1000, len(places), shape, clustered=seed % 3 == 0)[1]
        verdicts[checked(places, other, shape, tolerance).verdict] += 1
    assert verdicts["fits"] + verdicts["shifted"] == 0
    assert verdicts["other_field"] == 40


@pytest.mark.parametrize("shift", [(1.0, 1.0), (-1.0, -1.0), (12.0, -3.5), (-60.0, 45.0), (0.0, 2.5), (0.5, -0.5)])
@pytest.mark.parametrize("seed", range(8))
def test_a_shift_is_measured(shift, seed):
    places, shown = lists(seed, 200, SHAPES[seed % 4], clustered=seed % 2 == 0)
    found = checked(places, shown, SHAPES[seed % 4], shift=shift)
    assert found.verdict == "shifted"
    assert (found.dx, found.dy) == pytest.approx(shift, abs=0.15)
    assert found.matched_after > 0.6
    assert f"shifted by ({found.dx:+.1f}, {found.dy:+.1f}) px" in found.text


@pytest.mark.parametrize(
    ("step", "words"), [(-1, "from 0 where 1 is meant"), (1, "from 1 where 0 is meant"), (0.5, "corner of the first")]
)
def test_the_usual_mistakes_are_named(step, words):
    places, shown = lists(3, 300, SHAPES[1])
    assert words in checked(places, shown, SHAPES[1], shift=(step, step)).text


def test_a_crowded_frame_shows_its_shift_too():
    places, shown = lists(0, 5000, SHAPES[1], seen=0.7, extra=0.4)
    assert checked(places, shown, SHAPES[1]).verdict == "fits"
    found = checked(places, shown, SHAPES[1], shift=(7.0, 5.0))
    assert (found.verdict, found.dx, found.dy) == ("shifted", pytest.approx(7, abs=0.1), pytest.approx(5, abs=0.1))


def test_a_lattice_that_fits_is_not_shifted_by_one_step():
    columns, rows = np.meshgrid(np.arange(24, 500, 48.0), np.arange(24, 500, 48.0))
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    assert checked(places, places[5:], (512, 512)).verdict == "fits"


@pytest.mark.parametrize("ratio", [0.02, 50])
def test_depths_may_differ_widely(ratio):
    places, shown = lists(1, 3000, SHAPES[2], seen=0.9, extra=0.0)
    if ratio < 1:
        shown = shown[: int(ratio * len(shown))]
    else:
        places = np.concatenate([shown, places])[: int(len(places) / ratio)]
    assert checked(places, shown, SHAPES[2]).verdict == "fits"
    assert checked(places, shown, SHAPES[2], shift=(9.0, 9.0)).verdict == "shifted"


def test_the_share_on_the_frame():
    places, shown = lists(2, 400, SHAPES[1])
    wide = np.concatenate([places, places + np.array([5000.0, 0.0]), [[np.nan, 1.0]]])
    found = checked(wide, shown, SHAPES[1])
    assert (found.verdict, found.on_frame) == ("fits", 0.5)
    assert found.matched == pytest.approx(0.8, abs=0.1)


def test_a_catalogue_beside_the_frame_does_not_overlap():
    places, shown = lists(2, 400, SHAPES[1])
    found = checked(places, shown, SHAPES[1], shift=(9000.0, 0.0))
    assert (found.verdict, found.on_frame) == ("no_overlap", 0.0)
    assert "not one source" in found.text


def test_swapped_axes_are_named():
    places, shown = lists(4, 300, SHAPES[1])
    found = checked(places[:, ::-1], shown, SHAPES[1])
    assert (found.verdict, found.text) == ("other_field", "the catalogue fits the frame with x and y swapped")


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (0, 50), (50, 0), (5, 50), (50, 5)])
def test_too_few_sources_tell_nothing(count, shown):
    rng = np.random.default_rng(0)
    found = checked(rng.uniform(0, 500, (count, 2)), rng.uniform(0, 500, (shown, 2)), (512, 512))
    assert found.verdict == "unknown"
    assert "too few" in found.text


def test_a_frame_that_is_full_tells_nothing():
    rng = np.random.default_rng(0)
    full = checked(rng.uniform(0, 60, (4000, 2)), rng.uniform(0, 60, (40, 2)), (64, 64), 4.0)
    assert full.verdict == "unknown"


def test_lists_that_pile_up_on_one_spot_are_judged_in_time():
    heap = np.full((300_000, 2), 100.0)
    assert checked(heap, heap, (512, 512)).verdict in ("fits", "unknown")


def test_the_tolerance_must_be_positive():
    with pytest.raises(ValueError, match="tolerance"):
        checked(np.zeros((9, 2)), np.zeros((9, 2)), (64, 64), 0.0)
