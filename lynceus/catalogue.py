"""Blocks of sources in the formats people read: JSON, VOTable, ECSV, CSV, FITS, FITS_LDAC, SExtractor, DS9."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import orjson
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray

from lynceus.cells import cells_of, rows_of
from lynceus.columns import COLUMNS, Block, ModelInfo, Origin, columns_of, facts_of, plain
from lynceus.errors import FormatError
from lynceus.frame import Frame
from lynceus.votable import write_error_votable, write_votable

__all__ = ["COLUMNS", "FORMATS", "Block", "Format", "ModelInfo", "format_named", "write_error_votable"]

SCHEMA_VERSION = "1.0"
BOX = ("x_min", "y_min", "x_max", "y_max")
FORMS = {"f": "%.10g", "i": "%d", "U": "%s"}  # of a cell, by the kind of its column
WORD = re.compile(r"[\w.+-]+")
CARD = 80  # characters of a FITS header card
COLOURS = ("green", "cyan", "magenta", "yellow", "red", "blue")


@dataclass(frozen=True)
class Format:
    """An output format.

    Attributes
    ----------
    name, media_type, extension : str
        As asked for, as answered, and of a file that holds it.
    write : callable
        Takes one block or several, gives the file's bytes.
    """

    name: str
    media_type: str
    extension: str
    write: Callable[[Sequence[Block]], bytes]


def format_named(name: str) -> Format:
    """Find a format by name, in any case.

    Raises
    ------
    FormatError
        If there is none; the text lists those there are.
    """
    known = FORMATS.get(name.strip().lower())
    if known is None:
        raise FormatError(f"no format {name[:40]!r}; formats are {', '.join(FORMATS)}")
    return known


def table_of(block: Block, origin: Origin) -> Table:
    """A block as an astropy table, with units, UCDs and descriptions, the frame's facts in its `meta`."""
    table = Table()
    for column, values in columns_of(block, origin):
        table[column.name] = values
        table[column.name].unit = column.unit or None
        table[column.name].description = column.described(origin)
        table[column.name].meta["ucd"] = column.ucd
    table.meta = {
        "frame": facts_of(block.frame, block.summary),
        "model": asdict(block.model) | {"classes": list(block.model.classes)},
        "warnings": list(block.warnings),
    }
    return table


def write_json(blocks: Sequence[Block]) -> bytes:
    """One object for one block; `frames` of several. NaN and infinity become null: JSON knows neither."""
    written = [_json_block(block) for block in blocks]
    if len(written) == 1:
        return orjson.dumps({"schema_version": SCHEMA_VERSION, **written[0]})
    total = {"count": sum(block["count"] for block in written), "overflow": any(block["overflow"] for block in written)}
    return orjson.dumps({"schema_version": SCHEMA_VERSION, **total, "frames": written})


def _json_block(block: Block) -> dict[str, Any]:
    model = {name: value for name, value in asdict(block.model).items() if name != "classes"}
    return {
        "frame": facts_of(block.frame, block.summary),
        "model": model,
        "warnings": list(block.warnings),
        "timing_ms": block.timing_ms,
        "count": len(block.sources),
        "overflow": block.overflow,
        "detections": _json_rows(block),
    }


def _json_rows(block: Block) -> list[dict[str, Any]]:
    columns = {column.name: values.tolist() for column, values in columns_of(block, "array")}
    boxes = [list(box) for box in zip(*(columns.pop(edge) for edge in BOX), strict=True)]
    names = [*list(columns)[:3], "box", *list(columns)[3:]]
    columns["box"] = boxes
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def write_ecsv(blocks: Sequence[Block]) -> bytes:
    """Astropy's ECSV; several blocks are told apart by a column `hdu`."""
    return _text(_stacked(blocks), "ascii.ecsv", " ")


def write_csv(blocks: Sequence[Block]) -> bytes:
    """Comma-separated with a line of names; several blocks are told apart by a column `hdu`."""
    return _text(_stacked(blocks), "ascii.csv", ",")


