import json
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from service.context import Journey, travelling
from service.logs import PAUSE, JsonLines, Seldom, TextLines
from service.settings import Settings


def record(message: str = "it happened", name: str = "service.x", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "x.py", 1, message, (), None)
    vars(made).update(extra)
    return made


def failed(message: str = "it failed") -> logging.LogRecord:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        made = record(message)
        made.exc_info = sys.exc_info()
        return made


def test_a_line_of_json_says_when_how_bad_who_and_what() -> None:
    line = json.loads(JsonLines().format(record(track="stable", stages_ms={"infer": 1.5})))
    assert line.pop("time").endswith("Z")
    assert line.pop("pid") > 0
    assert line == {
        "level": "warning",
        "logger": "service.x",
        "message": "it happened",
        "track": "stable",
        "stages_ms": {"infer": 1.5},
    }


@pytest.mark.parametrize("text", ["two\nlines", "a \u2028 separator", "a lone \udcff byte", "\x1b[31mred", '"quotes"'])
def test_whatever_is_said_is_one_line(text: str) -> None:
    written = JsonLines().format(record(text, path=text))
    assert len(written.splitlines()) == 1
    assert json.loads(written)["message"] == json.loads(written)["path"] == text
    assert len(TextLines().format(record("two\nlines", path="a\r\nb")).splitlines()) == 1


def test_a_traceback_is_one_field() -> None:
    written = JsonLines().format(failed())
    line = json.loads(written)
    assert "\n" not in written
    assert (line["message"], line["exception"]) == ("it failed", "ValueError")
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("first\nsecond")
    assert "exc_info" not in line
    assert "Traceback" in TextLines().format(failed())


@pytest.mark.parametrize("write", [JsonLines().format, TextLines().format])
def test_a_line_names_the_request_it_is_about(write: Callable[[logging.LogRecord], str]) -> None:
    with travelling(Journey("night-7", {"trace_id": "0af7"})):
        written = write(record())
    assert "night-7" in written
    assert "0af7" in written
    assert "request_id" not in write(record())


def test_what_repeats_itself_is_written_seldom() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)
    down = record(name="opentelemetry.exporter")
    assert [seldom.filter(down) for _ in range(3)] == [True, False, False]
    assert seldom.filter(record())
    now = PAUSE
    assert seldom.filter(down)


def test_levels_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNCEUS_LOG_LEVEL", "DEBUG")
    assert Settings().log_level == "debug"


SCRIPT = """
import logging, threading, warnings
import bentoml
from bentoml._internal.log import configure_server_logging
configure_server_logging()
from service.logs import configure_logs
from service.settings import Settings
configure_logs(Settings())
for name in ("service.x", "bentoml.serve", "uvicorn.error", "circus", "asyncio", "root.of.all"):
    logging.getLogger(name).error("from %s", name)
    logging.getLogger(name).debug("not to be seen")
for name in ("bentoml.access", "uvicorn.access", "httpx"):
    logging.getLogger(name).info("not to be seen")
warnings.warn("careful", UserWarning)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
raise RuntimeError("the end")
"""


def test_everything_a_process_writes_has_one_form() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert done.returncode == 1
    messages = [line["message"] for line in lines]
    names = ("service.x", "bentoml.serve", "uvicorn.error", "circus", "asyncio", "root.of.all")
    assert messages[:6] == [f"from {name}" for name in names]
    assert "careful" in messages[6]
    assert messages[7:] == ["the thread worker ends", "the process ends: the end"]
    assert [line.get("exception") for line in lines[7:]] == ["ZeroDivisionError", "RuntimeError"]
