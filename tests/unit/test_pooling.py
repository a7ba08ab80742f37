import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from lynceus.pooling import BoxPooling

LEVELS = ("0", "1", "2", "3")


def drawn_boxes(count: int, side: float, largest: float) -> torch.Tensor:
    """Boxes of all sizes inside a tile, some at its borders and some thinner than a cell."""
    sides = 0.5 * (largest / 0.5) ** torch.rand(count, 2)
    corner = torch.rand(count, 2) * (side - sides)
    corner[:4] = torch.tensor([[0.0, 0.0], [0.0, 1e4], [1e4, 0.0], [1e4, 1e4]])
    corner = corner.minimum(side - sides)
    return torch.cat([corner, corner + sides], dim=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "samples"), [(7, 2), (5, 3)])
def test_it_pools_as_torchvision_does(layout, size, samples):
    torch.manual_seed(0)
    levels = {
        name: torch.randn(2, 8, 128 >> step, 128 >> step).contiguous(memory_format=layout)
        for step, name in enumerate(LEVELS)
    }
    boxes, shapes = [drawn_boxes(200, 512, 500), drawn_boxes(30, 512, 40)], [(512, 512)] * 2
    ours, theirs = (kind(list(LEVELS), size, samples).eval() for kind in (BoxPooling, MultiScaleRoIAlign))
    torch.testing.assert_close(ours(levels, boxes, shapes), theirs(levels, boxes, shapes), atol=2e-4, rtol=1e-4)


def test_no_boxes_give_no_features():
    levels = {name: torch.randn(1, 8, 32 >> step, 32 >> step) for step, name in enumerate(LEVELS)}
    pooled = BoxPooling(list(LEVELS), 7, 2).eval()(levels, [torch.zeros(0, 4)], [(128, 128)])
    assert pooled.shape == (0, 8, 7, 7)


def test_the_box_head_learns_through_it():
    levels = {name: torch.randn(1, 8, 32 >> step, 32 >> step, requires_grad=True) for step, name in enumerate(LEVELS)}
    BoxPooling(list(LEVELS), 7, 2).train()(levels, [drawn_boxes(20, 128, 20)], [(128, 128)]).sum().backward()
    assert levels["0"].grad is not None
