"""The watcher's steps with a clock, a client and a service of our own; the last tests let it run."""

import asyncio
import errno
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lynceus import call, watch
from lynceus.durable import write_whole
from lynceus.errors import RefusedError, ServiceError, UnavailableError
from lynceus.spool import Spool
from lynceus.tally import BUCKETS, MAX_CODES, Tally, metrics_server
from lynceus.trouble import LONGEST_RETRY_AFTER
from lynceus.watch import Watcher
from lynceus.watched import Watched
from tests.fakes import fits_bytes, star_field

FRAME = fits_bytes(star_field((10, 10), []))
GIVE_UP, SETTLE = 100.0, 1.0
REFUSED = RefusedError("no frame in it", status=422, code="unusable_frame")
FAILED = ServiceError("the network failed", status=500, code="detection_failed")
FULL = UnavailableError("the queue is full", status=503, code="overloaded")
AWAY = UnavailableError("the service cannot be reached", code="unreachable")
BROKE = UnavailableError("the service did not answer", code="interrupted")


class FakeService:
    """Answers what it is told to, a frame's bytes where it is told nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.errors: dict[str, list[ServiceError]] = {}
        self.meanwhile: Callable[[Path], None] = lambda frame: None

    async def detect_as(self, frame: Path, format: str, **query: Any) -> bytes:
        self.asked.append(frame.name)
        data = frame.read_bytes()
        self.meanwhile(frame)
        if errors := self.errors.get(frame.name) or self.errors.get("*"):
            raise errors.pop(0)
        return b"sources in " + data[-9:]


class Bench:
    """A watcher whose time and service are in our hands."""

    def __init__(self, folder: Path, spool: Spool, **options: Any) -> None:
        self.folder, self.spool = folder, spool
        self.now = 1e9
        self.service, self.tally = FakeService(), Tally()
        self.waits: list[float] = []
        watched = Watched(folder, settle=SETTLE, give_up=GIVE_UP, **options)
        self.watcher = Watcher(
            watched, self.service, spool, self.tally, clock=lambda: self.now, sleep=self.sleep,
            metrics_file=folder / "metrics.prom",
        )  # fmt: skip

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def put(self, name: str, data: bytes = FRAME, mtime: float | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime or self.now,) * 2)
        return path

    def look(self) -> None:
        """Look twice, so that what is there is at rest."""
        asyncio.run(self.watcher.look())
        self.now += SETTLE
        asyncio.run(self.watcher.look())

    def step(self, after: float = 0.0) -> bool:
        """Try the next frame; false if none is due."""
        self.now += after
        entry = self.watcher.take()
        if entry is not None:
            asyncio.run(self.watcher.attempt(entry))
        return entry is not None

    def files(self) -> set[str]:
        every = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix() for path in every if ".lynceus/" not in str(path)}

    def reason(self, name: str) -> dict[str, Any]:
        letter: dict[str, Any] = json.loads((self.folder / "dead-letters" / f"{name}.reason.json").read_text())
        return letter


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are the longest that backoff may choose."""
    monkeypatch.setattr(call.random, "uniform", lambda low, high: high)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / ".lynceus") as opened:
        yield opened


@pytest.fixture
def bench(tmp_path: Path, spool: Spool) -> Bench:
    return Bench(tmp_path, spool)


def test_a_frame_at_rest_is_sent_once(bench: Bench) -> None:
    bench.put("a.fits", FRAME + b"of a.fits")
    asyncio.run(bench.watcher.look())
    assert not bench.step()
    bench.look()
    assert bench.step()
    bench.look()
    assert not bench.step()
    assert bench.service.asked == ["a.fits"]
    assert (bench.folder / "a.vot").read_bytes() == b"sources in of a.fits"
    assert bench.files() == {"a.fits", "a.vot"}
    assert bench.tally.done == 1


def test_an_unfinished_frame_waits_for_its_rest(bench: Bench) -> None:
    bench.put("a.fits", FRAME[:3000])
    bench.look()
    assert bench.step()
    assert not bench.step(after=GIVE_UP / 2)
    bench.put("a.fits", FRAME)
    bench.look()
    assert bench.step()
    assert bench.service.asked == ["a.fits"]
    assert bench.files() == {"a.fits", "a.vot"}


