"""The long forms of the faults: each hurts a server of its own for a while and tells what came of it, in figures."""

import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from tempfile import TemporaryDirectory

import httpx
import numpy as np

from service.tidy import EVERY
from tests.fakes import SLOW, fits_bytes, star_field
from tests.faults.kit import (
    SHIPPED,
    Server,
    answered,
    connected,
    header,
    is_ready,
    is_right,
    network_processes,
    serving,
    small,
    until,
)

Figures = dict[str, float | str]
LOST = "lost"


@dataclass
class Verdict:
    """What a trial showed; it is good while nothing that must not happen did."""

    figures: Figures = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def must(self, good: bool, what: str) -> None:
        """Note a promise that was not kept."""
        if not good:
            self.broken.append(what)


@dataclass(frozen=True)
class Trial:
    """A fault, and how to bring it about."""

    name: str
    run: Callable[[float, Verdict], None]


def ask(client: httpx.Client, server: Server, body: bytes, seed: int | None = None, **query: object) -> str:
    """What a client saw: its status, `wrong` for somebody else's answer, `lost` for none."""
    try:
        answer = client.post(f"{server.address}/detect", content=body, params=dict(query))
    except httpx.TransportError:
        return LOST
    if answer.status_code == 200 and seed is not None:
        mine = answer.json()["frame"]["sha256"] == sha256(body).hexdigest()
        return "200" if mine and is_right(answer, seed) else "wrong"
    return str(answer.status_code)


def crowd(
    server: Server, clients: int, requests: int, first: int = 0, go_on: Callable[[], bool] = lambda: True
) -> Counter[str]:
    """So many clients with small frames that are like no other, and what they saw."""
    numbers, lock, seen = iter(range(first, first + requests)), threading.Lock(), Counter[str]()

    def work() -> None:
        with httpx.Client(timeout=120) as client:
            while go_on():
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                outcome = ask(client, server, small(number), number)
                with lock:
                    seen[outcome] += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def killed(scale: float, verdict: Verdict) -> None:
    """kill -9 of the worker, again and again, while clients ask."""
    kills, back = max(1, round(5 * scale)), []
    with serving({"LYNCEUS_WORKERS": "2"}) as server, ThreadPoolExecutor(1) as pool:
        ended = threading.Event()
        asking = pool.submit(crowd, server, 8, 10**9, 0, lambda: not ended.is_set())
        try:
            for _ in range(kills):
                time.sleep(3)
                start = time.monotonic()
                os.kill(server.worker, signal.SIGKILL)
                until(lambda: is_ready(server), 120)
                back.append(time.monotonic() - start)
        finally:
            ended.set()
        seen = asking.result()
        verdict.must(is_right(server.post(small(1)), 1), "right after the last kill")
    verdict.figures |= {"kills": kills, "answers": seen["200"], LOST: seen[LOST], "wrong": seen["wrong"]}
    verdict.figures["slowest return, s"] = round(max(back), 1)
    verdict.must(not seen["wrong"], "no wrong answer")
    verdict.must(set(seen) <= {"200", LOST, "503"}, f"only answers and broken lines: {dict(seen)}")


def networks_killed(scale: float, verdict: Verdict) -> None:
    """kill -9 of the processes that run the shipped network, in the middle of a frame, again and again."""
    kills, bodies = max(1, round(10 * scale)), [fits_bytes(star_field((900, 900), stars(seed))) for seed in range(4)]
    with serving({"LYNCEUS_WORKERS": "2"}, SHIPPED) as server, ThreadPoolExecutor(len(bodies)) as pool:
        calm = [listed(server.post(body)) for body in bodies]
        verdict.must(all(calm), "there is something to find")
        answers, dead = [], set[int]()
        for _ in range(kills):
            asked = [pool.submit(server.post, body, 120) for body in bodies]
            until(lambda: server.metric("lynceus_queue_tiles") > 0)
            for pid in network_processes(server.process.pid):
                os.kill(pid, signal.SIGKILL)
                dead.add(pid)
            answers += [listed(one.result()) == expected for one, expected in zip(asked, calm, strict=True)]
        verdict.must(len(dead) == kills * len(network_processes(server.process.pid)), "there were new ones each time")
    verdict.figures |= {"kills": len(dead), "frames": len(answers), "answered as without a kill": sum(answers)}
    verdict.must(all(answers), "every frame is answered as without a kill")


def stars(seed: int) -> list[tuple[float, float]]:
    """Places of 60 stars on a frame of 900 px."""
    return [(float(x), float(y)) for x, y in np.random.default_rng(seed).uniform(30, 870, (60, 2))]


def listed(answer: httpx.Response) -> list[object]:
    """What was found; nothing if there was no answer."""
    return list(answer.json()["detections"]) if answer.status_code == 200 else []


