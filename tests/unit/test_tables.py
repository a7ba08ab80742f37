import bz2
import gzip
import json
import socket
import time
from io import BytesIO, StringIO

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lynceus import tables
from lynceus.box_rules import AXES, FITS_CENTRES, SKY
from lynceus.catalogue import COLUMNS, FORMATS
from lynceus.errors import CatalogueError
from lynceus.tables import POSITIONS, read_catalogue
from tests.data import test_data
from tests.unit.test_catalogue import block_of

READABLE = [name for name in FORMATS if name != "ds9"]
TABLE = Table({"x": [1.5, 2.5], "flux": [10, -99], "class": ["star", "galaxy"]})
HEAD = """#   1 X_IMAGE       Object position along x    [pixel]
#   2 Y_IMAGE       Object position along y    [pixel]
#   3 FLUX_APER     Flux vector                [count]
#   6 MAG_AUTO      Magnitude                  [mag]
#   7 FLAGS         Extraction flags
"""


def text(rows: str) -> bytes:
    return (HEAD + rows).encode()


def votable(table: Table, form: str) -> bytes:
    file = from_table(table)
    file.set_all_tables_format(form)
    output = BytesIO()
    file.to_xml(output)
    return output.getvalue()


def fits_table(*columns: fits.Column, kind=fits.BinTableHDU, name: str = "") -> bytes:
    output = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), kind.from_columns(list(columns), name=name)]).writeto(output)
    return output.getvalue()


@pytest.mark.parametrize("name", READABLE)
@settings(max_examples=6, deadline=None)
@given(st.sampled_from([0, 1, 7]), st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 0.4, 1.0]))
def test_our_own_lists_are_read_back(name, count, seed, zero_point, unknown):
    block = block_of(count, seed, zero_point=zero_point, unknown=unknown)
    catalogue = read_catalogue(FORMATS[name].write([block]))
    assert catalogue.format == {"sextractor": "ascii_head"}.get(name, name)
    assert len(catalogue) == count
    for column in COLUMNS:
        values = column.values(block)
        if values is None or count == 0 or column.pixel or values.dtype.kind == "U":
            continue
        key = column.sextractor if name in ("ldac", "sextractor") else column.name.upper()
        np.testing.assert_allclose(catalogue.columns[key], values, rtol=1e-8, atol=1e-6)


def test_columns_come_from_the_header_lines_and_never_from_their_order():
    catalogue = read_catalogue(text("1.0 2.0 5 6 7 18.5 0\n3.0 4.0 5 6 7 19.5 3\n"))
    assert list(catalogue.columns) == [
        "X_IMAGE", "Y_IMAGE", "FLUX_APER", "FLUX_APER(2)", "FLUX_APER(3)", "MAG_AUTO", "FLAGS"
    ]  # fmt: skip
    assert catalogue.columns["MAG_AUTO"].tolist() == [18.5, 19.5]
    assert catalogue.columns["FLUX_APER(3)"].tolist() == [7.0, 7.0]
    assert catalogue.units["X_IMAGE"] == "pixel"


def test_a_vector_may_be_the_last_column():
    catalogue = read_catalogue(b"# 1 X_IMAGE a\n# 2 FLUX_RADIUS b [pixel]\n 7 1 2 3\n")
    assert catalogue.columns["FLUX_RADIUS(3)"].tolist() == [3.0]


def test_a_catalogue_without_rows_is_a_catalogue():
    catalogue = read_catalogue(HEAD.encode())
    assert len(catalogue) == 0
    assert "FLAGS" in catalogue.columns
    assert len(read_catalogue(b'{"detections": []}')) == 0
    assert len(read_catalogue(b"x,y,flux\n")) == 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1 2 3 4 5 18 0\n1 2 3 4\n", "row 2 of the table has 4 values instead of 7"),
        ("1 2 3 4 5\n", "the header names column 7, but the rows have 5 values"),
    ],
)
def test_a_row_that_is_cut_short_is_told(rows, words):
    with pytest.raises(CatalogueError, match=words):
        read_catalogue(text(rows))


