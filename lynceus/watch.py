"""The folder watcher: every frame that arrives is sent once, and ends as one result or one reason."""

import asyncio
import hashlib
import json
import logging
import shutil
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import Any, Protocol

from watchfiles import Change, awatch

from lynceus.arrivals import Arrivals, is_frame_name, lacks, look_at, scan
from lynceus.call import INTERRUPTED, backoff
from lynceus.client import AsyncClient
from lynceus.durable import write_whole
from lynceus.errors import RefusedError, ServiceError, UnavailableError
from lynceus.spool import Entry, Spool
from lynceus.tally import Tally, metrics_server
from lynceus.trouble import Trouble
from lynceus.watched import Watched

logger = logging.getLogger(__name__)

NOT_THE_FRAME = frozenset({401, 403, 404, 405, 406, 407})  # key, address, version or format: no frame is at fault
DEADLINE = "deadline_exceeded"
INCOMPLETE, UNREADABLE = "incomplete", "unreadable"
QUIET_RESCAN = 10.0  # seconds between two looks at a folder that reports its changes
LOOK_SHARE = 0.2  # of the time that looks may take, however many changes are reported
SHORTEST_GAP = 0.1  # seconds between two looks
KEPT = 30 * 86400.0  # seconds that a frame is remembered after its file has gone
PRUNE_EVERY = 3600.0  # seconds
HEARTBEAT = 5.0  # seconds between two writings of the metrics


class Detects(Protocol):
    """What the watcher needs of a client."""

    async def detect_as(self, frame: Path, format: str, **query: Any) -> bytes:
        """The answer for a frame."""


