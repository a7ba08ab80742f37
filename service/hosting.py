"""BentoML around the application: supervision, probes, tracing and packaging."""

from collections.abc import Callable
from typing import Any

import bentoml
from starlette.applications import Starlette

from service.health import is_alive, is_ready
from service.logs import configure_logs
from service.protocol import use_impatient_protocol
from service.settings import Settings
from service.start import check_start
from service.untimed import leave_out_timers


def hosted(app: Starlette, settings: Settings, check_start: Callable[[Settings], None] = check_start) -> Any:
    """A BentoML service that mounts the application at the root.

    Parameters
    ----------
    app : FastAPI
        From `create_app`, or `Late`.
    settings : Settings
        The application's.
    check_start : callable
        Raises LynceusError for what the application would fail with, before anything is served.
    """
    use_impatient_protocol(settings.header_timeout)
    leave_out_timers()

    @bentoml.service(
        name="lynceus",
        workers=1,  # one process owns the queue
        traffic={"timeout": settings.request_timeout},  # BentoML's own, upload included, must not come first
        metrics={"enabled": False},  # its endpoint label has no bound; ours are at the same place
        logging={"access": {"enabled": False}},  # a request has one line, which is ours
    )
    @bentoml.asgi_app(app, path="/")
    class Lynceus:
        """POST a telescope frame, get every astronomical source in it back."""

        def __init__(self) -> None:
            """Take over the log of a worker before it says anything."""
            configure_logs(settings)

        @bentoml.on_deployment  # type: ignore[untyped-decorator]
        @staticmethod
        def check() -> None:
            """Refuse to start while `bentoml serve` can still exit; a worker that fails later is only respawned."""
            configure_logs(settings)
            check_start(settings)

        async def __is_alive__(self) -> bool:
            """Answer BentoML's /livez, which comes before ours."""
            return is_alive(app)

        async def __is_ready__(self) -> bool:
            """Answer BentoML's /readyz, which comes before ours."""
            return is_ready(app)

    return Lynceus
