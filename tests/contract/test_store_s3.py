"""What a store on S3 does about the line, the server and its cache."""

import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from lynceus.errors import BundleError, ConflictError, StoreAwayError, StoreError
from lynceus.sums import MANIFEST, SUMS, WEIGHTS, sha256_of
from model_store import Ref, open_store
from tests.store_kit import (
    WEIGHT_BYTES,
    breaking_off,
    client_of,
    deaf_to_conditions,
    flip,
    losing_answers,
    new_location,
    published,
    refusing,
    rewrite,
    s3_server,
    s3_store,
    write_bundle,
)

TINY = Ref("tiny", "1")
MARY = {"by": "mary", "reason": "better"}


@pytest.fixture(scope="module")
def running():
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running):
    yield running
    running.fault = None


@pytest.fixture
def location(server):
    return new_location(server)


@pytest.fixture
def store(server, location, tmp_path):
    """With one version that is not in the cache."""
    store = s3_store(server, location, tmp_path / "cache")
    published(store, tmp_path / "new", "1")
    server.requests.clear()
    return store


# The line


def test_a_broken_download_goes_on_where_it_stopped(store, server, tmp_path):
    server.fault = breaking_off(WEIGHTS, after=100_000, times=2)
    told = []
    folder = store.fetch(TINY, progress=lambda name, done, total: told.append(done) if name == WEIGHTS else None)
    assert sha256_of(folder / WEIGHTS) == sha256_of(tmp_path / "new" / "1" / WEIGHTS)
    assert server.count("GET", WEIGHTS) == 3
    assert told == sorted(told)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (tmp_path / "new" / "1").iterdir()
    )


def test_another_process_goes_on_too(store, server, location, tmp_path):
    server.fault = breaking_off(WEIGHTS, after=0, times=99)
    with pytest.raises(StoreAwayError):
        store.fetch(TINY)
    server.fault = breaking_off(WEIGHTS, after=200_000, times=1)
    heads = server.count("HEAD", WEIGHTS)
    part = next((tmp_path / "cache").rglob(f"{WEIGHTS}.*.part"))
    part.write_bytes((tmp_path / "new" / "1" / WEIGHTS).read_bytes()[:90_000])
    told = []
    fresh = s3_store(server, location, tmp_path / "cache")
    fresh.fetch(TINY, progress=lambda name, done, total: told.append(done) if name == WEIGHTS else None)
    assert told[0] > 90_000
    assert told[-1] == WEIGHT_BYTES
    assert server.count("HEAD", WEIGHTS) == heads + 2
    assert list((tmp_path / "cache").rglob("*.part")) == []


@pytest.mark.parametrize("left", [b"x" * 50_000, b"x" * 400_000, b"x" * WEIGHT_BYTES], ids=["short", "long", "whole"])
def test_what_was_left_damaged_is_fetched_anew(store, server, tmp_path, left):
    server.fault = breaking_off(WEIGHTS, after=0, times=99)
    with pytest.raises(StoreAwayError):
        store.fetch(TINY)
    server.fault = None
    next((tmp_path / "cache").rglob(f"{WEIGHTS}.*.part")).write_bytes(left)
    assert sha256_of(store.fetch(TINY) / WEIGHTS) == sha256_of(tmp_path / "new" / "1" / WEIGHTS)


