"""The real server against its own OpenAPI document, by schemathesis: no 5xx, and every answer as it is described.

Two things are kept out, and why: `positive_data_acceptance`, since a schema cannot say that a file is FITS or that an
HDU exists; and deadlines other than a minute, since 504 is the right answer to one that is too short (their own test is
the last one here).
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.schema_hooks import FRAME

ROOT = Path(__file__).parents[2]
CONFIG = f"""
hooks = {str(Path(__file__).with_name("schema_hooks.py"))!r}
[parameters]
"query.deadline" = 60
"""
OPTIONS = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", "positive_data_acceptance"]
OPTIONS += ["--max-examples", "60", "--seed", "1", "--continue-on-failure", "--request-timeout", "60"]
OPTIONS += ["--report", "json", "--report-json-path", "report.json"]


def requests_of(client: httpx.Client) -> Counter[tuple[str, str]]:
    """How many requests of each route had each status."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == "lynceus_http_requests_total"]
    return Counter({(one.labels["route"], one.labels["code"]): int(one.value) for one in samples})


@pytest.fixture(scope="module")
def report(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What schemathesis found, and the requests by route and status that it took."""
    folder = tmp_path_factory.mktemp("schemathesis")
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"]
    with httpx.Client(base_url=address, timeout=60) as client:
        before = requests_of(client)
        done = subprocess.run(
            [*command, "run", f"{address}/openapi.json", *OPTIONS],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        taken = requests_of(client) - before
    assert (folder / "report.json").exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found | {"text": done.stdout, "taken": taken}


def test_nothing_is_amiss(report: dict[str, Any]) -> None:
    assert (report["exit_code"], report["failures"], report["errors"]) == (0, [], []), report["text"]
    assert report["complete"]


def test_every_operation_was_tested(report: dict[str, Any]) -> None:
    operations = report["operations"]
    assert operations["tested"] == operations["total"] == 7
    assert report["test_cases"]["generated"] > 300


def test_no_request_failed_and_many_got_through(report: dict[str, Any]) -> None:
    taken: Counter[tuple[str, str]] = report["taken"]
    assert {status for _, status in taken if status.startswith("5")} == set()
    assert taken["/detect", "200"] > 20
    assert taken["/evaluate", "200"] > 5
    assert sum(taken.values()) > 300


@settings(max_examples=40, deadline=None)
@given(seconds=st.floats() | st.floats(0, 1e-3) | st.text(max_size=5))
def test_any_deadline_is_kept_or_refused(address: str, seconds: float | str) -> None:
    answer = httpx.post(f"{address}/detect", params={"deadline": str(seconds)}, content=FRAME)
    codes = {200: None, 400: "bad_parameter", 503: "overloaded", 504: "deadline_exceeded"}
    assert answer.json().get("code") == codes[answer.status_code]
    if answer.status_code in (503, 504):
        assert 0 < float(seconds) < 60