def _stacked(blocks: Sequence[Block]) -> Table:
    if len(blocks) == 1:
        return table_of(blocks[0], "array")
    tables = [table_of(block, "array") for block in blocks]
    for table, block in zip(tables, blocks, strict=True):
        table.add_column(np.full(len(table), block.frame.hdu), name="hdu", index=0)
    meta = [table.meta for table in tables]
    stacked = vstack(tables, metadata_conflicts="silent").filled(np.nan)
    stacked.meta = {"frames": meta}
    return stacked


def _text(table: Table, form: str, delimiter: str) -> bytes:
    """Astropy's head of a table, and its rows: astropy would write them cell by cell."""
    head = StringIO()
    table[:0].write(head, format=form)
    columns = [cells_of(np.asarray(table[name]), b"nan", _quoted) for name in table.colnames]
    return head.getvalue().encode() + rows_of(columns, b"", delimiter.encode(), b"\n")


def _quoted(text: str) -> str:
    """A cell that a reader of separated values takes for one."""
    return text if WORD.fullmatch(text) else '"' + text.replace('"', '""') + '"'


def write_fits(blocks: Sequence[Block]) -> bytes:
    """A binary table a block, behind an empty primary HDU."""
    return _fits([_table_hdu(block, f"SOURCES{index or ''}") for index, block in enumerate(blocks)])


def write_ldac(blocks: Sequence[Block]) -> bytes:
    """FITS_LDAC, as SCAMP and PSFEx read it: a pair of tables a block, SExtractor's column names."""
    pairs = [(_header_hdu(block), _table_hdu(block, "LDAC_OBJECTS", sextractor=True)) for block in blocks]
    return _fits([hdu for pair in pairs for hdu in pair])


def _table_hdu(block: Block, name: str, sextractor: bool = False) -> fits.BinTableHDU:
    columns = []
    for column, values in columns_of(block, "fits"):
        data = _sextractor_values(column.name, block) if sextractor and column.pixel else values
        kind = f"{max(values.dtype.itemsize // 4, 1)}A" if values.dtype.kind == "U" else "DJ"[values.dtype.kind == "i"]
        title = column.sextractor if sextractor else column.name
        columns.append(fits.Column(name=title, format=kind, unit=column.unit or None, array=data))
    hdu = fits.BinTableHDU.from_columns(columns, name=name)
    for keyword, value, comment in _cards(block):
        hdu.header[keyword] = (value, comment)
    return hdu


def _cards(block: Block) -> list[tuple[str, Any, str]]:
    return [
        ("MODEL", plain(block.model.name)[:60], "what found the sources"),
        ("MODELVER", plain(block.model.version)[:60], ""),
        ("MODELSHA", block.model.sha256[:64], ""),
        ("FRAMESHA", block.frame.sha256[:64], ""),
        ("FRAMEHDU", block.frame.hdu, "HDU of the frame"),
        ("OVERFLOW", block.overflow, "there were more sources"),
    ]


def _header_hdu(block: Block) -> fits.BinTableHDU:
    """The frame's header as one string, which is how LDAC carries it."""
    header = _frame_header(block.frame)
    text = header.tostring(sep="", endcard=True, padding=False)
    cards = np.array([[text[start : start + CARD] for start in range(0, len(text), CARD)]])
    count = cards.shape[1]
    column = fits.Column(name="Field Header Card", format=f"{CARD * count}A", dim=f"({CARD}, {count})", array=cards)
    return fits.BinTableHDU.from_columns([column], name="LDAC_IMHEAD")


def _frame_header(frame: Frame) -> fits.Header:
    """What SCAMP and PSFEx ask of a frame's header: its size and WCS, and what tells exposures apart."""
    height, width = frame.shape
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", width), ("NAXIS2", height)])
    if frame.wcs is not None:
        header.update(frame.wcs.to_header(relax=True))
    facts = frame.facts
    told = {
        "EXPTIME": facts.exposure_time, "GAIN": facts.gain, "SATURATE": facts.saturation, "FILTER": facts.filter,
        "DATE-OBS": facts.date_obs,
    }  # fmt: skip
    for keyword, value in told.items():
        if value is not None:
            header[keyword] = plain(value)[:60] if isinstance(value, str) else value
    return header


