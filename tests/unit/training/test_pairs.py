from pathlib import Path

import pytest

from training.curation.pairs import find_pairs
from training.errors import TrainingError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("frame", "catalogue", "key"),
    [
        ("TJO1_U_imc.fits.gz", "TJO1_U_imc_trl.dat", "TJO1"),
        ("00000.fits", "00000.ecsv", "00000"),
        ("a.fit", "a.cat", "a"),
        ("a.fts", "a.cat.gz", "a"),
        ("a.fits.fz", "a_cat.fits", "a"),
        ("a.FITS", "a.csv", "a"),
        ("a.fits", "a.fits.cat", "a"),
        ("night.1/a.b.fits", "night.1/a.b.vot", "a.b"),
        ("frames/a.fits", "catalogues/a.ldac", "a"),
    ],
)
def test_a_catalogue_belongs_to_the_frame_of_its_name(tmp_path, frame, catalogue, key):
    touch(tmp_path, frame, catalogue)
    found = find_pairs(tmp_path)
    (pair,) = found.pairs
    assert (pair.key, str(pair.frame), str(pair.catalogue)) == (key, frame, catalogue)
    assert not found.orphans


def test_exact_truths_and_hidden_files_are_no_catalogues(tmp_path):
    touch(tmp_path, "a.fits", "truth/a.ecsv", ".cache/a.ecsv", "sub/truth/b.fits")
    (pair,) = find_pairs(tmp_path).pairs
    assert pair.catalogue is None


def test_a_data_set_in_the_archive_is_not_part_of_it(tmp_path):
    touch(tmp_path, "a.fits", "a.cat", "set/frames.ecsv", "set/b.fits")
    assert [pair.key for pair in find_pairs(tmp_path).pairs] == ["a"]


def test_no_two_pairs_have_one_key(tmp_path):
    names = ["n1/a.fits", "n2/a.fits", "n2/a.fits.gz", "x_B_imc.fits", "x_R_imc.fits", "n1-a.fits"]
    touch(tmp_path, *names, "n1/a.cat", "n2/a.cat", "x_B_imc.cat")
    pairs = find_pairs(tmp_path).pairs
    assert len({pair.key for pair in pairs}) == len(names)
    own = {str(pair.frame): str(pair.catalogue) for pair in pairs}
    assert own["n1/a.fits"] == "n1/a.cat"
    assert own["n2/a.fits"] == "n2/a.cat"
    assert own["x_B_imc.fits"] == "x_B_imc.cat"
    assert own["x_R_imc.fits"] == "None"


def test_a_name_that_several_frames_have_finds_no_catalogue_elsewhere(tmp_path):
    touch(tmp_path, "n1/a.fits", "n2/a.fits", "cats/a.cat")
    found = find_pairs(tmp_path)
    assert [pair.catalogue for pair in found.pairs] == [None, None]
    assert [str(path) for path in found.orphans] == ["cats/a.cat"]


def test_of_several_catalogues_the_telescopes_own_is_taken(tmp_path):
    touch(tmp_path, "a_U_imc.fits", "a_U_imc.csv", "a_U_imc_trl.dat", "lost.cat", "notes.txt")
    found = find_pairs(tmp_path)
    assert str(found.pairs[0].catalogue) == "a_U_imc_trl.dat"
    assert [str(path) for path in found.pairs[0].others] == ["a_U_imc.csv"]
    assert [str(path) for path in found.orphans] == ["lost.cat"]


def test_an_archive_without_frames_is_refused(tmp_path):
    touch(tmp_path, "a.cat")
    with pytest.raises(TrainingError, match="no frame"):
        find_pairs(tmp_path)
    with pytest.raises(TrainingError, match="no folder"):
        find_pairs(tmp_path / "absent")
