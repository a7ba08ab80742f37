"""`/detect` as a client sees it: bodies, formats, parameters and every error."""

import gzip
import json
import socket
import time
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from astropy.io import fits, votable
from astropy.table import Table

from lynceus.catalogue import FORMATS
from tests.fakes import POISON, fits_bytes, star_field

STARS = [(80.0, 20.0), (30.0, 40.0), (60.0, 70.0)]
FIELD = star_field((100, 120), STARS)
FRAME = fits_bytes(FIELD, EXPTIME=30.0, FILTER="r")
PROBLEM = "application/problem+json"


def positions(answer: dict[str, Any]) -> list[tuple[float, float]]:
    return sorted((row["x"], row["y"]) for row in answer["detections"])


def is_near(found: list[tuple[float, float]], stars: list[tuple[float, float]]) -> bool:
    return len(found) == len(stars) and np.allclose(found, sorted(stars), atol=0.5)


def with_pixel(value: float) -> bytes:
    pixels = FIELD.copy()
    pixels[50, 50] = value
    return fits_bytes(pixels)


def test_a_frame_is_answered_with_its_sources(client: httpx.Client) -> None:
    answer = client.post("/detect", files={"frame": FRAME})
    assert answer.status_code == 200
    body = answer.json()
    assert is_near(positions(body), STARS)
    assert body["count"] == 3
    assert body["overflow"] is False
    assert body["schema_version"]
    assert body["frame"]["shape"] == [100, 120]
    assert body["frame"]["filter"] == "r"
    model = {name: body["model"][name] for name in ("name", "version", "track")}
    assert model == {"name": "fixed", "version": "1.2.3", "track": "stable"}
    assert set(body["timing_ms"]) == {"decode", "tile", "queue", "infer", "merge", "measure"}
    assert "encode;dur=" in answer.headers["server-timing"]


def test_every_way_to_send_a_frame_gives_the_same(client: httpx.Client) -> None:
    ways = [
        client.post("/detect", files={"frame": FRAME}),
        client.put("/detect", files={"frame": FRAME}),
        client.post("/detect", content=FRAME),
        client.put("/detect", content=FRAME),
        client.post("/detect", content=FRAME, headers={"Content-Type": "application/x-www-form-urlencoded"}),
        client.post("/detect", content=iter([FRAME[:5], FRAME[5:30_000], FRAME[30_000:]])),
    ]
    assert [way.status_code for way in ways] == [200] * 6
    assert len({json.dumps(way.json()["detections"]) for way in ways}) == 1
    assert is_near(positions(client.post("/detect", content=gzip.compress(FRAME)).json()), STARS)


def test_box_and_position_differ_by_half_a_pixel(client: httpx.Client) -> None:
    rows = client.post("/detect?measure=false", content=FRAME).json()["detections"]
    for row in rows:
        left, bottom, right, top = row["box"]
        assert (row["x"] + 0.5, row["y"] + 0.5) == ((left + right) / 2, (bottom + top) / 2)
        assert row["flux"] is None


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_by_every_way_to_ask(client: httpx.Client, name: str) -> None:
    media_type = FORMATS[name].media_type
    by_name = client.post(f"/detect?format={name}", content=FRAME)
    others = [
        client.post(f"/detect?ResponseFormat={name.upper()}", content=FRAME),
        client.post("/detect", params={"RESPONSEFORMAT": media_type}, content=FRAME),
        client.post("/detect", headers={"Accept": f"image/png, {media_type};q=0.5"}, content=FRAME),
        client.post(f"/detect?format={name}&responseformat=csv", headers={"Accept": "text/csv"}, content=FRAME),
    ]
    for answer in (by_name, *others):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
    assert by_name.content


