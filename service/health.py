"""What the probes ask of an application."""

from typing import TYPE_CHECKING

from starlette.applications import Starlette

if TYPE_CHECKING:  # it brings torch along
    from service.finder import Finder


def is_ready(app: Starlette) -> bool:
    """Whether a version is loaded and warm, and its device answers."""
    finder = _finder(app)
    return finder is not None and finder.batcher.alive


def is_alive(app: Starlette) -> bool:
    """Whether waiting may still help: true while starting."""
    finder = _finder(app)
    return finder is None or finder.batcher.alive


def _finder(app: Starlette) -> "Finder | None":
    return getattr(app.state, "finder", None)
