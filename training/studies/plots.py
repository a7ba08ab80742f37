"""Charts of sweeps and studies, as SVG that follows the page's colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lynceus.pages import BLUE, GREEN, GREY, INK, ORANGE, chart
from training.studies.intervals import Mean

ROW = 0.42  # inches of a chart's height that a variant takes
Points = Sequence[tuple[float, float]]


def variants_chart(
    label: str, seeds: Mapping[str, Sequence[float]], means: Mapping[str, Mean | None], reference: str
) -> Markup:
    """One figure of all variants of a study: a dot a seed, and the mean with its 95 % interval.

    Parameters
    ----------
    label : str
        What the figure is called.
    seeds : mapping of str to sequence of float
        The figure of each seed, by variant, in the order to draw them from the top.
    means : mapping of str to Mean or None
        Over these seeds.
    reference : str
        The variant that the others are compared with; a line marks its mean.
    """
    names = list(seeds)

    def draw(axes: Axes) -> None:
        base = means[reference]
        if base is not None:
            axes.axvline(base.mean, color=GREY, linewidth=1.2, linestyle="--")
        for row, name in enumerate(names):
            axes.plot(seeds[name], [row] * len(seeds[name]), "o", color=GREY, markersize=4.5, alpha=0.9)
            if (mean := means[name]) is not None:
                colour = BLUE if name == reference else GREEN
                axes.errorbar(mean.mean, row, xerr=mean.half, fmt="D", color=colour, markersize=6, capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)

    told = "; ".join(f"{name}: {mean.mean:.3f}" for name, mean in means.items() if mean is not None)
    return chart(draw, f"{label} by variant. {told}", (6.4, 0.9 + ROW * len(names)))


def history_chart(finished: Points, pruned: Points) -> Markup:
    """What each trial of a sweep reached, and the best so far.

    Parameters
    ----------
    finished, pruned : sequence of (float, float)
        Number of the trial and what it reached.
    """

    def draw(axes: Axes) -> None:
        if pruned:
            axes.plot(*zip(*pruned, strict=True), "o", color=ORANGE, fillstyle="none", label="pruned")
        if finished:
            numbers, values = zip(*sorted(finished), strict=True)
            axes.plot(numbers, values, "o", color=BLUE, label="finished")
            axes.step(numbers, np.maximum.accumulate(values), where="post", color=GREEN, label="best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel("mAP at IoU 0.5")
        if finished or pruned:
            axes.legend()

    best = max((value for _, value in finished), default=None)
    return chart(draw, f"History of the sweep; best {'none' if best is None else f'{best:.3f}'}")


def slice_chart(name: str, finished: Points, pruned: Points, *, logarithmic: bool) -> Markup:
    """What the trials reached against one of their parameters.

    Parameters
    ----------
    name : str
        Of the parameter.
    finished, pruned : sequence of (float, float)
        Its value and what the trial reached.
    logarithmic : bool
        Whether the parameter was drawn evenly in its logarithm.
    """

    def draw(axes: Axes) -> None:
        for points, colour, style in ((pruned, ORANGE, "none"), (finished, BLUE, "full")):
            if points:
                axes.plot(*zip(*points, strict=True), "o", color=colour, fillstyle=style)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_locator(LogLocator(numticks=8))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(name)
        axes.set_ylabel("mAP at IoU 0.5")

    return chart(draw, f"mAP at IoU 0.5 against {name}", (4.2, 3.2))


def importance_chart(importances: Mapping[str, float]) -> Markup:
    """How much of the spread between good trials and all each parameter accounts for; shares that add to 1."""
    names = sorted(importances, key=lambda name: -importances[name])

    def draw(axes: Axes) -> None:
        values = [importances[name] for name in names]
        axes.barh(names, values, color=BLUE, height=0.6)
        for row, value in enumerate(values):
            axes.text(value, row, f" {100 * value:.0f} %", va="center", color=INK, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.1 * max([*values, 0.1]))
        axes.set_xlabel("importance")

    told = "; ".join(f"{name}: {importances[name]:.2f}" for name in names)
    return chart(draw, f"Importance of the parameters. {told}", (6.4, 0.9 + ROW * len(names)))
