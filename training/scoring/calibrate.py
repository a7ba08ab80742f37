"""Learn from labelled frames how probable it is that a detection is a source, and from which probability on to list it.

The judge is fitted on frames of several scenes, each with the same weight, so that no crowded field outvotes the rest.
Leaving one scene out at a time tells whether what was learned holds for a kind of frame that was not there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import Field
from scipy.optimize import minimize

from lynceus.detections import Floats
from lynceus.detector import Detector
from lynceus.judge import Feature, JudgeSpec, Term, probability, ramps
from lynceus.second_look import FEATURES, RISING, evidence
from lynceus.spec import Spec
from training.errors import TrainingError
from training.scenarios.calibration import LEAST_SNR, calibration_of, rightness
from training.scenarios.curves import claims_of
from training.scenarios.listings import FAINTEST, Listing, Pairs, Place, place_of
from training.scoring.evaluate import THRESHOLDS, f1_at
from training.tiling.exposures import LabelledExposure

Knots = tuple[float, ...]
SCENE_WEIGHT, FEWEST = 1000.0, 200  # of a scene; one with fewer detections weighs less
ROUNDS = 2  # the surest chooses its source first, so that who is right depends a little on the scores


def _logs(*values: float) -> Knots:
    return tuple(float(np.round(np.log(value), 4)) for value in values)


class TermPlan(Spec):
    """A term that is to be fitted: its features, and their knots; `ridge` is the plan's own where it is None."""

    features: tuple[Feature, ...]
    knots: tuple[Knots, ...]
    ridge: float | None = Field(None, gt=0)


FRAME_RIDGE = 2.0  # of what all detections of a frame share: frames are few, and their kinds far apart
SNR_KNOTS = _logs(1.5, 2.5, 3.5, 4.5, 6, 9, 20, 100)
PLAN = (
    TermPlan(features=("score",), knots=((-4, -2.5, -1.5, 0, 1.5, 3, 4.5, 6, 8),)),
    TermPlan(features=("signal",), knots=(SNR_KNOTS,)),
    TermPlan(features=("contrast",), knots=(SNR_KNOTS,)),
    TermPlan(features=("size",), knots=(_logs(0.5, 0.7, 0.9, 1.1, 1.4, 2, 4),)),
    TermPlan(features=("apart",), knots=(_logs(0.25, 0.5, 1, 2, 4, 10),)),
    TermPlan(features=("score", "contrast"), knots=((-3, 0, 3, 6), _logs(2, 4, 8, 50))),
    TermPlan(features=("crowding",), knots=((0, 0.3, 1),), ridge=FRAME_RIDGE),
    TermPlan(features=("evenness",), knots=((-1.5, -0.5, 0.5),), ridge=FRAME_RIDGE),
    TermPlan(features=("doubt",), knots=((-1, 0, 1, 2.2),), ridge=FRAME_RIDGE),
    TermPlan(features=("crowding", "score"), knots=((0.2, 0.6), (-3, 0, 3)), ridge=3 * FRAME_RIDGE),
    TermPlan(features=("doubt", "score"), knots=((0.5, 1.2, 2), (-1, 1.5, 4)), ridge=FRAME_RIDGE),
)


class CalibrateSpec(Spec):
    """How a judge is fitted.

    Attributes
    ----------
    plan : tuple of TermPlan
        The terms. The probability never falls with the score, the signal or the contrast.
    ridge : float
        Weight of the squared coefficients beside `SCENE_WEIGHT` for the log likelihood of each scene.
    least_snr : float
        A detection is right if it is a source of this signal to noise or more.
    """

    plan: tuple[TermPlan, ...] = PLAN
    ridge: float = Field(20.0, gt=0)
    least_snr: float = LEAST_SNR


@dataclass(frozen=True, eq=False)
class Looked:
    """A labelled frame as the judge sees it: what is listed with the network's scores, its evidence, what is there."""

    listing: Listing
    features: Floats
    place: Place

    def judged(self, judge: JudgeSpec | None) -> tuple[Listing, Place]:
        """The list with the judge's scores, or with the network's own, beside what is there."""
        if judge is None:
            return self.listing, self.place
        return Listing(self.listing.positions, probability(self.features, judge)), self.place


