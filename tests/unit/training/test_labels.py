from itertools import permutations
from pathlib import PurePosixPath

import pytest

from training.curation.labels import LABELS, read_labels
from training.curation.pairs import Pair
from training.errors import TrainingError

PAIRS = [
    Pair("TJO1", PurePosixPath("n1/TJO1_U_imc.fits.gz"), None),
    Pair("two words", PurePosixPath("two words.fits"), None),
    Pair("n1-a", PurePosixPath("n1/a.fits"), None),
    Pair("n2-a", PurePosixPath("n2/a.fits"), None),
]


def labels_of(tmp_path, text: str):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    return read_labels(path, PAIRS)


@pytest.mark.parametrize(
    "name", ["TJO1_U_imc.fits.gz", "n1/TJO1_U_imc.fits.gz", "./n1/TJO1_U_imc.fits.gz", "TJO1_U_imc", "TJO1"]
)
def test_a_frame_goes_by_its_path_its_name_and_its_key(tmp_path, name):
    found = labels_of(tmp_path, f"{name}  OK,ESO\n")
    assert found.labels == {"TJO1": ("OK", "ESO")}
    assert not found.warnings


@pytest.mark.parametrize("order", list(permutations(["ESO", "OK", "GALAXY"])))
@pytest.mark.parametrize("comma", [",", ", ", " , "])
def test_order_case_and_blanks_do_not_matter(tmp_path, order, comma):
    line = "two words.fits\t" + comma.join(order).lower()
    assert labels_of(tmp_path, f"# a comment\n\n{line}  # seen by me\r\n").labels == {
        "two words": ("OK", "ESO", "GALAXY")
    }


def test_every_label_can_be_written(tmp_path):
    for label in LABELS:
        assert labels_of(tmp_path, f"TJO1 {label}").labels == {"TJO1": (label,)}


def test_what_is_wrong_is_told_and_the_rest_is_read(tmp_path):
    text = "TJO1 OK,TRAICE\nabsent.fits KO\na.fits OK\nn1/a.fits LIGHT\nn1/a.fits KO\nalone\nn2/a.fits NONSENSE\n"
    found = labels_of(tmp_path, text)
    assert found.labels == {"TJO1": ("OK",), "n1-a": ("KO",)}
    told = "\n".join(found.warnings)
    for words in ("TRAICE'; is TRACE meant", "absent.fits", "several frames", "labelled before", "line 6", "NONSENSE"):
        assert words in told


def test_a_label_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="cannot be read"):
        read_labels(tmp_path / "absent.txt", PAIRS)
