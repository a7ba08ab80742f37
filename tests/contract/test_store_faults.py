"""What both kinds of store do when processes die, bytes change and people collide."""

import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Timer

import pytest

from lynceus.errors import BundleError, ConflictError, StoreError
from lynceus.sums import REQUIRED, SUMS
from model_store import Ref, open_store
from tests.store_kit import (
    Holding,
    S3Server,
    client_of,
    cut,
    flip,
    gone,
    losing_answers,
    new_location,
    published,
    rewrite,
    s3_server,
    s3_store,
    write_bundle,
)

TINY = Ref("tiny", "1")
RACERS, ROUNDS = 4, 8
PUSH = """
import sys, time
from pathlib import Path
from lynceus import durable
from model_store import open_store

location, endpoint, folder, stop, number = sys.argv[1:]

def pause(*arguments):
    print("paused", flush=True)
    time.sleep(60)

calls = 0
def progress(name, done, total):
    global calls
    calls += 1
    if stop == "file" and calls == int(number):
        pause()

if stop == "rename":
    durable._rename = pause
store = open_store(location, cache=Path(folder) / "cache", endpoint=endpoint or None, region="us-east-1")
store.push(Path(folder), progress=progress)
print("pushed", flush=True)
"""


@pytest.fixture(scope="module")
def server():
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def location(request, tmp_path, server: S3Server):
    if request.param == "s3":
        return new_location(server)
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")


def opened(location, server, cache):
    """The store as another process would open it."""
    return s3_store(server, location, cache) if location.startswith("s3") else open_store(location)


def spoil(location, server, key, change):
    """Change a file of the store at rest."""
    if location.startswith("s3"):
        rewrite(server, location, key, change)
        return
    path = Path(location) / key
    changed = change(path.read_bytes())
    path.write_bytes(changed) if changed else path.unlink()


def start_push(location, endpoint, folder, stop="", number=0):
    command = [sys.executable, "-c", PUSH, location, endpoint, str(folder), stop, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def nothing_is_there(store):
    assert store.versions() == []
    for ask in (store.fetch, store.verify, store.show):
        with pytest.raises(StoreError, match="the store holds no version tiny/1"):
            ask(TINY)
    with pytest.raises(StoreError, match="the store holds no version tiny/1"):
        store.promote("stable", TINY, by="mary", reason="")


@pytest.mark.parametrize(("stop", "number"), [("file", 1), ("file", 4), ("rename", 0)])
def test_a_push_into_a_folder_killed_anywhere_leaves_nothing_to_see(tmp_path, stop, number):
    (tmp_path / "store").mkdir()
    folder = write_bundle(tmp_path / "new")
    process = start_push(str(tmp_path / "store"), "", folder, stop, number)
    assert process.stdout.readline() == "paused\n"
    kill(process)
    assert list((tmp_path / "store" / ".incoming").iterdir()) != []  # it died in the middle
    store = open_store(str(tmp_path / "store"))
    nothing_is_there(store)
    assert store.push(folder) == TINY
    store.verify(TINY)


@pytest.mark.parametrize("ending", ["manifest.json", "weights.safetensors", SUMS])
def test_a_push_to_s3_killed_between_objects_leaves_nothing_to_see(server, tmp_path, ending):
    location = new_location(server)
    folder = write_bundle(tmp_path / "new")
    server.fault = holding = Holding(f"/{ending}")
    process = start_push(location, server.endpoint, folder)
    assert holding.arrived.wait(20)
    kill(process)
    holding.released.set()
    server.fault = None
    store = s3_store(server, location, tmp_path / "cache")
    nothing_is_there(store)
    done = server.count("PUT", "/card.md")
    assert store.push(folder) == TINY
    assert server.count("PUT", "/card.md") == done  # it was there already
    store.verify(TINY)


@pytest.mark.parametrize("lost", ["weights.safetensors", SUMS])
def test_a_push_whose_answers_are_lost_is_done_all_the_same(server, tmp_path, lost):
    location = new_location(server)
    server.fault = losing_answers(f"/{lost}")
    store = s3_store(server, location, tmp_path / "cache")
    assert store.push(write_bundle(tmp_path / "new")) == TINY
    server.fault = None
    store.verify(TINY)


@pytest.mark.parametrize("name", [*REQUIRED, SUMS])
def test_no_fault_at_rest_goes_unseen(location, server, tmp_path, name):
    store = opened(location, server, tmp_path / "cache")
    published(store, tmp_path, "1")
    track = store.promote("stable", TINY, by="mary", reason="")
    true = (tmp_path / "1" / name).read_bytes()
    for change in (flip, cut, lambda _: b"x", lambda data: data + b"x"):
        spoil(location, server, f"tiny/1/{name}", lambda _, change=change: change(true))
        for ask in (store.fetch, store.verify):
            with pytest.raises((BundleError, StoreError), match=r"tiny/1"):
                ask(track)
            with pytest.raises(BundleError, match=rf"tiny/1.*({name}|{SUMS})"):
                ask(TINY)
    spoil(location, server, f"tiny/1/{name}", gone)
    for ask in (store.fetch, store.verify):
        with pytest.raises((BundleError, StoreError), match=rf"tiny/1.*{name}|no version tiny/1"):
            ask(TINY)


def test_a_version_replaced_behind_the_back_does_not_pass_for_a_track(location, server, tmp_path):
    store = opened(location, server, tmp_path / "cache")
    published(store, tmp_path, "1")
    track = store.promote("stable", TINY, by="mary", reason="")
    other = write_bundle(tmp_path / "other", contents="other")
    for name in (*REQUIRED, SUMS):
        spoil(location, server, f"tiny/1/{name}", lambda _, name=name: (other / name).read_bytes())
    fresh = opened(location, server, tmp_path / "other cache")
    fresh.verify(TINY)
    for ask in (fresh.fetch, fresh.verify):
        with pytest.raises(StoreError, match="was changed after the track was pointed to it"):
            ask(track)


def test_a_track_is_not_rolled_back_to_what_was_replaced(location, server, tmp_path):
    store = opened(location, server, tmp_path / "cache")
    one, two = published(store, tmp_path, "1", "2")
    for ref in (one, two):
        store.promote("stable", ref, by="mary", reason="")
    other = write_bundle(tmp_path / "other", contents="other")
    for name in (*REQUIRED, SUMS):
        spoil(location, server, f"tiny/1/{name}", lambda _, name=name: (other / name).read_bytes())
    with pytest.raises(StoreError, match="not what it was"):
        store.roll_back("stable", by="mary", reason="")
    assert store.tracks()["stable"].ref == two


def test_a_version_with_a_file_missing_is_not_promoted(location, server, tmp_path):
    store = opened(location, server, tmp_path / "cache")
    published(store, tmp_path, "1")
    spoil(location, server, "tiny/1/report.json", gone)
    with pytest.raises(BundleError, match=r"tiny/1.* report\.json"):
        store.promote("stable", TINY, by="mary", reason="")


def race(run):
    """Start RACERS at once; what each came to, an error or not."""
    barrier = Barrier(RACERS)

    def one(number):
        barrier.wait(20)
        try:
            return run(number)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(one, range(RACERS)))