Scenes = Mapping[str, Sequence[Looked]]


@dataclass(frozen=True)
class Calibrated:
    """A judge, and the threshold with the best mean F1 over the scenes it was fitted on, with that F1."""

    judge: JudgeSpec
    threshold: float
    f1: float


@dataclass(frozen=True)
class Errors:
    """Calibration errors of one scene: of the network's scores, of the judge's, of one that never saw the scene."""

    before: float | None
    after: float | None
    unseen: float | None


def calibrate(
    detector: Detector, scenes: Mapping[str, Iterable[LabelledExposure]], spec: CalibrateSpec | None = None
) -> Calibrated:
    """Fit a judge for a detector.

    Parameters
    ----------
    detector : Detector
        A judge that it has already is left aside.
    scenes : mapping of str to iterable of LabelledExposure
        By scene; read one at a time.
    spec : CalibrateSpec or None
        The defaults where it is None.

    Returns
    -------
    Calibrated
        What `DetectorSpec.judge` and `DetectorSpec.min_score` are to be.

    Raises
    ------
    TrainingError
        If nothing right or nothing wrong was found: then there is nothing to tell apart.
    """
    looked = look(detector, scenes)
    judge = fit(looked, spec)
    threshold, f1 = best_mean_threshold(judged(looked, judge))
    return Calibrated(judge, threshold, f1)


def look(detector: Detector, scenes: Mapping[str, Iterable[LabelledExposure]]) -> dict[str, list[Looked]]:
    """What a detector finds on labelled frames, and the evidence for it."""
    plain = Detector(
        detector.network, detector.spec.model_copy(update={"judge": None}), detector.device, detector.workers
    )
    return {name: [_look(plain, one) for one in exposures] for name, exposures in scenes.items()}


def _look(detector: Detector, exposure: LabelledExposure) -> Looked:
    cut = detector.cut(exposure.frame)
    found = detector.join(cut, detector.run(cut.all_tiles))
    features = evidence(exposure.frame, cut.sky, found, detector.spec.measure.box_scale)
    return Looked(Listing.of(found), features, place_of(exposure))


def judged(scenes: Scenes, judge: JudgeSpec | None) -> dict[str, Pairs]:
    """The lists of every scene as a judge scores them, or as the network did."""
    return {name: [one.judged(judge) for one in looked] for name, looked in scenes.items()}


def best_mean_threshold(scenes: Mapping[str, Pairs], faintest: float = FAINTEST) -> tuple[float, float]:
    """The threshold with the best mean F1 over the scenes that have sources, and that mean.

    Parameters
    ----------
    scenes : mapping of str to pairs of Listing and Place
        Their scores mean the same in all.
    faintest : float
        Sources of a lower signal to noise are ignored.

    Returns
    -------
    (float, float)
        The lowest of the best thresholds; an F1 of 0 where there is nothing to find.
    """
    claims = [claims_of(pairs, faintest) for pairs in scenes.values()]
    curves = [f1_at(THRESHOLDS, one.hits, one.strays, len(one.found_at)) for one in claims if len(one.found_at)]
    mean = np.mean(curves, axis=0) if curves else np.zeros(len(THRESHOLDS))
    best = int(np.argmax(mean))
    return float(THRESHOLDS[best]), float(mean[best])


def fit(scenes: Scenes, spec: CalibrateSpec | None = None) -> JudgeSpec:
    """Fit a judge by penalised likelihood; every scene counts the same.

    Raises
    ------
    TrainingError
        If nothing right or nothing wrong was found.
    """
    spec = spec or CalibrateSpec()
    judge: JudgeSpec | None = None
    for _ in range(ROUNDS):
        judge = _fit(scenes, judge, spec)
    assert judge is not None
    return judge


