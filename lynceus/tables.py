"""Bytes of any table of sources to a Catalogue: SExtractor's ASCII_HEAD, FITS, FITS_LDAC, VOTable, ECSV, CSV, JSON.

The format is found from the content. Everything is bounded before it is allocated: decompressed bytes, rows, columns
and cells.
"""

import bz2
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table.meta import get_header_from_yaml
from numpy.typing import NDArray

from lynceus.errors import CatalogueError, LynceusError
from lynceus.fits_file import PRINTABLE, Hdu, blocks, number, open_fits, quiet
from lynceus.reading import Limits
from lynceus.votable_rows import read_votable_rows

MAX_BYTES = 256 * 1024**2  # after decompression
MAX_ROWS, MAX_COLUMNS, MAX_CELLS = 2_000_000, 2000, 20_000_000
MAX_TEXT_CELLS = 10_000_000  # cells that are text at first take some 60 bytes each
MAX_VECTOR = 64  # elements of a vector column that are kept
MAX_ECSV_HEADER = 512 * 1024  # characters
SEPARATORS = ",;\t "
GZIP, BZIP2 = b"\x1f\x8b", b"BZh"
HEAD_LINE = re.compile(r"#\s*(\d{1,6})\s+([A-Za-z_]\S*)(.*)")
UNIT = re.compile(r"\[([^\[\]]*)\]\s*$")
MISSING = frozenset(("", "nan", "null", "none", "--", "-", "n/a", "na", "masked", "inf", "-inf", "+inf", '""'))
TRUTHS = {"true": "1", "false": "0"}
BOX = ("x_min", "y_min", "x_max", "y_max")
# What says where a row is; the first columns of a pair. Which of them is used, and how, is for `positions`.
POSITIONS = (
    "X_IMAGE", "XWIN_IMAGE", "XPSF_IMAGE", "X", "XCENTROID", "X_MIN", "XMIN_IMAGE", "ALPHA_J2000", "ALPHAWIN_J2000",
    "ALPHA_SKY", "ALPHAWIN_SKY", "RA", "RAJ2000", "RA_ICRS", "X_WORLD",
)  # fmt: skip
NO_MAGNITUDE = 99.0
LARGEST_RADIUS = 50_000.0  # of FLUX_RADIUS, in pixels; SExtractor writes such where it failed
UNKNOWN = (
    "the file is no table of sources that is known: send SExtractor's ASCII_HEAD or FITS_LDAC, a FITS table, VOTable, "
    "ECSV, CSV or JSON"
)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What a table of sources lists, M rows.

    Attributes
    ----------
    columns : mapping of str to ndarray, shape (M,)
        By upper-case name: float64, NaN where a row has no value, or objects that are `str`. The elements of a vector
        are `FLUX_APER`, `FLUX_APER(2)`, and so on.
    format : str
        `ascii_head`, `ldac`, `fits`, `votable`, `ecsv`, `csv` or `json`.
    units : mapping of str to str
        As the file spells them, of the columns that have one.
    warnings : tuple of str
        What was odd, in the user's words.

    Raises
    ------
    ValueError
        If the columns differ in length.
    """

    columns: Mapping[str, NDArray[Any]]
    format: str
    units: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({values.shape for values in self.columns.values()}) > 1:
            raise ValueError("the columns of a catalogue must be equally long")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def number(self, *names: str) -> NDArray[np.floating] | None:
        """The first of these columns that is there and holds numbers; None if none does."""
        found = (self.columns.get(name) for name in names)
        return next((values for values in found if values is not None and values.dtype.kind == "f"), None)


@dataclass
class _Raw:
    """Columns as they were found: text or numbers, None where a column holds neither."""

    format: str
    names: list[str]
    columns: Sequence[Sequence[str] | NDArray[Any] | None]
    units: list[str]
    warnings: list[str] = field(default_factory=list)


def read_catalogue(data: bytes) -> Catalogue:
    """Read a table of sources, whatever its format.

    Parameters
    ----------
    data : bytes
        The file, plain, .gz or .bz2: SExtractor's ASCII_HEAD or FITS_LDAC, a FITS table (binary or text), VOTable,
        ECSV, CSV (also with semicolons, tabs or blanks between the columns), or JSON as `/detect` answers.

    Returns
    -------
    Catalogue
        Of several tables in a file the first that says where its rows are; FITS_LDAC's LDAC_OBJECTS before others.

    Raises
    ------
    CatalogueError
        If the bytes hold no table, are damaged, or pass a limit.

    Notes
    -----
    Values that mean "missing" are NaN: empty and masked ones, magnitudes and their errors from 99 and below -99,
    99 in FWHM_WORLD, ELLIPTICITY outside 0..1, THETA_* of 99, FLUX_RADIUS outside (0, 50000), and infinity.
    """
    try:
        return _catalogue(_read(_decompressed(data)))
    except CatalogueError:
        raise
    except LynceusError as error:
        raise CatalogueError(str(error)) from None
    except Exception as error:  # hostile bytes fail in many ways, and each means the same
        raise CatalogueError(f"the catalogue is damaged and cannot be read ({type(error).__name__})") from error


def _decompressed(data: bytes) -> bytes:
    """Undo .gz or .bz2, no further than the limit on bytes."""
    if data.startswith((GZIP, BZIP2)):
        packed = BytesIO(data)
        try:
            with gzip.open(packed) if data.startswith(GZIP) else bz2.open(packed) as stream:
                data = stream.read(MAX_BYTES + 1)
        except (EOFError, OSError, zlib.error):
            raise CatalogueError("the compressed catalogue is cut short or damaged") from None
    if len(data) > MAX_BYTES:
        raise CatalogueError(f"the catalogue has more than {MAX_BYTES} bytes, the limit")
    return data


def _read(data: bytes) -> _Raw:
    """Find out what it is, and read it."""
    if data.startswith(b"SIMPLE"):
        return _read_fits(data)
    data = data.removeprefix(b"\xef\xbb\xbf")
    start = data[:4096].lstrip()
    if not start:
        raise CatalogueError("the catalogue is empty")
    if start.startswith(b"<"):
        return _read_votable(data)
    if start.startswith((b"{", b"[")):
        return _read_json(data)
    if b"\0" in data or start.startswith(b"# Region file format"):
        raise CatalogueError(UNKNOWN)
    text = _text(data)
    if text.startswith("# %ECSV"):
        return _read_ecsv(text)
    heads = (line for line in _lines(text) if line.strip())
    if any(HEAD_LINE.match(line) for line in _while_comment(heads)):
        return _read_ascii_head(text)
    return _read_csv(text)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _lines(text: str) -> Iterator[str]:
    """Lines one by one; `splitlines` would also break them at form feeds and the like."""
    return (line.rstrip("\r\n") for line in StringIO(text, newline=None))


def _while_comment(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _read_ascii_head(text: str) -> _Raw:
    """SExtractor: columns by the numbers of the header lines; a number that is skipped belongs to a vector."""
    heads: dict[int, tuple[str, str]] = {}
    rows: list[list[str]] = []
    for line in _lines(text):
        head = HEAD_LINE.match(line)
        if head:
            in_brackets = UNIT.search(head[3])
            heads[int(head[1])] = head[2], in_brackets[1].strip() if in_brackets else ""
        elif line.strip() and not line.startswith("#"):
            rows.append(line.split(None, MAX_COLUMNS))
            _check_row(rows, len(rows[0]))
    width = len(rows[0]) if rows else max(heads)
    if min(heads) < 1 or max(heads) > width:
        raise CatalogueError(f"the header names column {max(heads)}, but the rows have {width} values")
    names, units = [""] * width, [""] * width
    for position, name, unit in _spread(sorted(heads.items()), width):
        names[position], units[position] = name, unit
    return _Raw("ascii_head", names, _transposed(rows, width), units)


def _spread(heads: list[tuple[int, tuple[str, str]]], width: int) -> Iterator[tuple[int, str, str]]:
    """Give each element of a vector its own name."""
    ends = [start for start, _ in heads[1:]] + [width + 1]
    for (start, (name, unit)), end in zip(heads, ends, strict=True):
        for element, position in enumerate(range(start - 1, end - 1), start=1):
            yield position, _element(name, element), unit


def _element(name: str, element: int) -> str:
    return name if element == 1 else f"{name}({element})"


def _check_row(rows: list[list[str]], width: int) -> None:
    """Refuse the row that was just read if it does not fit the others, or passes a limit."""
    if width > MAX_COLUMNS:
        raise CatalogueError(f"the table has more than {MAX_COLUMNS} columns, the limit")
    if len(rows[-1]) != width:
        raise CatalogueError(f"row {len(rows)} of the table has {len(rows[-1])} values instead of {width}")
    if len(rows) > MAX_ROWS or len(rows) * width > MAX_TEXT_CELLS:
        raise CatalogueError(f"the table has more than {MAX_ROWS} rows or {MAX_TEXT_CELLS} cells, the limits")


def _transposed(rows: list[list[str]], width: int) -> Sequence[Sequence[str]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _read_csv(text: str) -> _Raw:
    """Text with a line of names, which may be a comment; what separates them is what that line has of."""
    lines = (line for line in _lines(text) if line.strip())
    head = next(lines).lstrip("# ")
    separator = next((one for one in SEPARATORS if one in head.strip()), ",")
    return _separated("csv", text, chain([head], lines), separator, {})


def _read_ecsv(text: str) -> _Raw:
    """Astropy's ECSV: YAML in comments, of which the separator and the units are needed, and then CSV."""
    header = [line[2:] for line in _while_comment(_lines(text))]
    if sum(map(len, header)) > MAX_ECSV_HEADER:
        raise CatalogueError("the header of the ECSV table is too long")
    try:
        told = get_header_from_yaml(header[1:])
        units = {str(one["name"]): str(one.get("unit") or "") for one in told.get("datatype", [])}
    except Exception:  # the rows can be read without
        told, units = {}, {}
    separator = "," if told.get("delimiter") == "," else " "
    lines = (line for line in _lines(text) if line.strip() and not line.startswith("#"))
    return _separated("ecsv", text, lines, separator, units)


