"""The README cannot lag: its commands are run, its names exist."""

import os
import re
import shlex
import subprocess
import sys
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
    if line.startswith(("$ ", "make ", "curl ", "lynceus ", "python -m "))
]
TARGETS = sorted({command for command in COMMANDS if command.startswith("make")})
CURLS = [command for command in COMMANDS if command.startswith("curl")]
TOOLS = [command for command in COMMANDS if command.startswith(("lynceus ", "python -m "))]
STARS = [(50, 60), (150, 120)]
CATALOGUE = "# 1 X_IMAGE\n# 2 Y_IMAGE\n# 3 FWHM_IMAGE\n" + "".join(f"{x + 1} {y + 1} 3\n" for x, y in STARS)


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
    (tmp_path / "frame.fits").write_bytes(fits_bytes(star_field((200, 220), STARS)))
    (tmp_path / "catalogue.cat").write_text(CATALOGUE)
    command = command.replace("http://localhost:3000", address)
    done = subprocess.run(
        [*shlex.split(command), "--fail-with-body", "--silent", "--show-error"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", TOOLS)
def test_every_command_of_the_tools_is_one(command):
    words = shlex.split(command)
    program = [sys.executable, "-m", *("lynceus" if words[0] == "lynceus" else words[2]).split()]
    rest = words[1:] if words[0] == "lynceus" else words[3:]
    options = {word for word in rest if word.startswith("--")}
    [subcommand] = [word for word in rest if word in subcommands(program)][:1]
    told = helped(program) + helped([*program, subcommand])
    assert options <= set(re.findall(r"--[\w-]+", told))


def helped(program):
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([*program, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def subcommands(program):
    return set(re.findall(r"^[\s│]*([a-z][\w-]*)\s", helped(program), re.MULTILINE))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.(?:py|toml|md))`", README))))
def test_every_file_named_is_there(path):
    assert (ROOT / path).exists()


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "settings.md").read_text()
    for name in Settings.model_fields:
        assert f"`LYNCEUS_{name.upper()}`" in text
