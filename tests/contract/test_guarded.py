"""The server as it is put on a network: `python -m service` with TLS by files, keys in a file, and the command line."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from examples.running import free_port, stop
from tests.fakes import fits_bytes, star_field
from tests.unit.service.test_main import certificate

pytestmark = [
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
    pytest.mark.xdist_group("guarded"),
]

KEY, NEW = "key-of-the-pipeline", "new-key-of-the-pipeline"
FRAME = fits_bytes(star_field((64, 64), [(30, 30)]))


@dataclass(frozen=True)
class Guarded:
    """A running server, and the files it was given."""

    address: str
    certificate: Path
    keys: Path
    log: Path

    def ask(self, method: str, path: str, key: str | None = None, **options: object) -> httpx.Response:
        """The answer over TLS, the certificate checked."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        verify = ssl.create_default_context(cafile=str(self.certificate))
        with httpx.Client(base_url=self.address, verify=verify, timeout=60, headers=headers) as client:
            return client.request(method, path, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    cert, key = certificate(folder)
    guarded = Guarded(f"https://127.0.0.1:{port}", cert, folder / "keys", folder / "log")
    guarded.keys.write_text(f"pipeline {KEY} 6000\n")
    command = [sys.executable, "-m", "service", "--port", str(port), "--tls-cert", str(cert), "--tls-key", str(key)]
    environment = {**os.environ, "LYNCEUS_API_KEYS_FILE": str(guarded.keys), "LYNCEUS_DEVICE": "cpu"}
    environment |= {"LYNCEUS_WORKERS": "1", "BENTOML_HOME": str(folder / "home")}
    with guarded.log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until_ready(guarded, process)
            yield guarded
        finally:
            stop(process)


def wait_until_ready(guarded: Guarded, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if guarded.ask("GET", "/readyz").status_code == 200:
                return
        time.sleep(0.2)
    pytest.fail("the server did not start:\n" + guarded.log.read_text()[-3000:])


def test_frames_are_answered_over_tls_to_those_who_have_a_key(server: Guarded) -> None:
    assert server.ask("POST", "/detect", content=FRAME).status_code == 401
    answer = server.ask("POST", "/detect", KEY, content=FRAME)
    assert answer.status_code == 200
    assert answer.json()["model"]["track"] == "stable"
    assert server.ask("GET", "/livez").status_code == server.ask("GET", "/metrics").status_code == 200


def test_plain_http_and_unknown_certificates_are_refused(server: Guarded) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(server.address.replace("https", "http") + "/livez")
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{server.address}/livez")


def test_401_comes_before_the_body_is_asked_for(server: Guarded) -> None:
    context = ssl.create_default_context(cafile=str(server.certificate))
    url = httpx.URL(server.address)
    with (
        socket.create_connection((url.host, url.port or 443), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=url.host) as connection,
    ):
        head = f"POST /detect HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")  # and not 100 Continue


def test_the_command_line_takes_the_key_from_a_file(server: Guarded, tmp_path: Path) -> None:
    (tmp_path / "frame.fits").write_bytes(FRAME)
    (tmp_path / "key").write_text(KEY)
    command = [sys.executable, "-m", "lynceus", "detect", "frame.fits", "--url", server.address]
    environment = {**os.environ, "SSL_CERT_FILE": str(server.certificate)}
    for name in ("LYNCEUS_API_KEY", "LYNCEUS_API_KEY_FILE"):
        environment.pop(name, None)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run("--api-key-file", "key")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frame"]["shape"] == [64, 64]
    refused = run()
    assert refused.returncode == 1
    assert "API key" in refused.stderr


def test_keys_are_rotated_without_a_restart_and_never_logged(server: Guarded) -> None:
    server.keys.write_text(f"pipeline {KEY}\npipeline {NEW}\n")
    time.sleep(1.1)
    assert [server.ask("GET", "/models", key).status_code for key in (KEY, NEW)] == [200, 200]
    server.keys.write_text(f"pipeline {NEW}\n")
    time.sleep(1.1)
    assert [server.ask("GET", "/models", key).status_code for key in (KEY, NEW)] == [401, 200]
    server.keys.write_text("broken\n")
    time.sleep(1.1)
    assert [server.ask("GET", "/models", key).status_code for key in (KEY, NEW)] == [401, 200]
    assert "lynceus_api_key_load_failures_total 1.0" in server.ask("GET", "/metrics").text
    log = server.log.read_text()
    assert "the API keys stay as they were" in log
    assert not [key for key in (KEY, NEW) if key in log]
