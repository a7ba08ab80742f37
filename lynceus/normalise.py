"""Counts to units of local sky noise: one torch function for training and for serving."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lynceus.sky import cubic_taps
from lynceus.spec import Spec
from lynceus.tiling import Tile

Softening = Annotated[float, Field(gt=0)]


class NormaliseSpec(Spec):
    """How counts become network input.

    Attributes
    ----------
    softening : float or tuple of float
        The stretch is `asinh(s / softening)` for a pixel s standard deviations above the sky. Several give one channel
        each, from the faint to the bright.
    ceiling : float
        Pixels further than this from the sky are clipped, in standard deviations.
    """

    softening: Softening | Annotated[tuple[Softening, ...], Field(min_length=1)] = 2.0
    ceiling: float = Field(1e6, gt=0)

    @property
    def channels(self) -> int:
        """Channels of a normalised tile."""
        return len(self.softening) if isinstance(self.softening, tuple) else 1


def stack_tiles(tiles: Sequence[Tile]) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles as three tensors: pixels (B, 1, T, T), windows (B, 2, K, K), phases (B, 2)."""
    return (
        torch.from_numpy(np.stack([tile.pixels for tile in tiles])[:, None]),
        torch.from_numpy(np.stack([tile.window for tile in tiles])),
        torch.from_numpy(np.stack([tile.phase for tile in tiles])),
    )


def normalise(pixels: Tensor, window: Tensor, phase: Tensor, mesh: int, spec: NormaliseSpec) -> Tensor:
    """Express pixels in units of the local sky noise, stretched.

    Parameters
    ----------
    pixels : Tensor, shape (B, 1, T, T)
        ADU, NaN where masked.
    window : Tensor, shape (B, 2, K, K)
        Sky level and logarithm of its noise around each tile (ADU), on squares of `mesh` pixels.
    phase : Tensor, shape (B, 2)
        Row and column in the window of each tile's first pixel, in squares.
    mesh : int
        Side of a square, in pixels.
    spec : NormaliseSpec
        The stretch.

    Returns
    -------
    Tensor, shape (B, C, T, T)
        `asinh((pixels - sky) / noise / softening)`, a channel for each softening; 0 where masked.
    """
    down, across = (_interpolation(phase[:, axis], pixels.shape[-1], mesh, window.shape[-1]) for axis in (0, 1))
    maps = down[:, None] @ window @ across[:, None].transpose(-1, -2)  # (B, 2, T, T)
    deviations = (pixels - maps[:, :1]) / torch.exp(maps[:, 1:])
    deviations = torch.nan_to_num(deviations, nan=0.0).clamp(-spec.ceiling, spec.ceiling)
    if isinstance(spec.softening, tuple):
        return _asinh(deviations / deviations.new_tensor(spec.softening)[:, None, None])
    return _asinh(deviations / spec.softening)


def _asinh(values: Tensor) -> Tensor:
    """On a CPU numpy's, which is vectorised where torch's is not."""
    if values.device.type == "cpu" and not values.requires_grad:
        return torch.from_numpy(np.arcsinh(values.numpy()))
    return torch.asinh(values)


def _interpolation(phase: Tensor, length: int, mesh: int, squares: int) -> Tensor:
    """Matrices (B, length, squares) that interpolate the squares at every pixel."""
    position = phase[:, None] + torch.arange(length, device=phase.device) / mesh  # (B, T)
    base = position.floor()
    matrix = position.new_zeros(*position.shape, squares)
    for tap, weight in enumerate(cubic_taps(position - base), start=-1):
        index = (base.long() + tap).clamp(0, squares - 1)
        matrix.scatter_add_(-1, index[..., None], weight[..., None])
    return matrix
