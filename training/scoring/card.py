"""The card of a version: what a person should know before using it, as Markdown."""

from collections.abc import Mapping

from lynceus.bundle import Manifest
from lynceus.pages import figure
from training.scoring.report import OURS, PARENT, Report

NAMES = {
    OURS: "this version",
    PARENT: "the version it started from",
    "sep": "`sep`, tuned",
    "source-extractor": "SExtractor, tuned",
}


def card(manifest: Manifest, reports: Mapping[str, Report], *, trained: str, scored: str) -> str:
    """Write the card.

    Parameters
    ----------
    manifest : Manifest
        Of the version.
    reports : mapping of str to Report
        Its own first, then its rivals'.
    trained, scored : str
        A sentence each: what it was trained and what it was scored on.
    """
    report = next(iter(reports.values()))
    measure = manifest.detector.measure
    from_parent = f" It started from {manifest.provenance.parent}." if manifest.provenance.parent else ""
    least = f" of signal to noise {report.faintest:g} and more" if report.faintest else ""
    channels = "single-channel frames" if manifest.network.channels == 1 else "frames"
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"Finds {' and '.join(manifest.network.classes)} in {channels}. {trained}{from_parent}\n\n"
        f"Default threshold {manifest.detector.min_score:g}. A box is {measure.box_scale:g} times the observed FWHM on "
        f"a side, at least {measure.min_box:g} px.\n\n"
        f"{scored} Frames: {report.frames}, with {report.sources} sources{least}.\n\n{table(reports)}\n"
        f"Completeness by brightness is by centre: within one FWHM of the source.\n\n"
        f"{classes(report)}"
        f"Known limits: objects larger than {manifest.detector.tile.overlap} px may be found in parts.\n"
    )


def table(reports: Mapping[str, Report]) -> str:
    """The figures of several reports side by side, as a Markdown table."""
    rows = [
        (label, [figure(value) for value in values])
        for label, values in _rows(list(reports.values()))
        if any(value is not None for value in values)
    ]
    head = " | ".join(NAMES.get(name, name) for name in reports)
    lines = [f"| {label} | {' | '.join(cells)} |" for label, cells in rows]
    return "\n".join([f"| | {head} |", "|---" * (len(reports) + 1) + "|", *lines]) + "\n"


def _rows(reports: list[Report]) -> list[tuple[str, list[float | None]]]:
    """Label, and a figure for each report."""
    rows = [
        ("AP50", [one.map_50 for one in reports]),
        ("AP75", [one.map_75 for one in reports]),
        ("AP, mean of IoU 0.5 to 0.95", [one.map for one in reports]),
        ("recall, mean of IoU 0.5 to 0.95", [one.mar["at_1.0"] for one in reports]),
        ("best IoU of a source", [one.best_iou_per_gt for one in reports]),
        ("best IoU of a detection", [one.best_iou_per_prediction for one in reports]),
        ("F1, by centre", [one.by_centre.f1 for one in reports]),
        ("reliability, by centre", [one.by_centre.precision for one in reports]),
        ("completeness, by centre", [one.by_centre.recall for one in reports]),
        ("F1, by box", [one.f1 for one in reports]),
    ]
    first = reports[0]
    kind = "SNR" if first.brightness_kind == "snr" else first.brightness_kind
    for place, one in enumerate(first.completeness_by_centre):
        ends = f"over {one.low:g}" if one.high is None else f"{one.low:g}-{one.high:g}"
        shares = [report.completeness_by_centre[place].share for report in reports]
        rows.append((f"completeness, {kind} {ends}", shares))
    for name in first.map_50_by_snr:
        shown = f"over {name[:-1]}" if name.endswith("-") else name
        rows.append((f"AP50, SNR {shown}", [report.map_50_by_snr.get(name) for report in reports]))
    return rows


def classes(report: Report) -> str:
    """The figures of each class and the confusion matrix; nothing where there is one class."""
    if report.confusion is None:
        return ""
    names = report.confusion.classes
    lines = [
        f"| {name} | {one.sources} | {figure(one.map_50)} | {figure(one.recall)} | {figure(one.precision)} |"
        for name, one in report.by_class.items()
    ]
    matrix = [
        f"| {name} | {' | '.join(str(cell) for cell in row)} |"
        for name, row in zip((*names, "no source"), report.confusion.counts, strict=True)
    ]
    return "\n".join(
        [
            "| class | sources | AP50 | recall | precision |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"| is \\ called | {' | '.join(names)} | missed |",
            "|---" * (len(names) + 2) + "|",
            *matrix,
            "\n",
        ]
    )
