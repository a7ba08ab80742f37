"""Labels for what is on a real frame that nobody has a catalogue of: sure where two ways agree, else ignored."""

from functools import cache
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from lynceus.bundle import load_bundle
from lynceus.detections import Detections, Floats
from lynceus.detector import Detector
from lynceus.frame import Frame
from lynceus.measure import Flag, MeasureSpec, Sources, measure
from lynceus.sky import Sky
from lynceus.spec import Spec
from lynceus.truth import Truth
from lynceus.unlisted import Peaks, find_peaks, peak_boxes, seeing
from training.tiling.sizes import measured_sizes

EDGES = ("x_min", "y_min", "x_max", "y_max")
HARMLESS = int(Flag.NEIGHBOURS | Flag.BLENDED)
Bools = NDArray[np.bool_]


class KnownSpec(Spec):
    """What makes something on a real frame a source to learn from.

    Attributes
    ----------
    teacher : str
        Folder `<name>/<version>/` of a bundle.
    score : float
        Of the teacher, at least.
    least_snr : float
        As measured, at least.
    fwhm : (float, float)
        As measured, over the seeing: what is sharper is a hot pixel or a cosmic ray, what is wider may be anything.
    agree : float
        Greatest distance of the one peak that `sep` sees there, over the seeing.
    alike : float
        Greatest ratio between the sizes that `sep` and the measurement give it.
    doubtful : float
        What the teacher sees from this score up, and is not sure of, is ignored.
    """

    teacher: str = "model_store/bundles/compact/0.1.0"
    score: float = Field(0.8, ge=0, le=1)
    least_snr: float = Field(10.0, ge=0)
    fwhm: tuple[float, float] = (0.8, 2.5)
    agree: float = Field(0.4, gt=0)
    alike: float = Field(1.8, ge=1)
    doubtful: float = Field(0.4, ge=0, le=1)


def known_sources(frame: Frame, sky: Sky, spec: KnownSpec, rule: MeasureSpec) -> Table:
    """Label what can be seen on a frame.

    Parameters
    ----------
    frame : Frame
        Where to look.
    sky : Sky
        Of the frame.
    spec : KnownSpec
        What is sure.
    rule : MeasureSpec
        The box rule.

    Returns
    -------
    Table
        x, y (0-based centres), x_min .. y_max (edges), snr, kind (""), ignored: first what teacher and `sep` both see
        and a measurement confirms, with a box of its measured size, then (ignored) whatever else either of them sees.
        A frame whose stars do not tell the seeing has no sure ones.

    Raises
    ------
    BundleError
        If the teacher cannot be used.
    """
    found = _teacher(Path(spec.teacher)).detect(frame)
    found = found[found.scores >= spec.doubtful]
    peaks, _ = find_peaks(frame, sky)
    edges = peak_boxes(peaks, rule, frame.shape)
    sound = np.asarray(np.isfinite(edges).all(axis=1))
    peaks, edges = peaks[sound], edges[sound]
    places, stars = np.stack([peaks.x, peaks.y], axis=1), seeing(frame, sky, rule)
    sources = measure(frame, found, sky, rule)
    at = np.stack([sources.x, sources.y], axis=1)
    sure = _sure(found, sources, at, peaks, stars, spec) if stars else np.zeros(len(found), bool)
    boxes = _measured(found[sure], sources, at[sure], sure, frame, sky, rule)
    lonely = _apart(places, at[sure], spec.agree * (stars or 0.0))
    return _rows(
        np.concatenate([at[sure], at[~sure], places[lonely]]),
        np.concatenate([boxes, found.boxes[~sure].astype(np.float64), edges[lonely]]),
        np.concatenate([sources.snr[sure], np.full(int((~sure).sum()) + int(lonely.sum()), np.nan)]),
    )


def _sure(found: Detections, sources: Sources, at: Floats, peaks: Peaks, stars: float, spec: KnownSpec) -> Bools:
    """True for a detection that one peak of `sep`'s, no other sure detection, and its own measurement agree with."""
    snr, fwhm = np.nan_to_num(sources.snr), np.nan_to_num(sources.fwhm)
    least, most = (stars * ratio for ratio in spec.fwhm)
    sure = (found.scores >= spec.score) & (snr >= spec.least_snr) & (fwhm >= least) & (fwhm <= most)
    sure &= np.isfinite(at).all(axis=1) & (sources.flags & ~HARMLESS == 0)
    if not sure.any() or not len(peaks.x):
        return np.zeros(len(found), bool)
    candidates = np.flatnonzero(sure)
    distance, peak = cKDTree(np.stack([peaks.x, peaks.y], axis=1)).query(at[candidates])
    alone = np.bincount(peak, minlength=len(peaks.x))[peak] == 1
    alike = np.abs(np.log(peaks.shapes.fwhm[peak] / fwhm[candidates])) <= np.log(spec.alike)
    agreed = np.zeros(len(found), bool)
    agreed[candidates[alone & alike & (distance <= spec.agree * stars)]] = True
    return agreed


def _measured(
    sure: Detections, sources: Sources, at: Floats, which: Bools, frame: Frame, sky: Sky, rule: MeasureSpec
) -> Floats:
    """Boxes (N, 4) of the sure ones, by their sizes as the frame shows them."""
    truth = Truth(
        sure.boxes.astype(np.float64), np.zeros(len(sure), bool), sources.snr[which], "snr", (), len(sure),
        (at[:, 0], at[:, 1]),
    )  # fmt: skip
    return measured_sizes(truth, frame, sky, rule).boxes


def _apart(places: Floats, known: Floats, distance: float) -> Bools:
    """True for a peak that is no known source."""
    if not len(known) or not len(places):
        return np.ones(len(places), bool)
    return np.asarray(cKDTree(known).query(places)[0] > distance)


def _rows(places: Floats, boxes: Floats, snr: Floats) -> Table:
    edges = dict(zip(EDGES, boxes.T, strict=True))
    kinds = np.full(len(places), "", "U6")
    return Table({"x": places[:, 0], "y": places[:, 1], **edges, "snr": snr, "kind": kinds, "ignored": np.isnan(snr)})


@cache
def _teacher(bundle: Path) -> Detector:
    """Loaded once in each process."""
    return load_bundle(bundle).detector
