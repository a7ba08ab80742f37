"""How deep a finder sees: the signal to noise at which it finds half of what is there, at a given reliability."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

from lynceus.detections import Floats
from lynceus.figures import Bin, Figures, Interval
from training.scenarios.chance import SHIFTS, chance_in, matched_by_chance
from training.scenarios.curves import Claims, curve_of, together

RELIABILITY = 0.95
DEPTH_EDGES = np.linspace(2.0, 8.0, 25)  # of the fit
SNR_EDGES = np.array([0, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 10, 15, 25, 50, np.inf])  # of what is shown
LEAST_SOURCES = 20  # between the edges of the fit
CENTRES = (0.0, 20.0)  # of the fall from all to none, in signal to noise
WIDTHS = (0.1, 6.0)  # its standard deviation; a matched filter's is 1
CEILINGS = (0.02, 0.9999)  # completeness of the brightest
STARTS = (np.array([4.0, 1.0, 0.98]), np.array([3.0, 1.0, 0.8]), np.array([6.0, 1.5, 0.98]))
HALF = 0.5
TINY = 1e-9
DRAWS = 60


class Depth(Figures):
    """How deep a finder sees, nothing being ignored.

    Attributes
    ----------
    snr50 : float or None
        The signal to noise of half completeness, chance matches taken off; 2 if it is lower. None if half of the
        sources of signal to noise 8 are not found, if no threshold is reliable enough, or for want of sources.
    interval : (float, float) or None
        That holds it with 95 %: from draws of sources and strays, the threshold found anew in each. An end of 8 is 8
        or more.
    threshold : float or None
        At which the list is as reliable as asked.
    completeness, reliability : float or None
        Of the whole list there, nothing ignored.
    by_snr : tuple of Bin
        Completeness by signal to noise there, as counted; chance matches are in it.
    chance_by_snr : tuple of float
        The share of each bin that is found by chance.
    """

    snr50: float | None
    interval: Interval | None
    threshold: float | None
    completeness: float | None
    reliability: float | None
    by_snr: tuple[Bin, ...]
    chance_by_snr: tuple[float, ...]


NO_DEPTH = Depth(
    snr50=None, interval=None, threshold=None, completeness=None, reliability=None, by_snr=(), chance_by_snr=()
)


def depth_of(
    lists: Sequence[tuple[Claims, Sequence[Claims]]],
    shifts: int = SHIFTS,
    *,
    reliability: float = RELIABILITY,
    draws: int = DRAWS,
) -> Depth:
    """Measure how deep a finder goes.

    Parameters
    ----------
    lists : sequence of (Claims, sequence of Claims)
        What it lists, nothing ignored, and the same shifted (see `shifted_claims`). Of several, lists by different
        thresholds of its own, that one is taken which is the most complete at the reliability asked for.
    shifts : int
        How often each frame's was shifted.
    reliability : float
        The threshold is the one of highest completeness from this reliability up, chance matches counted as wrong.
    draws : int
        For the interval; none without.
    """
    reached = [(one, shifted, fair) for one, shifted in lists if (fair := _reach(one, shifted, shifts, reliability))]
    if not reached:
        return NO_DEPTH
    claims, shifted, fair = max(reached, key=lambda one: one[2].completeness)
    by_chance = fair.stray * chance_share(shifted, fair.threshold, DEPTH_EDGES)
    found, total, snr = binned(claims, fair.threshold, DEPTH_EDGES)
    shown, shown_total, _ = binned(claims, fair.threshold, SNR_EDGES)
    fitted = fit_fall(found, total, snr, by_chance)
    rng = np.random.default_rng(len(claims.snr))
    again = [_redrawn(claims.drawn(rng), fair.excess, by_chance, reliability, fitted) for _ in range(draws)]
    return Depth(
        snr50=half_point(fitted),
        interval=_interval(again) if half_point(fitted) is not None else None,
        threshold=fair.threshold,
        completeness=fair.completeness,
        reliability=fair.reliability,
        by_snr=_bins(shown, shown_total),
        chance_by_snr=tuple((fair.stray * chance_share(shifted, fair.threshold, SNR_EDGES)).tolist()),
    )


@dataclass(frozen=True)
class Reach:
    """The threshold of a reliability: what the list is there, chance matches taken off."""

    threshold: float
    completeness: float
    reliability: float
    excess: float  # of the reliability as counted, over the fair one

    @property
    def stray(self) -> float:
        """The share of the detections that are no source's own."""
        return 1 - self.reliability


def _reach(claims: Claims, shifted: Sequence[Claims], shifts: int, reliability: float) -> Reach | None:
    """Where a list is as reliable as asked; None if it is nowhere."""
    curve = curve_of(claims)
    fair = curve.without(chance_in(curve, matched_by_chance(shifted, curve.thresholds, shifts)))
    place = fair.reaching(reliability)
    if place is None:
        return None
    excess = curve.reliability[place] - fair.reliability[place]
    told = (fair.thresholds, fair.completeness, fair.reliability, np.full(len(fair.thresholds), excess))
    return Reach(*(float(one[place]) for one in told))


