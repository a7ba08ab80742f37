"""The real tests for people: what the truth allows, completeness at equal reliability, frames without stars."""

from collections.abc import Iterable

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lynceus.pages import GREY, chart, figure, page, share, signed
from training.scenarios.page_charts import SIZE, STYLES
from training.scenarios.real_figures import BandFigures, RealFigures

SHOWN = ("0.98", "0.95", "0.90", "0.85", "0.80", "0.70", "0.60", "0.50")
PAGE = """{% extends "base" %}
{% block title %}{{ title }}{% endblock %}
{% block content %}
<h1>{{ title }}</h1>
<p>Frames of telescopes that nothing was trained or tuned on. SExtractor and sep are shown at the best of many settings,
chosen on these very frames. Chance matches, measured by shifting each list, count as wrong.</p>
{% for name, band, drawn, cells in bands %}
<h2>{{ name }}: {{ band.about }}</h2>
<div class="pair">
<figure>{{ drawn }}<figcaption>Reliability against completeness over the {{ band.limits.objects }} objects found across
five bands. Between the dotted lines is what that truth can tell.</figcaption></figure>
<div class="scroll"><table>
<tr><th>completeness at a reliability of</th>{% for name in band.finders %}<th>{{ name }}</th>{% endfor %}</tr>
{% for label, values in cells %}
<tr><td class="text">{{ label }}</td>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div></div>
<p class="soft note">{{ limits(band) }}</p>
{% endfor %}
{% if figures.catalogue %}
<h2>Against SExtractor's own catalogue of its own test frame</h2>
<p>{{ catalogue }}</p>
{% endif %}
<h2>Frames without stars</h2>
<div class="scroll"><table>
<tr><th></th><th>detections</th><th>per million pixels</th><th>highest score</th></tr>
{% for name, one in figures.controls.items() %}
<tr><td class="text">{{ name }}</td><td>{{ one.detections }}</td><td>{{ one.per_megapixel|figure(2) }}</td>
<td>{{ one.surest|figure(2) }}</td></tr>
{% endfor %}
</table></div>
{% endblock %}
"""


def real_page(figures: RealFigures) -> str:
    """Write the figures as one HTML page that loads nothing from anywhere."""
    bands = [(name, band, curves_chart(name, band), list(_cells(band))) for name, band in figures.bands.items()]
    return page(
        PAGE,
        title=f"{figures.bundle} on real frames",
        figures=figures,
        bands=bands,
        limits=limits_told,
        catalogue=catalogue_told(figures),
    )


def real_tables(figures: RealFigures) -> str:
    """Write the figures as Markdown tables."""
    lines = [f"{figures.bundle} on real frames, threshold {figures.threshold:.2f}", ""]
    for name, band in figures.bands.items():
        lines += [f"**{name}**, {band.about}", "", limits_told(band), ""]
        lines += [
            f"| completeness at a reliability of | {' | '.join(band.finders)} |",
            "|---" * (len(band.finders) + 1) + "|",
        ]
        lines += [f"| {label} | {' | '.join(values)} |" for label, values in _cells(band)]
        lines.append("")
    if figures.catalogue:
        lines += [catalogue_told(figures), ""]
    lines += ["| without stars | detections | per million pixels | highest score |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {one.detections} | {one.per_megapixel:.2f} | {figure(one.surest, 2)} |"
        for name, one in figures.controls.items()
    ]
    return "\n".join(lines) + "\n"


def limits_told(band: BandFigures) -> str:
    """What the truth allows, and what came of it, in words."""
    limits, said = band.limits, []
    said.append(f"Seeing {band.seeing:.2f} px.")
    if limits.sure_matched is not None:
        said.append(f"Of {limits.sure} sure detections {share(limits.sure_matched)} have an object.")
    said.append(
        f"Upside down the recipe of the truth finds {limits.upside_down} in place of {limits.objects} "
        f"({limits.upside_down_locally} with local noise)."
    )
    said.append(
        f"Of the objects {share(limits.unseen)} show no light here; a random place meets {share(limits.chance)}."
    )
    if band.shipped:
        said.append(f"Ours at its threshold: completeness {band.shipped[0]:.3f}, reliability {band.shipped[1]:.3f}.")
    if band.lead:
        said.append(
            f"From reliability {band.allowed[1]:.2f} to {band.allowed[0]:.2f} ours leads the best rival by "
            f"{signed(band.lead[0])} at least, {signed(band.lead[1])} in the mean."
        )
    if band.seconds is not None:
        said.append(f"The frame took {band.seconds:.0f} s.")
    return " ".join(said)


def catalogue_told(figures: RealFigures) -> str:
    """The figures against a program's catalogue, in words."""
    one = figures.catalogue
    if one is None:
        return ""
    return (
        f"{one.sources} sources of NTT/EMMI: completeness {one.completeness:.3f}, reliability {one.reliability:.3f}, "
        f"F1 {one.f1:.3f} at the shipped threshold; best F1 {one.best_f1:.3f} at {one.best_threshold:.2f}."
    )


def _cells(band: BandFigures) -> Iterable[tuple[str, list[str]]]:
    """Rows of the table of one band."""
    finders = band.finders.values()
    for level in SHOWN:
        beyond = float(level) > band.allowed[0]
        yield level + (" (beyond the truth)" if beyond else ""), [figure(one.completeness_at[level]) for one in finders]
    yield "best F1", [figure(one.best_f1) for one in finders]
    yield "highest reliability", [figure(one.most_reliable) for one in finders]


def curves_chart(name: str, band: BandFigures) -> Markup:
    """Reliability against completeness of every finder."""

    def draw(axes: Axes) -> None:
        for place, (finder, one) in enumerate(band.finders.items()):
            colour, line = STYLES[place % len(STYLES)]
            x, y = np.array(one.curve).reshape(-1, 2).T
            axes.plot(x, y, linestyle=line, color=colour, linewidth=1.6, label=finder)
        if band.shipped:
            axes.plot(*band.shipped, "o", color=STYLES[0][0], markersize=6)
        for level in band.allowed:
            axes.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0.3, 1.01)
        axes.set_xlabel("completeness")
        axes.set_ylabel("reliability")
        axes.legend(fontsize=8, loc="lower left")

    told = "; ".join(f"{who}: {one.completeness_at['0.90']:.2f}" for who, one in band.finders.items())
    return chart(draw, f"{name}: completeness at 90 % reliability: {told}", SIZE)
