"""What a study found, for people: a table with intervals in Markdown, and a page with charts and pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from lynceus.durable import write_whole
from lynceus.pages import page, png_uri
from training.studies.intervals import Mean, mean_difference, mean_of
from training.studies.plots import variants_chart

FIGURES = {  # as they are called in tables, in the order of the columns; the first one is charted first
    "map_50": "mAP@50",
    "map": "mAP",
    "mar": "mAR",
    "best_iou_per_gt": "IoU per source",
    "best_iou_per_prediction": "IoU per detection",
    "f1": "F1",
    "precision": "reliability",
    "recall": "completeness",
}
CHARTED = ("map_50", "f1", "best_iou_per_gt", "best_iou_per_prediction")
DASH = "–"
BySeed = Mapping[int, Mapping[str, float | None]]

PAGE = """{% extends "base" %}
{% block title %}Study: {{ s.study }}{% endblock %}
{% block content %}
<p class="soft">Study: {{ s.study }}</p>
<h1>{{ s.question }}</h1>
<p class="soft">{{ s.variants|length }} variants, {{ seeds }} seed{{ "s" if seeds != 1 }} each, scored on
{{ s.test.frames }} frame{{ "s" if s.test.frames != 1 }} against
{{ "the exact truth" if s.test.exact else "their catalogues" }}.</p>
{% if s.failures %}
<ul class="warnings">
{% for one in s.failures %}
<li>{{ one.variant }}, seed {{ one.seed }}: {{ one.why }}</li>
{% endfor %}
</ul>
{% endif %}

<h2>Means and their 95 % intervals</h2>
<div class="scroll"><table>
<tr><th>variant</th>{% for name in figures.values() %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in means %}
<tr><td class="text">{{ row[0] }}</td>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% if differences %}
<h2>Differences from “{{ s.reference }}”, seed by seed</h2>
<div class="scroll"><table>
<tr><th>variant</th>{% for name in figures.values() %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in differences %}
<tr><td class="text">{{ row[0] }}</td>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
<p class="note soft">Intervals are Student's, over the seeds of the training: first weights, order and turns of the
tiles. The frames are the same for all. What a seed does to all variants alike cancels in the differences; those whose
interval leaves out zero are marked *.</p>

<div class="pair">
{% for chart in charts %}
<figure>{{ chart }}</figure>
{% endfor %}
</div>
{% if overlays %}
<h2>One of the frames</h2>
<p class="note soft">Green: matched. Orange, round: extra. Red, dashed: missed. Grey, dotted: ignored.</p>
<div class="pair">
{% for name, picture in overlays %}
<figure><img src="{{ picture }}" alt="What {{ name }} finds in a part of a frame">
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
{% endblock %}
"""


def summarise(figures: Mapping[str, BySeed]) -> dict[str, Any]:
    """Means over the seeds, and differences from the first variant.

    Parameters
    ----------
    figures : mapping
        By variant, seed and name.

    Returns
    -------
    dict
        `reference`, the first variant, and `variants`: a list of dicts with `name`, `scores` by seed, and `mean` and
        `difference`, by figure, each as `Mean` or None.
    """
    reference = next(iter(figures))
    rows = []
    for name, by_seed in figures.items():
        mean, difference = {}, {}
        for figure in FIGURES:
            values, base = defined(by_seed, figure), defined(figures[reference], figure)
            mean[figure] = _plain(mean_of(list(values.values())))
            difference[figure] = None if name == reference else _plain(mean_difference(values, base))
        scores = {str(seed): dict(one) for seed, one in by_seed.items()}
        rows.append({"name": name, "scores": scores, "mean": mean, "difference": difference})
    return {"reference": reference, "variants": rows}


def defined(by_seed: BySeed, figure: str) -> dict[int, float]:
    """A figure by seed, where there is one."""
    return {seed: value for seed, figures in by_seed.items() if (value := figures.get(figure)) is not None}


def write_study(report: Mapping[str, Any], out: Path) -> None:
    """Write `study.json`, `study.md` and `study.html` into the study's folder."""
    write_whole(out / "study.json", json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")
    write_whole(out / "study.md", study_table(report).encode())
    write_whole(out / "study.html", study_page(report, _overlays(report, out / "overlays")).encode())


def study_table(report: Mapping[str, Any]) -> str:
    """The means, and the differences from the first variant, as Markdown."""
    text = f"### {report['question']}\n\n"
    text += f"Mean over the seeds and 95 % interval; scored on {report['test']['frames']} frames.\n\n"
    text += _markdown("variant", _rows(report, "mean"))
    if differences := _rows(report, "difference"):
        text += f"\nDifference from “{report['reference']}”, seed by seed (* where zero is not in the interval):\n\n"
        text += _markdown("variant", differences)
    failures = [f"- {one['variant']}, seed {one['seed']}: {one['why']}" for one in report["failures"]]
    return text + ("\nNot trained:\n\n" + "\n".join(failures) + "\n" if failures else "")


def study_page(report: Mapping[str, Any], overlays: Sequence[tuple[str, str]] = ()) -> str:
    """The page; `overlays` are pairs of a variant and the address of its picture."""
    return page(
        PAGE,
        s=report,
        seeds=max(len(row["scores"]) for row in report["variants"]),
        figures=FIGURES,
        means=_rows(report, "mean"),
        differences=_rows(report, "difference"),
        charts=[_chart(report, figure) for figure in CHARTED],
        overlays=overlays,
    )


def _rows(report: Mapping[str, Any], kind: str) -> list[list[str]]:
    """A row of cells a variant: its name and its figures; differences are not of the reference."""
    write = _cell if kind == "mean" else _signed
    rows = [row for row in report["variants"] if kind == "mean" or row["name"] != report["reference"]]
    return [[row["name"], *(write(row[kind][figure]) for figure in FIGURES)] for row in rows]


def _markdown(first: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [[first, *FIGURES.values()], ["---"] * (len(FIGURES) + 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(mean: Mapping[str, Any] | None) -> str:
    if mean is None:
        return DASH
    return f"{mean['mean']:.4f}" + ("" if mean["half"] is None else f" ± {mean['half']:.4f}")


def _signed(mean: Mapping[str, Any] | None) -> str:
    if mean is None:
        return DASH
    text = f"{mean['mean']:+.4f}"
    if mean["half"] is None:
        return text
    return f"{text} ± {mean['half']:.4f}" + ("*" if Mean.model_validate(mean).clear else "")


def _chart(report: Mapping[str, Any], figure: str) -> Markup:
    rows = {row["name"]: row for row in report["variants"]}
    seeds = {name: list(defined(row["scores"], figure).values()) for name, row in rows.items()}
    means = {
        name: Mean.model_validate(row["mean"][figure]) if row["mean"][figure] else None for name, row in rows.items()
    }
    return variants_chart(FIGURES[figure], seeds, means, report["reference"])


def _overlays(report: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """The pictures there are, in the order of the variants."""
    paths = [(row["name"], folder / f"{file_name(row['name'])}.png") for row in report["variants"]]
    return [(name, _embedded(path)) for name, path in paths if path.exists()]


def _embedded(path: Path) -> str:
    with Image.open(path) as picture:
        return png_uri(picture)


def file_name(variant: str) -> str:
    """The name of a variant's files, without their ending."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in variant)


def _plain(mean: Mean | None) -> dict[str, Any] | None:
    return None if mean is None else mean.model_dump()
