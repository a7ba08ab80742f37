"""The figures of every finder on every scene as one value, their means, and as tables in Markdown."""

from collections.abc import Callable, Sequence

import numpy as np

from lynceus.figures import Figures
from lynceus.pages import UNKNOWN, figure
from training.scenarios.calibration import Calibration
from training.scenarios.depth import DEPTH_EDGES
from training.scenarios.figures import SceneFigures

Value = Callable[[SceneFigures], float | None]
DEEPEST = f"> {DEPTH_EDGES[-1]:g}"


class SceneReport(Figures):
    """One scene.

    Attributes
    ----------
    name, about : str
        What it is called, and what is on it.
    finders : dict of str to SceneFigures
        Everybody's figures, by name; ours first.
    calibration : Calibration or None
        Of our scores.
    """

    name: str
    about: str = ""
    finders: dict[str, SceneFigures]
    calibration: Calibration | None = None

    @property
    def starless(self) -> bool:
        """Whether there is nothing to be found."""
        return not any(one.sources for one in self.finders.values())


class SuiteReport(Figures):
    """All scenes, and what was scored on them, in a sentence."""

    about: str = ""
    scenes: tuple[SceneReport, ...]

    @property
    def finders(self) -> tuple[str, ...]:
        """Names of all that were scored, in the order of the first scene."""
        return tuple(dict.fromkeys(name for scene in self.scenes for name in scene.finders))

    @property
    def populated(self) -> tuple[SceneReport, ...]:
        """The scenes with sources."""
        return tuple(scene for scene in self.scenes if not scene.starless)

    def mean(self, finder: str, value: Value) -> float | None:
        """A finder's mean over the scenes with sources; None unless it is known in all."""
        values = [None if (one := scene.finders.get(finder)) is None else value(one) for scene in self.populated]
        known = [one for one in values if one is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None


class Column(Figures):
    """A figure that tables show.

    Its name; whether more is better, or less, or neither (None); its decimals; what is said of it; whether the
    interval of the depth stands beside it.
    """

    label: str
    higher: bool | None = True
    digits: int = 3
    told: str = ""
    interval: bool = False


# fmt: off
COLUMNS: tuple[tuple[Column, Value], ...] = (
    (Column(label="F1 at the shipped threshold", told="Sources under SNR 5 do not count."),
     lambda one: one.f1_shipped),
    (Column(label="best F1", told="At the threshold that is best on these very frames."),
     lambda one: one.best_f1),
    (Column(label="average precision"),
     lambda one: one.ap),
    (Column(label="completeness at 95 % reliability", told="Chance matches are taken off."),
     lambda one: one.completeness_at.get("0.95")),
    (Column(label="completeness at 90 % reliability", told="Chance matches are taken off."),
     lambda one: one.completeness_at.get("0.90")),
    (Column(label="SNR of half completeness", higher=False, digits=2, interval=True,
            told="At 95 % reliability, nothing ignored, with its 95 % interval: how deep it sees."),
     lambda one: one.snr50),
    (Column(label="reliability at the shipped threshold"),
     lambda one: one.reliability_shipped),
    (Column(label="completeness at the shipped threshold"),
     lambda one: one.completeness_shipped),
    (Column(label="share of a shifted list that matches", higher=None, told="What strays would get for nothing."),
     lambda one: one.chance),
)
# fmt: on
FALSE: tuple[Column, Value] = (
    Column(label="false detections per million pixels", higher=False, digits=2, told="At the shipped threshold."),
    lambda one: one.false_per_megapixel,
)


Row = tuple[str, list[str], set[int]]  # label, a cell for each finder, which of them are the best


def rows(report: SuiteReport, column: Column, value: Value, *, starless: bool = False) -> list[Row]:
    """A row for every scene and one of the means; of the scenes without sources, too, if `starless`."""
    finders = report.finders
    listed = []
    for scene in report.scenes if starless else report.populated:
        told = [scene.finders.get(name) for name in finders]
        values = [None if one is None else value(one) for one in told]
        cells = [_cell(one, number, column) for one, number in zip(told, values, strict=True)]
        listed.append((scene.name, cells, _best(values, column.higher)))
    means = [report.mean(name, value) for name in finders]
    if len(report.populated) > 1:
        listed.append(("mean", [figure(one, column.digits) for one in means], _best(means, column.higher)))
    return listed


def tables(report: SuiteReport) -> str:
    """All figures as Markdown: a table each, scenes down and finders across, the best of a row bold."""
    head = " | ".join(report.finders)
    parts = [f"{report.about}\n"] if report.about else []
    for column, value in COLUMNS:
        parts.append(_markdown(column, head, rows(report, column, value)))
    parts.append(_markdown(FALSE[0], head, rows(report, *FALSE, starless=True)))
    if calibrated := calibration_rows(report):
        lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in calibrated]
        parts.append("\n".join([CALIBRATED, "", CALIBRATION_HEAD, "|---|---|---|---|---|", *lines]) + "\n")
    return "\n".join(parts)


CALIBRATED = "**calibration error** of our scores between 0.1 and 0.9"
CALIBRATION_HEAD = "| | error | of perfect scores | too sure by | detections |"


def calibration_rows(report: SuiteReport) -> list[tuple[str, list[str]]]:
    """Scene by scene: the error, what a perfect list would have by its few detections, the lean, and how many."""
    known = [(scene.name, scene.calibration) for scene in report.scenes if scene.calibration]
    told = [
        (name, [figure(one.error), figure(one.noise), figure(one.lean), figure(one.detections, 0)])
        for name, one in known
    ]
    if mean := mean_calibration(report):
        told.append(("mean", [figure(mean), UNKNOWN, UNKNOWN, UNKNOWN]))
    return told


def mean_calibration(report: SuiteReport) -> float | None:
    """The mean calibration error of the scenes with sources that have one."""
    errors = [scene.calibration.error for scene in report.populated if scene.calibration]
    known = [one for one in errors if one is not None]
    return float(np.mean(known)) if known else None


def _cell(one: SceneFigures | None, value: float | None, column: Column) -> str:
    if one is None:
        return UNKNOWN
    if not column.interval:
        return figure(value, column.digits)
    if value is None:
        return DEEPEST if one.depth.threshold is not None else UNKNOWN
    if one.depth.interval is None:
        return figure(value, column.digits)
    return f"{value:.2f} ({one.depth.interval[0]:.2f}–{one.depth.interval[1]:.2f})"


def _best(values: Sequence[float | None], higher: bool | None) -> set[int]:
    known = [value for value in values if value is not None]
    if len(values) < 2 or not known or higher is None:
        return set()
    best = max(known) if higher else min(known)
    return {place for place, value in enumerate(values) if value == best}


def _markdown(column: Column, head: str, listed: Sequence[Row]) -> str:
    lines = [
        f"| {name} | {' | '.join(f'**{cell}**' if n in best else cell for n, cell in enumerate(cells))} |"
        for name, cells, best in listed
    ]
    said = f". {column.told}" if column.told else ""
    bars = "|---" * (head.count(" | ") + 2) + "|"
    return "\n".join([f"**{column.label}**{said}", "", f"| | {head} |", bars, *lines]) + "\n"
