"""Who is let in before his upload is read."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import httpx
import pytest

from service import admission
from service.admission import Admission
from service.app import create_app
from service.batcher import TileBatcher
from service.forecast import CAUTION
from service.refusals import DiskFullError, OverloadedError
from service.settings import Settings
from service.turns import Job
from service.upload import DETECT_PARTS, FIRST_LOOK, Upload
from tests.fakes import blank_tile, fixed_bundle

MIB = 1024**2
TILE_SECONDS, TILES_PER_BYTE = 0.1, 1 / MIB


def make(max_uploads: int = 8, free: int = 1000 * MIB) -> Admission:
    """Admission before a network that takes a tenth of a second for each of the tiles, of a megabyte each."""
    batcher = TileBatcher(max_queue_tiles=10_000)
    taught = Job([blank_tile()] * 10, list, None, lambda: None)  # type: ignore[arg-type]
    batcher.pace.learn(10 * TILE_SECONDS, [(taught, number) for number in range(10)])
    batcher.pace.learn_size(10, 10 * MIB)
    return Admission(batcher, max_uploads, disk_reserve=MIB, free_bytes=lambda: free)


def enter(to: Admission, megabytes: int, seconds: float = 60, priority: Any = "live") -> Upload:
    return to.open(DETECT_PARTS, megabytes * MIB, time.monotonic() + seconds, priority)


def test_uploads_under_way_count_against_the_deadline_until_they_are_gone() -> None:
    door = make()
    first = enter(door, 300)
    with pytest.raises(OverloadedError, match="too late"):
        enter(door, 300)
    enter(door, 10)
    first.close()
    enter(door, 300)


def test_uploads_with_one_deadline_fill_no_more_of_it_than_may_be_spoken_for() -> None:
    door = make(max_uploads=100)
    with suppress(OverloadedError):
        while len(door) < 100:
            enter(door, 20)
    assert len(door) * 20 * TILE_SECONDS == pytest.approx(CAUTION * 60, abs=20 * TILE_SECONDS)


def test_who_dribbles_does_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make()
    dribbled = enter(door, 300)
    dribbled.begin("frame").write(b"SIMPLE  =                    T")
    monkeypatch.setattr(admission, "GRACE", -1.0)
    enter(door, 300)
    dribbled.close()


def header(tiles: int) -> bytes:
    return b"SIMPLE  =                    T" + b" " * FIRST_LOOK + b"%d" % tiles


def tiles_in(begun: bytes) -> int | None:
    words = begun.split()
    return int(words[-1]) if len(words) == 4 else None


@contextmanager
def begun(to: Admission, megabytes: int, tiles: int) -> Iterator[None]:
    upload = to.open(DETECT_PARTS, megabytes * MIB, time.monotonic() + 60, "live", tiles_in)
    with closing(upload):
        upload.begin("frame").write(header(tiles))
        yield


def test_what_a_header_shows_to_be_too_much_is_refused_before_it_is_uploaded() -> None:
    door = make()
    with begun(door, 300, tiles=300), pytest.raises(OverloadedError, match="too late"), begun(door, 10, tiles=300):
        pass
    with begun(door, 300, tiles=300):  # both are gone
        pass


def test_a_header_that_shows_less_than_the_length_leaves_room_for_others() -> None:
    door = make()
    with begun(door, 300, tiles=10), begun(door, 300, tiles=300):
        assert len(door) == 2


def test_until_its_header_is_there_an_upload_may_hold_as_little_as_any_of_its_length() -> None:
    door = make(free=10_000 * MIB)
    door.batcher.pace.learn_size(1, 10 * MIB)
    with begun(door, 300, tiles=300):
        enter(door, 300)
        with pytest.raises(OverloadedError, match="too late"):
            enter(door, 3000)


@pytest.mark.parametrize("megabytes", [300, 0])
def test_who_sends_a_header_and_dribbles_does_not_keep_others_out(
    monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    door = make()
    with begun(door, megabytes, tiles=300):
        with pytest.raises(OverloadedError, match="too late"):
            enter(door, 300)
        monkeypatch.setattr(admission, "GRACE", -1.0)
        enter(door, 300)


def test_who_is_turned_away_has_not_been_read() -> None:
    async def scenario() -> None:
        app = create_app(Settings(device="cpu", canary_shadow=0), fixed_bundle())
        async with app.router.lifespan_context(app):
            app.state.finder.admission.max_uploads = 0
            read: list[int] = []

            async def body() -> AsyncIterator[bytes]:
                read.append(1)
                yield b"SIMPLE  =                    T"

            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.post("/detect", content=body())
            assert (answer.status_code, answer.json()["code"], read) == (503, "overloaded", [])

    asyncio.run(scenario())


def test_backfill_leaves_places_for_live_frames() -> None:
    door = make(max_uploads=4)
    held = [enter(door, 1, priority="backfill") for _ in range(2)]
    with pytest.raises(OverloadedError):
        enter(door, 1, priority="backfill")
    held += [enter(door, 1) for _ in range(2)]
    with pytest.raises(OverloadedError):
        enter(door, 1)
    held[0].close()
    assert len(door) == 3
    enter(door, 1)


def test_what_does_not_fit_on_the_disk_with_what_is_coming_is_refused() -> None:
    door = make(free=100 * MIB)
    first = enter(door, 60)
    with pytest.raises(DiskFullError):
        enter(door, 60)
    first.close()
    enter(door, 60)
