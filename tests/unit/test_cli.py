"""The command line against a service of pytest-httpx."""

import inspect
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import Result
from pytest_httpx import HTTPXMock
from typer.main import get_command
from typer.testing import CliRunner

from lynceus import call, cli
from lynceus.client import EXTENSIONS, Client
from lynceus.compare_files import compare_command
from lynceus.spool import Spool
from tests.fakes import fits_bytes

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:3000"
ROW = {"id": 1, "x": 4.5, "y": 6.25, "score": 0.987, "snr": 31.0, "flux": 1234.5, "fwhm": None, "flags": 3}
ANSWER = {
    "frame": {"fwhm_px": 2.6}, "model": {"name": "compact", "version": "0.1.0"}, "warnings": ["no [WCS]"],
    "count": 30, "overflow": False, "detections": [ROW] * 30,
}  # fmt: skip
PROBLEM = {"status_code": 415, "json": {"detail": "the file is\nempty", "code": "not_fits"}}
HEAVY = {"torch", "numpy", "astropy", "scipy", "matplotlib"}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No service, key or terminal of the machine that tests; no waiting."""
    for name in ("LYNCEUS_URL", "LYNCEUS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(call, "backoff", lambda attempt, retry_after=None: 0.0)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a.fits", "b.fits.gz", "c.fits")]
    for path in paths:
        path.write_bytes(b"SIMPLE  = " + path.name.encode())
    return paths


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Click's runner swaps the streams when it starts; all that asks them asks here."""
    monkeypatch.setattr(cli, "is_terminal", lambda: True)


