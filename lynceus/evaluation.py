"""One evaluation: its figures, and the page that shows them to people; works without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from lynceus.columns import ModelInfo, plain
from lynceus.detections import Detections
from lynceus.figures import Bin, Counts, Evaluation
from lynceus.frame import Frame
from lynceus.matching import match_boxes
from lynceus.overlay import Marks, draw_marks
from lynceus.pages import BLUE, GREEN, GREY, ORANGE, RED, chart, page, png_uri
from lynceus.sky import Sky
from lynceus.truth import Truth

if TYPE_CHECKING:  # it takes a second to import
    from matplotlib.axes import Axes

__all__ = ["Bin", "Counts", "Evaluation", "evaluation_page"]

MOST_LABELS = 12  # below a chart
_FACTS = (  # as people read them, the key of `facts_of`, how it is written
    ("observed", "date_obs", "{}"),
    ("filter", "filter", "{}"),
    ("exposure", "exptime", "{:g} s"),
    ("background", "background", "{:.4g} ADU"),
    ("noise", "noise", "{:.4g} ADU"),
    ("seeing", "fwhm_px", "{:.2f} px"),
    ("seeing on the sky", "fwhm_arcsec", "{:.2f}″"),
    ("pixel scale", "pixel_scale_arcsec", "{:.3f}″/px"),
    ("limiting magnitude", "limiting_mag", "{:.2f}"),
)
_ALONG = {"snr": "signal to noise", "magnitude": "magnitude", "score": "score", "none": ""}

PAGE = """{% extends "base" %}
{% block title %}Evaluation: {{ title }}{% endblock %}
{% block style %}
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin: .75rem 0; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.legend b { font-variant-numeric: tabular-nums; font-weight: 600; }
.mark { width: 1.05rem; height: 1.05rem; border: 2px solid; flex: none; }
.mark.dashed { border-style: dashed; } .mark.dotted { border-style: dotted; } .mark.round { border-radius: 50%; }
#full { position: absolute; opacity: 0; }
#full:focus-visible + figure label { outline: 2px solid var(--blue); }
#full:checked + figure img { max-width: none; }
.frame { overflow: auto; max-height: 90vh; border-radius: .4rem; background: #000; }
.frame img { margin: 0 auto; }
label { cursor: zoom-in; display: block; }
#full:checked + figure label { cursor: zoom-out; }
{% endblock %}
{% block content %}
<p class="soft">Evaluation</p>
<h1>{{ title }}</h1>
<p class="soft">{{ e.detections|figure(0) }} detections of score {{ "%g"|format(e.min_score) }} and more,
against {{ e.sources|figure(0) }} sources
{%- if e.counts.sources_ignored %}; {{ e.counts.sources_ignored }} more do not count{% endif %}.</p>
{% if warnings %}
<ul class="warnings">
{% for warning in warnings %}
<li>{{ warning }}</li>
{% endfor %}
</ul>
{% endif %}
<div class="cards">
<div class="card"><b>{{ e.recall|share }}</b><span>completeness (recall)</span></div>
<div class="card"><b>{{ e.precision|share }}</b><span>reliability (precision)</span></div>
<div class="card"><b>{{ e.f1|figure }}</b><span>F1</span></div>
<div class="card"><b>{{ e.map_50|figure }}</b><span>mAP at IoU 0.5</span></div>
<div class="card"><b>{{ e.map|figure }}</b><span>mAP at IoU 0.5–0.95</span></div>
</div>

<h2>The frame</h2>
<ul class="legend">
{% for kind in kinds %}
<li title="{{ kind.meaning }}"><span class="mark {{ kind.line }}" style="border-color: {{ kind.colour }}"></span>
<b>{{ "{:,}".format(kind.boxes|length) }}</b> {{ kind.name }}</li>
{% endfor %}
</ul>
<input type="checkbox" id="full" aria-label="Show every pixel of the picture">
<figure>
<label for="full"><div class="frame"><img src="{{ overlay }}" alt="The frame with
 {%- for kind in kinds %} {{ kind.boxes|length }} {{ kind.name }}{{ "," if not loop.last }}{% endfor %}"></div></label>
<figcaption>{% for kind in kinds %}{{ kind.name|capitalize }}: {{ kind.meaning }}. {% endfor %}
The first row of the frame is at the bottom. Click for every pixel.</figcaption>
</figure>

{% if completeness or reliability %}
<h2>Where it is good, and where not</h2>
<div class="pair">
{% if completeness %}
<figure>{{ completeness }}<figcaption>Completeness: the share of the sources that were detected, by their brightness.
Bars are 95&nbsp;% intervals.</figcaption></figure>
{% endif %}
{% if reliability %}
<figure>{{ reliability }}<figcaption>Reliability: the share of the detections that are sources, by their score.
Bars are 95&nbsp;% intervals.</figcaption></figure>
{% endif %}
</div>
{% endif %}

<h2>All figures</h2>
<div class="pair">
<div class="scroll"><table>
<tr><th>average precision</th><th></th></tr>
<tr><td class="text">at IoU 0.5</td><td>{{ e.map_50|figure(4) }}</td></tr>
<tr><td class="text">at IoU 0.75</td><td>{{ e.map_75|figure(4) }}</td></tr>
<tr><td class="text">mean of IoU 0.5 to 0.95</td><td>{{ e.map|figure(4) }}</td></tr>
{% for name, recall in e.mar.items() %}
<tr><td class="text">recall of the {{ "{:,}".format(e.caps[name]) }} surest, mean of IoU 0.5 to 0.95</td>
<td>{{ recall|figure(4) }}</td></tr>
{% endfor %}
<tr><td class="text">best IoU of a source</td><td>{{ e.best_iou_per_gt|figure(4) }}</td></tr>
<tr><td class="text">best IoU of a detection</td><td>{{ e.best_iou_per_prediction|figure(4) }}</td></tr>
</table></div>
<div class="scroll"><table>
<tr><th>counts</th><th>by box</th><th>by centre</th></tr>
{% set box, centre = e.counts, e.by_centre %}
{% for name in ("matched", "missed", "extra", "ignored") %}
<tr><td class="text">{{ name }}</td><td>{{ box[name]|figure(0) }}</td><td>{{ centre[name]|figure(0) }}</td></tr>
{% endfor %}
<tr><td class="text">completeness</td><td>{{ box.recall|share }}</td><td>{{ centre.recall|share }}</td></tr>
<tr><td class="text">reliability</td><td>{{ box.precision|share }}</td><td>{{ centre.precision|share }}</td></tr>
<tr><td class="text">F1</td><td>{{ box.f1|figure }}</td><td>{{ centre.f1|figure }}</td></tr>
</table>
<p class="note soft">By box: IoU of 0.5 and more. By centre: within one FWHM of the source.
Ignored: detections on rows that do not count, one a row.</p>
<table>
<tr><th>position, median</th><th></th></tr>
<tr><td class="text">distance</td><td>{{ e.median_centroid_offset|figure }} px</td></tr>
<tr><td class="text">x, y</td><td>{{ e.median_dx|signed }}, {{ e.median_dy|signed }} px</td></tr>
</table></div>
</div>

<h2>What was looked at</h2>
<div class="pair">
<div class="scroll"><table>
<tr><th>frame</th><th></th></tr>
{% for name, value in frame_facts %}
<tr><td class="text">{{ name }}</td><td class="text">{{ value }}</td></tr>
{% endfor %}
</table></div>
{% if model %}
<div class="scroll"><table>
<tr><th>model</th><th></th></tr>
<tr><td class="text">name</td><td class="text">{{ model.name }}</td></tr>
<tr><td class="text">version</td><td class="text">{{ model.version }}</td></tr>
{% if model.track %}
<tr><td class="text">track</td><td class="text">{{ model.track }}</td></tr>
{% endif %}
<tr><td class="text">sha256</td><td class="text">{{ model.sha256 }}</td></tr>
</table></div>
{% endif %}
</div>
{% endblock %}
"""


def evaluation_page(
    evaluation: Evaluation,
    found: Detections,
    truth: Truth,
    frame: Frame,
    sky: Sky,
    *,
    model: ModelInfo | None = None,
    facts: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Write an evaluation as one HTML page: figures, the frame with every box, curves.

    Parameters
    ----------
    evaluation : Evaluation
        Of `found` against `truth`.
    found : Detections
        As they were scored.
    truth : Truth
        As they were scored against.
    frame : Frame
        Drawn below the boxes; at most 2000 pixels a side, larger ones are averaged down.
    sky : Sky
        Of the frame.
    model : ModelInfo or None
        Who found them; None for a list from elsewhere.
    facts : mapping or None
        What is known of the frame, as `facts_of` has it.
    warnings : sequence of str
        All that the reader should know.

    Returns
    -------
    str
        A document that loads nothing from anywhere.
    """
    kinds = _kinds(found[found.scores >= evaluation.min_score], truth)
    drawn = [Marks(kind.boxes, kind.colour, kind.line) for kind in kinds]
    return page(
        PAGE,
        e=evaluation,
        title=f"{model.name} {model.version}" if model else "A list of detections",
        kinds=kinds[::-1],
        overlay=png_uri(draw_marks(frame, sky, drawn)),
        completeness=_curve(evaluation.completeness, _ALONG[evaluation.brightness_kind], "completeness", GREEN),
        reliability=_curve(evaluation.reliability, _ALONG["score"], "reliability", BLUE),
        frame_facts=_frame_facts(frame, facts or {}),
        model=model,
        warnings=warnings,
    )


@dataclass(frozen=True, eq=False)
class _Kind(Marks):
    """Boxes that share a fate, and what the legend says of them."""

    name: str = ""
    meaning: str = ""


def _kinds(kept: Detections, truth: Truth) -> list[_Kind]:
    """The boxes to draw, the most telling last."""
    match = match_boxes(kept.boxes, kept.scores, truth.boxes, truth.ignored)
    missed = truth.boxes[~match.found & ~truth.ignored]
    aside = np.concatenate([truth.boxes[truth.ignored], kept.boxes[match.absorbed]])
    return [
        _Kind(aside, GREY, "dotted", "ignored", "rows of the catalogue that do not count, and what they absorbed"),
        _Kind(kept.boxes[match.right], GREEN, "solid", "matched", "detections that are a source"),
        _Kind(kept.boxes[match.wrong], ORANGE, "round", "extra", "detections that are no source"),
        _Kind(missed, RED, "dashed", "missed", "sources without a detection"),
    ]


def _curve(bins: Sequence[Bin], along: str, name: str, colour: str) -> Markup | None:
    """Chart of the shares with their intervals; None where there is nothing to show."""
    places = [place for place, one in enumerate(bins) if one.count]
    if not places:
        return None
    shares = np.array([bins[place].share for place in places])
    spread = np.abs(np.array([bins[place].interval for place in places]).T - shares)

    def draw(axes: "Axes") -> None:
        axes.errorbar(places, shares, spread, fmt="o-", color=colour, linewidth=1.6, markersize=5, elinewidth=1.2)
        step = -(-len(bins) // MOST_LABELS)
        labels = [f"{_range(one)}\n{one.count:,}" for one in bins]
        axes.set_xticks(range(len(bins))[::step], labels[::step], fontsize=8.5)
        axes.set_xlim(-0.5, len(bins) - 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(f"{along}, and how many")
        axes.set_ylabel(name)

    spoken = "; ".join(f"{_range(bins[place])}: {bins[place].share:.2f}" for place in places)
    return chart(draw, f"{name} by {along}. {spoken}", (6.4, 3.4))


def _range(one: Bin) -> str:
    if one.high is None:
        return f"over {one.low:g}"
    return f"{one.low:g}–{one.high:g}"


def _frame_facts(frame: Frame, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the frame, in words and with units."""
    height, width = frame.shape
    known = [("size", f"{width} × {height} px"), ("HDU", f"{frame.hdu} {plain(frame.name)}".strip())]
    for name, key, form in _FACTS:
        if facts.get(key) is not None:
            known.append((name, form.format(facts[key])))
    return [*known, ("sha256", frame.sha256)] if frame.sha256 else known
