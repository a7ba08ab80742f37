"""Figures over many frames: those of one frame where there is one, those of COCO where there are many."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import MeanAveragePrecision

from lynceus.detections import Detections, box_about
from lynceus.detector import Detector, DetectorSpec
from lynceus.figures import Evaluation
from lynceus.frame import Frame
from lynceus.network import RawDetections
from lynceus.scoring import IOU_THRESHOLDS, RECALL_THRESHOLDS, evaluate
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from training.scoring.evaluate import THRESHOLDS, Finder, best_threshold, score_exposures, score_finders
from training.scoring.pooling import evidence_of, match_by_centre, pool
from training.tiling.exposures import LabelledExposure

SIDE = 128
NOISE = np.random.default_rng(0).normal(100, 5, (SIDE, SIDE)).astype(np.float32)
FRAME = Frame(NOISE)
SKY = estimate_sky(FRAME, SkySpec())
EVALUATION = set(Evaluation.model_fields)
slow = settings(deadline=None, max_examples=10)


def draw(seed, sources=20, extra=8, kinds=None):
    """Sources close enough to compete with detections near them, twice near some, and anywhere; scores with ties."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(5, SIDE - 5, (2, sources))
    side = rng.uniform(4, 20, (2, sources))
    boxes = box_about(x, y, *side)
    near = boxes[rng.random(sources) < 0.8]
    near = np.concatenate([near, near[rng.random(len(near)) < 0.3]])
    near = near + rng.normal(0, rng.choice([0.3, 1.5]), near.shape)
    anywhere = box_about(*rng.uniform(5, SIDE - 5, (2, extra)), *rng.uniform(4, 20, (2, extra)))
    found = np.concatenate([near, anywhere]).astype(np.float32)
    found = found[(found[:, 2:] - found[:, :2] > 1).all(axis=1)]
    scores = (rng.integers(0, 30, len(found)) / 30).astype(np.float32)
    labels = rng.integers(0, 2 if kinds else 1, len(found))
    named = tuple(rng.choice(kinds, sources)) if kinds else None
    truth = Truth(
        boxes, rng.random(sources) < 0.3, rng.uniform(1, 60, sources), "snr", (), sources, (x, y), kinds=named
    )
    return Detections(found, scores, labels), truth


def exposure(truth, key="a"):
    return LabelledExposure(key, FRAME, SKY, truth)


def listed(scenes):
    """A finder that knows what it finds in each exposure, and the exposures."""
    known = {str(number): found for number, (found, _) in enumerate(scenes)}
    exposures = [exposure(truth, str(number)) for number, (_, truth) in enumerate(scenes)]
    return (lambda one: known[one.key]), exposures


def pooled(scenes, min_score=0.5, **options):
    find, exposures = listed(scenes)
    return score_finders({"x": Finder(find, min_score)}, exposures, **options)["x"]


@slow
@given(st.integers(0, 10**6), st.integers(0, 25), st.integers(0, 12), st.floats(0, 1))
def test_over_one_frame_every_figure_is_that_of_scoring(seed, sources, extra, min_score):
    found, truth = draw(seed, sources, extra)
    expected = evaluate(found, truth, min_score=min_score).model_dump()
    report = pooled([(found, truth)], min_score, worst=0).model_dump(include=EVALUATION)
    assert report.pop("mar") == pytest.approx(expected.pop("mar"), abs=1.1e-6)
    assert report.pop("completeness") == expected.pop("completeness")
    assert report.pop("reliability") == expected.pop("reliability")
    for name, value in expected.items():
        assert report[name] == (pytest.approx(value, abs=1.1e-6) if isinstance(value, float) else value), name


@slow
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=4))
def test_over_many_frames_precision_and_recall_are_cocos(seeds):
    scenes = [draw(seed, sources=1 + seed % 20) for seed in seeds]
    scenes = [(found, clear(truth)) for found, truth in scenes]
    report = pooled(scenes, worst=0)
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    metric = MeanAveragePrecision(
        iou_thresholds=IOU_THRESHOLDS,
        rec_thresholds=RECALL_THRESHOLDS,
        max_detection_thresholds=list(report.caps.values()),
        backend="faster_coco_eval",
    )
    for found, truth in scenes:
        boxes = {"boxes": torch.from_numpy(found.boxes.astype(float)), "scores": torch.from_numpy(found.scores)}
        metric.update([{**boxes, "labels": torch.zeros(len(found), dtype=torch.int64)}], [plain(truth)])
    expected = metric.compute()
    for name in ("map", "map_50", "map_75"):
        assert getattr(report, name) == pytest.approx(float(expected[name]), abs=1e-6)
    for name, most in report.caps.items():
        assert report.mar[name] == pytest.approx(float(expected[f"mar_{most}"]), abs=1e-6)


