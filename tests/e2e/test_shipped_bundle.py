"""What must hold for the shipped weights, in process."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.frame import Frame
from lynceus.measure import measure
from model_store import default_bundle
from training.simulate import SceneSpec, draw_scene


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


def test_a_shifted_frame_keeps_its_sources(detector):
    frame, _ = simulated(1)
    dx, dy = 37, 21
    shifted = Frame(np.ascontiguousarray(frame.pixels[dy:, dx:]), quantum=1.0)
    before, after = detector.detect(frame), detector.detect(shifted)
    before = before[before.scores > 0.5]
    x, y = (axis - shift for axis, shift in zip(before.centres, (dx, dy), strict=True))
    inside = (x > 15) & (y > 15) & (x < shifted.shape[1] - 15) & (y < shifted.shape[0] - 15)
    here = np.stack([x, y], axis=1)[inside]
    distance, _ = cKDTree(np.stack(after.centres, axis=1)).query(here)
    assert len(here) > 50
    assert (distance < 2).mean() >= 0.98
    assert np.median(distance) < 0.1


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