def _fits(hdus: Sequence[fits.BinTableHDU]) -> bytes:
    output = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(output)
    return output.getvalue()


def _sextractor_values(name: str, block: Block) -> NDArray[Any]:
    """A position as SExtractor counts it; its XMIN and XMAX are inclusive, so that edges are XMIN - 1 and XMAX."""
    column = next(column for column in COLUMNS if column.name == name)
    values = column.values(block)
    return np.asarray(values) + column.sextractor_shift


def write_sextractor(blocks: Sequence[Block]) -> bytes:
    """SExtractor's ASCII_HEAD; several blocks are told apart by a last column EXT_NUMBER."""
    names: list[tuple[str, str, str]] = []
    rows: list[str] = []
    several = len(blocks) > 1
    for block in blocks:
        present = list(columns_of(block, "fits"))
        heads = [(column.sextractor, column.description, column.unit) for column, _ in present]
        names = heads if len(heads) > len(names) else names
        columns = [_sextractor_values(column.name, block) if column.pixel else values for column, values in present]
        form = " ".join(FORMS[column.dtype.kind] for column in columns) + (f" {block.frame.hdu}" if several else "")
        rows += [form % row for row in zip(*map(_plain_values, columns), strict=True)]
    if several:
        names = [*names, ("EXT_NUMBER", "FITS extension number", "")]
    lines = [
        f"# {number:3d} {name:<22s} {description:<58s}" + (f" [{unit}]" if unit else "")
        for number, (name, description, unit) in enumerate(names, start=1)
    ]
    return ("\n".join([line.rstrip() for line in lines] + rows) + "\n").encode()


def _plain_values(column: NDArray[Any]) -> list[Any]:
    """Values that `%` writes as one word each."""
    if column.dtype.kind == "f":
        return list(np.where(np.isfinite(column), column, np.nan).tolist())
    return (
        [value.replace(" ", "_") or "-" for value in column.tolist()] if column.dtype.kind == "U" else column.tolist()
    )


def write_ds9(blocks: Sequence[Block]) -> bytes:
    """DS9 boxes in image coordinates; those of several blocks are headed by their extension (`# tile`)."""
    lines = ["# Region file format: DS9", 'global color=green width=1 font="helvetica 9 normal"']
    for number, block in enumerate(blocks, start=1):
        if len(blocks) > 1:
            lines += [f"# HDU {block.frame.hdu} {plain(block.frame.name)}".rstrip(), f"# tile {number}"]
        lines += ["image", *_regions(block)]
    return ("\n".join(lines) + "\n").encode()


def _regions(block: Block) -> list[str]:
    columns = {column.name: values for column, values in columns_of(block, "fits")}
    left, bottom, right, top = (columns[edge] for edge in BOX)
    colours = [COLOURS[label % len(COLOURS)] for label in block.sources.detections.labels]
    rows = zip((left + right) / 2, (bottom + top) / 2, right - left, top - bottom, colours, columns["id"], strict=True)
    return [
        f"box({x:.3f},{y:.3f},{width:.3f},{height:.3f},0) # color={colour} tag={{{number}}}"
        for x, y, width, height, colour, number in rows
    ]


FORMATS = {
    one.name: one
    for one in (
        Format("json", "application/json", ".json", write_json),
        Format("votable", "application/x-votable+xml", ".vot", write_votable),
        Format("ecsv", "text/x-ecsv", ".ecsv", write_ecsv),
        Format("csv", "text/csv", ".csv", write_csv),
        Format("fits", "application/fits", ".fits", write_fits),
        Format("ldac", "application/x-fits-ldac", ".cat", write_ldac),
        Format("sextractor", "text/x-sextractor", ".txt", write_sextractor),
        Format("ds9", "text/x-ds9-region", ".reg", write_ds9),
    )
}
