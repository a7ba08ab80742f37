"""The client against answers of every kind; the network is pytest-httpx's, the upload test has a real socket."""

import asyncio
import re
import resource
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpx import HTTPXMock

from lynceus import call
from lynceus.call import LONGEST_PAUSE, backoff
from lynceus.catalogue import FORMATS, write_error_votable
from lynceus.client import EXTENSIONS, AsyncClient, Client, RefusedError, ServiceError, UnavailableError

URL = "http://service.test:3000"
FULL = {"detail": "the queue is full", "code": "overloaded", "status": 503}
MEGABYTE = 1 << 20


class Blocking:
    """An AsyncClient that can be called as a Client is, so that one test holds for both."""

    def __init__(self, url: str, **options: Any) -> None:
        self.options = {"url": url, **options}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*arguments: Any, **keywords: Any) -> Any:
            async with AsyncClient(**self.options) as client:
                method: Callable[..., Awaitable[Any]] = getattr(client, name)
                return await method(*arguments, **keywords)

        return lambda *arguments, **keywords: asyncio.run(ask(*arguments, **keywords))


@pytest.fixture(params=[Client, Blocking])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float | None]]:
    """What was waited for: attempt and Retry-After; no test waits for long."""
    asked: list[tuple[int, float | None]] = []

    def instead(attempt: int, retry_after: float | None = None) -> float:
        asked.append((attempt, retry_after))
        return 0.001

    monkeypatch.setattr(call, "backoff", instead)
    return asked


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    path = tmp_path / "night_001.fits"
    path.write_bytes(b"SIMPLE  = the frame")
    return path


def test_the_question_is_a_form_with_the_files_and_a_query(kind: Any, frame: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json={"count": 0})
    asked = {"min_score": 0.5, "hdu": None, "measure": False, "format": "votable"}
    assert kind(URL, api_key="secret").detect(frame, mask=b"the mask", **asked) == {"count": 0}
    request = httpx_mock.get_requests()[0]
    assert (request.method, request.url.path) == ("POST", "/detect")
    assert dict(request.url.params) == {"format": "json", "min_score": "0.5", "measure": "false"}
    assert request.headers["authorization"] == "Bearer secret"
    body = request.read()
    assert b'name="frame"; filename="night_001.fits"' in body
    assert b"SIMPLE  = the frame" in body
    assert b"the mask" in body
    assert int(request.headers["content-length"]) == len(body)


def test_other_calls(kind: Any, frame: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{URL}/detect?format=csv", content=b"id,x,y\n", headers={"content-type": "text/csv"})
    httpx_mock.add_response(url=f"{URL}/evaluate?box_rule=catalogue&format=json", json={"evaluation": {}})
    httpx_mock.add_response(url=f"{URL}/evaluate?format=html", html="<p>figures</p>")
    httpx_mock.add_response(url=f"{URL}/models", json={"models": []})
    client = kind(URL)
    assert client.detect_as(frame, "csv") == b"id,x,y\n"
    assert client.evaluate(frame, b"# 1 X_IMAGE", box_rule="catalogue") == {"evaluation": {}}
    assert client.evaluation_page(frame, b"# 1 X_IMAGE", b"# 1 X_IMAGE") == b"<p>figures</p>"
    assert client.models() == {"models": []}
    with_catalogue, with_both = (request.read() for request in httpx_mock.get_requests()[1:3])
    assert b'name="catalogue"' in with_catalogue
    assert b'name="detections"' not in with_catalogue
    assert b'name="detections"' in with_both


def test_the_address_may_have_a_path(kind: Any, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url="https://observatory.test/lynceus/models", json={})
    assert kind("https://observatory.test/lynceus/").models() == {}


def test_an_address_without_scheme_is_refused() -> None:
    with pytest.raises(ServiceError, match="http://"):
        Client("localhost:3000")


@pytest.mark.parametrize("status", [400, 401, 404, 406, 413, 415, 422])
def test_a_refusal_is_told_at_once(kind: Any, frame: Path, httpx_mock: HTTPXMock, status: int) -> None:
    httpx_mock.add_response(status_code=status, json={"detail": "no such thing", "code": "not_so", "status": status})
    with pytest.raises(RefusedError, match=r"^no such thing$") as caught:
        kind(URL).detect(frame)
    assert (caught.value.status, caught.value.code) == (status, "not_so")


def test_an_error_votable_is_read(kind: Any, frame: Path, httpx_mock: HTTPXMock) -> None:
    body = write_error_votable("the file is empty", "not_fits")
    httpx_mock.add_response(status_code=415, content=body, headers={"content-type": FORMATS["votable"].media_type})
    with pytest.raises(RefusedError, match=r"^the file is empty$") as caught:
        kind(URL).detect_as(frame, "votable")
    assert caught.value.code == "not_fits"


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_may_pass_is_asked_again(
    kind: Any, frame: Path, httpx_mock: HTTPXMock, waits: list[Any], status: int
) -> None:
    httpx_mock.add_response(status_code=status, json=FULL, headers={"retry-after": "7"})
    httpx_mock.add_response(status_code=status, json=FULL)
    httpx_mock.add_exception(httpx.ReadError("reset"))
    httpx_mock.add_response(json={"count": 3})
    assert kind(URL).detect(frame) == {"count": 3}
    assert waits == [(1, 7.0), (2, None), (3, None)]
    requests = httpx_mock.get_requests()
    assert len({request.read() for request in requests}) == 4  # boundaries differ
    assert all(b"SIMPLE  = the frame" in request.read() for request in requests)
    names = [request.headers["x-request-id"] for request in requests]
    assert len({name.rpartition("-")[0] for name in names}) == 1
    assert [name.rpartition("-")[2] for name in names] == ["1", "2", "3", "4"]
    assert all(re.fullmatch(r"[\w.:-]{1,64}", name) for name in names)  # what the service takes over into its log


def test_patience_ends_with_the_retries(kind: Any, frame: Path, httpx_mock: HTTPXMock) -> None:
    for _ in range(3):
        httpx_mock.add_response(status_code=503, json=FULL, headers={"retry-after": "7"})
    with pytest.raises(UnavailableError, match="the queue is full") as caught:
        kind(URL, retries=2).detect(frame)
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "overloaded", 7.0)


