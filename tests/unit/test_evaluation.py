import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageColor
from pydantic import ValidationError

from lynceus.columns import ModelInfo
from lynceus.detections import Detections
from lynceus.evaluation import evaluation_page
from lynceus.figures import Bin, Counts, Evaluation, wilson
from lynceus.frame import Frame
from lynceus.overlay import Marks, draw_marks, draw_overlay
from lynceus.pages import GREEN, GREY, ORANGE, RED
from lynceus.scoring import evaluate
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import Truth
from tests.fakes import star_field

SHAPE = (300, 400)
STARS = [(50.0, 40.0), (150.0, 40.0), (250.0, 260.0), (350.0, 150.0)]
MODEL = ModelInfo("compact", "0.1.0", "stable", "ab" * 32)
FRAME = Frame(star_field(SHAPE, STARS), sha256="cd" * 32)
SKY = estimate_sky(FRAME, SkySpec())


def about(*centres, side=20.0):
    """Boxes about positions in edge coordinates."""
    middle = np.array(centres, float).reshape(-1, 2)
    return np.concatenate([middle - side / 2, middle + side / 2], axis=1)


def scene():
    """One matched, one missed, one ignored and what it absorbed, one extra, one under the threshold."""
    boxes = about(STARS[0], STARS[2], (200.0, 100.0), (120.0, 200.0)).astype(np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.1], np.float32), np.zeros(4, np.int64))
    ignored = np.array([False, False, True])
    truth = Truth(about(*STARS[:3]), ignored, np.array([30.0, 6.0, 80.0]), "snr", (), 3)
    return found, truth


def page_of(found, truth, frame=FRAME, sky=SKY, **options):
    evaluation = evaluate(found, truth, min_score=0.5)
    return evaluation_page(evaluation, found, truth, frame, sky, **options)


def picture_of(text):
    [data] = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return Image.open(BytesIO(base64.b64decode(data))).convert("RGB")


def colours_around(picture, x, y, reach):
    """The colours of marks in a square of the picture."""
    part = picture.crop((int(x - reach), int(y - reach), int(x + reach), int(y + reach)))
    names = {ImageColor.getrgb(colour): colour for colour in (GREEN, RED, ORANGE, GREY)}
    return {names[colour] for _, colour in part.getcolors(100_000) if colour in names}


class Tags(HTMLParser):
    """Collects every tag with its attributes, and whether all are closed."""

    EMPTY = frozenset({"meta", "img", "input", "br", "use", "path"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_an_interval_by_hand():
    # Wilson, 5 of 10 at z^2 = 3.8415: 1/2 -+ z sqrt(1/40 + z^2/400) / (1 + z^2/10) = 1/2 -+ 0.2634
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)  # z^2/10 / (1 + z^2/10)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert wilson(0, 0) is None


def test_counts_know_their_figures():
    counts = Counts(matched=6, missed=4, extra=2, ignored=1, sources_ignored=3)
    assert (counts.precision, counts.recall) == (0.75, 0.6)
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    nothing = Counts(matched=0, missed=0, extra=0, ignored=0, sources_ignored=3)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)


def test_figures_refuse_what_json_cannot_hold():
    with pytest.raises(ValidationError):
        Bin(low=0, high=1, count=1, hits=1, share=float("nan"), interval=None)


def test_an_evaluation_survives_json():
    evaluation = evaluate(*scene(), min_score=0.5)
    text = json.dumps(evaluation.model_dump(), allow_nan=False)
    assert Evaluation.model_validate_json(text) == evaluation
    empty = {"count": 0, "hits": 0, "share": None, "interval": None}
    assert json.loads(text)["completeness"][-1] == {"low": 50.0, "high": None} | empty


def test_a_page_is_sound_and_loads_nothing():
    text = page_of(*scene(), model=MODEL, facts={"noise": 10.0}, warnings=["No GAIN."])
    parsed = Tags(text)
    assert parsed.open == []
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    [alt] = [" ".join(attributes["alt"].split()) for tag, attributes in parsed.tags if tag == "img"]
    assert alt == "The frame with 1 missed, 1 extra, 1 matched, 2 ignored"


def test_a_page_says_what_was_found():
    text = page_of(*scene(), model=MODEL, facts={"fwhm_px": 3.04, "filter": "r"}, warnings=["No GAIN.", "No WCS."])
    visible = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL).split())
    for wanted in (
        *("compact 0.1.0", "stable", "ab" * 32, "cd" * 32, "No GAIN.", "No WCS.", "400 × 300 px", "3.04 px"),
        "3 detections of score 0.5 and more, against 2 sources; 1 more do not count.",
        *("50.0 % completeness", "50.0 % reliability", "matched 1 1", "missed 1 1", "extra 1 1", "ignored 1 1"),
    ):
        assert wanted in visible, wanted
    assert text.count("<svg") == 2


