"""Whether a score means what it says: of the detections of score 0.7, seven in ten are to be sources."""

import numpy as np

from lynceus.detections import Floats
from lynceus.figures import Figures, Interval, wilson
from lynceus.matching import match_centres
from training.scenarios.listings import Bools, Listing, Pairs, Place

LEAST_SNR = 2.0  # of a source that makes a detection right; what is fainter nobody can tell from noise
SCORES = (0.1, 0.9)  # the error is over scores between these
IN_A_BIN = 200  # detections, at least: of 100, noise alone looks like an error of 0.03
MOST_BINS = 10
LEAST = 30  # detections, to say anything


class CalibrationBin(Figures):
    """Detections of like scores: the mean of their scores, how many they are, and how many of them are right.

    `interval` holds the share of the right ones with a confidence of 95 %.
    """

    score: float
    count: int
    hits: int
    share: float
    interval: Interval


class Calibration(Figures):
    """How far scores are from the share of detections that are right.

    Attributes
    ----------
    least_snr : float
        A detection is right if it is a source of this signal to noise or more.
    detections : int
        Of a score between 0.1 and 0.9.
    error : float or None
        Of these: the mean distance of score and share over bins of equal numbers; None with too few.
    noise : float or None
        What that error would be on average if every score meant what it says, by the few in each bin alone.
    lean : float or None
        The mean score less the share that is right: above 0 if they are too sure.
    bins : tuple of CalibrationBin
        The bins, by rising score.
    ends : tuple of CalibrationBin
        Of the detections of lower scores, and of higher ones.
    """

    least_snr: float
    detections: int
    error: float | None
    noise: float | None
    lean: float | None
    bins: tuple[CalibrationBin, ...]
    ends: tuple[CalibrationBin, ...]


def rightness(listing: Listing, place: Place, least_snr: float = LEAST_SNR) -> tuple[Bools, Bools]:
    """Which detections of a frame are right, and which count.

    Parameters
    ----------
    listing : Listing
        N detections.
    place : Place
        A detection is right if it is one of its sources of `least_snr` or more, within one FWHM, the surest choosing
        first. One on a fainter source is wrong. One on a source that never counts does not count.
    least_snr : float
        See above.

    Returns
    -------
    right, counts : ndarray, shape (N,), bool
        In the order of the list.
    """
    with np.errstate(invalid="ignore"):
        there = ~(place.snr < least_snr)
    aside = place.aside[there]
    match = match_centres(listing.positions, listing.scores, place.positions[there], place.fwhm[there], aside)
    return match.right, ~match.absorbed


def calibration_of(pairs: Pairs, least_snr: float = LEAST_SNR) -> Calibration:
    """How well the scores of a scene's lists, between 0 and 1, are calibrated."""
    scores: list[Floats] = [np.zeros(0)]
    right: list[Bools] = [np.zeros(0, bool)]
    for listing, place in pairs:
        hit, counts = rightness(listing, place, least_snr)
        scores.append(listing.scores[counts])
        right.append(hit[counts])
    return calibration(np.concatenate(scores), np.concatenate(right), least_snr)


def calibration(scores: Floats, right: Bools, least_snr: float = LEAST_SNR) -> Calibration:
    """The same from scores, shape (N,), and whether each detection is right, shape (N,)."""
    order = np.argsort(scores, kind="stable")
    scores, right = scores[order], right[order]
    low, high = np.searchsorted(scores, SCORES[0], side="left"), np.searchsorted(scores, SCORES[1], side="right")
    inner, inner_right = scores[low:high], right[low:high]
    count = len(inner)
    parts = np.array_split(np.arange(count), min(max(count // IN_A_BIN, 1), MOST_BINS))
    bins = [_bin(inner[part], inner_right[part]) for part in parts if len(part)]
    known = count >= LEAST
    ends = [(scores[:low], right[:low]), (scores[high:], right[high:])]
    return Calibration(
        least_snr=least_snr,
        detections=count,
        error=sum(one.count * abs(one.score - one.share) for one in bins) / count if known else None,
        noise=sum(_by_chance(one) for one in bins) / count if known else None,
        lean=float(inner.mean() - inner_right.mean()) if known else None,
        bins=tuple(bins),
        ends=tuple(_bin(*end) for end in ends if len(end[0])),
    )


def _bin(scores: Floats, right: Bools) -> CalibrationBin:
    hits, count = int(right.sum()), len(scores)
    interval = wilson(hits, count) or (0.0, 1.0)
    return CalibrationBin(score=float(scores.mean()), count=count, hits=hits, share=hits / count, interval=interval)


def _by_chance(one: CalibrationBin) -> float:
    """The mean distance of a share from its expectation, times the count."""
    return float(np.sqrt(2 / np.pi * one.count * one.score * (1 - one.score)))