def test_one_frame_goes_to_standard_output(frames: list[Path], httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{URL}/detect?format=json", json=ANSWER)
    done = run("detect", frames[0])
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ANSWER


def test_on_a_terminal_it_is_a_summary(
    frames: list[Path], httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx_mock.add_response(json=ANSWER)
    on_a_terminal(monkeypatch)
    done = run("detect", frames[0])
    assert done.exit_code == 0
    assert "1   4.50  6.25  0.9870  31.00  1234.50  -     3" in done.stdout
    assert done.stdout.count("1234.50") == cli.MAX_ROWS
    assert "30 sources, 10 not shown; seeing 2.60 px; compact/0.1.0" in done.stdout
    assert "warning: no [WCS]" in done.stdout


def test_every_hdu_has_its_summary(frames: list[Path], httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx_mock.add_response(json={"count": 60, "frames": [ANSWER, ANSWER]})
    on_a_terminal(monkeypatch)
    assert run("detect", frames[0], "--hdu", "all").stdout.count("30 sources") == 2


def test_several_frames_are_lines_of_json(frames: list[Path], httpx_mock: HTTPXMock) -> None:
    for number in range(3):
        httpx_mock.add_response(json={"count": number})
    lines = run("detect", *frames).stdout.splitlines()
    assert [json.loads(line)["count"] for line in lines] == [0, 1, 2]


def test_one_bad_frame_does_not_stop_the_others(tmp_path: Path, frames: list[Path], httpx_mock: HTTPXMock) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = request.read()
        if b"b.fits.gz" in body:
            return httpx.Response(**PROBLEM)
        return httpx.Response(200, content=b"sources")

    httpx_mock.add_callback(answer, is_reusable=True)
    done = run("detect", *frames, tmp_path / "missing.fits", "--format", "votable", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"error: {frames[1]}: the file is empty",
        f"error: {tmp_path / 'missing.fits'}: No such file or directory",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.vot", "c.vot"]


def test_every_option_reaches_the_service(tmp_path: Path, frames: list[Path], httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json={})
    options = {"hdu": "SCI", "min_score": 0.5, "max_detections": 9, "model": "canary", "deadline": 8.0}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    files = ["--mask", frames[1], "--weight", frames[2], "--out", tmp_path / "a.json"]
    assert run("detect", frames[0], *flags, *files, "--no-measure", "--priority", "backfill").exit_code == 0
    request = httpx_mock.get_requests()[0]
    asked = {name: str(value) for name, value in options.items()}
    assert dict(request.url.params) == {**asked, "format": "json", "measure": "false", "priority": "backfill"}
    assert [part in request.read() for part in (b'name="mask"', b'name="weight"')] == [True, True]
    assert (tmp_path / "a.json").read_text() == "{}"


def test_address_and_key_may_be_in_the_environment(
    frames: list[Path], httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYNCEUS_URL", "https://elsewhere.test")
    monkeypatch.setenv("LYNCEUS_API_KEY", "secret")
    httpx_mock.add_response(url="https://elsewhere.test/detect?format=json", json={})
    assert run("detect", frames[0]).exit_code == 0
    assert httpx_mock.get_requests()[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "arguments",
    [
        ["detect"],
        ["detect", "a.fits", "--format", "jpeg"],
        ["detect", "a.fits", "--min-score", "2"],
        ["detect", "a.fits", "b.fits", "--format", "csv"],
        ["detect", "a.fits", "b/a.fits", "--out", "out"],
        ["detect", "a.fits", "--format", "fits", "--out", "./a.fits"],
        ["watch", "no/such/folder"],
        ["evaluate", "a.fits"],
        ["compare", "no/such/folder"],
        ["observe"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_tables_in_binary_are_not_for_a_terminal(frames: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    assert run("detect", frames[0], "--format", "fits").exit_code == 2


@pytest.mark.parametrize("command", [["detect", "{frame}"], ["models"], ["evaluate", "{frame}", "{frame}"]])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (httpx.ConnectError("Connection refused"), "the service cannot be reached: Connection refused"),
        (httpx.ReadTimeout(""), "the service did not answer: it took too long"),
    ],
)
def test_errors_are_one_line(
    frames: list[Path], httpx_mock: HTTPXMock, command: list[str], error: Exception, told: str
) -> None:
    httpx_mock.add_exception(error, is_reusable=True)
    done = run(*(part.format(frame=frames[0]) for part in command))
    assert done.exit_code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(told)
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["detect", "{frame}"], ["models"], ["watch", "{folder}"]])
def test_an_address_without_scheme(frames: list[Path], command: list[str]) -> None:
    done = run(*(part.format(frame=frames[0], folder=frames[0].parent) for part in command), "--url", "host:3000")
    assert done.exit_code == 1
    assert "http://" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_evaluate_prints_figures_and_writes_a_page(tmp_path: Path, frames: list[Path], httpx_mock: HTTPXMock) -> None:
    figures = {"f1": 0.91234, "counts": {"matched": 12}, "map_75": None, "completeness": [{"low": 1}]}
    answer = {"evaluation": figures, "warnings": ["it is [old]"]}
    httpx_mock.add_response(url=re.compile(".*format=json"), json=answer, is_reusable=True)
    httpx_mock.add_response(url=re.compile(".*format=html"), html="<p>page</p>")
    options = ["--box-rule", "catalogue", "--ignore-flags", 8, "--no-unlisted", "--min-score", 0.5]
    page = tmp_path / "page.html"
    done = run("evaluate", *frames[:2], "--detections", frames[2], *options, "--html", page)
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [
        ["figure", "value"], ["f1", "0.9123"], ["counts.matched", "12"], ["map_75", "-"],
        ["warning:", "it", "is", "[old]"],
    ]  # fmt: skip
    assert page.read_text() == "<p>page</p>"
    request = httpx_mock.get_requests()[0]
    expected = {"box_rule": "catalogue", "ignore_flags": "8", "unlisted": "false", "min_score": "0.5", "format": "json"}
    assert dict(request.url.params) == expected
    assert b'name="detections"' in request.read()
    assert json.loads(run("evaluate", *frames[:2], "--json").stdout) == answer


def test_models_are_listed(httpx_mock: HTTPXMock) -> None:
    one = {"name": "compact", "version": "0.1.0", "tracks": ["stable"], "sha256": "ab" * 32, "min_score": 0.5}
    answer = {"models": [{**one, "scores": {"map_50": 0.88}}, {**one, "tracks": [], "scores": None}], "warnings": []}
    httpx_mock.add_response(url=f"{URL}/models", json=answer, is_reusable=True)
    lines = run("models").stdout.splitlines()
    assert lines[1].split() == ["compact/0.1.0", "stable", "0.5000", "ab" * 6, "map_50", "0.8800"]
    assert json.loads(run("models", "--json").stdout) == answer


def test_watch_ends_once_everything_has(tmp_path: Path, frames: list[Path], httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{URL}/detect?format=ecsv&min_score=0.5", content=b"sources")
    httpx_mock.add_response(url=f"{URL}/detect?format=ecsv&min_score=0.5", **PROBLEM)
    (tmp_path / "a.fits").write_bytes(fits_bytes(np.zeros((3, 3))))
    (tmp_path / "d.fits").write_text("no FITS, but whole")
    os.utime(tmp_path / "d.fits", (0, 0))  # the oldest comes last
    folders = ["--out", tmp_path / "out", "--dead-letter", tmp_path / "dead", "--state", tmp_path / "state"]
    options = ["--format", "ecsv", "--min-score", 0.5, "--settle", 0.05, "--pattern", "?.FITS", "--give-up", 0]
    first, second = (run("watch", tmp_path, "--once", *folders, *options) for _ in range(2))
    assert first.exit_code == 1, first.stderr
    assert second.exit_code == 0  # nothing is left to do
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.ecsv"]
    reasons = {path.name: json.loads(path.read_text())["code"] for path in (tmp_path / "dead").iterdir()}
    assert reasons == {"c.fits.reason.json": "incomplete", "d.fits.reason.json": "not_fits"}


def test_a_spool_in_use_is_told(tmp_path: Path) -> None:
    with Spool(tmp_path / ".lynceus"):
        done = run("watch", tmp_path, "--once")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: another watcher is at work")


@pytest.mark.parametrize("code", [0, 10, 20, 30])
def test_compare_hands_everything_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    heard: dict[str, Any] = {}

    def instead(stable: str, canary: str, frames: Path, **options: Any) -> int:
        heard.update(options, versions=(stable, canary), frames=frames)
        return code

    monkeypatch.setattr("lynceus.compare_files.compare_command", instead)
    folders = ["--catalogues", tmp_path, "--darks", tmp_path, "--json", tmp_path / "out.json", "--html", tmp_path / "p"]
    numbers = ["--max-frames", 7, "--seed", 3, "--allow-same"]
    done = run("compare", tmp_path, "--stable", "http://a", "--canary", "http://b@1.2", *folders, *numbers)
    assert done.exit_code == code
    assert isinstance(heard.pop("connect")(SimpleNamespace(url="http://a")), Client)
    assert heard == {
        "versions": ("http://a", "http://b@1.2"), "frames": tmp_path, "catalogues": tmp_path, "darks": tmp_path,
        "json_path": tmp_path / "out.json", "html_path": tmp_path / "p", "max_frames": 7, "seed": 3,
        "allow_same": True,
    }  # fmt: skip
    assert set(heard) | {"connect"} > set(inspect.signature(compare_command).parameters) - {"stable", "canary", "spec"}


def test_formats_are_those_of_the_client() -> None:
    assert [one.value for one in cli.Format] == list(EXTENSIONS)


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "client.md").read_text()
    group: Any = get_command(cli.app)
    assert {"detect", "evaluate", "watch", "models", "compare"} == set(group.commands)
    for name, command in group.commands.items():
        assert f"`lynceus {name}" in text
        for parameter in command.params:
            for option in [one for one in parameter.opts if one.startswith("--")]:
                assert f"`{option}" in text, f"{name} {option}"


def test_a_command_starts_without_what_it_does_not_need() -> None:
    """A shell script calls it for every frame."""
    program = "import sys, lynceus.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_module_is_the_command() -> None:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lynceus", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=True,
    )
    assert "Usage: lynceus" in done.stdout
