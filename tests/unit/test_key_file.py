"""The API key of a client: from a file that may change, by Python and by every command."""

import asyncio
from pathlib import Path

import pytest
from pytest_httpx import HTTPXMock
from typer.main import get_command
from typer.testing import CliRunner

from lynceus import cli
from lynceus.client import AsyncClient, Client, ServiceError
from lynceus.key_file import read_key

URL = "http://service.test"
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LYNCEUS_URL", "LYNCEUS_API_KEY", "LYNCEUS_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    return file


def sent(httpx_mock: HTTPXMock) -> list[str | None]:
    """The keys of all requests so far."""
    return [request.headers.get("authorization") for request in httpx_mock.get_requests()]


def test_the_key_is_read_for_every_request(key_file: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json={}, is_reusable=True)
    with Client(URL, api_key=key_file) as client:
        client.models()
        key_file.write_text("another-key")
        client.models()
        key_file.write_text("")  # somebody is writing it just now
        client.models()
        key_file.unlink()
        client.models()
    assert sent(httpx_mock) == [f"Bearer {KEY}"] + ["Bearer another-key"] * 3


def test_asyncio_clients_read_it_too(key_file: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json={})

    async def ask() -> None:
        async with AsyncClient(URL, api_key=key_file) as client:
            await client.models()

    asyncio.run(ask())
    assert sent(httpx_mock) == [f"Bearer {KEY}"]


def test_a_key_is_not_sent_to_where_an_answer_points(key_file: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=307, headers={"location": "http://elsewhere.test/models"})
    with Client(URL, api_key=key_file) as client, pytest.raises(ServiceError):
        client.models()
    assert len(sent(httpx_mock)) == 1


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a\nb", b"k\xc3\xa9y", b"LYNCEUS\0", b"x" * 5000])
def test_a_file_without_a_key_is_said_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ServiceError, match="does not hold an API key") as caught:
        read_key(file)
    assert "two words" not in str(caught.value)
    with pytest.raises(OSError, match="none"):
        Client(URL, api_key=tmp_path / "none")


def test_every_command_takes_a_file_and_none_takes_a_key() -> None:
    for name, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--api-key-file" in options, name
        assert "--api-key" not in options, name


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_command_sends_the_key_of_the_file(
    key_file: Path, by_environment: bool, httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx_mock.add_response(json={"models": []})
    monkeypatch.setenv("LYNCEUS_API_KEY", "the-one-in-the-environment")
    monkeypatch.setenv("LYNCEUS_API_KEY_FILE", str(key_file) if by_environment else "")
    arguments = ["models", "--url", URL] + ([] if by_environment else ["--api-key-file", str(key_file)])
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert sent(httpx_mock) == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("command", "code"), [("models", 1), ("detect f", 1), ("evaluate f f", 1), ("watch .", 1), ("compare .", 30)]
)
def test_a_missing_file_is_a_line_and_an_exit_code(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_bytes(b"SIMPLE")
    (tmp_path / "f.fits").write_bytes(b"SIMPLE")
    done = CliRunner().invoke(cli.app, [*command.split(), "--api-key-file", "none"])
    assert done.exit_code == code, done.output
    assert "none" in done.output
