"""The HTTP application: its routes, and nothing that could be said elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from lynceus.bundle import Bundle
from lynceus.catalogue import SCHEMA_VERSION, Block, ModelInfo
from lynceus.errors import LynceusError
from service import openapi
from service.context import note
from service.docs import docs_page
from service.errors import add_error_handlers
from service.finder import Finder
from service.formats import choose_format
from service.front import Front
from service.gate import Gate
from service.health import is_alive, is_ready
from service.keys import Keyring
from service.metrics import Metrics
from service.question import EvaluateQuestion, Question, read_question
from service.refusals import BadParameterError
from service.settings import Settings
from service.telemetry import Telemetry
from service.watch import Stopwatch, deadline

routes = APIRouter()
open_routes = APIRouter()  # want no key, ever
metrics_routes = APIRouter()


def create_app(settings: Settings, bundle: Bundle | None = None, nvml: Any = None) -> FastAPI:
    """Build the application; the bundle is loaded when it starts.

    Parameters
    ----------
    settings : Settings
        What it may use.
    bundle : Bundle or None
        Served instead of the one in the settings: tests have no weights.
    nvml : module or None
        What tells of the GPUs; `pynvml` by default, which needs a driver: without one there are no GPU metrics.
    """
    telemetry = Telemetry(settings, nvml)
    metrics = telemetry.metrics

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        finder = Finder(settings, metrics, bundle)
        await finder.start()
        telemetry.start(finder.batcher)
        app.state.finder = finder
        try:
            yield
        finally:
            await finder.close()
            await telemetry.close()
            app.state.finder = None

    app = FastAPI(title="Lynceus", description=openapi.DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.settings, app.state.bundle = settings, bundle
    app.state.metrics, app.state.finder = metrics, None
    wants_key = _gates(settings, metrics)
    app.include_router(routes, dependencies=wants_key)
    app.include_router(metrics_routes, dependencies=wants_key if settings.metrics_key else [])
    app.include_router(open_routes)
    app.router.routes.append(Nowhere())
    app.add_middleware(Front, metrics=metrics, tracing=telemetry.tracing)
    add_error_handlers(app)
    return app


async def detect(request: Request) -> Response:
    """Find the sources in a frame: a multipart form with the part `frame`, or the raw FITS file as the body."""
    start = time.perf_counter()
    finder, metrics = _finder(request), request.app.state.metrics
    outcome, priority = "internal_error", "live"
    request.state.track = finder.settings.track  # until it is known which version the frame gets
    try:
        question, warnings = read_question(request.query_params, Question)
        priority = question.priority
        chosen = choose_format(question.format, request.headers.get("accept"))
        async with deadline(_seconds(question.deadline, finder.settings)) as due:
            blocks = _warned(await finder.answer(request, question, due), warnings)
            request.state.track = track = blocks[0].model.track
            note(track=track, model=ref_of(blocks[0].model), count=sum(len(block.sources) for block in blocks))
            encoding = Stopwatch()
            body = await asyncio.to_thread(chosen.write, blocks)
            encoding.lap("encode")
            metrics.stage_seconds.labels("encode", track).observe(encoding.seconds["encode"])
        outcome = "ok"
        headers = named(blocks[0].model) | _server_timing(blocks[0].timing_ms | encoding.milliseconds)
        return Response(body, media_type=chosen.media_type, headers=headers)
    except LynceusError as error:
        outcome = error.code
        raise
    finally:
        labels = request.state.track, outcome, priority
        metrics.frame_seconds.labels(*labels).observe(time.perf_counter() - start)


routes.post("/detect", operation_id="detect", **openapi.DETECT)(detect)
routes.put("/detect", operation_id="detect_put", **openapi.DETECT)(detect)


async def evaluate(request: Request) -> Response:
    """Score a version, or somebody else's list, on a frame against a catalogue: a form with both."""
    finder = _finder(request)
    question, warnings = read_question(request.query_params, EvaluateQuestion)
    async with deadline(_seconds(question.deadline, finder.settings)) as due:
        scored = await finder.evaluate(request, question, due)
        page = question.format == "html"
        body = await asyncio.to_thread(scored.page if page else scored.json, warnings)
    return Response(body, media_type="text/html" if page else "application/json", headers=named(scored.model))