def test_a_frame_that_stays_unfinished_is_given_up(bench: Bench) -> None:
    bench.put("a.fits", FRAME[:3000])
    bench.look()
    assert bench.step()
    assert bench.step(after=GIVE_UP)
    assert bench.service.asked == []
    assert bench.reason("a.fits")["code"] == "incomplete"
    assert bench.reason("a.fits")["reason"] == "the file ends in the middle of the data of HDU 0"
    assert bench.tally.dead == {"incomplete": 1}


def test_a_refused_frame_is_a_dead_letter_at_once(bench: Bench) -> None:
    path = bench.put("night/a.fits")
    bench = Bench(bench.folder, bench.spool, recursive=True)
    bench.service.errors = {"a.fits": [REFUSED]}
    bench.look()
    assert bench.step()
    letter = bench.reason("night/a.fits")
    assert letter.pop("time").startswith("2001-09-09T01:46:4")
    assert letter == {
        "frame": str(path), "reason": "no frame in it", "code": "unusable_frame", "status": 422, "tries": 1,
    }  # fmt: skip
    assert not bench.step(after=1e6)
    assert path.exists()


def test_a_repaired_frame_is_sent_again_and_its_reason_goes(bench: Bench) -> None:
    bench.put("a.fits")
    bench.service.errors = {"a.fits": [REFUSED]}
    bench.look()
    bench.step()
    bench.put("a.fits", FRAME + FRAME)
    bench.look()
    bench.step()
    assert bench.files() == {"a.fits", "a.vot"}


def test_a_dead_frame_can_be_moved_away_and_back(tmp_path: Path, spool: Spool) -> None:
    bench = Bench(tmp_path, spool, move=True, recursive=True)
    path = bench.put("night/a.fits")
    bench.service.errors = {"a.fits": [REFUSED]}
    bench.look()
    bench.step()
    assert bench.files() == {"dead-letters/night/a.fits", "dead-letters/night/a.fits.reason.json"}
    bench.look()
    assert not bench.step()
    (tmp_path / "dead-letters" / "night" / "a.fits").rename(path)
    bench.look()
    assert bench.step()
    assert bench.files() == {"night/a.fits", "night/a.vot"}


def test_a_failing_frame_is_given_up_after_its_tries(bench: Bench) -> None:
    bench.put("bad.fits")
    bench.service.errors = {"bad.fits": [FAILED] * 9}
    bench.look()
    assert bench.step()
    assert not bench.step()
    while not (bench.folder / "dead-letters").exists():
        bench.step(after=30.0)
    assert bench.service.asked == ["bad.fits"] * 5
    assert bench.reason("bad.fits")["tries"] == 5
    assert bench.tally.retries == {"detection_failed": 4}


def test_a_failing_frame_is_not_in_the_way_of_others(bench: Bench) -> None:
    bench.put("bad.fits", mtime=2e9)
    bench.put("good.fits")
    bench.service.errors = {"bad.fits": [FAILED] * 9}
    bench.look()
    bench.step()
    assert bench.step()
    assert bench.service.asked == ["bad.fits", "good.fits"]


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        AWAY,
        BROKE,
        UnavailableError("502", status=502),
        *(RefusedError("", status=one) for one in (401, 403, 404)),
    ],
)
def test_a_service_that_cannot_be_used_is_waited_for(bench: Bench, error: ServiceError) -> None:
    for number in range(3):
        bench.put(f"{number}.fits", mtime=1e9 + number)
    bench.service.errors = {"*": [error] * 40}
    bench.look()
    for _ in range(40):
        assert bench.step()
        assert not bench.step()  # one frame's trouble is everybody's
        bench.now += call.LONGEST_PAUSE
    assert bench.tally.dead == {}
    bench.service.errors, bench.service.asked = {}, []
    while bench.step():
        pass
    assert sorted(bench.service.asked) == ["0.fits", "1.fits", "2.fits"]
    assert bench.spool.waiting() == (0, None)


