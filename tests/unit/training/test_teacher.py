"""A teacher adds what it sees and nobody listed, and touches nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from lynceus.detections import box_about
from lynceus.errors import BundleError
from lynceus.frame import Frame
from lynceus.truth import Truth
from model_store import DEFAULT
from tests.unit.training.tile_kit import FWHM, star_field
from training.tiling.teacher import with_candidates

POSITIONS = np.array([(x + 0.3, y + 0.1) for x in range(30, 280, 60) for y in range(30, 280, 60)])
LISTED = 12
SIDE = 2.5 * FWHM


@pytest.fixture(scope="module")
def frame() -> Frame:
    return Frame(star_field(POSITIONS, (300, 300), 1))


def truth_of(positions: np.ndarray) -> Truth:
    count = len(positions)
    boxes = box_about(*positions.T, np.full(count, SIDE), np.full(count, SIDE))
    return Truth(boxes, np.zeros(count, bool), np.full(count, 20.0), "snr", (), count)


def test_what_is_missing_comes_back_as_ignored(frame):
    truth = with_candidates(truth_of(POSITIONS[:LISTED]), frame, DEFAULT)
    assert not truth.ignored[:LISTED].any()
    assert truth.ignored[LISTED:].all()
    added = np.stack(truth.centres, axis=1)[LISTED:]
    distance = np.linalg.norm(added[:, None] - POSITIONS[LISTED:], axis=2).min(axis=0)
    assert (distance < 1).all()
    assert truth.listed == LISTED


def test_what_is_listed_is_not_added_again_though_it_be_ignored(frame):
    listed = replace(truth_of(POSITIONS), ignored=np.arange(len(POSITIONS)) % 3 == 0)
    truth = with_candidates(listed, frame, DEFAULT)
    added = np.stack(truth.centres, axis=1)[len(POSITIONS) :]  # some noise, and no star a second time
    assert (np.linalg.norm(added[:, None] - POSITIONS, axis=2) > SIDE / 2).all()
    np.testing.assert_array_equal(truth.ignored[: len(POSITIONS)], listed.ignored)


def test_without_a_catalogue_row_all_are_candidates(frame):
    truth = with_candidates(truth_of(np.zeros((0, 2))), frame, DEFAULT)
    assert truth.ignored.all()
    assert len(POSITIONS) <= len(truth) < 2 * len(POSITIONS)


def test_kinds_stay_in_step(frame):
    truth = with_candidates(replace(truth_of(POSITIONS[:LISTED]), kinds=("star",) * LISTED), frame, DEFAULT)
    assert truth.kinds is not None
    assert len(truth.kinds) == len(truth)
    assert set(truth.kinds[LISTED:]) == {""}


def test_a_teacher_that_is_not_there_is_told(frame, tmp_path):
    with pytest.raises(BundleError):
        with_candidates(truth_of(POSITIONS), frame, tmp_path / "nobody")
