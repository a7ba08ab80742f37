"""One form for every line the server writes, BentoML's and uvicorn's too: JSON, or text for who sits at a terminal."""

import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from service.context import journey
from service.settings import Settings

OURS = ("lynceus", "model_store", "service", "bentoml")
SILENT = ("bentoml.access", "uvicorn.access")  # a request has one line, which is ours
REPETITIVE = "opentelemetry"  # says the same for as long as nobody takes the traces
PAUSE = 60.0  # seconds

logger = logging.getLogger(__name__)


class JsonLines(JsonFormatter):
    """A line of JSON: when, how bad, who, what, in which request, and a traceback as one field."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Say what every line says, in the order a reader wants it, then what this one adds."""
        log_data |= headline(record) | {"pid": record.process} | extras(record)
        if record.exc_info and record.exc_info[0]:
            log_data["exception"] = record.exc_info[0].__name__
        if "exc_info" in message_dict:
            log_data["traceback"] = message_dict["exc_info"]


class TextLines(logging.Formatter):
    """A line of text; only a traceback takes more than one."""

    def format(self, record: logging.LogRecord) -> str:
        """Say the same as JSON does."""
        head = headline(record)
        added = " ".join(f"{name}={value}" for name, value in extras(record).items())
        line = f"{head['time']} {head['level']:<8}{head['logger']}: {head['message']}"
        line = f"{line}  {added}".rstrip().replace("\n", "\\n").replace("\r", "\\r")  # a client's text makes no lines
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Seldom(logging.Filter):
    """Lets one line of the repetitive through in a minute."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next = -PAUSE

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if not record.name.startswith(REPETITIVE):
            return True
        if self._clock() < self._next:
            return False
        self._next = self._clock() + PAUSE
        return True


def configure_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Let everything that is logged in this process be written in one form.

    Parameters
    ----------
    settings : Settings
        Form and level; what is not ours or BentoML's is written from WARNING on.
    stream : file or None
        Where to; standard output by default.
    """
    stream = stream or sys.stdout
    as_text = stream.isatty() if settings.log_format == "auto" else settings.log_format == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines() if as_text else JsonLines())
    handler.addFilter(Seldom())
    _take_over(handler, settings.log_level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash


def headline(record: logging.LogRecord) -> dict[str, str]:
    """What every line begins with."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """The ids of the request that is being worked for, and what the line was given besides its message."""
    now = journey()
    ids = {"request_id": now.request_id, **now.trace} if now else {}
    return ids | {name: value for name, value in vars(record).items() if name not in (*RESERVED_ATTRS, "color_message")}


def _take_over(handler: logging.Handler, level: str) -> None:
    """Leave this handler only; earlier ones, and loggers that were switched off, go back to the default."""
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for one in known:
        one.handlers.clear()
        one.propagate, one.disabled = True, False
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.WARNING)


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("the process ends: %s", error, exc_info=(kind, error, traceback))


def _log_thread_crash(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread else "unknown"
        logger.critical("the thread %s ends", name, exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback))
