"""Columns as the cells of a text table, made a column at a time: cell by cell, 50,000 sources would take seconds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

NULL = b"null"  # what orjson writes for NaN and infinity


def cells_of(values: NDArray[Any], unknown: bytes, text: Callable[[str], str] = str) -> list[bytes]:
    """Write a column.

    Parameters
    ----------
    values : ndarray, shape (N,)
        Integers, floats or strings.
    unknown : bytes
        Stands for NaN and infinity.
    text : callable
        Escapes or quotes a string.

    Returns
    -------
    list of bytes
        N cells; a number has the fewest digits that read back as the same float64.
    """
    if values.dtype.kind not in "if":
        return [text(value).encode() for value in values.tolist()]
    if not len(values):
        return []
    numbers = np.ascontiguousarray(values, np.float64 if values.dtype.kind == "f" else np.int64)
    written = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    if values.dtype.kind == "f" and not np.isfinite(numbers).all():
        return [unknown if cell == NULL else cell for cell in written]
    return written


def rows_of(columns: Sequence[list[bytes]], before: bytes, between: bytes, after: bytes) -> bytes:
    """Lay columns of cells side by side.

    Parameters
    ----------
    columns : sequence of list of bytes
        Of N cells each.
    before, between, after : bytes
        Of a row, its cells, and a row.
    """
    rows = map(between.join, zip(*columns, strict=True))
    joined = (after + before).join(rows)
    return before + joined + after if joined else b""
