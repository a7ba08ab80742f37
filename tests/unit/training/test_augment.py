"""Tiles are varied and their boxes with them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lynceus.normalise import NormaliseSpec
from training.fitting.augment import AugmentSpec, Target, augment, crop_truth, disturb, rotate_and_zoom, turn

SIDE = 128
STRETCH = NormaliseSpec()


def marked(side: int, boxes: list[list[int]]) -> tuple[Tensor, Target]:
    """A tile that holds i + 1 inside box i, where the first box is hidden too."""
    tile = torch.zeros(1, side, side)
    for value, (x_min, y_min, x_max, y_max) in enumerate(boxes, start=1):
        tile[0, y_min:y_max, x_min:x_max] = value
    found = torch.tensor(boxes, dtype=torch.float32)
    labels = torch.arange(1, len(boxes) + 1)
    return tile, {"boxes": found, "labels": labels, "ignored": found[:1], "hidden": tile[0] == 1}


def star_field(sigmas: list[tuple[float, float]], seed: int = 1) -> tuple[Tensor, Target]:
    """Counts (1, T, T) of Gaussians on a ring around the tile's centre, and their boxes of 2.5 FWHM."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5  # edge coordinates of the pixel centres
    counts = np.zeros((SIDE, SIDE))
    boxes = []
    for number, (wide, high) in enumerate(sigmas):
        angle = 2 * math.pi * number / len(sigmas)
        x, y = SIDE / 2 + 30 * np.array([math.cos(angle), math.sin(angle)]) + rng.uniform(-3, 3, 2)
        counts += 1000 * np.exp(-(((columns - x) / wide) ** 2) / 2 - ((rows - y) / high) ** 2 / 2)
        half = 2.5 * 2.3548 / 2 * np.array([wide, high])
        boxes.append([x - half[0], y - half[1], x + half[0], y + half[1]])
    target = {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32),
        "labels": torch.arange(1, len(sigmas) + 1),
        "ignored": torch.zeros(0, 4),
    }
    return torch.from_numpy(counts[None]).float(), target


def moments(counts: Tensor, box: Tensor) -> np.ndarray:
    """Centre (x, y) and standard deviations (x, y) of the light inside a box, in edge coordinates."""
    x_min, y_min, x_max, y_max = (round(float(edge)) for edge in box)
    light = counts[0, y_min:y_max, x_min:x_max].double().numpy()
    rows, columns = np.mgrid[y_min:y_max, x_min:x_max] + 0.5
    x, y = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    spread = [(light * (grid - mean) ** 2).sum() / light.sum() for grid, mean in ((columns, x), (rows, y))]
    return np.array([x, y, *np.sqrt(spread)])


@given(st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=8)
def test_boxes_turn_with_the_tile(quarters, flip):
    tile, target = turn(*marked(32, [[2, 3, 9, 5], [20, 10, 24, 30]]), quarters, flip)
    for value, (x_min, y_min, x_max, y_max) in enumerate(target["boxes"].long().tolist(), start=1):
        inside = tile[0, y_min:y_max, x_min:x_max]
        assert (inside == value).all()
        assert inside.numel() == (tile == value).sum()
    assert torch.equal(target["ignored"], target["boxes"][:1])
    assert torch.equal(target["hidden"], tile[0] == 1)
    assert target["labels"].tolist() == [1, 2]


@given(st.floats(-180, 180), st.floats(0.7, 1.4))
@settings(deadline=None, max_examples=8)
def test_sources_stay_in_the_middle_of_their_boxes_and_round_ones_square(angle, zoom):
    counts, target = star_field([(2.0, 2.0)] * 6)
    moved, _, found = rotate_and_zoom(counts, torch.zeros(SIDE, SIDE, dtype=torch.bool), target, angle, zoom, 4.0)
    assert len(found["boxes"]) == 6
    for box in found["boxes"]:
        x, y, wide, high = moments(moved, box)
        centre = (box[:2] + box[2:]) / 2
        assert (x, y) == pytest.approx(centre.tolist(), abs=0.1)
        width, height = (box[2:] - box[:2]).tolist()
        assert width == pytest.approx(height, rel=1e-4)
        assert width == pytest.approx(2.5 * 2.3548 * 2.0 * zoom, rel=1e-4)
        assert (wide, high) == pytest.approx((2.0 * zoom, 2.0 * zoom), rel=0.08)  # interpolating widens a little


@given(st.floats(-180, 180))
@settings(deadline=None, max_examples=6)
def test_the_box_of_an_ellipse_along_the_axes_bounds_the_rotated_ellipse(angle):
    counts, target = star_field([(3.0, 1.5)] * 3)
    moved, _, found = rotate_and_zoom(counts, torch.zeros(SIDE, SIDE, dtype=torch.bool), target, angle, 1.0, 4.0)
    for box in found["boxes"]:
        centre = (box[:2] + box[2:]).repeat(2) / 2
        around = centre + torch.tensor([-14, -14, 14, 14])  # all of the light
        spread = moments(moved, around)[2:]
        assert spread == pytest.approx(((box[2:] - box[:2]) / (2.5 * 2.3548)).tolist(), rel=0.08)