def test_of_those_who_promote_at_once_one_wins_every_time(location, server, tmp_path):
    stores = [opened(location, server, tmp_path / f"cache {number}") for number in range(RACERS)]
    refs = published(stores[0], tmp_path, "1", "2")
    winners = []
    for turn in range(ROUNDS):

        def promote(number, turn=turn):
            how = {"by": f"racer {number}", "reason": f"round {turn}", "expected": turn}
            return stores[number].promote("stable", refs[number % 2], **how)

        results = race(promote)
        (winner,) = [track for track in results if not isinstance(track, ConflictError)]
        losers = [str(error) for error in results if isinstance(error, ConflictError)]
        assert len(losers) == RACERS - 1
        assert all(f"revision {turn + 1}, by {winner.by}): round {turn}" in words for words in losers)
        winners.append(winner.by)
    history = stores[0].tracks()["stable"].history
    assert [step.by for step in history] == winners
    assert [step.reason for step in history] == [f"round {turn}" for turn in range(ROUNDS)]


def test_who_names_no_revision_loses_nobody_elses_step(location, server, tmp_path):
    stores = [opened(location, server, tmp_path / f"cache {number}") for number in range(RACERS)]
    (ref,) = published(stores[0], tmp_path, "1")
    won = Counter()
    for _ in range(ROUNDS):
        results = race(lambda number: stores[number].promote("stable", ref, by=str(number), reason=""))
        won.update(track.by for track in results if not isinstance(track, ConflictError))
    assert won.total() >= ROUNDS
    assert Counter(step.by for step in stores[0].tracks()["stable"].history) == won