def test_a_download_killed_in_the_middle_is_continued(store, server, location, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from model_store import Ref, open_store\n"
        "store = open_store(sys.argv[1], cache=Path(sys.argv[2]), endpoint=sys.argv[3], region='us-east-1')\n"
        "def die(name, done, total):\n"
        "    if name == 'weights.safetensors': os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.fetch(Ref('tiny', '1'), progress=die)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, location, str(tmp_path / "cache"), server.endpoint], timeout=60)
    assert died.returncode == -9
    assert store.versions() == [TINY]
    cards = server.count("GET", "card.md")
    assert store.fetch(TINY).is_dir()
    assert server.count("GET", "card.md") == cards + 1  # files that were complete are small or resumed at their end
    assert store.fetch(TINY).is_dir()


def test_an_object_replaced_while_it_is_read_is_not_mixed(store, server, location):
    replaced = []

    def replace(environ, start, answer):
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(WEIGHTS) and not replaced:
            replaced.append(True)
            rewrite(server, location, f"tiny/1/{WEIGHTS}", flip)
        return answer(environ, start)

    server.fault = replace
    with pytest.raises(StoreError, match="was replaced while it was read"):
        store.fetch(TINY)


def test_a_promotion_whose_answer_is_lost_counts_once(store, server):
    server.fault = losing_answers("tracks/stable.json")
    assert store.promote("stable", TINY, **MARY).revision == 1
    server.fault = losing_answers("tracks/stable.json")
    assert store.promote("stable", TINY, **MARY).revision == 2
    assert len(store.tracks()["stable"].history) == 2


# The server


def test_a_server_that_ignores_conditions_is_found_out(server, location, tmp_path):
    server.fault = deaf_to_conditions
    store = s3_store(server, location, tmp_path / "cache")
    with pytest.raises(StoreError, match="ignores the conditions of a write"):
        store.push(write_bundle(tmp_path / "new"))
    assert store.versions() == []


def test_a_track_on_such_a_server_stays_as_it_is(store, server, location, tmp_path):
    before = store.promote("stable", TINY, **MARY)
    published(store, tmp_path, "2")
    server.fault = deaf_to_conditions
    fresh = s3_store(server, location, tmp_path / "cache")
    for change in (
        lambda: fresh.promote("stable", Ref("tiny", "2"), **MARY),
        lambda: fresh.promote("canary", Ref("tiny", "2"), **MARY),
    ):
        with pytest.raises(StoreError, match="ignores the conditions of a write"):
            change()
    assert fresh.tracks()["stable"] == before


def test_conditions_are_tried_once_a_process(store, server):
    store.promote("stable", TINY, **MARY)
    writes = server.count("PUT", "stable.json")
    store.promote("stable", TINY, **MARY)
    assert server.count("PUT", "stable.json") == writes + 1


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        ("403 Forbidden", "AccessDenied", StoreError, "refuses access"),
        ("403 Forbidden", "InvalidAccessKeyId", StoreError, "refuses access"),
        ("503 Slow Down", "SlowDown", StoreAwayError, "cannot answer now"),
        ("500 Internal Server Error", "InternalError", StoreAwayError, "cannot answer now"),
        ("501 Not Implemented", "NotImplemented", StoreError, "does not understand"),
        ("404 Not Found", "NoSuchBucket", StoreError, "there is no bucket"),
        ("418 Teapot", "Teapot", StoreError, "refuses a request"),
    ],
)
def test_a_refusal_is_told_without_credentials(store, server, tmp_path, status, code, kind, words):
    server.fault = refusing(status, code)
    calls = [store.versions, store.tracks, lambda: store.fetch(TINY), lambda: store.verify(TINY)]
    calls += [lambda: store.promote("stable", TINY, **MARY), lambda: store.push(tmp_path / "new" / "1")]
    for call in calls:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert type(caught.value) is kind
        assert not any(secret in str(caught.value) for secret in ("AKIATESTKEY", "testsecret", server.endpoint))


def test_a_reader_that_may_not_write_is_told_so(store, server):
    server.fault = refusing("403 Forbidden", "AccessDenied", method="PUT")
    with pytest.raises(StoreError, match="refuses access"):
        store.promote("stable", TINY, **MARY)
    assert store.fetch(TINY).is_dir()


def test_missing_credentials_are_told(server, location, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="there are no credentials for s3://"):
        s3_store(server, location, tmp_path / "cache").versions()


def test_an_endpoint_that_is_no_address_is_told(tmp_path):
    with pytest.raises(StoreError, match="the endpoint or the region"):
        open_store("s3://bucket/prefix", cache=tmp_path, endpoint="user:secret@minio")