def test_after_an_outage_the_newest_comes_first(bench: Bench) -> None:
    for name, mtime in (("old.fits", 1e9 - 9), ("newest.fits", 1e9), ("new.fits", 1e9 - 5)):
        bench.put(name, mtime=mtime)
    bench.service.errors = {"*": [AWAY] * 5}
    bench.look()
    for _ in range(5):
        assert bench.step(after=60.0)
    bench.service.asked = []
    while bench.step(after=60.0):
        pass
    assert bench.service.asked == ["newest.fits", "new.fits", "old.fits"]


def test_a_frame_that_breaks_the_service_comes_last(bench: Bench) -> None:
    bench.put("poison.fits", mtime=2e9)
    bench.put("good.fits")
    bench.service.errors = {"poison.fits": [BROKE] * 50}
    bench.look()
    for _ in range(4):
        bench.step(after=60.0)
    assert bench.service.asked == ["poison.fits", "good.fits", "poison.fits", "poison.fits"]


def test_the_service_says_when_to_come_back(bench: Bench) -> None:
    bench.put("a.fits")
    asked = [UnavailableError("full", status=503, retry_after=seconds) for seconds in (20.0, 1e9)]
    bench.service.errors = {"*": asked}
    bench.look()
    assert bench.step()
    assert not bench.step(after=20.0)
    assert bench.step(after=call.BASE_PAUSE)
    assert bench.step(after=LONGEST_RETRY_AFTER + 1.0)  # nobody is left alone for ever
    assert bench.tally.done == 1


def test_a_deadline_counts_against_its_frame(bench: Bench) -> None:
    bench.put("large.fits")
    late = UnavailableError("no answer in time", status=504, code="deadline_exceeded")
    bench.service.errors = {"large.fits": [late] * 9}
    bench.look()
    for _ in range(5):
        bench.step(after=60.0)
    assert bench.reason("large.fits")["status"] == 504


def test_a_frame_that_changes_while_it_is_sent_is_sent_again(bench: Bench) -> None:
    path = bench.put("a.fits", FRAME + b"first try")
    bench.service.meanwhile = lambda frame: bench.put("a.fits", FRAME + b"more data")
    bench.look()
    assert bench.step()
    assert bench.files() == {"a.fits"}
    bench.service.meanwhile = lambda frame: None
    assert path.exists()
    bench.look()
    assert bench.step()
    assert (bench.folder / "a.vot").read_bytes() == b"sources in more data"


def test_a_frame_that_goes_away_is_forgotten(bench: Bench) -> None:
    path = bench.put("a.fits")
    bench.look()
    path.unlink()
    assert bench.step()
    assert not bench.step(after=1e6)
    assert bench.spool.counts() == {}


def test_a_frame_that_goes_away_once_it_was_read_has_its_result(bench: Bench) -> None:
    bench.put("a.fits")
    bench.service.meanwhile = Path.unlink
    bench.look()
    bench.step()
    assert bench.files() == {"a.vot"}


def test_a_frame_that_cannot_be_read_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    bench.put("a.fits")
    bench.look()
    monkeypatch.setattr(watch, "lacks", fail)
    for _ in range(5):
        bench.step(after=60.0)
    assert bench.reason("a.fits")["reason"] == "the file cannot be read: Permission denied"


def test_a_touched_frame_is_not_sent_again_but_its_lost_result_is(bench: Bench) -> None:
    bench.put("a.fits")
    bench.look()
    bench.step()
    bench.put("a.fits", mtime=1.5e9)
    bench.look()
    assert bench.step()
    assert bench.service.asked == ["a.fits"]
    (bench.folder / "a.vot").unlink()
    bench.put("a.fits", mtime=1.6e9)
    bench.look()
    assert bench.step()
    assert bench.service.asked == ["a.fits"] * 2
    assert bench.files() == {"a.fits", "a.vot"}


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "No space left"), sqlite3.OperationalError("disk is full")])
@pytest.mark.parametrize("refused", [False, True])
def test_a_full_disk_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: Exception, refused: bool
) -> None:
    failures = [full] * 20

    def write(path: Path, data: bytes) -> None:
        if failures:
            raise failures.pop()
        write_whole(path, data)

    monkeypatch.setattr(watch, "write_whole", write)
    bench.put("a.fits")
    bench.service.errors = {"a.fits": [REFUSED]} if refused else {}
    bench.look()
    assert bench.step()
    assert bench.service.asked == ["a.fits"]  # the answer was kept
    assert bench.files() == {"a.fits", "dead-letters/a.fits.reason.json" if refused else "a.vot"}
    assert bench.waits[:3] == [0.5, 1.0, 2.0]
    assert max(bench.waits) == call.LONGEST_PAUSE
    told = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(told) == 2  # when it began and when it was over
    assert bench.spool.waiting() == (0, None)


