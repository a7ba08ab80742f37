import json
import re
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from astropy.io import ascii as astropy_ascii
from astropy.io import fits
from astropy.io.votable import parse
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lynceus.catalogue import COLUMNS, FORMATS, Block, ModelInfo, format_named, write_error_votable
from lynceus.detections import Detections
from lynceus.errors import FormatError
from lynceus.frame import Facts, Frame
from lynceus.sources import FrameSummary, Sources

SUMMARY = FrameSummary(100.0, 5.0, None, None, 5.0, None, None, 0.0, None)
MODEL = ModelInfo("compact", "1.0", "stable", "ab" * 32)
HOSTILE = 'a<b>&"c\x07, é\n\u2028]]>'
Edges = tuple[str, str, str, str]


def block_of(count: int, seed: int = 0, *, zero_point: bool = False, unknown: float = 0.0, **parts) -> Block:
    """A block of random sources, a share of their measurements unknown."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 4000, (2, count))
    half = rng.uniform(2, 60, (2, count))
    boxes = np.stack([x - half[0], y - half[1], x + half[0], y + half[1]], axis=1).astype(np.float32)
    found = Detections(boxes, np.sort(rng.random(count))[::-1].astype(np.float32), np.zeros(count, np.int64))

    def some(low: float, high: float) -> NDArray[np.floating]:
        values = rng.uniform(low, high, count)
        return np.where(rng.random(count) < unknown, np.nan, values)

    magnitude = some(10, 25) if zero_point else None
    sources = Sources(
        found, x, y, some(0, 360), some(-90, 90), some(-10, 1e6), some(0, 1e3), some(-10, 1e6), some(0, 1e3),
        some(0, 1e3), some(1, 20), some(0, 1), some(-90, 90), some(1, 9), some(1, 9),
        rng.integers(0, 32, count), magnitude, magnitude,
    )  # fmt: skip
    frame = Frame(np.zeros((8, 9), np.float32), Facts(exposure_time=30.0), sha256="cd" * 32, hdu=parts.pop("hdu", 0))
    return Block(frame, sources, SUMMARY, MODEL, timing_ms={"decode": 1.5}, **parts)


def read_json(data: bytes, block: Block) -> Table:
    rows = json.loads(data)["detections"]
    names = list(rows[0]) if rows else [column.name for column in COLUMNS]
    columns = {name: [np.nan if row[name] is None else row[name] for row in rows] for name in names if name != "box"}
    boxes = np.array([row["box"] for row in rows], float).reshape(-1, 4)
    return Table({**columns, **dict(zip(("x_min", "y_min", "x_max", "y_max"), boxes.T, strict=True))})


def read_votable(data: bytes, block: Block) -> Table:
    return parse(BytesIO(data), verify="exception").get_first_table().to_table(use_names_over_ids=True)


def read_sextractor(data: bytes, block: Block) -> Table:
    if len(block.sources) == 0:
        names = re.findall(r"^# +\d+ (\w+)", data.decode(), re.MULTILINE)
        table = Table({name: np.zeros(0) for name in names})
    else:
        table = Table(astropy_ascii.read(data.decode(), format="sextractor"))
    return with_our_names(table)


def read_ldac(data: bytes, block: Block) -> Table:
    return with_our_names(Table.read(BytesIO(data), format="fits", hdu=2))


def with_our_names(table: Table) -> Table:
    for column in COLUMNS:
        if column.sextractor in table.colnames:
            table.rename_column(column.sextractor, column.name)
    return table


# format -> reader, what a 0-based centre reads, what a lower and an upper edge read
READERS = {
    "json": (read_json, 0.0, 0.0, 0.0),
    "votable": (read_votable, 1.0, 0.5, 0.5),
    "ecsv": (lambda data, _: Table.read(data.decode(), format="ascii.ecsv"), 0.0, 0.0, 0.0),
    "csv": (lambda data, _: Table.read(data.decode(), format="ascii.csv"), 0.0, 0.0, 0.0),
    "fits": (lambda data, _: Table.read(BytesIO(data), format="fits", hdu=1), 1.0, 0.5, 0.5),
    "ldac": (read_ldac, 1.0, 1.0, 0.0),
    "sextractor": (read_sextractor, 1.0, 1.0, 0.0),
}


@pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=8, deadline=None)
@given(st.sampled_from([0, 1, 7]), st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 0.4, 1.0]))
def test_what_is_read_is_what_was_written(name, count, seed, zero_point, unknown):
    block = block_of(count, seed, zero_point=zero_point, unknown=unknown)
    read, centre, low, high = READERS[name]
    table = read(FORMATS[name].write([block]), block)
    shifts = {"x": centre, "y": centre, "x_min": low, "y_min": low, "x_max": high, "y_max": high}
    assert len(table) == count
    for column in COLUMNS:
        values = column.values(block)
        if values is None:
            assert column.name not in table.colnames or name == "json"
            continue
        if count == 0:
            continue
        found = table[column.name]
        if values.dtype.kind == "U":
            assert list(map(str, found)) == values.tolist()
            continue
        numbers = np.ma.filled(np.ma.asarray(found, float), np.nan)
        np.testing.assert_allclose(numbers, values + shifts.get(column.name, 0.0), rtol=1e-8, atol=1e-6)


def test_ds9_holds_the_boxes_in_fits_pixels():
    block = block_of(5)
    text = FORMATS["ds9"].write([block]).decode()
    rows = np.array([list(map(float, row.split(",")))[:4] for row in re.findall(r"box\((.*?)\)", text)])
    x, y = block.sources.detections.centres
    sides = block.sources.detections.boxes[:, 2:] - block.sources.detections.boxes[:, :2]
    np.testing.assert_allclose(rows, np.column_stack([x + 1, y + 1, sides]), atol=1e-3)


def test_every_ucd_is_a_word_of_the_vocabulary():
    for column in COLUMNS:
        assert check_ucd(column.ucd, check_controlled_vocabulary=True), column.ucd


def test_the_json_says_what_the_design_promises():
    answer = json.loads(FORMATS["json"].write([block_of(3, warnings=("odd",), overflow=True)]))
    assert list(answer) == [
        "schema_version", "frame", "model", "warnings", "timing_ms", "count", "overflow", "detections"
    ]  # fmt: skip
    assert {"sha256", "shape", "hdu", "background", "noise", "fwhm_px", "pixel_scale_arcsec", "wcs"} <= set(
        answer["frame"]
    )
    assert answer["model"] == {"name": "compact", "version": "1.0", "track": "stable", "sha256": "ab" * 32}
    assert (answer["count"], answer["overflow"], answer["warnings"]) == (3, True, ["odd"])
    assert list(answer["detections"][0])[:7] == ["id", "x", "y", "box", "score", "class", "ra"]


def test_several_blocks_are_told_apart():
    blocks = [block_of(2, hdu=1), block_of(3, hdu=4)]
    written = {name: form.write(blocks) for name, form in FORMATS.items()}
    answer = json.loads(written["json"])
    assert [(block["frame"]["hdu"], block["count"]) for block in answer["frames"]] == [(1, 2), (4, 3)]
    assert answer["count"] == 5
    tables = parse(BytesIO(written["votable"]), verify="exception").resources[0].tables
    assert [len(table.array) for table in tables] == [2, 3]
    identifiers = re.findall(r'\bID="([^"]*)"', written["votable"].decode())
    assert len(identifiers) == len(set(identifiers))
    with fits.open(BytesIO(written["fits"])) as hdus:
        assert [hdu.header["FRAMEHDU"] for hdu in hdus[1:]] == [1, 4]
    with fits.open(BytesIO(written["ldac"])) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["LDAC_IMHEAD", "LDAC_OBJECTS"] * 2
    for name in ("ecsv", "csv"):
        assert list(Table.read(written[name].decode(), format=f"ascii.{name}")["hdu"]) == [1, 1, 4, 4, 4]
    extensions = Table(astropy_ascii.read(written["sextractor"].decode(), format="sextractor"))["EXT_NUMBER"]
    assert list(extensions) == [1, 1, 4, 4, 4]
    assert written["ds9"].decode().count("# tile") == 2


def test_the_votable_says_where_it_comes_from():
    table = parse(BytesIO(FORMATS["votable"].write([block_of(1)])), verify="exception")
    params = {param.name: param.value for param in table.get_first_table().params}
    assert params["model_sha256"] == "ab" * 32
    assert params["frame_sha256"] == "cd" * 32
    assert params["model_version"] == "1.0"
    assert table.resources[0].type == "results"
    assert table.resources[0].coordinate_systems[0].system == "ICRS"
    fields = {field.name: field for field in table.get_first_table().fields}
    assert fields["ra"].ref == fields["dec"].ref == "icrs"


def test_overflow_stands_behind_the_table():
    text = FORMATS["votable"].write([block_of(2, overflow=True)]).decode()
    assert text.index('value="OK"') < text.index("<TABLE") < text.index("</TABLE>") < text.index('value="OVERFLOW"')
    parse(BytesIO(text.encode()), verify="exception")
    assert "OVERFLOW" not in FORMATS["votable"].write([block_of(2)]).decode()


def test_an_error_votable_says_the_error():
    table = parse(BytesIO(write_error_votable(f"no <frame> & {HOSTILE}", "not_fits")), verify="exception")
    infos = {info.name: info for info in table.resources[0].infos}
    assert infos["QUERY_STATUS"].value == "ERROR"
    assert infos["QUERY_STATUS"].content.startswith("no <frame> &")
    assert infos["CODE"].value == "not_fits"


@pytest.mark.parametrize("name", FORMATS)
def test_no_header_text_breaks_a_format(name):
    block = block_of(2)
    facts = replace(block.frame.facts, filter=HOSTILE, date_obs=HOSTILE)
    hostile = replace(block, frame=replace(block.frame, facts=facts, name=HOSTILE), warnings=(HOSTILE,))
    data = FORMATS[name].write([hostile])
    if name in READERS:
        assert len(READERS[name][0](data, hostile)) == 2
    if name in ("votable", "sextractor", "ds9", "csv"):
        assert data.isascii()


def test_the_ldac_header_holds_what_scamp_asks_for():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [10.0, -20.0], [-3e-4, 3e-4]
    block = block_of(2)
    block = replace(block, frame=replace(block.frame, wcs=wcs, facts=Facts(exposure_time=30.0, filter="r")))
    with fits.open(BytesIO(FORMATS["ldac"].write([block]))) as hdus:
        cards = hdus["LDAC_IMHEAD"].data["Field Header Card"][0]
    header = fits.Header.fromstring("".join(f"{card:80s}" for card in cards))
    assert header[0] is True
    assert (header["NAXIS1"], header["NAXIS2"], header["EXPTIME"], header["FILTER"]) == (9, 8, 30.0, "r")
    assert WCS(header).wcs.crval.tolist() == [10.0, -20.0]


def test_the_largest_list_is_written_in_time():
    block = block_of(50_000, unknown=0.1)
    start = time.process_time()
    FORMATS["json"].write([block])
    assert time.process_time() - start < 3  # half of that on an idle core


def test_formats_go_by_name_in_any_case():
    assert format_named(" VOTable ").name == "votable"
    with pytest.raises(FormatError, match="json, votable"):
        format_named("jpeg")
