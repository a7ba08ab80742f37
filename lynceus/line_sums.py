"""Sums along all straight lines of a plane at once: the fast discrete Radon transform."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
HALVES = 3  # lengths that are looked at: the whole side of the plane, half of it, a quarter


@dataclass(frozen=True, eq=False)
class LineSums:
    """Sums along the lines that cross strips of a plane, seen four ways.

    A line of way `k` starts at row `y` (0-based) of a strip's first column and ends `shift` rows further in its last
    one, in `seen(plane, k)`.

    Attributes
    ----------
    values : ndarray, shape (4, strips, width, 2 N), float32
        By way, strip, shift, and row `y + N`.
    width : int
        Columns of a strip.
    """

    values: Plane
    width: int

    def ends(self, way: int, strip: int, shift: int, row: int) -> tuple[float, float, float, float]:
        """Both ends `x, y` of one of these lines in the plane itself, 0-based; they may lie outside it."""
        side = self.values.shape[-1] // 2
        first, last = (strip * self.width, row - side), ((strip + 1) * self.width - 1, row - side + shift)
        (x0, y0), (x1, y1) = (_as_it_is(way, column, row, side) for column, row in (first, last))
        return x0, y0, x1, y1


def seen(plane: Plane, way: int) -> Plane:
    """A square plane (N, N) as it is, upside down, transposed, and both: each line falls by 1:1 at most in one."""
    turned = plane.T if way >= 2 else plane
    return turned[::-1] if way % 2 else turned


def _as_it_is(way: int, column: int, row: int, side: int) -> tuple[float, float]:
    row = side - 1 - row if way % 2 else row
    return (float(row), float(column)) if way >= 2 else (float(column), float(row))


def line_sums(plane: Plane) -> Iterator[LineSums]:
    """Sum a plane along all lines that cross it, or a half or a quarter of it.

    Parameters
    ----------
    plane : ndarray, shape (N, N), float32
        N a power of two, 8 at least.

    Yields
    ------
    LineSums
        For strips of a quarter, half and all of the columns.

    Notes
    -----
    Brady (1998): lines over a strip are made of lines over its two halves, so that all N^2 of them cost N^2 log N.
    Nir, Zackay & Ofek (2018) find streaks of satellites by it.
    """
    side = len(plane)
    sums = np.zeros((4, side, 1, 2 * side), np.float32)
    for way in range(4):
        sums[way, :, 0, side:] = seen(plane, way).T
    width = 1
    while width < side:
        sums, width = _joined(sums), 2 * width
        if width << (HALVES - 1) >= side:
            yield LineSums(sums, width)


def _joined(sums: Plane) -> Plane:
    """Sums over strips twice as wide: (4, 2 strips, w, rows) to (4, strips, 2 w, rows)."""
    left, right = sums[:, 0::2], sums[:, 1::2]
    ways, strips, width, rows = left.shape
    joined = np.empty((ways, strips, 2 * width, rows), np.float32)
    for shift in range(2 * width):
        half, rest = shift // 2, rows - (shift + 1) // 2
        np.add(left[:, :, half, :rest], right[:, :, half, rows - rest :], out=joined[:, :, shift, :rest])
        joined[:, :, shift, rest:] = left[:, :, half, rest:]
    return joined