def test_a_full_disk_under_the_spool_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    bench.put("a.fits")
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool, "see", fail)
        bench.look()
        assert not bench.step()
    bench.look()
    bench.now += 60
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool, "take", fail)
        assert not bench.step()
    assert bench.step(after=60)
    assert bench.tally.done == 1


def test_a_folder_that_goes_away_is_waited_for(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.put("a.fits")
    bench.look()
    gone = bench.folder.rename(bench.folder.with_name("elsewhere"))
    bench.look()
    assert "cannot be read" in caplog.text
    gone.rename(bench.folder)
    bench.look()
    assert bench.step()
    assert bench.tally.done == 1


def test_a_crash_leaves_no_half_written_file(bench: Bench) -> None:
    bench.put("a[1].fits")
    bench.look()
    entry = bench.watcher.take()
    result = bench.spool.claim(entry, bench.watcher.watched.results(entry.name))
    halves = [
        result.with_name(f".{result.name}.0123.partial"),
        bench.folder / "dead-letters/.a[1].fits.reason.json.9.partial",
    ]
    for half in halves:
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(b"half")
    stranger = bench.put(".other.vot.0123.partial", b"not ours")
    asyncio.run(
        real(bench.folder, bench.spool, lambda request: httpx.Response(200, content=b"sources"), once=True).run()
    )
    assert bench.files() == {"a[1].fits", "a[1].vot", stranger.name, "metrics.prom"}


def test_results_do_not_collide_and_are_no_frames(tmp_path: Path, spool: Spool) -> None:
    bench = Bench(tmp_path, spool, patterns=("*",))
    for name in ("a.fits", "a.fits.gz", "a"):
        bench.put(name)
    bench.put("a.vot", b"somebody's")
    for _ in range(3):
        bench.look()
        while bench.step():
            pass
    assert bench.files() == {"a.fits", "a.fits.gz", "a", "a.vot"} | {
        "a.fits.vot", "a.fits.gz.vot", "a.2.vot", "a.vot.vot",
    }  # fmt: skip
    assert (tmp_path / "a.vot").read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    ("name", "format", "result"),
    [
        ("a.fits", "votable", "a.vot"),
        ("A.FIT.gz", "json", "A.json"),
        ("night/a.b.fits.fz", "ldac", "night/a.b.cat"),
        ("a.fits", "fits", "a.sources.fits"),
        ("a.raw", "csv", "a.raw.csv"),
    ],
)
def test_what_results_are_called(tmp_path: Path, name: str, format: str, result: str) -> None:
    assert next(Watched(tmp_path, format=format).results(name)) == tmp_path / result
    assert next(Watched(tmp_path, tmp_path / "out", format=format).results(name)) == tmp_path / "out" / result


def test_results_keep_their_folders_below_out(tmp_path: Path, spool: Spool) -> None:
    bench = Bench(tmp_path, spool, out=tmp_path / "out", recursive=True, format="fits", patterns=("*",))
    bench.put("night/a.fits")
    for _ in range(2):
        bench.look()
        while bench.step():
            pass
    assert bench.files() == {"night/a.fits", "out/night/a.sources.fits"}


