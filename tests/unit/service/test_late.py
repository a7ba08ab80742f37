from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.health import is_alive, is_ready
from service.late import Late
from tests.in_process import in_process


def made(calls: list[str]) -> Starlette:
    calls.append("made")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        calls.append("started")
        yield
        calls.append("stopped")

    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))], lifespan=lifespan)
    app.state.finder = None
    return app


def test_it_is_made_when_the_server_starts_and_lives_as_long() -> None:
    calls: list[str] = []
    late = Late(lambda: made(calls))
    assert (calls, late.routes) == ([], [])
    with in_process(late) as asker:
        assert calls == ["made", "started"]
        assert asker.get("/").text == "here"
        assert [route.path for route in late.routes] == ["/"]
    assert calls == ["made", "started", "stopped"]


def test_before_it_is_made_it_lives_and_is_not_ready() -> None:
    late = Late(lambda: made([]))
    assert is_alive(late)
    assert not is_ready(late)


def test_what_it_cannot_be_made_of_stops_the_start() -> None:
    def broken() -> Starlette:
        raise LookupError("no weights")

    with pytest.raises(LookupError, match="no weights"), in_process(Late(broken)):
        pass
