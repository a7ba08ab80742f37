"""What lives as long as the server: the versions, the queue, and the requests in progress."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from threading import Timer
from typing import Any, TypeVar

from starlette.requests import Request

from lynceus.blas import one_thread_each
from lynceus.bundle import Bundle
from lynceus.catalogue import Block
from service.admission import Admission
from service.batcher import TileBatcher
from service.context import note, stage
from service.device import chosen_device
from service.evaluator import Evaluated, Evaluator
from service.flights import Flights
from service.frames import Pipeline
from service.keeper import Keeper
from service.metrics import Metrics
from service.networks import Networks
from service.question import Asked, EvaluateQuestion, Question
from service.refusals import DeviceFullError, OverloadedError
from service.served import Served
from service.settings import Settings
from service.shadow import Shadow
from service.tidy import Tidier
from service.upload import DETECT_PARTS, EVALUATE_PARTS, Upload, free_bytes, receive, stated_bytes
from service.watch import Stopwatch, unless_gone

FATAL_STATUS = 70  # exit status of the process: EX_SOFTWARE
FATAL_DELAY = 1.0  # seconds in which the requests in flight still get their error
GPU_BATCH = 32  # tiles
AHEAD = 1  # batches
SWITCH_SECONDS = 0.0005  # the network wants the interpreter between its operations; 5 ms is a long wait for each

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Finder:
    """Answers requests.

    Parameters
    ----------
    settings : Settings
        What it may use.
    metrics : Metrics
        Told of what happens.
    bundle : Bundle or None
        Served instead of those in the settings: tests have no weights.
    """

    def __init__(self, settings: Settings, metrics: Metrics, bundle: Bundle | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self.networks = self._networks() if bundle is None else None
        self.keeper = Keeper(settings, metrics, bundle, self.networks)
        self.batcher = self._batcher()
        self.admission = Admission(self.batcher, settings.max_uploads, settings.disk_reserve, free_bytes)
        self.pipeline = Pipeline(self.batcher, settings, metrics)
        self.evaluator = Evaluator(self.pipeline)
        self._flights: Flights[Any] = Flights()
        self._tidier = Tidier()
        self.shadow = Shadow(
            self.pipeline, settings, metrics, canary=lambda: self.keeper.lineup.other, busy=self.is_busy
        )

    async def start(self) -> None:
        """Load the versions, then begin to work."""
        sys.setswitchinterval(SWITCH_SECONDS)
        one_thread_each()
        if self.networks is not None:
            self.networks.start()
        try:
            await self.keeper.start()
        except BaseException:
            await self._end_networks()
            raise
        self.batcher.start()
        self.shadow.start()

    async def close(self) -> None:
        """Finish what is in flight."""
        await self.keeper.close()
        await self.shadow.close()
        await self.batcher.close()
        await self._end_networks()
        self._tidier.close()

    def is_busy(self) -> bool:
        """Whether a caller waits for anything."""
        return len(self.admission) > 0 or len(self._flights) > 0

    async def answer(self, request: Request, question: Question, due: float) -> list[Block]:
        """Receive a request's files and find the sources in them until `due`, in monotonic time; one block a frame.

        Raises
        ------
        LynceusError
            For whatever reason there is no answer.
        """
        asked = self.keeper.lineup.asked(question.model)
        upload = await self._receive(request, DETECT_PARTS, ("frame",), question, due)
        served = asked or self.keeper.lineup.drawn(upload.sha256, self.settings.canary_traffic)
        request.state.track = served.track  # for the metrics, should it fail
        note(track=served.track, model=served.ref)
        work = partial(self._find, served, upload, question, due, drawn=asked is None)
        return await self._fly(request, upload, (served.track, served.ref, question.work), work)

    async def evaluate(self, request: Request, question: EvaluateQuestion, due: float) -> Evaluated:
        """Receive a frame and a catalogue, and score a version, or somebody else's list, against it.

        Raises
        ------
        LynceusError
            For whatever reason there is no answer.
        """
        served = self.keeper.lineup.asked(question.model) or self.keeper.lineup.stable
        note(track=served.track, model=served.ref)
        upload = await self._receive(request, EVALUATE_PARTS, ("frame", "catalogue"), question, due)
        work = partial(self.evaluator.evaluate, served, upload, question, due)
        return await self._fly(request, upload, (served.track, served.ref, question), work)

    async def _find(
        self, served: Served, upload: Upload, question: Question, due: float, *, drawn: bool
    ) -> list[Block]:
        watch = Stopwatch()
        opened = await self.pipeline.open(served, upload, question.hdu, watch, question.priority, due)
        stable = self.keeper.lineup.stable
        try:
            blocks = await self.pipeline.find(served, opened, question, watch, due)
        except Exception as error:
            if not drawn or served.bundle is stable.bundle or type(error) is OverloadedError:
                raise
            logger.exception("the canary %s failed on a frame, which stable %s gets", served.ref, stable.ref)
            self.metrics.canary_frames.labels("failed").inc()
            opened = await self.pipeline.reopen(stable, opened.frames, watch, question.priority)
            return await self.pipeline.find(stable, opened, question, watch, due)
        if served.bundle is stable.bundle:
            self.shadow.offer(upload.sha256, blocks, question)
        return blocks

    async def _receive(
        self, request: Request, parts: tuple[str, ...], required: Sequence[str], question: Asked, due: float
    ) -> Upload:
        """Receive the files of a request, unless there is no room for it: nothing is then read or decoded in vain."""
        limits = self.settings
        stated = stated_bytes(request, limits.max_upload_bytes)
        served = self.keeper.lineup.asked(question.model) or self.keeper.lineup.stable
        count = partial(self.pipeline.tiles_in, served, question.hdu)
        upload = self.admission.open(parts, stated, due, question.priority, count)
        try:
            with stage("upload"):
                await receive(request, upload, limits.max_upload_bytes, limits.upload_timeout, required)
        except BaseException:
            upload.close()
            raise
        return upload

    async def _fly(
        self, request: Request, upload: Upload, what: object, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Do the work, once for all who ask for the same, for as long as one of them waits."""
        try:
            with self._flights.board((upload.key, what), work, upload.close) as answer:
                return await unless_gone(request, answer)
        except MemoryError:
            raise DeviceFullError("the server has no memory left for this frame") from None
        finally:
            self._tidier.note()

    def _networks(self) -> Networks | None:
        settings = self.settings
        if settings.network == "threads" or chosen_device(settings).type != "cpu":
            return None
        return Networks(settings.cores)

    async def _end_networks(self) -> None:
        if self.networks is not None:
            await asyncio.to_thread(self.networks.close)

    def _batcher(self) -> TileBatcher:
        settings = self.settings
        on_cpu = chosen_device(settings).type == "cpu"
        return TileBatcher(
            workers=settings.cores if on_cpu else 1,
            ahead=AHEAD if self.networks is not None else 0,
            one_thread=on_cpu and self.networks is None,
            max_batch_tiles=settings.max_batch_tiles or (1 if on_cpu else GPU_BATCH),
            max_queue_tiles=settings.max_queue_tiles,
            max_window=settings.max_window,
            on_batch=self.metrics.count_batch,
            on_fatal=_exit_soon,
            stuck_seconds=settings.stuck_seconds,
        )


def _exit_soon(error: Exception) -> None:
    """End the process: after a sticky CUDA error, or stuck, only a new one works, and a supervisor starts it."""
    logger.critical("the device is lost or stuck, the server exits with status %d", FATAL_STATUS, exc_info=error)
    Timer(FATAL_DELAY, os._exit, (FATAL_STATUS,)).start()
