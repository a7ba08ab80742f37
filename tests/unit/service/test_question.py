from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from lynceus.catalogue import FORMATS
from lynceus.errors import FormatError
from service.formats import choose_format
from service.question import Question, accept_quality, read_question
from service.refusals import BadParameterError

CASES = st.sampled_from([str.lower, str.upper, str.title, str.swapcase])


@given(st.sampled_from(["min_score", "MIN_SCORE"]), CASES, st.floats(0, 1))
def test_names_in_any_case_mean_the_same(name, case, value) -> None:
    question, warnings = read_question(QueryParams({case(name): str(value)}), Question)
    assert (question.min_score, warnings) == (value, ())


@given(st.text(max_size=200))
def test_any_query_gives_a_question_or_a_refusal(query) -> None:
    try:
        question, warnings = read_question(QueryParams(query), Question)
    except BadParameterError:
        return
    assert isinstance(question, Question)
    assert all(len(warning) < 500 for warning in warnings)  # escaped, a character takes ten


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_format_and_accept_give_a_format_or_a_refusal(asked, accept) -> None:
    for arguments in ((asked, None), (None, accept)):
        with suppress(FormatError):
            assert choose_format(*arguments) in FORMATS.values()


def test_without_a_wish_it_is_json() -> None:
    assert choose_format(None, None).name == "json"
    assert choose_format(None, "").name == "json"


@pytest.mark.parametrize(
    ("accept", "quality"),
    [("text/csv", 1), ("text/*;q=0.3, */*;q=0.1", 0.3), ("*/*;q=0.1", 0.1), ("text/csv;q=0, */*", 0), ("image/*", 0)],
)
def test_the_most_specific_range_counts(accept: str, quality: float) -> None:
    assert accept_quality(accept, "text/csv; charset=utf-8") == quality


def test_a_name_beats_its_alias() -> None:
    question, _ = read_question(QueryParams("RESPONSEFORMAT=csv&format=fits&MAXREC=7"), Question)
    assert (question.format, question.max_detections) == ("fits", 7)


def test_what_shapes_the_answer_alone_does_not_make_two_requests_differ() -> None:
    first, _ = read_question(QueryParams("format=csv&deadline=5"), Question)
    second, _ = read_question(QueryParams("format=json"), Question)
    third, _ = read_question(QueryParams("min_score=0.3"), Question)
    assert first.work == second.work != third.work