@pytest.mark.parametrize(
    ("name", "values", "missing"),
    [
        ("MAG_CALIB", [99, 99.5, -99, 18.2], [True, True, True, False]),
        ("MAGERR_AUTO", [99, 0.1, 0, 2], [True, False, False, False]),
        ("FLUX_RADIUS", [0, -1, 50000, 3], [True, True, True, False]),
        ("ELLIPTICITY", [99, -0.1, 0, 1], [True, True, False, False]),
        ("THETA_J2000", [99, -90, 90, 0], [True, False, False, False]),
        ("X_IMAGE", [99, 50000, -3, 0], [False, False, False, False]),
    ],
)
def test_what_means_missing_is_missing(name, values, missing):
    catalogue = read_catalogue(f"{name}\n".encode() + "\n".join(map(str, values)).encode())
    assert np.isnan(catalogue.columns[name]).tolist() == missing


def test_empty_and_masked_cells_are_missing():
    table = Table({"x": np.ma.array([1.0, 2.0], mask=[False, True]), "snr": [1.0, np.inf]})
    for form in ("ascii.ecsv", "ascii.csv"):
        output = StringIO()
        table.write(output, format=form)
        columns = read_catalogue(output.getvalue().encode()).columns
        np.testing.assert_array_equal(columns["X"], [1.0, np.nan])
        np.testing.assert_array_equal(columns["SNR"], [1.0, np.nan])
    assert np.isnan(read_catalogue(b"x,y\n--,null\n1,2\n").columns["X"][0])


@pytest.mark.parametrize("form", ["tabledata", "binary", "binary2"])
def test_every_serialisation_of_a_votable_is_read(form):
    table = Table(
        {
            "x": np.ma.array([1.5, 2.5, 3.5], mask=[False, True, False]),
            "number": np.array([1, 2, 3], np.int16),
            "name": ["a", "long name", "ü"],
            "fixed": np.array([[1.0, 2.0]] * 3),
            "good": [True, False, True],
            "y": np.float32([1, 2, 3]),
        }
    )
    catalogue = read_catalogue(votable(table, form))
    assert catalogue.format == "votable"
    np.testing.assert_array_equal(catalogue.columns["X"], [1.5, np.nan, 3.5])
    assert catalogue.columns["Y"].tolist() == [1.0, 2.0, 3.0]
    assert catalogue.columns["NUMBER"].tolist() == [1.0, 2.0, 3.0]
    assert catalogue.columns["NAME"][1] == "long name"


def votable_of(fields: str, data: str, before: str = "", prefix: str = "") -> bytes:
    p = f"{prefix}:" if prefix else ""
    space = f' xmlns{":" + prefix if prefix else ""}="http://www.ivoa.net/xml/VOTable/v1.3"'
    body = f"<{p}RESOURCE><{p}TABLE>{fields}<{p}DATA>{data}</{p}DATA></{p}TABLE></{p}RESOURCE>"
    return f'<?xml version="1.0"?>{before}<{p}VOTABLE version="1.3"{space}>{body}</{p}VOTABLE>'.encode()


def test_namespaces_and_nulls_of_a_votable():
    fields = (
        '<v:FIELD name="x" datatype="int" unit="pix"><v:VALUES null="-7"/></v:FIELD><v:FIELD name="y" datatype="int"/>'
    )
    rows = "<v:TABLEDATA><v:TR><v:TD>-7</v:TD><v:TD>-7</v:TD></v:TR><v:TR><v:TD>3</v:TD></v:TR></v:TABLEDATA>"
    catalogue = read_catalogue(votable_of(fields, rows, prefix="v"))
    np.testing.assert_array_equal(catalogue.columns["X"], [np.nan, 3.0])
    np.testing.assert_array_equal(catalogue.columns["Y"], [-7.0, np.nan])
    assert catalogue.units == {"X": "pix"}


X = '<FIELD name="x" datatype="double"/>'


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (votable_of(X, '<BINARY><STREAM href="http://10.0.0.1/x"/></BINARY>'), "another address"),
        (votable_of(X, '<FITS><STREAM href="file:///etc/passwd"/></FITS>'), "as FITS"),
        (votable_of(X, '<PARQUET type="VOTable-remote-file"/>'), "as PARQUET"),
        (votable_of(X, "<TABLEDATA/>", '<!DOCTYPE V [<!ENTITY a "b">]>'), "entities"),
        (votable_of(X, "<BINARY><STREAM encoding='gzip'>AAAA</STREAM></BINARY>"), "base64"),
        (votable_of(X, "<BINARY><STREAM encoding='base64'>AAAAAAAA</STREAM></BINARY>"), "inside a row"),
        (votable_of('<FIELD name="x" datatype="quad"/>', "<TABLEDATA/>"), "unknown datatype"),
        (votable_of('<FIELD name="x" datatype="int" arraysize="-1"/>', "<TABLEDATA/>"), "arraysize"),
        (votable_of(X, "<TABLEDATA><TR><TD>1</TD><TD>2</TD></TR></TABLEDATA>"), "more cells"),
        (b"<html><body>404</body></html>", "no VOTable TABLE"),
        (b"<VOTABLE><RESOURCE>", "not well-formed"),
        (b'<VOTABLE><INFO name="QUERY_STATUS" value="ERROR">no</INFO></VOTABLE>', "says that it is an error"),
    ],
)
def test_a_votable_fetches_nothing_and_expands_nothing(document, words, monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("the network was used"))
    with pytest.raises(CatalogueError, match=words):
        read_catalogue(document)