def test_what_comes_from_outside_is_masked_and_what_was_masked_stays_so():
    counts, target = star_field([(2.0, 2.0)] * 4)
    masked = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    masked[60:68, 60:68] = True
    _, gone, _ = rotate_and_zoom(counts, masked, target, 45.0, 1.0, 4.0)
    assert gone[0, 0]
    assert gone[-1, -1]
    assert gone[62:66, 62:66].all()
    assert not gone[SIDE // 2, 20]
    _, gone, found = rotate_and_zoom(counts, masked, target, 0.0, 0.5, 4.0)
    assert gone.sum() > 0.74 * SIDE**2
    assert len(found["boxes"]) == 4


def test_noise_stays_that_of_the_sky():
    rng = np.random.default_rng(3)
    tile = torch.asinh(torch.from_numpy(rng.standard_normal((1, SIDE, SIDE), np.float32)) / 2.0)
    _, target = star_field([(2.0, 2.0)])
    varied, _ = augment(tile, target, AugmentSpec(rotation=180, zoom=(0.8, 1.3), noise=3.0), STRETCH, rng)
    seen = varied[varied != 0]
    assert seen.numel() > SIDE**2 / 3
    assert float((torch.sinh(seen) * 2.0).std()) == pytest.approx(1.0, rel=0.1)


def test_gain_and_offset_change_counts_by_what_they_say():
    counts = torch.zeros(2, 8, 8) + torch.tensor([10.0, 20.0])[:, None, None]
    spec = AugmentSpec(gain=0.5, offset=2.0)
    for seed in range(20):
        varied = disturb(counts, spec, np.random.default_rng(seed))
        gain = float((varied[1] - varied[0]).mean()) / 10
        offset = float(varied[0].mean()) - 10 * gain
        assert 1 / 1.5 <= gain <= 1.5
        assert abs(offset) <= 2.0 + 1e-4


def test_by_default_a_tile_is_only_turned_and_the_same_seed_gives_the_same_tile():
    tile, target = marked(32, [[2, 3, 9, 5], [20, 10, 24, 30]])
    varied, _ = augment(tile, target, AugmentSpec(), STRETCH, np.random.default_rng(5))
    assert sorted(varied.flatten().tolist()) == sorted(tile.flatten().tolist())
    spec = AugmentSpec(rotation=30, zoom=(0.9, 1.1), noise=0.5, gain=0.1, offset=0.1)
    first, found = augment(tile, target, spec, STRETCH, np.random.default_rng([1, 2]))
    again, same = augment(tile, target, spec, STRETCH, np.random.default_rng([1, 2]))
    assert torch.equal(first, again)
    assert all(torch.equal(found[name], same[name]) for name in found)
    other, _ = augment(tile, target, spec, STRETCH, np.random.default_rng([1, 3]))
    assert not torch.equal(first, other)


def test_masked_pixels_stay_exactly_zero_whatever_is_added():
    tile = torch.ones(1, 32, 32)
    tile[:, :8] = 0
    _, target = marked(32, [[10, 10, 14, 14]])
    spec = AugmentSpec(flips=False, noise=1.0, gain=0.3, offset=1.0)
    varied, _ = augment(tile, target, spec, STRETCH, np.random.default_rng(1))
    assert torch.equal(varied == 0, tile == 0)


def test_a_tile_of_several_stretches_keeps_them():
    softening = torch.tensor([1.0, 5.0])[:, None, None]
    counts = torch.full((2, 16, 16), 7.0)
    stretch = STRETCH.model_copy(update={"softening": (1.0, 5.0)})
    _, target = marked(16, [[4, 4, 8, 8]])
    varied, _ = augment(
        torch.asinh(counts / softening), target, AugmentSpec(gain=0.5), stretch, np.random.default_rng(1)
    )
    restored = torch.sinh(varied) * softening
    torch.testing.assert_close(restored[0], restored[1])


def test_truth_of_a_crop():
    boxes = torch.tensor([[10, 10, 20, 20], [-4, 10, 6, 20], [-8, 10, 2, 20], [70, 70, 80, 80]], dtype=torch.float32)
    ignored = torch.tensor([[40, 40, 50, 50], [60, 60, 80, 80], [90, 0, 99, 9]], dtype=torch.float32)
    target = crop_truth(boxes, ignored, torch.tensor([1, 2, 3, 4]), 64)
    assert target["boxes"].tolist() == [[10, 10, 20, 20], [0, 10, 6, 20]]
    assert target["labels"].tolist() == [1, 2]
    assert target["ignored"].tolist() == [[0, 10, 2, 20], [40, 40, 50, 50], [60, 60, 64, 64]]


def test_an_empty_crop_has_empty_targets():
    target = crop_truth(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 64)
    assert target["boxes"].shape == target["ignored"].shape == (0, 4)


def test_a_range_of_zoom_that_is_none_is_refused():
    with pytest.raises(ValueError, match="zoom"):
        AugmentSpec(zoom=(1.2, 0.8))
