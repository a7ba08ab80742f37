"""One page on which a person reviews an archive: each frame with its boxes, facts and labels, and their charts."""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from lynceus.pages import page
from training.curation.charts import COLOURS, Row, draw_charts
from training.curation.dataset import APART, KEPT
from training.curation.inspection import Store
from training.curation.labels import LABELS, MEANINGS

OVERRULED = "overruled"
PAGE = """{% extends "base" %}
{% block title %}Contact sheet: {{ title }}{% endblock %}
{% block style %}
main { max-width: 100rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem;
  margin: 2rem 0; }
a { color: var(--blue); }
.bar { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: .6rem 0; display: flex; flex-wrap: wrap;
  gap: .4rem; align-items: center; border-bottom: 1px solid var(--line); }
.bar button, .bar input { font: inherit; font-size: .875rem; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 1rem; padding: .15rem .8rem; }
.bar button { cursor: pointer; }
.bar button[aria-pressed=true] { border-color: var(--blue); box-shadow: inset 0 0 0 1px var(--blue); }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
  margin-top: 1rem; }
.one { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .75rem; min-width: 0; }
.one.apart { border-style: dashed; border-color: var(--red); }
.one[hidden] { display: none; }
.one h3 { margin: 0 0 .15rem; font-size: 1rem; overflow-wrap: anywhere; }
.one p { font-size: .875rem; margin: .25rem 0; }
.one .alert { color: var(--red); font-weight: 600; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; margin: .5rem 0; align-items: start; }
.pictures img { width: 100%; cursor: zoom-in; background: #000; }
.pictures img.full { position: fixed; inset: 0; width: 100vw; height: 100vh; object-fit: contain; z-index: 2;
  border-radius: 0; cursor: zoom-out; image-rendering: pixelated; }
.tag { display: inline-block; border: 1.5px solid; border-radius: 1rem; padding: 0 .6rem; font-size: .8rem;
  font-weight: 600; margin-right: .25rem; }
.tag.rejected { text-decoration: line-through; opacity: .6; font-weight: 400; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .1rem .75rem; margin: .4rem 0;
  font-size: .8rem; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); display: block; font-size: .75rem; line-height: 1.2; }
.key { display: inline-block; width: .9rem; height: .9rem; border: 2px solid; vertical-align: -.1rem; }
.key.dashed { border-style: dashed; } .key.round { border-radius: 50%; }
{% endblock %}
{% block content %}
<p class="soft">Contact sheet</p>
<h1>{{ title }}</h1>
<div class="cards">
{% for value, name in cards %}
<div class="card"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}
</div>
{% if warnings %}
<ul class="warnings">
{% for warning in warnings %}
<li>{{ warning }}</li>
{% endfor %}
</ul>
{% endif %}
<div class="charts">
{% for drawn, caption in charts %}
<figure>{{ drawn }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% if apart %}
<h2>Set apart</h2>
<div class="scroll"><table>
<tr><th>frame</th><th class="text">why</th></tr>
{% for row in apart %}
<tr><td><a href="#{{ row.anchor }}">{{ row.name }}</a></td><td class="text">{{ row.reason }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
<h2>Frames</h2>
<p class="soft note"><span class="key" style="border-color: var(--green)"></span> the catalogue's sources
&ensp;<span class="key dashed" style="border-color: var(--orange)"></span> its rows that are ignored
&ensp;<span class="key round" style="border-color: var(--red)"></span> along a straight line
&ensp;<span class="key round" style="border-color: var(--blue)"></span> extended light. Left the whole frame, right its
busiest part. To overrule labels, write <code>file&emsp;OK,ESO</code> a line into a label file and curate again.</p>
<div class="bar" role="toolbar" aria-label="Filter">
{% for value, name, count in filters %}
<button type="button" data-filter="{{ value }}" aria-pressed="{{ "true" if not value else "false" }}">{{ name }}
{{ count }}</button>
{% endfor %}
<input type="search" placeholder="name, field, reason" aria-label="Search">
<span class="soft note" id="shown"></span>
</div>
<div class="frames">
{% for row in rows %}
<article class="one {{ row.state }}" id="{{ row.anchor }}" data-tags="{{ row.tags }}">
<h3>{{ row.name }}</h3>
<p>{% for label in row.labels %}<span class="tag" style="border-color: {{ colours[label] }}"
title="{{ meanings[label] }}">{{ label }}</span>{% endfor %}
{% for label in row.rejected %}<span class="tag rejected" title="proposed, and overruled">{{ label }}</span>{% endfor %}
{% if row.by_hand %}<span class="soft">by hand</span>{% endif %}</p>
{% if row.reason %}<p{% if row.state == "apart" %} class="alert"{% endif %}>{{ row.reason }}</p>{% endif %}
{% for why in row.why %}
<p class="soft">{{ why }}</p>
{% endfor %}
{% if row.pictures %}
<div class="pictures">
{% for picture, what in row.pictures %}
<img src="{{ picture }}" alt="{{ what }} of {{ row.name }}" loading="lazy">
{% endfor %}
</div>
{% endif %}
<div class="facts">
{% for name, value in row.facts %}
<div><span>{{ name }}</span>{{ value }}</div>
{% endfor %}
</div>
{% for warning in row.warnings %}
<p class="soft note">{{ warning }}</p>
{% endfor %}
</article>
{% endfor %}
</div>
<script>
const buttons = [...document.querySelectorAll(".bar button")], search = document.querySelector(".bar input");
const frames = [...document.querySelectorAll(".one")];
function show() {
  const wanted = buttons.find(b => b.getAttribute("aria-pressed") === "true").dataset.filter;
  const text = search.value.toLowerCase();
  let shown = 0;
  for (const one of frames) {
    one.hidden = !((!wanted || one.dataset.tags.split(" ").includes(wanted)) &&
      (!text || one.textContent.toLowerCase().includes(text)));
    shown += !one.hidden;
  }
  document.getElementById("shown").textContent = shown + " of " + frames.length + " frames";
}
for (const button of buttons) button.onclick = () => {
  for (const other of buttons) other.setAttribute("aria-pressed", other === button);
  show();
};
search.oninput = show;
for (const picture of document.querySelectorAll(".pictures img"))
  picture.onclick = () => picture.classList.toggle("full");
addEventListener("keydown", e => {
  if (e.key === "Escape") document.querySelectorAll("img.full").forEach(p => p.classList.remove("full"));
});
show();
</script>
{% endblock %}
"""


