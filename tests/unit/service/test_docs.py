import re
from collections.abc import Iterator

import pytest

from lynceus.catalogue import COLUMNS
from service.app import create_app
from service.docs import docs_page
from service.question import EvaluateQuestion, Question
from service.settings import Settings
from tests.fakes import fixed_bundle
from tests.in_process import Asker, in_process

ADDRESS = re.compile(r"(?:https?:)?//[\w.-]+")


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    with in_process(create_app(Settings(device="cpu", workers=1), fixed_bundle())) as asker:
        yield asker


def test_the_page_names_no_host_but_the_server(asker: Asker) -> None:
    text = asker.get("/docs").text
    assert set(ADDRESS.findall(text)) == {"http://lynceus.test"}
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", text)


def test_every_path_parameter_part_and_column_is_there(asker: Asker) -> None:
    text = asker.get("/docs").text
    for path, methods in asker.get("/openapi.json").json()["paths"].items():
        assert f"<code>{' | '.join(method.upper() for method in methods)} {path}</code>" in text
    names = {*Question.model_fields, *EvaluateQuestion.model_fields, "frame", "mask", "weight", "catalogue", "box"}
    names |= {column.name for column in COLUMNS if column.pixel != "edge"}
    assert [name for name in sorted(names) if f"<code>{name}</code>" not in text] == []


def test_what_a_document_says_is_text_and_no_markup() -> None:
    operation = {"operationId": "x", "summary": "<i>a</i>", "responses": {}, "description": "`<b>` and *so*"}
    info = {"title": "<t>", "version": "1", "description": "one\n\ntwo"}
    text = docs_page({"info": info, "paths": {"/x": {"get": operation}}}, "http://<here>/")
    assert not [raw for raw in ("<i>", "<b></code>", "<t>", "<here>") if raw in text]
    assert "<code>&lt;b&gt;</code> and <em>so</em>" in text
    assert "<p>one</p>\n<p>two</p>" in text
