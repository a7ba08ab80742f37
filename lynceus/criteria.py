"""The figures that two versions are compared by, one row each: what of a frame it is, and what is asked of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lynceus.evidence import Both, FrameEvidence, Scores, Stars

SCORED = ("f1", "recall", "precision", "map_50", "best_iou_per_gt")  # against catalogues
BRIGHT_BINS = ("20-50", "50+")  # of SNR, where two good versions agree

Role = Literal["guard", "gate", "report"]
Kind = Literal["share", "count", "pixels", "figure", "ratio"]
Sample = tuple[float, float, float, float]  # numerator and denominator, stable's and the canary's
Sampler = Callable[[FrameEvidence], Sample | None]


@dataclass(frozen=True)
class Row:
    """A figure, and what is asked of it.

    Attributes
    ----------
    name : str
        For programs.
    sentence : str
        What it says of the canary, with the places `{canary}` and `{stable}`.
    kind : {"share", "count", "pixels", "figure", "ratio"}
        How it is written. A ratio is that of the canary to stable, in the median frame.
    higher_is_better : bool
        The direction.
    tolerance : float
        Worse by more than this is a reason to roll back; for a ratio the ratio it may reach.
    useful : float or None
        Better by more than this is a reason to promote; None for what never is one: a lower threshold finds more, and
        is no better for it.
    sample : callable
        Takes the evidence of a frame; gives its share of the sums that the figure is the quotient of, None if it has
        none.
    role : {"guard", "gate", "report"}
        A guard can roll back, a gate can only stand in the way of promotion, a report does neither.
    """

    name: str
    sentence: str
    kind: Kind
    higher_is_better: bool
    tolerance: float
    useful: float | None
    sample: Sampler
    role: Role = "guard"

    @property
    def scored(self) -> bool:
        """Whether it is of catalogues; where they are, they alone promote."""
        return self.name in SCORED


def _stars(pick: Callable[[FrameEvidence], Sequence[Stars | None]]) -> Sampler:
    def sample(frame: FrameEvidence) -> Sample | None:
        stars = [one for one in pick(frame) if one is not None]
        planted = sum(one.planted for one in stars)
        if not planted:
            return None
        return sum(one.stable for one in stars), planted, sum(one.canary for one in stars), planted

    return sample


def _scored(figure: Callable[[Scores], tuple[float, float] | None]) -> Sampler:
    def sample(frame: FrameEvidence) -> Sample | None:
        if frame.scores is None:
            return None
        stable, canary = figure(frame.scores.stable), figure(frame.scores.canary)
        return None if stable is None or canary is None else (*stable, *canary)

    return sample


def _f1(scores: Scores) -> tuple[float, float] | None:
    total = 2 * scores.matched + scores.missed + scores.extra
    return (2 * scores.matched, total) if total else None


def _recall(scores: Scores) -> tuple[float, float] | None:
    return (scores.matched, scores.listed) if scores.listed else None


def _precision(scores: Scores) -> tuple[float, float] | None:
    return (scores.matched, scores.matched + scores.extra) if scores.listed or scores.extra else None


def _over_sources(value: float | None, scores: Scores) -> tuple[float, float] | None:
    """A figure of a frame, weighed by the sources it lists."""
    return None if value is None or not scores.listed else (value * scores.listed, scores.listed)


def _box_offset(frame: FrameEvidence) -> Sample | None:
    if frame.offsets is None:
        return None
    count, distance = frame.offsets.count, frame.offsets.distance
    return distance.stable * count, count, distance.canary * count, count


def _inverted(frame: FrameEvidence) -> Sample | None:
    return None if frame.inverted is None else (frame.inverted.stable, 1, frame.inverted.canary, 1)


def _time(pick: Callable[[FrameEvidence], Both | None]) -> Sampler:
    def sample(frame: FrameEvidence) -> Sample | None:
        both = pick(frame)
        return None if both is None or min(both.stable, both.canary) <= 0 else (both.stable, 1, both.canary, 1)

    return sample


def _disagreement(frame: FrameEvidence) -> Sample | None:
    """Of the bright detections of both, those that only one has; stable is what is compared with, and has nought."""
    by_snr = frame.pairing["by_snr"]
    matched, lost, gained = (
        sum(by_snr[outcome][name] for name in BRIGHT_BINS) for outcome in ("matched", "lost", "gained")
    )
    total = matched + lost + gained
    return (0, 1, lost + gained, total) if total else None


def _agreement(frame: FrameEvidence) -> Sample | None:
    matched, lost, gained = (frame.pairing[outcome] for outcome in ("matched", "lost", "gained"))
    total = 2 * matched + lost + gained
    return (1, 1, 2 * matched, total) if total else None


def _box_side(frame: FrameEvidence) -> Sample | None:
    ratio = frame.pairing["median_shifts"]["box_side_ratio"]
    return None if ratio is None else (1, 1, ratio, 1)


# name, sentence; kind, higher is better, tolerance, least useful gain; what of a frame, role
TABLE = (
    Row("f1", "its F1 against the catalogues is {canary}, stable's {stable}",
        "figure", True, 0.02, 0.015, _scored(_f1)),
    Row("recall", "it finds {canary} of the sources in the catalogues, stable {stable}",
        "share", True, 0.03, None, _scored(_recall)),
    Row("precision", "{canary} of its detections are in the catalogues, of stable's {stable}",
        "share", True, 0.03, None, _scored(_precision)),
    Row("map_50", "its mAP at an IoU of 0.5 is {canary}, stable's {stable}",
        "figure", True, 0.03, 0.02, _scored(lambda scores: _over_sources(scores.map_50, scores))),
    Row("best_iou_per_gt", "its boxes overlap the sources in the catalogues by an IoU of {canary}, stable's {stable}",
        "figure", True, 0.03, None, _scored(lambda scores: _over_sources(scores.best_iou_per_gt, scores))),
    Row("completeness", "it finds {canary} of the planted stars, stable {stable}",
        "share", True, 0.03, 0.03, _stars(lambda frame: (frame.faint, frame.bright))),
    Row("completeness_faint", "it finds {canary} of the faint planted stars, stable {stable}",
        "share", True, 0.05, 0.05, _stars(lambda frame: (frame.faint,))),
    Row("completeness_bright", "it finds {canary} of the bright planted stars, stable {stable}",
        "share", True, 0.03, None, _stars(lambda frame: (frame.bright,))),
    Row("box_offset", "its boxes are off their sources by {canary}, stable's by {stable}",
        "pixels", False, 0.4, None, _box_offset),
    Row("inverted", "it finds {canary} sources in a frame turned upside down, where there are none, stable {stable}",
        "count", False, 1.0, None, _inverted),
    Row("latency", "it takes {canary} the time that stable takes",
        "ratio", False, 1.5, None, _time(lambda frame: frame.times.server or frame.times.client)),
    Row("bright_disagreement", "of the bright detections of both, {canary} are missing in one of them",
        "share", False, 0.1, None, _disagreement, "gate"),
    Row("agreement", "{canary} of all detections are in both lists",
        "share", True, 0.0, None, _agreement, "report"),
    Row("box_side", "the sides of its boxes are {canary} times those of stable's",
        "figure", True, 0.0, None, _box_side, "report"),
    Row("latency_infer", "its network takes {canary} the time that stable's takes",
        "ratio", False, 1.5, None, _time(lambda frame: frame.times.infer), "report"),
    Row("latency_client", "its answer takes {canary} the time that stable's takes, transfer and queue included",
        "ratio", False, 1.5, None, _time(lambda frame: frame.times.client), "report"),
)  # fmt: skip
DARKS = "it finds {canary} sources on a dark, where there are none, stable {stable}"
