"""From evidence to a decision: PROMOTE, HOLD or ROLL BACK, with reasons and the intervals behind them.

A figure is taken of both versions on the same frames. The interval of its change is found by drawing frames anew (a
paired bootstrap): the sources of one frame share its weather and its faults, and are no independent witnesses.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from math import ceil, log, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from scipy.special import ndtr, stdtrit

from lynceus.criteria import DARKS, TABLE, Kind, Role, Row, Sample
from lynceus.detections import Floats
from lynceus.evidence import Evidence, Offsets
from lynceus.spec import Spec

FALSE_SHARE = 0.02  # of what stable finds in a frame may come on top of the tolerance for false detections
MOST_FRAMES = 2000  # more than this nobody is told to look for
EDGE = 2.5  # resamples at least beyond either end of an interval

Interval = tuple[float, float]
Verdict = Literal["better", "not worse", "unclear", "worse", "differs", "reported"]


class Outcome(Enum):
    """What is to be done with the canary."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL BACK"

    @property
    def exit_code(self) -> int:
        """What tells a pipeline: 0, 10 or 20."""
        return {Outcome.PROMOTE: 0, Outcome.HOLD: 10, Outcome.ROLL_BACK: 20}[self]


class DecisionSpec(Spec):
    """How a decision is made.

    Attributes
    ----------
    confidence : float
        That no figure deceives: each one's interval is wider, for the number of figures looked at (Bonferroni).
    resamples : int
        Of the bootstrap.
    least_frames : int
        A figure that fewer frames have is reported and not judged.
    tolerance, useful : mapping of str to float
        By a figure's name, in place of what the table says.
    seed : int
        The same seed and evidence give the same intervals.
    """

    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(4000, ge=1000)
    least_frames: int = Field(5, ge=3)
    tolerance: Mapping[str, float] = {}
    useful: Mapping[str, float] = {}
    seed: int = 0

    @field_validator("tolerance", "useful")
    @classmethod
    def _of_the_table(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        names = [row.name for row in TABLE] + ["darks"]
        if unknown := set(value) - set(names):
            raise ValueError(f"no figure is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        return value


class Quantity(Spec):
    """A figure of both versions, the change between them and what follows.

    Attributes
    ----------
    stable, canary : float
        Of all frames together; for a ratio 1 and the ratio.
    change, low, high : float
        From stable to the canary, and its interval; for a ratio that of the ratio.
    single_low, single_high : float
        The narrower interval that it would have if it were the only figure looked at.
    tolerance : float
        By how much it may get worse; for a ratio what it may reach.
    useful : float or None
        By how much it must get better to count.
    frames : int
        That have the figure.
    verdict : str
        The interval beyond the tolerance is "worse", beyond the useful gain "better"; the single interval within the
        tolerance is "not worse", since that is asked of every figure and none may fail; else it is "unclear". A gate
        that is passed is "not worse", else "differs".
    """

    name: str
    text: str
    kind: Kind
    role: Role
    higher_is_better: bool
    stable: float
    canary: float
    change: float
    low: float
    high: float
    single_low: float
    single_high: float
    tolerance: float
    useful: float | None
    frames: int
    verdict: Verdict


class Decision(Spec):
    """What is to be done, why, and the figures behind it."""

    outcome: Outcome
    reasons: tuple[str, ...]
    quantities: tuple[Quantity, ...]


def decide(evidence: Evidence, spec: DecisionSpec) -> Decision:
    """Decide what is to be done with the canary.

    Parameters
    ----------
    evidence : Evidence
        What was seen of both versions.
    spec : DecisionSpec
        Confidence, tolerances.

    Returns
    -------
    Decision
        ROLL BACK if the canary failed on a frame that stable answered, or a guarded figure is worse than it may be,
        with confidence. PROMOTE if no guarded figure may be, and one is better by a useful amount, with confidence.
        HOLD otherwise.
    """
    quantities = _quantities(evidence, spec)
    guards = [one for one in quantities if one.role == "guard"]
    worse = [one for one in guards if one.verdict == "worse"]
    open_questions = [one for one in quantities if one.verdict in ("unclear", "differs")]
    better = [one for one in guards if one.verdict == "better"]
    if evidence.failures or worse:
        failed = [f"it failed on {one.frame}, which stable answered: {one.reason}" for one in evidence.failures]
        reasons = [*failed, *(_reason(one, evidence) for one in worse)]
        return Decision(outcome=Outcome.ROLL_BACK, reasons=tuple(reasons), quantities=tuple(quantities))
    if better and not open_questions:
        reasons = [_reason(one, evidence) for one in better]
        reasons.append(f"none of the {len(guards)} figures looked at is worse")
        return Decision(outcome=Outcome.PROMOTE, reasons=tuple(reasons), quantities=tuple(quantities))
    return Decision(
        outcome=Outcome.HOLD, reasons=tuple(_why_hold(quantities, evidence, spec)), quantities=tuple(quantities)
    )


def _why_hold(quantities: Sequence[Quantity], evidence: Evidence, spec: DecisionSpec) -> list[str]:
    """What is missing."""
    reasons = []
    if len(evidence.frames) < spec.least_frames:
        reasons.append(f"{len(evidence.frames)} frames were compared, and {spec.least_frames} are needed")
    better = [one for one in quantities if one.role == "guard" and one.verdict == "better"]
    if not better:
        reasons.append("no figure is better by an amount that is of use, with confidence")
    reasons += [_reason(one, evidence) for one in better]
    for one in quantities:
        if one.verdict == "differs":
            reasons.append(_reason(one, evidence) + "; who is right only catalogues tell, or a look at the frames")
        elif one.verdict == "unclear":
            reasons.append(f"it may be worse: {_reason(one, evidence)}{_frames_needed(one)}")
    return reasons


def _quantities(evidence: Evidence, spec: DecisionSpec) -> list[Quantity]:
    """Every figure that there is any evidence for, guards first as in the table."""
    rows = [(row, _samples([row.sample(frame) for frame in evidence.frames])) for row in TABLE]
    darks = [(dark.found.stable, 1.0, dark.found.canary, 1.0) for dark in evidence.darks]
    rows.insert(_guards(), (_darks_row(), _samples(darks)))
    rows = [(row, samples) for row, samples in rows if len(samples) and samples[:, 1].sum() and samples[:, 3].sum()]
    judged = sum(row.role == "guard" and len(samples) >= spec.least_frames for row, samples in rows)
    listed = [frame.pairing["detections"]["stable"] for frame in evidence.frames]
    margin = FALSE_SHARE * float(np.mean(listed)) if listed else 0.0
    scored = any(row.name == "f1" and len(samples) >= spec.least_frames for row, samples in rows)
    return [_quantity(row, samples, spec, max(judged, 1), margin, scored) for row, samples in rows]


def _guards() -> int:
    return sum(row.role == "guard" for row in TABLE)


def _darks_row() -> Row:
    false = next(row for row in TABLE if row.name == "inverted")
    return Row("darks", DARKS, false.kind, false.higher_is_better, false.tolerance, None, lambda frame: None)


def _samples(samples: Sequence[Sample | None]) -> Floats:
    """What the frames that have a figure add to its sums, shape (N, 4)."""
    return np.array([one for one in samples if one is not None], np.float64).reshape(-1, 4)


def _quantity(row: Row, samples: Floats, spec: DecisionSpec, judged: int, margin: float, scored: bool) -> Quantity:
    tolerance = spec.tolerance.get(row.name, row.tolerance) + (margin if row.kind == "count" else 0.0)
    useful = spec.useful.get(row.name, None if scored and not row.scored else row.useful)
    values, changes = _bootstrap(samples, row.kind, spec)
    wide = _interval(changes, 1 - (1 - spec.confidence) / judged, len(samples))
    single = _interval(changes, spec.confidence, len(samples))
    stable, canary = (1.0, values[0]) if row.kind == "ratio" else values
    change = canary if row.kind == "ratio" else canary - stable
    verdict: Verdict = "reported"
    if row.role == "gate" and not scored:
        verdict = "differs" if change > tolerance else "not worse"
    elif row.role == "guard" and len(samples) >= spec.least_frames:
        verdict = _verdict(row, wide, single, tolerance, useful)
    return Quantity(
        name=row.name,
        text=row.sentence.format(canary=written(canary, row.kind), stable=written(stable, row.kind)),
        kind=row.kind,
        role=row.role,
        higher_is_better=row.higher_is_better,
        stable=stable,
        canary=canary,
        change=change,
        low=wide[0],
        high=wide[1],
        single_low=single[0],
        single_high=single[1],
        tolerance=tolerance,
        useful=useful,
        frames=len(samples),
        verdict=verdict,
    )


def _verdict(row: Row, wide: Interval, single: Interval, tolerance: float, useful: float | None) -> Verdict:
    if row.kind == "ratio":
        tolerance = log(tolerance)
    low, high = _gain(wide, row.kind, row.higher_is_better)
    if high < -tolerance:
        return "worse"
    if _gain(single, row.kind, row.higher_is_better)[0] <= -tolerance:
        return "unclear"
    return "better" if useful is not None and low > useful else "not worse"


def _gain(interval: Interval, kind: Kind, higher_is_better: bool) -> Interval:
    """An interval of a change turned so that more is better, around nought."""
    low, high = (log(interval[0]), log(interval[1])) if kind == "ratio" else interval
    return (low, high) if higher_is_better else (-high, -low)


def _bootstrap(samples: Floats, kind: Kind, spec: DecisionSpec) -> tuple[Floats, Floats]:
    """A figure of both versions, and the change between them in every resample; for a ratio the ratio and its own."""
    count = len(samples)
    weights = _draws(count, spec.resamples, spec.seed)
    if kind == "ratio":
        logs = np.log(samples[:, 2] / samples[:, 0])
        return np.exp(_weighted_median(logs, np.ones((1, count), np.intp))), np.exp(_weighted_median(logs, weights))
    sums, drawn = samples.sum(axis=0), weights @ samples
    with np.errstate(invalid="ignore", divide="ignore"):
        changes = drawn[:, 2] / drawn[:, 3] - drawn[:, 0] / drawn[:, 1]
    return sums[[0, 2]] / sums[[1, 3]], changes[np.isfinite(changes)]


@lru_cache(maxsize=4)
def _draws(count: int, resamples: int, seed: int) -> NDArray[np.integer]:
    """How often every frame is drawn in every resample, shape (resamples, count)."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    draws.setflags(write=False)
    return draws


def _interval(changes: Floats, confidence: float, count: int) -> Interval:
    """The interval that resamples of so many frames give.

    Notes
    -----
    The percentile interval, expanded for few frames as Hesterberg (2015) does: as far out as Student's t with n - 1
    degrees of freedom asks.
    """
    tail = _tail(confidence, count, len(changes))
    low, high = np.quantile(changes, (tail, 1 - tail))
    return float(low), float(high)


def _tail(confidence: float, count: int, resamples: int) -> float:
    """The share of resamples beyond either end of an interval."""
    if count < 2:
        return 0.0
    reach = stdtrit(count - 1, (1 + confidence) / 2) * sqrt(count / (count - 1))
    return max(float(ndtr(-reach)), EDGE / resamples)


def _weighted_median(values: Floats, weights: NDArray[np.integer]) -> Floats:
    """Median of values that are there several times, for every row of `weights`, shape (B,)."""
    order = np.argsort(values)
    below = weights[:, order].cumsum(axis=1)
    half = below[:, -1:] / 2
    low, high = (below >= half).argmax(axis=1), (below > half).argmax(axis=1)
    return np.asarray((values[order][low] + values[order][high]) / 2)


def _reason(one: Quantity, evidence: Evidence) -> str:
    """A figure as a sentence, with its interval and what was asked of it."""
    low, high = written_change(one.low, one.kind), written_change(one.high, one.kind)
    if one.kind == "ratio":
        return f"{one.text} (interval {low} to {high}; tolerated: {written_change(one.tolerance, one.kind)})"
    detail = _direction(evidence) if one.name == "box_offset" else ""
    asked = f"tolerated: {written_change(-one.tolerance if one.higher_is_better else one.tolerance, one.kind)}"
    if one.verdict == "better" and one.useful is not None:
        asked = f"of use: {written_change(one.useful if one.higher_is_better else -one.useful, one.kind)}"
    change = f"change {written_change(one.change, one.kind)}, interval {low} to {high}; {asked}"
    return f"{one.text}{detail} ({change})"


def _direction(evidence: Evidence) -> str:
    """Whither the canary's boxes are shifted, if they are shifted and not only scattered."""
    offsets = [frame.offsets for frame in evidence.frames if frame.offsets is not None]
    counts = np.array([one.count for one in offsets])
    x, y = (float(np.average([getattr(one, axis).canary for one in offsets], weights=counts)) for axis in "xy")
    distance = float(np.average([one.distance.canary for one in offsets], weights=counts))
    if np.hypot(x, y) < distance / 2:
        return ", in all directions"
    return f": x {x:+.1f} px, y {y:+.1f} px from the {_reference(offsets)}"


def _reference(offsets: Sequence[Offsets]) -> str:
    return " and ".join(sorted({one.reference for one in offsets}, reverse=True))


def _frames_needed(one: Quantity) -> str:
    """How many frames would settle it, if what was seen is what there is."""
    estimate, _ = _gain((one.change, one.change), one.kind, one.higher_is_better)
    low, _ = _gain((one.single_low, one.single_high), one.kind, one.higher_is_better)
    room = estimate + (log(one.tolerance) if one.kind == "ratio" else one.tolerance)
    if room <= 0:
        return ""
    frames = ceil(one.frames * ((estimate - low) / room) ** 2)
    return f"; about {frames} frames would tell" if frames <= MOST_FRAMES else ""


def written(value: float, kind: Kind) -> str:
    """A figure for people."""
    if kind == "share":
        return f"{100 * value:.1f} %"
    return {"count": f"{value:.1f}", "pixels": f"{value:.2f} px", "ratio": f"{value:.2f} times"}.get(
        kind, f"{value:.3f}"
    )


def written_change(value: float, kind: Kind) -> str:
    """A change of a figure for people, with its sign; a ratio has none."""
    if kind == "share":
        return f"{100 * value:+.1f} points"
    if kind == "ratio":
        return f"{value:.2f}"
    return {"count": f"{value:+.1f}", "pixels": f"{value:+.2f} px"}.get(kind, f"{value:+.3f}")