def contact_sheet(title: str, rows: Sequence[Row], warnings: Sequence[str], store: Store) -> str:
    """Make the page.

    Parameters
    ----------
    title : str
        Names the archive.
    rows : sequence of Row
        Its frames.
    warnings : sequence of str
        About the archive as a whole.
    store : Store
        Where the frames' pictures are.

    Returns
    -------
    str
        A whole HTML document that needs nothing else.
    """
    kept = [row for row in rows if row.state == KEPT]
    apart = [row for row in rows if row.state == APART]
    sources = sum(len(row.found.sides) for row in kept)
    cards = (
        (len(rows), "frames"),
        (len(kept), "kept"),
        (len(apart), "set apart"),
        (len({row.field for row in kept}), "fields of the sky"),
        (f"{sources:,}", "sources in catalogues"),
        (sum(row.by_hand for row in rows), "labelled by hand"),
    )
    shown = [_shown(index, row, store) for index, row in enumerate(rows)]
    return page(
        PAGE,
        title=title,
        cards=cards,
        warnings=warnings,
        charts=draw_charts(rows),
        apart=[one for one in shown if one["state"] == APART],
        filters=_filters(rows),
        rows=shown,
        colours=COLOURS,
        meanings=MEANINGS,
    )


def _filters(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """What frames can be filtered by: a tag, its name, and how many frames have it."""
    states, labels = Counter(row.state for row in rows), Counter(label for row in rows for label in row.labels)
    by_state = [(state, state if state == KEPT else "set apart", states[state]) for state in (KEPT, APART)]
    by_label = [(label, label, labels[label]) for label in LABELS if labels[label]]
    overruled = sum(_overruled(row) for row in rows)
    by_hand = [(OVERRULED, "proposal overruled", overruled)] if overruled else []
    return [("", "all", len(rows)), *by_state, *by_label, *by_hand]


def _overruled(row: Row) -> bool:
    return row.by_hand and row.labels != row.proposed


def _shown(index: int, row: Row, store: Store) -> dict[str, object]:
    """A row as the page shows it."""
    found = row.found
    return {
        "anchor": f"frame-{index}",
        "name": str(row.pair.frame),
        "state": row.state,
        "reason": row.reason,
        "labels": row.labels,
        "rejected": [label for label in row.proposed if label not in row.labels],
        "by_hand": row.by_hand,
        "why": [why for why in row.why if not why.startswith("OK:")],
        "tags": " ".join((row.state, *row.labels, *((OVERRULED,) if _overruled(row) else ()))),
        "pictures": _pictures(row, store),
        "facts": _facts(row),
        "warnings": found.warnings,
    }


def _pictures(row: Row, store: Store) -> list[tuple[Markup, str]]:
    if row.found.fault:
        return []
    paths = zip(store.pictures(row.pair), ("the whole", "a part"), strict=True)
    return [(_uri(path), what) for path, what in paths if path.is_file()]


def _uri(path: Path) -> Markup:
    return Markup("data:image/jpeg;base64,") + base64.b64encode(path.read_bytes()).decode()


def _facts(row: Row) -> list[tuple[str, str]]:
    """Facts as people read them, those that are known."""
    found, quality, fit = row.found, row.found.quality, row.found.fit
    facts: list[tuple[str, str, object]] = [
        ("field", "{}", row.field or None),
        ("object", "{}", found.target or None),
        ("observed", "{}", found.date_obs[:16].replace("T", " ") or None),
        ("filter", "{}", found.filter or None),
        ("exposure", "{:g} s", found.exptime),
        ("size", "{}", f"{found.width} × {found.height}" if found.width else None),
    ]
    if quality is not None:
        facts += [
            ("background", "{:.4g} ADU", quality.background),
            ("noise", "{:.3g} ADU", quality.noise),
            ("seeing", "{:.2f} px", quality.fwhm_px),
            ("seeing on the sky", "{:.2f}″", quality.fwhm_arcsec),
            ("ellipticity", "{:.2f}", quality.ellipticity),
            ("of it in common", "{:.2f}", quality.drift),
            ("saturated", "{} px at most", quality.saturated_area or None),
            ("straightest line", "{:.1f} sigma", quality.trail),
            ("its length", "{:.0%} of a side", quality.trail_length or None),
            ("background changes", "{:.0%}", quality.gradient),
            ("pattern", "{:.2f} sigma", quality.pattern),
            ("largest object", "{:.0f} px", quality.largest_px or None),
            ("seen by sep", "{:,}", quality.sources),
            ("on a Mpx", "{:,.0f}", quality.sources_per_mpx),
        ]
    if fit is not None:
        facts += [
            ("catalogue rows", "{:,}", fit.rows),
            ("ignored rows", "{:,}", found.ignored),
            ("seen, not listed", "{:,}", found.unlisted),
            ("listed, not seen", "{:,}", fit.unseen),
            ("agree with the frame", "{:.0%}", fit.matched),
            ("catalogue less frame", "{}", f"{fit.dx:+.2f}, {fit.dy:+.2f} px"),
        ]
    return [(name, form.format(value)) for name, form, value in facts if value is not None]
