"""The figures of one evaluation, as a value that JSON can hold; works without torch."""

from typing import Literal, Self

from pydantic import ConfigDict

from lynceus.spec import Spec

Cap = Literal["at_0.3", "at_0.65", "at_1.0"]
Interval = tuple[float, float]
Z_95 = 1.959964  # standard deviations on either side that hold 95 % of a Gaussian


def wilson(hits: int, total: int) -> Interval | None:
    """The 95 % interval of a share, of which `hits` in `total` were seen; None of nothing.

    Notes
    -----
    Wilson (1927): of use for few, and for shares near 0 and 1.
    """
    if total == 0:
        return None
    share, spread = hits / total, Z_95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * (share * (1 - share) / total + spread / (4 * total)) ** 0.5 / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


class Figures(Spec):
    """Figures that JSON can hold: a number or None, never NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


class Counts(Figures):
    """What became of the sources and of the detections.

    Attributes
    ----------
    matched : int
        Sources that were detected.
    missed : int
        Sources that were not.
    extra : int
        Detections that are no source.
    ignored : int
        Detections that an ignored source absorbed: neither right nor wrong.
    sources_ignored : int
        Sources that count neither as detected nor as missed.
    """

    matched: int
    missed: int
    extra: int
    ignored: int
    sources_ignored: int

    @property
    def precision(self) -> float | None:
        """The share of the detections that are sources; None without any."""
        return _share(self.matched, self.matched + self.extra)

    @property
    def recall(self) -> float | None:
        """The share of the sources that were detected; None without any."""
        return _share(self.matched, self.matched + self.missed)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both; None without sources and detections."""
        return _share(2 * self.matched, 2 * self.matched + self.extra + self.missed)


class Bin(Figures):
    """A share in one bin of a curve.

    Attributes
    ----------
    low, high : float or None
        Edges of the bin; None where it is open.
    count, hits : int
        How many there are, and how many of them are right.
    share : float or None
        Of the hits; None in an empty bin.
    interval : (float, float) or None
        That the share lies in with a confidence of 95 %.
    """

    low: float | None
    high: float | None
    count: int
    hits: int
    share: float | None
    interval: Interval | None

    @classmethod
    def of(cls, low: float | None, high: float | None, count: int, hits: int) -> Self:
        """The bin between two edges that holds so many."""
        return cls(low=low, high=high, count=count, hits=hits, share=_share(hits, count), interval=wilson(hits, count))


class Evaluation(Figures):
    """How good one list of detections is; a figure that is not defined is None.

    Attributes
    ----------
    min_score : float
        Counts, overlaps, offsets and curves are of the detections from this score up.
    detections, sources : int
        How many are scored, ignored sources left out.
    map, map_50, map_75 : float or None
        Average precision: mean of IoU 0.5 to 0.95, at 0.5, at 0.75.
    mar : mapping
        Average recall of IoU 0.5 to 0.95, of the surest detections at three caps.
    caps : mapping
        These caps: 0.3, 0.65 and 1.0 of the number of detections, or of 100 if these are fewer.
    best_iou_per_gt : float or None
        Mean over the sources of the best IoU with a detection.
    best_iou_per_prediction : float or None
        Mean over the detections of the best IoU with a source.
    precision, recall, f1 : float or None
        Reliability, completeness, and their harmonic mean, by `counts`.
    counts, by_centre : Counts
        Matched by an IoU of 0.5, and by a distance of one FWHM.
    median_centroid_offset, median_dx, median_dy : float or None
        Of matched detections from their sources, in pixels.
    brightness_kind : {"snr", "magnitude", "none"}
        What the bins of `completeness` are of.
    completeness, reliability : tuple of Bin
        By the brightness of the sources; by the score of the detections.
    """

    min_score: float
    detections: int
    sources: int
    map: float | None
    map_50: float | None
    map_75: float | None
    mar: dict[Cap, float | None]
    caps: dict[Cap, int]
    best_iou_per_gt: float | None
    best_iou_per_prediction: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    counts: Counts
    by_centre: Counts
    median_centroid_offset: float | None
    median_dx: float | None
    median_dy: float | None
    brightness_kind: Literal["snr", "magnitude", "none"]
    completeness: tuple[Bin, ...]
    reliability: tuple[Bin, ...]


def _share(part: int, total: int) -> float | None:
    return part / total if total else None