def test_tables_can_be_opened(client: httpx.Client) -> None:
    table = votable.parse_single_table(BytesIO(client.post("/detect?format=votable", content=FRAME).content))
    assert len(table.array) == 3
    with fits.open(BytesIO(client.post("/detect?format=fits", content=FRAME).content)) as hdus:
        assert len(hdus[1].data) == 3
    assert len(Table.read(client.post("/detect?format=ecsv", content=FRAME).text, format="ascii.ecsv")) == 3


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("text/html, application/json;q=0.1, text/csv;q=0.2", "text/csv"),
        ("application/json;q=0, */*;q=0.1", "application/x-votable+xml"),
        ("text/html,*/*;q=0.8", "application/json"),
        ("APPLICATION/X-VOTABLE+XML;serialization=tabledata", "application/x-votable+xml"),
    ],
)
def test_accept_is_weighed(client: httpx.Client, accept: str, expected: str) -> None:
    answer = client.post("/detect", content=FRAME, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(expected)


def test_names_are_case_insensitive_and_unknown_ones_are_named(client: httpx.Client) -> None:
    body = client.post("/detect?MaxRec=1&MIN_SCORE=0.1&colour=blue", content=FRAME).json()
    assert (body["count"], body["overflow"]) == (1, True)
    assert any("colour" in warning for warning in body["warnings"])
    body = client.post("/detect?MAXREC=0", content=FRAME).json()
    assert (body["count"], body["overflow"]) == (0, True)
    assert client.post("/detect?min_score=1", content=FRAME).json()["count"] == 0


def test_the_version_can_be_named(client: httpx.Client) -> None:
    for name in ("stable", "1.2.3", "fixed/1.2.3"):
        assert client.post(f"/detect?model={name}", content=FRAME).status_code == 200


def test_one_hdu_or_all(client: httpx.Client) -> None:
    mosaic = fits_bytes(FIELD, star_field((90, 90), [(20, 20)]))
    assert client.post("/detect", content=mosaic).json()["count"] == 3
    assert client.post("/detect?hdu=1", content=mosaic).json()["count"] == 1
    both = client.post("/detect?HDU=ALL", content=mosaic).json()
    assert [frame["count"] for frame in both["frames"]] == [3, 1]
    assert [frame["frame"]["hdu"] for frame in both["frames"]] == [0, 1]


def test_mask_and_weight_hide_what_is_bad(client: httpx.Client) -> None:
    mask = np.zeros(FIELD.shape, np.int16)
    mask[10:30, 70:90] = 1
    weight = np.ones(FIELD.shape, np.float32)
    weight[30:50, 20:40] = 0
    weight[60:80, 50:70] = np.nan
    without_first = client.post("/detect", files={"frame": FRAME, "mask": fits_bytes(mask)}).json()
    assert is_near(positions(without_first), STARS[1:])
    only_first = client.post("/detect", files={"frame": FRAME, "weight": fits_bytes(weight)}).json()
    assert is_near(positions(only_first), STARS[:1])


@pytest.mark.parametrize(
    ("query", "status", "code", "names"),
    [
        ("min_score=2", 400, "bad_parameter", "min_score"),
        ("min_score=nan", 400, "bad_parameter", "min_score"),
        ("MAXREC=-1", 400, "bad_parameter", "max_detections"),
        ("measure=perhaps", 400, "bad_parameter", "measure"),
        ("deadline=0", 400, "bad_parameter", "deadline"),
        ("deadline=1e9", 400, "bad_parameter", "deadline"),
        ("priority=urgent", 400, "bad_parameter", "priority"),
        ("hdu=0&HDU=1", 400, "bad_parameter", "HDU"),
        ("model=4.5.6", 404, "unknown_model", "4.5.6"),
        ("model=canary", 404, "unknown_model", "canary"),
        ("format=jpeg", 406, "no_such_format", "jpeg"),
        ("responseformat=image/jpeg", 406, "no_such_format", "image/jpeg"),
        ("hdu=9", 422, "no_such_hdu", "9"),
        ("hdu=SCI", 422, "no_such_hdu", "SCI"),
        ("deadline=0.001", 504, "deadline_exceeded", "0.001"),
    ],
)
def test_bad_parameters(client: httpx.Client, query: str, status: int, code: str, names: str) -> None:
    check_problem(client.post(f"/detect?{query}", content=FRAME), status, code, names)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 415, "not_fits"),
        (b"SIM", 415, "not_fits"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 415, "not_fits"),
        (b"http://example.org/frame.fits", 415, "not_fits"),
        (gzip.compress(b"not a frame", mtime=0), 415, "not_fits"),
        (FRAME[:4000], 422, "unusable_frame"),
        (fits_bytes(np.zeros((2, 50, 50), np.int16)), 422, "unusable_frame"),
        (fits_bytes(np.zeros((2000, 1001), np.int8)), 413, "too_large"),
        (with_pixel(POISON), 500, "detection_failed"),
    ],
    ids=["empty", "short", "png", "a URL", "gzip", "truncated", "cube", "too many pixels", "poison"],
)
def test_bad_frames(client: httpx.Client, body: bytes, status: int, code: str) -> None:
    check_problem(client.post("/detect", content=body), status, code)
    if body:
        check_problem(client.post("/detect", files={"frame": body}), status, code)


