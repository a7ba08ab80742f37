"""How any list of positions and scores is scored on a scene: the same for every finder of sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lynceus.detections import Floats
from lynceus.figures import Figures
from training.scenarios.chance import SHIFTS, chance_in, matched_by_chance, shifted_claims
from training.scenarios.curves import Claims, Curve, average_precision, between, claims_of, curve_of, envelope
from training.scenarios.depth import DRAWS, Depth, depth_of
from training.scenarios.listings import FAINTEST, Listing, Pairs, Place, place_of

__all__ = [
    "FAINTEST",
    "Listing",
    "Pairs",
    "Place",
    "SceneFigures",
    "best_f1",
    "place_of",
    "score_listings",
    "score_sweep",
]

RELIABILITIES = (0.95, 0.9)
MOST_POINTS = 120  # of a curve that is kept
PIXELS = 1e6


class Point(Figures):
    """One threshold of a curve, chance matches counted as wrong."""

    threshold: float
    completeness: float
    reliability: float


class SceneFigures(Figures):
    """How good a finder is on the frames of one scene; a figure that is not defined is None.

    Attributes
    ----------
    frames, sources : int
        That were scored; sources that count.
    shipped : float or None
        The threshold it comes with.
    f1_shipped, completeness_shipped, reliability_shipped : float or None
        There, as counted.
    best_f1, best_threshold : float or None
        The highest F1 at any threshold, as counted, and the threshold.
    ap : float or None
        Average precision, as counted.
    completeness_at : dict of str to float
        At reliabilities "0.95" and "0.90": the highest completeness of any threshold that is as reliable, chance
        matches counted as wrong; 0 where none is. Empty without sources.
    chance : float or None
        Of the list at the shipped threshold (the best without one), shifted: the share of its detections that match
        all the same.
    chance_matches : float or None
        How many of the matches there are then thought to be chance, as a share; see
        `training.scenarios.chance.chance_in`.
    per_megapixel, false_per_megapixel : float
        Detections in a million pixels at the shipped threshold (all without one), and those that are no source.
    depth : Depth
        Nothing ignored.
    curve : tuple of Point
        Completeness against reliability.
    """

    frames: int
    sources: int
    shipped: float | None
    f1_shipped: float | None
    completeness_shipped: float | None
    reliability_shipped: float | None
    best_f1: float | None
    best_threshold: float | None
    ap: float | None
    completeness_at: dict[str, float]
    chance: float | None
    chance_matches: float | None
    per_megapixel: float
    false_per_megapixel: float
    depth: Depth
    curve: tuple[Point, ...]

    @property
    def snr50(self) -> float | None:
        """The signal to noise of half completeness at 95 % reliability; None if it is over 8 or not known."""
        return self.depth.snr50


def score_listings(
    pairs: Pairs,
    shipped: float | None = None,
    faintest: float = FAINTEST,
    *,
    shifts: int = SHIFTS,
    draws: int = DRAWS,
) -> SceneFigures:
    """Score what a finder lists on the frames of one scene, its threshold being one on the scores.

    Parameters
    ----------
    pairs : sequence of (Listing, Place)
        One a frame: the list at any score, and what is there.
    shipped : float or None
        The threshold it comes with; None for none.
    faintest : float
        Sources of a lower signal to noise absorb a detection each and do not count, but for the depth.
    shifts : int
        How often each list is shifted to see what matches by chance.
    draws : int
        For the interval of the depth.

    Notes
    -----
    A detection is a source within one of the source's FWHM; the surest chooses first, so that what is listed at low
    scores changes nothing at higher ones.
    """
    run = _Run.of(pairs, faintest, shifts)
    threshold = _best_threshold(run.counted) if shipped is None else shipped
    return SceneFigures(
        **_at(run, threshold, shipped),
        **_per_area(run, -np.inf if shipped is None else shipped, pairs),
        **_best(run.counted.f1, run.counted.thresholds, run.counted),
        **_along([run.counted], [run.fair]),
        depth=depth_of([run.deep], shifts, draws=draws),
        curve=_points(run.fair),
    )


def score_sweep(
    runs: Mapping[float, Sequence[Listing]],
    places: Sequence[Place],
    shipped: float | None = None,
    faintest: float = FAINTEST,
    *,
    shifts: int = SHIFTS,
    draws: int = DRAWS,
) -> SceneFigures:
    """Score a finder whose curve is a sweep of a threshold of its own, at its best.

    Parameters
    ----------
    runs : mapping of float to sequence of Listing
        At each threshold the list of every frame, in the order of `places`. Scores rank within a list, and need not
        mean the same at another threshold; where all are equal they rank nothing.
    places : sequence of Place
        What is there.
    shipped : float or None
        The threshold it comes with, one of those of `runs`: its whole list counts.
    faintest, shifts, draws
        As in `score_listings`.

    Notes
    -----
    Every figure but those at the shipped threshold is the best of two: of the sweep, whole lists with straight lines
    between neighbours; and of every list cut at every score. Its best F1, completeness and average precision thus
    come from thresholds chosen on the very frames it is scored on, two of them: no less than it could have in use.

    Raises
    ------
    ValueError
        If a run lacks frames, or `shipped` is none of them.
    """
    if not runs or any(len(listings) != len(places) for listings in runs.values()):
        raise ValueError(f"every run needs {len(places)} lists")
    if shipped is not None and shipped not in runs:
        raise ValueError(f"there is no run at {shipped:g}")
    thresholds = sorted(runs, reverse=True)
    swept = [_Run.of(list(zip(runs[one], places, strict=True)), faintest, shifts) for one in thresholds]
    whole = between(_whole(thresholds, [one.counted for one in swept]))
    whole_fair = between(_whole(thresholds, [one.fair for one in swept]))
    cut = np.array([one.counted.f1.max(initial=0.0) for one in swept])
    shown = thresholds.index(shipped) if shipped is not None else int(np.argmax(cut))
    pairs = list(zip(runs[thresholds[shown]], places, strict=True))
    fair = [whole_fair, *(one.fair for one in swept)]
    return SceneFigures(
        **_at(swept[shown], -np.inf, shipped),
        **_per_area(swept[shown], -np.inf, pairs),
        **_best(np.append(cut, whole.f1), np.append(thresholds, whole.thresholds), whole),
        **_along([whole, *(one.counted for one in swept)], fair),
        depth=depth_of([one.deep for one in swept], shifts, draws=draws),
        curve=_points(envelope(fair)),
    )


def best_f1(pairs: Pairs, faintest: float = FAINTEST) -> tuple[float, float]:
    """The highest F1 at any threshold, as counted, and the threshold: all that tuning needs; (0, 0) of nothing."""
    curve = curve_of(claims_of(pairs, faintest))
    return float(curve.f1.max(initial=0.0)), _best_threshold(curve)


@dataclass(frozen=True, eq=False)
class _Run:
    """One list of every frame: its curve as counted and less chance, and its claims with nothing ignored."""

    scores: Floats
    counted: Curve
    fair: Curve
    matched: Floats  # of the shifted list, at each threshold
    deep: tuple[Claims, list[Claims]]

    @classmethod
    def of(cls, pairs: Pairs, faintest: float, shifts: int) -> "_Run":
        counted = curve_of(claims_of(pairs, faintest))
        matched = matched_by_chance(shifted_claims(pairs, faintest, shifts), counted.thresholds, shifts)
        deep = claims_of(pairs, None), shifted_claims(pairs, None, shifts)
        scores = np.concatenate([np.zeros(0), *(listing.scores for listing, _ in pairs)])
        return cls(scores, counted, counted.without(chance_in(counted, matched)), matched, deep)


def _at(run: _Run, threshold: float, shipped: float | None) -> dict[str, Any]:
    """Figures at one threshold; those of a shipped one only if this is it."""
    place, sources = run.counted.at(threshold), run.counted.sources
    right, wrong, fair, matched = (
        (0.0, 0.0, 0.0, 0.0)
        if place is None
        else (float(one[place]) for one in (run.counted.right, run.counted.wrong, run.fair.right, run.matched))
    )
    known = shipped is not None and sources > 0
    return {
        "sources": sources,
        "shipped": shipped,
        "f1_shipped": 2 * right / (right + wrong + sources) if known else None,
        "completeness_shipped": right / sources if known else None,
        "reliability_shipped": right / (right + wrong) if known and right + wrong else None,
        "chance": matched / (right + wrong) if right + wrong else None,
        "chance_matches": 1 - fair / right if right else None,
    }


def _per_area(run: _Run, threshold: float, pairs: Pairs) -> dict[str, Any]:
    """Detections by area from a score up; the false ones are those that no source, not even a faint one, takes."""
    pixels = sum(place.shape[0] * place.shape[1] for _, place in pairs) / PIXELS
    strays = run.deep[0].strays
    return {
        "frames": len(pairs),
        "per_megapixel": float((run.scores >= threshold).sum()) / pixels,
        "false_per_megapixel": float((strays >= threshold).sum()) / pixels,
    }


def _best(f1: Floats, thresholds: Floats, curve: Curve) -> dict[str, float | None]:
    """The highest of several F1, and its threshold."""
    if not curve.sources or not len(f1):
        return {"best_f1": 0.0 if curve.sources else None, "best_threshold": None}
    best = int(np.argmax(f1))
    return {"best_f1": float(f1[best]), "best_threshold": float(thresholds[best])}


def _along(counted: Sequence[Curve], fair: Sequence[Curve]) -> dict[str, Any]:
    """What whole curves tell, the best of several."""
    reached = {f"{level:.2f}": max(_completeness(one, level) for one in fair) for level in RELIABILITIES}
    return {"ap": average_precision(counted), "completeness_at": reached if fair[0].sources else {}}


def _completeness(curve: Curve, reliability: float) -> float:
    place = curve.reaching(reliability)
    return 0.0 if place is None else float(curve.completeness[place])


def _best_threshold(curve: Curve) -> float:
    return float(curve.thresholds[np.argmax(curve.f1)]) if len(curve.thresholds) else 0.0


def _whole(thresholds: Sequence[float], curves: Sequence[Curve]) -> Curve:
    """The curve of whole lists, one point each."""
    right, wrong = (
        np.array([getattr(one, name)[-1] if len(one.thresholds) else 0.0 for one in curves])
        for name in ("right", "wrong")
    )
    return Curve(np.array(thresholds), right, wrong, curves[0].sources)


def _points(curve: Curve) -> tuple[Point, ...]:
    """Some points of a curve, even in completeness, its ends among them."""
    if not len(curve.thresholds) or not curve.sources:
        return ()
    wanted = np.linspace(0, curve.right[-1], MOST_POINTS)
    places = np.unique(np.clip(np.searchsorted(curve.right, wanted), 0, len(curve.right) - 1))
    told = zip(curve.thresholds[places], curve.completeness[places], curve.reliability[places], strict=True)
    return tuple(Point(threshold=float(t), completeness=float(c), reliability=float(r)) for t, c, r in told)
