"""What a sweep found, for people: a table of its trials, and a page with charts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from astropy.table import Table
from markupsafe import Markup
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lynceus.durable import write_whole
from lynceus.pages import page
from training.studies.plots import history_chart, importance_chart, slice_chart

PARAMETERS = ("batch", "learning_rate", "weight_decay", "patience")
COLUMNS = {  # of the table, and what they hold
    "number": int, "state": str, "map_50": float, "batch": int, "learning_rate": float, "weight_decay": float,
    "patience": int, "step": int, "seconds": float, "folder": str, "failure": str,
}  # fmt: skip
LEAST_TRIALS = 4  # finished ones, for importances to mean anything
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

PAGE = """{% extends "base" %}
{% block title %}Sweep: {{ name }}{% endblock %}
{% block style %}
.pair { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
{% endblock %}
{% block content %}
<p class="soft">Sweep</p>
<h1>{{ name }}</h1>
<p class="soft">{{ counts }}.</p>
{% if best %}
<div class="cards">
<div class="card"><b>{{ best.map_50|figure }}</b><span>best mAP at IoU 0.5, trial {{ best.number }}</span></div>
<div class="card"><b>{{ best.batch }}</b><span>batch</span></div>
<div class="card"><b>{{ "%.2g"|format(best.learning_rate) }}</b><span>learning rate</span></div>
<div class="card"><b>{{ "%.2g"|format(best.weight_decay) }}</b><span>weight decay</span></div>
<div class="card"><b>{{ best.patience }}</b><span>patience</span></div>
</div>
{% endif %}
<h2>History</h2>
<div class="pair">
<figure>{{ history }}<figcaption>The best look at the validation tiles of each trial; pruned ones at their last.
</figcaption></figure>
{% if importance %}
<figure>{{ importance }}<figcaption>What tells good trials from the rest (PED-ANOVA).</figcaption></figure>
{% endif %}
</div>
<h2>By setting</h2>
<div class="pair">
{% for slice in slices %}
<figure>{{ slice }}</figure>
{% endfor %}
</div>
<h2>Trials</h2>
<div class="scroll"><table>
<tr><th>trial</th><th class="text">state</th><th>mAP@50</th><th>batch</th><th>learning rate</th><th>weight decay</th>
<th>patience</th><th>last look at step</th><th>minutes</th><th class="text">folder</th></tr>
{% for row in rows %}
<tr><td class="text">{{ row.number }}</td><td class="text">{{ row.state }}{{ ": " ~ row.failure if row.failure }}</td>
<td>{{ row.map_50|figure(4) }}</td><td>{{ row.batch }}</td><td>{{ "%.2e"|format(row.learning_rate) }}</td>
<td>{{ "%.2e"|format(row.weight_decay) }}</td><td>{{ row.patience }}</td><td>{{ row.step }}</td>
<td>{{ (row.seconds / 60)|figure(1) }}</td><td class="text">{{ row.folder }}</td></tr>
{% endfor %}
</table></div>
{% endblock %}
"""


def write_sweep(study: Study, run: Path) -> Table:
    """Write `trials.ecsv` and `sweep.html` of the trials so far, and return the table."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.params.keys() >= set(PARAMETERS)]
    rows = [row_of(trial) for trial in trials]
    table = trials_table(rows)
    text = StringIO()
    table.write(text, format="ascii.ecsv")
    write_whole(run / "trials.ecsv", text.getvalue().encode())
    write_whole(run / "sweep.html", sweep_page(study, trials, rows).encode())
    return table


def row_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as a row: what it tried, what it reached, and how it ended."""
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return {
        "number": trial.number,
        "state": STATES[trial.state],
        "map_50": trial.value,
        **{name: trial.params[name] for name in PARAMETERS},
        "step": trial.last_step or 0,
        "seconds": round(seconds, 1),
        "folder": str(trial.user_attrs.get("folder", "")),
        "failure": str(trial.user_attrs.get("failure", "")),
    }


def trials_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as a table; a figure that is not there is NaN."""
    filled = [{**row, "map_50": np.nan if row["map_50"] is None else row["map_50"]} for row in rows]
    columns = {name: [row[name] for row in filled] for name in COLUMNS}
    return Table([np.array(columns[name], kind) for name, kind in COLUMNS.items()], names=list(COLUMNS))


def sweep_page(study: Study, trials: Sequence[FrozenTrial], rows: Sequence[Mapping[str, Any]]) -> str:
    """The page."""
    counts = Counter(row["state"] for row in rows)
    finished, pruned = ([row for row in rows if row["state"] == state] for state in ("finished", "pruned"))
    pruned = [row for row in pruned if row["map_50"] is not None]
    return page(
        PAGE,
        name=study.study_name,
        counts=", ".join(f"{count} {state}" for state, count in counts.items()) or "no trials yet",
        best=max(finished, key=lambda row: row["map_50"], default=None),
        rows=rows,
        history=history_chart(*(_points(some, "number") for some in (finished, pruned))),
        importance=_importance(study, finished),
        slices=[_slice(name, trials, finished, pruned) for name in PARAMETERS],
    )


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(float(row[name]), float(row["map_50"])) for row in rows]


def _slice(
    name: str,
    trials: Sequence[FrozenTrial],
    finished: Sequence[Mapping[str, Any]],
    pruned: Sequence[Mapping[str, Any]],
) -> Markup:
    drawn = trials[0].distributions[name] if trials else None
    logarithmic = isinstance(drawn, FloatDistribution) and drawn.log
    label = name.replace("_", " ")
    return slice_chart(label, _points(finished, name), _points(pruned, name), logarithmic=logarithmic)


def _importance(study: Study, finished: Sequence[Mapping[str, Any]]) -> Markup | None:
    """None where too few trials differ in what they reached."""
    if len(finished) < LEAST_TRIALS or len({row["map_50"] for row in finished}) < LEAST_TRIALS:
        return None
    evaluator = PedAnovaImportanceEvaluator()
    return importance_chart(optuna.importance.get_param_importances(study, evaluator=evaluator))
