"""A report for people: figures beside the rivals', curves, classes, and the worst windows drawn."""

from collections.abc import Callable, Mapping, Sequence

from lynceus.pages import GREEN, GREY, ORANGE, RED, UNKNOWN, figure, page, share
from training.scoring.report import Report
from training.scoring.report_charts import curves, matrix

MOST_FRAMES = 200  # rows of the table of frames
MOST_WARNINGS = 12

PAGE = """{% extends "base" %}
{% block title %}{{ title }}{% endblock %}
{% block style %}
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin: .75rem 0; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.mark { width: 1.05rem; height: 1.05rem; border: 2px solid; flex: none; }
.mark.dashed { border-style: dashed; } .mark.dotted { border-style: dotted; } .mark.round { border-radius: 50%; }
.drawn { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 1.25rem; }
.drawn img { background: #000; width: 100%; }
tr.part td, tr.part th { border-bottom: none; padding-top: 1rem; color: var(--soft); }
td.best { font-weight: 600; }
.matrix { max-width: 30rem; }
{% endblock %}
{% block content %}
<p class="soft">Evaluation over {{ r.frames }} frame{{ "s" if r.frames != 1 }}</p>
<h1>{{ title }}</h1>
{% if about %}
<p>{{ about }}</p>
{% endif %}
<p class="soft">{{ r.detections|figure(0) }} detections of score {{ "%g"|format(r.min_score) }} and more, against
{{ r.sources|figure(0) }} sources
{%- if r.faintest %} of signal to noise {{ "%g"|format(r.faintest) }} and more{% endif %}
{%- if r.counts.sources_ignored %}; {{ r.counts.sources_ignored|figure(0) }} more do not count{% endif %}.</p>
<div class="cards">
<div class="card"><b>{{ r.recall|share }}</b><span>completeness (recall)</span></div>
<div class="card"><b>{{ r.precision|share }}</b><span>reliability (precision)</span></div>
<div class="card"><b>{{ r.f1|figure }}</b><span>F1</span></div>
<div class="card"><b>{{ r.map_50|figure }}</b><span>mAP at IoU 0.5</span></div>
<div class="card"><b>{{ r.map|figure }}</b><span>mAP at IoU 0.5–0.95</span></div>
</div>
{% if warnings %}
<ul class="warnings">
{% for warning in warnings %}
<li>{{ warning }}</li>
{% endfor %}
</ul>
{% endif %}

<h2>{{ "Side by side" if names|length > 1 else "All figures" }}</h2>
<div class="scroll"><table>
<tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for title, rows in parts %}
<tr class="part"><th class="text" colspan="{{ names|length + 1 }}">{{ title }}</th></tr>
{% for label, cells, best in rows %}
<tr><td class="text">{{ label }}</td>
{%- for cell in cells %}<td{% if loop.index0 in best %} class="best"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
{% endfor %}
</table></div>
<p class="note soft">By box: IoU of 0.5 and more. By centre: within one FWHM of the source, which is fair to a list
without boxes of this rule. Recall at a cap is of the surest detections of each frame, as many as is said.
{%- if names|length > 1 %} The best of each row is bold.{% endif %}</p>

<h2>Where it is good, and where not</h2>
<div class="pair">
{% for drawn, caption in curves %}
<figure>{{ drawn }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>

{% if matrix %}
<h2>Classes</h2>
<figure class="matrix">{{ matrix }}<figcaption>What the sources are, and what they were called; shares of each row. Of
the detected ones {{ r.confusion.accuracy|share }} were called what they are.</figcaption></figure>
<div class="scroll"><table>
<tr><th>class</th><th>sources</th><th>detections</th><th>mAP 0.5</th><th>mAP</th><th>recall</th><th>precision</th>
<th>F1</th></tr>
{% for name, one in r.by_class.items() %}
<tr><td class="text">{{ name }}</td><td>{{ one.sources|figure(0) }}</td><td>{{ one.detections|figure(0) }}</td>
<td>{{ one.map_50|figure }}</td><td>{{ one.map|figure }}</td><td>{{ one.recall|share }}</td>
<td>{{ one.precision|share }}</td><td>{{ one.f1|figure }}</td></tr>
{% endfor %}
</table></div>
{% endif %}

{% if r.worst %}
<h2>The worst windows</h2>
<ul class="legend">
<li><span class="mark" style="border-color: {{ green }}"></span> matched</li>
<li><span class="mark dashed" style="border-color: {{ red }}"></span> missed: a source without a detection</li>
<li><span class="mark round" style="border-color: {{ orange }}"></span> extra: a detection that is no source</li>
<li><span class="mark dotted" style="border-color: {{ grey }}"></span> ignored: does not count</li>
</ul>
<div class="drawn">
{% for window in r.worst %}
<figure>{% if window.picture %}
<img src="{{ window.picture }}" alt="{{ window.key }} from {{ window.x }}, {{ window.y }}">
{% endif %}<figcaption>{{ window.key }}, from x {{ window.x }}, y {{ window.y }}: {{ window.missed }} missed,
{{ window.extra }} extra, {{ window.matched }} matched, {{ window.ignored }} ignored</figcaption></figure>
{% endfor %}
</div>
<p class="note soft">The first row of the frame is at the bottom.</p>
{% endif %}

<h2>Frame by frame</h2>
<div class="scroll"><table>
<tr><th>frame</th><th>sources</th><th>matched</th><th>missed</th><th>extra</th>
{%- if trails %}<th>on trails</th>{% endif %}
<th>ignored</th><th>recall</th><th>precision</th><th>time</th></tr>
{% for one in frames %}
<tr><td class="text">{{ one.key }}</td><td>{{ one.sources|figure(0) }}</td><td>{{ one.matched|figure(0) }}</td>
<td>{{ one.missed|figure(0) }}</td><td>{{ one.extra|figure(0) }}</td>
{%- if trails %}<td>{{ one.extra_hidden }}</td>{% endif %}
<td>{{ one.ignored|figure(0) }}</td><td>{{ (one.matched / one.sources if one.sources else none)|share }}</td>
<td>{{ (one.matched / one.detections if one.detections else none)|share }}</td>
<td>{{ one.seconds|figure(2) }} s</td></tr>
{% endfor %}
</table></div>
{% if unlisted %}
<p class="note soft">{{ unlisted }} more frames are in the JSON report.</p>
{% endif %}
{% endblock %}
"""