def clear(truth):
    return Truth(truth.boxes, np.zeros(len(truth), bool), truth.brightness, "snr", (), len(truth))


def plain(truth):
    return {"boxes": torch.from_numpy(truth.boxes), "labels": torch.zeros(len(truth), dtype=torch.int64)}


@slow
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_counts_and_curves_are_sums_over_the_frames(seeds):
    scenes = [draw(seed) for seed in seeds]
    report, singles = pooled(scenes, worst=0), [pooled([scene], worst=0) for scene in scenes]
    for name in ("matched", "missed", "extra", "ignored", "sources_ignored"):
        assert getattr(report.counts, name) == sum(getattr(one.counts, name) for one in singles)
        assert getattr(report.by_centre, name) == sum(getattr(one.by_centre, name) for one in singles)
    for name in ("completeness", "completeness_by_centre", "reliability", "crowding", "crowded_reliability"):
        for place, bin_ in enumerate(getattr(report, name)):
            there = [getattr(one, name)[place] for one in singles if getattr(one, name)]
            assert (bin_.count, bin_.hits) == (sum(one.count for one in there), sum(one.hits for one in there))
    assert sum(one.count for one in report.crowding) == report.sources
    assert sum(one.hits for one in report.crowding) == report.by_centre.matched
    assert sum(one.hits for one in report.crowded_reliability) == report.by_centre.matched
    assert sum(one.excess for one in report.per_frame) == report.counts.extra - report.counts.missed


@slow
@given(st.integers(0, 10**6))
def test_the_order_of_frames_changes_nothing_but_ties(seed):
    scenes = [draw(seed + step) for step in range(3)]
    rng = np.random.default_rng(seed)
    scenes = [
        (Detections(found.boxes, rng.permutation(len(found)) / len(found) / 3 + step / 3, found.labels), truth)
        for step, (found, truth) in enumerate(scenes)
    ]
    there, back = pooled(scenes, worst=0), pooled(scenes[::-1], worst=0)
    assert there.map == pytest.approx(back.map)
    assert there.by_class == back.by_class
    assert there.f1 == back.f1


def test_frames_without_sources_or_detections_are_counted_and_nothing_at_all_is_undefined():
    found, truth = draw(3)
    none = Truth(np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0), "snr", (), 0)
    with_empty = pooled([(found, truth), (found, none), (Detections.empty(), none)], worst=0)
    assert with_empty.frames == 3
    assert with_empty.counts.extra > pooled([(found, truth)], worst=0).counts.extra
    nothing = pooled([(Detections.empty(), none)], worst=0)
    assert (nothing.map, nothing.f1, nothing.best_iou_per_gt, nothing.completeness) == (None, None, None, ())
    assert pool([], min_score=0.5).frames == 0


@slow
@given(st.integers(0, 10**6), st.floats(2, 50))
def test_faint_sources_count_in_the_curve_alone(seed, faintest):
    found, truth = draw(seed)
    report, whole = pooled([(found, truth)], faintest=faintest, worst=0), pooled([(found, truth)], worst=0)
    assert report.sources == ((truth.brightness >= faintest) & ~truth.ignored).sum()
    assert [one.count for one in report.completeness] == [one.count for one in whole.completeness]
    assert report.map_50_by_snr == whole.map_50_by_snr


@slow
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3))
def test_the_threshold_is_the_best_of_all_thresholds_tried_one_by_one(seeds):
    scenes = [draw(seed) for seed in seeds]
    find, exposures = listed(scenes)

    def f1(threshold):
        kept = [(found[found.scores >= threshold], truth) for found, truth in scenes]
        matches = [match_by_centre(found, truth, truth.ignored) for found, truth in kept]
        right = sum(match.right.sum() for match in matches)
        wrong = sum(match.wrong.sum() for match in matches)
        sources = sum((~truth.ignored).sum() for _, truth in scenes)
        return 2 * right / max(right + wrong + sources, 1)

    threshold, best = best_threshold(find, exposures)
    tried = [f1(one) for one in THRESHOLDS]
    assert best == pytest.approx(max(tried))
    assert threshold == THRESHOLDS[int(np.argmax(tried))]


