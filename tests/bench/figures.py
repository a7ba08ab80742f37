"""Figures with intervals: medians of rounds, ratios within a round, exponents of growth."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.stats import binom, t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Bar:
    """What a figure shall be: at least `low`, at most `high`."""

    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        return f"<= {self.high:g}" if np.isfinite(self.high) else f">= {self.low:g}"

    def verdict(self, value: float) -> str:
        """`kept` or `short`."""
        return "kept" if self.low <= value <= self.high else "short"


@dataclass(frozen=True)
class Figure:
    """What was measured of one thing, a value a round.

    Attributes
    ----------
    name : str
        Of the thing.
    unit : str
        Of the values: s, ms, MB, frames/s, or x for a ratio.
    values : tuple of float
        One a round, at least one.
    cpu : tuple of float
        CPU time of the same rounds, in the same unit; empty where it was not taken.
    bar : Bar or None
        What the median shall be.
    bounds : (float, float) or None
        The 95 % interval, where it does not come from the values.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    cpu: tuple[float, ...] = ()
    bar: Bar | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"nothing was measured of {self.name}")

    @property
    def median(self) -> float:
        """Of the values."""
        return median(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """In which the true value lies with 95 % (see `median_interval`)."""
        return self.bounds or median_interval(self.values)

    @property
    def verdict(self) -> str:
        """Whether the bar is kept; empty without one."""
        return self.bar.verdict(self.median) if self.bar else ""

    def json(self) -> dict[str, object]:
        """As the history keeps it."""
        low, high = self.interval
        kept = {"unit": self.unit, "median": self.median, "low": low, "high": high, "values": list(self.values)}
        if self.cpu:
            kept["cpu_median"] = median(self.cpu)
        if self.bar:
            kept |= {"bar": str(self.bar), "verdict": self.verdict}
        return kept


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of values, as many left out below as above, that holds the median with 95 %.

    Parameters
    ----------
    values : sequence of float, length N
        Of any distribution. Of under six, the least and the greatest, which hold it with less (five: 94 %, four: 88 %,
        three: 75 %).

    Returns
    -------
    (float, float)
        The least and the greatest median to believe in.
    """
    ordered = sorted(values)
    outside = max(int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5)) - 1, 0)  # values left out at either end
    return ordered[outside], ordered[-1 - outside]


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], bar: Bar | None = None) -> Figure:
    """One thing over another, round by round."""
    return Figure(name, "x", tuple(a / b for a, b in zip(ours, theirs, strict=True)), bar=bar)


@dataclass(frozen=True)
class Exponent:
    """How fast something grows: as the power `value` of what it depends on, between `low` and `high` with 95 %."""

    value: float
    low: float
    high: float
    points: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def fit_exponent(x: Sequence[float], y: Sequence[float], least: float = 0.0) -> Exponent:
    """The slope of log y over log x, for x from `least` on.

    Parameters
    ----------
    x, y : sequence of float, length N
        Positive; several values of `y` may share an `x`.
    least : float
        The part below it, where what is the same at any size counts, is left out.

    Raises
    ------
    ValueError
        If fewer than three points are left.
    """
    chosen = np.asarray(x, float) >= least
    along, up = np.log(np.asarray(x, float)[chosen]), np.log(np.asarray(y, float)[chosen])
    if len(along) < 3:
        raise ValueError("an exponent with an interval needs three points")
    slope, start = np.polyfit(along, up, 1)
    scatter = np.sum((up - start - slope * along) ** 2) / (len(along) - 2)
    error = np.sqrt(scatter / np.sum((along - along.mean()) ** 2))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(along) - 2) * error)
    return Exponent(float(slope), float(slope) - half, float(slope) + half, len(along))
