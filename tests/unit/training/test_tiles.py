import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.tiles import crop_truth, turn


def marked(side: int, boxes: list[list[int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A tile that holds i + 1 inside box i."""
    tile = torch.zeros(1, side, side)
    for value, (x_min, y_min, x_max, y_max) in enumerate(boxes, start=1):
        tile[0, y_min:y_max, x_min:x_max] = value
    found = torch.tensor(boxes, dtype=torch.float32)
    return tile, {"boxes": found, "labels": torch.ones(len(boxes), dtype=torch.int64), "ignored": found[:1]}


@given(st.integers(0, 3), st.booleans())
def test_boxes_turn_with_the_tile(quarters, flip):
    tile, target = turn(*marked(32, [[2, 3, 9, 5], [20, 10, 24, 30]]), quarters, flip)
    for value, box in enumerate(target["boxes"].long().tolist(), start=1):
        x_min, y_min, x_max, y_max = box
        inside = tile[0, y_min:y_max, x_min:x_max]
        assert (inside == value).all()
        assert inside.numel() == (tile == value).sum()
    assert torch.equal(target["ignored"], target["boxes"][:1])


def test_truth_of_a_crop():
    boxes = np.array([[10, 10, 20, 20], [-4, 10, 6, 20], [-8, 10, 2, 20], [40, 40, 50, 50], [70, 70, 80, 80]], float)
    ignored = np.array([False, False, False, True, False])
    target = crop_truth(boxes, ignored, crop=64)
    assert target["boxes"].tolist() == [[10, 10, 20, 20], [0, 10, 6, 20]]
    assert target["ignored"].tolist() == [[0, 10, 2, 20], [40, 40, 50, 50]]
    assert target["labels"].tolist() == [1, 1]


def test_an_empty_crop_has_empty_targets():
    target = crop_truth(np.zeros((0, 4)), np.zeros(0, bool), crop=64)
    assert target["boxes"].shape == target["ignored"].shape == (0, 4)