def test_a_page_of_somebody_elses_list_names_no_model():
    text = page_of(*scene())
    assert "<h1>A list of detections</h1>" in text
    assert "sha256" in text  # of the frame
    assert ">model<" not in text
    assert 'class="warnings"' not in text


def test_headers_and_names_cannot_write_html():
    hostile = "<img src=x onerror=alert(1)>"
    frame = Frame(FRAME.pixels, name=hostile)
    model = ModelInfo(hostile, hostile, hostile, hostile)
    text = page_of(*scene(), frame=frame, model=model, facts={"filter": hostile}, warnings=[hostile])
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x") >= 5


def test_each_kind_of_box_has_its_colour_and_its_place():
    picture = picture_of(page_of(*scene()))
    zoom = 2  # 400 pixels are magnified to 800
    assert picture.size == (800, 600)
    for (x, y), colour in {
        STARS[0]: GREEN,
        STARS[1]: RED,
        STARS[2]: GREY,
        (200.0, 100.0): ORANGE,
    }.items():
        assert colours_around(picture, zoom * x, zoom * (300 - y), 24) == {colour}
    assert colours_around(picture, zoom * 120, zoom * (300 - 200), 24) == set()  # under the threshold
    star, dark = picture.getpixel((zoom * 350, zoom * (300 - 150))), picture.getpixel((zoom * 350, zoom * 150 - 100))
    assert star[0] > dark[0] + 100


@pytest.mark.parametrize(
    ("line", "share"), [("solid", (0.99, 1)), ("dashed", (0.5, 0.8)), ("dotted", (0.4, 0.65)), ("round", (0.0, 0.45))]
)
def test_kinds_differ_without_colour(line, share):
    box = np.array([[100.0, 100.0, 180.0, 180.0]])
    picture = draw_marks(FRAME, SKY, [Marks(box, GREEN, line)]).convert("RGB")
    top = 600 - 2 * 180
    drawn = np.mean([picture.getpixel((x, top)) == ImageColor.getrgb(GREEN) for x in range(200, 360)])
    assert share[0] <= drawn <= share[1]


@pytest.mark.parametrize(
    ("shape", "size"), [((90, 100), (800, 720)), ((900, 1000), (1000, 900)), ((4001, 2600), (867, 1334))]
)
def test_a_picture_has_a_size_for_a_page(shape, size):
    frame = Frame(np.random.default_rng(0).normal(100, 5, shape).astype(np.float32))
    sky = estimate_sky(frame, SkySpec())
    box = np.array([[shape[1] / 2 - 2, shape[0] / 2 - 2, shape[1] / 2 + 2, shape[0] / 2 + 2]])
    picture = draw_marks(frame, sky, [Marks(box, GREEN)]).convert("RGB")
    assert picture.size == size
    assert colours_around(picture, size[0] / 2, size[1] / 2, 20) == {GREEN}
    assert abs(np.asarray(picture.convert("L"), float).mean() / 255 - 0.25) < 0.08  # the sky


def test_a_star_stays_where_it_is_when_a_frame_is_averaged_down():
    pixels = star_field((2400, 2400), [])
    pixels[1500:1502, 300:302] += 5000
    frame = Frame(pixels)
    picture = np.asarray(draw_marks(frame, estimate_sky(frame, SkySpec()), []).convert("L"))
    assert picture.shape == (1200, 1200)
    assert np.unravel_index(picture.argmax(), picture.shape) == (1199 - 750, 150)


def test_masked_and_absurd_pixels_are_drawn():
    pixels = star_field(SHAPE, STARS)
    pixels[:100] = np.nan
    pixels[200, 200] = 3e38
    frame = Frame(pixels)
    picture = np.asarray(draw_marks(frame, estimate_sky(frame, SkySpec()), []).convert("L"))
    assert picture[-200:].max() == 0  # the first rows are at the bottom
    assert picture[600 - 401, 401] == 255


def test_boxes_beyond_the_frame_are_drawn_at_its_edge():
    beyond = np.array([[-1e9, -1e9, 1e9, 1e9], [-50.0, -50.0, -40.0, -40.0]])
    for line in ("solid", "dashed", "dotted", "round"):
        assert draw_marks(FRAME, SKY, [Marks(beyond, RED, line)]).size == (800, 600)


def test_a_frame_without_anything_has_a_page():
    empty = Truth(np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0), "none", (), 0)
    text = page_of(Detections.empty(), empty)
    assert Tags(text).open == []
    assert "–" in text
    assert "<svg" not in text
    assert "nan" not in text.lower().split("base64")[0]


def test_a_plain_overlay_is_drawn_as_before(tmp_path):
    draw_overlay(FRAME, SKY, about(STARS[0]), tmp_path / "overlay.png", zoom=2)
    with Image.open(tmp_path / "overlay.png") as picture:
        assert picture.size == (800, 600)
        edge = picture.getpixel((2 * 40, 600 - 2 * 40))
        assert edge == ImageColor.getrgb("#39d353")
