from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import nn

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.frame import read_frame
from lynceus.onednn import OneDNNConv2d, OneDNNLinear, use_onednn
from lynceus.precision import chosen_dtype, lowered
from model_store import default_bundle
from tests.fakes import fits_bytes
from training.scenes.simulate import SceneSpec, draw_scene


def scene(seed: int, sources: float) -> bytes:
    spec = SceneSpec(size=512, sources=(sources, sources), empty=0, fwhm=(2.5, 3.5), snr=(4, 500))
    return fits_bytes(draw_scene(np.random.default_rng(seed), spec)[0].data)


def plain(detector: Detector) -> Detector:
    """The same detector with torch's own layers."""
    for module in detector.network.modules():
        if isinstance(module, OneDNNConv2d | OneDNNLinear):
            module.__class__ = type(module).__base__
    return detector


@pytest.mark.parametrize("sources", [60, 700])
def test_serving_layers_find_what_torchs_own_find(sources):
    frame = read_frame(scene(sources, sources))
    detector = load_bundle(default_bundle()).detector
    found = detector.detect(frame)
    expected = plain(detector).detect(frame)
    distance, nearest = cKDTree(found.boxes).query(expected.boxes)
    assert len(found) == len(expected) == len(set(nearest)) >= sources / 2
    assert distance.max() < 0.01
    np.testing.assert_allclose(found.scores[nearest], expected.scores, atol=1e-3)


def test_bfloat16_finds_the_same_sure_sources():
    frame = read_frame(scene(1, 100))
    expected, found = (
        load_bundle(default_bundle(), precision=one).detector.detect(frame) for one in ("float32", "bfloat16")
    )
    sure = expected[expected.scores > 0.9].boxes
    nearest = np.abs(sure[:, None] - found[found.scores > 0.5].boxes).max(axis=2).min(axis=1)
    assert len(sure) > 30
    assert np.mean(nearest < 1) > 0.98
    assert not np.array_equal(expected.scores[:10], found.scores[:10])


def test_a_tile_of_large_objects_is_looked_at_in_float32():
    frame = read_frame(scene(2, 60))
    whole, lower = (load_bundle(default_bundle(), precision=one).detector for one in ("float32", "bfloat16"))
    [tile] = whole.cut(frame).tiles
    large = replace(tile, least_side=0.01)
    expected = whole.infer([tile])[0].detections.scores
    assert np.array_equal(lower.infer([large])[0].detections.scores, expected)
    assert not np.array_equal(lower.infer([tile])[0].detections.scores, expected)


def test_only_what_onednn_is_better_at_is_turned():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)).eval()
    tile = torch.randn(1, 3, 3, 3)
    with torch.inference_mode():
        before = network(tile)
        use_onednn(network)
        after = network(tile)
    assert [type(module) for module in network] == [OneDNNConv2d, nn.Conv2d, nn.Flatten, OneDNNLinear]
    torch.testing.assert_close(after, before)


def test_float32_is_no_other_arithmetic():
    device = torch.device("cpu")
    product = torch.randn(8, 8)
    with lowered(device, chosen_dtype("float32", device)):
        assert (product @ product).dtype == torch.float32
    with lowered(device, chosen_dtype("bfloat16", device)):
        assert (product @ product).dtype == torch.bfloat16
    assert chosen_dtype("auto", device) in (torch.float32, torch.bfloat16)
