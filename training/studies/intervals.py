"""Means over seeds with their intervals, and differences between runs that share a seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t

from lynceus.figures import Figures

CONFIDENCE = 0.95


class Mean(Figures):
    """A mean over seeds.

    Attributes
    ----------
    mean : float
        Of `count` values.
    half : float or None
        Half the width of its 95 % interval; None for a single value, which tells nothing of the spread.
    count : int
        Values.
    """

    mean: float
    half: float | None
    count: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.half is not None and abs(self.mean) > self.half


def mean_of(values: Sequence[float]) -> Mean | None:
    """The mean of a few values with its interval by Student's t, which small numbers need; None of nothing."""
    count = len(values)
    if not count:
        return None
    if count == 1:
        return Mean(mean=float(values[0]), half=None, count=1)
    error = float(np.std(values, ddof=1)) / np.sqrt(count)
    return Mean(mean=float(np.mean(values)), half=float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * error), count=count)


def mean_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Mean | None:
    """The mean of the differences from a reference, seed by seed.

    Parameters
    ----------
    values, reference : mapping of int to float
        Figures by seed; seeds that only one of them has are left out.

    Returns
    -------
    Mean or None
        None where they share no seed.

    Notes
    -----
    What a seed does to both alike, its first weights and the order of its tiles, cancels, so that this interval is
    narrower than those of the two means would let one think.
    """
    return mean_of([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])
