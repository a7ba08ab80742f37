"""Laws of two passes: a whole replaces its parts and nothing else; what a binned frame's border makes is no source."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.detections import Detections
from lynceus.passes import merge_passes, whole_boxes

SHAPE, OVERLAP = (1000, 1200), 64.0
STARS = [[x, 30, x + 8, 38] for x in range(100, 700, 100)]


def listed(boxes: list[list[float]], scores: list[float] | None = None, label: int = 0) -> Detections:
    given = np.array(boxes, np.float32).reshape(-1, 4)
    order = np.argsort(-np.array(scores or [0.9] * len(given)), kind="stable")
    told = np.array(scores or [0.9] * len(given), np.float32)
    return Detections(given, told, np.full(len(given), label))[order]


def rows(detections: Detections) -> list[list[float]]:
    return sorted(detections.boxes.round(1).tolist())


def joined(fine: Detections, coarse: Detections) -> Detections:
    return merge_passes(fine, coarse, SHAPE, OVERLAP)


WHOLE = [300.0, 300.0, 500.0, 450.0]
NUCLEUS, ARM, STAR, BESIDE = [395, 370, 405, 380], [340, 350, 370, 380], [430, 390, 438, 398], [310, 305, 340, 335]


def test_a_whole_replaces_its_nucleus_and_pieces_and_leaves_stars():
    fine = listed([*STARS, NUCLEUS, ARM, STAR, BESIDE])
    found = joined(fine, listed([WHOLE]))
    assert rows(found) == sorted(np.array([*STARS, WHOLE, STAR, BESIDE], float).tolist())


def test_a_whole_is_as_sure_as_its_parts():
    found = joined(listed([*STARS, NUCLEUS], [0.9] * len(STARS) + [0.97]), listed([WHOLE], [0.6]))
    (score,) = found.scores[(found.boxes[:, 2] - found.boxes[:, 0]) > OVERLAP]
    assert score == np.float32(0.97)
    assert (np.diff(found.scores) <= 0).all()


def test_of_two_equal_boxes_the_surer_stays():
    seen = [305.0, 303.0, 498.0, 446.0]
    assert rows(joined(listed([*STARS, seen], [0.9] * len(STARS) + [0.99]), listed([WHOLE], [0.8]))) == sorted(
        np.array([*STARS, seen], float).tolist()
    )
    assert rows(joined(listed([*STARS, seen], [0.9] * len(STARS) + [0.6]), listed([WHOLE], [0.8]))) == sorted(
        np.array([*STARS, WHOLE], float).tolist()
    )


def test_what_the_coarse_pass_sees_small_unsure_or_off_the_frame_is_not_taken():
    off = [[500.0, 960.0, 580.0, 1040.0], [1180.0, 20.0, 1290.0, 130.0]]  # the binned frame's tile is padded there
    coarse = listed([[50, 50, 100, 100], WHOLE, [306, 300, 506, 455], *off], [0.99, 0.9, 0.8, 0.95, 0.9])
    assert rows(whole_boxes(coarse, SHAPE, OVERLAP)) == [WHOLE]
    assert len(whole_boxes(listed([WHOLE], [0.3]), SHAPE, OVERLAP)) == 0


def test_a_galaxy_at_the_border_ends_there():
    found = joined(listed(STARS), listed([[600.0, 850.0, 800.0, 1004.0]]))
    assert [600.0, 850.0, 800.0, 1000.0] in rows(found)


def test_classes_do_not_replace_each_other():
    fine = listed([*STARS, NUCLEUS, ARM], label=1)
    assert len(joined(fine, listed([WHOLE]))) == len(fine) + 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_nothing_outside_a_large_box_is_touched(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 900, (20, 2))
    fine = listed(np.concatenate([corners, corners + rng.uniform(3, 60, (20, 1))], axis=1).tolist())
    found = joined(fine, listed([WHOLE]))
    x, y = fine.centres
    outside = (x < WHOLE[0]) | (x > WHOLE[2]) | (y < WHOLE[1]) | (y > WHOLE[3])
    kept = rows(found)
    assert all(box in kept for box in fine.boxes[outside].round(1).tolist())
    assert np.array_equal(joined(fine, Detections.empty()).boxes, fine.boxes)
    assert len(joined(Detections.empty(), listed([WHOLE]))) == 1
