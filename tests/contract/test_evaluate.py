"""`/evaluate` on a real server, around a FixedNetwork that finds every star of these frames."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from tests.fakes import fits_bytes, star_field

RNG = np.random.default_rng(5)
STARS = [(x + dx, y + dy) for x in range(20, 200, 30) for y in range(20, 200, 30) for dx, dy in [RNG.uniform(-6, 6, 2)]]
FRAME = fits_bytes(star_field((200, 210), STARS), FILTER="r")
FWHM = 3.0


def ascii_head(stars: Sequence[tuple[float, float]], flags: Sequence[int] | None = None) -> bytes:
    """SExtractor's format, counted from 1."""
    flags = flags or [0] * len(stars)
    head = "#   1 NUMBER\n#   2 X_IMAGE [pixel]\n#   3 Y_IMAGE [pixel]\n#   4 FWHM_IMAGE [pixel]\n#   5 FLAGS\n"
    rows = [f"{n} {x + 1:.4f} {y + 1:.4f} {FWHM} {f}" for n, ((x, y), f) in enumerate(zip(stars, flags, strict=True))]
    return (head + "\n".join(rows) + "\n").encode()


def evaluate(client: httpx.Client, catalogue: bytes, query: str = "", **parts: bytes) -> httpx.Response:
    files = {"frame": FRAME, "catalogue": catalogue} | parts
    return client.post(f"/evaluate{query}", files=files)


def figures(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["evaluation"])


def test_a_perfect_list_scores_one(client: httpx.Client) -> None:
    answer = evaluate(client, ascii_head(STARS))
    found = figures(answer)
    assert (found["precision"], found["recall"], found["f1"], found["map_50"]) == (1, 1, 1, 1)
    assert (found["counts"]["matched"], found["counts"]["missed"], found["counts"]["extra"]) == (len(STARS), 0, 0)
    assert 0.7 < found["best_iou_per_gt"] < 1
    assert found["median_centroid_offset"] < 0.1
    body = answer.json()
    assert body["schema_version"]
    assert (body["model"]["version"], body["model"]["track"], body["scored"]) == ("1.2.3", "stable", "model")
    assert body["frame"]["filter"] == "r"
    assert answer.headers["x-lynceus-model"] == "fixed/1.2.3"


def test_what_the_catalogue_lacks_is_ignored_or_wrong_as_asked(client: httpx.Client) -> None:
    half = ascii_head(STARS[::2])
    kind = figures(evaluate(client, half))
    assert kind["precision"] == 1
    assert kind["counts"]["ignored"] == len(STARS) // 2
    strict = figures(evaluate(client, half, "?unlisted=false"))
    assert strict["precision"] == pytest.approx(0.5)


def test_what_is_not_there_is_missed(client: httpx.Client) -> None:
    ghosts = [(x + 15, y + 15) for x, y in STARS[:6]]
    found = figures(evaluate(client, ascii_head([*STARS, *ghosts])))
    assert found["counts"]["missed"] == 6
    assert found["recall"] == pytest.approx(len(STARS) / (len(STARS) + 6))


def test_flagged_rows_count_neither_way(client: httpx.Client) -> None:
    flags = [16] * 5 + [2] * (len(STARS) - 5)
    found = figures(evaluate(client, ascii_head(STARS, flags)))
    assert (found["sources"], found["counts"]["ignored"]) == (len(STARS) - 5, 5)
    assert figures(evaluate(client, ascii_head(STARS, flags), "?ignore_flags=0"))["sources"] == len(STARS)


def test_another_tools_list_is_scored_instead(client: httpx.Client) -> None:
    found = figures(evaluate(client, ascii_head(STARS), detections=ascii_head(STARS[:9])))
    assert (found["counts"]["matched"], found["counts"]["extra"]) == (9, 0)
    assert found["best_iou_per_prediction"] == pytest.approx(1)
    answer = evaluate(client, ascii_head(STARS), detections=ascii_head(STARS[:9]))
    assert answer.json()["scored"] == "detections"