@slow
@given(st.integers(0, 10**6))
def test_every_counted_source_and_detection_is_once_in_the_confusion_matrix(seed):
    found, truth = draw(seed, kinds=["star", "galaxy", "comet"])
    classes = ("star", "galaxy")
    report = pool([evidence_of("a", found, truth, min_score=0.3, classes=classes)], min_score=0.3, classes=classes)
    counts = np.array(report.confusion.counts)
    assert counts[:2].sum() == report.sources
    assert counts[:, :2].sum() == report.counts.matched + report.counts.extra
    for number, name in enumerate(classes):
        known = (np.array(truth.kinds) == name) & ~truth.ignored
        assert counts[number].sum() == known.sum() == report.by_class[name].sources
        assert report.by_class[name].detections == counts[:, number].sum()


def test_a_class_that_is_called_right_has_the_figures_of_a_network_that_knows_it_alone():
    _, truth = draw(5, kinds=["star", "galaxy"])
    classes = ("star", "galaxy")
    stars = np.array(truth.kinds) == "star"
    some = truth.boxes[stars & ~truth.ignored].astype(np.float32)
    called = Detections(some, np.linspace(0.6, 0.9, len(some), dtype=np.float32), np.zeros(len(some), np.int64))
    report = pool([evidence_of("a", called, truth, min_score=0.5, classes=classes)], min_score=0.5, classes=classes)
    assert report.by_class["star"].map == pytest.approx(1)
    assert report.by_class["star"].f1 == report.confusion.accuracy == 1
    assert report.by_class["galaxy"].map == 0
    assert pool([evidence_of("a", called, truth, min_score=0.5)], min_score=0.5).confusion is None


def test_what_is_extra_on_a_trail_is_told_apart():
    found, truth = draw(7)
    everywhere = np.ones((SIDE, SIDE), bool)
    report = pool([evidence_of("a", found, truth, min_score=0, hidden=everywhere)], min_score=0)
    assert report.per_frame[0].extra_hidden == report.counts.extra > 0
    nowhere = pool([evidence_of("a", found, truth, min_score=0, hidden=~everywhere)], min_score=0)
    assert nowhere.per_frame[0].extra_hidden == 0


def test_the_worst_windows_hold_the_most_faults_and_are_drawn():
    scenes = [draw(seed, sources=n, extra=2 * n) for seed, n in enumerate((2, 9, 5, 1, 14))]
    report = pooled(scenes, worst=3)
    faults = [window.missed + window.extra for window in report.worst]
    assert faults == sorted((one.missed + one.extra for one in report.per_frame), reverse=True)[:3]
    assert all(window.picture.startswith("data:image/png;base64,") for window in report.worst)
    assert "data:" not in report.model_dump_json()


def test_windows_share_out_the_faults_of_a_large_frame():
    frame = Frame(np.tile(NOISE, (5, 9)))
    found, truth = draw(11, sources=60, extra=30)
    wide = Truth(truth.boxes * [9, 5, 9, 5], truth.ignored, truth.brightness, "snr", (), len(truth))
    found = Detections(found.boxes * np.float32([9, 5, 9, 5]), found.scores, found.labels)
    one = LabelledExposure("a", frame, estimate_sky(frame, SkySpec()), wide)
    report = score_finders({"x": Finder(lambda _: found)}, [one], worst=100)["x"]
    assert len(report.worst) <= 6
    for name in ("matched", "missed", "extra"):
        assert sum(getattr(window, name) for window in report.worst) <= getattr(report.counts, name)
    assert sum(window.missed + window.extra for window in report.worst) == report.counts.missed + report.counts.extra


def test_a_detector_is_scored_at_its_own_threshold_and_frames_are_read_one_by_one():
    box = torch.tensor([[20.0, 20.0, 30.0, 30.0], [60.0, 60.0, 72.0, 72.0]])

    def network(tiles):
        return [RawDetections(box, torch.tensor([0.9, 0.4]), torch.zeros(2, dtype=torch.int64), False) for _ in tiles]

    spec = DetectorSpec(min_score=0.5, tile={"size": SIDE, "overlap": 32})
    truth = Truth(box.numpy().astype(float), np.zeros(2, bool), np.array([9.0, 9.0]), "snr", (), 2)
    alive = []

    def stream():
        for number in range(3):
            assert number == len(alive)
            yield exposure(truth, str(number))

    report = score_exposures(Detector(network, spec), stream(), heard=lambda key, count: alive.append((key, count)))
    assert alive == [("0", 1), ("1", 2), ("2", 3)]
    assert (report.min_score, report.counts.matched, report.counts.missed) == (0.5, 3, 3)
    lower = score_exposures(Detector(network, spec), [exposure(truth)], 0.3)
    assert (lower.min_score, lower.counts.matched, lower.map_50) == (0.3, 2, pytest.approx(1))
