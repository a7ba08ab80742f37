"""Writes Grafana's dashboard from its table, and the rules as a PrometheusRule: `make observability`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RULES = HERE / "rules.yaml"
TABLE = HERE / "dashboard.yaml"
DASHBOARD = HERE / "grafana" / "dashboards" / "lynceus.json"
PROMETHEUS_RULE = HERE.parent / "components" / "prometheus-rule" / "prometheus-rule.yaml"
COLUMNS, HEIGHT = 24, 8  # of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'namespace=~"$namespace", instance=~"$instance"'
CHOSEN_RULE = 'namespace=~"$namespace"'
WITHOUT_NUMBERS = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}  # of a table
SHADE = 20  # percent, below a line


@dataclass(frozen=True)
class Query:
    """PromQL, and what its lines are called.

    Attributes
    ----------
    expr : str
        With `@` and `@by` in place of the labels.
    legend : str
        A template of labels.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    title, text : str
        What it shows, and how to read it.
    queries : sequence of Query
        Its lines.
    unit : str
        Grafana's name of the unit.
    kind : str
        Grafana's type of panel.
    width : int
        Of 24 columns.
    limits : sequence of float
        From which on it is yellow, and from which on red.
    stacked : bool
        Whether lines are added up.
    """

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    limits: Sequence[float] = ()
    stacked: bool = False


def rows() -> list[tuple[str, list[Panel]]]:
    """The rows of the dashboard, with their titles."""
    return [(row["row"], [as_panel(**panel) for panel in row["panels"]]) for row in yaml.safe_load(TABLE.read_text())]


def as_panel(queries: Sequence[dict[str, str]], **facts: Any) -> Panel:
    """A panel of the table."""
    return Panel(queries=[Query(**query) for query in queries], **facts)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": "lynceus",
        "title": "Lynceus",
        "description": "Whether frames are answered in time, where the time goes, and how the canary differs.",
        "tags": ["lynceus"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-12h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [changes_of_versions()]},
        "templating": {"list": variables()},
        "links": [],
        "panels": placed_panels(),
    }


def changes_of_versions() -> dict[str, Any]:
    """A mark wherever another version began to serve."""
    return {
        "name": "Versions",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": f"max by (track, version) (lynceus_model_info{{{CHOSEN}}}) == 1 "
        f"unless max by (track, version) (lynceus_model_info{{{CHOSEN}}} offset 1m) == 1",
        "titleFormat": "{{track}} is {{version}}",
        "step": "1m",
    }


def variables() -> list[dict[str, Any]]:
    """Where the data comes from, whose it is, and over which time rates are taken."""
    everything = {"includeAll": True, "allValue": ".*", "multi": True, "current": {"text": "All", "value": "$__all"}}
    windows = ["5m", "10m", "30m", "1h", "6h"]
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
        *(
            {"name": name, "label": name, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1,
             "query": {"query": f"label_values({query}, {name})", "refId": name}, **everything}
            for name, query in (
                ("namespace", "lynceus_build_info"),
                ("instance", 'lynceus_build_info{namespace=~"$namespace"}'),
            )
        ),
        {"name": "window", "label": "rates over", "type": "interval", "query": ",".join(windows), "auto": False,
         "current": {"text": "10m", "value": "10m"},
         "options": [{"text": one, "value": one, "selected": one == "10m"} for one in windows]},
    ]  # fmt: skip


def placed_panels() -> list[dict[str, Any]]:
    """All panels, left to right and row by row."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows():
        placed.append({"id": len(placed) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})  # fmt: skip
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
            placed.append({"id": len(placed) + 1, **as_json(panel), "gridPos": place})
            x += panel.width
        y += HEIGHT
    return placed


def as_json(panel: Panel) -> dict[str, Any]:
    """A panel, but for its place."""
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "targets": [target(query, panel.kind, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": field(panel), "overrides": []},
        "options": options(panel),
        "transformations": [WITHOUT_NUMBERS] if panel.kind == "table" else [],
    }


def target(query: Query, kind: str, ref: str) -> dict[str, Any]:
    """A query of a panel."""
    return {
        "refId": ref,
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": query.expr.replace("@by", CHOSEN_RULE).replace("@", CHOSEN),
        "legendFormat": query.legend or "__auto",
        "format": {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series"),
        "instant": kind in ("table", "stat"),
        "range": kind not in ("table", "stat"),
    }


def field(panel: Panel) -> dict[str, Any]:
    """How its values are written and coloured."""
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": value} for color, value in zip(("yellow", "red"), panel.limits, strict=False)]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "stat":
        defaults["noValue"] = "–"
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": SHADE if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
            "spanNulls": False,
        }
    return defaults


def options(panel: Panel) -> dict[str, Any]:
    """What only a kind of panel knows."""
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
    if panel.kind == "heatmap":
        color = {"mode": "scheme", "scheme": "Blues", "steps": 64, "exponent": 0.5, "fill": "blue", "reverse": False}
        return {
            "calculate": False,
            "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
            "color": color,
            "filterValues": {"le": 1e-9},
            "rowsFrame": {"layout": "auto"},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False},
        }
    if panel.kind == "table":
        return {"showHeader": True, "footer": {"show": False}}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def prometheus_rule(rules: str) -> str:
    """The rules as the Prometheus Operator wants them: the same text, indented into a manifest."""
    head = [
        "# Made of deploy/observability/rules.yaml by `make observability`.",
        "apiVersion: monitoring.coreos.com/v1",
        "kind: PrometheusRule",
        "metadata:",
        "  name: lynceus",
        "  labels:",
        "    app.kubernetes.io/name: lynceus",
        "spec:",
    ]
    groups = rules[rules.index("groups:") :].splitlines()
    return "\n".join([*head, *(f"  {line}".rstrip() for line in groups)]) + "\n"


def main() -> None:
    """Write both."""
    DASHBOARD.write_text(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n")
    PROMETHEUS_RULE.write_text(prometheus_rule(RULES.read_text()))


if __name__ == "__main__":
    main()