def test_patience_ends_with_the_time(
    kind: Any, frame: Path, httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "backoff", lambda attempt, retry_after: retry_after)
    httpx_mock.add_response(status_code=503, json=FULL, headers={"retry-after": "7"})
    with pytest.raises(UnavailableError):
        kind(URL, timeout=5.0).detect(frame)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (httpx.ConnectError("Connection refused"), "unreachable", "cannot be reached: Connection refused"),
        (httpx.ConnectTimeout(""), "unreachable", "cannot be reached: it took too long"),
        (httpx.ReadTimeout(""), "interrupted", "did not answer: it took too long"),
        (httpx.RemoteProtocolError(""), "interrupted", "did not answer: RemoteProtocolError"),
    ],
)
def test_a_lost_connection(
    kind: Any, frame: Path, httpx_mock: HTTPXMock, error: Exception, code: str, told: str
) -> None:
    httpx_mock.add_exception(error)
    with pytest.raises(UnavailableError, match=told) as caught:
        kind(URL, retries=0).detect(frame)
    assert (caught.value.status, caught.value.code) == (None, code)


def test_a_failure_of_the_server_is_not_repeated(kind: Any, frame: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=500, json={"detail": "the network failed", "code": "detection_failed"})
    with pytest.raises(ServiceError, match="the network failed") as caught:
        kind(URL).detect(frame)
    assert type(caught.value) is ServiceError


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status_code": 502, "html": "<h1>Bad Gateway</h1>"}, UnavailableError),
        ({"status_code": 403, "html": "<h1>Forbidden</h1>"}, RefusedError),
        ({"status_code": 400, "json": ["an array"]}, RefusedError),
        ({"status_code": 400, "content": b"<html", "headers": {"content-type": "text/xml"}}, RefusedError),
        ({"status_code": 302, "headers": {"location": "https://login.test"}}, RefusedError),
        ({"status_code": 200, "html": "<h1>Please log in</h1>"}, ServiceError),
        ({"status_code": 200, "json": ["an array"]}, ServiceError),
        ({"status_code": 200, "content": b"ok"}, ServiceError),
    ],
)
def test_what_is_not_ours_is_called_so(
    kind: Any, frame: Path, httpx_mock: HTTPXMock, answer: dict[str, Any], error: type[ServiceError]
) -> None:
    httpx_mock.add_response(**answer)
    with pytest.raises(error, match="not the answer of a Lynceus service") as caught:
        kind(URL, retries=0).detect(frame)
    assert str(answer["status_code"]) in str(caught.value)
    assert "<" not in str(caught.value)
    assert answer.get("headers", {}).get("location", "") in str(caught.value)


def test_a_login_page_is_no_table(kind: Any, frame: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(html="<h1>Please log in</h1>")
    with pytest.raises(ServiceError, match="proxy"):
        kind(URL).detect_as(frame, "votable")


def test_a_missing_file_is_an_error_of_the_files(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kind(URL).detect(tmp_path / "no.fits")


def test_a_date_says_when_to_come_back(frame: Path, httpx_mock: HTTPXMock) -> None:
    dates = {
        format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True): pytest.approx(90, abs=5),
        format_datetime(datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=90)): pytest.approx(90, abs=5),
        format_datetime(datetime.now(UTC) - timedelta(seconds=90), usegmt=True): 0.0,
        "soon": None,
        "-3": None,
    }
    for date, expected in dates.items():
        httpx_mock.add_response(status_code=503, json=FULL, headers={"retry-after": date})
        with pytest.raises(UnavailableError) as caught, Client(URL, retries=0) as client:
            client.detect(frame)
        assert caught.value.retry_after == expected


@given(attempt=st.integers(1, 10_000), retry_after=st.none() | st.floats(0, 1e4))
def test_waits_are_bounded_and_never_shorter_than_asked_for(attempt: int, retry_after: float | None) -> None:
    asked = retry_after or 0.0
    assert asked <= backoff(attempt, retry_after) <= asked + LONGEST_PAUSE


def test_extensions_are_those_of_the_formats() -> None:
    assert {name: one.extension for name, one in FORMATS.items()} == EXTENSIONS


class Sink(BaseHTTPRequestHandler):
    """Counts what it is sent."""

    received = 0

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, MEGABYTE)))
        type(self).received += int(self.headers["Content-Length"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def sink() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_large_file_is_streamed(kind: Any, sink: str, tmp_path: Path) -> None:
    large = tmp_path / "large.fits"
    with large.open("wb") as file:
        file.truncate(400 * MEGABYTE)
    before, received = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Sink.received
    assert kind(sink).detect(large) == {}
    assert Sink.received - received > 400 * MEGABYTE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
