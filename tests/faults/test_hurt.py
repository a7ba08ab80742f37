"""What hurts a server without ending it: no memory, no disk, clients that dribble or hang up; it goes on as before."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.fakes import SLOW, fits_bytes, star_field
from tests.faults.kit import Server, answered, connected, header, is_right, serving, small, until
from tests.soak.trials import crowd, resting

UPLOAD_TIMEOUT = HEADER_TIMEOUT = 2.0  # seconds
FEW_REQUESTS = 300
LARGEST_FILE = 1_000_000  # bytes the worker may write to one file, while its disk is full
SETTINGS = {
    "FAULT": "memory",
    "LYNCEUS_MAX_BATCH_TILES": "8",
    "LYNCEUS_MAX_WINDOW": "0.2",
    "LYNCEUS_UPLOAD_TIMEOUT": str(UPLOAD_TIMEOUT),
    "LYNCEUS_HEADER_TIMEOUT": str(HEADER_TIMEOUT),
    "LYNCEUS_MAX_UPLOADS": "16",
    "LYNCEUS_DISK_RESERVE": "0",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(SETTINGS) as started:
        yield started


@pytest.fixture(autouse=True)
def goes_on(server: Server) -> Iterator[None]:
    """Whatever happened, the same process answers the next frame rightly, and holds nothing of those before."""
    before = server.worker
    yield
    assert server.worker == before
    assert is_right(server.post(small(99)), 99)
    until(lambda: server.metric("lynceus_queue_tiles") == 0)
    assert uploads_of(before) == []


def uploads_of(pid: int) -> list[str]:
    """Uploads that a process still holds: deleted files in the folder for temporary ones."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.endswith("(deleted)") and "/tmp" in link]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(server: Server) -> None:
    stars = [(100.0 + 30 * n, 300.0) for n in range(10)]
    answer = server.post(fits_bytes(star_field((500, 500), stars)))  # 25 tiles
    assert answer.status_code == 200
    found = sorted((row["x"], row["y"]) for row in answer.json()["detections"])
    assert [pytest.approx(star, abs=0.5) for star in stars] == found


def test_a_tile_that_never_fits_is_refused_for_now_and_takes_nobody_with_it(server: Server) -> None:
    with ThreadPoolExecutor(6) as clients:
        seeds = range(200, 206)
        answers = list(clients.map(lambda seed: server.post(small(seed, SLOW if seed == 203 else None)), seeds))
    for seed, answer in zip(seeds, answers, strict=True):
        assert is_right(answer, seed) or seed == 203
    refused = answers[3]
    assert (refused.status_code, refused.json()["code"]) == (503, "out_of_memory")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_full_disk_refuses_large_uploads_and_takes_small_ones(server: Server) -> None:
    before = server.metric("lynceus_rejected_total")
    large = fits_bytes(star_field((700, 700), [(100, 100)]))
    unlimited = resource.prlimit(server.worker, resource.RLIMIT_FSIZE, (LARGEST_FILE, resource.RLIM_INFINITY))
    try:
        answers = [server.post(large) for _ in range(3)]
        form = httpx.post(f"{server.address}/detect", files={"frame": large}, timeout=60)
        assert is_right(server.post(small(98)), 98)
    finally:
        resource.prlimit(server.worker, resource.RLIMIT_FSIZE, unlimited)
    for answer in (*answers, form):
        assert (answer.status_code, answer.json()["code"]) == (503, "disk_full")
        assert int(answer.headers["retry-after"]) >= 1
    assert server.metric("lynceus_rejected_total") == before + 4
    assert server.post(large).status_code == 200


def test_who_dribbles_his_upload_is_told_so_while_others_are_served(server: Server) -> None:
    slow = [
        dribbling(server.port, header(server.port, 1_000_000) + b"SIMPLE  =                    T") for _ in range(8)
    ]
    assert is_right(server.post(small(97)), 97)
    for connection in slow:
        assert answered(connection).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_who_dribbles_his_header_is_hung_up_on_while_others_are_served(server: Server) -> None:
    slow = [dribbling(server.port, b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ") for _ in range(100)]
    assert is_right(server.post(small(96)), 96)
    for connection in slow:
        assert answered(connection) == b""
        connection.close()


def dribbling(port: int, beginning: bytes) -> socket.socket:
    """A connection that has sent a beginning, and sends a byte now and then until it is hung up on."""
    connection = connected(port)
    connection.sendall(beginning)

    def dribble() -> None:
        with suppress(OSError):
            while True:
                connection.sendall(b"x")
                time.sleep(0.3)

    threading.Thread(target=dribble, daemon=True).start()
    return connection


def test_who_hangs_up_leaves_nothing_behind(server: Server) -> None:
    body = fits_bytes(star_field((500, 500), [(100, 100)]))
    for number in range(24):
        connection = connected(server.port)
        cut = len(body) * (number % 4 + 1) // 4  # the last of four sends all of it
        connection.sendall(header(server.port, len(body)) + body[:cut])
        if number % 8 < 4:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no farewell
        connection.close()


def test_small_requests_leave_no_memory_behind(server: Server) -> None:
    crowd(server, 4, FEW_REQUESTS)
    before = resting(server)
    assert crowd(server, 4, 3 * FEW_REQUESTS, FEW_REQUESTS) == {"200": 3 * FEW_REQUESTS}
    assert resting(server) < 1.05 * before


def test_many_clients_get_their_own_answers_or_are_turned_away(server: Server) -> None:
    seen = crowd(server, 40, 400, 5000)
    assert set(seen) <= {"200", "503"}
    assert seen["200"] > 0
