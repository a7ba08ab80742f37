"""Clients that ask a running server: as many at once as are told, or as they come, whatever the server does."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from tests.load.shots import Shot

MOST_OPEN = 600  # requests at once: what would pass it is not sent, and counted
PATIENCE = 30.0  # seconds beyond its deadline that a request may take before it counts as lost
GONE, LOST, UNSENT = 0, -1, -2  # what became of a request without an answer


@dataclass(frozen=True)
class Result:
    """What became of a request, after how many seconds, and when (monotonic)."""

    shot: Shot
    status: int
    seconds: float
    at: float = 0.0
    wrong: str = ""


class Range:
    """Sends requests to one server, and keeps what became of them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.results: list[Result] = []
        self._open: set[asyncio.Task[None]] = set()

    async def closed_loop(self, clients: int, seconds: float, draw: Callable[[], Shot]) -> None:
        """Let so many clients ask one question after the other."""
        end = time.monotonic() + seconds

        async def ask() -> None:
            while time.monotonic() < end:
                await self.fire(draw())

        await asyncio.gather(*(ask() for _ in range(clients)))

    async def open_loop(self, rate: float, seconds: float, draw: Callable[[], Shot], seed: int = 0) -> None:
        """Send so many a second at random times, whether or not earlier ones are answered; wait for the last."""
        gaps, due = random.Random(seed), time.monotonic()
        end = due + seconds
        while due < end:
            due += gaps.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._send(draw())
        await asyncio.gather(*self._open)

    async def fire(self, shot: Shot) -> None:
        """Send one request and note what becomes of it."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(shot.hangs_up_after or float(shot.query["deadline"]) + PATIENCE):
                answer = await self.client.post("/detect", params=shot.query, content=shot.body)
            status, wrong = answer.status_code, wrongs(shot, answer)
        except TimeoutError:
            status, wrong = LOST if shot.hangs_up_after is None else GONE, ""
        except httpx.TransportError as error:
            status, wrong = LOST, type(error).__name__
        now = time.monotonic()
        self.results.append(Result(shot, status, now - start, now, wrong))

    def _send(self, shot: Shot) -> None:
        if len(self._open) >= MOST_OPEN:
            self.results.append(Result(shot, UNSENT, 0.0))
            return
        task = asyncio.create_task(self.fire(shot))
        self._open.add(task)
        task.add_done_callback(self._open.discard)


@asynccontextmanager
async def shooting(address: str) -> AsyncIterator[Range]:
    """A range in front of a server on this machine, and nowhere else."""
    if urlsplit(address).hostname not in ("127.0.0.1", "localhost"):
        raise ValueError(f"load is for servers on this machine, not {address}")
    limits = httpx.Limits(max_connections=MOST_OPEN, max_keepalive_connections=50, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=None) as client:
        yield Range(client)


def wrongs(shot: Shot, answer: httpx.Response) -> str:
    """What is wrong with an answer, if anything."""
    status = answer.status_code
    if status == 503:
        return "" if int(answer.headers.get("retry-after", 0)) >= 1 else "503 without Retry-After"
    if status == 504:
        return ""
    if status not in shot.expected:
        return f"{status} for {shot.kind}"
    if status == 200 and shot.query.get("format") == "json" and answer.json()["frame"]["sha256"] != shot.sha256:
        return "the answer to another frame"
    return ""
