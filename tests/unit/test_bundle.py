import json
import pickle
import shutil
import subprocess
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynceus import durable
from lynceus.bundle import Manifest, Provenance, load_bundle, save_bundle
from lynceus.detector import DetectorSpec
from lynceus.errors import BundleError
from lynceus.frame import Frame
from lynceus.network import Network, NetworkSpec
from lynceus.sums import CARD, MANIFEST, NAME, PICKLED, REPORT, REQUIRED, SUMS, WEIGHTS, format_sums, parse_sums, seal
from lynceus.tiling import TileSpec
from tests.store_kit import cut, flip

SMALL = NetworkSpec(widths=(8, 16, 16, 16), blocks=(1, 1, 1, 1), pyramid=16, head_units=(32,))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = Network(SMALL).eval()
    manifest = Manifest(
        name="tiny",
        version="1",
        network=SMALL,
        detector=DetectorSpec(tile=TileSpec(size=128, overlap=32), min_score=0.3),
        weights_sha256="",
        provenance=Provenance(data_fingerprint="none", seed=0, code_version="test"),
        scores={"ap50": 0.5},
    )
    return network, save_bundle(tmp_path, network, manifest, {"ap50": 0.5}, "# tiny"), tmp_path / "tiny" / "1"


def test_what_was_saved_is_what_is_loaded(saved):
    network, manifest, folder = saved
    bundle = load_bundle(folder)
    assert bundle.manifest == manifest
    assert bundle.detector.spec.min_score == 0.3
    tile = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        before, after = network(tile)[0], bundle.detector.network(tile)[0]
    assert len(before.boxes) == len(after.boxes)
    torch.testing.assert_close(before.scores.sort().values, after.scores.sort().values, atol=0.02, rtol=0)


def test_it_finds_things_in_a_frame(saved):
    frame = Frame(np.random.default_rng(0).normal(100, 3, (200, 150)).astype(np.float32))
    found = load_bundle(saved[2]).detector.detect(frame)
    assert found.boxes.shape[1] == 4


def test_a_version_is_immutable(saved):
    network, manifest, folder = saved
    with pytest.raises(BundleError, match="exists already"):
        save_bundle(folder.parent.parent, network, manifest, {}, "")


@pytest.mark.parametrize("damage", [flip, cut], ids=["a bit flipped", "cut off"])
@pytest.mark.parametrize("name", [*REQUIRED, SUMS])
def test_a_damaged_file_is_refused_and_named(saved, name, damage):
    path = saved[2] / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=rf"tiny/1.*({name}|{SUMS})"):
        load_bundle(saved[2])


@pytest.mark.parametrize("name", [*REQUIRED, SUMS])
def test_a_missing_file_is_named(saved, name):
    (saved[2] / name).unlink()
    with pytest.raises(BundleError, match=f"tiny/1 holds no readable {name}"):
        load_bundle(saved[2])


def change_manifest(folder, change):
    """As somebody would who seals the folder again."""
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    seal(folder)


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"surprise": 1}, {"network": {"body": "vgg"}}, {"detector": {"min_score": 7}}, {"name": "../up"}],
    ids=["format", "unknown key", "network", "detector", "name"],
)
def test_a_manifest_that_is_not_understood_is_refused(saved, change):
    change_manifest(saved[2], change)
    with pytest.raises(BundleError, match=f"tiny/1 is not understood: {next(iter(change))}"):
        load_bundle(saved[2])


def test_weights_of_another_network_are_refused(saved):
    change_manifest(saved[2], {"network": {**SMALL.model_dump(), "pyramid": 32}})
    with pytest.raises(BundleError, match="does not fit the network"):
        load_bundle(saved[2])


def test_weights_that_the_manifest_does_not_name_are_refused(saved):
    change_manifest(saved[2], {"weights_sha256": "0" * 64})
    with pytest.raises(BundleError, match="is not the file that its"):
        load_bundle(saved[2])