def stopped(scale: float, verdict: Verdict) -> None:
    """SIGTERM while clients upload, wait in the queue and read."""
    rounds, accepted, given = max(1, round(4 * scale)), 0, Counter[str]()
    for _ in range(rounds):
        with serving({"FAULT": "slow"}) as server:
            half = [begun(server.port, seed, sent=True) for seed in range(16)]
            rest = [begun(server.port, seed, sent=False) for seed in range(16, 28)]
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with ThreadPoolExecutor(28) as pool:
                for status in pool.map(finished, half + rest):
                    given[status] += 1
            accepted += len(half) + len(rest)
            verdict.must(server.process.wait(120) == 0, "the server ends well")
    verdict.figures |= {"stops": rounds, "accepted": accepted, "answered": given["200"], LOST: accepted - given["200"]}
    verdict.must(given["200"] == accepted, f"every accepted request is answered: {dict(given)}")


def begun(port: int, seed: int, *, sent: bool) -> tuple[socket.socket, bytes]:
    """A request whose body the server has asked for, and what of it is still to be sent."""
    body, connection = small(seed), connected(port, 120)
    connection.sendall(header(port, len(body), "/detect?deadline=100", "Expect: 100-continue"))
    if not connection.recv(4096).startswith(b"HTTP/1.1 100"):
        raise RuntimeError("the server did not ask for the body")
    if sent:
        connection.sendall(body)
    return connection, b"" if sent else body


def finished(request: tuple[socket.socket, bytes]) -> str:
    """The status of a request that was begun."""
    connection, unsent = request
    with suppress(OSError):
        connection.sendall(unsent)
    status = answered(connection).split(b" ")[1:2]
    connection.close()
    return status[0].decode() if status else LOST


def stuck(scale: float, verdict: Verdict) -> None:
    """The network does not come back."""
    settings = {"FAULT": "stuck", "LYNCEUS_STUCK_SECONDS": "3", "BENTOML_CONTAINERIZED": "true"}
    with serving(settings) as server, ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        asked = pool.submit(ask, httpx.Client(timeout=60), server, small(1, SLOW))
        until(lambda: httpx.get(f"{server.address}/livez", timeout=5).status_code == 503, 30)
        verdict.figures["liveness fails after, s"] = round(time.monotonic() - start, 1)
        verdict.figures["the client got"] = asked.result()
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(30)
        verdict.figures["ended after, s"] = round(time.monotonic() - start, 1)
        verdict.must(server.process.poll() is not None, "the process ends")
        verdict.must("status 70" in server.log.read_text(), "with status 70")


def memory(scale: float, verdict: Verdict) -> None:
    """A device that holds two tiles, and a tile in ten that never fits."""
    total = round(400 * scale)
    settings = {"FAULT": "memory", "LYNCEUS_MAX_BATCH_TILES": "8", "LYNCEUS_MAX_WINDOW": "0.05"}
    with serving(settings) as server, ThreadPoolExecutor(16) as pool, httpx.Client(timeout=120) as client:

        def one(seed: int) -> str:
            never = seed % 10 == 0
            outcome = ask(client, server, small(seed, SLOW if never else None), None if never else seed)
            return f"{outcome} {'never fits' if never else 'fits'}"

        seen = Counter(pool.map(one, range(total)))
    verdict.figures |= {"frames": total, **seen}
    verdict.must(set(seen) == {"200 fits", "503 never fits"}, "those that fit are answered, the others get 503")


