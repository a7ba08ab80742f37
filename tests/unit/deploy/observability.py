"""The rules, their tests, the dashboard and the runbook, as data."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "observability"
TESTS = sorted(FOLDER.glob("*.test.yaml"))
RUNBOOK = ROOT / "docs" / "runbook.md"
SERIES = re.compile(r"\blynceus_\w+")


@cache
def groups() -> list[Any]:
    return yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]


def rules() -> list[Any]:
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, Any]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


@cache
def cases() -> list[Any]:
    """Every question that the promtool tests ask about an alert."""
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    return [case for test in tests for case in test.get("alert_rule_test", ())]


@cache
def render() -> ModuleType:
    """The script that writes what is not kept by hand."""
    spec = importlib.util.spec_from_file_location("render", FOLDER / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def dashboard() -> Any:
    return json.loads((FOLDER / "grafana" / "dashboards" / "lynceus.json").read_text())


def panels() -> list[Any]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[Any]:
    return [target for panel in panels() for target in panel["targets"]]


def series_in(expr: str) -> set[str]:
    """The metrics that a query reads, without the suffixes of histograms and counters."""
    names = SERIES.findall(re.sub(r"lynceus:\w+(:\w+)*", "", expr))
    return {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names}