def test_bad_forms(client: httpx.Client) -> None:
    check_problem(client.post("/detect", files={"image": FRAME}), 400, "bad_parameter", "image")
    check_problem(client.post("/detect", files={"mask": FRAME}), 400, "bad_parameter", "frame")
    twice = [("frame", FRAME), ("frame", FRAME)]
    check_problem(client.post("/detect", files=twice), 400, "bad_parameter", "twice")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    check_problem(client.post("/detect", content=b"nonsense", headers=form), 400, "bad_parameter")
    cut = b'--x\r\nContent-Disposition: form-data; name="frame"\r\n\r\n' + FRAME
    check_problem(client.post("/detect", content=cut, headers=form), 400, "bad_parameter")
    no_boundary = {"Content-Type": "multipart/form-data"}
    check_problem(client.post("/detect", content=b"x", headers=no_boundary), 400, "bad_parameter", "boundary")
    wrong_shape = {"frame": FRAME, "mask": fits_bytes(np.zeros((50, 50), np.int16))}
    check_problem(client.post("/detect", files=wrong_shape), 422, "unusable_frame", "50 x 50")


def test_no_format_that_is_accepted(client: httpx.Client) -> None:
    check_problem(client.post("/detect", content=FRAME, headers={"Accept": "image/png"}), 406, "no_such_format")


def test_an_upload_past_the_limit_is_refused(client: httpx.Client) -> None:
    too_large = FRAME + bytes(20_000_000)
    check_problem(client.post("/detect", content=too_large), 413, "too_large")
    pieces = (too_large[start : start + 65536] for start in range(0, len(too_large), 65536))
    check_problem(client.post("/detect", content=pieces), 413, "too_large")
    check_problem(client.post("/detect", files={"frame": too_large}), 413, "too_large")


def test_a_stalled_upload_ends(address: str) -> None:
    server = urlsplit(address)
    with socket.create_connection((server.hostname or "", server.port or 0), timeout=10) as connection:
        connection.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + FRAME[:1000])
        start = time.monotonic()
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"upload_too_slow"' in answer
    assert time.monotonic() - start < 5


def test_errors_are_votables_where_votable_was_asked_for(client: httpx.Client) -> None:
    accept = {"Accept": "application/x-votable+xml"}
    for answer in (
        client.post("/detect?format=votable", content=b"this is not FITS"),
        client.post("/detect?RESPONSEFORMAT=votable", content=b"this is not FITS"),
        client.post("/detect", content=b"this is not FITS", headers=accept),
    ):
        assert answer.status_code == 415
        assert answer.headers["content-type"].startswith("application/x-votable+xml")
        infos = {info.name: info for info in votable.parse(BytesIO(answer.content)).resources[0].infos}
        assert infos["QUERY_STATUS"].value == "ERROR"
        assert "not FITS" in infos["QUERY_STATUS"].content
    bad = client.post("/detect?format=votable&min_score=7", content=FRAME)
    assert (bad.status_code, bad.headers["content-type"]) == (400, "application/x-votable+xml")


def test_wrong_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    check_problem(client.get("/nowhere"), 404, "not_found")
    check_problem(client.post("/detect/", content=FRAME), 404, "not_found")
    check_problem(client.get("/detect"), 405, "method_not_allowed")


def check_problem(answer: httpx.Response, status: int, code: str, names: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"]
    assert body["title"]
    assert names in body["detail"]
    for secret in ("Traceback", "/tmp", "/work", ".py", "poison"):
        assert secret not in answer.text
