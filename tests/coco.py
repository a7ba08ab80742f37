"""Average precision and recall written from COCO's definition, slow and plain, to hold the fast way against."""

from dataclasses import dataclass

import numpy as np

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@dataclass(frozen=True)
class Reference:
    """Average precision by threshold, and recall of the `k` surest by threshold."""

    precisions: np.ndarray
    recalls: dict[int, np.ndarray]


def dense_iou(boxes, sources):
    """Intersection over union of each with each, (N, M), and the share of the first that is covered."""
    low = np.maximum(boxes[:, None, :2], sources[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], sources[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    other = (sources[:, 2:] - sources[:, :2]).prod(axis=1)[None, :]
    return shared / (area + other - shared), shared / area


def greedy(worth, scores, threshold):
    """Source of each detection, or -1: by falling score, each takes the free one of the highest worth."""
    return greedy_with_ignored(worth, worth, scores, np.zeros(worth.shape[1], bool), threshold)


def greedy_with_ignored(iou, covered, scores, ignored, threshold=0.5):
    """The same, but a detection that can have no source may have an ignored one, which holds one."""
    source_of, taken = np.full(len(scores), -1), set()
    for detection in sorted(range(len(scores)), key=lambda one: -scores[one]):
        for worth, among in ((iou[detection], ~ignored), (covered[detection], ignored)):
            free = set(np.flatnonzero(among & (worth >= threshold))) - taken
            if free:
                source_of[detection] = max(free, key=lambda m: (worth[m], m))
                taken.add(source_of[detection])
                break
    return source_of


def average_precision(hits, sources):
    """Mean of the precision at 101 recalls, each the best at that recall or beyond; `hits` by falling score."""
    right = np.cumsum(hits)
    recall, precision = right / sources, right / np.arange(1, len(hits) + 1)
    reached = [precision[recall >= wanted] for wanted in np.linspace(0, 1, 101)]
    return float(np.mean([some.max() if len(some) else 0.0 for some in reached]))


def coco(boxes, scores, sources, caps):
    """All figures, without ignored sources."""
    order = np.argsort(-scores, kind="stable")
    iou, _ = dense_iou(boxes, sources)
    hits = {threshold: greedy(iou, scores, threshold)[order] >= 0 for threshold in THRESHOLDS}
    return Reference(
        np.array([average_precision(hits[threshold], len(sources)) for threshold in THRESHOLDS]),
        {cap: np.array([hits[threshold][:cap].sum() / len(sources) for threshold in THRESHOLDS]) for cap in caps},
    )
