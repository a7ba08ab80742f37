import os
import re
import shutil

import numpy as np
import pytest
from astropy.io import fits

from tests.unit.training.archives import (
    SCALE,
    SIDE,
    by_key,
    exposure,
    header,
    sky,
    star_field,
    write_catalogue,
    write_frame,
    write_pair,
)
from training.curation.curate import CurateSpec, curate
from training.curation.dataset import Exposure, read_dataset, read_frames_table
from training.curation.inspection import InspectionSpec, Place
from training.curation.pairs import Pair
from training.curation.sky_fields import shared_area
from training.errors import TrainingError

FIELDS = [star_field(seed) for seed in range(1, 5)]
SMALL = CurateSpec(inspection=InspectionSpec(thumbnail=96))


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """An archive in which one thing is wrong with each frame but the good ones, and its data set."""
    folder = tmp_path_factory.mktemp("archive")
    archive, out = folder / "archive", folder / "set"
    for index, field in enumerate(FIELDS[:3]):
        write_pair(archive / "night", f"good{index}", field, minute=index)
    write_pair(archive, "again0", FIELDS[0], dither=(20, -15), minute=10)
    pixels, positions = exposure(FIELDS[3], seed=20)
    cards = header(FIELDS[3], minute=20)
    frames = {
        "lonely": (None, pixels, 20),
        "empty": (positions[:0], pixels, 21),
        "shifted": (positions + np.array([7, -4]), pixels, 22),
        "from_zero": (positions - 1, pixels, 23),
        "swapped": (positions[:, ::-1], pixels, 24),
        "foreign": (exposure(FIELDS[0])[1], pixels, 25),
        "beside": (positions + 5000, pixels, 26),
    }
    for key, (rows, data, minute) in frames.items():
        write_frame(archive / f"{key}.fits", data + sky(minute, 0.0), header(FIELDS[3], minute=minute))
        if rows is not None:
            write_catalogue(archive / f"{key}.cat", rows)
    write_frame(archive / "nonsense.fits", pixels, cards)
    (archive / "nonsense.cat").write_bytes(os.urandom(500))
    (archive / "cut.fits").write_bytes((archive / "lonely.fits").read_bytes()[:9000])
    (archive / "text.fits").write_text("not FITS at all")
    (archive / "none.fits").write_bytes(b"")
    (archive / "dead.fits").symlink_to(archive / "nowhere.fits")
    shutil.copy(archive / "night/good1_U_imc.fits.gz", archive / "zcopy.fits.gz")
    shutil.copy(archive / "night/good1_U_imc_trl.dat", archive / "zcopy.cat")
    with fits.open(archive / "night/good2_U_imc.fits.gz") as file:
        write_frame(archive / "zrepeat.fits", file[0].data + 3.0, file[0].header)
    shutil.copy(archive / "night/good2_U_imc_trl.dat", archive / "zrepeat.dat")
    for key in ("cut", "text", "none", "dead"):
        write_catalogue(archive / f"{key}.cat", positions)
    (archive / "labels.txt").write_text("good1_U_imc.fits.gz  OK,galaxy\ngone.fits KO\n")
    return archive, out, curate(archive, out, SMALL)


def test_what_is_good_is_kept(curated):
    _, _, table = curated
    kept = [key for key, row in by_key(table).items() if row["state"] == "kept"]
    assert kept == ["again0", "good0", "good1", "good2"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lonely", "it has no catalogue"),
        ("empty", "the catalogue is empty"),
        ("shifted", r"shifted by \(\+7\.\d, -4\.\d\) px"),
        ("from_zero", "counted from 0 where 1 is meant"),
        ("swapped", "x and y swapped"),
        ("foreign", "does not fit the frame"),
        ("beside", "not one of the .* rows of the catalogue lies on the frame"),
        ("nonsense", "the catalogue cannot be used"),
        ("cut", "the frame cannot be read"),
        ("text", "the frame cannot be read"),
        ("none", "the frame cannot be read"),
        ("dead", "the frame cannot be read"),
        ("zcopy", "its pixels are those of night/good1"),
        ("zrepeat", "the same exposure as night/good2"),
    ],
)
def test_what_is_wrong_is_set_apart_and_told(curated, key, reason):
    row = by_key(curated[2])[key]
    assert row["state"] == "apart"
    assert re.search(reason, row["reason"])