def test_our_own_answer_can_be_the_catalogue(client: httpx.Client) -> None:
    for form in ("json", "votable", "ecsv", "csv", "fits", "ldac", "sextractor"):
        own = client.post(f"/detect?format={form}", content=FRAME).content
        found = figures(evaluate(client, own, "?box_rule=catalogue"))
        assert (found["f1"], found["best_iou_per_gt"]) == (1, pytest.approx(1, abs=0.15)), form


def test_a_page_is_drawn_for_people(client: httpx.Client) -> None:
    answer = evaluate(client, ascii_head(STARS[::2]), "?format=html")
    assert answer.headers["content-type"].startswith("text/html")
    assert "data:image/png;base64," in answer.text
    assert "<svg" in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org", "")


@pytest.mark.parametrize(("shift", "words"), [((9, -6), "(+9.0, -6.0) px"), ((3, 3), "(+3.0, +3.0) px")])
def test_a_shifted_catalogue_is_said_to_be(client: httpx.Client, shift: tuple[int, int], words: str) -> None:
    answer = evaluate(client, ascii_head([(x + shift[0], y + shift[1]) for x, y in STARS]))
    assert answer.status_code == 422
    assert answer.json()["code"] == "catalogue_misfit"
    assert words in answer.json()["detail"]


def test_a_small_shift_is_a_warning(client: httpx.Client) -> None:
    answer = evaluate(client, ascii_head([(x + 1, y + 1) for x, y in STARS]))
    assert figures(answer)["counts"]["matched"] > 0
    assert any("(+1.0, +1.0) px" in warning and "counted from 1" in warning for warning in answer.json()["warnings"])


def test_another_fields_catalogue_is_said_to_be(client: httpx.Client) -> None:
    elsewhere = [(x + 5000, y) for x, y in STARS]
    answer = evaluate(client, ascii_head(elsewhere))
    assert (answer.status_code, answer.json()["code"]) == (422, "catalogue_misfit")
    assert "lies on the frame" in answer.json()["detail"]


def test_an_empty_catalogue_of_a_starry_frame_is_scored(client: httpx.Client) -> None:
    found = figures(evaluate(client, ascii_head([]), "?unlisted=false"))
    assert (found["recall"], found["map_50"], found["precision"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("files", "query", "status", "code"),
    [
        ({"frame": FRAME}, "", 400, "bad_parameter"),
        ({"catalogue": b"x"}, "", 400, "bad_parameter"),
        ({"frame": FRAME, "catalogue": b"\x00\x01 no table"}, "", 422, "bad_catalogue"),
        ({"frame": FRAME, "catalogue": json.dumps({"rows": 3}).encode()}, "", 422, "bad_catalogue"),
        ({"frame": b"no frame at all", "catalogue": b"x"}, "", 415, "not_fits"),
        ({"frame": FRAME, "catalogue": ascii_head(STARS)}, "?box_rule=mine", 400, "bad_parameter"),
        ({"frame": FRAME, "catalogue": ascii_head(STARS)}, "?format=pdf", 400, "bad_parameter"),
        ({"frame": FRAME, "catalogue": ascii_head(STARS)}, "?hdu=all", 400, "bad_parameter"),
        ({"frame": FRAME, "catalogue": ascii_head(STARS)}, "?model=none", 404, "unknown_model"),
        ({"frame": FRAME, "catalogue": ascii_head(STARS), "detections": b"{}"}, "", 422, "bad_catalogue"),
    ],
)
def test_a_bad_request_is_told_why(
    client: httpx.Client, files: dict[str, bytes], query: str, status: int, code: str
) -> None:
    answer = client.post(f"/evaluate{query}", files=files)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_requests_that_fail_are_counted(client: httpx.Client) -> None:
    evaluate(client, b"no table")
    text = client.get("/metrics").text
    assert 'lynceus_rejected_total{code="bad_catalogue"}' in text
    assert 'lynceus_http_requests_total{code="422",route="/evaluate"}' in text
