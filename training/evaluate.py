"""Figures on simulated frames: average precision, F1 by centre match, completeness by SNR, and the rival's."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torchmetrics.detection import MeanAveragePrecision

from lynceus.detections import Detections, Floats
from lynceus.detector import Detector
from lynceus.matching import Counts, Match, count, match_centres
from lynceus.sky import SkySpec
from training.rival import GRID, RivalSettings, extract
from training.tiles import LabelledFrame, read_labelled

FAINTEST = 5.0  # sources under this SNR are ignored in the overall figures
BINS = (3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 500.0)
THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.01), 2)
Bools = NDArray[np.bool_]
List = tuple[Floats, Floats]  # positions (N, 2) and what orders them (N,)


def read_scenes(folder: Path, sky: SkySpec) -> list[LabelledFrame]:
    """Read all frames of a folder with their truth."""
    return [read_labelled(path, sky) for path in sorted(folder.glob("*.fits"))]


def search(detector: Detector, scenes: Sequence[LabelledFrame]) -> list[Detections]:
    """Run the detector on every frame."""
    return [detector.detect(scene.frame) for scene in track(scenes, description="detecting")]


def as_list(found: Detections) -> List:
    """Box centres and scores."""
    return np.stack(found.centres, axis=1), found.scores


def match_list(found: List, scene: LabelledFrame) -> Match:
    """Match a list with the truth within one FWHM; sources under SNR 5 are ignored."""
    truth = scene.truth
    sources = np.stack([truth["x"], truth["y"]], axis=1)
    return match_centres(*found, sources, np.asarray(truth["fwhm"]), np.asarray(truth["snr"] < FAINTEST))


def score_lists(lists: Sequence[List], scenes: Sequence[LabelledFrame]) -> Counts:
    """Counts over several frames."""
    counts = [count(match_list(found, scene)) for found, scene in zip(lists, scenes, strict=True)]
    return sum(counts, Counts(0, 0, 0))


def best_threshold(found: Sequence[Detections], scenes: Sequence[LabelledFrame]) -> tuple[float, float]:
    """The score threshold with the highest F1, and that F1."""
    f1 = [score_lists([as_list(one[one.scores >= t]) for one in found], scenes).f1 for t in THRESHOLDS]
    best = int(np.argmax(f1))
    return float(THRESHOLDS[best]), f1[best]


def completeness_by_snr(lists: Sequence[List], scenes: Sequence[LabelledFrame]) -> dict[str, float]:
    """The share of sources detected in each bin of SNR, those under 5 as well."""
    snr = np.concatenate([np.asarray(scene.truth["snr"]) for scene in scenes])
    hit = np.concatenate([match_list(one, scene).found for one, scene in zip(lists, scenes, strict=True)])
    return {name: float(hit[inside].mean()) for name, inside in _bins(snr)}


def average_precision(
    found: Sequence[Detections], scenes: Sequence[LabelledFrame], counted: Callable[[Floats], Bools]
) -> float:
    """AP at IoU 0.5; sources whose SNR is not `counted` are ignored (`iscrowd`)."""
    most = max(max(len(one) for one in found), 1)
    metric = MeanAveragePrecision(
        iou_thresholds=[0.5], max_detection_thresholds=[1, max(most // 2, 2), most + 2], backend="faster_coco_eval"
    )
    for one, scene in zip(found, scenes, strict=True):
        ignored = ~counted(np.asarray(scene.truth["snr"]))
        metric.update([_claimed(one)], [_true(scene, ignored)])
    return float(metric.compute()["map_50"])


def _claimed(found: Detections) -> dict[str, torch.Tensor]:
    parts = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
    return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}


def _true(scene: LabelledFrame, ignored: Bools) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.from_numpy(scene.boxes.astype(np.float32)),
        "labels": torch.zeros(len(scene.boxes), dtype=torch.int64),
        "iscrowd": torch.from_numpy(ignored.astype(np.int64)),
    }


def evaluate(detector: Detector, scenes: Sequence[LabelledFrame], min_score: float) -> dict[str, Any]:
    """All figures of a detector on labelled frames."""
    found = search(detector, scenes)
    shipped = [as_list(one[one.scores >= min_score]) for one in found]
    counts = score_lists(shipped, scenes)
    threshold, best = best_threshold(found, scenes)
    return {
        "frames": len(scenes),
        "sources": int(sum((scene.truth["snr"] >= FAINTEST).sum() for scene in scenes)),
        "ap50": average_precision(found, scenes, lambda snr: snr >= FAINTEST),
        "min_score": min_score,
        "f1": counts.f1,
        "reliability": counts.reliability,
        "completeness": counts.completeness,
        "best_f1": best,
        "best_f1_score": threshold,
        "completeness_by_snr": completeness_by_snr(shipped, scenes),
        "ap50_by_snr": {
            name: average_precision(found, scenes, lambda snr, low=low, high=high: (snr >= low) & (snr < high))
            for name, low, high in _edges()
        },
    }


def tune_rival(scenes: Sequence[LabelledFrame]) -> tuple[RivalSettings, float]:
    """The rival's settings with the highest F1, and that F1."""
    scored = [(score_lists(rival_lists(scenes, s), scenes).f1, s) for s in track(GRID, description="tuning the rival")]
    best = max(scored, key=lambda pair: pair[0])
    return best[1], best[0]


def evaluate_rival(scenes: Sequence[LabelledFrame], settings: RivalSettings) -> dict[str, Any]:
    """The rival's figures on labelled frames."""
    lists = rival_lists(scenes, settings)
    counts = score_lists(lists, scenes)
    return {
        "settings": settings.model_dump(),
        "f1": counts.f1,
        "reliability": counts.reliability,
        "completeness": counts.completeness,
        "completeness_by_snr": completeness_by_snr(lists, scenes),
    }


def rival_lists(scenes: Sequence[LabelledFrame], settings: RivalSettings) -> list[List]:
    """The rival's list of every frame."""
    return [extract(scene.frame, settings, seeing_of(scene)) for scene in scenes]


def seeing_of(scene: LabelledFrame) -> float:
    """The median FWHM of the stars in the truth, in pixels."""
    stars = scene.truth["fwhm"][scene.truth["kind"] == "star"]
    return float(np.median(stars if len(stars) else scene.truth["fwhm"]))


def _edges() -> list[tuple[str, float, float]]:
    return [(f"{low:g}-{high:g}", low, high) for low, high in pairwise(BINS)]


def _bins(snr: Floats) -> list[tuple[str, Bools]]:
    return [(name, (snr >= low) & (snr < high)) for name, low, high in _edges()]