def test_a_data_set_reads_as_what_was_kept(curated):
    archive, out, table = curated
    exposures = read_dataset(out)
    assert [one.key for one in exposures] == ["again0", "good0", "good1", "good2"]
    assert all(one.frame.is_file() and one.catalogue.is_file() and one.frame.is_absolute() for one in exposures)
    assert exposures[1] == Exposure(
        "good0",
        archive.resolve() / "night/good0_U_imc.fits.gz",
        archive.resolve() / "night/good0_U_imc_trl.dat",
        ("OK",),
        "FIELD1",
    )
    assert read_frames_table(out).colnames == table.colnames
    assert len(read_frames_table(out)) == len(table)


def test_a_hand_written_label_wins_and_the_proposal_is_kept_beside_it(curated):
    row = by_key(curated[2])["good1"]
    assert (row["labels"], row["proposed"], bool(row["by_hand"])) == ("OK,GALAXY", "OK", True)
    assert not by_key(curated[2])["good0"]["by_hand"]
    assert any("gone.fits" in warning for warning in curated[2].meta["warnings"])


def test_frames_of_one_part_of_the_sky_are_one_field(curated):
    rows = by_key(curated[2])
    assert rows["good0"]["field"] == rows["again0"]["field"]
    assert len({rows[key]["field"] for key in ("good0", "good1", "good2")}) == 3
    assert rows["shifted"]["field"] == ""


def test_the_contact_sheet_needs_nothing_else_and_shows_every_frame(curated):
    _, out, table = curated
    sheet = (out / "contact_sheet.html").read_text()
    assert not re.search(r"""(src|href)=(?!["']?(data:|#))|https?://(?!www\.w3\.org)|@import""", sheet)
    assert sheet.count("<article") == len(table)
    readable = sum(row["width"] > 0 for row in table)
    assert sheet.count("data:image/jpeg") == 2 * readable
    assert sheet.count("<svg") == 4
    for row in table:
        assert f"<h3>{row['frame']}</h3>" in sheet
        assert str(row["labels"]).split(",")[0] in sheet


def test_two_hundred_frames_of_any_content_make_a_page_of_thirty_megabytes(tmp_path):
    write_frame(tmp_path / "archive/a.fits", sky(1), header(FIELDS[0]))  # noise, which packs worst
    curate(tmp_path / "archive", tmp_path / "set", workers=1)
    pictures = sum(path.stat().st_size for path in (tmp_path / "set/.facts").glob("*.jpg"))
    rest = len((tmp_path / "set/contact_sheet.html").read_bytes()) - pictures * 4 / 3
    assert 200 * pictures * 4 / 3 + 5 * rest < 30e6


def test_curating_again_reads_no_frame_that_stayed_the_same(curated, monkeypatch):
    archive, out, table = curated
    inspected = []

    def gone(archive: object, pair: Pair, *rest: object) -> None:
        inspected.append(pair.key)
        raise FileNotFoundError(pair.key)

    monkeypatch.setattr("training.curation.inspection._inspected", gone)
    again = curate(archive, out, SMALL, workers=1)
    assert inspected == ["dead"]  # a file that could not be reached may come back
    stayed = table["key"] != "dead"
    assert all(str(table[name][stayed].tolist()) == str(again[name][stayed].tolist()) for name in table.colnames)


