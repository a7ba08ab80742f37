"""A report goes to disk whole: JSON that reads back as it was, a page that stands alone and says what JSON says."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lynceus.truth import Truth
from tests.unit.training.test_evaluate import draw, exposure, listed
from training.scoring.card import classes, table
from training.scoring.evaluate import Finder, score_finders
from training.scoring.pooling import evidence_of, pool
from training.scoring.report import Confusion, Report, report_json, rounded, write_report
from training.scoring.report_page import report_page, table_parts

CLASSES = ("star", "galaxy")
VOID = {"meta", "link", "img", "br", "input", "hr", "path", "use"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order, and collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href", "data") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(document):
    reader = Balanced()
    reader.feed(document)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    scenes = [draw(seed) for seed in range(4)]
    find, exposures = listed(scenes)
    fewer = Finder(lambda one: find(one)[::2])
    return score_finders({"detector": Finder(find, 0.3), "sep": fewer}, exposures, worst=2)


@pytest.fixture(scope="module")
def classed() -> Report:
    frames = [draw(seed, kinds=list(CLASSES)) for seed in range(2)]
    evidence = [evidence_of(str(n), *frame, min_score=0.3, classes=CLASSES) for n, frame in enumerate(frames)]
    return pool(evidence, min_score=0.3, classes=CLASSES)


def test_json_holds_every_figure_and_reads_back(reports, tmp_path):
    write_report(reports, tmp_path / "deep" / "out", title="compact 9")
    written = json.loads((tmp_path / "deep" / "out" / "report.json").read_text())
    assert list(written) == ["detector", "sep"]
    for name, report in reports.items():
        back = Report.model_validate(written[name])
        assert back.counts == report.counts
        assert back.map == pytest.approx(report.map, abs=1e-6)
        assert [one.key for one in back.per_frame] == [one.key for one in report.per_frame]
        assert all(not window.picture for window in back.worst)


def test_the_page_stands_alone_and_holds_the_figures(reports, tmp_path):
    path = write_report(reports, tmp_path, title="compact <9>", about="four & more")
    page = read(path.read_text())
    assert all(address.startswith(("data:", "#")) for address in page.loads)
    assert sum(address.startswith("data:image/png") for address in page.loads) == len(reports["detector"].worst) == 2
    text = " ".join(" ".join(page.text).split())
    assert "compact <9>" in text
    assert "four & more" in text
    for report in reports.values():
        assert f"{report.map_50:.3f}" in text
        assert f"{100 * report.by_centre.recall:.1f} %" in text


def test_the_best_of_each_row_is_marked(reports):
    rows = {label: (cells, best) for _, rows in table_parts(list(reports.values())) for label, cells, best in rows}
    for label, name in (("at IoU 0.5", "map_50"), ("mean of IoU 0.5 to 0.95", "map")):
        values = [getattr(report, name) for report in reports.values()]
        assert rows[label][1] == {n for n, value in enumerate(values) if value == max(values)}
    distance = [report.median_centroid_offset for report in reports.values()]
    assert rows["distance, px"][1] == {n for n, value in enumerate(distance) if value == min(distance)}
    (alone,) = [rows for title, rows in table_parts([reports["sep"]]) if title == "average precision"]
    assert all(not best for _, _, best in alone)


def test_a_confusion_matrix_is_drawn_with_all_its_counts(classed):
    document = report_page({"detector": classed})
    page = read(document)
    label = re.search(r'aria-label="(Confusion matrix[^"]*)"', document).group(1)
    names = [*CLASSES, "no source"], [*CLASSES, "missed"]
    for (row, column), amount in np.ndenumerate(np.array(classed.confusion.counts)):
        assert f"{names[0][row]} called {names[1][column]}: {amount}" in label
    assert "called what they are" in " ".join(page.text)
    told = classes(classed)
    for name, row in zip(names[0], classed.confusion.counts, strict=True):
        assert f"| {name} | {' | '.join(map(str, row))} |" in told


def test_accuracy_is_of_the_detected_sources_alone():
    confusion = Confusion(classes=CLASSES, counts=((6, 2, 50), (0, 4, 50), (9, 9, 0)))
    assert confusion.accuracy == pytest.approx(10 / 12)
    assert Confusion(classes=CLASSES, counts=((0, 0, 5), (0, 0, 5), (1, 1, 0))).accuracy is None


def test_a_report_of_nothing_is_still_a_page():
    none = Truth(np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0), "none", ("the catalogue was odd",), 0)
    find, _ = listed([draw(1)])
    report = score_finders({"a": Finder(lambda _: find(exposure(none, "0"))[:0])}, [exposure(none)])["a"]
    page = read(report_page({"a": report}))
    assert "the catalogue was odd (a)" in " ".join(page.text)
    assert "–" in " ".join(page.text)


def test_rounding_reaches_every_depth():
    assert rounded({"a": [1.23456789, {"b": (0.1234567,)}], "c": None, "d": 3}, 3) == {
        "a": [1.235, {"b": [0.123]}], "c": None, "d": 3,
    }  # fmt: skip


def test_the_markdown_table_has_a_column_for_each_and_no_row_of_nothing(reports):
    lines = table(reports).splitlines()
    assert all(line.count("|") == len(reports) + 2 for line in lines)
    assert len(lines) == len(set(lines))
    for one in reports["detector"].completeness[:-1]:
        named = any(line.startswith(f"| completeness, SNR {one.low:g}-{one.high:g} |") for line in lines)
        assert named == (one.count > 0)
    assert not any(set(line.split("|")[2:-1]) == {" – "} for line in lines)
    assert set(report_json(reports)) == set(reports)
