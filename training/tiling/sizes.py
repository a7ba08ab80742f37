"""Boxes by what the frame shows and not by what its catalogue says: catalogues place sources well and size them badly.

An extraction measures a faint star by the few pixels over its threshold, and calls it half as wide as it is; a network
taught so learns boxes that fit no source.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lynceus.box_rules import Ellipses, bundle_boxes, clipped
from lynceus.detections import Detections, Floats, box_about
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec, measure
from lynceus.sky import Sky
from lynceus.sources import Sources
from lynceus.truth import Truth
from lynceus.unlisted import seeing

TRUSTED = 10.0  # signal to noise at which a source's own shape weighs as much as that of the frame's stars
SATURATED = 4  # SExtractor's bit: a clipped star is as wide as its catalogue says


def measured_sizes(truth: Truth, frame: Frame, sky: Sky, spec: MeasureSpec) -> Truth:
    """Give every source a box of its own measured shape, drawn towards the frame's seeing where it is faint.

    Parameters
    ----------
    truth : Truth
        Of the frame, M sources; positions and all else stay as they are.
    frame : Frame
        Where to measure.
    sky : Sky
        Of the frame.
    spec : MeasureSpec
        The box rule.

    Returns
    -------
    Truth
        The same where the frame has too few stars to tell its seeing. Boxes stay where a source is saturated or cannot
        be measured.

    Notes
    -----
    The logarithm of the FWHM is the mean of both, the source's own weighing snr^2 / (snr^2 + 10^2).
    """
    stars = seeing(frame, sky, spec)
    if stars is None or not len(truth):
        return truth
    sources = measure(frame, _marked(truth, stars * spec.box_scale, frame.shape), sky, spec)
    boxes = clipped(bundle_boxes(*truth.centres, _shapes(sources, stars), spec), frame.shape)
    known = np.isfinite(boxes).all(axis=1) & (sources.flags & SATURATED == 0)
    return replace(truth, boxes=np.where(known[:, None], boxes, truth.boxes), positions=truth.centres)


def _marked(truth: Truth, side: float, shape: tuple[int, int]) -> Detections:
    """Where to measure: boxes as the frame's stars have them, about the positions of the truth."""
    height, width = shape
    sides = np.full(len(truth), side)
    boxes = np.clip(box_about(*truth.centres, sides, sides), 0.0, np.array([width, height, width, height], float))
    count = len(boxes)
    return Detections(boxes.astype(np.float32), np.ones(count, np.float32), np.zeros(count, np.int64))


def _shapes(sources: Sources, stars: float) -> Ellipses:
    """What was measured, and round ones of the seeing where nothing was."""
    measured = np.isfinite(sources.fwhm) & (sources.fwhm > 0) & np.isfinite(sources.snr)
    own = np.where(measured, sources.fwhm, stars)
    snr = np.where(measured, np.clip(sources.snr, 0, None), 0.0)
    share = snr**2 / (snr**2 + TRUSTED**2)
    fwhm = np.exp(share * np.log(own) + (1 - share) * np.log(stars))
    ratio = np.where(measured, 1 - share * _known(sources.ellipticity), 1.0)
    return Ellipses(fwhm, fwhm, np.clip(ratio, 0.05, 1.0), np.radians(_known(sources.theta)))


def _known(values: Floats) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(values, np.float64))