def binned(claims: Claims, threshold: float, edges: Floats) -> tuple[Floats, Floats, Floats]:
    """Sources found, sources there, and their mean signal to noise, between edges, shape (B,) each."""
    inside = np.digitize(claims.snr, edges) - 1
    inside = np.where((inside < 0) | (inside >= len(edges) - 1), len(edges) - 1, inside)
    total, found, snr = (
        np.bincount(inside, weights, len(edges))[:-1].astype(float)
        for weights in (None, claims.found_at >= threshold, claims.snr)
    )
    return found, total, np.divide(snr, total, out=np.zeros_like(snr), where=total > 0)


def chance_share(shifted: Sequence[Claims], threshold: float, edges: Floats) -> Floats:
    """The share of the sources between edges that a shifted list meets, shape (B,)."""
    found, total, _ = binned(together(shifted), threshold, edges)
    return np.asarray(np.divide(found, total, out=np.zeros_like(found), where=total > 0))


def fit_fall(
    found: Floats, total: Floats, snr: Floats, chance: Floats, starts: Sequence[Floats] = STARTS
) -> Floats | None:
    """Fit completeness as an error function of the signal to noise.

    Parameters
    ----------
    found, total, snr, chance : ndarray, shape (B,)
        In each bin: sources found, sources there, their mean signal to noise, and the share found by chance alone.
    starts : sequence of ndarray, shape (3,)
        Where the fit may start.

    Returns
    -------
    ndarray, shape (3,), or None
        Centre and width, in signal to noise, and ceiling; None with too few sources.

    Notes
    -----
    The likeliest: a fit uses every bin, where a line between two of them hangs on those two. The noise of a filtered
    frame is Gaussian, and so is what lifts a source over a threshold or keeps it under; the ceiling is the completeness
    of the brightest, which a crowded field keeps under 1.
    """
    used = total > 0
    if total.sum() < LEAST_SOURCES or not found.sum():
        return None
    found, missed, chance, snr = found[used], (total - found)[used], np.clip(chance[used], 0, 0.95), snr[used]

    def unlikely(values: Floats) -> tuple[float, Floats]:
        """Minus the logarithm of the likelihood, and its slopes."""
        centre, width, ceiling = values
        away = (snr - centre) / width
        share = np.clip(chance + (1 - chance) * ceiling * ndtr(away), TINY, 1 - TINY)
        slope = missed / (1 - share) - found / share
        dense = np.exp(-(away**2) / 2) / np.sqrt(2 * np.pi) * ceiling / width
        slopes = (-slope * dense, -slope * dense * away, slope * ndtr(away))
        value = -(found * np.log(share) + missed * np.log1p(-share)).sum()
        return float(value), np.array([(one * (1 - chance)).sum() for one in slopes])

    fits = [
        minimize(unlikely, start, jac=True, bounds=(CENTRES, WIDTHS, CEILINGS), method="L-BFGS-B") for start in starts
    ]
    return np.asarray(min(fits, key=lambda fit: float(fit.fun)).x)


def half_point(fitted: Floats | None) -> float | None:
    """The signal to noise of half completeness, no less than the lowest edge; None past the highest, or of nothing."""
    if fitted is None or fitted[2] <= HALF:
        return None
    centre, width, ceiling = fitted
    half = float(centre + width * ndtri(HALF / ceiling))
    return None if half > DEPTH_EDGES[-1] else max(half, float(DEPTH_EDGES[0]))


def _redrawn(claims: Claims, excess: float, chance: Floats, reliability: float, fitted: Floats | None) -> float | None:
    """The half point of a field drawn again, at a threshold found again; chance is as it was."""
    curve = curve_of(claims)
    place = curve.reaching(min(reliability + excess, 1.0))
    if place is None or fitted is None:
        return None
    return half_point(fit_fall(*binned(claims, float(curve.thresholds[place]), DEPTH_EDGES), chance, [fitted]))


def _interval(values: Sequence[float | None]) -> Interval | None:
    """What holds 95 % of the values, one that is not defined being past the highest edge; None of no values."""
    if not values:
        return None
    low, high = np.percentile([DEPTH_EDGES[-1] if one is None else one for one in values], [2.5, 97.5])
    return float(low), float(high)


def _bins(found: Floats, total: Floats) -> tuple[Bin, ...]:
    ends = [float(edge) if np.isfinite(edge) else None for edge in SNR_EDGES]
    return tuple(Bin.of(*pair, int(n), int(k)) for pair, n, k in zip(pairwise(ends), total, found, strict=True))
