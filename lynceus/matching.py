"""Which detection is which source, and the counts that follow; works without torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from lynceus.errors import CatalogueError

NONE = -1
MOST_PAIRS = 5_000_000  # of boxes that may touch; a list with more is no list of sources, and would fill the memory
PAIRS_AT_ONCE = 1_000_000
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Match:
    """Which detection is which source.

    Attributes
    ----------
    source_of : ndarray, shape (N,), int
        For each detection the index of its source, or -1.
    ignored : ndarray, shape (M,), bool
        Sources that count neither as found nor as missed; each absorbs at most one detection.
    """

    source_of: NDArray[np.intp]
    ignored: NDArray[np.bool_]

    @property
    def found(self) -> NDArray[np.bool_]:
        """True for every source, ignored ones too, that a detection was matched with, shape (M,)."""
        found = np.zeros(len(self.ignored), bool)
        found[self.source_of[self.source_of != NONE]] = True
        return found

    @property
    def right(self) -> NDArray[np.bool_]:
        """True for a detection that is a source, shape (N,)."""
        return np.asarray(self._known & ~self.absorbed)

    @property
    def absorbed(self) -> NDArray[np.bool_]:
        """True for a detection that an ignored source took, shape (N,)."""
        if not len(self.ignored):
            return np.zeros(len(self.source_of), bool)
        return np.asarray(self._known & self.ignored[self.source_of])

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """True for a detection that is none, shape (N,)."""
        return ~self._known

    @property
    def _known(self) -> NDArray[np.bool_]:
        return np.asarray(self.source_of != NONE)


def match_centres(found: Floats, scores: Floats, sources: Floats, radius: Floats, ignored: NDArray[np.bool_]) -> Match:
    """Match by distance: the highest score chooses first, the nearest source it may have.

    Parameters
    ----------
    found : ndarray, shape (N, 2)
        Positions of the detections, in pixels.
    scores : ndarray, shape (N,)
        Order of choice.
    sources : ndarray, shape (M, 2)
        Positions of the sources, in the same convention.
    radius : ndarray, shape (M,)
        A detection further from a source than this is not it, in pixels.
    ignored : ndarray, shape (M,), bool
        Sources that a detection takes only if no other is near.
    """
    if not len(found) or not len(sources):
        return Match(np.full(len(found), NONE, np.intp), ignored)
    near = cKDTree(found).query_ball_point(sources, radius)
    source, detection = _flat(near, np.arange(len(sources)))
    distance = np.hypot(*(sources[source] - found[detection]).T)
    inside = distance <= radius[source]
    source, detection, distance = source[inside], detection[inside], distance[inside]
    order = np.lexsort((distance, ignored[source], _rank(scores)[detection]))
    return Match(_claim(detection[order], source[order], len(found), len(sources)), ignored)


def match_boxes(
    found: Floats, scores: Floats, sources: Floats, ignored: NDArray[np.bool_], threshold: float = 0.5
) -> Match:
    """Match by overlap, as COCO does: the highest score chooses first, the source it overlaps most and may have.

    Parameters
    ----------
    found : ndarray, shape (N, 4)
        Boxes of the detections.
    scores : ndarray, shape (N,)
        Order of choice; of equal scores the first in the list chooses first.
    sources : ndarray, shape (M, 4)
        Boxes of the sources.
    ignored : ndarray, shape (M,), bool
        Sources that a detection takes only if it may have no other.
    threshold : float
        Lowest intersection over union with a source; with an ignored one, lowest share of the detection that it
        covers, which is COCO's rule for crowds (and never less than the intersection over union). Above 0.

    Returns
    -------
    Match
        Each ignored source absorbs one detection, where one of COCO's absorbs any number.

    Raises
    ------
    CatalogueError
        If the boxes overlap so much that this cannot be a list of sources.
    """
    pairs = overlaps(found, sources)
    aside = ignored[pairs.second]
    worth = np.where(aside, pairs.covered, pairs.iou)
    possible = np.flatnonzero(worth >= threshold)
    first, second, aside, worth = pairs.first[possible], pairs.second[possible], aside[possible], worth[possible]
    order = np.lexsort((-second, -worth, aside, _rank(scores)[first]))  # of equal overlaps COCO takes the last
    return Match(_claim(first[order], second[order], len(found), len(sources)), ignored)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The pairs of two lists of boxes that share any area, in no particular order.

    Attributes
    ----------
    first, second : ndarray, shape (P,), int
        Indices into the one list and the other.
    iou : ndarray, shape (P,)
        Intersection over union.
    covered : ndarray, shape (P,)
        Share of the first box that the second covers.
    """

    first: Indices
    second: Indices
    iou: Floats
    covered: Floats


