"""The suite for people: every figure, scenes down and finders across, and the curves of each scene."""

from lynceus.pages import figure, page
from training.scenarios.page_charts import completeness_chart, curve_chart, reliability_chart
from training.scenarios.summary import (
    CALIBRATED,
    COLUMNS,
    FALSE,
    SceneReport,
    SuiteReport,
    Value,
    calibration_rows,
    mean_calibration,
    rows,
)

PAGE = """{% extends "base" %}
{% block title %}{{ title }}{% endblock %}
{% block style %}
main { max-width: 84rem; }
td.best { font-weight: 600; }
td.text { white-space: nowrap; }
.two { grid-auto-flow: dense; }
.two .wide { grid-column: 1 / -1; }
.two th { white-space: normal; vertical-align: bottom; }
.two section:not(.wide) :is(th, td) { padding-right: .7rem; }
tr:last-child.mean td { border-top: 2px solid var(--line); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 36rem), 1fr)); gap: 0 2rem; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: 1rem 1.5rem; }
{% endblock %}
{% block content %}
<h1>{{ title }}</h1>
<p>{{ report.about }}</p>
<div class="cards">
{% for value, label in cards %}
<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}
</div>

<div class="two">
{% for column, listed in parts %}
<section{% if column.interval %} class="wide"{% endif %}>
<h2>{{ column.label[0]|upper }}{{ column.label[1:] }}</h2>
{% if column.told %}
<p class="soft">{{ column.told }}</p>
{% endif %}
<div class="scroll"><table>
<tr><th></th>{% for name in finders %}<th>{{ name }}</th>{% endfor %}</tr>
{% for name, cells, best in listed %}
<tr{% if name == "mean" %} class="mean"{% endif %}><td class="text">{{ name }}</td>
{%- for cell in cells %}<td{% if loop.index0 in best %} class="best"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
</section>
{% endfor %}
</div>

{% if calibrated %}
<h2>Calibration</h2>
<p class="soft">Error of the scores of {{ finders[0] }} between 0.1 and 0.9, over bins of equal numbers, and the error
that perfect scores would show by their small number.</p>
<div class="scroll"><table>
<tr><th></th><th>error</th><th>of perfect scores</th><th>too sure by</th><th>detections</th></tr>
{% for name, cells in calibrated %}
<tr><td class="text">{{ name }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
<p class="note soft">A detection is a source if it lies within one FWHM of it; one detection a source, the surest first.
Sources under SNR 5 absorb one detection each and do not count, but for the SNR of half completeness, where all count.
The best of each row is bold.</p>

{% for scene, charts in scenes %}
<h2>{{ scene.name }}</h2>
<p class="soft">{{ scene.about }}</p>
<div class="three">
{% for drawn, caption in charts %}
<figure>{{ drawn }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% endfor %}
{% endblock %}
"""


def suite_page(report: SuiteReport, title: str = "Every scene, every finder") -> str:
    """Write a report as one HTML page.

    Parameters
    ----------
    report : SuiteReport
        The first of its finders is the one the page is about.
    title : str
        Of the page.

    Returns
    -------
    str
        A document that loads nothing from anywhere.
    """
    parts = [(column, rows(report, column, value)) for column, value in COLUMNS]
    return page(
        PAGE,
        report=report,
        title=title,
        finders=report.finders,
        cards=_cards(report),
        parts=[*parts, (FALSE[0], rows(report, *FALSE, starless=True))],
        calibrated=calibration_rows(report),
        calibration=CALIBRATED,
        scenes=[(scene, _charts(scene)) for scene in report.populated],
    )


def _cards(report: SuiteReport) -> list[tuple[str, str]]:
    """The figures of the first finder in a line."""
    ours = report.finders[0]
    wanted: list[tuple[Value, str]] = [
        (lambda one: one.best_f1, "best F1, mean"),
        (lambda one: one.f1_shipped, "F1 at the shipped threshold, mean"),
        (lambda one: one.completeness_at.get("0.95"), "completeness at 95 % reliability, mean"),
    ]
    cards = [(figure(report.mean(ours, value)), label) for value, label in wanted]
    cards.append((figure(report.mean(ours, lambda one: one.snr50), 2), "SNR of half completeness, mean"))
    cards.append((figure(mean_calibration(report)), "calibration error, mean"))
    blank = [scene.finders[ours].per_megapixel for scene in report.scenes if scene.starless and ours in scene.finders]
    return [*cards, (figure(max(blank), 2), "per million pixels of a blank sky")] if blank else cards


def _charts(scene: SceneReport) -> list[tuple[str, str]]:
    """What is drawn of a scene, each with what is said below it."""
    drawn = [
        (
            completeness_chart(scene.finders),
            "Completeness by signal to noise at 95 % reliability, nothing ignored. Bars are 95 % intervals.",
        ),
        (curve_chart(scene.finders), "Reliability against completeness, sources from SNR 5."),
        (
            reliability_chart(scene.calibration) if scene.calibration else None,
            "The share of our detections that are sources, by score. Hollow: beyond 0.1 to 0.9.",
        ),
    ]
    return [(markup, caption) for markup, caption in drawn if markup is not None]
