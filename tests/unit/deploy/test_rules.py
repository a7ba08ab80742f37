"""The rules of Prometheus: each alert is tested, explained, and speaks of metrics that exist."""

import re
import shutil
import subprocess

import pytest
import yaml

from lynceus.errors import LynceusError
from lynceus.tally import Tally
from service.errors import STATUSES
from service.gpu import QUANTITIES
from service.metrics import OUTCOMES, Metrics
from service.settings import Settings
from tests.unit.deploy.observability import (
    FOLDER,
    ROOT,
    RUNBOOK,
    TESTS,
    alerts,
    cases,
    recorded,
    render,
    rules,
    series_in,
    targets,
)

LE = re.compile(r'le="([\d.]+)"')
CALLERS = re.compile(r'outcome!~"([a-z_|]+)"')


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no `promtool` (Debian: prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    promtool("test", "rules", *(path.name for path in TESTS))


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_tested_both_ways(name: str) -> None:
    asked = [bool(case.get("exp_alerts")) for case in cases() if case["alertname"] == name]
    assert set(asked) == {True, False}


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert ROOT / page == RUNBOOK
    assert anchor == name.lower()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_its_section_in_the_runbook(name: str) -> None:
    section = re.search(rf"^## {name}\n(.+?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    for part in ("Means", "Look", "Do", "False when"):
        assert f"**{part}" in section[1], part


def test_the_runbook_knows_no_other_alerts_and_no_dead_links() -> None:
    text = RUNBOOK.read_text()
    assert set(re.findall(r"^## (Lynceus\w+)$", text, re.MULTILINE)) == set(alerts())
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= {name.lower() for name in alerts()}
    assert set(re.findall(r"\bLynceus[A-Z]\w+", text)) <= set(alerts())


def test_the_runbook_names_settings_that_there_are() -> None:
    known = {f"LYNCEUS_{name.upper()}" for name in Settings.model_fields}
    named = {name.partition("__")[0] for name in re.findall(r"\bLYNCEUS_[A-Z_0-9]+", RUNBOOK.read_text())}
    assert named <= known


def test_only_what_matters_wakes_anybody() -> None:
    paging = {name for name, alert in alerts().items() if alert["labels"]["severity"] == "page"}
    assert paging == {"LynceusDown", "LynceusMissesCadence", "LynceusWatcherStopped"}
    assert f"| `page` | whoever is on call, at once | {', '.join(sorted(paging))} |" in RUNBOOK.read_text()


def test_the_operators_manifest_holds_the_same_rules() -> None:
    manifest = (ROOT / "deploy" / "components" / "prometheus-rule" / "prometheus-rule.yaml").read_text()
    assert manifest == render().prometheus_rule((FOLDER / "rules.yaml").read_text())
    assert yaml.safe_load(manifest)["spec"] == yaml.safe_load((FOLDER / "rules.yaml").read_text())


def test_rules_dashboard_and_runbook_read_metrics_that_the_service_has() -> None:
    known = names_of_the_service()
    spans = re.findall(r"```promql\n(.+?)```|`([^`\n]+)`", RUNBOOK.read_text(), re.DOTALL)
    queries = [rule["expr"] for rule in rules()] + [target["expr"] for target in targets()]
    texts = {*queries, *("".join(span) for span in spans)}
    for text in texts:
        assert series_in(text) <= known, text
        assert set(re.findall(r"lynceus:\w+:\w+", text)) <= recorded(), text


def names_of_the_service() -> set[str]:
    registry = Metrics((1.0,)).registry
    ours = {family.name for family in registry.collect()} | {quantity.name for quantity in QUANTITIES}
    return ours | {name.removesuffix("_total") for name in re.findall(r"# TYPE (\w+)", Tally().text(now=0.0))}


def test_what_is_not_counted_against_the_service_is_the_callers_mistake() -> None:
    """Exactly the errors with a status of 4xx; who hangs up is judged by how long he waited."""
    statuses = {kind.code: status_of(kind) for kind in errors_of_the_service()}
    ours = {code for code, status in statuses.items() if status >= 500}
    callers = set(statuses) - ours - {"client_gone"}
    lists = {match for rule in rules() for match in CALLERS.findall(rule["expr"])}
    assert [set(one.split("|")) for one in lists] == [callers]
    assert {"overloaded", "deadline_exceeded", "detection_failed", "out_of_memory", "disk_full"} <= ours
    assert callers.isdisjoint(OUTCOMES)


def errors_of_the_service() -> list[type[LynceusError]]:
    found: list[type[LynceusError]] = []
    kinds: list[type[LynceusError]] = [LynceusError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found += [kind] if kind.__module__ in ("lynceus.errors", "service.refusals") else []
    return found


def status_of(kind: type[LynceusError]) -> int:
    return next((STATUSES[base] for base in kind.__mro__ if base in STATUSES), 500)


def test_the_cadence_is_one_bucket_everywhere() -> None:
    bounds = {match for rule in rules() for match in LE.findall(rule["expr"]) if "frame_duration" in rule["expr"]}
    assert bounds == {"30.0"}
    assert 30 in Settings().latency_buckets


def test_the_series_of_the_objective_begin_at_nought() -> None:
    """No increase is ever seen of a series that begins at 1: the first frame that is missed would go unseen."""
    metrics = Metrics((1.0, 30.0))
    metrics.expect_frames("stable")
    samples = [one for family in metrics.registry.collect() for one in family.samples]
    late = [one for one in samples if one.name.endswith("duration_seconds_bucket") and one.labels.get("le") == "+Inf"]
    assert {one.labels["outcome"] for one in late if "outcome" in one.labels} == set(OUTCOMES)
    assert {one.value for one in late} == {0}
    canary = [one for one in samples if one.name == "lynceus_canary_frames_total"]
    assert {one.labels["outcome"] for one in canary} == {"compared", "skipped", "failed"}
