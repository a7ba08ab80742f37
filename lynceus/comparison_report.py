"""A comparison for programs, as JSON, and for people, as one HTML page with the most different frames drawn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lynceus.comparison import Comparison, Difference
from lynceus.decision import Outcome, Quantity, Verdict, written, written_change
from lynceus.errors import LynceusError
from lynceus.evidence import FrameEvidence
from lynceus.frame import read_frame
from lynceus.overlay import Marks, draw_marks
from lynceus.pages import BLUE, GREEN, GREY, INK, ORANGE, RED, chart, page, png_uri
from lynceus.sky import SkySpec, estimate_sky

LARGEST_PICTURE = 1200  # pixels
MOST_FRAMES = 200  # rows of the table of frames
FARTHEST = 4.0  # tolerances that the chart of intervals shows
LABELS = {
    "f1": "F1",
    "recall": "recall",
    "precision": "precision",
    "map_50": "mAP at IoU 0.5",
    "best_iou_per_gt": "best IoU with each source",
    "completeness": "planted stars found",
    "completeness_faint": "faint planted stars found",
    "completeness_bright": "bright planted stars found",
    "box_offset": "boxes off their sources",
    "inverted": "detections upside down",
    "darks": "detections on darks",
    "latency": "time a frame takes",
    "bright_disagreement": "bright detections in one list only",
    "agreement": "detections in both lists",
    "box_side": "side of the boxes",
    "latency_infer": "time the network takes",
    "latency_client": "time an answer takes",
}
Line = Literal["solid", "dashed", "dotted", "round"]
COLOURS: dict[Verdict, str] = {
    "better": GREEN, "not worse": BLUE, "unclear": ORANGE, "differs": ORANGE, "worse": RED, "reported": GREY,
}  # fmt: skip
LEGEND: tuple[tuple[str, str, Line], ...] = (  # in the order they are drawn
    ("in both, stable's box", GREEN, "solid"),
    ("in both, the canary's box", "#9fe8cf", "solid"),
    ("lost: stable alone", RED, "dashed"),
    ("gained: the canary alone", BLUE, "round"),
)
OUTCOME_COLOURS = {Outcome.PROMOTE: "green", Outcome.HOLD: "orange", Outcome.ROLL_BACK: "red"}

PAGE = """{% extends "base" %}
{% block title %}{{ outcome }}: {{ c.canary }} against {{ c.stable }}{% endblock %}
{% block style %}
.outcome { border-left: .4rem solid var(--{{ colour }}); padding: .25rem 0 .25rem 1rem; margin: 1.25rem 0; }
.outcome b { font-size: 1.75rem; line-height: 1.2; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin: .75rem 0; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.mark { width: 1.05rem; height: 1.05rem; border: 2px solid; flex: none; }
.mark.dashed { border-style: dashed; } .mark.round { border-radius: 50%; }
.drawn img { background: #000; margin: 0 auto; }
.drawn { margin: 0 0 1.75rem; }
li { max-width: 48rem; }
{% endblock %}
{% block content %}
<p class="soft">Comparison of two versions, {{ c.made }}</p>
<h1>{{ c.canary }} against {{ c.stable }}</h1>
<div class="outcome"><b>{{ outcome }}</b>
<ul>
{% for reason in c.decision.reasons %}
<li>{{ reason }}</li>
{% endfor %}
</ul></div>
<p class="soft">{{ c.evidence.frames|length }} frames{% if scored %}, {{ scored }} of them with a catalogue{% endif %}
{%- if c.evidence.darks %}, {{ c.evidence.darks|length }} darks{% endif %}. Where a figure needs no catalogue, stars
were planted in the frames, and the frames turned upside down: what is found in those, or on darks, is false, and is
no more than a lower bound of what is false in a frame.</p>

<h2>Changes, in units of what is tolerated</h2>
<figure>{{ intervals }}<figcaption>Right is better. An interval wholly left of the red line is worse than it may be; one
that crosses it may be. The intervals hold all at once with {{ confidence|share(0) }} confidence; frames were drawn
anew {{ "{:,}".format(c.spec.decision.resamples) }} times.</figcaption></figure>

<h2>All figures</h2>
<div class="scroll"><table>
<tr><th>figure</th><th>stable</th><th>canary</th><th>change</th><th>interval</th><th>tolerated</th><th>frames</th>
<th class="text">verdict</th></tr>
{% for row in rows %}
<tr><td class="text">{{ row.label }}</td><td>{{ row.stable }}</td><td>{{ row.canary }}</td><td>{{ row.change }}</td>
<td>{{ row.interval }}</td><td>{{ row.tolerance }}</td><td>{{ row.frames }}</td>
<td class="text">{{ row.verdict }}</td></tr>
{% endfor %}
</table></div>

{% if pictures %}
<h2>The most different frames</h2>
<ul class="legend">
{% for name, colour, line in legend %}
<li><span class="mark {{ line }}" style="border-color: {{ colour }}"></span> {{ name }}</li>
{% endfor %}
</ul>
{% for picture in pictures %}
<figure class="drawn"><img src="{{ picture.uri }}" alt="{{ picture.text }}">
<figcaption>{{ picture.text }}</figcaption></figure>
{% endfor %}
{% endif %}

<h2>Frame by frame</h2>
<div class="scroll"><table>
<tr><th>frame</th><th>stable</th><th>canary</th><th>matched</th><th>lost</th><th>gained</th><th>planted</th>
<th>stable found</th><th>canary found</th><th>time</th></tr>
{% for frame in frames %}
<tr><td class="text">{{ frame.name }}</td>{% for cell in frame.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% if unlisted %}
<p class="note soft">{{ unlisted }} more frames are in the JSON report.</p>
{% endif %}
{% if aside %}
<h2>What could not be looked at</h2>
<ul>
{% for name, why in aside %}
<li><code>{{ name }}</code>: {{ why }}</li>
{% endfor %}
</ul>
{% endif %}

<h2>Who was compared</h2>
<div class="scroll"><table>
<tr><th></th><th class="text">version</th><th class="text">asked at</th><th class="text">sha256</th></tr>
{% for role, version, endpoint in versions %}
<tr><td class="text">{{ role }}</td><td class="text">{{ version }}</td><td class="text">{{ endpoint }}</td>
<td class="text"><code>{{ version.sha256 }}</code></td></tr>
{% endfor %}
</table></div>
{% endblock %}
"""


def comparison_json(comparison: Comparison) -> bytes:
    """A comparison as a JSON document: outcome, reasons, figures with their intervals, every frame, settings.

    Parameters
    ----------
    comparison : Comparison
        What is written.
    """
    return json.dumps(comparison.described(), allow_nan=False, indent=1).encode() + b"\n"


def comparison_page(comparison: Comparison) -> str:
    """A comparison as a page for people; its most different frames are read anew and drawn.

    Parameters
    ----------
    comparison : Comparison
        What is written.

    Returns
    -------
    str
        An HTML document that loads nothing from anywhere. A frame that can no longer be read is not drawn.
    """
    decision, evidence = comparison.decision, comparison.evidence
    notes = [(frame.frame, note) for frame in evidence.frames for note in frame.notes]
    return page(
        PAGE,
        c=comparison,
        outcome=decision.outcome.value,
        colour=OUTCOME_COLOURS[decision.outcome],
        confidence=comparison.spec.decision.confidence,
        scored=sum(frame.scores is not None for frame in evidence.frames),
        intervals=_intervals(decision.quantities),
        rows=[_row(one) for one in decision.quantities],
        legend=LEGEND,
        pictures=[picture for one in comparison.differences if (picture := _picture(one))],
        frames=[_cells(frame) for frame in evidence.frames[:MOST_FRAMES]],
        unlisted=max(len(evidence.frames) - MOST_FRAMES, 0),
        aside=[*((one.frame, one.reason) for one in (*evidence.failures, *evidence.left_out)), *notes],
        versions=[
            ("stable", comparison.stable, comparison.endpoints[0]),
            ("canary", comparison.canary, comparison.endpoints[1]),
        ],
    )


@dataclass(frozen=True)
class _Picture:
    """A drawn frame and what it shows."""

    uri: str
    text: str


def _picture(difference: Difference) -> _Picture | None:
    """The frame with the boxes of both lists; None where it cannot be read."""
    pairing = difference.pairing
    try:
        frame = read_frame(difference.path.read_bytes())
    except (OSError, LynceusError):
        return None
    matched = pairing.stable.boxes[pairing.pairs[:, 0]], pairing.canary.boxes[pairing.pairs[:, 1]]
    lost, gained = pairing.stable.boxes[pairing.lost], pairing.canary.boxes[pairing.gained]
    boxes = (*matched, lost, gained)
    marks = [Marks(part, colour, line) for part, (_, colour, line) in zip(boxes, LEGEND, strict=True)]
    drawn = draw_marks(frame, estimate_sky(frame, SkySpec()), marks, most=LARGEST_PICTURE)
    text = f"{difference.path.name}: {len(pairing.pairs)} in both, {len(lost)} lost, {len(gained)} gained"
    return _Picture(png_uri(drawn), text)


def _intervals(quantities: Sequence[Quantity]) -> Markup:
    """Intervals of the guarded figures, each in units of its tolerance."""
    shown = [one for one in quantities if one.role == "guard"][::-1]
    places = np.arange(len(shown))
    scaled = [_in_tolerances(one) for one in shown]

    def draw(axes: Axes) -> None:
        for place, one, (low, change, high) in zip(places, shown, scaled, strict=True):
            colour = COLOURS[one.verdict]
            axes.plot(np.clip([low, high], -FARTHEST, FARTHEST), [place, place], color=colour, linewidth=2.2)
            axes.plot(np.clip(change, -FARTHEST, FARTHEST), place, "o", color=colour, markersize=6)
            for end in (low, high):
                if abs(end) > FARTHEST:
                    axes.plot(np.clip(end, -FARTHEST, FARTHEST), place, "<" if end < 0 else ">", color=colour)
        axes.axvline(-1, color=RED, linewidth=1.2, linestyle="--")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(places, [LABELS[one.name] for one in shown])
        axes.set_xlim(-FARTHEST - 0.2, FARTHEST + 0.2)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.set_xlabel("worse  ←  change / tolerance  →  better")

    spoken = "; ".join(f"{LABELS[one.name]}: {one.verdict}" for one in shown)
    return chart(draw, f"Changes and their intervals. {spoken}", (8.6, 0.9 + 0.34 * len(shown)))


def _in_tolerances(one: Quantity) -> tuple[float, float, float]:
    """Low end, change and high end over the tolerance, more being better."""
    values, tolerance = [one.low, one.change, one.high], one.tolerance
    if one.kind == "ratio":
        values, tolerance = [log(value) for value in values], log(tolerance)
    if not one.higher_is_better:
        values = [-value for value in values[::-1]]
    low, change, high = (value / tolerance for value in values)
    return low, change, high


def _row(one: Quantity) -> dict[str, str]:
    """A line of the table of figures."""
    asked = one.tolerance if one.kind == "ratio" or not one.higher_is_better else -one.tolerance
    return {
        "label": LABELS[one.name],
        "stable": written(one.stable, one.kind),
        "canary": written(one.canary, one.kind),
        "change": written_change(one.change, one.kind),
        "interval": f"{written_change(one.low, one.kind)} to {written_change(one.high, one.kind)}",
        "tolerance": "" if one.role == "report" else written_change(asked, one.kind),
        "frames": str(one.frames),
        "verdict": one.verdict,
    }


def _cells(frame: FrameEvidence) -> dict[str, object]:
    """A line of the table of frames."""
    pairing, listed = frame.pairing, frame.pairing["detections"]
    stars = [one for one in (frame.faint, frame.bright) if one is not None]
    took = frame.times.server or frame.times.client
    cells = [listed["stable"], listed["canary"], pairing["matched"], pairing["lost"], pairing["gained"]]
    cells += [sum(getattr(one, name) for one in stars) for name in ("planted", "stable", "canary")]
    return {"name": frame.frame, "cells": [*cells, f"{took.stable:.0f} / {took.canary:.0f} ms"]}
