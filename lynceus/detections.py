"""The Detections value, and the one place where pixel conventions meet.

Three conventions are in use, and only this module converts between them:

- *edges* (torchvision, every `box`): pixel (0, 0) covers [0, 1) x [0, 1), its centre is 0.5;
- *0-based centres* (published `x, y`): the centre of pixel (0, 0) is 0.0;
- *1-based centres* (FITS, VOTable, SExtractor, DS9): the centre of the first pixel is 1.0.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

CENTRE_TO_EDGE = 0.5
CENTRE_TO_FITS = 1.0
EDGE_TO_FITS = CENTRE_TO_FITS - CENTRE_TO_EDGE


@dataclass(frozen=True, eq=False)
class Detections:
    """What the network claims to see.

    Attributes
    ----------
    boxes : ndarray, shape (N, 4), float32
        `x_min, y_min, x_max, y_max` in edge coordinates, in pixels.
    scores : ndarray, shape (N,), float32
        Between 0 and 1.
    labels : ndarray, shape (N,), int64
        Index into the bundle's class list, from 0.

    Raises
    ------
    ValueError
        If the shapes do not agree, or a box has no area or is not finite.
    """

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must have shape (N, 4), not {self.boxes.shape}")
        if self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(f"{count} boxes need as many scores and labels")
        if not (self.boxes[:, 2:] > self.boxes[:, :2]).all() or not np.isfinite(self.boxes).all():
            raise ValueError("every box needs x_min < x_max and y_min < y_max, all finite")

    @classmethod
    def empty(cls) -> Self:
        """No detections at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def concatenate(cls, parts: "list[Detections]") -> "Detections":
        """Join lists in the order given."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Detections":
        """Select by a mask, an array of indices, or a slice."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    @property
    def centres(self) -> tuple[Floats, Floats]:
        """Box centres `x, y` as 0-based pixel centres, two arrays of shape (N,), float64."""
        boxes = self.boxes.astype(np.float64)
        return (
            (boxes[:, 0] + boxes[:, 2]) / 2 - CENTRE_TO_EDGE,
            (boxes[:, 1] + boxes[:, 3]) / 2 - CENTRE_TO_EDGE,
        )

    def moved(self, dx: float, dy: float, scale: float = 1.0) -> "Detections":
        """Scale the boxes about the origin (edge coordinates), then shift them by `dx, dy` pixels."""
        shift = np.array([dx, dy, dx, dy], self.boxes.dtype)
        return Detections(self.boxes * self.boxes.dtype.type(scale) + shift, self.scores, self.labels)


def box_about(x: Floats, y: Floats, width: Floats, height: Floats) -> Floats:
    """Boxes of a given size about 0-based pixel-centre positions.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        0-based pixel centres.
    width, height : ndarray, shape (N,)
        In pixels.

    Returns
    -------
    ndarray, shape (N, 4)
        Edge coordinates.
    """
    x_edge, y_edge = x + CENTRE_TO_EDGE, y + CENTRE_TO_EDGE
    return np.stack([x_edge - width / 2, y_edge - height / 2, x_edge + width / 2, y_edge + height / 2], axis=1)


def centre_to_fits(position: Floats) -> Floats:
    """0-based pixel centres to 1-based ones (`X_IMAGE = x + 1`)."""
    return position + CENTRE_TO_FITS


def centre_from_fits(position: Floats) -> Floats:
    """1-based pixel centres to 0-based ones."""
    return position - CENTRE_TO_FITS


def edge_to_fits(edge: Floats) -> Floats:
    """Box edges to the 1-based pixel-centre coordinates of FITS."""
    return edge + EDGE_TO_FITS


def edge_from_fits(edge: Floats) -> Floats:
    """1-based pixel-centre coordinates of a box's edges to edge coordinates."""
    return edge - EDGE_TO_FITS
