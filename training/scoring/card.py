"""The card of a version: what a person should know before using it, as Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from lynceus.bundle import Manifest
from lynceus.pages import figure
from training.scenarios.rivalry import DEFAULTS, ORACLE, TUNED, TUNED_PER_SCENE
from training.scenarios.summary import SceneReport, SuiteReport
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
    planes = manifest.detector.normalise.channels  # stretches of one plane are no planes of their own
    channels = "single-channel frames" if manifest.network.channels in (1, planes) else "frames"
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"Finds {' and '.join(manifest.network.classes)} in {channels}. {trained}{from_parent}\n\n"
        f"Default threshold {manifest.detector.min_score:g}. A box is {measure.box_scale:g} times the observed FWHM on "
        f"a side, at least {measure.min_box:g} px.\n\n"
        f"{scored} Frames: {report.frames}, with {report.sources} sources{least}.\n\n{table(reports)}\n"
        f"Completeness by brightness is by centre: within one FWHM of the source.\n\n"
        f"{classes(report)}"
        f"{limits(manifest)}\n"
    )


def limits(manifest: Manifest) -> str:
    """What it looks for besides point sources, and what it does not."""
    detector = manifest.detector
    overlap = f"objects larger than {detector.tile.overlap} px"
    told = [
        f"{overlap} are looked for on the frame binned {detector.coarse} times".capitalize()
        if detector.coarse
        else f"Known limits: {overlap} may be found in parts",
        "A score is the probability that a detection is a source, as far as the scenes it was fitted on are like yours"
        if detector.judge
        else "A score is no probability",
    ]
    if detector.trails:
        told.append("What is strung along a satellite's trail is left out, with a warning")
    return ". ".join(told) + "."


def on_scenes(report: SuiteReport) -> str:
    """Where it is good and where it is bad, against SExtractor at its best and against what can be reached."""
    scenes = {one.name: _beside(one) for one in report.populated}
    behind = [name for name, (ours, rival, _) in scenes.items() if ours < rival]
    by_room = sorted(scenes, key=lambda name: scenes[name][0] - scenes[name][2])
    errors = {one.name: one.calibration.error for one in report.populated if one.calibration and one.calibration.error}
    badly = [f"{name} ({errors[name]:.2f})" for name in sorted(errors, key=lambda name: -errors[name])[:2]]
    return (
        f"Best F1 in the mean over {len(scenes)} scenes: {np.mean([ours for ours, _, _ in scenes.values()]):.3f}, "
        f"SExtractor at its best in each {np.mean([rival for _, rival, _ in scenes.values()]):.3f}, "
        f"what an all-knowing filter reaches {np.mean([most for _, _, most in scenes.values()]):.3f}. "
        f"Behind SExtractor in: {', '.join(behind) or 'none'}. Good, with little left to gain: "
        f"{_told(by_room[-3:][::-1], scenes)}. Bad, with much left: {_told(by_room[:3], scenes)}. "
        f"Scores are furthest from probabilities in: {', '.join(badly) or 'none'}.\n"
    )


def _beside(scene: SceneReport) -> tuple[float, float, float]:
    """Best F1 of ours, of the best rival, and of the oracle (or of the best of all where it was not asked)."""
    found = {name: one.best_f1 or 0.0 for name, one in scene.finders.items()}
    ours = next(iter(found.values()))
    rival = max(found.get(name, 0.0) for name in (DEFAULTS, TUNED, TUNED_PER_SCENE))
    return ours, rival, found.get(ORACLE, max(found.values()))


def _told(names: Sequence[str], scenes: Mapping[str, tuple[float, float, float]]) -> str:
    return ", ".join(f"{name} ({scenes[name][0]:.2f} of {scenes[name][2]:.2f})" for name in names)


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
