"""The real tests for people: what the truth allows, completeness at equal reliability, frames without stars."""

from collections.abc import Iterable

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lynceus.pages import GREY, chart, figure, page, share, signed
from training.scenarios.page_charts import SIZE, STYLES
from training.scenarios.real_figures import Against, BandFigures, RealFigures

SHOWN = ("0.98", "0.95", "0.90", "0.85", "0.80", "0.70", "0.60", "0.50")
PAGE = """{% extends "base" %}
{% block title %}{{ title }}{% endblock %}
{% block content %}
<h1>{{ title }}</h1>
<p>Frames of telescopes that nothing was trained or tuned on. SExtractor and sep are shown at the best of many settings,
chosen on these very frames. Chance matches, measured by shifting each list, count as wrong.</p>
{% for name, band, truths in bands %}
<h2>{{ name }}: {{ band.about }}</h2>
<p class="soft note">{{ limits(band) }}</p>
{% for told, one, drawn, cells in truths %}
<div class="pair">
<figure>{{ drawn }}<figcaption>Reliability against completeness over {{ told }}. Between the dotted lines is what that
truth can tell.</figcaption></figure>
<div class="scroll"><table>
<tr><th>completeness at a reliability of</th>{% for name in one.finders %}<th>{{ name }}</th>{% endfor %}</tr>
{% for label, values in cells %}
<tr><td class="text">{{ label }}</td>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div></div>
<p class="soft note">{{ lead(one) }}</p>
{% endfor %}
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
    bands = [
        (name, band, [(told, one, curves_chart(name, one), list(_cells(one))) for told, one in truths_of(band)])
        for name, band in figures.bands.items()
    ]
    return page(
        PAGE,
        title=f"{figures.bundle} on real frames",
        figures=figures,
        bands=bands,
        limits=limits_told,
        lead=lead_told,
        catalogue=catalogue_told(figures),
    )


def real_tables(figures: RealFigures) -> str:
    """Write the figures as Markdown tables."""
    lines = [f"{figures.bundle} on real frames, threshold {figures.threshold:.2f}", ""]
    for name, band in figures.bands.items():
        lines += [f"**{name}**, {band.about}", "", limits_told(band), ""]
        for told, one in truths_of(band):
            lines += [f"Over {told}:", ""]
            lines += [f"| completeness at a reliability of | {' | '.join(one.finders)} |"]
            lines += ["|---" * (len(one.finders) + 1) + "|"]
            lines += [f"| {label} | {' | '.join(values)} |" for label, values in _cells(one)]
            lines += ["", lead_told(one), ""]
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
    if band.missing:
        said.append(
            f"The truth lacks {band.missing.objects} places where two telescopes see light apart from its "
            f"surroundings; with one of them moved they agree on {band.missing.by_chance}."
        )
    if band.seconds is not None:
        said.append(f"The frame took {band.seconds:.0f} s.")
    return " ".join(said)


def truths_of(band: BandFigures) -> list[tuple[str, Against]]:
    """The truths of a band, each with what it is."""
    truths = [(f"the {band.limits.objects} objects extracted across five bands", band.extracted)]
    if band.missing and band.completed:
        truths.append((f"these and {band.missing.objects} more that two telescopes confirm", band.completed))
    return truths


def lead_told(one: Against) -> str:
    """What came of one truth, in words."""
    said = []
    if one.sure_matched is not None:
        said.append(f"Of sure detections {share(one.sure_matched)} have an object.")
    if one.shipped:
        said.append(f"Ours at its threshold: completeness {one.shipped[0]:.3f}, reliability {one.shipped[1]:.3f}.")
    if one.lead:
        said.append(
            f"From reliability {one.allowed[1]:.2f} to {one.allowed[0]:.2f} ours leads the best rival by "
            f"{signed(one.lead[0])} at least, {signed(one.lead[1])} in the mean."
        )
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


def _cells(against: Against) -> Iterable[tuple[str, list[str]]]:
    """Rows of the table of one truth."""
    finders = against.finders.values()
    for level in SHOWN:
        beyond = float(level) > against.allowed[0]
        yield level + (" (beyond the truth)" if beyond else ""), [figure(one.completeness_at[level]) for one in finders]
    yield "best F1", [figure(one.best_f1) for one in finders]
    yield "highest reliability", [figure(one.most_reliable) for one in finders]


def curves_chart(name: str, against: Against) -> Markup:
    """Reliability against completeness of every finder."""

    def draw(axes: Axes) -> None:
        for place, (finder, one) in enumerate(against.finders.items()):
            colour, line = STYLES[place % len(STYLES)]
            x, y = np.array(one.curve).reshape(-1, 2).T
            axes.plot(x, y, linestyle=line, color=colour, linewidth=1.6, label=finder)
        if against.shipped:
            axes.plot(*against.shipped, "o", color=STYLES[0][0], markersize=6)
        for level in against.allowed:
            axes.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0.3, 1.01)
        axes.set_xlabel("completeness")
        axes.set_ylabel("reliability")
        axes.legend(fontsize=8, loc="lower left")

    told = "; ".join(f"{who}: {one.completeness_at['0.90']:.2f}" for who, one in against.finders.items())
    return chart(draw, f"{name}: completeness at 90 % reliability: {told}", SIZE)
