"""How many matches are chance: a list that was shifted matches nothing but by chance."""

from collections.abc import Sequence

import numpy as np

from lynceus.detections import Floats
from training.scenarios.curves import Claims, Curve, claim
from training.scenarios.listings import Pairs, Place

SHIFTS = 8  # directions
LEAST_SHIFT = 24.0  # pixels, and as many FWHM as follows
FWHM_AWAY = 3.0
LARGEST = 95  # per cent of the sources that have no larger FWHM
MOST_OF_SIDE = 1 / 3  # a shift is no longer than this share of the frame
FIRST = 0.35  # radians; no shift runs along rows, columns or diagonals


def shifts_of(place: Place, count: int = SHIFTS) -> Floats:
    """Shifts `x, y` in pixels all around, shape (count, 2): far past a source's own light, near enough for its field.

    Parameters
    ----------
    place : Place
        A few tens of pixels, unless its sources are wide.
    count : int
        How many.
    """
    wide = float(np.percentile(place.fwhm, LARGEST)) if len(place) else 0.0
    length = min(LEAST_SHIFT + FWHM_AWAY * wide, MOST_OF_SIDE * min(place.shape))
    angles = FIRST + 2 * np.pi * np.arange(count) / max(count, 1)
    return np.asarray(length * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def shifted_claims(pairs: Pairs, faintest: float | None, count: int = SHIFTS) -> list[Claims]:
    """The claims of every list at every shift, one a frame and shift; what counts is as in `claims_of`."""
    return [
        claim(listing.moved(shift, place.shape), place, place.fainter(faintest))
        for listing, place in pairs
        for shift in shifts_of(place, count)
    ]


def matched_by_chance(shifted: Sequence[Claims], thresholds: Floats, count: int) -> Floats:
    """Detections of a shifted list that match all the same, at each threshold, shape (T,); the mean of the shifts."""
    scores = np.sort(np.concatenate([np.zeros(0), *(one.hits for one in shifted)]))
    return np.asarray((len(scores) - np.searchsorted(scores, thresholds, side="left")) / max(count, 1))


def chance_in(curve: Curve, matched: Floats) -> Floats:
    """How many of the right detections are right by chance, shape (T,).

    Parameters
    ----------
    curve : Curve
        As it was counted.
    matched : ndarray, shape (T,)
        Of the shifted list; see `matched_by_chance`.

    Notes
    -----
    A shifted list has all of its detections free to meet any source. In the list itself those that are a source's own
    are not free, nor is that source. So X, of R right, W wrong and N sources, is the share m / (N D) of pairs of a
    shifted detection and a source that match, times the pairs that are free: X = m / (N D) (W + X) (N - R + X) with
    D = R + W; the smaller root. A list of strays alone gives X = R, one without strays X = 0.
    """
    total = curve.right + curve.wrong
    rate = matched / np.maximum(total * max(curve.sources, 1), 1e-9)
    strays, missed = curve.wrong, curve.sources - curve.right
    half = 1 - rate * (strays + missed)
    root = np.sqrt(np.clip(half**2 - 4 * rate**2 * strays * missed, 0, None))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.where(rate > 0, 2 * rate * strays * missed / (half + root), 0.0)
    return np.clip(np.where(half > 0, chance, curve.right), 0, curve.right)
