"""Uploads are bytes: whatever address they name, nobody is asked, and no pickle is opened."""

import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.fakes import fits_bytes, star_field

FRAME = fits_bytes(star_field((64, 64), [(30, 30)]))
ROWS = '<FIELD name="x" datatype="double"/><FIELD name="y" datatype="double"/><DATA>{}</DATA>'
VOTABLE = f"<VOTABLE><RESOURCE><TABLE>{ROWS}</TABLE></RESOURCE></VOTABLE>"
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


class Bait(ThreadingHTTPServer):
    """A server that nobody should ask; it remembers who did."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self.taken = 0
        self.url = f"http://127.0.0.1:{self.server_port}/frame.fits"

    def verify_request(self, request: object, client_address: object) -> bool:
        self.taken += 1
        return False


@pytest.fixture
def bait() -> Iterator[Bait]:
    with Bait() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    assert server.taken == 0


def test_the_bait_works() -> None:
    with Bait() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url)
        server.shutdown()
        thread.join()
    assert server.taken == 1


def test_an_address_is_no_frame(client: httpx.Client, bait: Bait) -> None:
    for url in (bait.url, "file:///etc/passwd", "s3://bucket/frame.fits"):
        answers = [
            client.post("/detect", content=url),
            client.post("/detect", json={"frame": url}),
            client.post("/detect", data={"frame": url}),
            client.post("/detect", files={"frame": (url, url.encode(), "message/external-body")}),
            client.post("/detect", files={"frame": FRAME, "mask": url.encode()}),
        ]
        assert {answer.status_code for answer in answers} == {415}
    answer = client.post("/detect", params={"frame": bait.url, "url": bait.url}, content=FRAME)
    assert answer.status_code == 200
    assert "unknown parameter" in answer.json()["warnings"][0]


@pytest.mark.parametrize(
    "rows",
    [
        '<BINARY><STREAM href="{url}" encoding="base64"/></BINARY>',
        '<FITS><STREAM href="{url}"/></FITS>',
        '<PARQUET type="VOTable-remote-file"><STREAM href="{url}"/></PARQUET>',
    ],
)
def test_a_catalogue_that_is_elsewhere_is_not_fetched(client: httpx.Client, bait: Bait, rows: str) -> None:
    for url in (bait.url, "file:///etc/passwd"):
        catalogue = VOTABLE.format(rows.format(url=url)).encode()
        answer = client.post("/evaluate", files={"frame": FRAME, "catalogue": catalogue})
        assert answer.status_code == 422
        assert "root:" not in answer.text


@pytest.mark.parametrize(
    "declared",
    ['<!DOCTYPE d SYSTEM "{url}">', '<!DOCTYPE d [<!ENTITY x SYSTEM "{url}">]>', f"<!DOCTYPE d [{LAUGHS}]>"],
)
def test_no_entity_is_expanded(client: httpx.Client, bait: Bait, declared: str) -> None:
    rows = "<TABLEDATA><TR><TD>1</TD><TD>&x;&l9;</TD></TR></TABLEDATA>"
    catalogue = declared.replace("{url}", bait.url) + VOTABLE.format(rows)
    answer = client.post("/evaluate", files={"frame": FRAME, "catalogue": catalogue.encode()})
    assert answer.status_code == 422
    assert answer.json()["code"] == "bad_catalogue"


class Opened:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("path", ["/detect", "/evaluate", "/models", "/"])
def test_no_pickle_is_opened(client: httpx.Client, tmp_path: Path, path: str) -> None:
    trace = tmp_path / "opened"
    body = pickle.dumps(Opened(trace))
    for kind in ("application/vnd.bentoml+pickle", "application/octet-stream"):
        headers = {"Content-Type": kind, "Payload-Container": "Pickle", "Bento-Name": "lynceus"}
        assert 400 <= client.post(path, content=body, headers=headers).status_code < 500
    files = {name: pickle.dumps(Opened(trace)) for name in ("frame", "catalogue")}
    assert client.post("/evaluate", files=files).status_code == 415
    assert not trace.exists()