def without_each(scenes: Scenes, spec: CalibrateSpec | None = None) -> dict[str, JudgeSpec]:
    """For each scene the judge that the other scenes teach."""
    return {name: fit({other: one for other, one in scenes.items() if other != name}, spec) for name in scenes}


def calibration_errors(
    scenes: Scenes, judge: JudgeSpec, unseen: Mapping[str, JudgeSpec] | None = None
) -> dict[str, Errors]:
    """How far scores are from what they claim, scene by scene.

    Parameters
    ----------
    scenes : mapping of str to sequence of Looked
        Best frames that no judge was fitted on.
    judge : JudgeSpec
        Fitted on all scenes.
    unseen : mapping of str to JudgeSpec or None
        As `without_each` gives them, for the same scenes.
    """
    errors = {}
    for name, looked in scenes.items():
        judges = (None, judge, (unseen or {}).get(name))
        before, after, left_out = (calibration_of([one.judged(some) for one in looked]).error for some in judges)
        errors[name] = Errors(before, after, left_out if unseen and name in unseen else None)
    return errors


def _fit(scenes: Scenes, before: JudgeSpec | None, spec: CalibrateSpec) -> JudgeSpec:
    """One fit; `before` says who chooses first."""
    features, right, weight = _table(scenes, before, spec.least_snr)
    if not right.any() or right.all():
        raise TrainingError("a judge needs right and wrong detections to tell them apart, and there is only one kind")
    parts = [ramps(features, one.features, one.knots) for one in spec.plan]
    columns = np.concatenate([np.ones((len(features), 1)), *parts], axis=1)
    lowest = [0.0 if set(one.features) & set(RISING) else -np.inf for one in spec.plan]
    bounds = np.repeat([-np.inf, *lowest], [1, *(part.shape[1] for part in parts)])
    ridges = np.repeat([0.0, *(one.ridge or spec.ridge for one in spec.plan)], [1, *(part.shape[1] for part in parts)])
    weights = _logistic(columns, right.astype(float), weight, ridges, bounds)
    ends = np.cumsum([1, *(part.shape[1] for part in parts)])
    terms = [
        Term(features=one.features, knots=one.knots, weights=tuple(np.round(weights[first:last], 4).tolist()))
        for one, (first, last) in zip(spec.plan, pairwise(ends), strict=True)
    ]
    return JudgeSpec(bias=float(np.round(weights[0], 4)), terms=tuple(terms))


def _table(scenes: Scenes, before: JudgeSpec | None, least_snr: float) -> tuple[Floats, Floats, Floats]:
    """Evidence (N, F), whether right (N,) and the weight (N,) of all detections that count."""
    features: list[Floats] = [np.zeros((0, len(FEATURES)))]
    right, weight = [np.zeros(0, bool)], [np.zeros(0)]
    for looked in scenes.values():
        told = [rightness(*one.judged(before), least_snr) for one in looked]
        count = sum(int(counts.sum()) for _, counts in told)
        for one, (hit, counts) in zip(looked, told, strict=True):
            features.append(one.features[counts])
            right.append(hit[counts])
            weight.append(np.full(int(counts.sum()), SCENE_WEIGHT / max(count, FEWEST)))
    return np.concatenate(features), np.concatenate(right), np.concatenate(weight)


def _logistic(columns: Floats, right: Floats, weight: Floats, penalty: Floats, lowest: Floats) -> Floats:
    """Coefficients (K,) of a logistic regression, none below `lowest` (K,), their squares weighed by `penalty` (K,)."""

    def loss(coefficients: Floats) -> tuple[float, Floats]:
        total = columns @ coefficients
        chance = 1 / (1 + np.exp(-np.clip(total, -50, 50)))
        value = (weight * (np.logaddexp(0, total) - right * total)).sum() + (penalty * coefficients**2).sum()
        return float(value), columns.T @ (weight * (chance - right)) + 2 * penalty * coefficients

    start = np.zeros(columns.shape[1])
    limits = [(None if np.isinf(one) else one, None) for one in lowest]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 300})
    return np.asarray(found.x)
