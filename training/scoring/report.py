"""What an evaluation over many frames found, as values that JSON can hold, and the files they are written to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from lynceus.durable import write_whole
from lynceus.figures import Bin, Evaluation, Figures

REPORT_JSON, REPORT_PAGE = "report.json", "report.html"
OURS = "detector"  # the name of the one that is scored, among its rivals
PARENT = "parent"


class FrameFigures(Figures):
    """One frame of a report: how many sources and detections count, and what became of them.

    `extra_hidden` of the extra ones lie on a trail; `seconds` is the time that finding took.
    """

    key: str
    sources: int
    detections: int
    matched: int
    missed: int
    extra: int
    ignored: int
    extra_hidden: int = 0
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def excess(self) -> int:
        """Detections that count minus sources that count."""
        return self.extra - self.missed


class Window(Figures):
    """A part of a frame, from column `x` and row `y`, with what was missed and what is extra in it.

    `picture` is a `data:` address of a drawing, for pages alone.
    """

    key: str
    x: int
    y: int
    side: int
    matched: int
    missed: int
    extra: int
    ignored: int
    picture: str = Field("", exclude=True)


class ClassFigures(Figures):
    """One class: only sources of it are to be found, and only detections that are called so count."""

    sources: int
    detections: int
    map: float | None
    map_50: float | None
    precision: float | None
    recall: float | None
    f1: float | None


class Confusion(Figures):
    """What the sources are (rows) and what they were called (columns).

    The last row is of detections that are no source, the last column of sources that were missed.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def accuracy(self) -> float | None:
        """The share of the detected sources that were called what they are; None without any."""
        size = len(self.classes)
        detected = sum(sum(row[:size]) for row in self.counts[:size])
        return sum(self.counts[one][one] for one in range(size)) / detected if detected else None


class Report(Evaluation):
    """An evaluation of many frames together: every figure of `Evaluation`, pooled, and what only many frames tell.

    Attributes
    ----------
    frames : int
        How many were scored.
    faintest : float or None
        Sources below this signal to noise are ignored, except in `completeness` and `completeness_by_centre`.
    seconds : float or None
        Median time that a frame took.
    completeness_by_centre : tuple of Bin
        As `completeness`, but matched by centre, which is fair to lists whose boxes follow another rule.
    crowding : tuple of Bin
        Completeness, by centre, by the distance to the nearest other source, in FWHM of the source.
    crowded_reliability : tuple of Bin
        Reliability, by centre, by the distance to the nearest other detection, in FWHM of the detection.
    map_50_by_snr : mapping
        Average precision at IoU 0.5 of the sources in a bin of signal to noise, the others being ignored.
    by_class : mapping of str to ClassFigures
        Empty where there is one class, or the truth names none.
    confusion : Confusion or None
        Under the same condition.
    per_frame : tuple of FrameFigures
        In the order of the frames.
    worst : tuple of Window
        Those with most misses and extras, the worst first.

    Notes
    -----
    Average recall is of the surest detections of each frame; the caps are shares of the most detections in a frame.
    """

    frames: int
    faintest: float | None = None
    seconds: float | None = None
    completeness_by_centre: tuple[Bin, ...] = ()
    crowding: tuple[Bin, ...] = ()
    crowded_reliability: tuple[Bin, ...] = ()
    map_50_by_snr: dict[str, float | None] = Field(default_factory=dict)
    by_class: dict[str, ClassFigures] = Field(default_factory=dict)
    confusion: Confusion | None = None
    per_frame: tuple[FrameFigures, ...] = ()
    worst: tuple[Window, ...] = ()

    def headline(self) -> dict[str, float]:
        """The few figures that a manifest carries, those that are defined."""
        names = ("map_50", "map", "f1", "precision", "recall", "best_iou_per_gt", "best_iou_per_prediction")
        figures = {name: getattr(self, name) for name in names}
        return {name: round(value, 4) for name, value in figures.items() if value is not None}


def write_report(reports: Mapping[str, Report] | Report, out: Path, *, title: str = "", about: str = "") -> Path:
    """Write `report.json` and the self-contained page `report.html` into a folder.

    Parameters
    ----------
    reports : Report or mapping of str to Report
        By the name of what found the detections, the one that is scored first, then its rivals, all on the same frames.
    out : Path
        Made if it is not there.
    title : str
        Of the page, such as the name and version of the bundle.
    about : str
        A sentence below it, such as what the frames are.

    Returns
    -------
    Path
        Of the page.
    """
    from training.scoring.report_page import report_page

    if isinstance(reports, Report):
        reports = {OURS: reports}
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / REPORT_JSON, json.dumps(report_json(reports), indent=1, allow_nan=False).encode() + b"\n")
    write_whole(out / REPORT_PAGE, report_page(reports, title=title, about=about).encode())
    return out / REPORT_PAGE


def report_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """All reports as JSON holds them, floats to six places."""
    return {name: rounded(report.model_dump(mode="json")) for name, report in reports.items()}


def rounded(figures: Any, places: int = 6) -> Any:
    """The same with every float rounded, however deep."""
    if isinstance(figures, dict):
        return {name: rounded(figure, places) for name, figure in figures.items()}
    if isinstance(figures, list | tuple):
        return [rounded(figure, places) for figure in figures]
    return round(figures, places) if isinstance(figures, float) else figures
