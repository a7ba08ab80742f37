"""Trails taken out of the truth, whose boxes would void whole tiles."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lynceus.trails import Trail
from lynceus.truth import Truth

LARGEST_BOX = 2.0  # widths of the trail: a larger box about a position on it is its own, not that of a star under it


def without_trails(truth: Truth, hidden: NDArray[np.bool_], trails: Sequence[Trail]) -> Truth:
    """Take the rows out of a truth that list a trail as if it were a source.

    Parameters
    ----------
    truth : Truth
        M sources.
    hidden : ndarray, shape (H, W), bool
        Where the trails are.
    trails : sequence of Trail
        The same.

    Returns
    -------
    Truth
        Without those whose position is on a trail and whose box is much wider than it.
    """
    x, y = truth.centres
    height, width = hidden.shape
    rows, columns = np.clip(np.rint(y).astype(int), 0, height - 1), np.clip(np.rint(x).astype(int), 0, width - 1)
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(axis=1)
    keep = ~(hidden[rows, columns] & (sides > LARGEST_BOX * max(trail.width for trail in trails)))
    return replace(
        truth,
        boxes=truth.boxes[keep],
        ignored=truth.ignored[keep],
        brightness=truth.brightness[keep],
        listed=int(keep[: truth.listed].sum()),
        positions=(x[keep], y[keep]),
        kinds=None if truth.kinds is None else tuple(np.array(truth.kinds, object)[keep]),
    )
