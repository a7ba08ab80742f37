"""The README cannot lag: its commands are run, its names exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings
from tests.fakes import fits_bytes, star_field

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("$ ", "make ", "curl "))
]
TARGETS = sorted({command for command in COMMANDS if command.startswith("make")})
CURLS = [command for command in COMMANDS if command.startswith("curl")]


def test_there_are_commands():
    assert "make demo" in TARGETS
    assert "make test" in TARGETS
    assert CURLS


@pytest.mark.parametrize("command", TARGETS)
def test_every_make_command_is_one(command):
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", CURLS)
def test_every_curl_command_is_answered(command, address, tmp_path):
    (tmp_path / "frame.fits").write_bytes(fits_bytes(star_field((200, 220), [(50, 60), (150, 120)])))
    command = command.replace("http://localhost:3000", address)
    done = subprocess.run(
        [*shlex.split(command), "--fail-with-body", "--silent", "--show-error"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.(?:py|toml|md))`", README))))
def test_every_file_named_is_there(path):
    assert (ROOT / path).exists()


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "settings.md").read_text()
    for name in Settings.model_fields:
        assert f"`LYNCEUS_{name.upper()}`" in text