def report_page(reports: Mapping[str, Report], *, title: str = "", about: str = "") -> str:
    """Write reports as one HTML page.

    Parameters
    ----------
    reports : mapping of str to Report
        By name; the first is the one the page is about, the others are shown beside it.
    title, about : str
        Of the page, and a sentence below.

    Returns
    -------
    str
        A document that loads nothing from anywhere.
    """
    name, report = next(iter(reports.items()))
    return page(
        PAGE,
        r=report,
        title=title or name,
        about=about,
        names=list(reports),
        parts=table_parts(list(reports.values())),
        curves=curves(reports),
        matrix=matrix(report.confusion) if report.confusion else None,
        frames=sorted(report.per_frame, key=lambda one: -(one.missed + one.extra))[:MOST_FRAMES],
        trails=any(one.extra_hidden for one in report.per_frame),
        unlisted=max(len(report.per_frame) - MOST_FRAMES, 0),
        warnings=_warnings(report),
        green=GREEN,
        red=RED,
        orange=ORANGE,
        grey=GREY,
    )


Row = tuple[str, list[str], set[int]]


def table_parts(reports: Sequence[Report]) -> list[tuple[str, list[Row]]]:
    """The figures of several as a table in parts: label, a cell for each, and which cells are the best."""
    first = reports[0]
    overlap = [
        _row("at IoU 0.5", [r.map_50 for r in reports]),
        _row("at IoU 0.75", [r.map_75 for r in reports]),
        _row("mean of IoU 0.5 to 0.95", [r.map for r in reports]),
    ]
    recall = [_row(_cap(name, reports), [r.mar[name] for r in reports]) for name in first.mar]
    best = [
        _row("of a source with a detection", [r.best_iou_per_gt for r in reports]),
        _row("of a detection with a source", [r.best_iou_per_prediction for r in reports]),
    ]
    by_box = [_row(label, [getattr(r.counts, name) for r in reports], share) for label, name in _SHARES]
    by_centre = [_row(label, [getattr(r.by_centre, name) for r in reports], share) for label, name in _SHARES]
    counts = [
        (name, [figure(getattr(r.counts, name), 0) for r in reports], set[int]())
        for name in ("matched", "missed", "extra", "ignored")
    ]
    place = [
        _row("distance, px", [r.median_centroid_offset for r in reports], higher=False),
        ("x, y, px", [f"{_signed(r.median_dx)}, {_signed(r.median_dy)}" for r in reports], set()),
    ]
    parts = [
        ("average precision", overlap),
        ("average recall, mean of IoU 0.5 to 0.95", recall),
        ("best IoU, mean", best),
        ("by box", by_box),
        ("by centre", by_centre),
        ("counts, by box", counts),
        ("median offset from the source", place),
    ]
    if any(r.seconds for r in reports):
        parts.append(("time", [_row("median of a frame, s", [r.seconds for r in reports], higher=False)]))
    return parts


_SHARES = (("completeness (recall)", "recall"), ("reliability (precision)", "precision"), ("F1", "f1"))


def _row(
    label: str, values: Sequence[float | None], written: Callable[[float | None], str] = figure, higher: bool = True
) -> Row:
    """A row of the table; where there are several, those that share the best value are marked."""
    known = [value for value in values if value is not None]
    if len(values) < 2 or not known:
        return label, [written(value) for value in values], set()
    best = max(known) if higher else min(known)
    return label, [written(value) for value in values], {n for n, value in enumerate(values) if value == best}


def _cap(name: str, reports: Sequence[Report]) -> str:
    caps = dict.fromkeys(f"{report.caps[name]:,}" for report in reports)  # type: ignore[index]
    return f"of the {' / '.join(caps)} surest"


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.3f}"


def _warnings(report: Report) -> list[str]:
    """What was odd, each once, with how many frames it was said of."""
    said: dict[str, list[str]] = {}
    for one in report.per_frame:
        for warning in one.warnings:
            said.setdefault(warning, []).append(one.key)
    told = [(text, keys[0] if len(keys) == 1 else f"{len(keys)} frames") for text, keys in said.items()]
    return [f"{text} ({where})" for text, where in told[:MOST_WARNINGS]]
