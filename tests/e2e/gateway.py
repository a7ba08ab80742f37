"""Debian's nginx as a gateway: what an HTTPRoute says, carried out on this machine."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.running import free_port

Route = dict[str, Any]
Endpoints = Mapping[str, Sequence[str]]  # of each Service, `host:port`; the second is asked when the first fails
START_LIMIT_S = 20.0

CONFIGURATION = """
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{upstreams}
    map $http_{header} $named {{
        default "";
{named}
    }}
    split_clients $http_x_request_id $drawn {{
{shares}
    }}
    map $named $backend {{
        "" $drawn;
        default $named;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://$backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout {timeout};
            proxy_request_buffering {buffering};
            proxy_next_upstream {retry};
        }}
    }}
}}
"""


class Gateway:
    """A running nginx.

    Parameters
    ----------
    folder : Path
        For its files.
    endpoints : mapping
        Where the Services are.
    """

    def __init__(self, folder: Path, endpoints: Endpoints) -> None:
        self.folder = folder
        self.endpoints = endpoints
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def follow(self, route: Route) -> None:
        """Do as a changed route says."""
        self.write(route)
        before = self.workers()
        subprocess.run([*self.command, "-s", "reload"], check=True, capture_output=True)
        deadline = time.monotonic() + START_LIMIT_S
        while self.workers() & before:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def workers(self) -> set[str]:
        master = (self.folder / "nginx.pid").read_text().strip()
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())

    def write(self, route: Route) -> None:
        (self.folder / "nginx.conf").write_text(configuration(route, self.endpoints, self.port, self.folder))

    @property
    def command(self) -> list[str]:
        folder = str(self.folder)
        return ["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]


@contextmanager
def gateway(folder: Path, route: Route, endpoints: Endpoints) -> Iterator[Gateway]:
    """Run nginx as a route says."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    one = Gateway(folder, endpoints)
    one.write(route)
    process = subprocess.Popen(one.command)
    try:
        wait(one.port)
        yield one
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait(port: int) -> None:
    """Until it listens; no server hears of it."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nginx did not start"
            time.sleep(0.05)


def configuration(route: Route, endpoints: Endpoints, port: int, folder: Path) -> str:
    """A rule with a header is more specific than one without, wherever it stands; the rest is drawn by weight."""
    rules = route["spec"]["rules"]
    named = [rule for rule in rules if "headers" in rule["matches"][0]]
    (weighted,) = [rule for rule in rules if rule not in named]
    (header,) = {rule["matches"][0]["headers"][0]["name"] for rule in named}
    attempts = max(rule["retry"]["attempts"] for rule in rules)
    return CONFIGURATION.format(
        folder=folder,
        port=port,
        header=header.lower().replace("-", "_"),
        upstreams="\n".join(upstream(name, servers) for name, servers in endpoints.items()),
        named="\n".join(
            f'        "{rule["matches"][0]["headers"][0]["value"]}" {rule["backendRefs"][0]["name"]};' for rule in named
        ),
        shares="\n".join(shares(weighted["backendRefs"])),
        timeout=weighted["timeouts"]["request"],
        buffering="on" if attempts else "off",  # who sends something twice must keep it
        retry=f"error timeout non_idempotent;\n            proxy_next_upstream_tries {attempts + 1}"
        if attempts
        else "off",
    )


def upstream(name: str, servers: Sequence[str]) -> str:
    first, *others = servers
    lines = [
        f"        server {first} max_fails=0;",
        *(f"        server {other} max_fails=0 backup;" for other in others),
    ]
    return "\n".join([f"    upstream {name} {{", *lines, "    }"])


def shares(backends: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of split_clients; the last takes what is left of 100 %."""
    total = sum(backend["weight"] for backend in backends)
    drawn = [(backend["name"], 100 * backend["weight"] / total) for backend in backends if backend["weight"]]
    return [f"        {percent:.2f}% {name};" for name, percent in drawn[:-1]] + [f"        * {drawn[-1][0]};"]