def test_processes_exclude_each_other_too(tmp_path):
    (tmp_path / "store").mkdir()
    published(open_store(str(tmp_path / "store")), tmp_path, "1")
    code = (
        "import sys; from model_store import Ref, open_store\n"
        "store = open_store(sys.argv[1])\n"
        "for turn in range(25): store.promote('stable', Ref('tiny', '1'), by=sys.argv[2], reason=str(turn))\n"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store"), by]) for by in "ab"]
    assert [racer.wait(60) for racer in racers] == [0, 0]
    history = open_store(str(tmp_path / "store")).tracks()["stable"].history
    for by in "ab":
        assert [step.reason for step in history if step.by == by] == [str(turn) for turn in range(25)]


def test_of_those_who_push_different_files_at_once_one_wins(location, server, tmp_path):
    stores = [opened(location, server, tmp_path / f"cache {number}") for number in range(RACERS)]
    folders = [write_bundle(tmp_path / str(number), contents=str(number)) for number in range(RACERS)]
    results = race(lambda number: stores[number].push(folders[number]))
    winner = results.index(TINY)
    assert all(isinstance(result, ConflictError) for result in results[:winner] + results[winner + 1 :])
    for store in stores:
        assert (store.fetch(TINY) / SUMS).read_bytes() == (folders[winner] / SUMS).read_bytes()


def test_of_those_who_push_the_same_at_once_all_succeed(location, server, tmp_path):
    stores = [opened(location, server, tmp_path / f"cache {number}") for number in range(RACERS)]
    folder = write_bundle(tmp_path / "new")
    assert race(lambda number: stores[number].push(folder)) == [TINY] * RACERS
    stores[0].verify(TINY)


def test_a_dead_push_is_swept_away_a_day_later(tmp_path):
    left = tmp_path / "store" / ".incoming" / ".1.0123.partial"
    recent = left.with_name(".1.4567.partial")
    for folder in (left, recent):
        folder.mkdir(parents=True)
    subprocess.run(["touch", "-d", "25 hours ago", str(left)], check=True)
    open_store(str(tmp_path / "store")).push(write_bundle(tmp_path / "new"))
    assert (left.exists(), recent.exists()) == (False, True)


def test_what_an_interrupted_push_of_other_files_left_on_s3_is_respected_for_an_hour(server, tmp_path, monkeypatch):
    location = new_location(server)
    store = s3_store(server, location, tmp_path / "cache")
    bucket, prefix = location.removeprefix("s3://").split("/", 1)
    client_of(server).put_object(Bucket=bucket, Key=f"{prefix}/tiny/1/weights.safetensors", Body=b"left")
    folder = write_bundle(tmp_path / "new")
    with pytest.raises(ConflictError, match="another push of tiny/1 with other files"):
        store.push(folder)
    monkeypatch.setattr("model_store.transfer.RECENT_S", -1.0)
    assert store.push(folder) == TINY
    store.verify(TINY)


@pytest.mark.parametrize("change", [flip, cut])
def test_a_damaged_track_is_refused_not_guessed(location, server, tmp_path, change):
    store = opened(location, server, tmp_path / "cache")
    published(store, tmp_path, "1")
    store.promote("stable", TINY, by="mary", reason="")
    spoil(location, server, "tracks/stable.json", lambda data: change(data).replace(b"tiny", b"\xff"))
    for ask in (store.tracks, lambda: store.promote("stable", TINY, by="mary", reason="")):
        with pytest.raises(StoreError, match="the file of the track stable is damaged"):
            ask()


def test_a_full_or_forbidden_disk_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    folder = write_bundle(tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr("lynceus.durable.os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="publishing tiny/1 failed: No space left"):
            store.push(folder)
    nothing_is_there(store)
    assert store.push(folder) == TINY


def test_a_track_that_stays_locked_is_a_conflict(tmp_path, monkeypatch):
    from filelock import FileLock

    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    published(store, tmp_path, "1")
    store.promote("stable", TINY, by="mary", reason="")
    monkeypatch.setattr("model_store.local.LOCK_WAIT_S", 0.2)
    with FileLock(tmp_path / "store" / "tracks" / ".stable.lock"):
        with pytest.raises(ConflictError, match="another process has been changing the track stable"):
            store.promote("stable", TINY, by="ann", reason="")
        assert store.tracks()["stable"].by == "mary"  # reading waits for nobody


def test_a_lock_delays_a_promotion_and_no_more(tmp_path):
    from filelock import FileLock

    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    published(store, tmp_path, "1")
    store.promote("stable", TINY, by="mary", reason="")
    lock = FileLock(tmp_path / "store" / "tracks" / ".stable.lock", thread_local=False)
    lock.acquire()
    Timer(0.3, lock.release).start()
    assert store.promote("stable", TINY, by="ann", reason="").revision == 2
