"""Charts of an archive: how its labels are spread, how large its sources are, and how its brightest stars saturate."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lynceus.detections import Floats
from lynceus.pages import BLUE, GREEN, GREY, INK, ORANGE, RED, chart
from training.curation.dataset import APART, KEPT
from training.curation.inspection import Inspection
from training.curation.labels import LABELS
from training.curation.pairs import Pair

COLOURS = {
    "OK": GREEN, "ESO": ORANGE, "TRACE": RED, "COMET": BLUE, "GALAXY": BLUE, "BINARY": BLUE, "LIGHT": RED,
    "background_pattern": RED, "KO": RED,
}  # fmt: skip
HISTOGRAM_BINS = 48
MOST_PROFILES = 60
WHISKER = 1.5  # of the interquartile range; what lies beyond is an outlier


@dataclass(frozen=True)
class Row:
    """One frame of the archive, and what became of it.

    Attributes
    ----------
    pair : Pair
        Frame and catalogue.
    found : Inspection
        What is known of them.
    state : str
        "kept" or "apart".
    reason : str
        Why it is set apart; of one that is kept, what a person should know.
    labels, proposed : tuple of str
        The labels that count, and those that were proposed.
    why : tuple of str
        A reason for each proposed label.
    by_hand : bool
        Whether a person wrote the labels.
    field : str
        Of the sky; empty for one that is set apart.
    """

    pair: Pair
    found: Inspection
    state: str
    reason: str
    labels: tuple[str, ...]
    proposed: tuple[str, ...]
    why: tuple[str, ...]
    by_hand: bool
    field: str


def draw_charts(rows: Sequence[Row]) -> list[tuple[Markup, str]]:
    """Label abundance, sizes of the objects with and without outliers, and profiles of the brightest stars."""
    kept = [row for row in rows if row.state == KEPT]
    sides = np.array([side for row in kept for side in row.found.sides], np.float64)
    charts: list[tuple[Callable[[Axes], None], str, str]] = [
        (lambda axes: _draw_labels(axes, rows), "label abundance", "Labels of the frames: kept, and set apart (pale)."),
    ]
    if len(sides):
        inside, beyond = _without_outliers(sides)
        charts += [
            (
                lambda axes: _draw_sizes(axes, sides),
                "histogram of the objects' sizes",
                f"Larger sides of the {len(sides):,} boxes of kept frames; the median is {np.median(sides):.1f} px.",
            ),
            (
                lambda axes: _draw_boxes(axes, sides, inside),
                "box plot of the objects' sizes",
                f"The same with and without its {beyond:,} outliers, those beyond {WHISKER} interquartile ranges.",
            ),
        ]
    if any(row.found.quality and row.found.quality.profile for row in rows):
        charts.append(
            (
                lambda axes: _draw_profiles(axes, rows),
                "profiles of the brightest stars",
                "Rows through the brightest or most saturated star of each frame; a flat top is saturation.",
            )
        )
    return [(chart(draw, label, (6.4, 3.4)), caption) for draw, label, caption in charts]


def _draw_labels(axes: Axes, rows: Sequence[Row]) -> None:
    kept = Counter(label for row in rows if row.state == KEPT for label in row.labels)
    apart = Counter(label for row in rows if row.state == APART for label in row.labels)
    names = list(LABELS)[::-1]
    counts = [kept[name] for name in names]
    colours = [COLOURS[name] for name in names]
    axes.barh(names, counts, color=colours)
    axes.barh(names, [apart[name] for name in names], left=counts, color=colours, alpha=0.35)
    for index, name in enumerate(names):
        total = kept[name] + apart[name]
        text = f" {kept[name]}" + (f" + {apart[name]}" if apart[name] else "") if total else " –"
        axes.text(total, index, text, va="center", color=INK)
    axes.set_xlabel("frames")
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)


def _draw_sizes(axes: Axes, sides: Floats) -> None:
    low, high = max(float(sides.min()), 0.5), float(sides.max())
    edges = np.geomspace(low * 0.999, max(high, low * 2) * 1.001, HISTOGRAM_BINS + 1)
    axes.hist(sides, bins=edges.tolist(), color=BLUE)
    axes.axvline(float(np.median(sides)), color=INK, linewidth=1, linestyle="--")
    _log_axis(axes, edges[0], edges[-1])
    axes.set_xlabel("side of the box in px")
    axes.set_ylabel("sources")


def _draw_boxes(axes: Axes, sides: Floats, inside: Floats) -> None:
    colour = {"color": INK}
    for place, values, outliers in ((1, inside, False), (2, sides, True)):
        axes.boxplot(
            [values],
            positions=[place],
            orientation="horizontal",
            widths=0.5,
            whis=WHISKER,
            showfliers=outliers,
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": RED, "alpha": 0.5},
            boxprops=colour,
            whiskerprops=colour,
            capprops=colour,
            medianprops={"color": BLUE, "linewidth": 2},
        )
    axes.set_yticks([1, 2], ["without\noutliers", "with\noutliers"])
    _log_axis(axes, max(float(sides.min()) * 0.9, 0.5), float(sides.max()) * 1.1)
    axes.set_xlabel("side of the box in px")


def _log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of pixels with plain numbers on it."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= tick <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _without_outliers(sides: Floats) -> tuple[Floats, int]:
    """What lies within the whiskers of a box plot, and how many do not."""
    lower, upper = np.percentile(sides, [25, 75])
    reach = WHISKER * (upper - lower)
    inside = sides[(sides >= lower - reach) & (sides <= upper + reach)]
    return inside, len(sides) - len(inside)


def _draw_profiles(axes: Axes, rows: Sequence[Row]) -> None:
    """Rows through the brightest stars, each over its own peak, so that flat tops are seen."""
    drawn = {"saturated": RED, "not saturated": GREY}
    profiled = [row for row in rows if row.found.quality and any(row.found.quality.profile)][:MOST_PROFILES]
    for name, colour in drawn.items():
        for row in profiled:
            quality = row.found.quality
            if quality is None or (quality.saturated_area > 0) != (name == "saturated"):
                continue
            profile = np.array(quality.profile)
            reach = len(profile) // 2
            axes.plot(
                np.arange(-reach, reach + 1),
                profile / max(profile.max(), 1e-9),
                color=colour,
                linewidth=0.9,
                alpha=0.7,
                label=name if name not in axes.get_legend_handles_labels()[1] else None,
            )
    axes.set_ylim(-0.1, 1.15)
    axes.set_xlabel("pixels from the star")
    axes.set_ylabel("over its peak")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper right")
