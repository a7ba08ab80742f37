"""Grafana's dashboard and its provisioning: what Grafana would refuse, or draw wrongly."""

import itertools
import json
import re
from typing import Any

import pytest
import yaml

from tests.unit.deploy.observability import FOLDER, ROOT, dashboard, panels, render, rules, targets

UNITS = {"short", "s", "bytes", "percentunit", "celsius", "watt", "suffix:px", "suffix:x"}
KINDS = {"timeseries", "stat", "table", "heatmap"}
TOPICS = {  # what the engineer on call must see, and the metric that a panel of it reads
    "latency by stage and track": r"stage_duration_seconds_bucket.*\[\$window\]",
    "latency by track": r"by \(track, le\) \(rate\(lynceus_frame_duration_seconds_bucket",
    "throughput": r"rate\(lynceus_tiles_total",
    "queue depth": "lynceus_queue_tiles",
    "queue age": "lynceus_queue_oldest_seconds",
    "batch size": "lynceus_batch_tiles",
    "errors by code": r"by \(code\) \(rate\(lynceus_rejected_total",
    "detections per frame": "lynceus_detections_per_frame_sum",
    "canary": "lynceus_canary_detections_total",
    **{
        f"gpu {what}": f"lynceus_gpu_{what}"
        for what in ("utilization_ratio", "memory_used", "temperature_celsius", "power")
    },
}


def test_it_is_what_its_table_makes() -> None:
    """`make observability` writes it anew."""
    script = render()
    text = json.dumps(script.dashboard(), indent=2, ensure_ascii=False) + "\n"
    assert script.DASHBOARD.read_text() == text


def test_ids_are_unique_and_panels_lie_beside_each_other() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken = set()
    for panel in everything:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        assert columns.stop <= 24
        cells = set(itertools.product(columns, lines))
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_can_be_read(panel: Any) -> None:
    assert panel["type"] in KINDS
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])
    steps = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert steps[0] is None
    assert steps[1:] == sorted(steps[1:])


def test_titles_are_unique() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_queries_use_the_variables_that_there_are() -> None:
    names = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard()["panels"])))
    assert used <= names
    assert {"datasource", "namespace", "instance", "window"} == names


def test_every_query_keeps_to_the_servers_that_were_chosen() -> None:
    for target in targets():
        if "ALERTS" not in target["expr"]:
            assert 'namespace=~"$namespace"' in target["expr"]
            assert "@" not in target["expr"]


@pytest.mark.parametrize("topic", TOPICS)
def test_it_shows(topic: str) -> None:
    assert any(re.search(TOPICS[topic], target["expr"]) for target in targets())


def test_legends_name_labels_that_survive_the_query() -> None:
    for target in targets():
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) | {"gpu"}
        kept |= {"track"} if "lynceus:" in target["expr"] else set()
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, target["expr"]


def test_provisioning_and_compose_agree() -> None:
    grafana = FOLDER / "grafana" / "provisioning"
    [source] = yaml.safe_load((grafana / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((grafana / "dashboards" / "lynceus.yaml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert provider["options"]["path"] in {mount.split(":")[1] for mount in compose["grafana"]["volumes"]}
    for service in ("prometheus", "grafana"):
        for mount in compose[service]["volumes"]:
            if mount.startswith("."):
                assert (ROOT / "deploy" / "compose" / mount.split(":")[0]).exists()


def test_prometheus_scrapes_the_name_that_the_server_has() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["services"]
    names = {name for one in ("cpu", "gpu") for name in compose[one]["networks"]["default"]["aliases"]}
    [target] = job["static_configs"][0]["targets"]
    assert target.split(":")[0] in names
    jobs = {match for rule in rules() for match in re.findall(r'job=~"([^"]+)"', rule["expr"])}
    assert all(re.fullmatch(one, job["job_name"]) for one in jobs)
