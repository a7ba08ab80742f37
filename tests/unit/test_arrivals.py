"""Files at rest, and whole ones."""

import bz2
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lynceus.arrivals import PATTERNS, Arrivals, Sighting, lacks, scan
from tests.fakes import fits_bytes

PLANE = np.arange(1500, dtype=np.float32).reshape(30, 50)
WHOLE = fits_bytes(PLANE, PLANE.astype(np.int16))
FIRST_END = 2880 + 3 * 2880  # a header and 6000 bytes of data
DATA = {1: (2880, 2880 + 6000), 2: (FIRST_END + 2880, FIRST_END + 2880 + 3000)}


def lacking(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "frame"
    path.write_bytes(data)
    return lacks(path)


def test_the_sizes_above_are_right() -> None:
    assert len(WHOLE) == FIRST_END + 3 * 2880


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(size=st.integers(0, len(WHOLE)))
def test_a_file_is_whole_once_its_data_are_there(tmp_path: Path, size: int) -> None:
    """At the end of the first HDU nothing tells that there will be a second one; only rest does."""
    ends = [range(end, end + 2880) for _, end in DATA.values()]
    whole = any(size in end and size <= -(-end.start // 2880) * 2880 for end in ends)
    assert (lacking(tmp_path, WHOLE[:size]) == "") == whole


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_compressed_file_is_whole_with_its_last_byte(tmp_path: Path, pack) -> None:
    packed = pack(WHOLE)
    assert lacking(tmp_path, packed) == ""
    for size in (len(packed) - 1, len(packed) // 2, 20):
        assert lacking(tmp_path, packed[:size]) != ""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (bytes(6000), "begins with zeros"),
        (b"SIMP", "no END card in the header of HDU 0"),
        (WHOLE[:400], "no END card in the header of HDU 0"),
        (WHOLE[:2881], "middle of the data of HDU 0"),
        (WHOLE[: FIRST_END + 6], "no END card in the header of HDU 1"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, data: bytes, why: str) -> None:
    assert why in lacking(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is no FITS file",
        b"\x89PNG and so on",
        b"\x1f\x8b" + bytes(range(200)),  # damaged gzip
        b"BZh" + bytes(range(200)),
        WHOLE + b"junk behind the last HDU",
        fits.Header([("SIMPLE", True), ("BITPIX", "wrong"), ("NAXIS", -3)]).tostring().encode(),
    ],
)
def test_what_is_wrong_is_for_the_service_to_say(tmp_path: Path, data: bytes) -> None:
    assert lacking(tmp_path, data) == ""


def test_tables_groups_and_tiles_add_up(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("words", "PB()", array=[[1, 2, 3], [4]])])
    tiles = fits.CompImageHDU(PLANE.astype(np.int16))
    groups = fits.GroupsHDU(fits.GroupData(np.ones((3, 1, 5, 6), np.float32), parnames=["u"], pardata=[[1, 2, 3]]))
    for hdus in ([fits.PrimaryHDU(), table, tiles], [groups]):
        path = tmp_path / "other.fits"
        fits.HDUList(hdus).writeto(path, overwrite=True)
        data = path.read_bytes()
        assert lacking(tmp_path, data) == ""
        assert "middle of the data" in lacking(tmp_path, data[:-2880])


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        lacks(tmp_path)


def test_a_file_is_at_rest_after_two_equal_looks() -> None:
    arrivals = Arrivals(settle=2.0)
    growing, grown, other = Sighting("a", 1, 1), Sighting("a", 2, 2), Sighting("b", 1, 1)
    assert arrivals.settled([growing], 0.0) == []
    assert arrivals.settled([grown, other], 2.0) == []
    assert arrivals.next_settling == 4.0
    assert arrivals.settled([grown, other], 3.9) == []
    assert arrivals.settled([grown], 4.0) == [grown]
    assert arrivals.unsettled == 0
    assert arrivals.settled([other], 9.0) == []


def test_a_look_finds_frames_and_nothing_else(tmp_path: Path) -> None:
    wanted = ["a.fits", "B.FIT.GZ", "night/c.fts", "night/deep/d.fits.fz"]
    unwanted = [".hidden.fits", "a.vot", "a.sources.fits", ".cache/e.fits", "out/f.fits", "night/out.txt"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "link.fits").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.fits")
    found = scan(tmp_path, PATTERNS, True, [tmp_path / "night" / ".." / "out"])
    assert sorted(one.name for one in found) == sorted(wanted)
    assert sorted(one.name for one in scan(tmp_path, PATTERNS, False)) == ["B.FIT.GZ", "a.fits"]
    assert {one.size for one in scan(tmp_path, ("a.*",), False)} == {len("a.fits"), len("a.vot")}


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "gone", PATTERNS, False)
