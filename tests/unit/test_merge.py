from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.detections import Detections
from lynceus.frame import Frame
from lynceus.merge import SizePrior, Suppression, merge_tiles, steady_sizes
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import Tile, TileSpec, cut_tiles, tile_starts

SPEC = TileSpec(size=128, overlap=32, margin=4)
BY = [Suppression(by="iou", threshold=0.5), Suppression(by="centre", threshold=0.35)]


def tiles_of(height: int, width: int) -> list[Tile]:
    frame = Frame(np.zeros((height, width), np.float32))
    return cut_tiles(frame, estimate_sky(frame, SkySpec()), SPEC)


def listed(boxes: np.ndarray, scores: np.ndarray | None = None) -> Detections:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    return Detections(boxes, np.asarray(scores, np.float32), np.zeros(len(boxes), np.int64))


def seen_by(tile: Tile, boxes: np.ndarray, wobble: np.ndarray) -> Detections:
    """What a perfect network would report in a tile: the visible part of each source, a little off."""
    x, y = tile.origin
    shifted = boxes + wobble - [x, y, x, y]
    visible = np.clip(shifted, 0, tile.size)
    some = (visible[:, 2:] - visible[:, :2] > 1).all(axis=1)
    return listed(visible[some])


def seam_positions(length: int) -> np.ndarray:
    """Every quarter pixel around each seam of an axis, and the borders of each tile."""
    starts = tile_starts(length, SPEC)
    special = [(a + SPEC.size + b) / 2 for a, b in pairwise(starts)]
    special += [s + SPEC.size for s in starts[:-1]] + starts[1:]
    return np.unique(np.concatenate([position + np.arange(-9, 9, 0.75) for position in special]))


@pytest.mark.parametrize("suppression", BY, ids=["iou", "centre"])
@pytest.mark.parametrize("side", [4.0, 9.0, 20.0, 31.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_source_on_any_seam_is_found_once_and_whole(suppression, side, axis):
    rng = np.random.default_rng(3)
    shape = (150, 400) if axis == 0 else (400, 150)
    tiles = tiles_of(*shape)
    for position in seam_positions(400):
        centre = np.array([position, 64.0]) if axis == 0 else np.array([64.0, position])
        box = np.concatenate([centre - side / 2, centre + side / 2])[None]
        found = [seen_by(tile, box, rng.uniform(-0.2, 0.2, (1, 4))) for tile in tiles]
        merged = merge_tiles(found, tiles, suppression, SPEC.margin)
        assert len(merged) == 1, position
        np.testing.assert_allclose(merged.boxes[0], box[0], atol=0.25)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(140, 400), st.integers(140, 400))
def test_a_field_of_separate_sources_comes_back_as_it_is(seed, height, width):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(20, width - 20, 40), np.arange(20, height - 20, 40)), -1).reshape(-1, 2)
    centres = grid + rng.uniform(-10, 10, grid.shape)
    boxes = np.concatenate([centres - 7, centres + 7], axis=1)
    tiles = tiles_of(height, width)
    found = [seen_by(tile, boxes, np.zeros((1, 4))) for tile in tiles]
    merged = merge_tiles(found, tiles, BY[0], SPEC.margin)
    np.testing.assert_allclose(
        merged.boxes[np.lexsort(merged.boxes.T)], boxes[np.lexsort(boxes.astype(np.float32).T)], atol=1e-3
    )


def test_a_tile_keeps_its_own_close_pair():
    tiles = tiles_of(128, 128)
    pair = listed([[50, 50, 60, 60], [53, 50, 63, 60]])
    assert len(merge_tiles([pair], tiles, Suppression(by="iou", threshold=0.3), SPEC.margin)) == 2


def test_the_list_falls_with_score():
    tiles = tiles_of(128, 400)
    found = [listed([[60, 60, 70, 70]], [0.2 + 0.1 * i]) for i in range(len(tiles))]
    scores = merge_tiles(found, tiles, BY[0], SPEC.margin).scores
    assert (np.diff(scores) < 0).all()
    assert len(scores) == len(tiles)


def test_nothing_found_is_an_empty_list():
    tiles = tiles_of(300, 300)
    assert len(merge_tiles([Detections.empty()] * len(tiles), tiles, BY[0], SPEC.margin)) == 0


def test_classes_do_not_suppress_each_other():
    left, right = tiles_of(128, 220)
    seam = (left.core[2], 60.0)
    box = np.array([[seam[0] - 5, 55, seam[0] + 5, 65]])
    here, there = (listed(box - np.tile(tile.origin, 2)) for tile in (left, right))
    other = Detections(there.boxes, there.scores, np.ones(1, np.int64))
    assert len(merge_tiles([here, there], [left, right], BY[0], SPEC.margin)) == 1
    assert len(merge_tiles([here, other], [left, right], BY[0], SPEC.margin)) == 2


def boxes_of(sides: list[float], scores: list[float]) -> Detections:
    centres = np.arange(len(sides))[:, None] * 100.0 + 50
    half = np.array(sides)[:, None] / 2
    return listed(np.concatenate([centres - half, centres - half, centres + half, centres + half], axis=1), scores)


def test_unsure_boxes_are_drawn_towards_the_typical_size_and_others_are_not():
    before = boxes_of([10, 10, 10, 10, 10, 14, 7, 30], [1, 1, 1, 1, 1, 0.5, 0.75, 0.3])
    after = steady_sizes(before, SizePrior(weight=0.8, span=1.6))
    sides = after.boxes[:, 2] - after.boxes[:, 0]
    np.testing.assert_allclose(sides[:5], 10, atol=1e-4)
    assert 10 < sides[5] < 14
    assert 7 < sides[6] < 10
    assert sides[7] == pytest.approx(30)
    np.testing.assert_allclose(after.centres, before.centres, atol=1e-4)
    np.testing.assert_array_equal(after.scores, before.scores)


@pytest.mark.parametrize("prior", [SizePrior(weight=0), SizePrior(least=6)])
def test_without_enough_sure_boxes_nothing_moves(prior):
    before = boxes_of([10, 10, 10, 10, 10, 14], [1, 1, 1, 1, 1, 0.5])
    np.testing.assert_array_equal(steady_sizes(before, prior).boxes, before.boxes)
