"""What `sep` sees on a frame and a catalogue lacks: catalogues are incomplete, and a real star is no background."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.box_rules import Ellipses, bundle_boxes, clipped
from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec, measure, summarise
from lynceus.sky import Sky
from lynceus.sources import FWHM_PER_SIGMA

# SExtractor's own defaults but for the area: 1.5 standard deviations of the sky, unfiltered, on the filtered frame. Of
# stars at SNR 7 it sees 95 % (5: 45 %), on white noise 1 in a million pixels is one. sep's filter "matched" at 1.5 sees
# no more of them, but over 1000 in the noise, and a candidate there would hide a detection that is wrong.
THRESHOLD, FILTER = 1.5, "conv"
LEAST_AREA = 3  # pixels
STACK_SHARE = 0.25  # of the frame's pixels that may be over the threshold
LEAST_STACK, SUB_OBJECTS = 300_000, 20_000  # sep's default; a trail and all it crosses is one object
NO_DEBLENDING = 1.0
NEIGHBOURS = 8  # nearest listed sources that are looked at
BRIGHT_PEAK, BRIGHT_COUNT = 10.0, 500  # peaks, in standard deviations, that tell the seeing
NOTHING = np.zeros(0, [(name, float) for name in ("x", "y", "a", "b", "theta", "peak")])
TOO_CROWDED = "unlisted candidates could not be searched for: the frame is too crowded for sep"


@dataclass(frozen=True, eq=False)
class Peaks:
    """What `sep` sees: 0-based pixel centres, shapes, and height over the sky in standard deviations, (N,) each."""

    x: Floats
    y: Floats
    shapes: Ellipses
    height: Floats

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> "Peaks":
        """Select by a mask or an array of indices."""
        shapes = self.shapes
        chosen = (values[index] for values in (shapes.fwhm, shapes.sigma, shapes.ratio, shapes.theta))
        return Peaks(self.x[index], self.y[index], Ellipses(*chosen), self.height[index])


def find_peaks(frame: Frame, sky: Sky) -> tuple[Peaks, str]:
    """Everything over a low threshold.

    Parameters
    ----------
    frame : Frame
        Masked pixels are left out.
    sky : Sky
        Of the frame: its level is subtracted, its noise is the unit of the threshold.

    Returns
    -------
    peaks : Peaks
        None at all where `sep` fails.
    warning : str
        Why it failed, or the empty string.
    """
    level, noise = sky.upsampled()
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.subtract(frame.pixels, level, out=level)
    bad = ~np.isfinite(data)
    data[bad] = 0.0
    sep.set_extract_pixstack(max(LEAST_STACK, int(STACK_SHARE * data.size)))
    sep.set_sub_object_limit(SUB_OBJECTS)
    objects = _extract(data, noise, bad)
    if objects is None:
        return _peaks(NOTHING, noise), TOO_CROWDED
    return _peaks(objects, noise), ""


def _extract(data: NDArray[np.float32], noise: NDArray[np.float32], bad: NDArray[np.bool_]) -> NDArray[Any] | None:
    """What `sep` extracts; if its limits are passed, without deblending; if they are again, None."""
    for contrast in (None, NO_DEBLENDING):
        options = {} if contrast is None else {"deblend_cont": contrast}
        try:
            return np.asarray(
                sep.extract(data, THRESHOLD, err=noise, mask=bad, minarea=LEAST_AREA, filter_type=FILTER, **options)
            )
        except Exception:
            continue
    return None


def _peaks(objects: NDArray[Any], noise: NDArray[np.float32]) -> Peaks:
    height, width = noise.shape
    x, y, a, b = (objects[name].astype(np.float64) for name in ("x", "y", "a", "b"))
    sound = np.isfinite(x) & np.isfinite(y) & (a > 0) & (b > 0)
    objects, x, y, a, b = objects[sound], x[sound], y[sound], a[sound], b[sound]
    rows, columns = np.clip(np.rint(y).astype(int), 0, height - 1), np.clip(np.rint(x).astype(int), 0, width - 1)
    sigma = np.sqrt(a * b)
    shapes = Ellipses(FWHM_PER_SIGMA * sigma, sigma, b / a, objects["theta"].astype(np.float64))
    return Peaks(x, y, shapes, objects["peak"] / noise[rows, columns])


def unlisted_peaks(peaks: Peaks, spec: MeasureSpec, x: Floats, y: Floats, boxes: Floats) -> Peaks:
    """The peaks that a catalogue lacks.

    Parameters
    ----------
    peaks : Peaks
        What there is.
    spec : MeasureSpec
        The box rule.
    x, y : ndarray, shape (M,)
        Of the listed sources, 0-based pixel centres.
    boxes : ndarray, shape (M, 4)
        Theirs.

    Returns
    -------
    Peaks
        Those with no listed source within their FWHM, within half of their box, or within half of its box.
    """
    if not len(x) or not len(peaks.x):
        return peaks
    distance, nearest = cKDTree(np.stack([x, y], axis=1)).query(
        np.stack([peaks.x, peaks.y], axis=1), k=list(range(1, min(NEIGHBOURS, len(x)) + 1))
    )
    own = np.maximum(np.maximum(1.0, spec.box_scale / 2) * peaks.shapes.fwhm, spec.min_box / 2)
    theirs = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
    return peaks[~(distance <= np.maximum(own[:, None], theirs[nearest])).any(axis=1)]


def peak_boxes(peaks: Peaks, spec: MeasureSpec, shape: tuple[int, int]) -> Floats:
    """Boxes (N, 4) by the bundle's rule, clipped to the frame; NaN where too little of one is left."""
    return clipped(bundle_boxes(peaks.x, peaks.y, peaks.shapes, spec), shape)


def seeing(frame: Frame, sky: Sky, spec: MeasureSpec) -> float | None:
    """FWHM of point sources in pixels, measured on the brightest peaks; None where there are too few.

    Parameters
    ----------
    frame : Frame
        Where.
    sky : Sky
        Of the frame.
    spec : MeasureSpec
        How sources are measured.
    """
    peaks, _ = find_peaks(frame, sky)
    bright = np.argsort(-peaks.height, kind="stable")[:BRIGHT_COUNT]
    bright = bright[peaks.height[bright] > BRIGHT_PEAK]
    boxes = peak_boxes(peaks[bright], spec, frame.shape).astype(np.float32)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    found = Detections(boxes, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64))
    return summarise(frame, measure(frame, found, sky, spec), sky, spec).fwhm_px
