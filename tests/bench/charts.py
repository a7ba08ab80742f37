"""Curves of growth as pictures."""

from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from lynceus.pages import BLUE, GREEN, GREY, ORANGE
from tests.bench.curves import UPPER, Curve

INCHES, DPI = (9.0, 3.4), 100
WORDS = {
    "pixels": ("seconds a frame", "MB of the frame's own"),
    "sources": ("seconds a frame", "MB of the frame's own"),
    "clients": ("seconds a frame", "frames a second"),
}


def draw(curve: Curve, path: Path) -> None:
    """Draw time on the left, memory (of clients: throughput) on the right, both axes logarithmic."""
    canvas = Canvas(figsize=INCHES, layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subplots(1, 2)
    x = [point.x for point in curve.points]
    wall = [median(point.wall) for point in curve.points]
    _line(left, x, wall, BLUE, "by the clock", curve, "wall")
    if "cpu" in curve.exponents:
        _line(left, x, [median(point.cpu) for point in curve.points], ORANGE, "of all cores", curve, "cpu")
    if "memory" in curve.exponents:
        _line(right, x, [point.memory for point in curve.points], GREEN, "memory", curve, "memory")
    else:
        _line(right, x, [point.x / took for point, took in zip(curve.points, wall, strict=True)], GREEN, "", curve, "")
    for axes, text in zip((left, right), WORDS[curve.name], strict=True):
        axes.set(xscale="log", yscale="log", xlabel=curve.along, ylabel=text)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(color=GREY, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize="small")
    canvas.savefig(path, dpi=DPI, metadata={"Software": None})


def _line(axes: Axes, x: list[float], y: list[float], colour: str, label: str, curve: Curve, name: str) -> None:
    """The points, and the fitted power through the last ones."""
    fit = curve.exponents.get(name)
    text = f"{label}, exponent {fit}" if fit else label or None
    axes.plot(x, y, "o", color=colour, label=text)
    if fit is None:
        axes.plot(x, y, color=colour)
        return
    ends = np.array(x[-UPPER:])
    middle = np.exp(np.mean(np.log(ends))), np.exp(np.mean(np.log(y[-UPPER:])))
    axes.plot(ends, middle[1] * (ends / middle[0]) ** fit.value, color=colour)
