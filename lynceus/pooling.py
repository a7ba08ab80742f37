"""Features of boxes: RoIAlign as weighted sums of rows of a table, several times as fast on a CPU."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _setup_scales


class BoxPooling(MultiScaleRoIAlign):
    """torchvision's `MultiScaleRoIAlign`, with another way to the same numbers when serving on a CPU.

    torchvision's kernel for CPUs takes the channels of a cell one by one. Here a cell's channels are a row of a table,
    and a bin is the weighted sum of 16 of them: four samples, each between four cells.
    """

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool boxes.

        Parameters
        ----------
        x : dict of str to Tensor
            Level to features (B, C, H, W).
        boxes : list of Tensor, shape (N_b, 4)
            One a tile, edge coordinates of the tile, inside it.
        image_shapes : list of (int, int)
            Height and width of the tiles.

        Returns
        -------
        Tensor, shape (N, C, S, S)
            Tile by tile.
        """
        levels = [x[name] for name in self.featmap_names]
        if self.training or levels[0].device.type != "cpu":
            return super().forward(x, boxes, image_shapes)
        scales, level_of = _setup_scales(levels, image_shapes, self.canonical_scale, self.canonical_level)
        every, level = torch.cat(boxes), level_of(boxes)
        tile = torch.repeat_interleave(torch.tensor([len(some) for some in boxes])).int()
        rows, columns = self.output_size
        pooled = levels[0].new_empty(len(every), rows, columns, levels[0].shape[1])
        for number, (features, scale) in enumerate(zip(levels, scales, strict=True)):
            here = torch.where(level == number)[0]
            if len(here):
                pooled[here] = _pool(features, every[here] * scale, tile[here], rows, columns, self.sampling_ratio)
        return pooled.permute(0, 3, 1, 2)


def _pool(features: Tensor, boxes: Tensor, tile: Tensor, rows: int, columns: int, samples: int) -> Tensor:
    """Features (B, C, H, W) in N boxes of one level, in cells: (N, rows, columns, C)."""
    channels, height, width = features.shape[1:]
    y, down = _taps(boxes[:, 1], boxes[:, 3], rows, samples, height)
    x, across = _taps(boxes[:, 0], boxes[:, 2], columns, samples, width)
    y = (y + tile[:, None, None] * height) * width
    taps = 2 * samples
    cells = y.repeat_interleave(taps, dim=2)[:, :, None] + x.repeat(1, 1, taps)[:, None]
    weights = down.repeat_interleave(taps, dim=2)[:, :, None] * across.repeat(1, 1, taps)[:, None]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)  # a view where channels come last in memory
    pooled = embedding_bag(cells.flatten(0, 2), table, per_sample_weights=weights.flatten(0, 2), mode="sum")
    return pooled.view(len(boxes), rows, columns, channels)


def _taps(start: Tensor, end: Tensor, bins: int, samples: int, size: int) -> tuple[Tensor, Tensor]:
    """Cells along one axis that each bin of N boxes is made of, and what they count, (N, bins, 2 samples) both.

    A box is one cell wide at least; samples beyond the last cell by more than one are 0, as in torchvision.
    """
    step = (end - start).clamp(min=1.0) / (bins * samples)
    places = start[:, None] + (torch.arange(bins * samples) + 0.5) * step[:, None]
    held = places.clamp(max=size - 1)
    low = held.floor()
    share = held - low
    cells = torch.stack([low, (low + 1).clamp(max=size - 1)], dim=2)
    weights = torch.stack([1 - share, share], dim=2) * (places <= size)[:, :, None] / samples
    return cells.int().view(len(start), bins, -1), weights.view(len(start), bins, -1)