def test_a_votable_allocates_nothing_on_its_word():
    many = X.replace("/>", ' arraysize="99999999999"/>')
    assert len(read_catalogue(votable_of(X, "<TABLEDATA/>").replace(b"<TABLE>", b'<TABLE nrows="99999999999">'))) == 0
    with pytest.raises(CatalogueError):
        read_catalogue(votable_of(many, "<BINARY><STREAM encoding='base64'>AAAA</STREAM></BINARY>"))


def test_columns_of_a_fits_table():
    catalogue = read_catalogue(
        fits_table(
            fits.Column("x", "D", unit="pix", array=[1.0, 2.0]),
            fits.Column("flux_aper", "2E", array=[[1, 2], [3, 4]]),
            fits.Column("flags", "I", null=-1, array=np.array([3, -1], np.int16)),
            fits.Column("name", "8A", array=["one", "two"]),
            fits.Column("list", "PE()", array=np.array([[1.0], [2.0, 3.0]], object)),
            fits.Column("good", "L", array=[True, False]),
            fits.Column("counts", "I", bzero=32768, array=np.array([1, 40000], np.uint16)),
        )
    )
    assert catalogue.format == "fits"
    assert catalogue.columns["FLUX_APER(2)"].tolist() == [2.0, 4.0]
    np.testing.assert_array_equal(catalogue.columns["FLAGS"], [3.0, np.nan])
    assert catalogue.columns["NAME"].tolist() == ["one", "two"]
    assert catalogue.columns["GOOD"].tolist() == [1.0, 0.0]
    assert catalogue.columns["COUNTS"].tolist() == [1.0, 40000.0]
    assert "LIST" not in catalogue.columns
    assert catalogue.units == {"X": "pix"}


def test_a_fits_table_in_text():
    data = fits_table(
        fits.Column("X_IMAGE", "F10.3", array=[1.5, 2.5]), fits.Column("ID", "I6", array=[1, 2]), kind=fits.TableHDU
    )
    assert read_catalogue(data).columns["X_IMAGE"].tolist() == [1.5, 2.5]


def test_the_table_that_says_where_its_rows_are_is_taken():
    hdus = [fits.PrimaryHDU(np.zeros((9, 9)))]
    for columns in ({"history": [1]}, {"X_IMAGE": [], "Y_IMAGE": []}, {"X_IMAGE": [7.0], "Y_IMAGE": [8.0]}):
        hdus.append(fits.BinTableHDU(Table(columns, dtype=[float] * len(columns))))
    output = BytesIO()
    fits.HDUList(hdus).writeto(output)
    catalogue = read_catalogue(output.getvalue())
    assert catalogue.columns["X_IMAGE"].tolist() == [7.0]
    assert "2 tables of sources" in catalogue.warnings[0]


@pytest.mark.parametrize("name", ["ldac", "fits", "votable", "json"])
def test_of_several_blocks_the_first_is_used_and_told(name):
    catalogue = read_catalogue(FORMATS[name].write([block_of(3, hdu=1), block_of(5, hdu=2)]))
    assert len(catalogue) == 3
    assert catalogue.warnings == ("the catalogue holds 2 tables of sources; the first is used",)


def test_names_that_differ_in_case_alone_are_told():
    catalogue = read_catalogue(b"x,X,y\n1,2,3\n")
    assert catalogue.columns["X"].tolist() == [1.0]
    assert catalogue.warnings == ("the catalogue has several columns 'X'; the first is used",)


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", "])
def test_text_with_a_line_of_names(separator):
    rows = [["# x", "y", "name"], ["1.5", "2", '"a b"'], ["3", "4", "c"]]
    catalogue = read_catalogue("\r\n".join(separator.join(row) for row in rows).encode())
    assert catalogue.columns["X"].tolist() == [1.5, 3.0]
    assert catalogue.columns["NAME"].tolist() == ["a b", "c"]


