"""Which version answers a frame, and what happens where it fails: the whole application in this process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from lynceus.bundle import Bundle
from lynceus.detector import Detector
from lynceus.errors import StoreError
from model_store import Ref
from model_store.tracks import step_on
from service.app import create_app
from service.lineup import Lineup
from service.served import Served
from service.settings import Settings
from service.versions import CANARY, STABLE, wanted_version
from tests.fakes import SMALL_TILES, FixedNetwork, fits_bytes, fixed_bundle, star_field


def broken(tiles: Any) -> Any:
    raise RuntimeError("this canary is dead")


def version(number: str, network: Any) -> Bundle:
    manifest = fixed_bundle().manifest.model_copy(update={"version": number})
    return Bundle(Detector(network, SMALL_TILES), manifest)


def frame(number: int) -> bytes:
    return fits_bytes(star_field((110, 110), [(30 + number, 50)], seed=number))


@asynccontextmanager
async def asking(canary: Any, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    """A client of an application whose stable version works and whose canary is the given network."""
    app = create_app(Settings(device="cpu", canary_shadow=0, **settings), version("1", FixedNetwork()))
    async with app.router.lifespan_context(app):
        lineup = app.state.finder.keeper.lineup
        app.state.finder.keeper._lineup = Lineup(lineup.stable, Served(version("2", canary), CANARY))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, app


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_the_canary_answers_its_share_and_always_the_same_frames() -> None:
    async def scenario() -> None:
        async with asking(FixedNetwork(), canary_traffic=0.5) as (client, _):
            answered: dict[int, set[str]] = {}
            for _round in range(2):
                for number in range(30):
                    answer = (await client.post("/detect", content=frame(number))).json()
                    answered.setdefault(number, set()).add(answer["model"]["version"])
        assert all(len(versions) == 1 for versions in answered.values())
        assert 5 < Counter(versions.pop() for versions in answered.values())["2"] < 25

    run(scenario)


def test_who_asks_for_a_track_gets_it_whatever_the_share() -> None:
    async def scenario() -> None:
        async with asking(FixedNetwork(), canary_traffic=1.0) as (client, _):
            for name, expected in (("stable", "1"), ("canary", "2"), ("fixed/1", "1")):
                answer = await client.post(f"/detect?model={name}", content=frame(1))
                assert answer.json()["model"]["version"] == expected

    run(scenario)


def test_a_frame_that_the_canary_was_given_and_fails_on_is_answered_by_stable() -> None:
    async def scenario() -> None:
        async with asking(broken, canary_traffic=1.0) as (client, app):
            answer = await client.post("/detect", content=frame(1))
            assert (answer.status_code, answer.json()["model"]["version"], answer.json()["count"]) == (200, "1", 1)
            assert app.state.metrics.canary_frames.labels("failed")._value.get() == 1
            asked = await client.post("/detect?model=canary", content=frame(1))
            assert (asked.status_code, asked.json()["code"]) == (500, "detection_failed")

    run(scenario)


TRACKS = {STABLE: step_on(STABLE, None, Ref("compact", "0.1.0"), "a" * 64, "test", "")}


@pytest.mark.parametrize(
    ("settings", "role", "expected"),
    [
        ({}, STABLE, "compact/0.1.0"),
        ({}, CANARY, None),
        ({"stable": "compact/0.0.9"}, STABLE, "compact/0.0.9"),
        ({"canary": "other/2"}, CANARY, "other/2"),
        ({"canary": "stable"}, CANARY, "compact/0.1.0"),
        ({"stable": "night"}, STABLE, None),
    ],
)
def test_a_role_is_served_by_a_track_or_by_a_version_that_is_pinned(
    settings: dict[str, Any], role: str, expected: str | None
) -> None:
    wanted = wanted_version(role, Settings(**settings), TRACKS)
    assert (None if wanted is None else str(wanted)) == expected


def test_what_is_no_version_is_told() -> None:
    with pytest.raises(StoreError):
        wanted_version(STABLE, Settings(stable="../etc/passwd"), TRACKS)
