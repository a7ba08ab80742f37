"""What lives as long as the server: the version, the queue, and the requests in progress."""

import asyncio
import logging
import os
from functools import partial
from threading import Timer

from starlette.requests import Request

from lynceus.bundle import Bundle
from lynceus.catalogue import Block
from service.batcher import TileBatcher
from service.flights import Flights
from service.frames import Pipeline
from service.metrics import Metrics
from service.question import Question
from service.refusals import OverloadedError
from service.served import Served, load_served, warm_up
from service.settings import Settings
from service.upload import Upload, receive
from service.watch import unless_gone

FATAL_STATUS = 70  # exit status of the process: EX_SOFTWARE
FATAL_DELAY = 1.0  # seconds in which the requests in flight still get their error

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
        Served instead of the one in the settings: tests have no weights.
    """

    def __init__(self, settings: Settings, metrics: Metrics, bundle: Bundle | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self.served = Served(bundle) if bundle else self._load()
        self.batcher = self._batcher()
        self.pipeline = Pipeline(self.served, self.batcher, settings, metrics)
        self._flights: Flights[list[Block]] = Flights()
        self._uploads = 0

    async def start(self) -> None:
        """Warm up, then begin to work."""
        await asyncio.to_thread(warm_up, self.served.bundle.detector)
        self.batcher.start()
        info = self.served.info
        self.metrics.model.labels(info.name, info.version, info.track, info.sha256).set(1)

    async def close(self) -> None:
        """Finish what is in flight."""
        await self.batcher.close()

    async def answer(self, request: Request, question: Question) -> list[Block]:
        """Receive a request's files and find the sources in them; one block a frame.

        Raises
        ------
        LynceusError
            For whatever reason there is no answer.
        """
        self.served.check_name(question.model)
        self.batcher.check_room()  # before the upload is read and decoded for nothing
        upload = self._open_upload()
        try:
            await receive(request, upload, self.settings.max_upload_bytes, self.settings.upload_timeout)
        except BaseException:
            upload.close()
            raise
        work = partial(self.pipeline.find, upload, question)
        with self._flights.board((upload.key, question.work), work, upload.close) as answer:
            return await unless_gone(request, answer)

    def _open_upload(self) -> Upload:
        if self._uploads >= self.settings.max_uploads:
            raise OverloadedError(f"{self._uploads} uploads are in progress, and no more are taken")
        self._uploads += 1
        return Upload(on_close=self._upload_closed)

    def _upload_closed(self) -> None:
        self._uploads -= 1

    def _load(self) -> Served:
        try:
            return load_served(self.settings)
        except Exception:
            self.metrics.load_failures.inc()
            raise

    def _batcher(self) -> TileBatcher:
        detector, settings = self.served.bundle.detector, self.settings
        return TileBatcher(
            detector.infer,
            workers=detector.workers,
            one_thread=detector.device.type == "cpu",
            max_batch_tiles=settings.max_batch_tiles or detector.batch,
            max_queue_tiles=settings.max_queue_tiles,
            max_window=settings.max_window,
            on_batch=self.metrics.count_batch,
            on_fatal=_exit_soon,
        )


def _exit_soon(error: Exception) -> None:
    """End the process: after a sticky CUDA error only a new one works, and a supervisor starts it."""
    logger.critical("the device is lost, the server exits", exc_info=error)
    Timer(FATAL_DELAY, os._exit, (FATAL_STATUS,)).start()
