"""What a coarse pass is said to give: wholes found, pieces and false large boxes counted once each."""

import numpy as np

from lynceus.detections import Detections
from lynceus.frame import Frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from training.scenarios.listings import place_of
from training.scenarios.passes import PassFigures, figures_of, passes_table
from training.tiling.exposures import LabelledExposure

GALAXY, STAR = [100.0, 100.0, 220.0, 200.0], [300.0, 300.0, 308.0, 308.0]


def exposure() -> LabelledExposure:
    boxes = np.array([GALAXY, STAR])
    centres = (boxes[:, :2] + boxes[:, 2:]).T / 2 - 0.5
    truth = Truth(boxes, np.zeros(2, bool), np.array([80.0, 30.0]), "snr", (), 2, (centres[0], centres[1]), None)
    frame = Frame(np.random.default_rng(0).normal(100, 2, (400, 400)).astype(np.float32))
    return LabelledExposure("one", frame, estimate_sky(frame, SkySpec()), truth)


def figures(boxes: list[list[float]]) -> PassFigures:
    one = exposure()
    found = Detections(
        np.array(boxes, np.float32),
        np.linspace(0.9, 0.8, len(boxes)).astype(np.float32),
        np.zeros(len(boxes), np.int64),
    )
    return figures_of(found, one, place_of(one))


def test_a_whole_is_found_and_its_pieces_are_not():
    told = figures([GALAXY, STAR])
    assert (told.large, told.found, told.pieces, told.false_large) == (1, 1, 0, 0)
    assert (told.mean_iou, told.f1) == (1.0, 1.0)
    pieces = figures([[110, 110, 130, 130], [190, 170, 205, 185], STAR])
    assert (pieces.found, pieces.pieces, pieces.right, pieces.wrong) == (0, 2, 1, 2)


def test_a_large_box_of_nothing_is_counted():
    assert figures([GALAXY, STAR, [260, 20, 380, 140]]).false_large == 1


def test_frames_add_up_and_a_table_says_so():
    total = figures([GALAXY, STAR]) + figures([STAR])
    assert (total.large, total.found, total.sources) == (2, 1, 4)
    assert "| some | 2 | 0 > 1 |" in passes_table({"some": (PassFigures(large=2), total)})
