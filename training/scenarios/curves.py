"""What becomes of a list as its threshold falls: one match serves all thresholds, for the surest choose first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lynceus.detections import Floats
from lynceus.matching import NONE, match_centres
from lynceus.scoring import RECALL_THRESHOLDS
from training.scenarios.listings import Bools, Listing, Pairs, Place

NEVER = -np.inf  # the score at which a source that nothing found is found


@dataclass(frozen=True, eq=False)
class Claims:
    """Which sources were found, and what was listed besides, at any threshold; frames together.

    Attributes
    ----------
    found_at : ndarray, shape (M,)
        For each source that counts the score of its detection: it is found at every threshold up to that; `NEVER`.
    snr : ndarray, shape (M,)
        Of these sources.
    strays : ndarray, shape (K,)
        Scores of the detections that are no source at all.
    """

    found_at: Floats
    snr: Floats
    strays: Floats

    @property
    def hits(self) -> Floats:
        """Scores of the detections that are a source that counts, shape (R,)."""
        return self.found_at[self.found_at > NEVER]

    def drawn(self, rng: np.random.Generator) -> "Claims":
        """The like, as another field might have it: every source and every stray comes as often as chance has it."""
        again, strays = rng.poisson(1.0, len(self.snr)), rng.poisson(1.0, len(self.strays))
        return Claims(np.repeat(self.found_at, again), np.repeat(self.snr, again), np.repeat(self.strays, strays))


def claim(listing: Listing, place: Place, ignored: Bools) -> Claims:
    """Match one list within one FWHM of every source, one detection a source, the surest first.

    Parameters
    ----------
    listing : Listing
        N detections.
    place : Place
        M sources.
    ignored : ndarray, shape (M,), bool
        Sources that absorb at most one detection each; it counts neither right nor wrong.
    """
    match = match_centres(listing.positions, listing.scores, place.positions, place.fwhm, ignored)
    found_at = np.full(len(place), NEVER)
    taken = match.source_of != NONE
    found_at[match.source_of[taken]] = listing.scores[taken]
    return Claims(found_at[~ignored], place.snr[~ignored], listing.scores[~taken])


def claims_of(pairs: Pairs, faintest: float | None) -> Claims:
    """Match all frames of a scene; sources fainter than `faintest` are ignored, none but those set aside if None."""
    return together([claim(listing, place, place.fainter(faintest)) for listing, place in pairs])


def together(claims: Sequence[Claims]) -> Claims:
    """Claims of many frames as one."""
    none = [np.zeros(0)]
    return Claims(
        np.concatenate(none + [one.found_at for one in claims]),
        np.concatenate(none + [one.snr for one in claims]),
        np.concatenate(none + [one.strays for one in claims]),
    )


@dataclass(frozen=True, eq=False)
class Curve:
    """How many detections are right and wrong at each threshold.

    Attributes
    ----------
    thresholds : ndarray, shape (T,)
        Falling: a detection counts from this score up.
    right, wrong : ndarray, shape (T,)
        Detections; not whole where chance matches are taken off, or between two lists.
    sources : int
        That count.
    """

    thresholds: Floats
    right: Floats
    wrong: Floats
    sources: int

    @property
    def completeness(self) -> Floats:
        """The share of the sources that are found, shape (T,)."""
        return self.right / max(self.sources, 1)

    @property
    def reliability(self) -> Floats:
        """The share of the detections that are sources, shape (T,)."""
        return np.asarray(self.right / np.maximum(self.right + self.wrong, 1e-9))

    @property
    def f1(self) -> Floats:
        """The harmonic mean of both, shape (T,)."""
        return np.asarray(2 * self.right / np.maximum(self.right + self.wrong + self.sources, 1e-9))

    def at(self, threshold: float) -> int | None:
        """Place of the last threshold that is no lower than this one; None if there is nothing above it."""
        place = int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1
        return place if place >= 0 else None

    def reaching(self, reliability: float) -> int | None:
        """Place of the threshold of highest completeness among those of at least this reliability; None without."""
        good = np.flatnonzero(self.reliability >= reliability)
        return int(good[np.argmax(self.right[good])]) if len(good) else None

    def without(self, chance: Floats) -> "Curve":
        """The curve with so many right detections counted as wrong, shape (T,)."""
        return Curve(self.thresholds, self.right - chance, self.wrong + chance, self.sources)


def curve_of(claims: Claims) -> Curve:
    """The curve along every score there is; detections of one score stand or fall together."""
    hits, strays = np.sort(claims.hits), np.sort(claims.strays)
    thresholds = np.unique(np.concatenate([hits, strays]))[::-1]
    right, wrong = (len(some) - np.searchsorted(some, thresholds, side="left") for some in (hits, strays))
    return Curve(thresholds, right.astype(float), wrong.astype(float), len(claims.found_at))


def average_precision(curves: Sequence[Curve]) -> float | None:
    """Mean over 101 completenesses of the best reliability at that completeness or beyond; None without sources.

    Parameters
    ----------
    curves : sequence of Curve
        Of one scene; at every completeness the best of them counts.
    """
    if not curves or not curves[0].sources:
        return None
    completeness = np.concatenate([one.completeness for one in curves])
    order = np.argsort(completeness, kind="stable")
    reliability = np.concatenate([one.reliability for one in curves])[order]
    best = np.append(np.maximum.accumulate(reliability[::-1])[::-1], 0.0)  # a completeness never reached: 0
    return float(best[np.searchsorted(completeness[order], RECALL_THRESHOLDS, side="left")].mean())


def between(points: Curve, steps: int = 16) -> Curve:
    """A curve of few points with others on straight lines between, as if some frames had the one and some the other.

    Parameters
    ----------
    points : Curve
        T points.
    steps : int
        From one to the next.
    """
    if len(points.thresholds) < 2:
        return points
    places = np.arange(len(points.thresholds))
    fine = np.linspace(0, places[-1], places[-1] * steps + 1)
    told = (points.thresholds, points.right, points.wrong)
    thresholds, right, wrong = (np.interp(fine, places, one) for one in told)
    return Curve(thresholds, right, wrong, points.sources)


def envelope(curves: Sequence[Curve]) -> Curve:
    """The best points of several curves: those that none is at once as complete and as reliable as."""
    thresholds, right, wrong, reliability = (
        np.concatenate([getattr(one, name) for one in curves])
        for name in ("thresholds", "right", "wrong", "reliability")
    )
    order = np.lexsort((reliability, right))[::-1]
    before = np.maximum.accumulate(np.append(-1.0, reliability[order]))[:-1]
    kept = order[reliability[order] > before][::-1]
    return Curve(thresholds[kept], right[kept], wrong[kept], curves[0].sources)
