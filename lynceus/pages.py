"""Pages for people: one HTML file that needs nothing else, its charts drawn inside it as SVG, its pictures as PNG."""

import base64
import re
from collections.abc import Callable
from io import BytesIO, StringIO
from threading import Lock
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

if TYPE_CHECKING:  # it takes a second to import: `chart` does, for pages that have one
    from matplotlib.axes import Axes

# What a chart draws in these two takes the page's colour of text and of lines, in light and in dark.
INK, LINE = "#0a0b0c", "#0d0e0f"
# Apart for colour-blind readers, and readable on white and on black (after Okabe & Ito).
GREEN, RED, ORANGE, GREY, BLUE = "#00a878", "#e0455c", "#f0a020", "#9fabb8", "#3b82d6"
UNKNOWN = "–"

_SUPERFLUOUS = (  # what only a file of its own needs: fixed size, fonts, rules for everything, names two charts share
    (re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL), ""),
    (re.compile(r' (?:width|height)="[\d.]+pt"'), ""),
    (re.compile(r"font-family: [^;\"]*;?\s*"), ""),
    (re.compile(r'<g id="[^"]*"'), "<g"),
)
_settings_lock = Lock()  # matplotlib's settings belong to the process, and pages are made in threads

BASE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{% block title %}{% endblock %}</title>
<style>
:root { --paper: #fbfbfa; --card: #ffffff; --ink: #1d2125; --soft: #5d6670; --line: #dcdfe3; --warn: #fff4d6;
  --green: #00a878; --red: #e0455c; --orange: #f0a020; --grey: #9fabb8; --blue: #3b82d6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #111417; --card: #191d21; --ink: #e4e7ea; --soft: #98a1ab; --line: #30363d; --warn: #3a3013; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .5rem 0; max-width: 44rem; }
.soft, figcaption, th { color: var(--soft); }
.note { font-size: .875rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .75rem .9rem; }
.card b { display: block; font-size: 1.55rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.25; }
.card span { color: var(--soft); font-size: .85rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; }
th:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { font-size: .875rem; margin-top: .35rem; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
img { display: block; max-width: 100%; height: auto; border-radius: .4rem; }
ul.warnings { background: var(--warn); border-radius: .6rem; padding: .75rem 1rem .75rem 2rem; margin: 1rem 0; }
code { font: .875em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
{% block style %}{% endblock %}
</style>
</head>
<body>
<main>
{% block content %}{% endblock %}
</main>
</body>
</html>
"""


def page(template: str, **values: object) -> str:
    """Fill in a template that extends `base`; whatever is put in is escaped, unless it is Markup.

    Parameters
    ----------
    template : str
        Jinja source with the blocks `title`, `content` and, if it likes, `style`. The filters `figure(digits)`,
        `share(digits)` and `signed(digits)` write numbers, None as a dash.
    **values
        What it names; a name that is not given is an error.

    Returns
    -------
    str
        A whole HTML document without anything external.
    """
    environment = Environment(
        loader=DictLoader({"base": BASE}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure, share=share, signed=signed)
    return environment.from_string(template).render(**values)


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, thousands apart; a dash for None."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share of one in per cent; a dash for None."""
    return UNKNOWN if value is None else f"{100 * value:.{digits}f} %"


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign; a dash for None."""
    return UNKNOWN if value is None else f"{value:+,.{digits}f}"


def chart(draw: "Callable[[Axes], None]", label: str, size: tuple[float, float] = (6.4, 3.6)) -> Markup:
    """Draw a chart as SVG that follows the page's colours.

    Parameters
    ----------
    draw : callable
        Draws on the axes it is given; `INK` and `LINE` follow the page, other colours stay.
    label : str
        What a reader who cannot see it is told.
    size : (float, float)
        Width and height, in inches of 100 px; it scales to the width there is.

    Returns
    -------
    Markup
        An `<svg>` element, the same for the same data.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _settings_lock, rc_context({"svg.fonttype": "none", "svg.hashsalt": "lynceus"}):
        canvas = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(canvas)
        canvas.patch.set_visible(False)
        axes = canvas.add_subplot()
        _plain(axes)
        draw(axes)
        if legend := axes.get_legend():
            legend.set_frame_on(False)
            for text in legend.get_texts():
                text.set_color(INK)
        file = StringIO()
        canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(file.getvalue(), label)


def png_uri(picture: Image.Image) -> str:
    """A picture as a `data:` address of a PNG, to stand in `src`."""
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _plain(axes: "Axes") -> None:
    """No box around the axes, a faint grid behind, everything in the page's colours."""
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    axes.tick_params(which="both", color=LINE, labelcolor=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _inline(document: str, label: str) -> Markup:
    """The `<svg>` element of matplotlib's document, without what only a file of its own needs."""
    element = document[document.index("<svg") :]
    for pattern, replacement in _SUPERFLUOUS:
        element = pattern.sub(replacement, element)
    for drawn, colour in ((INK, "currentColor"), (LINE, "var(--line)")):
        element = element.replace(drawn, colour)
    opening = Markup('<svg role="img" aria-label="{}"').format(label)
    return Markup(element.replace("<svg", opening, 1))
