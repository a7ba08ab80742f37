"""The spool keeps what it was told, whatever crashes, and is never in the way of a frame."""

import os
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lynceus.arrivals import Sighting
from lynceus.errors import SpoolError
from lynceus.spool import Spool

A, B, C = (Sighting(name, 100, time) for name, time in (("a.fits", 1), ("b.fits", 2), ("c.fits", 3)))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "state") as opened:
        yield opened


def names(folder: Path, name: str = "a") -> Iterator[Path]:
    return (folder / f"{name}.{number}" for number in count())


def test_the_newest_comes_first_and_each_once(spool: Spool) -> None:
    spool.see([B, A, C], 10.0)
    assert [spool.take(10.0).name for _ in range(3)] == ["c.fits", "b.fits", "a.fits"]
    assert spool.take(10.0) is None
    assert spool.waiting() == (3, 10.0)


def test_what_broke_off_comes_last(spool: Spool) -> None:
    spool.see([A, B], 10.0)
    newest = spool.take(10.0)
    spool.put_back(newest, interrupted=True)
    assert [spool.take(10.0).name for _ in range(2)] == ["a.fits", "b.fits"]


def test_nothing_is_due_before_its_time(spool: Spool) -> None:
    spool.see([A], 10.0)
    spool.put_back(spool.take(10.0), retry_at=15.0, failed=True)
    assert spool.due_at() == 15.0
    assert spool.take(14.9) is None
    entry = spool.take(15.0)
    assert (entry.tries, entry.seen_at) == (1, 10.0)
    assert spool.due_at() is None


def test_what_ended_is_known_and_not_sent_again(spool: Spool) -> None:
    spool.see([A, B], 10.0)
    spool.finish(spool.take(10.0), "abc", 11.0)
    spool.bury(spool.take(10.0), "not_fits", 11.0)
    assert spool.counts() == {"done": 1, "dead": 1}
    assert spool.waiting() == (0, None)
    assert spool.knows(A)
    assert spool.knows(B)


def test_a_changed_file_is_a_new_frame(spool: Spool) -> None:
    spool.see([A], 10.0)
    old = spool.take(10.0)
    newer = Sighting("a.fits", 100, 7)
    assert not spool.knows(newer)
    spool.see([newer], 12.0)
    for late in (lambda: spool.finish(old, "abc", 13.0), lambda: spool.bury(old, "x", 13.0), lambda: spool.forget(old)):
        late()
        assert spool.waiting() == (1, 12.0)
    spool.finish(spool.take(13.0), "def", 14.0)
    again = Sighting("a.fits", 100, 8)
    spool.see([again], 15.0)
    assert spool.take(15.0).sha256 == "def"


def test_a_crash_leaves_everything_pending(tmp_path: Path) -> None:
    with Spool(tmp_path) as before:
        before.see([A, B, C], 10.0)
        before.finish(before.take(10.0), "abc", 11.0)
        sending = before.take(10.0)
        result = before.claim(sending, names(tmp_path))
        before.put_back(before.take(10.0), retry_at=1e9)
    with Spool(tmp_path) as after:
        assert after.knows(A)
        assert after.is_result(str(result))
        assert [(entry.name, entry.result) for entry in after.recover()] == [("b.fits", str(result))]
        assert [after.take(20.0).name for _ in range(2)] == ["a.fits", "b.fits"]
        assert after.counts() == {"done": 1, "sending": 2}


def test_a_result_never_takes_the_name_of_another_file(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "a.0").write_text("of a stranger")
    spool.see([A, B], 10.0)
    first, second = spool.take(10.0), spool.take(10.0)
    assert spool.claim(first, names(tmp_path)) == tmp_path / "a.1"
    assert spool.claim(second, names(tmp_path)) == tmp_path / "a.2"
    (tmp_path / "a.1").write_text("the result")
    assert spool.claim(first, names(tmp_path)) == tmp_path / "a.1"
    spool.put_back(first)
    again = spool.take(10.0)
    assert spool.claim(again, names(tmp_path, "other")) == tmp_path / "other.0"
    assert not spool.is_result(str(tmp_path / "a.1"))


def test_what_is_gone_is_forgotten_in_time(spool: Spool) -> None:
    spool.see([A, B, C], 10.0)
    spool.finish(spool.take(10.0), "abc", 20.0)
    spool.finish(spool.take(10.0), "def", 20.0)
    spool.prune({"c.fits"}, before=20.0)
    assert spool.counts() == {"done": 2, "pending": 1}
    spool.prune({"c.fits"}, before=21.0)
    assert spool.counts() == {"done": 1, "pending": 1}
    assert [spool.knows(one) for one in (A, B, C)] == [True, False, True]
    spool.forget(spool.take(30.0))
    assert not spool.knows(A)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.binary(min_size=1, max_size=40).filter(lambda name: not {0, ord("/")} & set(name)))
def test_any_file_name_can_be_kept(tmp_path: Path, name: bytes) -> None:
    sighting = Sighting(os.fsdecode(name), 1, 1)
    with Spool(tmp_path) as spool:
        spool.see([sighting], 1.0)
        spool.claim(spool.take(1.0), [tmp_path / sighting.name], exists=lambda path: False)
    with Spool(tmp_path) as spool:
        assert spool.knows(sighting)
        [entry] = spool.recover()
        assert (entry.sighting, entry.result) == (sighting, str(tmp_path / sighting.name))
        spool.forget(entry)


def test_two_watchers_cannot_share_a_spool(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(SpoolError, match="another watcher"):
        Spool(tmp_path)
    Spool(tmp_path).close()


def test_a_damaged_spool_is_told(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"no database at all" * 500)
    with pytest.raises(SpoolError, match="damaged"):
        Spool(tmp_path)


def test_a_spool_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    Spool(tmp_path).close()
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SpoolError, match="99"):
        Spool(tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file" / "state")


def test_a_full_disk_changes_nothing(spool: Spool) -> None:
    """SQLite's own limit on pages stands for the disk."""
    spool.see([A], 10.0)
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")
    many = [Sighting(f"{number:0200d}.fits", 1, 1) for number in range(1000)]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        spool.see(many, 10.0)
    assert spool.counts() == {"pending": 1}
    assert not spool.knows(many[0])
    spool._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    spool.see(many, 10.0)
    assert spool.counts() == {"pending": 1001}
