import json

import pytest

from model_store import default_bundle
from tests.bench import history
from tests.bench.figures import Figure
from tests.bench.tables import table

HERE, ELSEWHERE = {"cpu": "a processor", "cores": 2}, {"cpu": "a processor", "cores": 16}


def record(machine, **medians):
    figures = {name: Figure(name, "s", (value,)).json() for name, value in medians.items()}
    return {"machine": machine, "parts": {"stages": figures}}


def test_each_figure_is_compared_with_its_last_run_on_this_machine():
    records = [record(HERE, decode=1.0, merge=5.0), record(HERE, decode=2.0), record(ELSEWHERE, decode=9.0, merge=9.0)]
    last = history.last_medians(records, HERE, "stages")
    assert last == {"decode": 2.0, "merge": 5.0}
    figures = [Figure("decode", "s", (1.0, 3.0, 4.0)), Figure("new", "s", (1.0,))]
    assert list(history.over_last(figures, last)) == [1.5, None]
    assert history.last_medians(records, HERE, "detector") == {}


def test_what_was_appended_is_read_again_and_older_forms_are_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    assert history.read(path) == []
    path.write_text(json.dumps({"at": 1, "seconds": {"detector in process": [3.3]}}) + "\n\n")
    history.append(path, record(HERE, decode=1.0))
    assert history.read(path) == [record(HERE, decode=1.0)]


def test_a_run_says_what_it_was_measured_on():
    said = history.provenance(default_bundle())
    assert said["machine"]["cores"] >= 1
    assert said["machine"]["cpu"]
    assert {"torch", "numpy"} <= set(said["packages"])
    assert said["bundle"] == "/".join(default_bundle().parts[-2:])
    assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize("part", ["detector"])
def test_a_table_has_a_line_a_figure(part):
    figures = [Figure("decode", "ms", (1.0,), cpu=(0.9,)), Figure("merge", "ms", (2.0,))]
    shown = table(part, figures, {"decode": 0.5})
    assert shown.row_count == 2
    assert list(shown.columns[5].cells) == ["2.00", ""]
