"""How the service is started; the server itself is not."""

import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from service import __main__ as started

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


def certificate(folder: Path, *password: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=lynceus"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command + (["-passout", f"pass:{password[0]}"] if password else ["-nodes"]), check=True)
    return cert, key


def command_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[str]:
    """What `python -m service` with these arguments would run."""
    commands: list[list[str]] = []
    for name in ("BENTOML_HOME", "BENTOML_DO_NOT_TRACK", "OMP_WAIT_POLICY", "MALLOC_ARENA_MAX"):
        monkeypatch.setenv(name, "set")  # what it sets, it must not leave to other tests
    monkeypatch.setattr(started.os, "execv", lambda path, command: commands.append(command))
    app = typer.Typer()
    app.command()(started.main)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return commands[0]


def test_it_listens_on_this_machine_only_and_without_tls_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    command = command_of(monkeypatch)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert not [part for part in command if part.startswith("--ssl")]


@needs_openssl
def test_tls_by_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    command = command_of(monkeypatch, "--tls-cert", cert, "--tls-key", key)
    assert command[-4:] == ["--ssl-certfile", str(cert), "--ssl-keyfile", str(key)]


@needs_openssl
def test_files_that_cannot_be_used_are_refused_at_once(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other")
    for pair in ((cert, None), (None, key), (cert, other), (cert, tmp_path / "none"), (key, key), (tmp_path, key)):
        with pytest.raises(typer.BadParameter):
            started.tls_options(*pair)


@needs_openssl
def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="password"):
        started.tls_options(*certificate(tmp_path, "secret"))
