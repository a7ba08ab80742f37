"""Laws of every store, of refs and tracks, and of the commands."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lynceus.bundle import read_manifest
from lynceus.errors import BundleError, ConflictError, LynceusError, StoreError
from lynceus.sums import MANIFEST, NAME, REQUIRED, SUMS, WEIGHTS, seal, sha256_of
from model_store import BUNDLES, Ref, Track, default_bundle, open_store
from model_store.__main__ import app
from model_store.opening import default_cache
from model_store.tracks import check_revision, read_track, step_on, write_track
from tests.store_kit import S3Server, new_location, published, s3_server, s3_store, write_bundle

DOCS = Path(__file__).parents[2] / "docs" / "model-store.md"
MARY = {"by": "mary", "reason": "better"}


@pytest.fixture(scope="module")
def server():
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def location(request, tmp_path, server: S3Server):
    """Of an empty store, and how to open it."""
    if request.param == "s3":
        return new_location(server)
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")


@pytest.fixture
def store(location, tmp_path, server):
    return s3_store(server, location, tmp_path / "cache") if location.startswith("s3") else open_store(location)


# Versions


def test_an_empty_store_lists_nothing(store):
    assert (store.versions(), store.tracks(), store.stale) == ([], {}, False)


def test_what_was_pushed_is_what_is_fetched(store, tmp_path):
    folder = write_bundle(tmp_path / "new")
    ref = store.push(folder)
    assert (ref, store.versions()) == (Ref("tiny", "1"), [Ref("tiny", "1")])
    fetched = store.fetch(ref)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert store.show(ref) == read_manifest(folder)
    store.verify(ref)


def test_pushing_the_same_again_changes_nothing(store, tmp_path):
    folder = write_bundle(tmp_path / "new")
    assert store.push(folder) == store.push(folder)
    (folder / SUMS).write_text("".join(reversed((folder / SUMS).read_text().splitlines(keepends=True))))
    assert store.push(folder) == Ref("tiny", "1")


def test_a_version_cannot_be_replaced(store, tmp_path):
    ref = store.push(write_bundle(tmp_path / "new"))
    with pytest.raises(ConflictError, match="tiny/1 is there already with other files"):
        store.push(write_bundle(tmp_path / "other", contents="two"))
    assert sha256_of(store.fetch(ref) / WEIGHTS) == sha256_of(tmp_path / "new" / WEIGHTS)


def test_the_newest_version_comes_last(store, tmp_path):
    published(store, tmp_path, "1.10", "1.9", "1.9rc1")
    store.push(write_bundle(tmp_path / "other", name="another"))
    assert [str(ref) for ref in store.versions()] == ["another/1", "tiny/1.9rc1", "tiny/1.9", "tiny/1.10"]


def test_progress_ends_at_the_whole_of_every_file(store, tmp_path):
    told = {}
    folder = write_bundle(tmp_path / "new")

    def progress(name, done, total):
        assert 0 <= done <= total == (folder / name).stat().st_size
        told[name] = done

    ref = store.push(folder, progress=progress)
    assert told.keys() >= set(REQUIRED)
    assert told == {name: (folder / name).stat().st_size for name in told}
    told.clear()
    store.fetch(ref, progress=progress)
    assert told == {name: (folder / name).stat().st_size for name in told}


def spoilt(folder, how):
    if how == "pickle":
        (folder / "weights.pt").write_bytes(b"")
    elif how == "unlisted":
        (folder / "notes.txt").write_text("")
    elif how == "unsealed":
        (folder / SUMS).unlink()
    elif how == "damaged":
        (folder / WEIGHTS).write_bytes(b"")
    elif how == "no JSON":
        (folder / MANIFEST).write_text("{")
        seal(folder)
    elif how == "other weights":
        (folder / WEIGHTS).write_bytes(b"other")
        seal(folder)
    elif how == "no name":
        (folder / MANIFEST).write_text("{}")
        seal(folder)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickle", "holds weights.pt: only safetensors"),
        ("unlisted", "notes.txt is not listed"),
        ("unsealed", "holds no readable SHA256SUMS"),
        ("damaged", "weights.safetensors is damaged"),
        ("no JSON", "manifest.json is not JSON"),
        ("other weights", "not the file that its manifest.json names"),
        ("no name", "manifest.json of None/None|that of None/None"),
    ],
)
def test_a_folder_that_nobody_should_load_is_not_published(store, tmp_path, how, words):
    folder = write_bundle(tmp_path / "new")
    spoilt(folder, how)
    with pytest.raises(BundleError, match=words):
        store.push(folder, ref=Ref("None", "None") if how == "no name" else None)
    assert store.versions() == []


def test_a_folder_is_published_as_what_its_manifest_says_or_not_at_all(store, tmp_path):
    folder = write_bundle(tmp_path / "new")
    with pytest.raises(BundleError, match="of tiny/2 is that of tiny/1"):
        store.push(folder, ref=Ref("tiny", "2"))
    assert store.push(folder, ref=Ref("tiny", "1")) == Ref("tiny", "1")


def test_what_is_not_there_is_said(store, tmp_path):
    nothing = Ref("no", "1")
    for ask in (store.show, store.fetch, store.verify):
        with pytest.raises(StoreError, match="the store holds no version no/1"):
            ask(nothing)
    with pytest.raises(StoreError, match="the store holds no version no/1"):
        store.promote("stable", nothing, **MARY)
    with pytest.raises(StoreError, match="the store holds no track stable"):
        store.roll_back("stable", **MARY)
    with pytest.raises(StoreError, match="there is no folder nowhere"):
        store.push(tmp_path / "nowhere")


# Tracks


def test_a_track_points_where_it_was_pointed(store, tmp_path):
    one, two = published(store, tmp_path, "1", "2")
    first = store.promote("stable", one, **MARY)
    canary = store.promote("canary", two, by="ann", reason="")
    second = store.promote("stable", two, by="ann", reason="bolder\nthan before")
    assert store.tracks() == {"canary": canary, "stable": second}
    assert (second.ref, second.revision, second.by, second.reason) == (two, 2, "ann", "bolder than before")
    assert second.history[:1] == first.history
    assert store.fetch(second).name == "2"
    assert second.sha256 == sha256_of(store.fetch(two) / SUMS)
    store.verify(second)


def test_a_version_cannot_be_a_track(store, tmp_path):
    (one,) = published(store, tmp_path, "1")
    for name in ("tracks", "../x", "a/b", "", ".x"):
        with pytest.raises(StoreError, match="cannot be the name of a track"):
            store.promote(name, one, **MARY)
        with pytest.raises(StoreError, match="cannot be the name of a track"):
            store.roll_back(name, **MARY)


def test_who_comes_second_learns_who_was_first(store, tmp_path):
    one, two = published(store, tmp_path, "1", "2")
    seen = store.promote("stable", one, expected=0, **MARY).revision
    store.promote("stable", two, expected=seen, by="ann", reason="night run")
    with pytest.raises(ConflictError, match=r"stable points to tiny/2 .*revision 2, by ann\): night run"):
        store.promote("stable", one, expected=seen, **MARY)
    with pytest.raises(ConflictError, match="there is no track canary"):
        store.promote("canary", one, expected=3, **MARY)
    assert store.tracks()["stable"].revision == 2


def test_going_back_goes_on_going_back(store, tmp_path):
    one, two, three = published(store, tmp_path, "1", "2", "3")
    for ref in (one, two, two, three):
        store.promote("stable", ref, **MARY)
    assert store.roll_back("stable", by="ann", reason="ghosts").ref == two
    assert store.roll_back("stable", by="ann", reason="ghosts").ref == one
    with pytest.raises(StoreError, match="pointed to nothing before tiny/1"):
        store.roll_back("stable", by="ann", reason="ghosts")
    steps = store.tracks()["stable"].history
    assert [step.ref.version for step in steps] == ["1", "2", "2", "3", "2", "1"]
    assert [step.revision for step in steps] == [1, 2, 3, 4, 5, 6]


def test_a_track_stands_for_contents(store, tmp_path):
    (one,) = published(store, tmp_path, "1")
    true = store.promote("stable", one, **MARY)
    data = write_track(true).replace(true.sha256.encode(), b"0" * 64)
    for check in (store.fetch, store.verify):
        with pytest.raises(StoreError, match="tiny/1 was changed after the track was pointed to it"):
            check(read_track("stable", data))


# Refs and tracks without a store

NAMES = st.from_regex(NAME, fullmatch=True).filter(lambda name: name != "tracks")
REFS = st.builds(Ref, NAMES, NAMES)


@given(REFS)
def test_a_ref_survives_being_written(ref):
    assert Ref.parse(str(ref)) == ref


@given(st.text() | st.from_regex(r"[./a~\\-]*/[./a\n-]*"))
def test_a_text_is_a_ref_or_is_refused_in_words(text):
    if all(NAME.fullmatch(part) and part != "tracks" for part in text.split("/")) and text.count("/") == 1:
        assert str(Ref.parse(text)) == text
    else:
        with pytest.raises(StoreError, match=r"write it as name/version|use letters"):
            Ref.parse(text)


@pytest.mark.parametrize(
    "text", ["../x", "a/..", "a/b/c", "tracks/1", "a/tracks", "-a/1", "a/.1", "a/", "/1", "a/1\n", f"a/{'1' * 65}", "a"]
)
def test_no_path_passes_for_a_ref(text):
    with pytest.raises(StoreError):
        Ref.parse(text)


def test_versions_are_ordered_as_people_count():
    order = "0.9 1.0.dev1 1.0a1 1.0a2 1.0b1 1.0-rc1 1.0rc2 1.0 1.0+local 1.0.post1 1.0.1 1.2 1.10 2 2026-11-21 10000"
    refs = [Ref("x", version) for version in order.split()]
    for seed in range(20):
        assert sorted(random.Random(seed).sample(refs, len(refs))) == refs


@given(REFS, REFS, REFS)
def test_any_two_refs_have_an_order(a, b, c):
    assert (a < b) + (b < a) + (a == b) == 1
    assert not (a < b and b < c) or a < c


@given(st.lists(st.tuples(REFS, st.integers(0, 3), st.text(), st.text()), min_size=1, max_size=5))
def test_a_track_survives_being_written(steps):
    track = None
    for ref, contents, by, reason in steps:
        track = step_on("stable", track, ref, str(contents) * 64, by, reason)
    assert read_track("stable", write_track(track)) == track
    assert [step.ref for step in track.history] == [step[0] for step in steps]
    assert len(f"{track} {track.reason}".splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ref": "../up"}, "name/version|cannot be the name"),
        ({"ref": "tiny/2"}, "not where it points"),
        ({"revision": 2}, "not where it points"),
        ({"history": []}, "not where it points"),
        ({"sha256": "x"}, "damaged"),
        ({"surprise": 1}, "damaged"),
        ({"name": "canary"}, "that of 'canary'"),
    ],
)
def test_a_damaged_track_is_refused(change, words):
    data = json.loads(write_track(step_on("stable", None, Ref("tiny", "1"), "0" * 64, "mary", "")))
    with pytest.raises(StoreError, match=words):
        read_track("stable", json.dumps(data | change).encode())
    with pytest.raises(StoreError, match="damaged"):
        read_track("stable", b"{")


def test_a_history_with_gaps_is_refused():
    track = step_on("stable", None, Ref("tiny", "1"), "0" * 64, "mary", "")
    data = json.loads(write_track(step_on("stable", track, Ref("tiny", "2"), "1" * 64, "mary", "")))
    data["history"] = data["history"][1:]
    with pytest.raises(StoreError, match="gaps"):
        read_track("stable", json.dumps(data).encode())


@given(st.none() | st.integers(0, 3), st.integers(0, 3))
def test_a_revision_is_checked_only_if_one_is_given(expected, revision):
    track: Track | None = None
    for number in range(revision):
        track = step_on("stable", track, Ref("tiny", str(number)), "0" * 64, "mary", "")
    if expected in (None, revision):
        check_revision("stable", track, expected)
    else:
        with pytest.raises(ConflictError):
            check_revision("stable", track, expected)


# Places


def test_the_shipped_store_serves_the_shipped_version():
    store = open_store(str(BUNDLES))
    assert store.fetch(store.tracks()["stable"]) == default_bundle()
    assert Ref("compact", "0.1.0") in store.versions()
    subprocess.run(["sha256sum", "-c", "--strict", "--quiet", SUMS], cwd=default_bundle(), check=True)


def test_reading_a_store_writes_nothing_into_it(tmp_path):
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    (one,) = published(store, tmp_path, "1")
    store.promote("stable", one, **MARY)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    store.versions(), store.show(one), store.verify(one), store.fetch(store.tracks()["stable"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


@pytest.mark.parametrize("location", ["http://example.org/x", "gs://bucket"])
def test_only_folders_and_s3_are_stores(location):
    with pytest.raises(StoreError, match="a folder or s3://bucket/prefix"):
        open_store(location)


def test_a_folder_that_is_not_there_is_no_empty_store(tmp_path):
    store = open_store(str(tmp_path / "none"))
    for ask in (store.versions, store.tracks, lambda: store.roll_back("stable", **MARY)):
        with pytest.raises(StoreError, match="there is no store at"):
            ask()


def test_every_store_has_a_cache_of_its_own():
    caches = [default_cache("s3://a"), default_cache("s3://b"), default_cache("s3://a", "https://minio")]
    assert len(set(caches)) == 3
    assert default_cache("s3://a/") == caches[0]


def test_opening_a_folder_imports_neither_torch_nor_boto3(tmp_path):
    (tmp_path / "store").mkdir()
    published(open_store(str(tmp_path / "store")), tmp_path, "1")
    code = (
        "import sys, model_store\n"
        f"store = model_store.open_store({str(tmp_path / 'store')!r})\n"
        "store.verify(store.versions()[0]), store.tracks(), store.push(store.fetch(store.versions()[0]))\n"
        "import model_store.__main__\n"
        "assert not {'torch', 'boto3'} & set(sys.modules)\n"
        "import model_store.s3\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Commands


@pytest.fixture
def run(location, tmp_path, server):
    def run(*arguments, status=0):
        environment = {
            "LYNCEUS_STORE": location,
            "LYNCEUS_CACHE": str(tmp_path / "cache"),
            "LYNCEUS_S3_ENDPOINT": server.endpoint,
            "LYNCEUS_S3_REGION": "us-east-1",
        }
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
        assert result.exit_code == status, result.output
        return result

    return run


def test_a_working_day(run, tmp_path):
    for version in ("1", "2"):
        assert run("push", write_bundle(tmp_path / version, version, contents=version)).stdout == f"tiny/{version}\n"
    assert "revision 1, by mary" in run("promote", "stable", "tiny/1", "--by", "mary", "--reason", "first").stdout
    assert "stable points to tiny/2" in run("promote", "stable", "tiny/2", "--expected", "1").stdout
    assert run("list").stdout == "tiny/1\ntiny/2  stable\n"
    assert run("show", "stable").stdout.startswith("version        tiny/2\nclasses        source\n")
    assert (Path(run("pull", "stable").stdout.strip()) / MANIFEST).is_file()
    assert run("verify").stdout == "tiny/1: ok\ntiny/2: ok\nstable: ok\n"
    assert "stable points to tiny/1" in run("rollback", "stable").stdout
    assert run("tracks").stdout.startswith("stable  3  tiny/1  20")
    assert [line.split()[1] for line in run("history", "stable").stdout.splitlines()] == ["tiny/1", "tiny/2", "tiny/1"]


def test_programs_get_json(run, tmp_path):
    run("push", write_bundle(tmp_path / "new"))
    run("promote", "stable", "tiny/1", "--by", "mary", "--reason", "first")
    assert json.loads(run("list", "--json").stdout) == [{"name": "tiny", "version": "1", "tracks": ["stable"]}]
    assert json.loads(run("show", "tiny/1", "--json").stdout)["provenance"]["code_version"] == "0.1.0"
    step = json.loads(run("tracks", "--json").stdout)["stable"]
    assert (step["ref"], step["revision"], step["by"], step["reason"]) == ("tiny/1", 1, "mary", "first")
    assert json.loads(run("history", "stable", "--json").stdout) == [step]


def test_an_error_is_one_line_and_a_status(run, tmp_path):
    folder = write_bundle(tmp_path / "new")
    run("push", folder)
    run("promote", "stable", "tiny/1")
    for arguments, status in [
        (("pull", "nope"), 1),
        (("show", "tiny/7"), 1),
        (("promote", "stable", "no slash"), 1),
        (("push", tmp_path), 1),
        (("rollback", "stable"), 1),
        (("promote", "stable", "tiny/1", "--expected", "7"), 3),
        (("push", write_bundle(tmp_path / "other", contents="two")), 3),
    ]:
        result = run(*arguments, status=status)
        assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
        assert result.stderr.startswith("error: ")


def test_the_user_is_named_where_nobody_else_is(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "night-shift")
    run("push", write_bundle(tmp_path / "new"))
    assert "by night-shift" in run("promote", "stable", "tiny/1").stdout


def test_verify_goes_on_after_a_fault(tmp_path):
    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    for ref in published(store, tmp_path, "1", "2"):
        last = ref
    (store.fetch(Ref("tiny", "1")) / WEIGHTS).write_bytes(b"")
    result = CliRunner().invoke(app, ["--store", str(tmp_path / "store"), "verify"])
    assert (result.exit_code, result.stdout) == (1, f"{last}: ok\n")
    assert result.stderr == "error: tiny/1: weights.safetensors is damaged, its sha256 is not the one in SHA256SUMS\n"


def test_a_version_that_no_reader_understands_is_not_pushed(run, tmp_path):
    folder = write_bundle(tmp_path / "new")
    (folder / MANIFEST).write_text(json.dumps(json.loads((folder / MANIFEST).read_text()) | {"format": 2}))
    seal(folder)
    assert "not understood" in run("push", folder, status=1).stderr
    assert run("list").stdout == ""


def test_every_command_and_option_is_in_the_docs():
    import typer

    text = DOCS.read_text()
    group = typer.main.get_command(app)
    assert len(group.commands) == 9
    for name, command in group.commands.items():
        assert f"python -m model_store {name}" in text, name
        for parameter in command.params:
            assert all(option in text for option in parameter.opts if option.startswith("--")), (name, parameter.opts)
    for parameter in group.params:
        assert all(f"`{name}`" in text for name in (*parameter.opts, parameter.envvar) if name), parameter.opts


def test_errors_of_stores_are_errors_of_the_project():
    assert issubclass(ConflictError, StoreError)
    assert issubclass(StoreError, LynceusError)