@pytest.mark.parametrize("prefix", ["", "/", "/a/b/"])
def test_any_prefix_will_do(server, tmp_path, prefix):
    bucket = new_location(server).rsplit("/some", 1)[0]
    store = s3_store(server, f"{bucket}{prefix}", tmp_path / "cache")
    published(store, tmp_path, "1")
    store.promote("stable", TINY, **MARY)
    assert (store.versions(), list(store.tracks())) == ([TINY], ["stable"])


def test_the_region_and_path_style_reach_the_server(store, server, location):
    store.versions()
    assert server.requests[-1][1].startswith(f"/{location.removeprefix('s3://').split('/')[0]}")


def test_what_does_not_belong_to_the_store_is_left_alone(store, server, location):
    bucket, prefix = location.removeprefix("s3://").split("/", 1)
    strange = (f"x/{SUMS}", f"a/b/c/{SUMS}", f".x/1/{SUMS}", "tracks/notes.txt", "tracks/old/stable.json", "readme")
    for key in strange:
        client_of(server).put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"x")
    assert (store.versions(), store.tracks()) == ([TINY], {})


def test_a_listing_of_many_pages(store, server, tmp_path):
    published(store, tmp_path, "2", "3")

    def two_a_page(environ, start, answer):
        environ["QUERY_STRING"] += "&max-keys=2"
        return answer(environ, start)

    server.fault = two_a_page
    server.requests.clear()
    assert [ref.version for ref in store.versions()] == ["1", "2", "3"]
    assert len(server.requests) == 8  # 15 objects


def test_a_terminal_sees_bars_and_a_pipe_does_not(store, server, location, tmp_path):
    seen = {}
    for where in ("terminal", "pipe"):
        mine, theirs = pty.openpty() if where == "terminal" else os.pipe()
        options = ["--store", location, "--endpoint", server.endpoint, "--region", "us-east-1"]
        command = [sys.executable, "-m", "model_store", *options, "--cache", str(tmp_path / where), "pull", "tiny/1"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60)
        os.close(theirs)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / where / 'tiny' / '1'}\n")
        seen[where] = read_all(mine)
    assert b"weights.safetensors" in seen["terminal"]
    assert seen["pipe"] == b""


def read_all(handle: int) -> bytes:
    """What was written to a terminal or a pipe that nobody has open any more."""
    found = b""
    with suppress(OSError), open(handle, "rb", buffering=0) as file:
        while block := file.read(4096):
            found += block
    return found


# The cache


def test_a_cached_version_needs_no_server(store, server, location, tmp_path, caplog):
    track = store.promote("stable", TINY, **MARY)
    canary = store.promote("canary", TINY, **MARY)
    assert not store.stale
    folder = store.fetch(store.tracks()["stable"])
    server.stop()
    try:
        for one in (store, s3_store(server, location, tmp_path / "cache")):
            one.tracks()
            assert one.tracks() == {"canary": canary, "stable": track}
            assert one.stale
            assert one.fetch(track) == one.fetch(TINY) == folder
            assert one.show(TINY).name == "tiny"
            for change in (
                lambda one=one: one.promote("stable", TINY, **MARY),
                lambda one=one: one.roll_back("stable", **MARY),
                lambda one=one: one.push(tmp_path / "new" / "1"),
                one.versions,
            ):
                with pytest.raises(StoreAwayError, match="cannot be reached now"):
                    change()
    finally:
        server.start()
    assert store.tracks()["stable"] == track
    assert not store.stale
    assert caplog.text.count("the tracks are those seen last") == 2  # once a store


def test_without_a_cache_an_absent_server_is_told(store, server, location, tmp_path):
    store.promote("stable", TINY, **MARY)
    server.stop()
    try:
        cold = s3_store(server, location, tmp_path / "cold")
        for ask in (cold.tracks, lambda: cold.fetch(TINY), lambda: cold.show(TINY), lambda: cold.verify(TINY)):
            with pytest.raises(StoreAwayError, match="cannot be reached now"):
                ask()
    finally:
        server.start()


