import base64
import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from lynceus.pages import BLUE, INK, LINE, chart, figure, page, png_uri, share, signed

TEMPLATE = """{% extends "base" %}
{% block title %}{{ title }}{% endblock %}
{% block content %}
<h1>{{ title }}</h1>
<p>{{ value|figure(2) }} {{ value|share }} {{ value|signed(1) }}</p>
{% endblock %}
"""


def line(values, label="a line"):
    def draw(axes):
        axes.plot(range(len(values)), values, "o-", color=BLUE, label="measured")
        axes.set_xlabel("signal to noise")
        axes.legend()

    return chart(draw, label)


def test_a_page_is_a_whole_document():
    text = page(TEMPLATE, title="A field", value=0.5)
    assert text.startswith("<!doctype html>")
    assert "<title>A field</title>" in text
    assert "<h1>A field</h1>\n<p>0.50 50.0 % +0.5</p>" in text
    for wanted in ('name="viewport"', "prefers-color-scheme: dark"):
        assert wanted in text


def test_what_strangers_write_is_escaped():
    text = page(TEMPLATE, title="<script>alert(1)</script>", value=None)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_name_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError):
        page(TEMPLATE, value=0.5)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (figure(1234.5678), "1,234.568"),
        (figure(0.9996, 3), "1.000"),
        (figure(12, 0), "12"),
        (share(0.1234), "12.3 %"),
        (signed(-0.1234, 2), "-0.12"),
        (signed(3.0, 0), "+3"),
        (figure(None), "–"),
        (share(None), "–"),
        (signed(None), "–"),
    ],
)
def test_numbers_are_written_for_people(written, expected):
    assert written == expected


def test_a_chart_is_an_element_that_follows_the_page():
    svg = line([1, 3, 2])
    root = ElementTree.fromstring(str(svg))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"width", "height"}.isdisjoint(root.attrib)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "signal to noise" in texts
    assert "measured" in texts
    assert INK not in svg
    assert LINE not in svg
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert BLUE in svg
    assert "<style" not in svg  # it would hold for the whole page
    assert "font-family" not in svg


def test_the_label_of_a_chart_is_escaped_and_kept():
    root = ElementTree.fromstring(str(line([1, 2], 'share of "A & B" <c>')))
    assert root.attrib["aria-label"] == 'share of "A & B" <c>'
    assert root.attrib["role"] == "img"


def test_what_two_charts_both_name_is_the_same_thing():
    def named(svg):
        return dict(re.findall(r'<(?:path|clipPath) id="([^"]+)"(.*?)/>', str(svg), re.DOTALL))

    one, other = named(line([1, 3, 2])), named(line([5, 1, 0, 7]))
    assert one.keys() & other.keys()
    for name in one.keys() & other.keys():
        assert one[name] == other[name]


def test_charts_are_the_same_every_time_in_threads_too():
    alone = [line([n, n * n, 1]) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: line([n, n * n, 1]), range(8)))
    assert together == alone
    assert mpl.rcParams["svg.fonttype"] == "path"


def test_a_picture_survives_its_address():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    address = png_uri(Image.fromarray(pixels))
    head, data = address.split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(base64.b64decode(data)))), pixels)
