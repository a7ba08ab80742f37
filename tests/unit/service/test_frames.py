"""Who may use the cores around the network, and how many at once."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lynceus.detector import Detector
from lynceus.frame import Frame
from service.batcher import TileBatcher
from service.frames import Pipeline
from service.metrics import Metrics
from service.refusals import OverloadedError
from service.served import Served, trial_frame
from service.settings import Settings
from service.turns import Priority
from service.upload import Upload
from service.watch import Stopwatch
from tests.fakes import fits_bytes, fixed_bundle, star_field


class Slow(Detector):
    """Takes its time to cut a frame: as long as the gate is shut."""

    def __init__(self, plain: Detector) -> None:
        super().__init__(plain.network, plain.spec)
        self.cutting = self.most = 0
        self.gate = threading.Event()

    def cut(self, frame: Frame):  # type: ignore[no-untyped-def]
        self.cutting += 1
        self.most = max(self.most, self.cutting)
        assert self.gate.wait(10)
        self.cutting -= 1
        return super().cut(frame)


@asynccontextmanager
async def pipeline(cores: int) -> AsyncIterator[Pipeline]:
    settings = Settings(workers=cores, max_decodes=2 * cores + 2)
    batcher = TileBatcher()
    batcher.start()
    try:
        yield Pipeline(batcher, settings, Metrics(settings.latency_buckets))
    finally:
        await batcher.close()


@pytest.mark.parametrize(("priority", "cores", "most"), [("backfill", 2, 1), ("backfill", 6, 3), ("live", 2, 5)])
def test_what_is_not_live_uses_half_of_the_cores_around_the_network(priority: Priority, cores: int, most: int) -> None:
    async def scenario() -> None:
        bundle = fixed_bundle()
        slow, (frame, _) = Slow(bundle.detector), trial_frame()
        served = Served(type(bundle)(slow, bundle.manifest))
        async with pipeline(cores) as it:
            frames = [asyncio.create_task(it.reopen(served, [frame], Stopwatch(), priority)) for _ in range(5)]
            await asyncio.sleep(0.3)
            assert slow.cutting == most
            if priority == "backfill":
                live = asyncio.create_task(it.reopen(served, [frame], Stopwatch(), "live"))
                await asyncio.sleep(0.3)
                assert slow.cutting == most + 1
                frames.append(live)
            slow.gate.set()
            await asyncio.gather(*frames)

    asyncio.run(scenario())


def uploaded(data: bytes) -> Upload:
    upload = Upload()
    upload.begin("frame").write(data)
    upload.parts["frame"].end()
    return upload


def test_the_tiles_of_a_frame_are_counted_by_the_first_bytes_of_its_file() -> None:
    async def scenario() -> None:
        served = Served(fixed_bundle())
        data = fits_bytes(star_field((300, 500), [(50, 60)]))
        async with pipeline(2) as it:
            assert it.tiles_in(served, None, data[:2880]) == served.detector.least_tiles((300, 500))
            assert it.tiles_in(served, "0", data[:2880]) == served.detector.least_tiles((300, 500))
            assert it.tiles_in(served, None, data[:160]) is None
            assert it.tiles_in(served, "all", data) is None  # there may be more of them further on
            absurd = data.replace(b"NAXIS1  =                  500", b"NAXIS1  =         999999999999")
            assert it.tiles_in(served, None, absurd) is None  # decoding says that it is too large

    asyncio.run(scenario())


def test_a_frame_that_would_be_late_is_refused_before_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []

    def refuse(self: TileBatcher, tiles: int, due: float, priority: Priority) -> None:
        asked.append((tiles, due))
        raise OverloadedError("too late")

    async def scenario() -> None:
        bundle = fixed_bundle()
        slow = Slow(bundle.detector)
        slow.gate.set()
        upload = uploaded(fits_bytes(star_field((300, 500), [(50, 60)])))
        monkeypatch.setattr(TileBatcher, "check_due", refuse)
        async with pipeline(2) as it:
            with pytest.raises(OverloadedError):
                await it.open(Served(type(bundle)(slow, bundle.manifest)), upload, None, Stopwatch(), due=77.0)
        upload.close()
        assert asked == [(slow.least_tiles((300, 500)), 77.0)]
        assert slow.most == 0

    asyncio.run(scenario())
