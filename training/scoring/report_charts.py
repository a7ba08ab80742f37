"""The charts of a report: curves beside the rivals', a histogram of excess, a confusion matrix."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lynceus.figures import Bin
from lynceus.pages import BLUE, GREEN, INK, LINE, ORANGE, RED, chart
from training.scoring.report import Confusion, Report

MOST_BARS = 24  # of the histogram
MOST_LABELS = 12  # below a curve
COLOURS = (GREEN, BLUE, ORANGE, RED)
MARKERS = ("o", "s", "^", "D")
ALONG = {"snr": "signal to noise", "magnitude": "magnitude", "none": ""}


def curves(reports: Mapping[str, Report]) -> list[tuple[Markup, str]]:
    """Every curve there is something to draw of, with what is said below it."""
    first = next(iter(reports.values()))
    along = ALONG[first.brightness_kind]
    drawn = [
        (
            _curve({name: r.completeness_by_centre for name, r in reports.items()}, along, "completeness"),
            "Completeness, by centre: the share of the sources that were detected, by their brightness. Bars are 95 % "
            "intervals.",
        ),
        (
            _curve({name: r.crowding for name, r in reports.items()}, "FWHM to the nearest source", "completeness"),
            "Completeness, by centre, by crowding: how far away the nearest other source is.",
        ),
        (
            _curve(
                {name: r.crowded_reliability for name, r in reports.items()},
                "FWHM to the nearest detection",
                "reliability",
            ),
            "Reliability, by centre, by crowding: how far away the nearest other detection is.",
        ),
        (
            _curve({next(iter(reports)): first.reliability}, "score", "reliability"),
            "Reliability, by box: the share of the detections that are sources, by their score.",
        ),
        (_precision_by_snr(reports), "Average precision at IoU 0.5 of the sources in a bin, the others being ignored."),
        (
            _excess(first),
            "Detections minus sources, frame by frame: extra ones less missed ones. Evenly about 0 is best.",
        ),
    ]
    return [(markup, caption) for markup, caption in drawn if markup is not None]


def _curve(bins: Mapping[str, Sequence[Bin]], along: str, name: str) -> Markup | None:
    """Shares with their intervals, one line for each; None where there is nothing to show."""
    held = [place for some in bins.values() for place, one in enumerate(some) if one.count]
    if not held:
        return None
    shown = {who: some[min(held) : max(held) + 1] for who, some in bins.items() if any(one.count for one in some)}
    all_bins = max(shown.values(), key=len)

    def draw(axes: Axes) -> None:
        for number, (who, some) in enumerate(shown.items()):
            places = np.array([place for place, one in enumerate(some) if one.count])
            shares = np.array([some[place].share for place in places])
            ends = np.array([some[place].interval for place in places]).T
            axes.errorbar(
                places + 0.06 * number,
                shares,
                np.abs(ends - shares),
                fmt=f"{MARKERS[number % len(MARKERS)]}-",
                color=COLOURS[number % len(COLOURS)],
                linewidth=1.6,
                markersize=5,
                elinewidth=1.1,
                label=who,
            )
        step = -(-len(all_bins) // MOST_LABELS)
        labels = [f"{_range(one)}\n{one.count:,}" if len(shown) == 1 else _range(one) for one in all_bins]
        axes.set_xticks(range(len(all_bins))[::step], labels[::step], fontsize=8.5)
        axes.set_xlim(-0.5, len(all_bins) - 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(f"{along}, and how many" if len(shown) == 1 else along)
        axes.set_ylabel(name)
        if len(shown) > 1:
            axes.legend(fontsize=9)

    return chart(draw, f"{name} by {along}. {_spoken(shown)}", (6.4, 3.4))


def _spoken(bins: Mapping[str, Sequence[Bin]]) -> str:
    return "; ".join(
        f"{who}, {_range(one)}: {one.share:.2f}" for who, some in bins.items() for one in some if one.share is not None
    )


def _range(one: Bin) -> str:
    if one.high is None:
        return f"over {one.low:g}"
    return f"{one.low:g}–{one.high:g}"


def _precision_by_snr(reports: Mapping[str, Report]) -> Markup | None:
    names = list(next(iter(reports.values())).map_50_by_snr)
    lines = {who: [r.map_50_by_snr.get(name) for name in names] for who, r in reports.items()}
    if not any(value is not None for line in lines.values() for value in line):
        return None

    def draw(axes: Axes) -> None:
        width = 0.8 / len(lines)
        for number, (who, line) in enumerate(lines.items()):
            left = np.arange(len(names)) - 0.4 + (number + 0.5) * width
            heights = [value or 0.0 for value in line]
            axes.bar(left, heights, 0.9 * width, color=COLOURS[number % len(COLOURS)], label=who)
        axes.set_xticks(range(len(names)), [name if name[-1] != "-" else f"over {name[:-1]}" for name in names])
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("signal to noise")
        axes.set_ylabel("mAP at IoU 0.5")
        if len(lines) > 1:
            axes.legend(fontsize=9)

    spoken = "; ".join(
        f"{who}, {name}: {value:.2f}"
        for who, line in lines.items()
        for name, value in zip(names, line, strict=True)
        if value is not None
    )
    return chart(draw, f"Average precision by signal to noise. {spoken}", (6.4, 3.4))


def _excess(report: Report) -> Markup | None:
    """Histogram of detections minus sources, its bars of whole numbers."""
    excess = np.array([one.excess for one in report.per_frame])
    if len(excess) < 2:
        return None
    low, high = int(min(excess.min(), 0)), int(max(excess.max(), 0))
    step = -(-(high - low + 1) // MOST_BARS)
    edges = np.arange(low, high + step + 1, step)

    def draw(axes: Axes) -> None:
        axes.hist(excess, (edges - 0.5).tolist(), color=BLUE, rwidth=0.9)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel("detections minus sources")
        axes.set_ylabel("frames")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    spoken = f"Detections minus sources over {len(excess)} frames: from {excess.min()} to {excess.max()}, "
    return chart(draw, spoken + f"median {np.median(excess):g}", (6.4, 3.4))


def matrix(confusion: Confusion) -> Markup:
    """The matrix as squares, shaded by the share of their row."""
    counts = np.array(confusion.counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows, columns = [*confusion.classes, "no source"], [*confusion.classes, "missed"]

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        for (row, column), amount in np.ndenumerate(counts):
            if row == column == len(confusion.classes):
                continue
            strength = float(shares[row, column])
            corners = [column, column + 1, column + 1, column], [row, row, row + 1, row + 1]
            axes.fill(*corners, facecolor=BLUE, alpha=0.08 + 0.8 * strength, edgecolor=LINE)
            text = f"{amount:,}\n{100 * strength:.0f} %"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=INK, fontsize=10)
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xlabel("called")
        axes.set_ylabel("is")

    spoken = "; ".join(
        f"{rows[row]} called {columns[column]}: {amount}" for (row, column), amount in np.ndenumerate(counts)
    )
    side = 1.2 * (len(rows) + 1)
    return chart(draw, f"Confusion matrix. {spoken}", (side + 1, side))
