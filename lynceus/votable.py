"""Blocks as a VOTable, and errors as one."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from astropy.io.votable.tree import CooSys, Field, Info, Param, Resource, TableElement, VOTableFile

from lynceus.cells import cells_of, rows_of
from lynceus.columns import Block, columns_of, facts_of, plain

FRAME_OF_REFERENCE, OVERFLOW = "icrs", "overflow"  # XML identifiers
UNITS = {"background": "adu", "noise": "adu", "fwhm_px": "pix", "fwhm_arcsec": "arcsec", "pixel_scale_arcsec": "arcsec",
         "exptime": "s", "limiting_flux": "adu", "limiting_mag": "mag"}  # fmt: skip
DATATYPES = {"i": "long", "f": "double", "U": "char"}


def write_votable(blocks: Sequence[Block]) -> bytes:
    """One TABLE a frame, in a RESOURCE of type results, as DALI asks.

    INFO QUERY_STATUS says OK before the tables and, where a list was cut, OVERFLOW after them.
    """
    file, resource = _results("OK", "")
    for block in blocks:
        prefix = f"hdu{block.frame.hdu}_" if len(blocks) > 1 else ""  # an XML identifier stands once in a file
        resource.tables.append(_table(file, block, prefix))
    if any(block.overflow for block in blocks):
        resource.infos.append(Info(ID=OVERFLOW, name="QUERY_STATUS", value="OVERFLOW"))
    return _overflow_last(_filled(_serialised(file), blocks))


def write_error_votable(message: str, code: str) -> bytes:
    """An error in DALI's form: INFO QUERY_STATUS with the value ERROR, and no table.

    Parameters
    ----------
    message : str
        In the user's words.
    code : str
        The stable name of the error.
    """
    file, resource = _results("ERROR", plain(message))
    resource.infos.append(Info(name="CODE", value=code))
    return _serialised(file)


def _results(status: str, message: str) -> tuple[VOTableFile, Resource]:
    file = VOTableFile(version="1.4")
    resource = Resource(type="results")
    file.resources.append(resource)
    info = Info(name="QUERY_STATUS", value=status)
    info.content = message
    resource.infos.append(info)
    resource.coordinate_systems.append(CooSys(ID=FRAME_OF_REFERENCE, system="ICRS"))
    return file, resource


def _table(file: VOTableFile, block: Block, prefix: str) -> TableElement:
    table = TableElement(file, name=f"sources_hdu{block.frame.hdu}")
    for column, values in columns_of(block, "fits"):
        kind = DATATYPES[values.dtype.kind]
        equatorial = {"ref": FRAME_OF_REFERENCE} if column.name in ("ra", "dec") else {}
        table.fields.append(
            Field(
                file,
                name=column.name,
                ID=prefix + column.name,
                datatype=kind,
                arraysize="*" if kind == "char" else None,
                unit=column.unit or None,
                ucd=column.ucd,
                **equatorial,
            )
        )
        table.fields[-1].description = column.described("fits")
    for name, value, unit in _provenance(block):
        table.params.append(_param(file, name, prefix + name, value, unit))
    for number, warning in enumerate(block.warnings, start=1):
        table.infos.append(Info(ID=f"{prefix}warning_{number}", name="WARNING", value=plain(warning)))
    return table


def _filled(text: bytes, blocks: Sequence[Block]) -> bytes:
    """The document with the rows of its tables: astropy would write them cell by cell."""
    *tables, rest = text.split(b"</TABLE>")
    return b"</TABLE>".join([head + _data(block) for head, block in zip(tables, blocks, strict=True)] + [rest])


def _data(block: Block) -> bytes:
    if not len(block.sources):
        return b""
    columns = [cells_of(values, b"NaN", escape) for _, values in columns_of(block, "fits")]
    rows = rows_of(columns, b"<TR><TD>", b"</TD><TD>", b"</TD></TR>\n")
    return b"<DATA>\n<TABLEDATA>\n" + rows + b"</TABLEDATA>\n</DATA>\n"


def _provenance(block: Block) -> list[tuple[str, Any, str]]:
    """Name, value and unit of what a reader must know to trust the table."""
    model = block.model
    made = [("model_name", model.name), ("model_version", model.version), ("model_track", model.track)]
    facts = {
        name: value
        for name, value in facts_of(block.frame, block.summary).items()
        if name not in ("shape", "wcs", "sha256")
    }
    height, width = block.frame.shape
    rows: list[tuple[str, Any, str]] = [(name, plain(value), "") for name, value in made]
    rows += [("model_sha256", model.sha256, ""), ("frame_sha256", block.frame.sha256, "")]
    rows += [("frame_width", width, "pix"), ("frame_height", height, "pix")]
    return rows + [(name, value, UNITS.get(name, "")) for name, value in facts.items() if value not in (None, "")]


def _param(file: VOTableFile, name: str, identifier: str, value: Any, unit: str) -> Param:
    kind = "char" if isinstance(value, str) else "long" if isinstance(value, int) else "double"
    size = "*" if kind == "char" else None
    return Param(file, name=name, ID=identifier, value=value, datatype=kind, arraysize=size, unit=unit or None)


def _serialised(file: VOTableFile) -> bytes:
    output = BytesIO()
    file.to_xml(output)
    return output.getvalue()


def _overflow_last(text: bytes) -> bytes:
    """DALI wants OVERFLOW behind the table; astropy writes every INFO before it."""
    start = text.find(b'<INFO ID="%s"' % OVERFLOW.encode())
    if start < 0:
        return text
    end = text.index(b">", start) + 1
    place = text.rindex(b"</RESOURCE>")
    return text[:start].rstrip() + text[end:place] + b" " + text[start:end] + b"\n " + text[place:]
