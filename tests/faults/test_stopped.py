"""SIGTERM while clients wait: whoever was let in gets his answer."""

import signal
import socket
import threading

import httpx

from tests.faults.kit import answered, connected, header, serving, small, until

CLIENTS = 12
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_every_request_that_was_let_in_is_answered() -> None:
    with serving({"FAULT": "slow"}) as server:
        accepted = [accept(server.port, seed) for seed in range(CLIENTS)]
        half, rest = accepted[: CLIENTS // 2], accepted[CLIENTS // 2 :]
        for connection, body in half:
            connection.sendall(body)
        until(lambda: server.metric("lynceus_tiles_total") > 0)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: is_deaf(server.port))
        answers: dict[int, bytes] = {}

        def finish(number: int, connection: socket.socket, unsent: bytes) -> None:
            connection.sendall(unsent)
            answers[number] = answered(connection)
            connection.close()

        unsent = [(connection, b"") for connection, _ in half] + rest
        threads = [threading.Thread(target=finish, args=(n, *one)) for n, one in enumerate(unsent)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [answers[n].split(b"\r\n")[0] for n in range(CLIENTS)] == [b"HTTP/1.1 200 OK"] * CLIENTS
        assert server.process.wait(60) == 0


def accept(port: int, seed: int) -> tuple[socket.socket, bytes]:
    """A request that the server has begun to read: it asks for the body."""
    body, connection = small(seed), connected(port)
    connection.sendall(header(port, len(body), "/detect?deadline=100", "Expect: 100-continue"))
    assert connection.recv(len(CONTINUE)) == CONTINUE
    return connection, body


def is_deaf(port: int) -> bool:
    """Whether nobody new is answered; the supervisor keeps the port open until the last one is."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/livez", timeout=1)
    except httpx.TransportError:
        return True
    return False
