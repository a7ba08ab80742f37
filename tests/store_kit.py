"""What tests of stores share: small sealed bundles, and moto's S3 server, which can be told to fail."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SHUT_RDWR
from threading import Event, Lock, Thread
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from lynceus.sums import CARD, MANIFEST, REPORT, WEIGHTS, seal
from model_store import Ref, Store, default_bundle, open_store

WEIGHT_BYTES = 300_000
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "2",
    "NO_PROXY": "127.0.0.1",
}
Environ = dict[str, Any]
Answer = Iterable[bytes]
Application = Callable[[Environ, Callable[..., Any]], Answer]
Fault = Callable[[Environ, Callable[..., Any], Application], Answer]


def write_bundle(folder: Path, version: str = "1", contents: str = "one", name: str = "tiny") -> Path:
    """A sealed folder with a true manifest; its weights are just bytes, which no store looks into."""
    folder.mkdir(parents=True)
    weights = hashlib.shake_256(contents.encode()).digest(WEIGHT_BYTES)
    manifest = json.loads((default_bundle() / MANIFEST).read_bytes()) | {
        "name": name,
        "version": version,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / WEIGHTS).write_bytes(weights)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / REPORT).write_text("{}")
    (folder / CARD).write_text(f"# {contents}")
    seal(folder)
    return folder


def published(store: Store, folder: Path, *versions: str) -> list[Ref]:
    """Push versions made on the way."""
    return [store.push(write_bundle(folder / version, version, contents=version)) for version in versions]


class S3Server:
    """moto over HTTP on a port of this machine; its objects outlive a stop.

    moto looks at a condition and then writes, so writes take turns here, as they do in a real server.
    """

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []
        self.port, self.turn = 0, Lock()
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server: BaseWSGIServer = make_server(
            "127.0.0.1", self.port, self.serve, threaded=True, request_handler=MotoRequestHandler
        )
        self.port = self.server.server_port
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def serve(self, environ: Environ, start: Callable[..., Any]) -> Answer:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return self.fault(environ, start, self.answer) if self.fault else self.answer(environ, start)

    def answer(self, environ: Environ, start: Callable[..., Any]) -> Answer:
        if environ["REQUEST_METHOD"] != "PUT":
            return self.moto(environ, start)
        with self.turn:
            return list(self.moto(environ, start))

    def count(self, method: str, ending: str) -> int:
        """Requests so far of one method for paths with one ending."""
        return sum(one == method and path.endswith(ending) for one, path in self.requests)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server, and credentials for it, while a block runs."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = S3Server()
        yield server
        server.stop()


def new_location(server: S3Server) -> str:
    """A prefix in a bucket of its own."""
    bucket = f"test-{uuid4().hex}"
    client_of(server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix"


def s3_store(server: S3Server, location: str, cache: Path) -> Store:
    return open_store(location, cache=cache, endpoint=server.endpoint, region="us-east-1")


def client_of(server: S3Server) -> Any:
    """A client of the test's own, to look behind the store's back."""
    return boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")


def rewrite(server: S3Server, location: str, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of an object at rest, or take it away (no bytes)."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    client, where = client_of(server), {"Bucket": bucket, "Key": f"{prefix}/{key}"}
    answer = client.get_object(**where)
    if changed := change(answer["Body"].read()):
        client.put_object(**where, Body=changed, Metadata=answer["Metadata"])
    else:
        client.delete_object(**where)


def flip(data: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(data: bytes) -> bytes:
    """The first half."""
    return data[: len(data) // 2]


def gone(data: bytes) -> bytes:
    return b""


def breaking_off(ending: str, after: int, times: int) -> Fault:
    """The line breaks after some bytes of an object, a number of times."""
    left = [times]

    def fault(environ: Environ, start: Callable[..., Any], answer: Application) -> Answer:
        found = answer(environ, start)
        if environ["REQUEST_METHOD"] != "GET" or not environ["PATH_INFO"].endswith(ending) or not left[0]:
            return found
        left[0] -= 1
        return torn(found, after)

    return fault


def torn(found: Answer, after: int) -> Answer:
    yield b"".join(found)[:after]
    raise ConnectionError("the test pulls the plug")


def deaf_to_conditions(environ: Environ, start: Callable[..., Any], answer: Application) -> Answer:
    """An old server."""
    for header in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
        if environ["REQUEST_METHOD"] == "PUT":
            environ.pop(header, None)
    return answer(environ, start)


def losing_answers(ending: str) -> Fault:
    """The first write of an object is done, but nobody learns of it."""
    done: list[str] = []

    def fault(environ: Environ, start: Callable[..., Any], answer: Application) -> Answer:
        found = answer(environ, start)
        if environ["REQUEST_METHOD"] != "PUT" or not environ["PATH_INFO"].endswith(ending) or done:
            return found
        done.append(ending)
        environ["werkzeug.socket"].shutdown(SHUT_RDWR)
        raise ConnectionError("the test pulls the plug")

    return fault


def refusing(status: str, code: str, method: str = "") -> Fault:
    """The server answers with an error."""

    def fault(environ: Environ, start: Callable[..., Any], answer: Application) -> Answer:
        if method not in ("", environ["REQUEST_METHOD"]):
            return answer(environ, start)
        start(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>AKIATESTKEY may not</Message></Error>".encode()]

    return fault


class Holding:
    """A write of one object does not arrive before the test says so, and then never."""

    def __init__(self, ending: str) -> None:
        self.ending, self.arrived, self.released = ending, Event(), Event()

    def __call__(self, environ: Environ, start: Callable[..., Any], answer: Application) -> Answer:
        if environ["REQUEST_METHOD"] != "PUT" or not environ["PATH_INFO"].endswith(self.ending):
            return answer(environ, start)
        self.arrived.set()
        assert self.released.wait(20)
        raise ConnectionError("the client died")