class Watcher:
    """Drives the frames of a folder through the service.

    `look` and `attempt` are its two steps, `run` takes them as long as there is something to do.

    Parameters
    ----------
    watched : Watched
        What to do.
    client : AsyncClient
        That repeats nothing by itself.
    spool : Spool
        Where every frame's state is.
    tally : Tally
        Where everything is counted.
    metrics_file : Path or None
        Where that is written, for node_exporter's textfile collector.
    clock : callable
        Seconds since 1970.
    sleep : callable
        Waits for so many seconds.
    """

    def __init__(
        self,
        watched: Watched,
        client: Detects,
        spool: Spool,
        tally: Tally,
        *,
        metrics_file: Path | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.watched = watched
        self.spool = spool
        self.tally = tally
        self.arrivals = Arrivals(watched.settle)
        self._client = client
        self._metrics_file = metrics_file
        self._clock = clock
        self._sleep = sleep
        self._service = Trouble("the service cannot be used", clock)
        self._folder = Trouble(f"the folder {watched.folder} cannot be read", clock)
        self._room = Trouble("results cannot be written", clock)
        self._metrics_room = Trouble("the metrics cannot be written", clock)
        self._wake = asyncio.Event()
        self._stopping = False
        self._looked = False
        self._next_look = self._earliest_look = self._next_prune = self._next_beat = 0.0

    async def run(self) -> None:
        """Watch until `stop` is called or, with `once`, until everything has ended."""
        self._sweep()
        trying: set[asyncio.Task[None]] = set()
        listening = asyncio.create_task(self._listen())
        try:
            while not self._stopping:
                self._wake.clear()
                _let_go(trying)
                await self._look_if_due()
                self._start_tries(trying)
                self._beat()
                if self.watched.once and not trying and self._is_idle():
                    break
                await self._rest(trying)
        finally:
            listening.cancel()
            await self._end(trying)

    def stop(self) -> None:
        """Have `run` end: what is in flight may still arrive."""
        self._stopping = True
        self._wake.set()

    async def look(self) -> None:
        """Look at the folder once, and take up what has come to rest in it."""
        watched, start = self.watched, self._clock()
        try:
            found = await asyncio.to_thread(
                scan, watched.folder, watched.patterns, watched.recursive, watched.skipped()
            )
            now = self._clock()
            new = [one for one in found if not self.spool.knows(one) and not self._is_result(one.name)]
            settled = self.arrivals.settled(new, now)
            if settled:
                self.spool.see(settled, now)
            if now >= self._next_prune:
                self.spool.prune({one.name for one in found}, now - KEPT)
                self._next_prune = now + PRUNE_EVERY
        except OSError as error:
            self._next_look = self._clock() + self._folder.meet(error.strerror or error)
            return
        except sqlite3.OperationalError as error:
            self.arrivals = Arrivals(watched.settle)  # what had settled was not taken up
            self._next_look = self._clock() + self._room.meet(error)
            return
        self._looked = True
        self._folder.pass_()
        self._earliest_look = now + max((now - start) / LOOK_SHARE, SHORTEST_GAP)
        self._next_look = max(
            min(now + (watched.poll or QUIET_RESCAN), self.arrivals.next_settling), self._earliest_look
        )

    def take(self) -> Entry | None:
        """The frame to try now, if there is one and nothing speaks against it."""
        now = self._clock()
        if now < max(self._service.until, self._room.until):
            return None
        try:
            return self.spool.take(now)
        except sqlite3.OperationalError as error:
            self._room.meet(error)
            return None

    async def attempt(self, entry: Entry) -> None:
        """Try one frame; whatever comes of it, the spool knows afterwards what is to be done."""
        path = self.watched.folder / entry.name
        try:
            if lacking := await asyncio.to_thread(lacks, path):
                await self._await_the_rest(entry, lacking)
                return
            sha256 = await asyncio.to_thread(_sha256, path)
            if sha256 == entry.sha256 and entry.result is not None and Path(entry.result).exists():
                await self._insist(self._settle, entry, sha256)  # only its time of change is new
                return
            answer = await self._client.detect_as(path, self.watched.format, **self.watched.query)
        except UnavailableError as error:
            await self._excuse(entry, error)
        except RefusedError as error:
            if error.status in NOT_THE_FRAME:
                await self._excuse(entry, error)
            else:
                self._service.pass_()
                await self._insist(self._bury, entry, error.code, str(error), error.status)
        except ServiceError as error:
            await self._fail(entry, error.code, str(error), error.status)
        except FileNotFoundError:
            logger.warning("%s went away before it could be sent", entry.name)
            await self._insist(self.spool.forget, entry)
        except OSError as error:
            await self._fail(entry, UNREADABLE, f"the file cannot be read: {error.strerror or error}", None)
        else:
            self._service.pass_()
            await self._insist(self._deliver, entry, sha256, answer)

    def _sweep(self) -> None:
        """After a crash: nothing is being sent any more, and what was half written goes."""
        for entry in self.spool.recover():
            unfinished = [self.watched.reason(entry.name), *([Path(entry.result)] if entry.result else [])]
            for path in unfinished:
                for partial in path.parent.glob(f".{escape(path.name)}.*.partial"):
                    partial.unlink(missing_ok=True)

    async def _look_if_due(self) -> None:
        if self._clock() >= self._next_look:
            await self.look()

    def _start_tries(self, trying: set[asyncio.Task[None]]) -> None:
        while len(trying) < self.watched.concurrency and (entry := self.take()) is not None:
            task = asyncio.create_task(self.attempt(entry))
            task.add_done_callback(lambda _: self._wake.set())
            trying.add(task)

    async def _rest(self, trying: set[asyncio.Task[None]]) -> None:
        """Wait for a change, the end of a try, or the time of the next step."""
        until = min(self._next_look, self._next_beat if self._metrics_file else float("inf"))
        if len(trying) < self.watched.concurrency and (due := self.spool.due_at()) is not None:
            until = min(until, max(due, self._service.until, self._room.until))
        try:
            async with asyncio.timeout(max(until - self._clock(), 0.01)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _end(self, trying: set[asyncio.Task[None]]) -> None:
        """Give what is in flight its time, then leave it to the next start."""
        if trying:
            _, late = await asyncio.wait(trying, timeout=self.watched.grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*trying, return_exceptions=True)
            if late:
                logger.warning("%d frames in flight were left for the next start", len(late))
        self._next_beat = 0.0
        self._beat()

    def _is_idle(self) -> bool:
        return self._looked and not self.arrivals.unsettled and not self.spool.waiting()[0]

    def _is_result(self, name: str) -> bool:
        return self.spool.is_result(str(self.watched.folder.absolute() / name))

    async def _await_the_rest(self, entry: Entry, lacking: str) -> None:
        """An unfinished file is looked at again when it changes, and a last time when it is given up."""
        give_up_at = entry.seen_at + self.watched.give_up
        if self._clock() < give_up_at:
            await self._insist(self.spool.put_back, entry, give_up_at)
        else:
            await self._insist(self._bury, entry, INCOMPLETE, f"the file {lacking}", None)

    async def _excuse(self, entry: Entry, error: ServiceError) -> None:
        """The service cannot be used: no frame is to blame, and all wait."""
        if error.status == 504 and error.code == DEADLINE:  # but this one is: others are in time
            await self._fail(entry, error.code, str(error), error.status)
            return
        self._service.meet(error, error.retry_after)
        self.tally.count(self.tally.retries, error.code)
        await self._insist(self.spool.put_back, entry, 0.0, False, error.code == INTERRUPTED)

    async def _fail(self, entry: Entry, code: str, reason: str, status: int | None) -> None:
        """The service, or the disk, fails on this frame: it is tried again, but not for ever."""
        if entry.tries + 1 >= self.watched.tries:
            await self._insist(self._bury, entry, code, reason, status)
            return
        logger.warning("%s: %s; it will be tried again", entry.name, reason)
        self.tally.count(self.tally.retries, code)
        retry_at = self._clock() + 1.0 + backoff(entry.tries + 2)
        await self._insist(self.spool.put_back, entry, retry_at, True)

    def _deliver(self, entry: Entry, sha256: str, answer: bytes) -> None:
        """Write a result under its name in one step; not if the frame has changed meanwhile, which is sent again."""
        try:
            changed = look_at(self.watched.folder / entry.name, entry.name) != entry.sighting
        except FileNotFoundError:
            changed = False  # gone: it was read, and its result is of use
        if changed:
            self.spool.put_back(entry)
            return
        result = self.spool.claim(entry, self.watched.results(entry.name))
        write_whole(result, answer)
        self._settle(entry, sha256)

    def _settle(self, entry: Entry, sha256: str) -> None:
        """A frame has its result."""
        now = self._clock()
        self.watched.reason(entry.name).unlink(missing_ok=True)  # of an earlier file of that name
        self.spool.finish(entry, sha256, now)
        self.tally.finished(now - entry.seen_at, now)
        logger.info("%s: done", entry.name)

    def _bury(self, entry: Entry, code: str, reason: str, status: int | None) -> None:
        """A frame has no result, and here is why."""
        path, now = self.watched.reason(entry.name), self._clock()
        letter = {
            "frame": str((self.watched.folder / entry.name).absolute()),
            "reason": reason,
            "code": code,
            "status": status,
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "tries": entry.tries + 1,
        }
        write_whole(path, json.dumps(letter, indent=1).encode() + b"\n")
        if self.watched.move:
            _move(self.watched.folder / entry.name, path.with_name(Path(entry.name).name))
            self.spool.forget(entry)
        else:
            self.spool.bury(entry, code, now)
        self.tally.count(self.tally.dead, code)
        logger.warning("%s: %s (%s); see %s", entry.name, reason, code, path)

    async def _insist(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do what writes to a disk, again and again until there is room for it."""
        while True:
            try:
                await asyncio.to_thread(action, *arguments)
            except (OSError, sqlite3.OperationalError) as error:
                await self._sleep(self._room.meet(error))
            else:
                self._room.pass_()
                return

    async def _listen(self) -> None:
        """Look soon after a change is reported; the looks in between find what is not."""
        while self.watched.poll is None:
            try:
                changes = awatch(
                    self.watched.folder, watch_filter=self._is_news, recursive=self.watched.recursive, debounce=200
                )
                async for _ in changes:
                    self._next_look = min(self._next_look, max(self._earliest_look, self._clock()))
                    self._wake.set()
            except (OSError, RuntimeError) as error:
                logger.info("changes are not reported (%s); looking every %.0f s", error, QUIET_RESCAN)
            await self._sleep(QUIET_RESCAN)

    def _is_news(self, change: Change, path: str) -> bool:
        name = Path(path).name
        return (
            change != Change.deleted and is_frame_name(name, self.watched.patterns) and not self.spool.is_result(path)
        )

    def _beat(self) -> None:
        """Bring the metrics up to date."""
        self.tally.waiting, self.tally.oldest = self.spool.waiting()
        now = self._clock()
        if self._metrics_file is None or now < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT
        try:
            write_whole(self._metrics_file, self.tally.text(now).encode())
            self._metrics_room.pass_()
        except OSError as error:
            self._metrics_room.meet(error)


def watch_folder(
    watched: Watched,
    client: Callable[[], AsyncClient],
    metrics_port: int | None = None,
    metrics_file: Path | None = None,
) -> Tally:
    """Watch a folder until SIGTERM or SIGINT.

    Parameters
    ----------
    watched : Watched
        What to do.
    client : callable
        Makes a client that repeats nothing by itself.
    metrics_port : int or None
        Where `/metrics` is served.
    metrics_file : Path or None
        Where they are written.

    Returns
    -------
    Tally
        What was done.

    Raises
    ------
    SpoolError
        If the state folder cannot be used.
    OSError
        If the port is taken.
    """
    tally = Tally()
    with ExitStack() as stack:
        spool = stack.enter_context(Spool(watched.state_folder))
        if metrics_port is not None:
            stack.enter_context(metrics_server(lambda: tally.text(time.time()), metrics_port))
        asyncio.run(_watch(watched, client, spool, tally, metrics_file))
    return tally


async def _watch(
    watched: Watched, make_client: Callable[[], AsyncClient], spool: Spool, tally: Tally, metrics_file: Path | None
) -> None:
    async with make_client() as client:
        watcher = Watcher(watched, client, spool, tally, metrics_file=metrics_file)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, watcher.stop)
        await watcher.run()


def _let_go(trying: set[asyncio.Task[None]]) -> None:
    """Let go of tries that ended; a mistake in the program ends it, and the spool is as after any crash."""
    for task in [task for task in trying if task.done()]:
        trying.remove(task)
        task.result()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(source: Path, target: Path) -> None:
    """Move a file, over one of the same name; it may have been moved before a crash."""
    if source.exists():
        shutil.move(source, target)
