"""What sources are and what they were called, where a network knows more than one class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Detections
from lynceus.figures import Counts
from lynceus.matching import NONE, Match
from lynceus.truth import Truth
from training.scoring.precision import Bools, Ranked, average_precision, rank
from training.scoring.report import ClassFigures, Confusion

Integers = NDArray[np.int64]


def kinds_of(truth: Truth, classes: tuple[str, ...]) -> Integers | None:
    """The class of every source, shape (M,); -1 for none of them.

    Returns
    -------
    ndarray or None
        None where there is one class at most, or the truth names none.
    """
    if len(classes) < 2 or truth.kinds is None:
        return None
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place.get(kind, -1) for kind in truth.kinds], np.int64)


def as_classes(
    found: Detections, truth: Truth, ignored: Bools, kinds: Integers | None, classes: tuple[str, ...]
) -> dict[str, Ranked]:
    """The detections of each class against the sources of that class; ignored sources absorb those of any class."""
    if kinds is None:
        return {}
    parts = {}
    for number, name in enumerate(classes):
        there = ignored | (kinds == number)
        parts[name] = rank(found[found.labels == number], truth.boxes[there], ignored[there])
    return parts


def confusion_counts(labels: Integers, match: Match, kinds: Integers, classes: int) -> Integers:
    """Count one frame.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        What the detections were called.
    match : Match
        Which source each of them is, whatever it was called.
    kinds : ndarray, shape (M,)
        What the sources are.
    classes : int
        How many there are.

    Returns
    -------
    ndarray, shape (classes + 1, classes + 1)
        Rows are what the sources are, columns what they were called; see `Confusion`.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(counts, (kinds[match.source_of[match.right]], labels[match.right]), 1)
    np.add.at(counts[classes], labels[match.source_of == NONE], 1)
    np.add.at(counts[:, classes], kinds[~match.found & ~match.ignored], 1)
    return counts


def confusion(frames: Sequence[Integers | None], classes: tuple[str, ...]) -> Confusion | None:
    """The counts of all frames; None where no frame has any."""
    counted = [frame for frame in frames if frame is not None]
    if not counted:
        return None
    return Confusion(classes=classes, counts=tuple(map(tuple, np.sum(counted, axis=0).tolist())))


def class_figures(
    frames: Sequence[tuple[dict[str, Ranked], Integers | None]], classes: tuple[str, ...]
) -> dict[str, ClassFigures]:
    """Figures of each class over all frames; none where no frame names classes.

    A detection on a source of another class is wrong for its own class, and the source is missed for its.
    """
    counted = [counts for _, counts in frames if counts is not None]
    if not counted:
        return {}
    total = np.sum(counted, axis=0)
    figures = {}
    for number, name in enumerate(classes):
        by_iou = average_precision([ranked[name] for ranked, _ in frames if name in ranked])
        right = int(total[number, number])
        counts = Counts(
            matched=right,
            missed=int(total[number].sum()) - right,
            extra=int(total[:, number].sum()) - right,
            ignored=0,
            sources_ignored=0,
        )
        figures[name] = ClassFigures(
            sources=counts.matched + counts.missed,
            detections=counts.matched + counts.extra,
            map=None if by_iou is None else float(by_iou.mean()),
            map_50=None if by_iou is None else float(by_iou[0]),
            precision=counts.precision,
            recall=counts.recall,
            f1=counts.f1,
        )
    return figures