def test_weights_that_are_a_pickle_are_refused_even_under_their_own_name(saved):
    (saved[2] / WEIGHTS).write_bytes(pickle.dumps({"weights": 1}))
    change_manifest(saved[2], {"weights_sha256": seal(saved[2])[WEIGHTS]})
    with pytest.raises(BundleError, match="does not fit the network"):
        load_bundle(saved[2])


@pytest.mark.parametrize("ending", sorted(PICKLED))
def test_a_pickle_is_refused_listed_or_not(saved, ending):
    (saved[2] / f"extra{ending.upper()}").write_bytes(pickle.dumps(1))
    with pytest.raises(BundleError, match="never a pickle"):
        load_bundle(saved[2])
    with pytest.raises(BundleError, match="never a pickle"):
        seal(saved[2])


def test_a_file_that_nobody_listed_and_nothing_reads_does_no_harm(saved):
    (saved[2] / "notes.txt").write_text("looked at on Monday")
    assert load_bundle(saved[2]).manifest.name == "tiny"


def test_the_seal_is_that_of_sha256sum(saved):
    checked = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=saved[2], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout.count(": OK")) == (0, 4)
    script = f"sha256sum -b {WEIGHTS} {REPORT} {MANIFEST} {CARD} > {SUMS}"
    subprocess.run(script, shell=True, check=True, cwd=saved[2])
    assert load_bundle(saved[2]).manifest.name == "tiny"


def test_saving_that_dies_leaves_nothing_to_see_and_can_be_repeated(saved, tmp_path, monkeypatch):
    network, manifest, folder = saved
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_rename", lambda *paths: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(OSError, match="the disk is gone"):
            save_bundle(tmp_path, network, manifest, {}, "")
    assert not folder.exists()
    save_bundle(tmp_path, network, manifest, {}, "")
    assert load_bundle(folder).manifest == manifest


def test_of_two_that_save_one_version_one_wins(saved, tmp_path):
    def save(word, meanwhile=lambda: None):
        with durable.new_folder(tmp_path / "new") as folder:
            (folder / "file").write_text(word)
            meanwhile()

    with pytest.raises(FileExistsError):
        save("slower", meanwhile=lambda: save("faster"))
    assert (tmp_path / "new" / "file").read_text() == "faster"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


SUM = st.binary(min_size=32, max_size=32).map(bytes.hex)
FILES = st.dictionaries(st.from_regex(NAME, fullmatch=True), SUM, max_size=6)


def listable(name):
    return name != SUMS and not name.lower().endswith(tuple(PICKLED))


@given(FILES, st.lists(SUM, min_size=4, max_size=4))
def test_sums_survive_being_written(files, required):
    sums = {name: sha for name, sha in files.items() if listable(name)} | dict(zip(REQUIRED, required, strict=True))
    assert parse_sums(format_sums(sums), "x/1") == sums


@given(st.binary(max_size=300) | st.text("0123456789abcdef *\n\\/.w", max_size=300).map(str.encode))
def test_bytes_that_are_no_sums_are_refused_in_words(data):
    with pytest.raises(BundleError, match=f"x/1: {SUMS}"):
        parse_sums(data, "x/1")


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_of_the_sums_goes_unseen(place, change):
    sums = dict.fromkeys(REQUIRED, "0123456789abcdef" * 4)
    data = bytearray(format_sums(sums))
    data[place % len(data)] ^= change
    with suppress(BundleError):
        assert parse_sums(bytes(data), "x/1") != sums or b" *" in data  # a space or an asterisk: text or binary


@pytest.mark.parametrize("name", ["../up", "a/b", "a b", "", "-x", ".hidden", "x" * 65, "a\nb"])
def test_a_file_name_that_could_lead_elsewhere_is_refused(name):
    sums = dict.fromkeys([*REQUIRED, name], "0" * 64)
    with pytest.raises(BundleError, match="damaged"):
        parse_sums(format_sums(sums), "x/1")
