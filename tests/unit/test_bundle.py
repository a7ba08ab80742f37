import json

import numpy as np
import pytest
import torch

from lynceus.bundle import MANIFEST, WEIGHTS, Manifest, Provenance, load_bundle, save_bundle
from lynceus.detector import DetectorSpec
from lynceus.errors import BundleError
from lynceus.frame import Frame
from lynceus.network import Network, NetworkSpec
from lynceus.tiling import TileSpec

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


def test_other_weights_are_refused(saved):
    weights = saved[2] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="not those its manifest names"):
        load_bundle(saved[2])


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"surprise": 1}, {"network": {"body": "vgg"}}, {"detector": {"min_score": 7}}],
    ids=["format", "unknown key", "network", "detector"],
)
def test_a_manifest_that_is_not_understood_is_refused(saved, change):
    path = saved[2] / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match="not understood"):
        load_bundle(saved[2])


def test_weights_of_another_network_are_refused(saved):
    path = saved[2] / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["network"]["pyramid"] = 32
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="do not fit"):
        load_bundle(saved[2])


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_missing_file_is_named(saved, name):
    (saved[2] / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(saved[2])


def test_nothing_is_ever_unpickled(saved):
    assert not any(path.suffix in (".pt", ".pkl", ".pth") for path in saved[2].iterdir())
