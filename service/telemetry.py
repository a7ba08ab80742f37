"""All that tells an engineer how the server is: metrics, the GPUs' own, and traces, from its start to its end."""

import asyncio
from contextlib import suppress
from typing import Any

from service.batcher import TileBatcher
from service.device import asked_device
from service.gpu import GpuSampler
from service.metrics import Metrics
from service.settings import Settings
from service.tracing import Tracing

NOTE_PERIOD = 1.0  # seconds between two looks at the queue, for a scrape that another process answers


class Telemetry:
    """What the server says of itself.

    Parameters
    ----------
    settings : Settings
        Buckets, and how often the GPUs are asked.
    nvml : module or None
        What tells of the GPUs; `pynvml` by default.
    """

    def __init__(self, settings: Settings, nvml: Any = None) -> None:
        self.metrics = Metrics(settings.latency_buckets, asked_device(settings))
        self.tracing = Tracing()
        self._gpus = GpuSampler(self.metrics.gpu_failures, settings.gpu_poll, nvml)
        self.metrics.add_observer(self._gpus)
        self._noting: asyncio.Task[None] | None = None

    def start(self, batcher: TileBatcher) -> None:
        """Begin to look at the queue and the GPUs, and to send traces."""
        self.tracing.start()
        self._gpus.start()
        self._noting = asyncio.create_task(self._keep_noting(batcher))

    async def close(self) -> None:
        """Look no more, and send what is left."""
        if self._noting is not None:
            self._noting.cancel()
            with suppress(asyncio.CancelledError):
                await self._noting
        await asyncio.to_thread(self._gpus.close)
        await asyncio.to_thread(self.tracing.close)

    async def _keep_noting(self, batcher: TileBatcher) -> None:
        while True:
            self.metrics.note_state(batcher.queue_tiles, batcher.oldest_by_priority, batcher.stuck_seconds)
            await asyncio.sleep(NOTE_PERIOD)