def real(folder: Path, spool: Spool, answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> Watcher:
    """A watcher in real time, with the real client, whose network is a function."""
    from lynceus.client import AsyncClient

    client = AsyncClient("http://test", retries=0, transport=httpx.MockTransport(answer))
    watched = Watched(folder, settle=0.05, **options)
    return Watcher(watched, client, spool, Tally(), metrics_file=folder / "metrics.prom")


def test_it_ends_by_itself_when_all_is_done(tmp_path: Path, spool: Spool) -> None:
    for number in range(20):
        (tmp_path / f"{number}.fits").write_bytes(FRAME)
    watcher = real(tmp_path, spool, lambda request: httpx.Response(200, content=b"sources"), once=True)
    asyncio.run(watcher.run())
    assert len(list(tmp_path.glob("*.vot"))) == 20
    assert "lynceus_watch_frames_done_total 20\n" in (tmp_path / "metrics.prom").read_text()


@pytest.mark.parametrize("poll", [None, 0.2])
def test_a_new_frame_wakes_it(tmp_path: Path, spool: Spool, poll: float | None) -> None:
    async def scenario() -> None:
        watcher = real(tmp_path, spool, lambda request: httpx.Response(200, content=b"sources"), poll=poll)
        running = asyncio.create_task(watcher.run())
        async with asyncio.timeout(5):  # half of the time between two looks at a folder that reports
            await asyncio.sleep(0.5)
            (tmp_path / "a.fits").write_bytes(FRAME)
            while not (tmp_path / "a.vot").exists():
                await asyncio.sleep(0.02)
            watcher.stop()
            await running

    asyncio.run(scenario())


@pytest.mark.parametrize(("grace", "arrives"), [(5.0, True), (0.05, False)])
def test_what_is_in_flight_has_its_grace(tmp_path: Path, spool: Spool, grace: float, arrives: bool) -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        class Slow(FakeService):
            async def detect_as(self, frame: Path, format: str, **query: Any) -> bytes:
                asked.set()
                await asyncio.sleep(0.5)
                return b"sources"

        watcher = Watcher(Watched(tmp_path, settle=0.05, grace=grace), Slow(), spool, Tally())
        running = asyncio.create_task(watcher.run())
        async with asyncio.timeout(5):
            await asked.wait()
            watcher.stop()
            await running

    (tmp_path / "a.fits").write_bytes(FRAME)
    asyncio.run(scenario())
    assert (tmp_path / "a.vot").exists() == arrives
    assert [entry.name for entry in spool.recover()] == ([] if arrives else ["a.fits"])


def test_a_mistake_in_the_program_ends_it_and_loses_nothing(tmp_path: Path, spool: Spool) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    (tmp_path / "a.fits").write_bytes(FRAME)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(real(tmp_path, spool, fail).run())
    assert [entry.name for entry in spool.recover()] == ["a.fits"]


def test_the_metrics_are_what_prometheus_reads() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    tally = Tally()
    for seconds in (0.1, 3.0, 1e6):
        tally.finished(seconds, 50.0)
    tally.waiting, tally.oldest = 2, 40.0
    for number in range(MAX_CODES + 5):
        tally.count(tally.dead, f'code "{number}"\n\\')
    families = {family.name: family for family in parser.text_string_to_metric_families(tally.text(100.0))}
    values = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert values["lynceus_watch_frames_done_total"] == 3
    assert values["lynceus_watch_oldest_pending_seconds"] == 60
    assert values["lynceus_watch_last_success_timestamp_seconds"] == 50
    assert values["lynceus_watch_frame_seconds_sum"] == pytest.approx(1000003.1)
    buckets = [one.value for one in families["lynceus_watch_frame_seconds"].samples if one.name.endswith("bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-2], buckets[-1]) == (1, 2, 3)
    assert len(buckets) == len(BUCKETS) + 1
    dead = families["lynceus_watch_frames_dead"].samples
    assert len(dead) == MAX_CODES + 1
    assert sum(one.value for one in dead) == MAX_CODES + 5
    assert {one.value for one in dead if one.labels["code"] == "other"} == {5}


def test_the_metrics_can_be_scraped() -> None:
    with metrics_server(lambda: "figures\n", 0) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").text == "figures\n"
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404


def test_metrics_that_cannot_be_written_stop_nothing(tmp_path: Path, spool: Spool) -> None:
    (tmp_path / "a.fits").write_bytes(FRAME)
    watcher = real(tmp_path, spool, lambda request: httpx.Response(200, content=b"sources"), once=True)
    watcher._metrics_file = tmp_path / "a.fits" / "metrics.prom"
    asyncio.run(watcher.run())
    assert (tmp_path / "a.vot").exists()
