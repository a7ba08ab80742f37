"""Which detection is which source, and the counts that follow; works without torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import Floats

NONE = -1


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
        return np.asarray(self._known & ~self._absorbed)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """True for a detection that is none, shape (N,)."""
        return ~self._known

    @property
    def _known(self) -> NDArray[np.bool_]:
        return np.asarray(self.source_of != NONE)

    @property
    def _absorbed(self) -> NDArray[np.bool_]:
        if not len(self.ignored):
            return np.zeros(len(self.source_of), bool)
        return np.asarray(self._known & self.ignored[self.source_of])


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
    source_of = np.full(len(found), NONE, np.intp)
    if len(found) and len(sources):
        near = cKDTree(sources).query_ball_point(found, radius.max())
        taken = np.zeros(len(sources), bool)
        for detection in np.argsort(-scores, kind="stable"):
            choices = np.array(near[detection], int)
            distance = np.hypot(*(sources[choices] - found[detection]).T)
            free = ~taken[choices] & (distance <= radius[choices])
            if free.any():
                order = np.lexsort((distance, ignored[choices], ~free))
                source_of[detection] = choices[order[0]]
                taken[choices[order[0]]] = True
    return Match(source_of, ignored)


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
