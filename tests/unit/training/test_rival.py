"""The rivals find what is plain to see, by the same conventions as the detector, and are tuned honestly."""

import shutil
from functools import partial

import numpy as np
import pytest

from lynceus.detections import box_about
from lynceus.facts import Facts
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from training.errors import TrainingError
from training.scoring import rival, rivals, source_extractor
from training.scoring.evaluate import Finder, score_finders
from training.scoring.rival import RivalSettings, as_scores, seeing_of, tune
from training.scoring.rivals import SEP, SOURCE_EXTRACTOR, rival_finders
from training.scoring.source_extractor import SourceExtractorSettings
from training.tiling.exposures import LabelledExposure

FWHM, SIDE = 4.0, 192
MEASURE = MeasureSpec()
PLAIN = RivalSettings(threshold=2.0, convolution="default", least_area=5)
installed = pytest.mark.skipif(source_extractor.program() is None, reason="SExtractor is not installed")


def field(seed=1, fluxes=(4000.0, 2000.0, 1000.0), masked=False):
    """Round stars on a grid, none near another, off the pixels' centres."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(500, 10, (SIDE, SIDE))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    places = np.array([(x, y) for x in range(24, SIDE - 8, 36) for y in range(24, SIDE - 8, 36)], float)
    places += rng.uniform(-3, 3, places.shape)
    flux = rng.choice(fluxes, len(places))
    sigma = FWHM / 2.3548
    for (x, y), one in zip(places, flux, strict=True):
        light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        pixels += one * light / (2 * np.pi * sigma**2)
    pixels = pixels.astype(np.float32)
    if masked:
        pixels[:, :6] = np.nan
    frame = Frame(pixels, Facts(gain=2.0, saturation=60000.0))
    x, y = places.T
    side = np.full(len(x), MEASURE.box_scale * FWHM)
    truth = Truth(
        box_about(x, y, side, side), np.zeros(len(x), bool), flux / 50, "snr", (), len(x), (x, y), ("star",) * len(x)
    )
    return LabelledExposure(f"{seed}", frame, estimate_sky(frame, SkySpec()), truth)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "find",
    [
        pytest.param(partial(rival.find, settings=PLAIN, measure=MEASURE), id="sep"),
        pytest.param(
            partial(source_extractor.find, settings=SourceExtractorSettings(), measure=MEASURE),
            id="source-extractor",
            marks=installed,
        ),
    ],
)
def test_a_rival_finds_plain_stars_where_they_are_with_boxes_by_the_rule(find, masked):
    exposure = field(masked=masked)
    report = score_finders({"rival": Finder(find)}, [exposure], worst=0)["rival"]
    assert report.by_centre.recall == 1
    assert report.by_centre.precision > 0.9
    assert report.median_centroid_offset < 0.3
    assert abs(report.median_dx) < 0.1
    assert abs(report.median_dy) < 0.1
    assert report.best_iou_per_gt > 0.6
    assert report.map_50 > 0.8


@pytest.mark.parametrize("convolution", ["none", "default", "matched"])
def test_a_brighter_star_never_has_a_lower_score(convolution):
    settings = PLAIN.model_copy(update={"convolution": convolution})
    exposure = field()
    found = rival.find(exposure, settings, MEASURE)
    x, y = exposure.truth.centres
    found_x, found_y = found.centres
    nearest = [np.argmin(np.hypot(found_x - a, found_y - b)) for a, b in zip(x, y, strict=True)]
    own = found.scores[nearest]
    by_flux = {flux: np.median(own[exposure.truth.brightness == flux]) for flux in (20, 40, 80)}
    assert 0 < by_flux[20] < by_flux[40] < by_flux[80] < 1


def test_scores_rise_with_the_signal_to_noise_and_stay_within_bounds():
    snr = np.array([-5, 0, np.nan, 1, 10, 1e9])
    scores = as_scores(snr)
    assert (scores[:3] == 0).all()
    assert (np.diff(scores[3:]) > 0).all()
    assert scores.max() <= 1


def test_the_seeing_is_that_of_the_stars():
    exposure = field()
    assert seeing_of(exposure) == pytest.approx(FWHM)
    x, y = exposure.truth.centres
    side = np.full(len(x), 100.0)
    side[:3] = 10.0
    kinds = ("star",) * 3 + ("galaxy",) * (len(x) - 3)
    truth = Truth(
        box_about(x, y, side, side), exposure.truth.ignored, exposure.truth.brightness, "snr", (), len(x), kinds=kinds
    )
    assert seeing_of(LabelledExposure("a", exposure.frame, exposure.sky, truth)) == pytest.approx(FWHM)


def test_a_rival_that_fails_on_a_frame_finds_nothing_there(monkeypatch, caplog):
    monkeypatch.setattr(rival.sep, "extract", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("internal limit")))
    assert len(rival.find(field(), PLAIN, MEASURE)) == 0
    assert "internal limit" in caplog.text


def test_tuning_takes_the_best_over_all_frames():
    frames = [field(1), field(2)]
    grid = [PLAIN.model_copy(update={"threshold": t, "convolution": "none"}) for t in (1.0, 3.0, 50.0)]
    best, f1 = tune(grid, partial(_find, measure=MEASURE), iter(frames))
    alone = {}
    for settings in grid:
        finder = Finder(partial(rival.find, settings=settings, measure=MEASURE))
        alone[settings] = score_finders({"x": finder}, frames, worst=0)["x"].by_centre.f1
    assert alone[best] == max(alone.values()) == pytest.approx(f1)


def _find(exposure, settings, measure):
    return rival.find(exposure, settings, measure)


def test_tuned_settings_are_kept_and_not_sought_again(tmp_path, monkeypatch):
    monkeypatch.setattr(rival, "GRID", [PLAIN])
    monkeypatch.setattr(source_extractor, "SOURCE_EXTRACTOR_GRID", [SourceExtractorSettings()])
    asked = []

    def frames():
        asked.append(1)
        yield field()

    first = rival_finders(frames, MEASURE, kept=tmp_path / "rivals.json")
    times = len(asked)
    again = rival_finders(frames, MEASURE, kept=tmp_path / "rivals.json")
    assert times == len(first) == len(asked) == len(again)
    assert set(first) == {SEP} | ({SOURCE_EXTRACTOR} if source_extractor.program() else set())
    (tmp_path / "rivals.json").write_text('{"sep": {"surprise": 1}}')
    rival_finders(frames, MEASURE, kept=tmp_path / "rivals.json")
    assert len(asked) == 2 * times


def test_without_the_program_there_is_one_rival_and_a_clear_word(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(rival, "GRID", [PLAIN])
    assert set(rival_finders(lambda: [field()], MEASURE)) == {SEP}
    with pytest.raises(TrainingError, match="not installed"):
        source_extractor.run_source_extractor(field().frame, SourceExtractorSettings(), FWHM)


@installed
def test_an_empty_frame_gives_an_empty_list_and_leaves_no_folder_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    frame = Frame(np.random.default_rng(0).normal(500, 10, (SIDE, SIDE)).astype(np.float32))
    settings = SourceExtractorSettings(threshold=20)
    catalogue = source_extractor.run_source_extractor(frame, settings, FWHM)
    assert len(catalogue) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("enough", "read"), [(1, 1), (SIDE * SIDE + 1, 2), (10**9, 3)])
def test_no_more_frames_are_read_for_tuning_than_are_enough(monkeypatch, enough, read):
    monkeypatch.setattr(rival, "GRID", [PLAIN])
    monkeypatch.setattr(source_extractor, "program", lambda: None)
    monkeypatch.setattr(rivals, "TUNED_ON", enough)
    seen = []

    def frames():
        for seed in range(3):
            seen.append(seed)
            yield field(seed)

    rival_finders(frames, MEASURE)
    assert len(seen) == read
