"""Two lists of detections of the same frame, compared: what both have, what one lacks, and what shifted.

It needs no torch and no server: the service compares its canary with it, and so does `lynceus compare`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import CENTRE_TO_EDGE, Floats
from lynceus.sources import Sources

SNR_EDGES = (5.0, 7.0, 10.0, 20.0, 50.0)
SNR_BINS = ("<5", "5-7", "7-10", "10-20", "20-50", "50+", "unknown")
OUTCOMES = ("matched", "lost", "gained")
REACH = 0.5  # a match lies at most so many FWHM apart,
LEAST_REACH = 2.0  # and that at least so many pixels: boxes shifted by 1.5 px must show as shifted, not as lost


@dataclass(frozen=True, eq=False)
class Listed:
    """A list of N detections, by columns; NaN where a quantity was not measured.

    Attributes
    ----------
    boxes : ndarray, shape (N, 4)
        Edge coordinates, in pixels.
    x, y : ndarray, shape (N,)
        The published positions, 0-based pixel centres.
    scores : ndarray, shape (N,)
        Between 0 and 1.
    flux, snr, fwhm : ndarray, shape (N,)
        In ADU, as a ratio, and in pixels.

    Raises
    ------
    ValueError
        If a column is not as long as the boxes.
    """

    boxes: Floats
    x: Floats
    y: Floats
    scores: Floats
    flux: Floats
    snr: Floats
    fwhm: Floats

    def __post_init__(self) -> None:
        count = len(self.boxes)
        columns = (self.x, self.y, self.scores, self.flux, self.snr, self.fwhm)
        if self.boxes.shape != (count, 4) or any(column.shape != (count,) for column in columns):
            raise ValueError(f"{count} boxes need as many values in every column")

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def positions(self) -> Floats:
        """Published positions `x, y`, shape (N, 2), 0-based pixel centres."""
        return np.stack([self.x, self.y], axis=1)

    @cached_property
    def centres(self) -> Floats:
        """Box centres `x, y`, shape (N, 2), 0-based pixel centres."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2 - CENTRE_TO_EDGE

    @cached_property
    def sides(self) -> Floats:
        """Width and height of the boxes, shape (N, 2), in pixels."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @cached_property
    def bins(self) -> NDArray[np.intp]:
        """Index into `SNR_BINS`, shape (N,)."""
        return np.where(np.isfinite(self.snr), np.digitize(self.snr, SNR_EDGES), len(SNR_EDGES) + 1)


def listed(sources: Sources) -> Listed:
    """The list of measured detections.

    Parameters
    ----------
    sources : Sources
        N of them.
    """
    found = sources.detections
    columns = (found.boxes, sources.x, sources.y, found.scores, sources.flux, sources.snr, sources.fwhm)
    return Listed(*(np.asarray(column, np.float64) for column in columns))


def listed_answer(answer: Mapping[str, Any]) -> Listed:
    """The list in a `/detect` answer.

    Parameters
    ----------
    answer : mapping
        The JSON object of one frame.
    """
    rows = answer["detections"]
    boxes = np.array([row["box"] for row in rows], np.float64).reshape(-1, 4)
    columns = [np.array([row[name] for row in rows], np.float64) for name in ("x", "y", "score", "flux", "snr", "fwhm")]
    return Listed(boxes, *columns)


@dataclass(frozen=True, eq=False)
class Pairing:
    """Which detection of one list is which of the other.

    Attributes
    ----------
    stable, canary : Listed
        N and M detections; every shift is that of the canary's from stable's.
    pairs : ndarray, shape (K, 2), int
        Index into stable and into the canary of what both have.
    """

    stable: Listed
    canary: Listed
    pairs: NDArray[np.intp]

    @cached_property
    def lost(self) -> NDArray[np.bool_]:
        """What stable alone has, shape (N,)."""
        return _without(len(self.stable), self.pairs[:, 0])

    @cached_property
    def gained(self) -> NDArray[np.bool_]:
        """What the canary alone has, shape (M,)."""
        return _without(len(self.canary), self.pairs[:, 1])

    @property
    def agreement(self) -> float | None:
        """The share of both lists that is matched; None if both are empty."""
        total = len(self.stable) + len(self.canary)
        return 2 * len(self.pairs) / total if total else None

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many are matched, lost and gained in every bin of SNR (stable's, but for what was gained)."""
        bins = (self.stable.bins[self.pairs[:, 0]], self.stable.bins[self.lost], self.canary.bins[self.gained])
        return {
            outcome: dict(zip(SNR_BINS, np.bincount(found, minlength=len(SNR_BINS)).tolist(), strict=True))
            for outcome, found in zip(OUTCOMES, bins, strict=True)
        }

    @cached_property
    def shifts(self) -> dict[str, Floats]:
        """Signed changes from stable to the canary, an array of shape (K,) each, NaN where one is not measured.

        Of the score; of the flux, relative to stable's; of the published position and of the box centre, in pixels;
        the distance between the box centres; the ratio of the box sides (geometric mean); the IoU of the boxes.
        """
        first, second = self.pairs.T
        stable, canary = self.stable, self.canary
        moved = canary.positions[second] - stable.positions[first]
        centre_moved = canary.centres[second] - stable.centres[first]
        flux = np.where(stable.flux[first] != 0, np.abs(stable.flux[first]), np.nan)
        return {
            "score": canary.scores[second] - stable.scores[first],
            "flux": (canary.flux[second] - stable.flux[first]) / flux,
            "x": moved[:, 0],
            "y": moved[:, 1],
            "box_x": centre_moved[:, 0],
            "box_y": centre_moved[:, 1],
            "box_distance": np.hypot(*centre_moved.T),
            "box_side_ratio": np.sqrt((canary.sides[second] / stable.sides[first]).prod(axis=1)),
            "box_iou": _iou(stable.boxes[first], canary.boxes[second]),
        }

    @property
    def absolute_shifts(self) -> dict[str, Floats]:
        """What histograms are made of: no signs, and only what was measured in both."""
        shifts = self.shifts
        values = {
            "score_shift": np.abs(shifts["score"]),
            "flux_shift_ratio": np.abs(shifts["flux"]),
            "centroid_shift_pixels": shifts["box_distance"],
            "box_iou": shifts["box_iou"],
        }
        return {name: value[np.isfinite(value)] for name, value in values.items()}

    def summary(self) -> dict[str, Any]:
        """Counts, by SNR too, and the median of every shift, fit for JSON; None where nothing is known."""
        return {
            "detections": {"stable": len(self.stable), "canary": len(self.canary)},
            "agreement": self.agreement,
            **{outcome: sum(by_snr.values()) for outcome, by_snr in self.counts.items()},
            "by_snr": self.counts,
            "median_shifts": {name: _median(values) for name, values in self.shifts.items()},
        }


