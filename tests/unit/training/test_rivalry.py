"""The rival is searched, recorded, killed and resumed without loss, and scored as everybody else is."""

import json
import stat
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from lynceus.frame import Frame
from lynceus.matching import Counts
from tests.fakes import fixed_bundle
from training.errors import TrainingError
from training.scenarios import rivalry, trials
from training.scenarios.figures import score_sweep
from training.scenarios.listings import Listing, Place
from training.scenarios.search import Search, coarse_grid, fitting, search_all
from training.scenarios.store import kept_listings
from training.scenarios.suite import CALM, SPLITS, Scenario, Suite, draw_suite
from training.scenarios.trials import Bench, Ledger, Sample, counts_of, listings_of, search_on, try_out, tune_on
from training.scenes.ranges import SceneSpec
from training.scoring import source_extractor
from training.scoring.cosmic_rays import without_cosmic_rays
from training.scoring.report import OURS
from training.scoring.source_extractor import Extractor, SourceExtractorSettings

SIDE, FWHM, NOISE = 200, 3.0, 10.0
DEFAULTS = SourceExtractorSettings()
installed = pytest.mark.skipif(source_extractor.program() is None, reason="SExtractor is not installed")


def field(seed=1, rays=0, flux=900.0):
    """Stars on a loose grid, and cosmic rays between them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    places = np.array([(x, y) for x in range(20, SIDE - 10, 30) for y in range(20, SIDE - 10, 30)], float)
    places += rng.uniform(-3, 3, places.shape)
    pixels = rng.normal(500, NOISE, (SIDE, SIDE))
    sigma = FWHM / 2.3548
    for x, y in places:
        pixels += flux * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    hits = rng.integers(5, SIDE - 5, (rays, 2))
    pixels[hits[:, 0], hits[:, 1]] += 2000
    frame = Frame(pixels.astype(np.float32))
    count = len(places)
    return Sample(frame, Place(places, np.full(count, 20.0), np.full(count, FWHM), frame.shape), FWHM)


def bowl(best):
    """A score with one summit."""

    def score(one):
        return (
            0.9
            - abs(np.log(one.threshold / best.threshold))
            - 0.05 * abs(one.least_area - best.least_area)
            - 0.2 * (one.convolution != best.convolution)
            - 0.01 * abs(np.log(one.mesh / best.mesh))
            - 0.01 * abs(np.log(one.deblend / best.deblend))
            - 0.02 * (one.clean != best.clean)
            - 0.02 * (one.cleaned != best.cleaned)
        )

    return score


@pytest.mark.parametrize(
    "best",
    [
        SourceExtractorSettings(threshold=0.77, convolution="matched", least_area=2, mesh=128, deblend=0.0001),
        SourceExtractorSettings(threshold=2.3, convolution="none", least_area=4, mesh=32, deblend=0.05, clean=False),
    ],
)
def test_the_search_climbs_to_the_summit_in_few_steps(best):
    search, score = Search(cosmic=False), bowl(best)
    tried = 0
    while search.wanted:
        assert not set(search.wanted) & set(search.scores)
        tried += len(search.wanted)
        search.learn({one: score(one) for one in search.wanted})
    assert tried < 120
    found = search.best
    assert (found.convolution, found.mesh, found.deblend, found.clean) == (
        best.convolution,
        best.mesh,
        best.deblend,
        best.clean,
    )
    assert abs(found.least_area - best.least_area) <= 1
    assert found.threshold == pytest.approx(best.threshold, rel=0.12)


def test_the_grid_holds_the_defaults_and_cleaning_only_where_there_are_cosmic_rays():
    assert DEFAULTS in coarse_grid(cosmic=False)
    assert not any(one.cleaned for one in coarse_grid(cosmic=False))
    assert {one.cleaned for one in coarse_grid(cosmic=True)} == {False, True}
    cleaned = DEFAULTS.model_copy(update={"cleaned": True, "sharpness": 20.0})
    assert fitting(cleaned, cosmic=True) == cleaned
    assert fitting(cleaned, cosmic=False) == DEFAULTS


def test_no_single_setting_is_better_than_the_best_of_each_scene_and_none_is_better_in_the_mean_than_the_mean():
    summits = {
        "clean": SourceExtractorSettings(threshold=0.7, convolution="matched", mesh=128),
        "rays": SourceExtractorSettings(threshold=2.0, convolution="none", cleaned=True, sharpness=20.0),
    }
    scores = {name: bowl(one) for name, one in summits.items()}
    asked = {name: set() for name in summits}

    def ask(wanted):
        for name, some in wanted.items():
            assert len(set(some)) == len(some)
            asked[name] |= set(some)
        return {name: {one: scores[name](one) for one in some} for name, some in wanted.items()}

    mean, own = search_all({"clean": False, "rays": True}, ask)
    for name, search in own.items():
        best = search.scores[search.best]
        assert best == max(scores[name](one) for one in asked[name])
        assert best >= scores[name](fitting(mean.best, name == "rays"))
    assert own["rays"].best.cleaned
    assert not any(one.cleaned for one in asked["clean"])
    both = [np.mean([scores[name](fitting(one, name == "rays")) for name in summits]) for one in mean.scores]
    assert mean.scores[mean.best] == pytest.approx(max(both))


def test_what_was_tried_is_not_tried_again_even_after_a_kill_in_the_middle_of_a_line(tmp_path, monkeypatch):
    runs = []

    def counted(folder, settings):
        runs.append((folder.name, tuple(settings)))
        return {one: Counts(round(100 * one.threshold), 10, 10) for one in settings}

    monkeypatch.setattr(trials, "try_folder", counted)
    monkeypatch.setattr(trials, "ProcessPoolExecutor", HereAndNow)
    wanted = {"one": coarse_grid(False), "two": coarse_grid(False)[:5]}
    folders = {name: tmp_path / name for name in wanted}
    record = tmp_path / "kept" / "tuning.jsonl"
    first = Bench(folders, Ledger(record)).f1(wanted)
    amount = sum(len(some) for _, some in runs)
    assert amount == sum(len(some) for some in wanted.values())
    with record.open("a") as file:
        file.write('{"scene": "one", "sett')
    runs.clear()
    assert Bench(folders, Ledger(record)).f1(wanted) == first
    assert runs == []
    fresh = DEFAULTS.model_copy(update={"threshold": 5.0})
    Bench(folders, Ledger(record)).f1({"two": [fresh]})
    assert Bench(folders, Ledger(record)).f1({"two": [fresh]}) == {"two": {fresh: Counts(500, 10, 10).f1}}
    assert len(runs) == 1


class HereAndNow:
    """A pool that does the work when it is asked for."""

    def __init__(self, workers):
        assert workers == 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, work, *args):
        future = Future()
        future.set_result(work(*args))
        return future


def test_lists_come_back_as_they_were_kept(tmp_path):
    rng = np.random.default_rng(1)
    lists = [Listing(rng.normal(size=(n, 2)), rng.normal(size=n)) for n in (3, 0, 5)]
    first = kept_listings(tmp_path / "a" / "b.npz", lambda: lists)
    again = kept_listings(tmp_path / "a" / "b.npz", lambda: pytest.fail("they were made again"))
    for one, other, kept in zip(lists, first, again, strict=True):
        assert (one.positions == other.positions).all()
        assert (one.positions == kept.positions).all()
        assert (one.scores == kept.scores).all()


def fake_program(folder, monkeypatch, script):
    """A program on the PATH that does as it is told."""
    path = Path(folder) / "source-extractor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(source_extractor, "program", lambda: str(path))


def test_every_setting_reaches_the_program_and_its_table_is_read(tmp_path, monkeypatch):
    fake_program(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/told; echo " 11.0 21.0 50.0 5.0"; echo 31 41 9 3')
    settings = SourceExtractorSettings(
        threshold=1.7, convolution="matched", least_area=2, mesh=128, deblend=0.0001, steps=64, clean=False
    )
    listing = listings_of(field().frame, FWHM, [settings])[settings]
    assert listing.positions.tolist() == [[10, 20], [30, 40]]
    assert listing.scores.tolist() == [10, 3]
    told = (tmp_path / "told").read_text().split()
    given = dict(zip(told[1::2], told[2::2], strict=True))
    wanted = {"-DETECT_THRESH": "1.7", "-ANALYSIS_THRESH": "1.7", "-DETECT_MINAREA": "2", "-BACK_SIZE": "128"}
    wanted |= {"-DEBLEND_MINCONT": "0.0001", "-DEBLEND_NTHRESH": "64", "-CLEAN": "N", "-FILTER": "Y"}
    assert wanted.items() <= given.items()
    assert int(given["-MEMORY_PIXSTACK"]) >= SIDE * SIDE


@pytest.mark.parametrize("script", ["exit 1", "echo some words", "sleep 5"])
def test_a_run_that_fails_or_takes_too_long_lists_nothing(tmp_path, monkeypatch, script):
    fake_program(tmp_path, monkeypatch, script)
    listing = listings_of(field().frame, FWHM, [DEFAULTS], longest=0.3)[DEFAULTS]
    assert len(listing) == 0
    assert counts_of(listing, field().place).f1 == 0


def test_without_the_program_a_clear_word(tmp_path, monkeypatch):
    monkeypatch.setattr(rivalry, "program", lambda: None)
    with pytest.raises(TrainingError, match="not installed"):
        rivalry.tune(None, tmp_path, tmp_path)


def test_cleaning_takes_cosmic_rays_and_leaves_stars_and_masks():
    sample = field(rays=40)
    pixels = sample.frame.pixels.copy()
    pixels[:4] = np.nan
    frame = Frame(pixels)
    clean = without_cosmic_rays(frame)
    assert (clean.mask == frame.mask).all()
    far = np.nanmax(frame.pixels)
    assert np.nanmax(clean.pixels) < 0.3 * far
    x, y = np.rint(sample.place.positions).astype(int).T
    kept = np.abs(clean.pixels[y, x] - frame.pixels[y, x]) < NOISE
    assert kept.mean() > 0.9


@installed
def test_one_frame_serves_many_runs_as_if_each_were_the_first():
    sample = field()
    several = [DEFAULTS, DEFAULTS.model_copy(update={"threshold": 8.0}), DEFAULTS]
    with Extractor(sample.frame, FWHM) as extractor:
        first, other, again = (extractor.run(one, trials.LISTED) for one in several)
    assert (first == again).all()
    assert len(other) < len(first)


@installed
def test_the_matched_filter_and_cleaning_help_where_they_should():
    faint, hit = field(flux=450.0), field(rays=60)
    low = DEFAULTS.model_copy(update={"least_area": 1, "threshold": 3.0, "convolution": "none"})
    matched = low.model_copy(update={"threshold": 0.9, "convolution": "matched"})
    tried = try_out([faint], [low, matched])
    assert tried[matched].f1 > tried[low].f1
    cleaned = DEFAULTS.model_copy(update={"cleaned": True})
    best, f1 = tune_on([hit], [DEFAULTS, cleaned])
    assert best == cleaned
    assert f1 > 0.9


@installed
def test_a_search_on_frames_at_hand_is_never_worse_than_the_defaults(monkeypatch):
    monkeypatch.setattr("training.scenarios.search.COARSE", {"default": (1.5, 2.0)})
    samples = [field(seed) for seed in (1, 2)]
    best, f1 = search_on(samples)
    assert f1 >= try_out(samples, [DEFAULTS])[DEFAULTS].f1
    assert try_out(samples, [best])[best].f1 == f1


@installed
def test_the_sweep_holds_the_setting_itself_and_lists_fewer_the_higher_it_is(tmp_path):
    sample = field(flux=500.0)
    wanted = rivalry.sweep(DEFAULTS)
    assert DEFAULTS in wanted
    listed = rivalry.list_all([sample], wanted, tmp_path)
    amounts = [len(listed[one][0]) for one in sorted(wanted, key=lambda one: one.threshold)]
    assert amounts[0] > amounts[-1]
    runs = {one.threshold: lists for one, lists in listed.items()}
    figures = score_sweep(runs, [sample.place], DEFAULTS.threshold, draws=5)
    assert figures.f1_shipped == pytest.approx(counts_of(listed[DEFAULTS][0], sample.place).f1)
    assert figures.best_f1 >= figures.f1_shipped
    again = rivalry.list_all([], wanted, tmp_path)
    assert [len(again[one][0]) for one in wanted] == [len(listed[one][0]) for one in wanted]


@installed
def test_one_command_tunes_scores_and_writes_and_a_second_time_runs_nothing(tmp_path, monkeypatch):
    scene = CALM | {"size": 192, "sources": (150, 150), "fwhm": (3.0, 3.0), "galaxies": (0.0, 0.0)}
    suite = Suite(
        name="tiny",
        frames=dict.fromkeys(SPLITS, 1),
        seeds={"tuning": 1, "calibration": 2, "test": 3},
        scenarios=(
            Scenario(name="stars", about="stars", scene=SceneSpec(**scene)),
            Scenario(name="blank", about="nothing", scene=SceneSpec(**scene | {"empty": 1.0}), starless=True),
        ),
    )
    draw_suite(suite, tmp_path / "suite", ("tuning", "test"), workers=1)
    monkeypatch.setattr("training.scenarios.search.COARSE", {"default": (1.0, 1.5), "matched": (1.0,)})
    monkeypatch.setattr(trials, "ProcessPoolExecutor", HereAndNow)
    monkeypatch.setattr(rivalry, "ProcessPoolExecutor", HereAndNow)
    monkeypatch.setattr(rivalry, "load_bundle", lambda folder, workers: fixed_bundle())
    told = Path("bundle"), suite, tmp_path / "suite", tmp_path / "out"
    made = rivalry.compare(*told, oracle=False)
    stars, blank = made.report.scenes
    own, defaults = stars.finders[rivalry.TUNED_PER_SCENE], stars.finders[rivalry.DEFAULTS]
    assert next(iter(stars.finders)) == OURS
    assert made.tuned.f1["stars"] == pytest.approx(made.tuned.mean_f1)
    assert own.best_f1 > 0.7
    assert own.best_f1 >= own.f1_shipped
    assert defaults.shipped == 1.5
    assert blank.starless
    assert all(one.per_megapixel < 1000 for name, one in blank.finders.items() if name != OURS)
    assert rivalry.Rivalry.model_validate_json((tmp_path / "out" / rivalry.RESULT).read_text()) == made
    assert "| stars |" in (tmp_path / "out" / rivalry.TABLES).read_text()
    monkeypatch.setattr(Extractor, "run", lambda *_: pytest.fail("it was run again"))
    monkeypatch.setattr("lynceus.detector.Detector.detect", lambda *_: pytest.fail("it detects again"))
    assert rivalry.compare(*told, oracle=False, only=["stars"]).report.scenes == (stars,)


def test_settings_survive_the_record(tmp_path):
    cleaned = DEFAULTS.model_copy(update={"cleaned": True, "threshold": 0.837})
    Ledger(tmp_path / "a.jsonl").add("one", {cleaned: Counts(1, 2, 3)})
    assert Ledger(tmp_path / "a.jsonl").get("one", cleaned) == Counts(1, 2, 3)
    assert json.loads((tmp_path / "a.jsonl").read_text())["counts"] == [1, 2, 3]
