import csv

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lynceus.cells import cells_of, rows_of


@given(arrays(st.sampled_from([np.float32, np.float64, np.dtype(">f8")]), st.integers(0, 20)))
def test_a_float_reads_back_the_same_and_what_is_no_number_is_unknown(values):
    cells = cells_of(values, b"?")
    assert [cell == b"?" for cell in cells] == (~np.isfinite(values)).tolist()
    assert [float(cell) for cell in cells if cell != b"?"] == values[np.isfinite(values)].tolist()


@given(arrays(np.int64, st.integers(0, 20)))
def test_an_integer_reads_back_the_same(values):
    assert [int(cell) for cell in cells_of(values, b"?")] == values.tolist()


def test_a_word_that_means_no_number_elsewhere_stays_a_word():
    assert cells_of(np.array(["null", "é"]), b"?", str.upper) == [b"NULL", "É".encode()]


@given(st.lists(st.tuples(st.integers(), st.text("ab", min_size=1)), max_size=5))
def test_rows_lie_side_by_side(rows):
    columns = [[str(number).encode() for number, _ in rows], [word.encode() for _, word in rows]]
    text = rows_of(columns, b"<", b",", b">\n").decode()
    assert text == "".join(f"<{number},{word}>\n" for number, word in rows)
    assert list(csv.reader(rows_of(columns, b"", b",", b"\n").decode().splitlines())) == [[str(n), w] for n, w in rows]
