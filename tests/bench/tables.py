"""Figures as people read them."""

from collections.abc import Mapping, Sequence
from statistics import median

from rich.table import Table

from tests.bench.figures import Figure
from tests.bench.history import over_last


def table(part: str, figures: Sequence[Figure], last: Mapping[str, float]) -> Table:
    """A line a figure: median, 95 % interval, CPU time, over the last run, and its bar."""
    shown = Table(title=part, title_justify="left", box=None)
    shown.add_column("")
    for name in ("median", "95 % interval", "n", "CPU", "over last"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("bar", no_wrap=True)
    for figure, ratio in zip(figures, over_last(figures, last), strict=True):
        low, high = figure.interval
        shown.add_row(
            figure.name,
            f"{number(figure.median)} {figure.unit}".rstrip(),
            f"{number(low)} to {number(high)}",
            str(len(figure.values)),
            number(median(figure.cpu)) if figure.cpu else "",
            f"{ratio:.2f}" if ratio else "",
            f"{figure.bar} {figure.verdict}" if figure.bar else "",
        )
    return shown


def number(value: float) -> str:
    """With three digits, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return (
        f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}" if abs(value) >= 0.1 else f"{value:.3g}"
    )
