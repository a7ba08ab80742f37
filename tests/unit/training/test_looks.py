"""A look changes what it names and nothing else."""

import numpy as np
import torch

from lynceus.detector import Detector, DetectorSpec
from lynceus.frame import Frame
from lynceus.network import Network, NetworkSpec, fold_batch_norms
from lynceus.tiling import TileSpec
from training.scenarios.looks import LOOKS, Look, looking


def detector() -> Detector:
    torch.manual_seed(1)
    spec = NetworkSpec(proposal_score=0.0, detection_score=0.0, candidates=50, widths=(8, 8, 8, 8), pyramid=8)
    network = Network(spec).eval()
    fold_batch_norms(network)
    return Detector(network, DetectorSpec(tile=TileSpec(size=64, overlap=16)))


def test_a_look_that_names_nothing_finds_the_same_and_any_look_leaves_the_bundle_as_it_was():
    frame = Frame(np.random.default_rng(0).normal(100, 5, (96, 96)).astype(np.float32))
    shipped = detector()
    before = shipped.detect(frame)
    assert len(before)
    same = looking(shipped, Look()).detect(frame)
    np.testing.assert_array_equal(same.boxes, before.boxes)
    np.testing.assert_array_equal(same.scores, before.scores)
    for look in LOOKS.values():
        looking(shipped, look).detect(frame)
    after = shipped.detect(frame)
    np.testing.assert_array_equal(after.boxes, before.boxes)


def test_a_wider_suppression_leaves_fewer():
    frame = Frame(np.random.default_rng(0).normal(100, 5, (96, 96)).astype(np.float32))
    counts = [len(looking(detector(), LOOKS[f"detections apart {apart}"]).detect(frame)) for apart in ("0.15", "0.35")]
    assert counts[0] >= counts[1]