def test_a_track_that_is_gone_is_forgotten(store, server, location, tmp_path):
    store.promote("stable", TINY, **MARY)
    store.promote("canary", TINY, **MARY)
    assert set(store.tracks()) == {"stable", "canary"}
    rewrite(server, location, "tracks/canary.json", lambda _: b"")
    assert set(store.tracks()) == {"stable"}
    assert [path.name for path in (tmp_path / "cache" / "tracks").iterdir()] == ["stable.json"]


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST, SUMS, "report.json", "card.md"])
def test_a_damaged_cache_is_noticed_and_mended(store, server, tmp_path, name):
    folder = store.fetch(TINY)
    path = folder / name
    path.write_bytes(flip(path.read_bytes()))
    assert store.fetch(TINY) == folder
    assert path.read_bytes() == (tmp_path / "new" / "1" / name).read_bytes()
    requests = len(server.requests)
    store.fetch(TINY)
    assert len(server.requests) == requests


def test_a_cached_version_that_a_track_does_not_mean_is_fetched_anew(store, server, location, tmp_path):
    track = store.promote("stable", TINY, **MARY)
    other = write_bundle(tmp_path / "cache" / "tiny" / "1", contents="other")
    assert store.fetch(TINY) == other
    assert sha256_of(store.fetch(track) / SUMS) == track.sha256


def test_those_who_share_a_cache_download_once(store, server, location, tmp_path):
    stores = [s3_store(server, location, tmp_path / "cache") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda one: one.fetch(TINY), stores))
    assert folders == {tmp_path / "cache" / "tiny" / "1"}
    assert server.count("GET", WEIGHTS) == 1


def test_a_cache_that_cannot_be_written_is_told(store, tmp_path, caplog):
    store.promote("stable", TINY, **MARY)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="writing the cache failed"):
        store.fetch(TINY)
    assert store.tracks()["stable"].ref == TINY  # the tracks are known, they just cannot be kept
    assert "cannot be kept in the cache" in caplog.text


def test_verifying_keeps_nothing(store, tmp_path):
    store.verify(TINY)
    assert not (tmp_path / "cache").exists()


def test_showing_checks_the_manifest(store, server, location):
    rewrite(server, location, f"tiny/1/{MANIFEST}", lambda data: data.replace(b'"seed": 1', b'"seed": 2'))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        store.show(TINY)


def test_files_that_arrived_are_not_sent_again(server, location, tmp_path):
    store = s3_store(server, location, tmp_path / "cache")
    folder = write_bundle(tmp_path / "new")
    server.fault = refusing("503 Slow Down", "SlowDown", method="PUT")
    with pytest.raises(StoreAwayError):
        store.push(folder)
    server.fault = None

    def stop(name, done, total):
        if name == WEIGHTS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.push(folder, progress=stop)
    server.requests.clear()
    assert store.push(folder) == TINY
    assert (server.count("PUT", "card.md"), server.count("PUT", WEIGHTS)) == (0, 1)


def test_a_push_that_was_overtaken_at_the_last_moment_is_a_conflict(server, location, tmp_path):
    faster = s3_store(server, location, tmp_path / "cache")
    slower = s3_store(server, location, tmp_path / "cache")
    folder = write_bundle(tmp_path / "new")
    other = Path(write_bundle(tmp_path / "other", contents="other"))

    def overtake(environ, start, answer):
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(SUMS):
            server.fault = None
            bucket, prefix = location.removeprefix("s3://").split("/", 1)
            client_of(server).put_object(Bucket=bucket, Key=f"{prefix}/tiny/1/{SUMS}", Body=(other / SUMS).read_bytes())
        return answer(environ, start)

    server.fault = overtake
    with pytest.raises(ConflictError, match="is there already with other files"):
        slower.push(folder)
    assert faster.versions() == [TINY]