def overlaps(first: Floats, second: Floats) -> Overlaps:
    """Find all pairs of boxes that share area, without looking at those far apart.

    Parameters
    ----------
    first, second : ndarray, shape (N, 4) and (M, 4)
        Boxes in one convention, every one with area.

    Raises
    ------
    CatalogueError
        If there are more than `MOST_PAIRS` to look at.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    parts = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0), np.zeros(0))]
    for i, j in _near(first, second):
        shared = _shared(first[i], second[j])
        touching = shared > 0
        i, j, shared = i[touching], j[touching], shared[touching]
        own = _area(first[i])
        parts.append((i, j, shared / (own + _area(second[j]) - shared), shared / own))
    return Overlaps(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def pair_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union of box k of one list, shape (K, 4), with box k of the other, shape (K,)."""
    shared = _shared(first, second)
    return np.asarray(shared / (_area(first) + _area(second) - shared))


@dataclass(frozen=True)
class Counts:
    """Detections that are sources, detections that are none, and sources that were missed."""

    right: int
    wrong: int
    missed: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.right + other.right, self.wrong + other.wrong, self.missed + other.missed)

    @property
    def reliability(self) -> float:
        """The share of detections that are sources (precision)."""
        return self.right / max(self.right + self.wrong, 1)

    @property
    def completeness(self) -> float:
        """The share of sources that were detected (recall)."""
        return self.right / max(self.right + self.missed, 1)

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.right / max(2 * self.right + self.wrong + self.missed, 1)


def count(match: Match) -> Counts:
    """Count a match; ignored sources and what they absorbed are left out."""
    missed = ~match.found & ~match.ignored
    return Counts(int(match.right.sum()), int(match.wrong.sum()), int(missed.sum()))


def _rank(scores: Floats) -> Indices:
    """Place of each by falling score, the first in the list before others of its score."""
    rank = np.empty(len(scores), np.intp)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return rank


def _claim(detections: Indices, sources: Indices, found: int, listed: int) -> Indices:
    """Go through pairs in order of choice; one is a match if neither of both is in an earlier match."""
    source_of, free = [NONE] * found, [True] * listed
    for detection, source in zip(detections.tolist(), sources.tolist(), strict=True):
        if source_of[detection] == NONE and free[source]:
            source_of[detection] = source
            free[source] = False
    return np.array(source_of, np.intp)


def _near(first: Floats, second: Floats) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of boxes close enough to touch, at most some `PAIRS_AT_ONCE` at a time.

    The second list is searched by classes of size, so that one halo does not make every star a neighbour of all.
    """
    if not len(first) or not len(second):
        return
    (centre, reach), (other_centre, other_reach) = _centre_and_reach(first), _centre_and_reach(second)
    size = np.frexp(other_reach)[1]
    seen = 0
    for one in np.unique(size):
        members = np.flatnonzero(size == one)
        tree = cKDTree(other_centre[members])
        radius = reach + other_reach[members].max()
        amount = tree.query_ball_point(centre, radius, p=np.inf, return_length=True)
        seen += int(amount.sum())
        if seen > MOST_PAIRS:
            raise CatalogueError(f"The boxes lie on one another: more than {MOST_PAIRS:,} pairs of them may overlap.")
        rows = np.flatnonzero(amount)
        part = np.cumsum(amount[rows]) // PAIRS_AT_ONCE
        for some in np.split(rows, np.flatnonzero(np.diff(part)) + 1):
            i, j = _flat(tree.query_ball_point(centre[some], radius[some], p=np.inf), some)
            yield i, members[j]


def _flat(neighbours: Iterable[list[int]], rows: Indices) -> tuple[Indices, Indices]:
    """Lists of neighbours, one a row, as two columns: the row, its neighbour."""
    neighbours = list(neighbours)
    return np.repeat(rows, [len(some) for some in neighbours]), np.fromiter(chain.from_iterable(neighbours), np.intp)


def _centre_and_reach(boxes: Floats) -> tuple[Floats, Floats]:
    """Centres (N, 2) and half of the longer sides (N,)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2


def _shared(first: Floats, second: Floats) -> Floats:
    """Area that boxes have in common pair by pair, shape (P,)."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    return np.asarray(np.clip(sides, 0, None).prod(axis=1))


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
