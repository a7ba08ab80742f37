"""From lists of detections to evidence: who found the planted stars, and whose boxes are where they should be."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from lynceus.evidence import Both, Offsets, Stars
from lynceus.pairing import Listed, Pairing

NONE = -1
LEAST_RADIUS = 2.5  # pixels; boxes shifted by 1.5 px about a faint star must still count as that star
LEAST_COMMON = 3  # sources that both found, for their boxes to be looked at
CERTAIN_SNR = 10.0  # the centroid of such a source is good to a tenth of a pixel


def sightings(places: Floats, fwhm: float, seen: Listed) -> NDArray[np.intp]:
    """Which detection is which planted star.

    Parameters
    ----------
    places : ndarray, shape (N, 2)
        Of the stars, 0-based pixel centres, far from each other.
    fwhm : float
        Of the stars, in pixels.
    seen : Listed
        M detections on the frame with the stars.

    Returns
    -------
    ndarray, shape (N,)
        Index of the detection whose position or box centre is nearest, -1 where none is within a FWHM.
    """
    if not len(seen):
        return np.full(len(places), NONE, np.intp)
    distances, nearest = zip(*(cKDTree(points).query(places) for points in (seen.positions, seen.centres)), strict=True)
    by_box = distances[1] < distances[0]
    found = np.where(by_box, nearest[1], nearest[0])
    return np.where(np.minimum(*distances) <= max(fwhm, LEAST_RADIUS), found, NONE)


def count_stars(snr: Floats, found: Sequence[NDArray[np.intp]], faint_below: float) -> list[Stars]:
    """Count who found what, of the stars under a signal to noise and of those above it.

    Parameters
    ----------
    snr : ndarray, shape (N,)
        Of the stars.
    found : sequence of ndarray, shape (N,)
        From `sightings`, stable's and the canary's.
    faint_below : float
        What is faint.

    Returns
    -------
    list of Stars
        Faint, bright.
    """
    stable, canary = (index != NONE for index in found)
    return [
        Stars(planted=int(part.sum()), stable=int(stable[part].sum()), canary=int(canary[part].sum()))
        for part in (snr < faint_below, snr >= faint_below)
    ]


def offsets_of_stars(places: Floats, lists: Sequence[Listed], found: Sequence[NDArray[np.intp]]) -> Offsets | None:
    """How far both versions' boxes lie from the planted stars that both found.

    Parameters
    ----------
    places : ndarray, shape (N, 2)
        Of the stars, 0-based pixel centres.
    lists : sequence of Listed
        Stable's and the canary's, on the frame with the stars.
    found : sequence of ndarray, shape (N,)
        From `sightings`, of each.

    Returns
    -------
    Offsets or None
        None where they have too few in common.
    """
    common = (found[0] != NONE) & (found[1] != NONE)
    if common.sum() < LEAST_COMMON:
        return None
    off = [seen.centres[index[common]] - places[common] for seen, index in zip(lists, found, strict=True)]
    return _offsets(off, "planted stars")


def offsets_of_centroids(pairing: Pairing) -> Offsets | None:
    """How far both versions' boxes lie from the centroids measured in them, for the brighter of what both found.

    Parameters
    ----------
    pairing : Pairing
        Of the lists on the frame itself.

    Returns
    -------
    Offsets or None
        None where they have too few in common.
    """
    pairs = pairing.pairs[pairing.stable.snr[pairing.pairs[:, 0]] >= CERTAIN_SNR]
    if len(pairs) < LEAST_COMMON:
        return None
    lists = (pairing.stable, pairing.canary)
    off = [(seen.centres - seen.positions)[index] for seen, index in zip(lists, pairs.T, strict=True)]
    return _offsets(off, "measured centroids")


def _offsets(off: Sequence[Floats], reference: Literal["planted stars", "measured centroids"]) -> Offsets:
    distance, x, y = (
        Both(stable=float(np.median(stable)), canary=float(np.median(canary)))
        for stable, canary in (
            [np.hypot(*one.T) for one in off],
            [one[:, 0] for one in off],
            [one[:, 1] for one in off],
        )
    )
    return Offsets(reference=reference, count=len(off[0]), distance=distance, x=x, y=y)
