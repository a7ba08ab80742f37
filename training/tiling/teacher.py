"""What a trained version sees and the catalogue lacks: deeper than `sep`, and no more to be taught as background."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.bundle import load_bundle
from lynceus.detections import Floats
from lynceus.detector import Detector
from lynceus.frame import Frame
from lynceus.truth import Truth

LEAST_SCORE = 0.4  # on a million pixels of empty sky the first version has 90 detections this sure, and 700 of 0.1
HALF = 0.5  # sides of a box: a detection this near is the source that is listed


def with_candidates(truth: Truth, frame: Frame, bundle: Path) -> Truth:
    """Add what a bundle detects and the truth lacks, to be ignored.

    Parameters
    ----------
    truth : Truth
        Of the frame, M sources.
    frame : Frame
        Where to look.
    bundle : Path
        `<name>/<version>/` of the teacher.

    Returns
    -------
    Truth
        The M sources, then the teacher's candidates.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    """
    found = _teacher(bundle).detect(frame)
    found = found[found.scores >= LEAST_SCORE]
    boxes, centres = found.boxes.astype(np.float64), np.stack(found.centres, axis=1)
    new = ~_listed(centres, boxes, truth)
    count = int(new.sum())
    return replace(
        truth,
        boxes=np.concatenate([truth.boxes, boxes[new]]),
        ignored=np.concatenate([truth.ignored, np.ones(count, bool)]),
        brightness=np.concatenate([truth.brightness, np.full(count, np.nan)]),
        positions=tuple(np.concatenate([old, more]) for old, more in zip(truth.centres, centres[new].T, strict=True)),
        kinds=None if truth.kinds is None else (*truth.kinds, *[""] * count),
    )


def _listed(centres: Floats, boxes: Floats, truth: Truth) -> NDArray[np.bool_]:
    """True for a detection within half a side, its own or the source's, of a source."""
    if not len(truth) or not len(centres):
        return np.zeros(len(centres), bool)
    distance, nearest = cKDTree(np.stack(truth.centres, axis=1)).query(centres)
    own, theirs = (np.sqrt((box[:, 2:] - box[:, :2]).prod(axis=1)) for box in (boxes, truth.boxes))
    return np.asarray(distance <= HALF * np.maximum(own, theirs[nearest]))


@cache
def _teacher(bundle: Path) -> Detector:
    """Loaded once in each process."""
    return load_bundle(bundle).detector
