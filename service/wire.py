"""Between processes of this server: tiles in shared memory, what was found in them as safetensors; never pickle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from lynceus.detections import Detections
from lynceus.detector import Found
from lynceus.tiling import Tile
from service.arena import Arena

Layout = dict[str, Any]

NOWHERE = (0, 0), (0.0, 0.0, 0.0, 0.0)  # origin and core: the network does not ask where a tile is


def lay_out(tiles: Sequence[Tile], arena: Arena) -> Layout:
    """Put tiles of one size, one mesh and one pass into shared memory, without their places, and tell where."""
    first = tiles[0]
    layout: Layout = {
        "tiles": len(tiles),
        "size": first.size,
        "squares": first.window.shape[-1],
        "mesh": first.mesh,
        "least_side": first.least_side,
    }
    pixels, windows, phases = arena.arrays(_shapes(layout))
    np.stack([tile.pixels for tile in tiles], out=pixels)
    np.stack([tile.window for tile in tiles], out=windows)
    np.stack([tile.phase for tile in tiles], out=phases)
    return layout


def tiles_in(arena: Arena, layout: Layout) -> list[Tile]:
    """What `lay_out` put there, not copied."""
    columns = zip(*arena.arrays(_shapes(layout)), strict=True)
    common = layout["mesh"], *NOWHERE, layout["least_side"]
    return [Tile(pixels, window, phase, *common) for pixels, window, phase in columns]


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


def _shapes(layout: Layout) -> list[tuple[int, ...]]:
    """Of pixels, windows and phases."""
    count, size, squares = layout["tiles"], layout["size"], layout["squares"]
    return [(count, size, size), (count, 2, squares, squares), (count, 2)]