def _separated(form: str, text: str, lines: Iterable[str], separator: str, units: Mapping[str, str]) -> _Raw:
    """A line of names and lines of values, fields quoted where they must be."""
    if text.count(separator) > MAX_TEXT_CELLS:
        raise CatalogueError(f"the table has more than {MAX_TEXT_CELLS} cells, the limit")
    stripped = (line.strip() for line in lines) if separator == " " else lines
    reader = csv.reader(stripped, delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for row in reader:
            if not row[0].startswith("#"):
                rows.append(row)
                _check_row(rows, len(names))
    except csv.Error:
        raise CatalogueError(UNKNOWN) from None
    return _Raw(form, names, _transposed(rows, len(names)), [units.get(name, "") for name in names])


def _read_votable(data: bytes) -> _Raw:
    found = read_votable_rows(data, MAX_ROWS, MAX_COLUMNS, MAX_TEXT_CELLS)
    units = [one.unit for one in found.fields]
    return _Raw("votable", [one.name for one in found.fields], found.columns, units, _first_of(found.tables))


def _first_of(tables: int) -> list[str]:
    return [f"the catalogue holds {tables} tables of sources; the first is used"] if tables > 1 else []


def _read_json(data: bytes) -> _Raw:
    """The `detections` of our own answer, of several frames the first; or a list of objects, one a row."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MAX_TEXT_CELLS:
        raise CatalogueError(f"the JSON has more than {MAX_TEXT_CELLS} values, the limit")
    try:
        found = json.loads(data)
    except ValueError:
        raise CatalogueError("the catalogue looks like JSON and is not well-formed") from None
    frames = found.get("frames", [found]) if isinstance(found, dict) else [{"detections": found}]
    rows = frames[0].get("detections") if frames and isinstance(frames[0], dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CatalogueError("the JSON holds no list of detections")
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["x", "y"]
    if len(names) > MAX_COLUMNS or len(names) * len(rows) > MAX_CELLS:
        raise CatalogueError(f"the JSON has more than {MAX_COLUMNS} names or {MAX_CELLS} values, the limits")
    columns = {name: [row.get(name) for row in rows] for name in names}
    edges = zip(*(box if _is_box(box) else [None] * 4 for box in columns.pop("box", [])), strict=True)
    columns.update(zip(BOX, map(list, edges), strict=False))
    arrays = [_json_column(values) for values in columns.values()]
    return _Raw("json", list(columns), arrays, [""] * len(columns), _first_of(len(frames)))


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == len(BOX)


def _json_column(values: list[Any]) -> Sequence[str] | NDArray[Any] | None:
    """Numbers where all are numbers or null, else text; None for what is neither."""
    if any(isinstance(value, list | dict) for value in values):
        return None
    if any(isinstance(value, str) for value in values):
        return ["" if value is None else str(value) for value in values]
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def _read_fits(data: bytes) -> _Raw:
    """FITS_LDAC, or the first table that has rows and says where they are, or the first at all."""
    hdus = open_fits(data, Limits(bytes=MAX_BYTES))
    tables = [hdu for hdu in hdus if hdu.kind == "table" and not hdu.fault]
    objects = [hdu for hdu in tables if hdu.name.upper() == "LDAC_OBJECTS"]
    placed = objects or [hdu for hdu in tables if not {*_fits_names(hdu)}.isdisjoint(POSITIONS)]
    if not tables:
        fault = f": {hdus[-1].describe()}" if hdus[-1].fault else ""
        raise CatalogueError(f"the FITS file holds no table{fault}")
    chosen = next((hdu for hdu in placed if objects or number(hdu.header, "NAXIS2")), [*placed, *tables][0])
    names, columns, units = _fits_columns(chosen)
    return _Raw("ldac" if objects else "fits", names, columns, units, _first_of(len(placed)))


def _fits_names(hdu: Hdu) -> list[str]:
    count = min(int(number(hdu.header, "TFIELDS") or 0), MAX_COLUMNS + 1)
    return [str(hdu.header.get(f"TTYPE{index}", "")).strip().upper() for index in range(1, count + 1)]


def _fits_columns(hdu: Hdu) -> tuple[list[str], list[NDArray[Any] | list[str]], list[str]]:
    """Names, values and units of a table's columns of numbers and text."""
    rows, fields = (int(number(hdu.header, key) or 0) for key in ("NAXIS2", "TFIELDS"))
    if rows > MAX_ROWS or fields > MAX_COLUMNS:
        raise CatalogueError(f"the table has more than {MAX_ROWS} rows or {MAX_COLUMNS} columns, the limits")
    header = hdu.file[hdu.start : hdu.data_start].translate(PRINTABLE)
    data = hdu.file[hdu.data_start : hdu.data_start + hdu.data_size]
    kind = fits.TableHDU if hdu.header.get("XTENSION") == "TABLE" else fits.BinTableHDU
    found: list[tuple[str, NDArray[Any] | list[str], str]] = []
    with quiet():
        table = kind.fromstring(header + data.ljust(blocks(hdu.data_size), b"\0"))
        for column in table.columns:
            for name, values in _fits_values(table, column, kind is fits.TableHDU):
                found.append((name, values, column.unit or ""))
                if len(found) * rows > MAX_CELLS:
                    raise CatalogueError(f"the table has more than {MAX_CELLS} cells, the limit")
    return [name for name, _, _ in found], [values for _, values, _ in found], [unit for _, _, unit in found]


def _fits_values(table: Any, column: Any, text: bool) -> Iterator[tuple[str, NDArray[Any] | list[str]]]:
    """A column, or the elements of one that is a vector; nothing of bits, complex numbers and lists."""
    code = str(column.format).lstrip("0123456789")[:1]
    if code not in ("AIFED" if text else "ALBIJKED") or not column.name:
        return
    values = np.asarray(table.data.field(column.name))
    if code == "A":
        if values.ndim == 1:
            yield column.name, [str(value) for value in values.tolist()]
        return
    numbers = values.reshape(len(values), prod(values.shape[1:])).astype(np.float64)
    if isinstance(column.null, int) and not column.bscale and not column.bzero:
        numbers[numbers == column.null] = np.nan
    for element in range(min(numbers.shape[1], MAX_VECTOR)):
        yield _element(column.name, element + 1), numbers[:, element]


def _catalogue(raw: _Raw) -> Catalogue:
    """Upper-case names, numbers where they are numbers, and NaN for what means missing."""
    columns: dict[str, NDArray[Any]] = {}
    units: dict[str, str] = {}
    warnings = list(raw.warnings)
    for name, values, unit in zip(raw.names, raw.columns, raw.units, strict=True):
        key = name.strip().upper()
        if key in columns:
            warnings.append(f"the catalogue has several columns {key[:40]!r}; the first is used")
        elif key and values is not None:
            columns[key] = _cleaned(key, _array(values))
            units.update({key: unit} if unit else {})
    return Catalogue(columns, raw.format, units, tuple(dict.fromkeys(warnings)))


def _array(values: Sequence[str] | NDArray[Any]) -> NDArray[Any]:
    """Numbers if all that is there is a number, else text."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    try:
        return np.array(values, np.float64)
    except ValueError:
        pass
    plain = (value.strip().lower() for value in values)
    try:
        return np.array(["nan" if value in MISSING else TRUTHS.get(value, value) for value in plain], np.float64)
    except ValueError:
        return np.array(values, object)


def _cleaned(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """NaN for what SExtractor, and pipelines behind it, write where there is no value."""
    if values.dtype.kind != "f":
        return values
    missing = ~np.isfinite(values)
    with np.errstate(invalid="ignore"):
        if name.startswith("MAG"):
            missing |= np.abs(values) >= NO_MAGNITUDE
        elif name == "FWHM_WORLD" or name.startswith("THETA_"):
            missing |= values == NO_MAGNITUDE
        elif name == "ELLIPTICITY":
            missing |= (values < 0) | (values > 1)
        elif name.startswith("FLUX_RADIUS"):
            missing |= (values <= 0) | (values >= LARGEST_RADIUS)
    return np.where(missing, np.nan, values)
