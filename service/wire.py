"""Tiles, and what was found in them, as bytes between processes of this server: safetensors, never pickle."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from lynceus.detections import Detections
from lynceus.detector import Found
from lynceus.tiling import Tile

NOWHERE = (0, 0), (0.0, 0.0, 0.0, 0.0)  # origin and core: the network does not ask where a tile is


def pack_tiles(tiles: Sequence[Tile]) -> bytes:
    """Tiles of one size, one mesh and one precision, without their places."""
    return save(
        {
            "pixels": _stacked([tile.pixels for tile in tiles]),
            "windows": _stacked([tile.window for tile in tiles]),
            "phases": _stacked([tile.phase for tile in tiles]),
            "mesh": np.array([tiles[0].mesh]),
            "exact": np.array([tiles[0].exact]),
        }
    )


def unpack_tiles(data: bytes) -> list[Tile]:
    """What `pack_tiles` packed."""
    parts = load(data)
    mesh, exact = int(parts["mesh"][0]), bool(parts["exact"][0])
    return [
        Tile(pixels, window, phase, mesh, *NOWHERE, exact)
        for pixels, window, phase in zip(parts["pixels"], parts["windows"], parts["phases"], strict=True)
    ]


def pack_found(found: Sequence[Found]) -> bytes:
    """What was found in a batch."""
    lists = [one.detections for one in found]
    return save(
        {
            "boxes": np.concatenate([one.boxes for one in lists]),
            "scores": np.concatenate([one.scores for one in lists]),
            "labels": np.concatenate([one.labels for one in lists]),
            "counts": np.array([len(one) for one in lists]),
            "capped": np.array([one.capped for one in found]),
        }
    )


def unpack_found(data: bytes) -> list[Found]:
    """What `pack_found` packed."""
    parts = load(data)
    ends = np.cumsum(parts["counts"])[:-1]
    columns = zip(*(np.split(parts[name], ends) for name in ("boxes", "scores", "labels")), strict=True)
    return [Found(Detections(*one), bool(capped)) for one, capped in zip(columns, parts["capped"], strict=True)]


def _stacked(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """As safetensors writes them: it takes no notice of strides."""
    return np.ascontiguousarray(np.stack(parts))