routes.post("/evaluate", operation_id="evaluate", **openapi.EVALUATE)(evaluate)


@routes.get(
    "/models",
    summary="The versions that are loaded, and what the tracks point to",
    responses=openapi.refusals((401, 429, 500)),
)
async def models(request: Request) -> dict[str, Any]:
    """Name, version, tracks, sha256, classes and scores of every version; who set the tracks, when and why."""
    return {"schema_version": SCHEMA_VERSION, **_finder(request).keeper.described()}


@metrics_routes.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Everything the service counts, in the text format of Prometheus."""
    batcher = _finder(request).batcher
    counted = cast(Metrics, request.app.state.metrics)
    text = await asyncio.to_thread(
        counted.exposition, batcher.queue_tiles, batcher.oldest_by_priority, batcher.stuck_seconds
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@open_routes.get("/livez", summary="Liveness probe", response_class=PlainTextResponse)
async def livez(request: Request) -> str:
    """Whether the process can still do its work; under BentoML its own probe says the same."""
    return _probe(is_alive(request.app))


@open_routes.get("/readyz", summary="Readiness probe", response_class=PlainTextResponse)
async def readyz(request: Request) -> str:
    """Whether a version is loaded and warm."""
    return _probe(is_ready(request.app))


@open_routes.get("/", include_in_schema=False)
async def index() -> Response:
    """There is nothing to see at the root yet but the documentation."""
    return RedirectResponse("docs")


@open_routes.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The OpenAPI document for people."""
    return HTMLResponse(docs_page(request.app.openapi(), str(request.base_url)))


def _gates(settings: Settings, metrics: Metrics) -> list[Any]:
    """What stands before the routes that want a key: nothing where the settings hold none."""
    if not settings.api_keys and settings.api_keys_file is None:
        return []
    keyring = Keyring(settings.api_keys, settings.api_keys_file, metrics.key_failures.inc)
    return [Depends(Gate(keyring, settings.api_key_rate, settings.api_key_burst))]


class Nowhere(BaseRoute):
    """Answers what no other route knows, so that BentoML, which the app is mounted in, does not."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match everything, but only just: any other route comes first."""
        return Match.PARTIAL, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say so."""
        raise HTTPException(404)


def _finder(request: Request) -> Finder:
    return cast(Finder, request.app.state.finder)


def _probe(good: bool) -> str:
    if not good:
        raise HTTPException(503)
    return "ok"


def _seconds(asked: float | None, settings: Settings) -> float:
    """The deadline of a request."""
    if asked is not None and asked > settings.longest_deadline:
        raise BadParameterError(f"parameter 'deadline': the longest is {settings.longest_deadline:g} s, not {asked:g}")
    return asked or settings.default_deadline


def _warned(blocks: list[Block], warnings: tuple[str, ...]) -> list[Block]:
    """Add what was odd about the request; the blocks may be shared with another one."""
    return [replace(block, warnings=(*block.warnings, *warnings)) for block in blocks]


def _server_timing(stages: dict[str, float]) -> dict[str, str]:
    """The stages as a header too: encoding ends when the body is written, and cannot be told in it."""
    return {"Server-Timing": ", ".join(f"{stage};dur={milliseconds:.2f}" for stage, milliseconds in stages.items())}


def named(model: ModelInfo) -> dict[str, str]:
    """The version that made an answer, for the formats that have no place for it."""
    return {"X-Lynceus-Model": ref_of(model), "X-Lynceus-Track": model.track}


def ref_of(model: ModelInfo) -> str:
    """`name/version`."""
    return f"{model.name}/{model.version}"