def test_a_frame_that_changed_is_read_again(tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "set"
    write_pair(archive, "a", FIELDS[0])
    first = curate(archive, out, SMALL, workers=1)["sha256"][0]
    write_pair(archive, "a", FIELDS[0], dither=(5, 5))
    assert curate(archive, out, SMALL, workers=1)["sha256"][0] != first


def test_the_content_of_a_frame_is_its_pixels_however_they_are_packed(tmp_path):
    pixels, positions = exposure(FIELDS[0])
    for name, cards in (("a.fits", header(FIELDS[0])), ("b.fits.gz", header(FIELDS[1], minute=5))):
        write_frame(tmp_path / "archive" / name, pixels, cards)
        write_catalogue(tmp_path / "archive" / f"{name[0]}.cat", positions)
    table = curate(tmp_path / "archive", tmp_path / "set", SMALL, workers=1)
    assert table["sha256"][0] == table["sha256"][1]
    assert list(table["state"]) == ["kept", "apart"]


def die(*arguments: object) -> None:
    os._exit(9)


def test_a_frame_that_kills_its_process_is_set_apart_alone(tmp_path, monkeypatch):
    from training.curation import inspection

    write_pair(tmp_path / "archive", "a", FIELDS[0])
    write_pair(tmp_path / "archive", "deadly", FIELDS[1])
    write_pair(tmp_path / "archive", "z", FIELDS[2])
    honest = inspection._inspected
    monkeypatch.setattr(
        "training.curation.inspection._inspected",
        lambda archive, pair, *rest: die() if pair.key == "deadly" else honest(archive, pair, *rest),
    )
    rows = by_key(curate(tmp_path / "archive", tmp_path / "set", SMALL, workers=2))
    assert {key: str(row["state"]) for key, row in rows.items()} == {"a": "kept", "deadly": "apart", "z": "kept"}
    assert "ended the process" in rows["deadly"]["reason"]


def place(ra: float, dec: float, turn: float = 0.0, side: float = 0.2) -> Place:
    """A square on the sky, its side in degrees."""
    angles = np.radians(turn + np.array([225, 315, 45, 135]))
    x, y = side / np.sqrt(2) * np.cos(angles), side / np.sqrt(2) * np.sin(angles)
    corners = zip((ra + x / np.cos(np.radians(dec))) % 360, dec + y, strict=True)
    return Place(ra=ra, dec=dec, corners=tuple((float(a), float(d)) for a, d in corners))


@pytest.mark.parametrize(("ra", "dec"), [(120.0, 0.0), (0.05, 30.0), (359.95, -40.0), (200.0, 60.0)])
def test_shared_areas_are_those_of_squares(ra, dec):
    one = place(ra, dec)
    away = 0.1 / np.cos(np.radians(dec))
    assert shared_area(one, one) == pytest.approx(1, abs=1e-6)
    assert shared_area(one, place((ra + away) % 360, dec)) == pytest.approx(0.5, abs=0.01)
    assert shared_area(one, place((ra + 2.1 * away) % 360, dec)) == 0
    assert shared_area(one, place(ra, dec, turn=45)) == pytest.approx(2 * (np.sqrt(2) - 1), abs=0.01)
    assert shared_area(one, place(ra, dec, side=0.05)) == pytest.approx(1, abs=1e-6)
    assert shared_area(one, place((ra + 180) % 360, -dec)) == 0


def test_frames_without_position_are_of_one_field_by_their_object(tmp_path):
    for index, (field, target) in enumerate(zip(FIELDS, ["M 31", "m31", "sky", ""], strict=True)):
        pixels, positions = exposure(field, seed=index)
        cards = header(field, minute=index, OBJECT=target, CTYPE1=None, CTYPE2=None)
        write_frame(tmp_path / f"archive/f{index}.fits", pixels, cards)
        write_catalogue(tmp_path / f"archive/f{index}.cat", positions)
    fields = curate(tmp_path / "archive", tmp_path / "set", SMALL, workers=1)["field"]
    assert fields[0] == fields[1]
    assert len(set(fields)) == 3


def test_overlap_is_found_whatever_the_object_says(tmp_path):
    for index, dither in enumerate([(0, 0), (SIDE // 2, 0), (3 * SIDE, 0)]):
        pixels, positions = exposure(FIELDS[0], (0, 0), seed=index)
        write_frame(
            tmp_path / f"archive/f{index}.fits", pixels, header(FIELDS[0], dither, minute=index, OBJECT=f"T{index}")
        )
        write_catalogue(tmp_path / f"archive/f{index}.cat", positions)
    fields = curate(tmp_path / "archive", tmp_path / "set", SMALL, workers=1)["field"]
    assert fields[0] == fields[1] != fields[2]
    assert SCALE * SIDE < 1


@pytest.mark.parametrize("text", [None, "# %ECSV 1.0\nbroken", "key frame\na b\n", "# %ECSV 1.0\n# ---\nkey\na\n"])
def test_what_is_no_data_set_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "frames.ecsv").write_text(text)
    with pytest.raises(TrainingError, match=re.escape(str(tmp_path))):
        read_dataset(tmp_path)


def test_a_data_set_whose_archive_is_gone_is_refused(tmp_path):
    write_pair(tmp_path / "archive", "a", FIELDS[0])
    curate(tmp_path / "archive", tmp_path / "set", SMALL, workers=1)
    shutil.rmtree(tmp_path / "archive")
    with pytest.raises(TrainingError, match="curate it again"):
        read_dataset(tmp_path / "set")
