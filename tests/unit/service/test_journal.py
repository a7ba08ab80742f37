from pathlib import Path

import orjson
import pytest

from service.journal import Journal


def lines(path: Path) -> list[int]:
    return [orjson.loads(line)["number"] for line in path.read_bytes().splitlines()] if path.exists() else []


def test_it_never_grows_past_its_bound_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal"
    journal = Journal(path, 1000)
    for number in range(500):
        journal.write({"number": number})
        assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 1000
    kept = lines(path.with_name("journal.1")) + lines(path)
    assert kept == list(range(kept[0], 500))
    assert len(kept) > 20


def test_it_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    Journal(tmp_path / "journal", 1000).write({"number": 1})
    Journal(tmp_path / "journal", 1000).write({"number": 2})
    assert lines(tmp_path / "journal") == [1, 2]


def test_a_disk_that_is_gone_is_logged_once_and_costs_lines_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    journal = Journal(tmp_path / "file" / "journal", 1000)
    journal.write({"number": 1})
    journal.write({"number": 2})
    assert len(caplog.records) == 1
    (tmp_path / "file").unlink()
    journal.write({"number": 3})
    assert lines(tmp_path / "file" / "journal") == [3]


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    Journal(None, 1000).write({"number": 1})
    assert not list(tmp_path.iterdir())
