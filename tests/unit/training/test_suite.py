import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from training import recipe
from training.errors import TrainingError
from training.scenarios.suite import (
    SPLITS,
    SUITE,
    Scenario,
    Suite,
    digest,
    draw_more,
    draw_suite,
    read_suite,
    scenario_folder,
    seed_of,
)
from training.scenes.scene import lay_scene

PINNED = "5d99ec452e5a6a489dac5ab0a90c9f8c210db575a420149962198e8442442715"
NAMES = {"sparse", "crowded", "deep-galaxies", "trailed", "undersampled", "saturated", "amplifiers", "fringes",
         "defocused", "big-galaxies", "correlated", "star-free"}  # fmt: skip
SUITED = read_suite()


def small(*names: str, **frames: int) -> Suite:
    """The suite on small frames, one in each split."""
    chosen = SUITED.chosen(names)
    scenarios = tuple(one.model_copy(update={"scene": one.scene.model_copy(update={"size": 96})}) for one in chosen)
    return SUITED.model_copy(
        update={"scenarios": scenarios, "frames": dict.fromkeys(SPLITS, 1) | frames, "name": "small"}
    )


def scene_of(name: str, size: int, index: int = 0):
    (one,) = SUITED.chosen((name,))
    return lay_scene(np.random.default_rng([5, index]), one.scene.model_copy(update={"size": size}))


def test_the_suite_is_the_one_that_was_written_down():
    assert digest(SUITED) == PINNED
    assert {one.name for one in SUITED.scenarios} == NAMES


def test_a_change_of_the_specification_is_seen_and_a_change_of_words_is_not():
    first, *others = SUITED.scenarios
    wider = first.model_copy(update={"scene": first.scene.model_copy(update={"fwhm": (1.0, 9.0)})})
    told = first.model_copy(update={"about": "something else"})
    assert digest(SUITED.model_copy(update={"scenarios": (wider, *others)})) != PINNED
    assert digest(SUITED.model_copy(update={"scenarios": (told, *others)})) == PINNED
    assert digest(SUITED.model_copy(update={"seeds": SUITED.seeds | {"test": 1}})) != PINNED


def test_no_two_sets_of_frames_share_a_seed_and_none_is_a_recipe_s():
    seeds = [seed_of(SUITED, split, one.name) for split in SPLITS for one in SUITED.scenarios]
    assert len(set(seeds)) == len(seeds)
    recipes = Path(recipe.__file__).with_name("recipes")
    named = {int(seed) for path in recipes.glob("*.toml") for seed in _seeds(path)}
    assert named
    assert named.isdisjoint(seeds)
    assert min(seeds) > 2**40 > max(named)


def _seeds(path: Path) -> list[str]:
    lines = [line.split("#")[0].partition("=") for line in path.read_text().splitlines()]
    return [value.strip() for name, _, value in lines if name.strip() == "seed"]


def test_nothing_is_ignored_by_the_truth_and_faint_sources_are_in_it():
    for one in SUITED.scenarios:
        assert one.scene.ignore_snr == one.scene.ignore_prominence == 0
        assert one.scene.snr[0] < 2
        assert one.scene.size == 1024
        assert one.scene.merge == 0.5


def test_a_scenario_without_stars_has_none_and_only_that_one():
    for one in SUITED.scenarios:
        assert one.starless == (one.name == "star-free")
        assert one.scene.empty == one.starless
    assert all(len(scene_of("star-free", 128, index).truth) == 0 for index in range(6))


def test_the_crowded_scene_holds_3500_sources_in_a_megapixel():
    truth = scene_of("crowded", 256).truth
    assert len(truth) == pytest.approx(3500 / 16, rel=0.25)  # Poisson, less merged pairs
    positions = np.stack([truth["x"], truth["y"]], axis=1)
    distance = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 0.5 * np.min(truth["fwhm"]) * 0.99


@pytest.mark.parametrize("index", range(3))
def test_correlated_noise_is_so_from_pixel_to_pixel(index):
    (one,) = SUITED.chosen(("correlated",))
    scene = lay_scene(np.random.default_rng([8, index]), one.scene.model_copy(update={"size": 192}), lambda side: [])
    grain = scene.pixels - scene.behind.sky
    neighbours = np.corrcoef(grain[:, 1:].ravel(), grain[:, :-1].ravel())[0, 1]
    assert 0.27 < neighbours < 0.53


def test_scenes_hold_what_they_are_named_after():
    assert scene_of("defocused", 128).behind.optics.ring
    assert np.ptp(scene_of("amplifiers", 128).behind.uneven.offset) > 0
    assert np.ptp(scene_of("fringes", 128).behind.uneven.fringes) > 0
    assert scene_of("undersampled", 128).behind.faults.any()
    assert scene_of("saturated", 256).behind.faults.any()


def test_drawing_again_repeats_and_keeps_what_is_there(tmp_path):
    suite = small("sparse", "star-free", test=2)
    draw_suite(suite, tmp_path, ("test",), workers=1)
    folder = scenario_folder(tmp_path, "test", "sparse")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.fits")}
    assert len(before) == 4
    pixels = fits.getdata(folder / "00001.fits").copy()
    (folder / "00001.ecsv").unlink()
    draw_suite(suite, tmp_path, ("test",), workers=1)
    redrawn = folder / "00001.fits"
    assert {path for path, when in before.items() if path.stat().st_mtime_ns != when} <= {redrawn}
    np.testing.assert_array_equal(fits.getdata(redrawn), pixels)
    assert "snr" in Table.read(folder / "00001.ecsv", format="ascii.ecsv").colnames


def test_splits_and_scenarios_are_drawn_from_seeds_of_their_own(tmp_path):
    suite = small("sparse", "trailed")
    draw_suite(suite, tmp_path, workers=1, only=("sparse",))
    draw_suite(suite, tmp_path, ("test",), workers=1, only=("trailed",))
    frames = [fits.getdata(path) for path in sorted(tmp_path.rglob("*.fits"))]
    assert len(frames) == 4
    assert all(not np.array_equal(one, other) for one, other in pairwise(frames))


def test_further_frames_are_no_split_s(tmp_path):
    suite = small("sparse")
    draw_suite(suite, tmp_path, workers=1)
    draw_more(suite, tmp_path, 2, workers=1)
    assert len(list((tmp_path / "more/sparse").glob("*.fits"))) == 2
    truths = [path.read_bytes() for path in tmp_path.rglob("*.ecsv")]
    assert len(truths) == len(set(truths)) == 2 + len(SPLITS)


def test_a_folder_of_another_suite_is_refused(tmp_path):
    suite = small("star-free")
    draw_suite(suite, tmp_path, ("tuning",), workers=1)
    with pytest.raises(TrainingError, match="another suite"):
        draw_suite(suite.model_copy(update={"seeds": suite.seeds | {"tuning": 9}}), tmp_path, ("tuning",), workers=1)


def test_what_cannot_be_a_suite_is_refused(tmp_path):
    path = tmp_path / "suite.toml"
    with pytest.raises(TrainingError):
        read_suite(path)
    told = SUITE.read_text()
    for wrong in (told + "\n[more]\n", told.replace("test = 413", "test = 412"), told.replace("[scenarios.scene]", "")):
        path.write_text(wrong)
        with pytest.raises(TrainingError, match="no scenario suite"):
            read_suite(path)
    with pytest.raises(TrainingError, match="nebulous"):
        SUITED.chosen(("nebulous",))


def test_a_suite_survives_json():
    assert Suite.model_validate(json.loads(SUITED.model_dump_json())) == SUITED
    assert isinstance(SUITED.scenarios[0], Scenario)
