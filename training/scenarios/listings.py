"""What a finder lists on a frame, and what is there: all that the figures of a scene are made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import CENTRE_TO_EDGE, Detections, Floats
from lynceus.scoring import BOX_SCALE
from training.tiling.exposures import LabelledExposure

FAINTEST = 5.0  # sources of a lower signal to noise do not count, but for the depth
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Listing:
    """What a finder lists on one frame.

    Attributes
    ----------
    positions : ndarray, shape (N, 2)
        `x, y`, 0-based pixel centres.
    scores : ndarray, shape (N,)
        Any ranking, the surest highest; the same for all frames of a scene.
    """

    positions: Floats
    scores: Floats

    def __post_init__(self) -> None:
        if self.positions.shape != (len(self.scores), 2) or self.scores.ndim != 1:
            raise ValueError(f"positions must have shape ({len(self.scores)}, 2), not {self.positions.shape}")
        if not np.isfinite(self.positions).all() or np.isnan(self.scores).any():
            raise ValueError("positions and scores must be numbers")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(cls, found: Detections, positions: tuple[Floats, Floats] | None = None) -> "Listing":
        """Detections as a list; the centres of the boxes serve where `positions` (N,) x, y are not given or NaN."""
        centres = np.stack(found.centres, axis=1)
        given = centres if positions is None else np.stack(positions, axis=1)
        return cls(np.where(np.isfinite(given).all(axis=1)[:, None], given, centres), found.scores.astype(np.float64))

    def moved(self, shift: Floats, shape: tuple[int, int]) -> "Listing":
        """All positions shifted by `x, y` pixels; what leaves a frame of this shape (H, W) comes in opposite."""
        size = np.array(shape[::-1], float)
        return Listing((self.positions + shift + CENTRE_TO_EDGE) % size - CENTRE_TO_EDGE, self.scores)


@dataclass(frozen=True, eq=False)
class Place:
    """What is there on one frame.

    Attributes
    ----------
    positions : ndarray, shape (M, 2)
        `x, y`, 0-based pixel centres.
    snr : ndarray, shape (M,)
        Signal to noise in a matched filter; NaN, where it is not known, counts as bright.
    fwhm : ndarray, shape (M,)
        Observed, in pixels: a detection within it is the source.
    shape : (int, int)
        H, W of the frame.
    ignored : ndarray, shape (M,), bool, or None
        Sources that never count, for another reason than that they are faint; None for none.
    """

    positions: Floats
    snr: Floats
    fwhm: Floats
    shape: tuple[int, int]
    ignored: Bools | None = field(default=None)

    def __post_init__(self) -> None:
        count = len(self.snr)
        columns = (self.snr, self.fwhm, self.aside)
        if self.positions.shape != (count, 2) or any(one.shape != (count,) for one in columns):
            raise ValueError(f"{count} sources need as many positions, and of everything else")

    def __len__(self) -> int:
        return len(self.snr)

    @property
    def aside(self) -> Bools:
        """Sources that never count, shape (M,)."""
        return np.zeros(len(self), bool) if self.ignored is None else self.ignored

    def fainter(self, faintest: float | None) -> Bools:
        """Sources that do not count where those below a signal to noise do not, shape (M,)."""
        if faintest is None:
            return self.aside
        with np.errstate(invalid="ignore"):
            return np.asarray(self.aside | (self.snr < faintest))


Pairs = Sequence[tuple[Listing, Place]]


def place_of(exposure: LabelledExposure) -> Place:
    """What is there on a labelled frame.

    Parameters
    ----------
    exposure : LabelledExposure
        Its truth's boxes are by the bundle's rule, so that their sides tell the observed FWHM (never under 1.6 px); one
        that the frame's edge cuts has its whole side still. A source that the truth ignores and that is no fainter than
        `FAINTEST` never counts; the fainter ones are left to the figures, which know when they count.
    """
    truth = exposure.truth
    x, y = truth.centres
    snr = truth.brightness if truth.brightness_kind == "snr" else np.full(len(truth), np.nan)
    with np.errstate(invalid="ignore"):
        aside = truth.ignored & ~(snr < FAINTEST)
    fwhm = _fwhm(truth.boxes, x, y)
    return Place(np.stack([x, y], axis=1), snr.astype(np.float64), fwhm, exposure.frame.shape, aside)


def _fwhm(boxes: Floats, x: Floats, y: Floats) -> Floats:
    """Geometric mean of the sides of whole boxes, in FWHM: twice the longer of both ways from the centre."""
    centre = np.stack([x, y], axis=1) + CENTRE_TO_EDGE
    half = np.maximum(centre - boxes[:, :2], boxes[:, 2:] - centre)
    return np.asarray(2 * np.sqrt(half.prod(axis=1)) / BOX_SCALE)