def disk(scale: float, verdict: Verdict) -> None:
    """Uploads to a disk of 8 MB, or files that may hold 2 MB where this user may not mount one."""
    large, total = fits_bytes(np.zeros((900, 900), np.float32)), round(60 * scale)
    with small_disk() as folder:
        settings = {"LYNCEUS_DISK_RESERVE": "1000000"} | ({"TMPDIR": folder} if folder else {})
        with serving(settings) as server, ThreadPoolExecutor(12) as pool, httpx.Client(timeout=120) as client:
            if not folder:
                resource.prlimit(server.worker, resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
            bodies = [large[:-4] + n.to_bytes(4, "big") for n in range(total)]
            seen = Counter(pool.map(lambda body: ask(client, server, body), bodies))
            unstated = Counter(pool.map(lambda body: dripped(server, body), bodies))
            verdict.must(is_right(server.post(small(1)), 1), "right afterwards")
    verdict.figures |= {"disk": "tmpfs of 8 MB" if folder else "files of 2 MB", "stated": str(dict(seen))}
    verdict.figures["unstated length"] = str(dict(unstated))
    verdict.must(set(seen + unstated) <= {"200", "503"}, "200 or 503")
    verdict.must((seen + unstated)["503"] > 0, "the disk was full")


def dripped(server: Server, body: bytes) -> str:
    """What a client sees that does not say how much it sends."""
    pieces = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    try:
        return str(httpx.post(f"{server.address}/detect", content=pieces, timeout=120).status_code)
    except httpx.TransportError:
        return LOST


@contextmanager
def small_disk() -> Iterator[str]:
    """A disk of 8 MB; an empty name where it cannot be made."""
    with TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0 if os.geteuid() == 0 else False
        try:
            yield folder if made else ""
        finally:
            if made:
                subprocess.run(["umount", "-l", folder], check=True)


def dribbled(scale: float, verdict: Verdict) -> None:
    """Uploads and headers that never end, and a client who is served meanwhile."""
    settings = {"LYNCEUS_UPLOAD_TIMEOUT": "5", "LYNCEUS_HEADER_TIMEOUT": "5", "LYNCEUS_MAX_UPLOADS": "32"}
    uploads, headers = round(24 * scale) or 1, round(300 * scale) or 1
    with serving(settings) as server:
        beginnings = [header(server.port, 10**6) + b"SIMPLE  =                    T"] * uploads
        beginnings += [b"POST /detect HTTP/1.1\r\nX-Slow: "] * headers
        connections = []
        for beginning in beginnings:
            connections.append(connected(server.port))
            connections[-1].sendall(beginning)
        served = crowd(server, 4, 40)
        replies = Counter((answered(one).split(b" ")[1:2] or [b"closed"])[0].decode() for one in connections)
    verdict.figures |= {"uploads": uploads, "headers": headers, "served meanwhile": served["200"], **replies}
    verdict.must(served["200"] == 40, "others are served")
    verdict.must(replies == {"408": uploads, "closed": headers}, "408, or closed")


def gone(scale: float, verdict: Verdict) -> None:
    """Clients that hang up at any moment."""
    total, chance = round(500 * scale), random.Random(1)
    body = fits_bytes(star_field((500, 500), [(100, 100)]))  # 25 tiles
    with serving({"LYNCEUS_WORKERS": "2"}) as server:
        for _ in range(total):
            connection = connected(server.port)
            connection.sendall((header(server.port, len(body)) + body)[: chance.randrange(len(body) * 2)])
            time.sleep(chance.uniform(0, 0.02))
            connection.close()
        until(lambda: server.metric("lynceus_queue_tiles") == 0, 30)
        held = server.metric("lynceus_inference_stuck_seconds")
        after = crowd(server, 8, 100)
    verdict.figures |= {"hung up": total, "tiles left": 0, "answers afterwards": after["200"]}
    verdict.must(held < 1 and after["200"] == 100, "the queue is free and everybody is answered")


def strangers(scale: float, verdict: Verdict) -> None:
    """Many clients with frames that are like no other: nobody gets another's answer."""
    total = round(3000 * scale)
    with serving({"LYNCEUS_WORKERS": "2", "LYNCEUS_MAX_BATCH_TILES": "8", "LYNCEUS_MAX_UPLOADS": "64"}) as server:
        seen = crowd(server, 48, total)
    verdict.figures |= {"frames": total, "clients": 48, **seen}
    verdict.must(not seen["wrong"] and not seen[LOST] and set(seen) <= {"200", "503"}, "no wrong answer, none lost")


def leak(scale: float, verdict: Verdict) -> None:
    """Memory after ten times as many small requests."""
    few, many = round(1000 * scale), round(10_000 * scale)
    with serving({"LYNCEUS_WORKERS": "1"}) as server:
        crowd(server, 4, few)
        sizes, seen, step = [resting(server)], Counter[str](), (many - few) // 3
        for number in range(3):
            seen += crowd(server, 4, step, few + number * step)
            sizes.append(resting(server))
        before, after = sizes[0], sizes[-1]
    verdict.figures |= {f"after {few}, MB": round(before / 1e6, 1), f"after {many}, MB": round(after / 1e6, 1)}
    verdict.figures["on the way, MB"] = ", ".join(f"{size / 1e6:.1f}" for size in sizes)
    verdict.figures["growth"] = f"{after / before - 1:+.2%}"
    verdict.must(after <= 1.05 * before, "within 5 %")
    verdict.must(set(seen) == {"200"}, f"all are answered: {dict(seen)}")


def resting(server: Server) -> float:
    """The memory the server holds once it has tidied up."""
    time.sleep(EVERY + 1)
    return server.metric("lynceus_process_resident_bytes")


TRIALS: Sequence[Trial] = tuple(
    Trial(run.__doc__.strip(".") if run.__doc__ else run.__name__, run)
    for run in (killed, networks_killed, stopped, stuck, memory, disk, dribbled, gone, strangers, leak)
)
