"""The first table of a VOTable as plain columns: TABLEDATA, BINARY and BINARY2.

Read with expat alone, in one pass over the bytes: nothing a document points to is ever fetched (a STREAM may name any
address), nothing is allocated on a document's word (`nrows`, `arraysize`), and no entity is expanded.
"""

import base64
import binascii
import re
import struct
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from lynceus.errors import CatalogueError

COUNT = struct.Struct(">I")  # in front of an array of variable length
TYPES = {
    "boolean": "S1", "unsignedByte": "u1", "short": ">i2", "int": ">i4", "long": ">i8", "char": "S1",
    "unicodeChar": ">u2", "float": ">f4", "double": ">f8", "floatComplex": ">c8", "doubleComplex": ">c16",
}  # fmt: skip
TEXTS = ("char", "unicodeChar", "boolean")
DIMENSIONS = re.compile(r"(\d+x)*(\d+\*?|\*)")
ELSEWHERE = ("FITS", "PARQUET")


@dataclass
class VoField:
    """What a FIELD says of its column; `null` is the number that means a missing value."""

    name: str
    unit: str
    datatype: str
    arraysize: str
    null: str = ""

    @property
    def variable(self) -> bool:
        """Whether every row has its own length."""
        return self.arraysize.endswith("*")

    @property
    def length(self) -> int:
        """Elements in a row, where that is fixed."""
        return int(np.prod([int(part) for part in self.arraysize.split("x")], dtype=object)) if self.arraysize else 1

    @property
    def element(self) -> np.dtype[Any]:
        """One element in BINARY; a run of bits is packed into bytes."""
        return np.dtype("u1" if self.datatype == "bit" else TYPES[self.datatype])

    @property
    def stored(self) -> int:
        """Elements a row takes in BINARY, where that is fixed."""
        return -(-self.length // 8) if self.datatype == "bit" else self.length


@dataclass
class VoRows:
    """A table as it was written.

    Attributes
    ----------
    fields : list of VoField
        One a column.
    columns : list
        For each a list of text, one a row, or an array of numbers with NaN where there is none; None for a column of
        arrays, which hold nothing that is read.
    tables : int
        Tables in the document.
    """

    fields: list[VoField] = field(default_factory=list)
    columns: list[list[str] | NDArray[np.floating] | None] = field(default_factory=list)
    tables: int = 0


def read_votable_rows(data: bytes, rows: int, columns: int, cells: int) -> VoRows:
    """Read the first TABLE of a VOTable.

    Parameters
    ----------
    data : bytes
        The document.
    rows, columns, cells : int
        What it may hold at most.

    Raises
    ------
    CatalogueError
        If it is not well-formed, passes a limit, says that it is an error, or keeps its rows elsewhere.
    """
    reader = _Reader(rows, columns, cells)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = reader.text, reader.entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise CatalogueError(f"the VOTable is not well-formed XML (line {error.lineno})") from None
    if not reader.found.tables:
        raise CatalogueError(reader.refusal or "the XML holds no VOTable TABLE")
    reader.finish()
    return reader.found


class _Reader:
    """Collects the fields and cells of the first table, element by element."""

    def __init__(self, rows: int, columns: int, cells: int) -> None:
        self.found = VoRows()
        self.refusal = ""
        self._limits = rows, columns, cells
        self._cells: list[str] = []  # of all rows, one after the other
        self._row: list[str] = []
        self._parts: list[str] = []
        self._listening = False
        self._binary = ""
        self._stream = b""

    def entity(self, *_: object) -> None:
        raise CatalogueError("the VOTable declares entities; they are not read")

    def text(self, text: str) -> None:
        if self._listening:
            self._parts.append(text)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        if name in ("TD", "INFO"):
            self._listen()
        elif name == "TABLE":
            self.found.tables += 1
        elif self.found.tables != 1:
            pass
        elif name == "TR":
            self._row = []
        elif name == "FIELD":
            self._add_field(attributes)
        elif name == "VALUES" and self.found.fields and "null" in attributes:
            self.found.fields[-1].null = attributes["null"].strip()
        elif name in ("BINARY", "BINARY2"):
            self._binary = name
        elif name == "STREAM":
            self._open_stream(attributes)
        elif name in ELSEWHERE:
            raise CatalogueError(f"the VOTable keeps its rows as {name}; send TABLEDATA, BINARY or BINARY2")
        if name == "INFO" and attributes.get("value") == "ERROR":
            self.refusal = "the VOTable says that it is an error, and holds no table"

    def end(self, tag: str) -> None:
        name = tag.rpartition(":")[2]
        if name == "TD":
            self._row.append(self._heard())
        elif name == "TR" and self.found.tables == 1:
            self._end_row()
        elif name == "STREAM" and self._binary:
            self._stream = _decoded(self._heard())
        elif name == "INFO":
            self._heard()

    def finish(self) -> None:
        """Turn what was collected into columns."""
        fields, count = self.found.fields, len(self.found.fields)
        if self._binary:
            self.found.columns = _unpacked(self._stream, fields, self._binary == "BINARY2", self._limits[0])
        else:
            self.found.columns = [
                [_without_null(cell, one.null) for cell in self._cells[number::count]] if one.null
                else self._cells[number::count]
                for number, one in enumerate(fields)
            ]  # fmt: skip

    def _listen(self) -> None:
        self._parts, self._listening = [], True

    def _heard(self) -> str:
        self._listening = False
        return "".join(self._parts)

    def _add_field(self, attributes: dict[str, str]) -> None:
        name = attributes.get("name") or attributes.get("ID") or ""
        datatype, arraysize = attributes.get("datatype", "char"), attributes.get("arraysize", "").strip()
        if datatype != "bit" and datatype not in TYPES:
            raise CatalogueError(f"the VOTable column {name[:40]!r} has an unknown datatype")
        if arraysize and not DIMENSIONS.fullmatch(arraysize):
            raise CatalogueError(f"the VOTable column {name[:40]!r} has an arraysize that cannot be read")
        if len(self.found.fields) == self._limits[1]:
            raise CatalogueError(f"the table has more than {self._limits[1]} columns, the limit")
        self.found.fields.append(VoField(name, attributes.get("unit", ""), datatype, arraysize))

    def _open_stream(self, attributes: dict[str, str]) -> None:
        if attributes.get("href"):
            raise CatalogueError("the VOTable keeps its rows at another address, which is not fetched; send them in it")
        if attributes.get("encoding", "base64") != "base64":
            raise CatalogueError("the VOTable's STREAM is not in base64")
        self._listen()

    def _end_row(self) -> None:
        rows, _, cells = self._limits
        missing = len(self.found.fields) - len(self._row)
        if missing < 0:
            raise CatalogueError("the VOTable has a row with more cells than it has columns")
        self._cells += self._row + [""] * missing
        if len(self._cells) > min(cells, rows * len(self.found.fields)):
            raise CatalogueError(f"the table has more than {rows} rows or {cells} cells, the limits")


def _without_null(cell: str, null: str) -> str:
    return "" if cell.strip() == null else cell


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii", "replace"))
    except binascii.Error:
        raise CatalogueError("the VOTable's STREAM is not in base64") from None


def _unpacked(
    data: bytes, fields: list[VoField], masked: bool, rows: int
) -> list[list[str] | NDArray[np.floating] | None]:
    """Columns of a BINARY stream, or of a BINARY2 one, whose rows begin with a mask of missing values.

    Rows are cut at the arrays of variable length; the runs of fixed fields between them are read at once.
    """
    if not fields:
        return []
    mask_bytes = -(-len(fields) // 8) if masked else 0
    runs = [(variable, list(run)) for variable, run in groupby(fields, key=lambda one: one.variable)]
    sizes = [0 if variable else sum(one.stored * one.element.itemsize for one in run) for variable, run in runs]
    pieces: list[list[bytes]] = [[] for one in fields if one.variable]
    chunks: list[list[bytes]] = [[] for variable, _ in runs if not variable]
    masks: list[bytes] = []
    position = 0
    while position < len(data):
        if len(masks) == rows:
            raise CatalogueError(f"the table has more than {rows} rows, the limit")
        masks.append(data[position : position + mask_bytes])
        position += mask_bytes
        piece = chunk = 0
        for (variable, run), size in zip(runs, sizes, strict=True):
            if not variable:
                chunks[chunk].append(data[position : position + size])
                position, chunk = position + size, chunk + 1
                continue
            for one in run:
                length = COUNT.unpack_from(data, position)[0] if position + COUNT.size <= len(data) else len(data)
                length = -(-length // 8) if one.datatype == "bit" else length
                end = position + COUNT.size + length * one.element.itemsize
                pieces[piece].append(data[position + COUNT.size : end])
                position, piece = end, piece + 1
    if position != len(data):
        raise CatalogueError("the VOTable's STREAM ends inside a row")
    columns = _fixed_columns([run for variable, run in runs if not variable], chunks, len(masks))
    texts = iter(pieces)
    found = [_texts(one, next(texts)) if one.variable else next(columns) for one in fields]
    if mask_bytes:
        bits = np.unpackbits(np.frombuffer(b"".join(masks), np.uint8).reshape(-1, mask_bytes), axis=1)
        for number, column in enumerate(found):
            if isinstance(column, np.ndarray):
                column[bits[:, number] == 1] = np.nan
    return found


def _fixed_columns(runs: list[list[VoField]], chunks: list[list[bytes]], rows: int) -> Any:
    """Yield the columns of the runs of fixed fields, in their order."""
    for run, parts in zip(runs, chunks, strict=True):
        kinds = [(f"f{number}", one.element, (one.stored,)) for number, one in enumerate(run)]
        table = np.frombuffer(b"".join(parts), np.dtype(kinds), count=rows)
        for number, one in enumerate(run):
            values = table[f"f{number}"]
            if one.datatype in TEXTS:
                yield _texts(one, [row.tobytes() for row in values])
            elif one.stored != 1 or values.dtype.kind not in "iuf" or one.datatype == "bit":
                yield None
            else:
                yield _numbers(values[:, 0], one.null)


def _numbers(values: NDArray[Any], null: str) -> NDArray[np.floating]:
    numbers = values.astype(np.float64)
    if null and values.dtype.kind in "iu":
        numbers[values.astype(str) == null] = np.nan
    return numbers


def _texts(one: VoField, pieces: list[bytes]) -> list[str] | None:
    if one.datatype not in TEXTS:
        return None
    encoding = "utf-16-be" if one.datatype == "unicodeChar" else "latin-1"
    return [piece.decode(encoding, "replace").rstrip("\0") for piece in pieces]
