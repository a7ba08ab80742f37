"""A second opinion on every score, from the frame itself: how probable it is that a detection is a source."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.second_look import FEATURES, evidence
from lynceus.sky import Sky
from lynceus.spec import Spec

Feature = Literal["score", "signal", "contrast", "size", "apart", "crowding", "evenness", "doubt"]


class Term(Spec):
    """A part of the sum: a weight for each ramp of a feature, or for each pair of ramps of two.

    Attributes
    ----------
    features : tuple of str
        One or two.
    knots : tuple of tuple of float
        Of each of them, rising. From one knot to the next a ramp rises from 0 to 1; nothing changes beyond the ends.
    weights : tuple of float
        Those of the pairs in rows of the first feature's ramp.
    """

    features: tuple[Feature, ...] = Field(min_length=1, max_length=2)
    knots: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    @model_validator(mode="after")
    def _they_agree(self) -> "Term":
        if len(self.knots) != len(self.features) or any(list(some) != sorted(set(some)) for some in self.knots):
            raise ValueError("every feature needs knots, and they must rise")
        if len(self.weights) != np.prod([len(some) - 1 for some in self.knots]) or not self.weights:
            raise ValueError("every ramp needs a weight, or every pair of ramps")
        return self


class JudgeSpec(Spec):
    """How a score becomes a probability: the logistic function of `bias` and the terms.

    Attributes
    ----------
    version : int
        Of the features: a reader refuses coefficients that were found with others.
    bias : float
        Of a detection below all knots.
    terms : tuple of Term
        What is added to it.
    """

    version: Literal[1] = 1
    bias: float = 0.0
    terms: tuple[Term, ...]


def judge(frame: Frame, sky: Sky, detections: Detections, spec: JudgeSpec, box_scale: float = 2.5) -> Detections:
    """Give every detection the probability that it is a source.

    Parameters
    ----------
    frame : Frame
        Where they were found.
    sky : Sky
        Of the frame.
    detections : Detections
        As the network scored them.
    spec : JudgeSpec
        What was learned.
    box_scale : float
        The box rule: side of a box over the source's observed FWHM.

    Returns
    -------
    Detections
        The same boxes and labels, by falling score.
    """
    scores = probability(evidence(frame, sky, detections, box_scale), spec).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return Detections(detections.boxes[order], scores[order], detections.labels[order])


def probability(features: Floats, spec: JudgeSpec) -> Floats:
    """The probability, shape (N,), that goes with what `evidence` measured, shape (N, F)."""
    total = np.full(len(features), spec.bias)
    for term in spec.terms:
        total += ramps(features, term.features, term.knots) @ np.array(term.weights)
    return np.asarray(1 / (1 + np.exp(-np.clip(total, -30, 30))))


def ramps(features: Floats, names: Sequence[Feature], knots: Sequence[Sequence[float]]) -> Floats:
    """Each ramp of one feature, or each pair of those of two, as a column of numbers from 0 to 1.

    Parameters
    ----------
    features : ndarray, shape (N, F)
        As `evidence` gives them.
    names : sequence of str
        Which.
    knots : sequence of sequence of float
        See `Term`.

    Returns
    -------
    ndarray, shape (N, K)
        In the order of a term's weights.
    """
    columns = np.ones((len(features), 1))
    for name, some in zip(names, knots, strict=True):
        low, high = np.array(some[:-1]), np.array(some[1:])
        value = features[:, FEATURES.index(name), None]
        risen = np.clip((value - low) / (high - low), 0, 1)
        columns = (columns[:, :, None] * risen[:, None, :]).reshape(len(features), columns.shape[1] * risen.shape[1])
    return columns
