"""What must hold for the shipped weights, in process."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.frame import Frame
from lynceus.measure import measure
from model_store import default_bundle
from training.scenes.simulate import SceneSpec, draw_scene


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_bundle(default_bundle(), workers=2).detector


def simulated(seed: int, **scene: object) -> tuple[Frame, object]:
    spec = SceneSpec(size=600, sources=(100, 100), empty=0, fwhm=(2.5, 3.5), snr=(5, 500), **scene)
    hdu, truth = draw_scene(np.random.default_rng([77, seed]), spec)
    return Frame(np.ascontiguousarray(hdu.data, np.float32), quantum=1.0), truth


def test_the_bundle_is_small_and_verified():
    size = sum(path.stat().st_size for path in default_bundle().iterdir())
    assert size < 20e6
    assert load_bundle(default_bundle()).manifest.scores["ap50"] > 0.5


def found_in(detector: Detector, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Box centres (N, 2), published positions (N, 2) and scores (N,) of everything found."""
    cut = detector.cut(frame)
    found = detector.join(cut, detector.run(cut.all_tiles))
    sources = measure(frame, found, cut.sky, detector.spec.measure)
    return np.stack(found.centres, axis=1), np.stack([sources.x, sources.y], axis=1), found.scores


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shifted_frame_keeps_its_sources(detector, seed):
    frame, _ = simulated(seed)
    shift = np.array([37, 21])  # no multiple of the network's strides
    shifted = Frame(np.ascontiguousarray(frame.pixels[shift[1] :, shift[0] :]), quantum=1.0)
    boxes, places, scores = found_in(detector, frame)
    shifted_boxes, shifted_places, _ = found_in(detector, shifted)
    for before, after, most in ((boxes, shifted_boxes, 0.1), (places, shifted_places, 0.02)):
        here = before[scores >= detector.spec.min_score] - shift  # what is listed
        here = here[((here > 15) & (here < np.array(shifted.shape[::-1]) - 15)).all(axis=1)]
        distance, index = cKDTree(after).query(here)
        assert len(here) > 50
        assert (distance < 2).mean() >= 0.98
        assert np.median(np.abs(after[index] - here), axis=0).max() < most


def test_measured_positions_and_fluxes_are_those_of_the_truth(detector):
    frame, truth = simulated(2, galaxies=(0, 0), trailed=0, clean=1, bright=0)
    cut = detector.cut(frame)
    found = detector.join(cut, detector.run(cut.all_tiles))
    sources = measure(frame, found[found.scores > 0.5], cut.sky, detector.spec.measure)
    bright = truth[truth["snr"] > 50]
    tree = cKDTree(np.stack([sources.x, sources.y], axis=1))
    distance, index = tree.query(np.stack([bright["x"], bright["y"]], axis=1))
    good = distance < 1
    assert good.mean() > 0.9
    assert np.median(distance[good]) < 0.1
    assert np.median(sources.flux[index[good]] / bright["flux"][good]) == pytest.approx(1, abs=0.1)