def test_a_list_of_objects_in_json():
    rows = [{"x": 1, "box": [0, 1, 2, 3], "class": "star"}, {"x": None, "y": 2.5, "extra": {"deep": 1}}]
    columns = read_catalogue(json.dumps(rows).encode()).columns
    np.testing.assert_array_equal(columns["X"], [1.0, np.nan])
    np.testing.assert_array_equal(columns["X_MAX"], [2.0, np.nan])
    assert columns["CLASS"].tolist() == ["star", ""]
    assert "EXTRA" not in columns


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", READABLE)
def test_compressed_lists_are_read(name, pack):
    assert len(read_catalogue(pack(FORMATS[name].write([block_of(3)])))) == 3


def test_a_bomb_is_refused():
    with pytest.raises(CatalogueError, match="bytes, the limit"):
        read_catalogue(gzip.compress(bytes(tables.MAX_BYTES + 1), 1))


BINARY = ("fits", "ldac")
LIMITS = [(name, "MAX_COLUMNS", 4) for name in READABLE]
LIMITS += [(name, "MAX_ROWS", 6) for name in READABLE if name != "json"]  # whose values are limited instead
LIMITS += [(name, "MAX_CELLS" if name in BINARY else "MAX_TEXT_CELLS", 90) for name in READABLE]


@pytest.mark.parametrize(("name", "limit", "value"), LIMITS)
def test_limits_hold_in_every_format(name, limit, value, monkeypatch):
    data = FORMATS[name].write([block_of(7)])
    monkeypatch.setattr(tables, limit, value)
    with pytest.raises(CatalogueError, match="the limit"):
        read_catalogue(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"  \n\n", "empty"),
        (b"\x00\x01\x02", "no table of sources that is known"),
        (FORMATS["ds9"].write([block_of(2)]), "no table of sources that is known"),
        (b'{"detections": 3}', "no list of detections"),
        (b'{"frames": []}', "no list of detections"),
        (b"[" * 100_000, "cannot be read"),
        (b"{nonsense", "not well-formed"),
        (b'x,y\n"1,2\n', "no table of sources that is known"),
        (gzip.compress(text("1 2 3 4 5 6 7\n"), mtime=0)[:-10], "cut short or damaged"),
    ],
)
def test_what_is_no_catalogue_is_told(data, words):
    with pytest.raises(CatalogueError, match=words):
        read_catalogue(data)


def only_catalogue_errors(data: bytes) -> None:
    told = ""
    try:
        read_catalogue(data)
    except CatalogueError as error:
        told = str(error)
    assert "/work" not in told
    assert len(told) < 300


SEEDS = [FORMATS[name].write([block_of(2)]) for name in READABLE] + [
    text("1 2 3 4 5 18 0\n"),
    votable(TABLE, "binary"),
    votable(TABLE, "binary2"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"SIMPLE  =", b"<VOTABLE>", b"# %ECSV 1.0\n", b"[{", b"# 1 X a\n"])
)
def test_random_bytes_are_refused_or_read(data, start):
    only_catalogue_errors(start + data)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_lists_are_refused_or_read(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 8))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    only_catalogue_errors(bytes(damaged[: draw.draw(st.integers(0, len(data)))]) or b"\0")
    only_catalogue_errors(bytes(damaged))


def test_no_file_of_the_collection_breaks_it():
    files = [path for path in test_data("nasty").rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        only_catalogue_errors(path.read_bytes())


def test_tables_and_boxes_agree_on_what_a_position_is_called():
    assert {pair[0] for pair in (*FITS_CENTRES, *SKY)} <= set(POSITIONS)
    assert not {name for names in AXES for name in names} & set(POSITIONS)


@pytest.mark.parametrize("name", ["sextractor", "fits", "csv", "votable"])
def test_a_large_catalogue_is_read_in_time(name):
    data = FORMATS[name].write([block_of(50_000, unknown=0.1)])
    start = time.process_time()
    assert len(read_catalogue(data)) == 50_000
    assert time.process_time() - start < 4  # under 1.4 on an idle core