def pair_lists(stable: Listed, canary: Listed, reach: float = REACH, least_reach: float = LEAST_REACH) -> Pairing:
    """Match two lists of the same frame: each other's nearest, if near enough.

    Parameters
    ----------
    stable, canary : Listed
        N and M detections, in any order.
    reach : float
        Largest distance of a match, in units of stable's FWHM.
    least_reach : float
        That distance where the FWHM is smaller or unknown, in pixels.

    Returns
    -------
    Pairing
        Every detection is in at most one pair.

    Notes
    -----
    The distance is the root mean square of that between the published positions and that between the box centres.
    Positions are measured anew on the pixels, so that detections are matched though boxes shifted; boxes tell
    blended sources apart whose measured positions fell together.
    """
    nothing = np.zeros((0, 2), np.intp)
    if not len(stable) or not len(canary):
        return Pairing(stable, canary, nothing)
    ours, theirs = _places(stable), _places(canary)
    distance, nearest = cKDTree(theirs).query(ours)
    _, back = cKDTree(ours).query(theirs)
    limit = np.fmax(reach * np.where(np.isfinite(stable.fwhm), stable.fwhm, 0.0), least_reach)
    index = np.arange(len(stable))
    matched = (back[nearest] == index) & (distance <= limit)
    return Pairing(stable, canary, np.stack([index[matched], nearest[matched]], axis=1).astype(np.intp))


def _places(found: Listed) -> Floats:
    """Points whose distance is the root mean square of both distances, shape (N, 4)."""
    return np.asarray(np.concatenate([found.positions, found.centres], axis=1) / np.sqrt(2))


def _without(count: int, taken: NDArray[np.intp]) -> NDArray[np.bool_]:
    rest = np.ones(count, bool)
    rest[taken] = False
    return rest


def _iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union of boxes row by row, shape (K,)."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1)
    return np.asarray(common / (areas - common), np.float64)


def _median(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
